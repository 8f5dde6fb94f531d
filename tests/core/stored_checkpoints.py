"""Checkpoints that tests save, and whether each of them came to be stored: whole, in order, once."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
from collections.abc import Callable
from pathlib import Path

from misbehaving import Storage

import replicate_core as replicate
from replicate_core.spool import upload_queue
from replicate_core.workspace import Workspace

AtExit = list[Callable[..., object]]


def begin(project: Path, **options: object) -> replicate.Experiment:
    return replicate.init(path=None, **options)


def save(experiment: replicate.Experiment, step: int, *, size: int = 0, loss: float | None = None) -> str:
    """A checkpoint whose file is told by its step."""
    Path("model.bin").write_bytes(content(step, size))
    value = 1 / (step + 1) if loss is None else loss
    return experiment.checkpoint("model.bin", {"loss": value}, ("loss", "minimize"), step).id


def content(step: int, size: int) -> bytes:
    return (b"step %d " % step * (size // 8 + 1000))[: max(size, 1000)]


def stored() -> replicate.Experiment:
    """The only experiment there is, as somebody reads it who does not see the spool."""
    (experiment,) = [one for one in replicate.experiments.list() if one.waiting == 0]
    assert all(checkpoint.is_stored for checkpoint in experiment.checkpoints)
    return experiment


def queues() -> list[upload_queue.Queue]:
    return Workspace().spool.queues()


def assert_stored(ids: list[str]) -> None:
    """Each of these checkpoints is there, and every byte that is there can be read."""
    assert [checkpoint.id for checkpoint in stored().checkpoints] == ids
    assert replicate.Project().verify(deep=True).damages == ()


def assert_stored_once(storage: Storage, ids: list[str]) -> None:
    """Each of these checkpoints is there, in this order, whole, and in one record only."""
    experiment = stored()
    assert [checkpoint.id for checkpoint in experiment.checkpoints] == ids
    for checkpoint in experiment.checkpoints:
        if checkpoint.path is not None:
            assert checkpoint.open().read() == content(checkpoint.step, checkpoint.size_bytes)
    repository = Workspace().repository
    inside = [item.id for record in repository.read_records() for item in getattr(record, "checkpoints", ())]
    assert inside == ids
    assert replicate.Project().verify(deep=True).damages == ()
