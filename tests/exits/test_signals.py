"""A training is killed or interrupted: its status is true, and all it saved is stored."""

from __future__ import annotations

import signal
import time

import pytest
from kit import until
from trainings import GATED, INIT, LONG, WAITING, WITH, Training, assert_ended, assert_stored, own


class TestAtOnce:
    """Ends that no code of the training sees: the recorder does."""

    def test_by_os_exit(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos._exit(5)\n")
        assert (run.code, own(run.err)) == (5, "")
        assert_ended(training.only(run), "killed")

    def test_by_os_exit_with_everything_still_to_be_stored(self, training: Training) -> None:
        training.with_gate()
        run = training.start(INIT + GATED + "os._exit(5)\n").wait_for("ready")
        training.shut()
        assert run.finish().code == 5
        (experiment,) = training.experiments()
        assert experiment.status == "running"
        training.open()
        assert_ended(training.only(run), "killed")

    def test_by_sigkill(self, training: Training) -> None:
        run = training.start(INIT + "save_all(experiment)\nprint('done', flush=True)\ntime.sleep(60)\n")
        run.wait_for("done").send(signal.SIGKILL).finish()
        assert run.code == -signal.SIGKILL
        assert_ended(training.only(run), "killed")

    def test_by_sigkill_in_the_midst_of_saving(self, training: Training) -> None:
        run = training.start(INIT + "save_all(experiment, 10**6)\n").wait_for("saved")
        time.sleep(0.3)
        run.send(signal.SIGKILL).finish()
        training.wait_until_settled()
        (experiment,) = training.experiments()
        assert_ended(experiment, "killed")
        ids = [checkpoint.id for checkpoint in experiment.checkpoints]
        assert set(run.said("saved")) <= set(ids)
        assert_stored(experiment, ids)

    def test_by_an_abort(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos.abort()\n")
        assert run.code == -signal.SIGABRT
        assert_ended(training.only(run), "killed")

    def test_by_the_end_of_its_terminal(self, training: Training) -> None:
        script = INIT + "save_all(experiment)\nprint('done', flush=True)\ntime.sleep(60)\n"
        run = training.start(script, terminal=True).wait_for("done")
        run.hang_up()
        run.finish()
        assert run.code == 128 + signal.SIGHUP
        assert_ended(training.only(run), "interrupted", "SIGHUP")


class TestByCtrlC:
    def test_once(self, training: Training) -> None:
        run = training.start(INIT + LONG).wait_for("ready").send(signal.SIGINT).finish()
        assert run.code == -signal.SIGINT  # as Python itself does it, so that a shell's loop ends, too
        assert run.err.count("Traceback") == 1
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_once_in_a_block(self, training: Training) -> None:
        run = training.start(WITH + "    save_all(experiment)\n    print('ready', flush=True)\n    time.sleep(60)\n")
        run.wait_for("ready").send(signal.SIGINT).finish()
        assert run.code == -signal.SIGINT
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_that_the_training_caught(self, training: Training) -> None:
        run = training.start(INIT + "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
                             "except KeyboardInterrupt:\n    save_all(experiment)\n").wait_for("ready")  # fmt: skip
        run.send(signal.SIGINT).finish()
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_twice_leaves_the_rest_to_the_recorder(self, training: Training) -> None:
        training.with_gate()
        run = training.start(INIT + WAITING + "time.sleep(60)\n").wait_for("ready")
        training.shut()
        run.wait_for("done").send(signal.SIGINT)
        until(lambda: "Traceback" in run.err, "the first Ctrl-C ends the training")
        training.wait_until_over()
        assert run.process.poll() is None  # it waits
        run.send(signal.SIGINT).finish(seconds=10)
        assert "`replicate sync`" in run.err
        assert run.err.count("Traceback") == 1
        (queue,) = training.queues()
        assert queue in run.err
        training.open()
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_while_the_end_waits(self, training: Training) -> None:
        run = training.start_and_shut(INIT + WAITING)
        assert run.process.poll() is None
        run.send(signal.SIGINT).finish(seconds=10)
        assert "`replicate sync`" in run.err
        assert "Traceback" not in run.err
        training.open()
        assert_ended(training.only(run), "finished")

    def test_while_stop_waits(self, training: Training) -> None:
        """It is an interruption of the program as any other: what comes next is not run."""
        run = training.start_and_shut(INIT + WAITING + "experiment.stop()\nprint('still', flush=True)\n")
        run.send(signal.SIGINT).finish(seconds=10)
        assert (run.code, run.said("still")) == (-signal.SIGINT, [])
        assert "`replicate sync`" in run.err
        training.open()
        assert_ended(training.only(run), "finished")


class TestBySigterm:
    def test_where_nobody_handles_it(self, training: Training) -> None:
        run = training.start(INIT + LONG).wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (143, "")
        assert_ended(training.only(run), "interrupted", "SIGTERM")

    def test_in_a_block(self, training: Training) -> None:
        run = training.start(WITH + "    save_all(experiment)\n    print('ready', flush=True)\n    time.sleep(60)\n")
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (143, "")
        assert_ended(training.only(run), "interrupted", "SIGTERM")

    def test_where_the_training_handles_it(self, training: Training) -> None:
        run = training.start(
            "import signal\ndef handler(number, frame):\n    print('handled', flush=True)\n    sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, handler)\n" + INIT
            + "assert signal.getsignal(signal.SIGTERM) is handler\n" + LONG
        )  # fmt: skip
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err), run.said("handled")) == (7, "", [""])
        assert_ended(training.only(run), "failed", "SystemExit: 7")

    def test_where_the_training_handles_it_later(self, training: Training) -> None:
        run = training.start(
            INIT + "import signal\ndef handler(number, frame):\n    print('handled', flush=True)\n    sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, handler)\n" + LONG
        )
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err), run.said("handled")) == (7, "", [""])
        training.only(run)

    def test_where_the_training_ignores_it(self, training: Training) -> None:
        run = training.start("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + INIT
                             + "print('ready', flush=True)\ntime.sleep(0.5)\nsave_all(experiment)\n")  # fmt: skip
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_leaves_no_handler_behind(self, training: Training) -> None:
        run = training.run("import signal\n" + WITH + "    save_all(experiment)\n"
                           "print('handler', signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n")  # fmt: skip
        assert run.said("handler") == ["True"]

    def test_while_the_process_ends(self, training: Training) -> None:
        """It is over at once; the recorder finishes."""
        run = training.start_and_shut(INIT + WAITING)
        assert run.process.poll() is None
        run.send(signal.SIGTERM).finish(seconds=10)
        assert run.code in (143, -signal.SIGTERM)
        training.open()
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("others", [0, 1])
    def test_while_stop_waits(self, training: Training, others: int) -> None:
        """It ends the process, and not only the wait: it is sent only once."""
        run = training.start_and_shut(
            f"others = [replicate.init(name='other', path=None) for _ in range({others})]\n{INIT}{WAITING}"
            "experiment.stop()\nprint('still', flush=True)\ntime.sleep(60)\n",
            others=others,
        )
        run.send(signal.SIGTERM)
        if others:
            until(lambda: not training.recording(), "the signal ends the other one, too")
            training.open()
        run.finish(seconds=20)
        training.open()
        assert run.said("still") == []
        assert run.code in (143, -signal.SIGTERM)
        training.wait_until_settled()
        statuses = {experiment.name: experiment.status for experiment in training.experiments()}
        assert statuses == {None: "finished"} | ({"other": "interrupted"} if others else {})
