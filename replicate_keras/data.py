"""Where `fit` is in its data: what was drawn before a restart is drawn again, so that it goes on as it would have.

A shuffled `tf.data` pipeline, a generator, a loader with a random state of its own are somewhere after a number of
epochs, and none of them can be told to go there: but all come there by being drawn from. `fit` does that by an object
which stands in its frame; it is used here just as `fit` uses it.
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
"""How long to draw again what was drawn before a restart."""


@dataclass(frozen=True)
class Fit:
    """A call of `fit` that is just beginning.

    Attributes:
        data: what it was given as `x`.
        epochs: the object that it draws batches from, epoch by epoch.
        initial_epoch: the one that it was told to begin with.
        has_steps: whether it was told how many steps an epoch has.
        validation_freq: after every how many epochs, or after which, it validates.
    """

    data: Any
    epochs: Any
    initial_epoch: int
    has_steps: bool
    validation_freq: Any

    def validates(self, epoch: int) -> bool:
        """Whether it validates after this epoch, if it validates at all."""
        frequency = self.validation_freq
        return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency

    def draw_again(self, until: int) -> bool:
        """Draw what was drawn in the epochs before `until`; returns whether there was time enough for it."""
        give_up_at = time.monotonic() + MAX_SECONDS
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            return all(self._draw_epoch(give_up_at) for _ in range(self.initial_epoch, until))

    def _draw_epoch(self, give_up_at: float) -> bool:
        with self.epochs.catch_stop_iteration():
            for first, last, drawn in self.epochs:
                if not isinstance(drawn, list):  # it is an iterator then, and nothing is drawn yet
                    _draw(drawn, last - first + 1)
                if time.monotonic() > give_up_at:
                    self.epochs.reset()
                    return False
        return True

    @property
    def remembers(self) -> bool:
        """Whether the data depends on what was drawn before, by more than the global random states."""
        data = self.data
        if self.has_steps:  # epochs do not begin where the data begins
            return True
        if isinstance(data, keras.utils.PyDataset):
            if has_random_state(data) or any(isinstance(value, keras.Layer) for value in vars(data).values()):
                return True
            hooks = ("on_epoch_begin", "on_epoch_end")
            return any(getattr(type(data), hook) is not getattr(keras.utils.PyDataset, hook) for hook in hooks)
        kinds = [f"{base.__module__}.{base.__name__}" for base in type(data).__mro__]
        if any(kind.startswith("grain.") for kind in kinds):
            return False  # each epoch begins it anew
        if any(kind.startswith("torch.utils.data.") and kind.endswith(".DataLoader") for kind in kinds):
            return _loader_remembers(data)
        is_pipeline = any(kind.startswith("tensorflow.python.") and "Dataset" in kind for kind in kinds)
        return is_pipeline or inspect.isgenerator(data) or data is self.epochs.data_adapter


def _draw(iterator: Any, number: int) -> None:
    """Draw so many batches, or as many as are left; none at all is the end, as it is for `fit`."""
    for index in range(number):
        try:
            next(iterator)
        except StopIteration:
            if index == 0:
                raise
            return


def _loader_remembers(loader: Any) -> bool:
    """Whether a loader of torch draws from anything but torch's global random state."""
    torch = sys.modules["torch"]
    kinds = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
    return (
        any(map(has_random_state, (loader, loader.sampler, loader.dataset)))
        or loader.persistent_workers  # their random states go on from epoch to epoch
        or type(loader.sampler) not in kinds
        or type(loader.batch_sampler).__module__ != kinds[0].__module__
    )


def current_fit(model: Any) -> Fit | None:
    """The call of `fit` in whose course this is called; None in a loop of the user's own."""
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
