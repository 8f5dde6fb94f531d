"""How a training becomes a file: which names can be taken, and never half-written."""

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
"""What a template may always name, as in Lightning: both count from 0. Everything else it names is a metric."""


def check_filepath(filepath: str | os.PathLike[str] | None) -> str | None:
    """Check where checkpoints are to be saved; may be a template.

    Raises:
        InvalidInput: nothing can be saved to a file of that name, or the template can't be filled in.
    """
    return check_template(filepath, places=PLACES, example="m-{epoch:02d}-{val_loss:.2f}.ckpt")


def save(trainer: Any, path: str, *, weights_only: bool) -> None:
    """Save what the trainer has: no half file is ever seen under that name. Every rank must take part."""
    target = Path(path)
    mark = trainer.strategy.broadcast(os.urandom(8).hex())
    temporary = target.with_name(f".replicate-{mark}.tmp{target.suffix}")
    try:
        with _straight(trainer.strategy), written_ahead(temporary, target):
            trainer.save_checkpoint(temporary, weights_only)  # all ranks wait for one another
        wait_for_async(trainer.strategy.checkpoint_io)
        if trainer.is_global_zero:
            _replace(temporary, target)
    finally:
        if trainer.is_global_zero:
            _remove(temporary)


class _Straight(*bases("TorchCheckpointIO", room="plugins.io")):  # type: ignore[misc]  # those that are installed
    """Writes what Lightning writes, without a copy of it in memory first: nobody sees the file before it is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, path)
        except Exception:  # noqa: BLE001  # Lightning's own way drops what can't be pickled, or says what is wrong
            super().save_checkpoint(checkpoint, path, storage_options)


@contextmanager
def _straight(strategy: Any) -> Iterator[None]:
    """Write straight to the file, where Lightning's own default would write it; any other plugin is left alone."""
    own = strategy.checkpoint_io
    if type(own).__name__ != "TorchCheckpointIO" or strategy.restore_checkpoint_after_setup:
        yield
        return
    strategy.checkpoint_io = _Straight()
    try:
        yield
    finally:
        strategy.checkpoint_io = own


def wait_for_async(checkpoint_io: Any) -> None:
    """Wait for a file that is written in the background: the next save finds everything as it was."""
    if any(base.__name__ == "AsyncCheckpointIO" for base in type(checkpoint_io).__mro__):
        checkpoint_io.teardown()


def _replace(temporary: Path, target: Path) -> None:
    if temporary.is_dir():  # a sharded checkpoint: a directory takes the place of an empty one only
        _remove(target)
    put_in_place(temporary, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
