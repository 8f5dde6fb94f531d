"""How a training resumes from a checkpoint: its files on this machine, and Lightning restoring all of it."""

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
        trainer: is being set up.
        wanted: what is to be resumed.

    Raises:
        InvalidInput: its strategy can't.
    """
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InvalidInput(
            f"resume={wanted!r} does not work with {type(trainer.strategy).__name__}, which restores sharded "
            "checkpoints itself: leave resume out; to go on, check a checkpoint out (replicate checkout), and give its "
            "path to fit(ckpt_path=...)"
        )


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
            _check(path, checkpoint, trainer)
        with torch.serialization.safe_globals(_data_classes()):
            connector.resume_start(path)
    if is_late:
        connector.restore_model()
        connector.restore_datamodule()
        connector.restore_callbacks()
        # Its loader has drawn random numbers before they were restored: it is made anew, as after the search itself.
        trainer.fit_loop._combined_loader = None  # noqa: SLF001


def _check(path: Path, checkpoint: Checkpoint, trainer: Any) -> None:
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
            f"the checkpoint {checkpoint.short_id} holds weights alone, and no training to resume: it was saved "
            "with save_weights_only, or by something else than Lightning"
        )
    averaged = saved.get(NAME, {}).get("averaged")
    if averaged is not None and averaged["epochs"] != trainer.max_epochs:
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} holds the weights that {averaged['by']} has averaged at the end of "
            f"training, after {averaged['epochs']} epochs: no more can be trained from them. Give resume the id of a "
            "checkpoint before it"
        )


def load_plain(path: Path) -> Any:
    """What a file of torch holds, unless something had to be unpickled for that. Weights are read when they are used.

    Raises:
        InvalidInput: something had.
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
    """What hyperparameters may be, beside what torch knows: paths, and OmegaConf's containers where they are in use.

    They hold data, and run nothing as they are read.
    """
    found: list[Any] = [pathlib.PosixPath, pathlib.WindowsPath, collections.defaultdict, Any]
    if (omegaconf := sys.modules.get("omegaconf")) is None:
        return found
    bases = (omegaconf.Node, omegaconf.base.Metadata)
    rooms = (omegaconf, omegaconf.base, omegaconf.nodes)
    members = {member for room in rooms for member in vars(room).values() if isinstance(member, type)}
    return [*found, dict, list, int, float, str, bool, bytes, *(one for one in members if issubclass(one, bases))]


def tunes(trainer: Any) -> bool:
    """Tell whether a batch size or a learning rate is searched first, which restores what was there before."""
    return any(is_a(callback, "LearningRateFinder", "BatchSizeFinder") for callback in trainer.callbacks)


def puts_back(trainer: Any) -> bool:
    """Tell whether what is restored is what was there before such a search."""
    path = trainer.ckpt_path
    return path is not None and Path(path).name.startswith((".lr_find_", ".scale_batch_size_"))


def told_path(trainer: Any) -> str | None:
    """The path that `fit` was told to resume from, once that was read."""
    path = trainer.ckpt_path
    return None if path is None or puts_back(trainer) else str(path)


def let_configuration_be_rewritten(trainer: Any) -> None:
    """Let LightningCLI write its configuration where the run that is resumed has written it: else it raises."""
    for callback in trainer.callbacks:
        if is_a(callback, "SaveConfigCallback"):
            callback.overwrite = True


def was_stopped(trainer: Any) -> bool:
    """Tell whether `EarlyStopping` had ended the training that was restored: Lightning would train one more epoch."""
    return any(
        callback.wait_count >= max(callback.patience, 1) or callback.stopped_epoch > 0
        for callback in trainer.callbacks
        if is_a(callback, "EarlyStopping")
    )


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
