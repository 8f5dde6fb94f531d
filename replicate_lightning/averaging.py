"""Lightning's callbacks that average weights: what `fit` returns is then not what the last step has trained.

`StochasticWeightAveraging` puts the average into the module when its last epoch is over, and passes once more over the
data where there is BatchNorm. `WeightAveraging` and `EMAWeightAveraging` do so when training ends; each checkpoint of
theirs holds both, the average as the weights that are loaded.
"""

from __future__ import annotations

import math
from typing import Any

from replicate_lightning.namespaces import is_a

NAMES = ("StochasticWeightAveraging", "WeightAveraging")
"""The classes; the others inherit from these."""


def averages(trainer: Any) -> Any:
    """The callback that averages, of either namespace; None if none does."""
    return next((one for one in trainer.callbacks if is_a(one, *NAMES)), None)


def averaged_by(trainer: Any, *, is_over: bool) -> str | None:
    """The name of the callback whose average is in the module now; None where that is what the steps have trained.

    Args:
        trainer: whose module it is.
        is_over: whether training is over, and all callbacks have been told so.
    """
    callback = averages(trainer)
    if callback is None:
        return None
    if is_a(callback, "WeightAveraging"):
        return type(callback).__name__ if is_over else None
    is_in = is_over if callback.swa_end == math.inf else trainer.current_epoch > callback.swa_end
    return type(callback).__name__ if is_in else None


def is_in_every_checkpoint(trainer: Any) -> bool:
    """Whether the callback saves its average as the weights of each checkpoint."""
    return is_a(averages(trainer), "WeightAveraging")


def epochs(trainer: Any) -> int:
    """How many epochs are trained before the average is put into the module; -1 where that is not limited."""
    end = getattr(averages(trainer), "swa_end", None)
    if end is None:
        return -1 if trainer.max_epochs is None else int(trainer.max_epochs)
    return -1 if end == math.inf else int(end) + 1


def finish(trainer: Any) -> None:
    """Put the average into the module, where training was killed after its last epoch and before that was done.

    Lightning tells no callback of the end of a training that has nothing left to do.
    """
    callback = averages(trainer)
    last = getattr(callback, "swa_end", math.inf)
    if callback is not None and last in (math.inf, trainer.current_epoch - 1):
        callback.on_train_end(trainer, trainer.lightning_module)
