"""Workers, forks and other ranks of a training are no end of it, and none of them records what is not theirs."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from trainings import FORK, INIT, WITH, Training, assert_ended, assert_stored, own


class TestWorkersOfMultiprocessing:
    """Spawn and forkserver import the script anew in each worker."""

    SCRIPT = (
        "import multiprocessing\n"
        "def work(number, answers):\n    answers.put(number)\n"
        "def record(number, answers):\n    save_all(replicate.init({'number': number}, path=None), 1)\n"
        "experiment = replicate.init({'lr': 0.1})\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('METHOD')\n    answers = context.Queue()\n"
        "    workers = [context.Process(target=TARGET, args=(n, answers)) for n in range(2)]\n"
        "    for worker in workers:\n        worker.start()\n"
        "    for worker in workers:\n        worker.join()\n        assert worker.exitcode == 0\n"
        "    save_all(experiment)\n"
    )

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_a_script_without_a_guard_is_recorded_once(self, training: Training, method: str) -> None:
        run = training.run(self.SCRIPT.replace("METHOD", method).replace("TARGET", "work"))
        assert run.code == 0, run.err
        assert_ended(training.only(run), "finished")
        assert run.err.count("nothing is recorded there") == 1
        assert "train.py:" in run.err, "the warning names the line of the script"
        assert 'if __name__ == "__main__":' in run.err

    def test_a_worker_that_only_imports_the_script_does_not_reach_the_storage(self, training: Training) -> None:
        resuming = self.SCRIPT.replace("{'lr': 0.1}", "{'lr': 0.1}, resume='auto'")
        gone = "if __name__ != '__main__':\n    os.chdir(os.path.dirname(os.path.abspath(__file__)) + '/elsewhere')\n"
        (training.project / "elsewhere").mkdir()
        (training.project / "elsewhere" / "replicate.yaml").write_text("storage: /dev/null/nowhere\n")
        run = training.run(gone + resuming.replace("METHOD", "spawn").replace("TARGET", "work"))
        assert run.code == 0, run.err
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_what_a_worker_is_told_to_record_is_recorded(self, training: Training, method: str) -> None:
        """With the command that started it all, not with Python's own for a worker."""
        run = training.run(self.SCRIPT.replace("METHOD", method).replace("TARGET", "record"))
        assert run.code == 0, run.err
        training.wait_until_settled()
        experiments = training.experiments()
        assert sorted(len(experiment.checkpoints) for experiment in experiments) == [1, 1, 3]
        assert {experiment.command for experiment in experiments} == {f"{training.python} train.py"}


