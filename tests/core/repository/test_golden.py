"""Old bytes are sacred: the repository in `tests/data/format-1` is read as it was written, for ever."""

import math
import shutil
from array import array
from pathlib import Path

import pytest

import replicate_core as replicate

FORMAT_1 = Path(__file__).parents[2] / "data" / "format-1"


@pytest.fixture
def experiment() -> replicate.Experiment:
    (found,) = replicate.Project(storage=str(FORMAT_1)).experiments.list()
    return found


def weights(step: int) -> bytes:
    return array("f", (1 + (step + 1) / (index + 2) for index in range(750))).tobytes()


def test_everything_about_the_experiment_is_there(experiment: replicate.Experiment) -> None:
    assert experiment.name == "erste Prüfung ✓"
    assert experiment.tags == ("a", "b")
    assert experiment.notes == "looks good"
    assert experiment.params["lr"] == 0.01
    deep = experiment.params["$deep"]
    assert deep["inf"] == math.inf
    assert deep["none"] is None
    assert deep["list"][:2] == [1, "two"]
    assert math.isnan(deep["list"][2])
    assert (experiment.git.commit, experiment.git.branch, experiment.git.dirty) == ("0" * 40, "main", True)
    assert experiment.status == "failed"
    assert experiment.packages == {"numpy": "2.4.6"}
    assert experiment.created.isoformat() == "2026-11-23T06:28:03+00:00"


def test_what_was_set_aside_by_resuming_is_not_listed(experiment: replicate.Experiment) -> None:
    assert [checkpoint.metrics["loss"] for checkpoint in experiment.checkpoints] == [0.5, 0.25, 0.125]
    assert experiment.best().id == experiment.latest().id


def test_the_files_come_back_byte_for_byte(experiment: replicate.Experiment, tmp_path: Path) -> None:
    for checkpoint in experiment.checkpoints[:2]:
        assert checkpoint.open("model.pt").read() == weights(checkpoint.step)
        assert checkpoint.extra == {"epoch": checkpoint.step}

    experiment.checkpoints[1].checkout(tmp_path)

    assert (tmp_path / "model.pt").read_bytes() == weights(1)
    assert (tmp_path / "train.py").read_bytes() == b"import replicate\n" * 20
    assert (tmp_path / "train.py").stat().st_mode & 0o100
    assert (tmp_path / "leer.txt").read_bytes() == b""
    assert (tmp_path / "latest.py").readlink() == Path("train.py")
    assert (tmp_path / "logs").is_dir()


def test_it_can_be_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "storage"
    shutil.copytree(FORMAT_1, copy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "replicate.yaml").write_text("storage: storage\n")

    replicate.init({"lr": 0.02}, path=None).stop()

    assert [experiment.params["lr"] for experiment in replicate.experiments.list()] == [0.01, 0.02]
