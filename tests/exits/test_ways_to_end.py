"""A script ends at its last line, by an exception, by `sys.exit`: its exit code is its own, its status is true."""

from __future__ import annotations

from trainings import INIT, WITH, Training, assert_ended, assert_stored, own


class TestByItself:
    def test_at_the_last_line(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_with_the_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\nprint('is', experiment.status)\n")
        assert (run.code, own(run.err), run.said("is")) == (0, "", ["finished"])
        assert_ended(training.only(run), "finished")

    def test_by_stop(self, training: Training) -> None:
        run = training.run(
            INIT + "save_all(experiment)\nexperiment.stop()\nexperiment.stop()\nprint('is', experiment.status)\n"
            "print('left', os.listdir('.replicate'))\n"
            "try:\n    save(experiment, 9)\nexcept replicate.InvalidInput as error:\n    print('refused', error)\n"
        )
        assert (run.code, own(run.err), run.said("is")) == (0, "", ["finished"])
        assert run.said("refused") == ["this experiment has ended: a checkpoint can't be added to it any more"]
        assert_ended(training.only(run), "finished")

    def test_without_any_checkpoint(self, training: Training) -> None:
        run = training.run(INIT)
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_without_any_file(self, training: Training) -> None:
        run = training.run(
            "experiment = replicate.init(path=None)\n"
            "for step in range(500):\n    print('saved', experiment.checkpoint(None, {'loss': step}).id)\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        experiment = training.only(run)
        assert_ended(experiment, "finished")
        assert [checkpoint.metrics["loss"] for checkpoint in experiment.checkpoints] == list(range(500))

    def test_after_half_a_minute_without_a_word(self, training: Training) -> None:
        run = training.run(INIT + "save(experiment, 0)\ntime.sleep(31)\n", seconds=90)
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_from_a_thread(self, training: Training) -> None:
        run = training.run(
            "from threading import Thread\n"
            "def train():\n    with replicate.init() as experiment:\n        save_all(experiment)\n"
            "thread = Thread(target=train)\nthread.start()\nthread.join()\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_with_checkpoints_until_the_very_end(self, training: Training) -> None:
        """A daemon thread that saves while Python ends: each checkpoint is refused, or stored."""
        run = training.run(
            INIT + "from threading import Thread\n"
            "def train():\n    step = 0\n    while True:\n        save(experiment, step)\n        step += 1\n"
            "Thread(target=train, daemon=True).start()\ntime.sleep(0.3)\n"
        )
        assert run.code == 0
        training.wait_until_settled()
        (experiment,) = training.experiments()
        assert set(run.said("saved")) <= {checkpoint.id for checkpoint in experiment.checkpoints}
        assert_stored(experiment, [checkpoint.id for checkpoint in experiment.checkpoints])

    def test_with_two_experiments_in_either_order(self, training: Training) -> None:
        run = training.run(
            "def begin(name):\n    return replicate.init(name=name)\n"
            "for order in ('ab', 'ba'):\n    both = {name: begin(name + order) for name in 'ab'}\n"
            "    for step in range(2):\n        for one in both.values():\n            save(one, step)\n"
            "    for name in order:\n        both[name].stop()\n"
            "for name in ('x', 'y'):\n    save(begin(name), 0)\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        training.wait_until_settled()
        saved = run.said("saved")
        taken = {"aab": saved[0:4:2], "bab": saved[1:4:2], "aba": saved[4:8:2], "bba": saved[5:8:2]}
        taken |= {"x": [saved[8]], "y": [saved[9]]}
        found = {experiment.name: experiment for experiment in training.experiments()}
        assert found.keys() == taken.keys()
        for name, experiment in found.items():
            assert_ended(experiment, "finished")
            assert_stored(experiment, taken[name])


class TestByAnException:
    def test_that_nobody_caught(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nraise ValueError('no data at s3://me:pass-word@host/x')\n")
        assert run.code == 1
        assert "Traceback" in run.err
        experiment = training.only(run)
        assert experiment.status == "failed"
        assert "pass-word" not in experiment.error
        assert experiment.error.startswith("ValueError: no data at s3://")

    def test_that_left_the_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    raise ValueError('token=hf_abcdefghijklmnopqrstuv')\n")
        assert run.code == 1
        experiment = training.only(run)
        assert experiment.status == "failed"
        assert experiment.error.startswith("ValueError: token=")
        assert "abcdefgh" not in experiment.error

    def test_that_was_caught_around_the_block(self, training: Training) -> None:
        run = training.run(
            f"try:\n    {WITH}        save_all(experiment)\n        1 / 0\nexcept ArithmeticError: pass\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")

    def test_in_another_thread(self, training: Training) -> None:
        """It ends that thread alone."""
        run = training.run(
            INIT + "from threading import Thread\nthread = Thread(target=lambda: 1 / 0)\nthread.start()\n"
            "thread.join()\nsave_all(experiment)\n"
        )
        assert run.code == 0
        assert "ZeroDivisionError" in run.err
        assert_ended(training.only(run), "finished")

    def test_that_a_hook_of_the_users_saw(self, training: Training) -> None:
        run = training.run(
            "sys.excepthook = lambda kind, error, trace: print('seen', kind.__name__)\n"
            + INIT
            + "save_all(experiment)\n1 / 0\n"
        )
        assert (run.code, run.said("seen")) == (1, ["ZeroDivisionError"])
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")

    def test_that_a_hook_set_later_saw(self, training: Training) -> None:
        run = training.run(
            INIT + "save_all(experiment)\nsys.excepthook = lambda kind, error, trace: print('seen', kind.__name__)\n"
            "1 / 0\n"
        )
        assert (run.code, run.said("seen")) == (1, ["ZeroDivisionError"])
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")


class TestBySysExit:
    def test_outside_of_a_block(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nsys.exit(0)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_outside_of_a_block_with_a_code(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nsys.exit(3)\n")
        assert (run.code, own(run.err)) == (3, "")
        assert_ended(training.only(run), "failed", "SystemExit: 3")

    def test_by_who_shows_the_exception_of_a_function(self, training: Training) -> None:
        """As Hydra does."""
        run = training.run(
            "def main():\n    save_all(replicate.init({'lr': 0.1}))\n    raise ValueError('loss is nan')\n"
            "try:\n    main()\nexcept Exception as error:\n    print(error)\n    sys.exit(1)\n"
        )
        assert (run.code, own(run.err)) == (1, "")
        assert_ended(training.only(run), "failed", "ValueError: loss is nan")

    def test_inside_of_a_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit(0)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_inside_of_a_block_with_a_code(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit(3)\n")
        assert (run.code, own(run.err)) == (3, "")
        assert_ended(training.only(run), "failed", "SystemExit: 3")

    def test_inside_of_a_block_with_a_text(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit('no more data')\n")
        assert (run.code, own(run.err)) == (1, "no more data\n")
        assert_ended(training.only(run), "failed", "SystemExit: no more data")
