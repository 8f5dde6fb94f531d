"""Replays the data of `fit`: draws the batches from before a restart again, so that training resumes at the same place.

A shuffled `tf.data` pipeline, a generator, or a loader with a random state of its own has a position, which can't be
set: it can only be reached by drawing batches. `fit` draws them through an object in its stack frame. This module finds
that object and uses it in the same way.
"""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import keras

from replicate_core.adapters import has_random_state

MAX_SECONDS = 600.0
"""Maximum number of seconds for replaying data after a restart."""


@dataclass(frozen=True)
class Fit:
    """A call of `fit` that is starting.

    Attributes:
        data: the argument `x`.
        epochs: the object that yields the batches, epoch by epoch.
        initial_epoch: the argument `initial_epoch`.
        has_steps: whether `steps_per_epoch` was given.
        validation_freq: the argument `validation_freq`: validate after every n epochs, or after these epochs.
    """

    data: Any
    epochs: Any
    initial_epoch: int
    has_steps: bool
    validation_freq: Any

    def validates(self, epoch: int) -> bool:
        """Tell whether `fit` validates after this epoch, if it validates at all."""
        frequency = self.validation_freq
        return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency

    def replay(self, until: int) -> bool:
        """Draw the batches of the epochs before `until`; returns False if that took more than `MAX_SECONDS`."""
        give_up_at = time.monotonic() + MAX_SECONDS
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            return all(self._draw_epoch(give_up_at) for _ in range(self.initial_epoch, until))

    def _draw_epoch(self, give_up_at: float) -> bool:
        with self.epochs.catch_stop_iteration():
            for first, last, drawn in self.epochs:
                if not isinstance(drawn, list):  # it is an iterator, and nothing was drawn yet
                    _draw(drawn, last - first + 1)
                if time.monotonic() > give_up_at:
                    self.epochs.reset()
                    return False
        return True

    @property
    def is_stateful(self) -> bool:
        """Whether the next batches depend on earlier ones, other than through the global random states."""
        data = self.data
        if self.has_steps:  # an epoch need not begin at the beginning of the data
            return True
        if isinstance(data, keras.utils.PyDataset):
            if has_random_state(data) or any(isinstance(value, keras.Layer) for value in vars(data).values()):
                return True
            hooks = ("on_epoch_begin", "on_epoch_end")
            return any(getattr(type(data), hook) is not getattr(keras.utils.PyDataset, hook) for hook in hooks)
        kinds = [f"{base.__module__}.{base.__name__}" for base in type(data).__mro__]
        if any(kind.startswith("grain.") for kind in kinds):
            return False  # each epoch starts it from the beginning
        if any(kind.startswith("torch.utils.data.") and kind.endswith(".DataLoader") for kind in kinds):
            return _is_stateful_loader(data)
        is_pipeline = any(kind.startswith("tensorflow.python.") and "Dataset" in kind for kind in kinds)
        return is_pipeline or inspect.isgenerator(data) or data is self.epochs.data_adapter


def _draw(iterator: Any, number: int) -> None:
    """Draw `number` batches, or those that are left; raises `StopIteration` if none is, as `fit` expects."""
    for index in range(number):
        try:
            next(iterator)
        except StopIteration:
            if index == 0:
                raise
            return


def _is_stateful_loader(loader: Any) -> bool:
    """Tell whether a torch `DataLoader` depends on anything but torch's global random state."""
    torch = sys.modules["torch"]
    kinds = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
    return (
        any(map(has_random_state, (loader, loader.sampler, loader.dataset)))
        or loader.persistent_workers  # workers keep their random states between epochs
        or type(loader.sampler) not in kinds
        or type(loader.batch_sampler).__module__ != kinds[0].__module__
    )


def current_fit(model: Any) -> Fit | None:
    """Return the call of `fit` on the stack; None in a training loop of the user's own."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals
        if frame.f_code.co_name == "fit" and found.get("self") is model and "epoch_iterator" in found:
            return Fit(
                found["x"],
                found["epoch_iterator"],
                found["initial_epoch"],
                found["steps_per_epoch"] is not None,
                found.get("validation_freq", 1),
            )
        frame = frame.f_back
    return None
