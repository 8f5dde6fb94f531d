"""How a training goes on from a checkpoint: its files on this machine, and Lightning restoring all of it."""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from replicate_core import Checkpoint, InvalidInput


def go_on_from(trainer: Any, checkpoint: Checkpoint, *, is_late: bool) -> None:
    """Let a trainer restore a checkpoint, as if `fit` had been given its path.

    Args:
        trainer: is being set up; or, late, has restored models and callbacks already, and not optimizers and loops.
        checkpoint: one that Lightning has saved.
        is_late: whether it is so late.

    Raises:
        InvalidInput: it holds no training; or more than plain data.
    """
    # What `fit(ckpt_path=...)` calls a moment later. There is no public name for it: `trainer.ckpt_path` counts before
    # `fit` only, and no hook is called then.
    connector = trainer._checkpoint_connector  # noqa: SLF001
    with local_copy(checkpoint) as path:
        if path.is_file():
            _check(path, checkpoint)
        connector.resume_start(path)
    if is_late:
        connector.restore_model()
        connector.restore_datamodule()
        connector.restore_callbacks()


def _check(path: Path, checkpoint: Checkpoint) -> None:
    """Look at a file without reading the weights: older versions of Lightning would unpickle whatever it holds."""
    try:
        saved = load_plain(path)
    except InvalidInput as error:
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} {error}; or trust it, check it out, and give it to "
            "fit(ckpt_path=..., weights_only=False)"
        ) from error
    except RuntimeError as error:
        raise InvalidInput(f"the checkpoint {checkpoint.short_id} holds no file of torch: {error}") from error
    if not isinstance(saved, dict) or not {"loops", "optimizer_states"} <= saved.keys():
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} holds weights alone, and no training to go on with: it was saved "
            "with save_weights_only, or by something else than Lightning"
        )


def load_plain(path: Path) -> Any:
    """What a file of torch holds, unless something had to be unpickled for that. Weights are read when they are used.

    Raises:
        InvalidInput: something had.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = "" if named is None else f" ({named[1]})"
        raise InvalidInput(
            f"holds more than plain data{what}, which is not unpickled: keep NumPy values, paths and objects out of "
            "hyperparameters and of the states of callbacks"
        ) from error


def tunes(trainer: Any) -> bool:
    """Tell whether a batch size or a learning rate is searched first, which restores what was there before."""
    return any(_is(callback, "LearningRateFinder", "BatchSizeFinder") for callback in trainer.callbacks)


def puts_back(trainer: Any) -> bool:
    """Tell whether what is restored is what was there before such a search."""
    path = trainer.ckpt_path
    return path is not None and Path(path).name.startswith((".lr_find_", ".scale_batch_size_"))


def told_path(trainer: Any) -> str | None:
    """The path that `fit` was told to go on from, once that was read."""
    path = trainer.ckpt_path
    return None if path is None or puts_back(trainer) else str(path)


def was_stopped(trainer: Any) -> bool:
    """Tell whether `EarlyStopping` had ended the training that was restored: Lightning would train one more epoch."""
    return any(
        callback.wait_count >= max(callback.patience, 1) or callback.stopped_epoch > 0
        for callback in trainer.callbacks
        if _is(callback, "EarlyStopping")
    )


def _is(callback: Any, *names: str) -> bool:
    """Tell whether it is a callback of one of Lightning's classes, of either namespace."""
    return any(base.__name__ in names for base in type(callback).__mro__)


@contextmanager
def local_copy(checkpoint: Checkpoint) -> Iterator[Path]:
    """The verified files of a checkpoint, on this machine as long as the `with` block lasts."""
    if checkpoint.path is None:
        raise InvalidInput(f"the checkpoint {checkpoint.short_id} has no files")
    with tempfile.TemporaryDirectory() as directory:
        for name in checkpoint.files:  # several of a sharded one
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with checkpoint.open(name) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        yield Path(directory) / checkpoint.path
