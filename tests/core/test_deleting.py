"""What is deleted is in no listing any more, and nothing else is harmed."""

from __future__ import annotations

from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.errors import NotFound, StorageFailed
from replicate_core.storage.local import LocalStore

PRIMARY = ("loss", "minimize")


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Three experiments with the same code, each with three checkpoints of which the second is the best."""
    (project / "train.py").write_text("print()\n" * 50)
    made = []
    for number in range(3):
        experiment = replicate.init({"number": number})
        for loss in (2.0, 1.0, 3.0):
            (project / "model").write_text(f"loss {loss}" * 10)
            experiment.checkpoint("model", {"loss": loss}, PRIMARY)
        experiment.stop()
        made.append(experiment)
    return made


def listed() -> dict[str, list[float]]:
    """What another process sees: id of an experiment to the losses of its checkpoints."""
    return {
        one.id: [item.metrics["loss"] for item in one.checkpoints] for one in replicate.Project().experiments.list()
    }


def readable(directory: Path) -> bool:
    for number, experiment in enumerate(replicate.experiments.list()):
        for checkpoint in experiment.checkpoints:
            checkpoint.checkout(directory / f"{number}-{checkpoint.id}")
    return replicate.Project().verify(deep=True).damages == ()


class TestACheckpoint:
    def test_is_gone_from_every_listing(self, experiments: list[replicate.Experiment], tmp_path: Path) -> None:
        read = replicate.experiments.get(experiments[0].id)
        best = read.best()
        best.delete()

        for experiment in (read, replicate.experiments.get(read.id)):
            assert [item.metrics["loss"] for item in experiment.checkpoints] == [2.0, 3.0]
            assert experiment.best().metrics["loss"] == 2.0
            assert experiment.latest().metrics["loss"] == 3.0
            assert "checkpoints=2" in repr(experiment)
        with pytest.raises(NotFound):
            replicate.experiments.find(best.id)
        assert listed() == {
            experiments[0].id: [2.0, 3.0],
            experiments[1].id: [2.0, 1.0, 3.0],
            experiments[2].id: [2.0, 1.0, 3.0],
        }
        assert readable(tmp_path / "out")

    def test_that_was_the_last_leaves_the_one_before_as_latest(self, experiments: list[replicate.Experiment]) -> None:
        experiments[0].latest().delete()
        assert experiments[0].latest().metrics["loss"] == 1.0
        assert replicate.experiments.get(experiments[0].id).latest().metrics["loss"] == 1.0

    def test_that_was_the_only_one_leaves_none(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.checkpoint(None, {"loss": 1.0}, PRIMARY).delete()
        for one in (experiment, replicate.experiments.get(experiment.id)):
            assert list(one.checkpoints) == []
            assert one.best() is None
            assert one.latest() is None
            assert one.primary_metric is None

    def test_is_deleted_from_what_shares_its_files_without_harm(self, project: Path, tmp_path: Path) -> None:
        (project / "model").write_bytes(b"the same" * 100)
        experiment = replicate.init({}, path=None)
        first, second = (experiment.checkpoint("model", {"loss": 1.0}) for _ in range(2))
        first.delete()
        second.checkout(tmp_path / "out")
        assert (tmp_path / "out/model").read_bytes() == b"the same" * 100

    def test_of_a_running_experiment_does_not_stop_it(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.checkpoint(None, {"loss": 1.0}).delete()
        assert experiment.checkpoint(None, {"loss": 2.0}).step == 1
        assert experiment.is_running()
        assert listed() == {experiment.id: [2.0]}

    def test_can_be_deleted_twice(self, experiments: list[replicate.Experiment]) -> None:
        checkpoint = experiments[0].checkpoints[0]
        checkpoint.delete()
        checkpoint.delete()
        assert listed()[experiments[0].id] == [1.0, 3.0]


class TestAnExperiment:
    def test_is_gone_from_every_listing_with_its_checkpoints(self, experiments, tmp_path: Path) -> None:
        gone, *kept = experiments
        checkpoints = [item.id for item in gone.checkpoints]
        replicate.experiments.get(gone.id).delete()
        assert listed() == {one.id: [2.0, 1.0, 3.0] for one in kept}
        for identifier in (gone.id, *checkpoints):
            with pytest.raises(NotFound):
                replicate.experiments.get(identifier)
        with pytest.raises(NotFound, match="no longer in"):
            gone.refresh()
        assert readable(tmp_path / "out")

    def test_has_no_checkpoints_left(self, experiments: list[replicate.Experiment]) -> None:
        experiments[0].delete()
        assert list(experiments[0].checkpoints) == []
        assert experiments[0].best() is None
        assert experiments[0].latest() is None

    def test_that_still_runs_stays_gone(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        replicate.experiments.get(experiment.id).delete()
        experiment.checkpoint(None, {"loss": 1.0})
        experiment.stop()
        assert listed() == {}

    def test_that_has_no_checkpoints_can_be_deleted(self, project: Path) -> None:
        replicate.init({}, path=None).delete()
        assert listed() == {}


class TestLists:
    def test_of_experiments(self, experiments: list[replicate.Experiment]) -> None:
        replicate.experiments.list(lambda one: one.params["number"] > 0).delete()
        assert list(listed()) == [experiments[0].id]
        replicate.experiments.list().delete()
        assert listed() == {}
        replicate.experiments.list().delete()

    def test_of_checkpoints(self, experiments: list[replicate.Experiment]) -> None:
        experiment = replicate.experiments.get(experiments[1].id)
        experiment.checkpoints[:2].delete()
        assert [item.metrics["loss"] for item in experiment.checkpoints] == [3.0]
        assert [len(losses) for losses in listed().values()] == [3, 1, 3]
        experiment.checkpoints.delete()
        assert list(experiment.checkpoints) == []
        assert [len(losses) for losses in listed().values()] == [3, 0, 3]


def test_a_storage_that_refuses_leaves_everything_as_it_was(experiments, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise StorageFailed("it is read-only")

    before = listed()
    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "put", failing)
        with pytest.raises(StorageFailed, match="read-only"):
            experiments[0].delete()
        with pytest.raises(StorageFailed, match="read-only"):
            experiments[1].checkpoints[0].delete()
    assert len(experiments[0].checkpoints) == len(experiments[1].checkpoints) == 3
    assert listed() == before
