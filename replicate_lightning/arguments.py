"""Arguments of the callback: what can be taken, and what is meant where nothing is said."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from replicate_core import InvalidInput, PrimaryMetric

AUTO = "auto"
EPOCH = "epoch"

DEFAULT_OVERHEAD = 0.05


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
    if (number := _whole_from_1(save_freq)) is not None:
        return number
    raise InvalidInput(
        f'save_freq must be "epoch", "auto", a number of training steps from 1, or a timedelta, got {save_freq!r}'
    )


def check_period(period: object, save_freq: str | int | timedelta) -> int:
    """Check after every how many epochs to save. Raises `InvalidInput`."""
    if (number := _whole_from_1(period)) is None:
        raise InvalidInput(f"period must be a number of epochs from 1, got {period!r}")
    if number != 1 and save_freq != EPOCH:
        raise InvalidInput(f'period counts epochs, for save_freq="epoch", got save_freq={save_freq!r}')
    return number


def check_overhead(max_overhead: float | None, save_freq: str | int | timedelta) -> float:
    """Check which share of the time saving may take. Raises `InvalidInput`."""
    if max_overhead is None:
        return DEFAULT_OVERHEAD
    if save_freq != AUTO:
        raise InvalidInput(f'max_overhead says when to save with save_freq="auto", got save_freq={save_freq!r}')
    if isinstance(max_overhead, bool) or not isinstance(max_overhead, (int, float)) or not 0 < max_overhead < 1:
        raise InvalidInput(f"max_overhead must be a share of the time between 0 and 1, got {max_overhead!r}")
    return float(max_overhead)


def check_keep(best: int | None, last: int | None, primary_metric: PrimaryMetric | None) -> dict[str, int]:
    """Check of how many checkpoints the files are to be kept; nothing stands for all. Raises `InvalidInput`."""
    given = {name: number for name, number in (("best", best), ("last", last)) if number is not None}
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidInput(f"keep_{name} must be a number of checkpoints from 1, got {number!r}")
    if best is not None and primary_metric is None:
        raise InvalidInput("keep_best needs primary_metric: by what would one be better than another?")
    return given


def _whole_from_1(value: object) -> int | None:
    with suppress(TypeError):
        if not isinstance(value, bool) and (number := operator.index(value)) > 0:  # type: ignore[arg-type]  # np.int64 is one
            return number
    return None