class TestForks:
    @pytest.mark.parametrize(
        ("child", "status"),
        [
            ("sys.exit(0)", 0),
            ("sys.exit(3)", 3 << 8),
            ("os._exit(4)", 4 << 8),
            ("raise ValueError('in the child')", 1 << 8),
            ("os.kill(os.getpid(), 15); time.sleep(60)", 15),
            ("experiment.stop(); sys.exit(0)", 0),
            ("experiment.__exit__(None, None, None); os._exit(0)", 0),
        ],
    )
    def test_whatever_a_child_does_is_no_end(self, training: Training, child: str, status: int) -> None:
        run = training.run(INIT + "save(experiment, 0)\n" + FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, run.said("child")) == (0, [str(status)])
        assert_ended(training.only(run), "finished")

    def test_a_child_inside_of_a_block(self, training: Training) -> None:
        fork = "    pid = os.fork()\n    if pid == 0:\n        sys.exit(2)\n    os.waitpid(pid, 0)\n"
        run = training.run(WITH + "    save(experiment, 0)\n" + fork + "    save(experiment, 1)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_a_child_that_saves_is_told(self, training: Training) -> None:
        child = "save(experiment, 5)"
        run = training.run(INIT + "save(experiment, 0)\n" + FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, run.said("child")) == (0, [str(1 << 8)])
        assert "this process was forked from the one that records the experiment" in run.err
        assert_ended(training.only(run), "finished")

    def test_a_child_with_an_experiment_of_its_own(self, training: Training) -> None:
        child = "own = replicate.init(name='child'); save(own, 7); sys.exit(0)"
        run = training.run(INIT + "save(experiment, 0)\n" + FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, own(run.err), run.said("child")) == (0, "", ["0"])
        training.wait_until_settled()
        found = {experiment.name: experiment for experiment in training.experiments()}
        first, second, third = run.said("saved")
        assert_stored(found[None], [first, third])
        assert_stored(found["child"], [second])
        assert [experiment.status for experiment in found.values()] == ["finished", "finished"]

    @pytest.mark.parametrize("end", ["", "os._exit(0)\n", "os.kill(os.getpid(), 9)\n"])
    def test_a_child_that_outlives_the_training(self, training: Training, end: str) -> None:
        """The experiment is over at once, and not when the child is."""
        run = training.start(INIT + "pid = os.fork()\nif pid == 0:\n    time.sleep(60)\n    os._exit(0)\n"
                             "print('child', pid, flush=True)\nsave_all(experiment)\n" + end)  # fmt: skip
        try:
            run.finish(seconds=20)
            assert_ended(training.only(run), "killed" if end else "finished")
        finally:
            os.kill(int(run.said("child")[0]), signal.SIGKILL)

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_pool(self, training: Training, method: str) -> None:
        run = training.run(
            "import multiprocessing\ndef square(number):\n    return number * number\n"
            f"if __name__ == '__main__':\n    {INIT}    save(experiment, 0)\n"
            f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
            "        print('squares', pool.map(square, range(20))[-1], flush=True)\n        save(experiment, 1)\n"
        )
        assert (run.code, own(run.err), run.said("squares")) == (0, "", ["361"])
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    @pytest.mark.parametrize(
        ("end", "code", "ended"),
        [
            ("pass", 0, ("finished", None)),
            ("raise ValueError('nan')", 1, ("failed", "ValueError: nan")),
            ("os.kill(os.getpid(), 15); time.sleep(60)", 143, ("interrupted", "SIGTERM")),
            ("os._exit(4)", 4, ("killed", None)),
        ],
        ids=["finished", "failed", "interrupted", "killed"],
    )
    def test_a_child_of_multiprocessing_with_an_experiment_of_its_own(
        self, training: Training, method: str, end: str, code: int, ended: tuple[str, str | None]
    ) -> None:
        """As sweeps are often written: such a process runs no exit handlers."""
        run = training.run(
            "import multiprocessing\ndef train(number):\n    experiment = replicate.init(name=f'child {number}')\n"
            f"    save(experiment, number)\n    {end}\nif __name__ == '__main__':\n"
            f"    context = multiprocessing.get_context('{method}')\n"
            "    for number in range(2):\n        child = context.Process(target=train, args=(number,))\n"
            "        child.start()\n        child.join()\n        print('child', child.exitcode, flush=True)\n"
        )
        assert (run.code, run.said("child")) == (0, [str(code)] * 2)
        training.wait_until_settled()
        first, second = training.experiments()
        assert_ended(first, *ended)
        assert_ended(second, *ended)
        for experiment, made in zip((first, second), run.said("saved"), strict=True):
            assert_stored(experiment, [made])

    def test_data_loaders_of_torch(self, training: Training) -> None:
        pytest.importorskip("torch", exc_type=ImportError)
        if training.python != sys.executable:
            pytest.skip("torch is not in that Python")
        run = training.run(
            "import torch\nclass Data(torch.utils.data.Dataset):\n    def __len__(self):\n        return 64\n"
            "    def __getitem__(self, index):\n        return torch.tensor(float(index))\n"
            f"{INIT}loader = torch.utils.data.DataLoader(Data(), batch_size=8, num_workers=2)\n"
            "for step in range(3):\n    print('sum', sum(batch.sum().item() for batch in loader))\n"
            "    save(experiment, step)\n"
            "iterator = iter(loader)\nnext(iterator)\n",  # and workers that are alive at the end
        )
        assert (run.code, own(run.err), run.said("sum")) == (0, "", ["2016.0"] * 3)
        assert_ended(training.only(run), "finished")


class TestRanks:
    """Of a distributed run the first process records."""

    SCRIPT = (
        WITH + "    checkpoint = experiment.checkpoint(None, {'loss': 0.5}, ('loss', 'minimize'), step=3)\n"
        "    print('step', checkpoint.step, experiment.status, len(experiment.checkpoints), experiment.best())\n"
        "experiment.stop()\nexperiment.refresh() if os.environ.get('RANK') == '0' else None\n"
        "experiment.checkpoint('train.py', {})\n"
    )

    def test_another_one_records_nothing(self, training: Training) -> None:
        training.environment |= {"RANK": "1", "WORLD_SIZE": "2"}
        run = training.run(self.SCRIPT)
        assert (run.code, own(run.err), run.said("step")) == (0, "", ["3 running 0 None"])
        assert not (training.project / ".replicate").exists()

    def test_another_one_of_slurm_is_told_once(self, training: Training) -> None:
        training.environment["SLURM_PROCID"] = "2"
        run = training.run(self.SCRIPT)
        assert (run.code, run.said("step")) == (0, ["3 running 0 None"])
        assert run.err.count("REPLICATE_RANK=0") == 1
        assert not (training.project / ".replicate").exists()

    def test_an_override(self, training: Training) -> None:
        training.environment |= {"SLURM_PROCID": "2", "REPLICATE_RANK": "0"}
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")
