"""How many requests things cost on S3: they are paid for, and each takes its time. `docs/storage.md` has these numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from s3_faults import FaultS3
from storage_servers import Place

import replicate_core as replicate


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """What a recorder does, one step at a time."""


@pytest.fixture
def opened(on_s3: Place, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> replicate.Project:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    return replicate.Project(storage=on_s3.url, storage_options=on_s3.options)


def test_an_experiment_with_three_checkpoints(s3: FaultS3, opened: replicate.Project, project: Path) -> None:
    (project / "train.py").write_text("print(1)\n")
    with s3.counted() as beginning:
        experiment = opened.experiments.create({"lr": 0.1}, path="train.py")
    print(dict(beginning))
    for step in range(3):
        (project / "model.bin").write_bytes(os.urandom(1 << 20))
        with s3.counted() as saving:
            experiment.checkpoint("model.bin", {"loss": 0.5}, step=step)
        print(dict(saving))
    with s3.counted() as m:
        experiment.checkpoint(None, {"loss": 0.5}, step=3)
    print(dict(m))
    with s3.counted() as ending:
        experiment.stop()
    print(dict(ending))
    with s3.counted() as listing:
        (found,) = replicate.Project(storage=opened.storage, storage_options=opened.storage_options).experiments.list()
        found.best()
    print(dict(listing))
    with s3.counted() as again:
        (found,) = replicate.Project(storage=opened.storage, storage_options=opened.storage_options).experiments.list()
    print(dict(again))
    with s3.counted() as reading:
        found.checkpoints[0].open().read()
    print(dict(reading))
    assert 0
