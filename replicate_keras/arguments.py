"""Arguments of the callback: what can be taken, and what is meant where nothing is said."""

from __future__ import annotations

import operator
import re
from contextlib import suppress

from replicate_core import InvalidInput, PrimaryMetric

AUTO = "auto"
EPOCH = "epoch"

DEFAULT_OVERHEAD = 0.05

_MORE_IS_BETTER = re.compile(r"acc|auc|f1|f_?beta|fscore|precision|recall|iou|dice|r2|similarity")
_LESS_IS_BETTER = re.compile(r"loss|err|mse|mae|mape|msle|rmse|crossentropy|divergence|perplexity|hinge|poisson")


def check_save_freq(save_freq: object) -> str | int:
    """Check when to save. Raises `InvalidInput`."""
    if save_freq in (EPOCH, AUTO) and isinstance(save_freq, str):
        return save_freq
    with suppress(TypeError):
        if not isinstance(save_freq, bool) and (number := operator.index(save_freq)) > 0:  # type: ignore[arg-type]  # np.int64 is one
            return number
    raise InvalidInput(f'save_freq must be "epoch", "auto", or a number of batches from 1, got {save_freq!r}')


def check_overhead(max_overhead: float | None, save_freq: str | int) -> float:
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


class Best:
    """What is monitored, and the best value of it so far.

    Args:
        monitor: the name of a metric; None: that of `primary_metric`, else `"val_loss"`, as in Keras.
        mode: `"min"`, `"max"`, or `"auto"`: as `primary_metric` says, else as the name does.
        primary_metric: as the callback was given it.
        threshold: the value to be better than from the beginning.

    Raises:
        InvalidInput: the mode is none, or can't be told from the name.
    """

    def __init__(
        self, monitor: str | None, mode: str, primary_metric: PrimaryMetric | None, threshold: float | None
    ) -> None:
        if mode not in ("auto", "min", "max"):
            raise InvalidInput(f'mode must be "auto", "min" or "max", got {mode!r}')
        if monitor is not None and not isinstance(monitor, str):
            raise InvalidInput(f"monitor must be the name of a metric, got {monitor!r}")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float, type(None))):
            raise InvalidInput(f"initial_value_threshold must be a number, got {threshold!r}")
        self.monitor = monitor or (primary_metric.name if primary_metric else "val_loss")
        if mode == "auto" and primary_metric is not None and primary_metric.name == self.monitor:
            mode = "min" if primary_metric.goal == "minimize" else "max"
        self._mode = mode
        self.value = threshold

    def improves(self, value: object) -> bool:
        """Tell whether a value is better than all before, and remember it then. NaN, and what is no number, is not."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124  # NaN
            return False
        is_better = self.value is None or (value < self.value if self.is_less_better else value > self.value)
        if is_better:
            self.value = float(value)
        return is_better

    @property
    def is_less_better(self) -> bool:
        """Whether a lower value is better.

        Raises:
            InvalidInput: that can't be told from the name of the metric.
        """
        if self._mode != "auto":
            return self._mode == "min"
        if _MORE_IS_BETTER.search(self.monitor):
            return False
        if _LESS_IS_BETTER.search(self.monitor):
            return True
        raise InvalidInput(f'can\'t tell whether {self.monitor!r} is better high or low: give mode="max" or mode="min"')
