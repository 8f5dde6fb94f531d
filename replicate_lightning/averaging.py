"""Lightning's callbacks that average weights: with them, `fit` returns other weights than those of the last step.

`StochasticWeightAveraging` puts the average into the module after its last epoch; if there is BatchNorm, it then passes
over the data once more. `WeightAveraging` and `EMAWeightAveraging` put it there when training ends. With these two,
each checkpoint holds both, and the average is what loading it gives.
"""

from __future__ import annotations

import math
from typing import Any

from replicate_lightning.namespaces import is_a

NAMES = ("StochasticWeightAveraging", "WeightAveraging")
"""Names of the classes that average; the others inherit from these."""


def averaging_callback(trainer: Any) -> Any:
    """Return the trainer's callback that averages, of either namespace; None if there is none."""
    return next((one for one in trainer.callbacks if is_a(one, *NAMES)), None)


def averaged_by(trainer: Any, *, is_over: bool) -> str | None:
    """Return the class name of the callback whose average is in the module; None if the trained weights are.

    Args:
        trainer: the trainer.
        is_over: whether training is over, and all callbacks have been called for that.
    """
    callback = averaging_callback(trainer)
    if callback is None:
        return None
    if is_a(callback, "WeightAveraging"):
        return type(callback).__name__ if is_over else None
    is_in = is_over if callback.swa_end == math.inf else trainer.current_epoch > callback.swa_end
    return type(callback).__name__ if is_in else None


def is_in_every_checkpoint(trainer: Any) -> bool:
    """Tell whether each checkpoint holds the average as its weights."""
    return is_a(averaging_callback(trainer), "WeightAveraging")


def epochs(trainer: Any) -> int:
    """Return the number of epochs before the average is put into the module; -1 if unlimited."""
    end = getattr(averaging_callback(trainer), "swa_end", None)
    if end is None:
        return -1 if trainer.max_epochs is None else int(trainer.max_epochs)
    return -1 if end == math.inf else int(end) + 1


def finish(trainer: Any) -> None:
    """Put the average into the module if training was killed after its last epoch, but before that happened.

    Lightning does not call `on_train_end` of callbacks if no epoch is left to train.
    """
    callback = averaging_callback(trainer)
    last = getattr(callback, "swa_end", math.inf)
    if callback is not None and last in (math.inf, trainer.current_epoch - 1):
        callback.on_train_end(trainer, trainer.lightning_module)
