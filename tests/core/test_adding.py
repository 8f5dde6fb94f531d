"""Adding to an experiment that was loaded: behind all that it has, by one process at a time, and never into its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kit import steps, until

import replicate_core as replicate
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended, Record, Resumed
from replicate_core.machine import environment
from replicate_core.recording import resuming
from replicate_core.repository import heartbeats
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool.syncing import sync
from replicate_core.storage.local import LocalStore
from replicate_core.workspace import Workspace

ROOT = Path(replicate.__file__).parents[1]


@pytest.fixture(autouse=True)
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow


def trained(status: str = "finished", steps: int = 2) -> str:
    """A run with so many checkpoints that has ended so; returns its id."""
    experiment = replicate.init({"lr": 0.1}, name="digits", path=None)
    for step in range(steps):
        Path("model.txt").write_text(f"weights of step {step}")
        experiment.checkpoint("model.txt", {"loss": 1 / (step + 1)}, ("loss", "minimize"))
    if status == "failed":
        experiment.__exit__(ValueError, ValueError("diverged"), None)
    elif status == "lost":
        experiment._recorded._queue.finish_appending()
    else:
        experiment.stop()
    return experiment.id


def loaded(identifier: str) -> replicate.Experiment:
    experiment = replicate.experiments.get(identifier)
    assert isinstance(experiment, replicate.Experiment)
    return experiment


def stored(*types: type[Record]) -> list[Record]:
    records = Repository(LocalStore(Path(".replicate/storage"))).read_records()
    return [record for record in records if isinstance(record, types)]


class TestWhatIsAdded:
    def test_it_stands_behind_all_that_is_there(self, project: Path) -> None:
        identifier = trained()
        experiment = loaded(identifier)
        added = experiment.checkpoint(None, {"test_loss": 0.4})
        assert (added.step, added.experiment_id) == (2, identifier)
        assert steps(experiment) == steps(loaded(identifier)) == [0, 1, 2]
        experiment.stop()
        assert loaded(identifier).latest(with_files=False).metrics == {"test_loss": 0.4}
        assert loaded(identifier).latest().step == 1, "the last one that has files"

    def test_it_may_have_files_and_comes_back_with_the_code_of_the_training(self, project: Path) -> None:
        Path("train.py").write_text("first")
        experiment = replicate.init({})
        experiment.stop()
        Path("train.py").write_text("second")
        Path("report.txt").write_text("92 % are right")
        with loaded(experiment.id) as again:
            again.checkpoint("report.txt", {"accuracy": 0.92})
        loaded(experiment.id).latest().checkout("out")
        assert (Path("out/train.py").read_text(), Path("out/report.txt").read_text()) == ("first", "92 % are right")

    def test_checkpoints_that_have_no_files_or_were_damaged_stay(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        for step in range(3):
            experiment.checkpoint(None, {"loss": step})
        experiment.stop()
        loaded(experiment.id).checkpoint(None, {"loss": 3})
        assert steps(loaded(experiment.id)) == [0, 1, 2, 3]

    def test_an_experiment_without_checkpoints_gets_its_first_one(self, project: Path) -> None:
        identifier = trained(steps=0)
        assert loaded(identifier).checkpoint(None, {}).step == 0
        assert steps(loaded(identifier)) == [0]

    def test_it_can_be_done_again_and_again(self, project: Path) -> None:
        identifier = trained()
        for _ in range(3):
            with loaded(identifier) as experiment:
                experiment.checkpoint(None, {})
                experiment.checkpoint(None, {})
        assert steps(loaded(identifier)) == list(range(8))
        assert len(stored(Created)) == 1

    def test_nothing_is_recorded_before_the_first_checkpoint(self, project: Path) -> None:
        identifier = trained()
        with loaded(identifier):
            pass
        loaded(identifier).stop()
        assert stored(Resumed) == []

    def test_what_can_not_be_recorded_leaves_the_experiment_as_it_was(self, project: Path) -> None:
        identifier = trained()
        experiment = loaded(identifier)
        with pytest.raises(InvalidInput, match="does not exist"):
            experiment.checkpoint("missing.txt", {})
        experiment.stop()
        assert (steps(loaded(identifier)), loaded(identifier).status) == ([0, 1], "finished")

    def test_what_another_machine_stores_late_is_not_set_aside(self, project: Path) -> None:
        """It was switched off with the last of the training in its spool, and comes back after something was added."""
        identifier = trained()
        with loaded(identifier) as experiment:
            experiment.checkpoint(None, {"test_loss": 0.4})
        late = Checkpointed(identifier, (CheckpointFacts("d" * 32, utc_now(), 7, {}),))
        Repository(LocalStore(Path(".replicate/storage"))).append(late)
        assert steps(loaded(identifier)) == [0, 1, 7, 2]

    def test_resuming_goes_on_from_what_was_added_too(self, project: Path) -> None:
        identifier = trained()
        with loaded(identifier) as experiment:
            Path("model.txt").write_text("fine-tuned")
            experiment.checkpoint("model.txt", {"loss": 0.1})
        again = replicate.init({}, name="digits", resume=identifier, path=None)
        assert (again.id, again.resumed_from.step) == (identifier, 2)


class TestHowItEnds:
    def test_it_runs_until_it_is_stopped(self, project: Path) -> None:
        identifier = trained()
        experiment = loaded(identifier)
        experiment.checkpoint(None, {})
        assert experiment.is_recorded_here
        assert experiment.status == loaded(identifier).status == "running"
        experiment.stop()
        assert experiment.status == loaded(identifier).status == "finished"
        with pytest.raises(InvalidInput, match="has ended"):
            experiment.checkpoint(None, {})

    @pytest.mark.parametrize("status", ["failed", "finished"])
    def test_then_it_is_as_its_training_has_ended(self, project: Path, status: str) -> None:
        identifier = trained(status)
        before = loaded(identifier)
        experiment = loaded(identifier)
        experiment.checkpoint(None, {})
        experiment.__exit__(KeyError, KeyError("the evaluation was wrong"), None)
        after = loaded(identifier)
        assert (after.status, after.error, after.duration) == (status, before.error, before.duration)
        assert after.resumed_from is experiment.resumed_from is None
        assert len(after.checkpoints) == 3

    def test_where_the_end_of_the_training_is_not_known_it_is_that_of_what_was_added(self, project: Path) -> None:
        identifier = trained("lost")
        with loaded(identifier) as experiment:
            experiment.checkpoint(None, {})
        assert loaded(identifier).status in ("killed", "finished")  # who adds stores what was left here first
        assert steps(loaded(identifier)) == [0, 1, 2]

    def test_it_ends_with_its_process(self, project: Path) -> None:
        identifier = trained()
        code = f"import replicate_core as r; r.experiments.get({identifier!r}).checkpoint(None, {{'loss': 0}})"
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT)})
        assert (loaded(identifier).status, steps(loaded(identifier))) == ("finished", [0, 1, 2])

    def test_what_was_added_survives_that_its_process_is_killed(self, project: Path, monkeypatch) -> None:
        monkeypatch.delenv("REPLICATE_RECORDER")
        identifier = trained()
        code = (
            "import os, sys, replicate_core as r\n"
            f"r.experiments.get({identifier!r}).checkpoint(None, {{'loss': 0}})\n"
            f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
        until(lambda: loaded(identifier).status == "finished" and steps(loaded(identifier)) == [0, 1, 2])
        assert [record.status for record in stored(Ended)] == ["finished", "killed"], "the second is of what was added"


class TestOneAtATime:
    def test_not_while_this_process_records_it(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        with pytest.raises(InvalidInput, match=r"recorded by this very process: use the object that replicate.init"):
            loaded(experiment.id).checkpoint(None, {})
        assert experiment.checkpoint(None, {}).step == 0

    def test_not_while_another_object_of_this_process_adds(self, project: Path) -> None:
        identifier = trained()
        first, second = loaded(identifier), loaded(identifier)
        first.checkpoint(None, {})
        with pytest.raises(InvalidInput, match="by this very process"):
            second.checkpoint(None, {})
        first.stop()
        assert second.checkpoint(None, {}).step == 3

    def test_not_while_another_process_records_it(
        self, project: Path, another_process: Callable[..., subprocess.Popen[str]]
    ) -> None:
        code = (
            "import os, sys; os.chdir(sys.argv[1]); import replicate_core as r\n"
            "e = r.init({}, path=None); e.checkpoint(None, {'loss': 1}); print(e.id, flush=True); input()"
        )
        process = another_process(code, project)
        (experiment,) = replicate.experiments.list()
        with pytest.raises(InvalidInput, match="still being recorded by another process of this machine"):
            experiment.checkpoint(None, {})
        process.communicate("\n", timeout=60)
        assert experiment.checkpoint(None, {}).step == 1

    def test_not_while_it_gives_signs_of_life_on_another_machine(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = Repository(LocalStore(project / ".replicate/storage"))
        repository.prepare()
        identifier = "e" * 32
        repository.append(Created(identifier, utc_now()))
        moments = iter(range(100))
        monkeypatch.setattr(resuming, "LOOK_SECONDS", 0.01)
        real = resuming.one

        def beating(source, experiment):
            sign = Heartbeat(identifier, None, utc_now() + timedelta(seconds=next(moments)), "elsewhere", 1, 0)
            heartbeats.beat(repository, sign)
            return real(source, experiment)

        monkeypatch.setattr(resuming, "one", beating)
        with pytest.raises(InvalidInput, match="is running on elsewhere"):
            loaded(identifier).checkpoint(None, {})

    def test_of_two_that_looked_at_the_same_moment_one_is_refused(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        identifier = trained()
        monkeypatch.setattr(resuming, "wait_until_over", lambda *_: None)  # both came past it
        first, second = loaded(identifier), loaded(identifier)
        first.checkpoint(None, {})
        with pytest.raises(InvalidInput, match="another process resumed the experiment"):
            second.checkpoint(None, {})
        assert len(stored(Resumed)) == 1

    def test_not_behind_what_another_machine_resumed_since_it_looked(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        identifier = trained()
        repository = Repository(LocalStore(project / ".replicate/storage"))
        behind_the_last = resuming.behind_the_last

        def late(*arguments: object) -> resuming.Start:
            repository.append(Resumed(identifier, utc_now(), "e" * 32, None, None))
            return behind_the_last(*arguments)

        monkeypatch.setattr(resuming, "behind_the_last", late)
        with pytest.raises(InvalidInput, match="another process resumed the experiment"):
            loaded(identifier).checkpoint(None, {})
        assert len(stored(Resumed)) == 1

    def test_a_deleted_experiment_gets_nothing_any_more(self, project: Path) -> None:
        identifier = trained()
        experiment = loaded(identifier)
        loaded(identifier).delete()
        with pytest.raises(NotFound, match="was deleted"):
            experiment.checkpoint(None, {})
        assert stored(Resumed) == []

    def test_in_a_distributed_run_the_first_process_adds(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        identifier = trained()
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with loaded(identifier) as experiment:
            experiment.checkpoint(None, {"loss": 1})
        assert steps(loaded(identifier)) == [0, 1]


def test_what_waits_of_an_addition_is_stored_by_sync(project: Path) -> None:
    identifier = trained()
    experiment = loaded(identifier)
    experiment.checkpoint(None, {})
    experiment._recorded._queue.finish_appending()  # as after a SIGKILL
    sync(Workspace().spool)
    assert (loaded(identifier).status, steps(loaded(identifier))) == ("finished", [0, 1, 2])
