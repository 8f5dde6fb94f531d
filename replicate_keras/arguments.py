"""Arguments of the callback: their checks and defaults."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

from replicate_core import InvalidInput, PrimaryMetric, adapters
from replicate_core.adapters import AUTO, EPOCH, whole_from_1

_MORE_IS_BETTER = re.compile(r"acc|auc|f1|f_?beta|fscore|precision|recall|iou|dice|r2|similarity")
_LESS_IS_BETTER = re.compile(r"loss|err|mse|mae|mape|msle|rmse|crossentropy|divergence|perplexity|hinge|poisson")


def check_params(params: object) -> None:
    """Check hyperparameters, which may be None. Raises `InvalidInput`."""
    if isinstance(params, str):
        raise InvalidInput(
            f"params must be a dictionary, got {params!r}. What ModelCheckpoint takes as its second argument is given "
            f"by name here: monitor={params!r}"
        )
    adapters.check_params(params)


def check_verbose(verbose: object) -> bool:
    """Return whether to print what is saved and what is not. Raises `InvalidInput`."""
    if isinstance(verbose, (bool, int)) and verbose >= 0:
        return verbose > 0
    raise InvalidInput(f"verbose must be 0 or 1, got {verbose!r}")


def check_options(options: object) -> None:
    """Refuse an argument that `ModelCheckpoint` had before Keras 3. Raises `InvalidInput`."""
    if options is not None:
        raise InvalidInput(
            "options are those of TensorFlow's own formats (SaveOptions, CheckpointOptions), which Keras 3 does not "
            "save to: leave options out"
        )


def check_save_freq(save_freq: object) -> str | int:
    """Check when to save. Raises `InvalidInput`."""
    if save_freq in (EPOCH, AUTO) and isinstance(save_freq, str):
        return save_freq
    if (number := whole_from_1(save_freq)) is not None:
        return number
    hint = ""
    if isinstance(save_freq, str) and (found := re.fullmatch(r"\s*(\d+)\s*epochs?\s*", save_freq)):
        hint = f". After every {found[1]} epochs: period={found[1]}"
    raise InvalidInput(f'save_freq must be "epoch", "auto", or a number of batches from 1, got {save_freq!r}{hint}')


def _is_real(value: object) -> bool:
    """Tell whether a value is a real number, of any library: `np.float32` is one."""
    return not isinstance(value, bool) and isinstance(value, Real)


class Best:
    """The monitored metric and its best value so far.

    Args:
        monitor: the name of a metric; None: that of `primary_metric`, else `"val_loss"`, as in Keras.
        mode: `"min"`, `"max"`, or `"auto"`: decided by `primary_metric`, else by the name of the metric.
        primary_metric: the callback's argument.
        threshold: the initial best value; None: any first value is the best.

    Raises:
        InvalidInput: an argument is invalid.
    """

    def __init__(self, monitor: str | None, mode: str, primary_metric: PrimaryMetric | None, threshold: Any) -> None:
        if mode not in ("auto", "min", "max"):
            raise InvalidInput(f'mode must be "auto", "min" or "max", got {mode!r}')
        if monitor is not None and not isinstance(monitor, str):
            raise InvalidInput(f"monitor must be the name of a metric, got {monitor!r}")
        if threshold is not None and not _is_real(threshold):
            raise InvalidInput(f"initial_value_threshold must be a number, got {threshold!r}")
        self.monitor = monitor or (primary_metric.name if primary_metric else "val_loss")
        if mode == "auto" and primary_metric is not None and primary_metric.name == self.monitor:
            mode = "min" if primary_metric.goal == "minimize" else "max"
        self._mode = mode
        self.value: float | None = None if threshold is None else float(threshold)

    def improves(self, value: float) -> bool:
        """Tell whether a number is the best so far, and keep it if so. NaN never is."""
        if value != value:  # noqa: PLR0124  # NaN
            return False
        is_better = self.value is None or (value < self.value if self.is_less_better else value > self.value)
        if is_better:
            self.value = float(value)
        return is_better

    @property
    def is_less_better(self) -> bool:
        """Whether a lower value is better.

        Raises:
            InvalidInput: the name of the metric does not tell.
        """
        if self._mode != "auto":
            return self._mode == "min"
        if _MORE_IS_BETTER.search(self.monitor):
            return False
        if _LESS_IS_BETTER.search(self.monitor):
            return True
        raise InvalidInput(f'can\'t tell whether {self.monitor!r} is better high or low: give mode="max" or mode="min"')
