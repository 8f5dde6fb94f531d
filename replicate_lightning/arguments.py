"""Arguments of the callback: their checks and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from replicate_core import InvalidInput, adapters
from replicate_core.adapters import AUTO, EPOCH, whole_from_1

OF_MODEL_CHECKPOINT = {
    "dirpath": 'give filepath="DIRECTORY/NAME.ckpt"',
    "filename": 'give filepath="DIRECTORY/NAME.ckpt"',
    "monitor": 'give primary_metric=("val_loss", "minimize")',
    "mode": 'give primary_metric=("val_loss", "minimize")',
    "verbose": "nothing is printed while training runs; `replicate ls` lists what was saved",
    "save_last": "the last one is always kept; keep_last=3 keeps the last three",
    "save_top_k": "give keep_best=3; left out, all are kept",
    "auto_insert_metric_name": 'nothing is added to names: give filepath="epoch={epoch}.ckpt" to have it in there',
    "every_n_train_steps": "give save_freq=100",
    "train_time_interval": "give save_freq=timedelta(...)",
    "every_n_epochs": "give period=2",
    "save_on_train_epoch_end": "it saves at the end of epochs, and after a validation inside of one",
    "enable_version_counter": "every checkpoint is kept, also where a file of the same name takes the place of another",
}
"""Argument of Lightning's `ModelCheckpoint` that is not supported to what to do instead."""


def refuse_others(given: Mapping[str, object]) -> None:
    """Refuse unsupported arguments.

    Raises:
        InvalidInput: it is an argument of `ModelCheckpoint`; says what to give instead.
        TypeError: nothing has such an argument; the message is Python's.
    """
    for name in given:
        if name in OF_MODEL_CHECKPOINT:
            raise InvalidInput(f"{name} is an argument of ModelCheckpoint: {OF_MODEL_CHECKPOINT[name]}")
        raise TypeError(f"ReplicateCallback got an unexpected keyword argument {name!r}")


def check_params(params: object) -> dict[str, object]:
    """Check hyperparameters, which may be None. Raises `InvalidInput`."""
    if isinstance(params, str):
        raise InvalidInput(
            "params must be a dictionary, got str. The dirpath and filename of ModelCheckpoint are one path here, "
            "filepath; a metric is primary_metric"
        )
    return adapters.check_params(params)


def check_save_freq(save_freq: object) -> str | int | timedelta:
    """Check when to save. Raises `InvalidInput`."""
    if save_freq in (EPOCH, AUTO) and isinstance(save_freq, str):
        return save_freq
    if isinstance(save_freq, timedelta) and save_freq > timedelta():
        return save_freq
    if (number := whole_from_1(save_freq)) is not None:
        return number
    raise InvalidInput(
        f'save_freq must be "epoch", "auto", a number of training steps from 1, or a timedelta, got {save_freq!r}'
    )
