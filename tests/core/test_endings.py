"""How an experiment ends is recorded, however its script ends and whatever its storage does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from projects import ended, found, only, run, write

import replicate_core as replicate


class TestTheEnd:
    def test_two_experiments_in_one_notebook_do_not_mix(self, project: Path) -> None:
        write(project, model="1")
        first = replicate.init({"n": 1})
        first.checkpoint("model", {})
        second = replicate.init({"n": 2})
        second.checkpoint("model", {})
        first.checkpoint(None, {})
        first.stop()
        listed = replicate.experiments.list()
        assert [(item.params["n"], len(item.checkpoints), item.status) for item in listed] == [
            (1, 2, "finished"), (2, 1, "running"),
        ]  # fmt: skip

    def test_stopping_twice_is_stopping_once(self, project: Path, at_exit: list) -> None:
        experiment = replicate.init({}, path=None)
        assert len(at_exit) == 1
        experiment.stop()
        ended = only().duration
        experiment.stop()
        assert only().duration == experiment.duration == ended
        assert at_exit == []

    def test_after_the_end_nothing_can_be_added(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.stop()
        with pytest.raises(replicate.InvalidInput, match="has ended"):
            experiment.checkpoint(None, {})
        assert len(only().checkpoints) == 0

    def test_what_was_loaded_can_not_be_ended(self, project: Path) -> None:
        replicate.init({}, path=None)
        only().stop()
        assert only().is_running()

    def test_an_experiment_ends_with_its_process(self, project: Path) -> None:
        done = run(
            "import replicate_core as replicate\nreplicate.init({'a': 1}).checkpoint(None, {'loss': 1})", project
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (only().status, len(only().checkpoints)) == ("finished", 1)

    def test_an_experiment_that_was_stopped_ends_once(self, project: Path) -> None:
        script = "import replicate_core as replicate\nexperiment = replicate.init({})\nexperiment.stop()"
        assert run(script, project).stderr == ""
        assert len(list((project / ".replicate/storage/records").rglob("*-ended.json"))) == 1
        assert only().status == "finished"

    def test_a_process_that_is_killed_leaves_it_readable(self, project: Path) -> None:
        write(project, model="1")
        script = "import os, replicate_core as r\nr.init({}).checkpoint('model', {})\nos.kill(os.getpid(), 9)"
        assert run(script, project).returncode == -9
        read = only()
        assert read.status == "lost", "nobody was there to see its end, and nobody is at it"
        read.checkout("out")
        assert found(project / "out") == {"model": "1"}


class TestAStorageThatFails:
    def test_never_stops_training(self, project: Path) -> None:
        write(project, **{"replicate.yaml": "storage: storage\n", "model": "1"})
        experiment = replicate.init({})
        (project / "storage").rename(project / "gone")
        write(project, storage="a file where the storage was")
        with pytest.warns(UserWarning, match="can't be stored for now, .*can't read replicate.json") as caught:
            experiment.checkpoint("model", {"loss": 1})
        assert caught[0].filename == __file__
        experiment.checkpoint(None, {"loss": 1})  # what was said once is not said again
        (project / "storage").unlink()
        (project / "gone").rename(project / "storage")
        assert experiment.checkpoint("model", {"loss": 1}).step == 2
        assert [(item.step, item.is_stored) for item in only().checkpoints] == [(0, True), (1, True), (2, True)]
        assert only().checkpoints[0].open().read() == b"1"
        experiment.stop()
        assert os.listdir(project / ".replicate/spool") == []

    def test_at_the_end_is_reported_and_nothing_is_lost(self, project: Path) -> None:
        write(project, **{"replicate.yaml": "storage: storage\n"})
        experiment = replicate.init({}, path=None)
        (project / "storage").rename(project / "gone")
        write(project, storage="a file where the storage was")
        with pytest.warns(UserWarning, match="1 job of .* could not be stored yet, and .*sync` stores") as caught:
            experiment.stop()
        assert caught[0].filename == __file__
        (project / "storage").unlink()
        (project / "gone").rename(project / "storage")
        assert only().status == experiment.status == "finished"
        assert len(only().checkpoints) == 0


class TestHowAScriptEnds:
    def test_one_that_raises_has_failed_with_the_type_and_the_message(self, project: Path) -> None:
        done = run("import replicate_core as r\nr.init({})\nraise ValueError('the loss is\\nnan')", project)
        assert done.returncode == 1
        assert "ValueError: the loss is" in done.stderr, "the traceback is still shown"
        assert ended(project) == ("failed", "ValueError: the loss is\nnan")

    def test_one_that_is_interrupted_was_interrupted(self, project: Path) -> None:
        done = run("import replicate_core as r\nr.init({})\nraise KeyboardInterrupt", project)
        assert done.returncode != 0
        assert ended(project)[0] == "interrupted"

    def test_one_that_catches_its_errors_has_finished(self, project: Path) -> None:
        script = "import replicate_core as r\nr.init({})\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    pass"
        assert run(script, project).returncode == 0
        assert ended(project) == ("finished", None)

    def test_one_that_was_stopped_before_it_raised_has_finished(self, project: Path) -> None:
        run("import replicate_core as r\nr.init({}).stop()\nraise ValueError", project)
        assert ended(project) == ("finished", None)

    def test_a_hook_of_the_script_still_runs(self, project: Path) -> None:
        script = "import sys\nsys.excepthook = lambda *_: print('mine')\nimport replicate_core as r\nr.init({})\n1 / 0"
        assert run(script, project).stdout == "mine\n"
        assert ended(project) == ("failed", "ZeroDivisionError: division by zero")

    def test_a_forked_child_that_exits_does_not_end_it(self, project: Path) -> None:
        script = (
            "import os, sys, replicate_core as r\n"
            "experiment = r.init({}, path=None)\n"
            "if os.fork() == 0:\n    sys.exit()\n"
            "assert os.wait()[1] == 0\n"
            "(read,) = r.experiments.list()\n"
            "assert read.is_running()\n"
            "experiment.checkpoint(None, {'loss': 1.0})"
        )
        done = run(script, project)
        assert (done.returncode, done.stderr) == (0, "")
        assert ended(project) == ("finished", None)
        assert len(only().checkpoints) == 1

    def test_a_storage_that_fails_at_the_end_is_a_warning(self, project: Path) -> None:
        script = (
            "import os, replicate_core as r, shutil\n"
            "experiment = r.init({}, path=None)\n"
            "while os.path.isdir('.replicate/storage'):\n    shutil.rmtree('.replicate/storage', ignore_errors=True)\n"
            "open('.replicate/storage', 'w').close()\n"
            "experiment.stop()\nprint('went on')"
        )
        done = run(script, project)
        assert (done.returncode, done.stdout) == (0, "went on\n")
        assert "could not be stored yet" in done.stderr
        assert "Traceback" not in done.stderr
