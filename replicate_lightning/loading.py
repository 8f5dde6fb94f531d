"""Resumes a training from a checkpoint: fetches its files and lets Lightning restore them."""

from __future__ import annotations

import collections
import pathlib
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from replicate_core import Checkpoint, InvalidInput
from replicate_lightning.namespaces import is_a
from replicate_lightning.state import NAME


def check_resumable(trainer: Any, wanted: str) -> None:
    """Check that the trainer can restore a checkpoint before optimizers are made.

    Args:
        trainer: a trainer in `setup`.
        wanted: what to resume, for the message.

    Raises:
        InvalidInput: the trainer's strategy can't.
    """
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InvalidInput(
            f"resume={wanted!r} does not work with {type(trainer.strategy).__name__}, which restores sharded "
            "checkpoints itself: leave resume out; to resume, check a checkpoint out (replicate checkout), and give "
            "its path to fit(ckpt_path=...)"
        )


def resume_from(trainer: Any, checkpoint: Checkpoint, *, is_late: bool) -> None:
    """Let a trainer restore a checkpoint, as if `fit` had been given its path.

    Args:
        trainer: a trainer in `setup`; if `is_late`, one that has restored models and callbacks already, but not
            optimizers and loops.
        checkpoint: a checkpoint that Lightning has saved.
        is_late: whether the trainer is past restoring models and callbacks.

    Raises:
        InvalidInput: the checkpoint holds no training, or more than plain data.
    """
    # `fit(ckpt_path=...)` calls the same a moment later. It has no public name: setting `trainer.ckpt_path` works only
    # before `fit`, when no hook is called.
    connector = trainer._checkpoint_connector  # noqa: SLF001
    with local_copy(checkpoint) as path:
        if path.is_file():
            _check(path, checkpoint, trainer)
        with torch.serialization.safe_globals(_data_classes()):
            connector.resume_start(path)
    if is_late:
        connector.restore_model()
        connector.restore_datamodule()
        connector.restore_callbacks()
        # The loader drew random numbers before the random states were restored: Lightning makes it anew, as after the
        # search itself.
        trainer.fit_loop._combined_loader = None  # noqa: SLF001


def _check(path: Path, checkpoint: Checkpoint, trainer: Any) -> None:
    """Check a file without reading the weights: older versions of Lightning would unpickle anything in it."""
    try:
        saved = load_plain(path)
    except InvalidInput as error:
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} {error}; or trust it, check it out, and give it to "
            "fit(ckpt_path=..., weights_only=False)"
        ) from error
    except RuntimeError as error:
        raise InvalidInput(f"the checkpoint {checkpoint.short_id} holds no torch file: {error}") from error
    if not isinstance(saved, dict) or not {"loops", "optimizer_states"} <= saved.keys():
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} holds weights alone, and no training to resume: it was saved "
            "with save_weights_only, or not by Lightning"
        )
    averaged = saved.get(NAME, {}).get("averaged")
    if averaged is not None and averaged["epochs"] != trainer.max_epochs:
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} holds the weights that {averaged['by']} has averaged at the end of "
            f"training, after {averaged['epochs']} epochs: no more can be trained from them. Give resume the id of a "
            "checkpoint before it"
        )


def load_plain(path: Path) -> Any:
    """Load a torch file without unpickling objects. Weights are read when they are used.

    Raises:
        InvalidInput: the file holds more than plain data.
    """
    try:
        with torch.serialization.safe_globals(_data_classes()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = "" if named is None else f" ({named[1]})"
        raise InvalidInput(
            f"holds more than plain data{what}, which is not unpickled: keep NumPy values and objects out of "
            "hyperparameters and of the states of callbacks"
        ) from error


def _data_classes() -> list[Any]:
    """Return the types that hyperparameters may have beside those torch allows: paths, and OmegaConf's containers.

    They only hold data: loading them runs no code.
    """
    found: list[Any] = [pathlib.PosixPath, pathlib.WindowsPath, collections.defaultdict, Any]
    if (omegaconf := sys.modules.get("omegaconf")) is None:
        return found
    bases = (omegaconf.Node, omegaconf.base.Metadata)
    rooms = (omegaconf, omegaconf.base, omegaconf.nodes)
    members = {member for room in rooms for member in vars(room).values() if isinstance(member, type)}
    return [*found, dict, list, int, float, str, bool, bytes, *(one for one in members if issubclass(one, bases))]


def searches(trainer: Any) -> bool:
    """Tell whether Lightning searches a batch size or learning rate first, and restores the state afterwards."""
    return any(is_a(callback, "LearningRateFinder", "BatchSizeFinder") for callback in trainer.callbacks)


def is_search_backup(trainer: Any) -> bool:
    """Tell whether the trainer restores the backup that it made before such a search."""
    path = trainer.ckpt_path
    return path is not None and Path(path).name.startswith((".lr_find_", ".scale_batch_size_"))


def given_path(trainer: Any) -> str | None:
    """Return the path that `fit` was given to resume from, once Lightning has read it; else None."""
    path = trainer.ckpt_path
    return None if path is None or is_search_backup(trainer) else str(path)


def allow_config_overwrite(trainer: Any) -> None:
    """Let LightningCLI overwrite the configuration of the resumed run: otherwise it raises."""
    for callback in trainer.callbacks:
        if is_a(callback, "SaveConfigCallback"):
            callback.overwrite = True


def was_stopped(trainer: Any) -> bool:
    """Tell whether `EarlyStopping` had stopped the restored training: Lightning would train one more epoch."""
    return any(
        callback.wait_count >= max(callback.patience, 1) or callback.stopped_epoch > 0
        for callback in trainer.callbacks
        if is_a(callback, "EarlyStopping")
    )


@contextmanager
def local_copy(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield a verified local copy of a checkpoint's files; it is deleted when the `with` block ends."""
    if checkpoint.path is None:
        raise InvalidInput(f"the checkpoint {checkpoint.short_id} has no files")
    with tempfile.TemporaryDirectory() as directory:
        for name in checkpoint.files:  # a sharded checkpoint has several
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with checkpoint.open(name) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        yield Path(directory) / checkpoint.path
