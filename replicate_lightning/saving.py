"""Saves trainings to files: checks file names, and never leaves a file half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from replicate_core.adapters import check_template, put_in_place, written_ahead
from replicate_lightning.namespaces import bases

PLACES = ("epoch", "step")
"""Names that a template may always use, counted from 0 as in Lightning; any other name is a metric."""


def check_filepath(filepath: str | os.PathLike[str] | None) -> str | None:
    """Check the path to save checkpoints to, which may be a template.

    Raises:
        InvalidInput: nothing can be saved under that name, or the template is invalid.
    """
    return check_template(filepath, places=PLACES, example="m-{epoch:02d}-{val_loss:.2f}.ckpt")


def save(trainer: Any, path: str, *, weights_only: bool) -> None:
    """Save a trainer's checkpoint atomically. Every rank must call this."""
    target = Path(path)
    mark = trainer.strategy.broadcast(os.urandom(8).hex())
    temporary = target.with_name(f".replicate-{mark}.tmp{target.suffix}")
    try:
        with _direct_io(trainer.strategy), written_ahead(temporary, target):
            trainer.save_checkpoint(temporary, weights_only)  # all ranks wait for one another
        wait_for_async(trainer.strategy.checkpoint_io)
        if trainer.is_global_zero:
            _replace(temporary, target)
    finally:
        if trainer.is_global_zero:
            _remove(temporary)


class _DirectIO(*bases("TorchCheckpointIO", module="plugins.io")):  # type: ignore[misc]  # those that are installed
    """Writes what Lightning writes, without a copy in memory: the file is renamed only once it is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, path)
        except Exception:  # noqa: BLE001  # Lightning's own method drops what can't be pickled, or explains the error
            super().save_checkpoint(checkpoint, path, storage_options)


@contextmanager
def _direct_io(strategy: Any) -> Iterator[None]:
    """Replace Lightning's default plugin by `_DirectIO`; leave any other plugin in place."""
    own = strategy.checkpoint_io
    if type(own).__name__ != "TorchCheckpointIO" or strategy.restore_checkpoint_after_setup:
        yield
        return
    strategy.checkpoint_io = _DirectIO()
    try:
        yield
    finally:
        strategy.checkpoint_io = own


def wait_for_async(checkpoint_io: Any) -> None:
    """Wait for a file that is written in the background; the plugin works for the next save, too."""
    if any(base.__name__ == "AsyncCheckpointIO" for base in type(checkpoint_io).__mro__):
        checkpoint_io.teardown()


def _replace(temporary: Path, target: Path) -> None:
    if temporary.is_dir():  # a sharded checkpoint: a directory can only replace an empty one
        _remove(target)
    put_in_place(temporary, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
