"""How many requests things cost on S3: they are paid for, and take their time. `docs/storage.md` has these numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_faults import FaultS3
from storage_servers import Place

import replicate_core as replicate

CHECKPOINT = {"PUT data": 1, "PUT manifests": 1, "PUT records": 1}


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """The requests are those of the recorder, and can be told apart."""


@pytest.fixture
def open_project(
    on_s3: Place, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], replicate.Project]:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    (project / "train.py").write_text("print(1)\n")
    return lambda: replicate.Project(storage=on_s3.url, storage_options=on_s3.options)


def begin(open_project: Callable[[], replicate.Project]) -> replicate.Experiment:
    return open_project().experiments.create({"lr": 0.1}, path="train.py")


def save(experiment: replicate.Experiment, size_bytes: int, step: int = 0) -> None:
    Path("model.bin").write_bytes(os.urandom(size_bytes))
    experiment.checkpoint("model.bin", {"loss": 0.5}, step=step)


def test_a_beginning(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    with s3.counted() as requests:
        begin(open_project)
    assert requests == {
        "LIST everything": 1,  # the probe
        "GET replicate.json": 2,
        "PUT replicate.json": 1,  # only the first experiment of a storage
        "PUT heartbeats": 1,
        "LIST prune": 1,
        "LIST segments": 1,
        "LIST records": 1,  # what is there already, which need not be stored again
        **CHECKPOINT,  # the code
    }


def test_every_checkpoint(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    experiment = begin(open_project)
    for step in range(3):
        with s3.counted() as requests:
            save(experiment, 1 << 20, step)
        assert requests == CHECKPOINT


def test_a_checkpoint_of_which_everything_is_stored_already(s3: FaultS3, open_project) -> None:
    experiment = begin(open_project)
    save(experiment, 1 << 20)
    with s3.counted() as requests:
        experiment.checkpoint("model.bin", {"loss": 0.4})
    assert requests == {"PUT manifests": 1, "PUT records": 1}


def test_a_large_checkpoint_goes_in_parts(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    experiment = begin(open_project)
    with s3.counted() as requests:
        save(experiment, 40 << 20)
    assert requests == {"POST data": 2, "PUT data": 3, "PUT manifests": 1, "PUT records": 1}  # parts of 16 MiB


def test_listing_once_and_again(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    experiment = begin(open_project)
    save(experiment, 1000)
    experiment.stop()
    with s3.counted() as first:
        open_project().experiments.list()
    looks = {"LIST everything": 1, "GET replicate.json": 1, "LIST segments": 1, "LIST records": 1}
    assert first == {**looks, "GET records": 3}
    with s3.counted() as again:
        (found,) = open_project().experiments.list()
    assert again == looks
    with s3.counted() as reading:
        found.checkpoints[0].open().read()
    assert reading == {"GET manifests": 1, "GET data": 1}


def test_listing_what_was_put_together(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    for _ in range(3):
        begin(open_project).stop()
    open_project().compact()
    with s3.counted() as first:
        assert len(open_project().experiments.list()) == 3
    looks = {"LIST everything": 1, "GET replicate.json": 1, "LIST segments": 1, "LIST records": 1}
    assert first == {**looks, "GET segments": 1}
    with s3.counted() as again:
        assert len(open_project().experiments.list()) == 3
    assert again == looks


def test_an_end(s3: FaultS3, open_project: Callable[[], replicate.Project]) -> None:
    experiment = begin(open_project)
    with s3.counted() as requests:
        experiment.stop()
    assert requests == {"PUT records": 1, "DELETE heartbeats": 1}
