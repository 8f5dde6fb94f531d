"""Experiments and checkpoints as objects: what a copy or a pickle of one can do, and what it can't."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import text_of

import replicate_core as replicate
from replicate_core.errors import InvalidInput

ROOT = Path(replicate.__file__).parents[1]

COPIES = pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
Copied = Callable[[Any], Any]


def begin(**options: object) -> replicate.Experiment:
    experiment = replicate.init({"lr": 0.1}, name="digits", **options)
    Path("model.txt").write_text("weights")
    experiment.checkpoint("model.txt", {"loss": 0.5}, ("loss", "minimize"), step=3)
    return experiment


@COPIES
def test_a_copy_of_what_is_being_recorded_reads(project: Path, copied: Copied) -> None:
    experiment = begin()
    reader = copied(experiment)
    assert (reader.id, reader.name, reader.params) == (experiment.id, "digits", {"lr": 0.1})
    assert (reader.status, reader.is_running(), reader.is_recorded_here) == ("running", True, False)
    assert (reader.latest().step, text_of(reader.best())) == (3, "weights")
    experiment.checkpoint(None, {"loss": 0.4})
    experiment.stop()
    reader.refresh()
    assert (len(reader.checkpoints), reader.status) == (2, "finished")


@COPIES
def test_it_records_nothing_beside_the_original(project: Path, copied: Copied) -> None:
    experiment = begin()
    reader = copied(experiment)
    with pytest.raises(InvalidInput, match="being recorded by this very process: use the object"):
        reader.checkpoint(None, {"loss": 0.1})
    with pytest.raises(InvalidInput, match="is not recorded by this process"):
        reader.keep()
    reader.stop()
    assert experiment.is_running(), "only the original ends it"
    assert experiment.checkpoint(None, {"loss": 0.4}).step == 4


@COPIES
def test_once_that_has_ended_it_adds_as_one_that_was_loaded(project: Path, copied: Copied) -> None:
    experiment = begin()
    reader = copied(experiment)
    experiment.stop()
    with reader:
        reader.checkpoint(None, {"test_loss": 0.3})
    assert [item.step for item in replicate.experiments.get(experiment.id).checkpoints] == [3, 4]


@COPIES
def test_a_copy_of_what_another_rank_has_does_nothing_either(
    project: Path, monkeypatch: pytest.MonkeyPatch, copied: Copied
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    bystander = copied(replicate.init({"lr": 0.1}))
    assert bystander.checkpoint(None, {}).step == 0
    bystander.stop()
    assert len(replicate.experiments.list()) == 0


@COPIES
def test_a_copy_of_what_was_resumed_knows_from_where(project: Path, copied: Copied) -> None:
    first = begin()
    first.stop()
    second = replicate.init(resume=first.id)
    assert copied(second).resumed_from.id == second.resumed_from.id


@COPIES
@pytest.mark.parametrize("storage", [".replicate/storage", "elsewhere", "memory://copies-"])
def test_lists_and_checkpoints_can_be_copied(project: Path, copied: Copied, storage: str) -> None:
    unique = os.urandom(4).hex() if storage.startswith("memory") else ""
    (project / "replicate.yaml").write_text(f"storage: {storage}{unique}\n")
    begin().stop()
    (experiment,) = copied(replicate.experiments.list())
    (checkpoint,) = copied(experiment.checkpoints)
    assert text_of(copied(checkpoint)) == "weights"
    copied(checkpoint).delete()
    experiment.refresh()
    assert len(experiment.checkpoints) == 0


@COPIES
def test_a_project_that_was_told_its_storage_keeps_it(project: Path, tmp_path: Path, copied: Copied) -> None:
    with replicate.Project(storage=str(tmp_path / "other"), directory=project).experiments.create({}) as experiment:
        pass
    (project / "replicate.yaml").write_text("storage: somewhere-else\n")
    again = copied(replicate.Project(storage=str(tmp_path / "other"), directory=project))
    assert [item.id for item in again.experiments.list()] == [experiment.id]
    assert copied(experiment).id == experiment.id


def test_a_pickle_reads_in_another_process(project: Path, tmp_path: Path) -> None:
    (project / "replicate.yaml").write_text("storage: stored\n")
    experiment = begin()
    (tmp_path / "pickled").write_bytes(pickle.dumps(experiment))
    code = f"""
import pickle
experiment = pickle.load(open({str(tmp_path / "pickled")!r}, "rb"))
print(experiment.id, experiment.status, experiment.latest().open("model.txt").read().decode())
try:
    experiment.checkpoint(None, {{"loss": 1}})
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert said[0] == f"{experiment.id} running weights"
    assert "is still being recorded by another process of this machine" in said[1]
