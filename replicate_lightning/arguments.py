"""Arguments of the callback: what can be taken, and what is meant where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from replicate_core import AUTO, InvalidInput, whole_from_1

EPOCH = "epoch"


def check_params(params: object) -> dict[str, object]:
    """Check hyperparameters, of which there may be none. Raises `InvalidInput`."""
    if params is None or isinstance(params, Mapping):
        return dict(params or {})
    hint = ". Did you mean vars(...)?" if hasattr(params, "__dict__") else ""
    raise InvalidInput(f"params must be a dictionary, got {type(params).__name__}{hint}")


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


def check_period(period: object, save_freq: str | int | timedelta) -> int:
    """Check after every how many epochs to save. Raises `InvalidInput`."""
    if (number := whole_from_1(period)) is None:
        raise InvalidInput(f"period must be a number of epochs from 1, got {period!r}")
    if number != 1 and save_freq != EPOCH:
        raise InvalidInput(f'period counts epochs, for save_freq="epoch", got save_freq={save_freq!r}')
    return number
