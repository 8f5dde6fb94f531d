"""Arguments of the callback: what can be taken, and what is meant where nothing is said."""

from __future__ import annotations

import re

from replicate_core import AUTO, InvalidInput, PrimaryMetric, whole_from_1

EPOCH = "epoch"

_MORE_IS_BETTER = re.compile(r"acc|auc|f1|f_?beta|fscore|precision|recall|iou|dice|r2|similarity")
_LESS_IS_BETTER = re.compile(r"loss|err|mse|mae|mape|msle|rmse|crossentropy|divergence|perplexity|hinge|poisson")


def check_save_freq(save_freq: object) -> str | int:
    """Check when to save. Raises `InvalidInput`."""
    if save_freq in (EPOCH, AUTO) and isinstance(save_freq, str):
        return save_freq
    if (number := whole_from_1(save_freq)) is not None:
        return number
    raise InvalidInput(f'save_freq must be "epoch", "auto", or a number of batches from 1, got {save_freq!r}')


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
