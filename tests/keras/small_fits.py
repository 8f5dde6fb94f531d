"""Small models that are trained for an epoch or a few, end early, and go on."""

from __future__ import annotations

import keras
import numpy as np

import replicate
from replicate.keras_callback import ReplicateCallback


class Breaking(keras.callbacks.Callback):
    """Ends a training in its third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("broken")


def new_model(*, is_built: bool = True, **options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers] if is_built else layers)
    model.compile(**{"optimizer": "adam", "loss": "mse"} | options)
    return model


def fit(
    data: tuple[np.ndarray, ...],
    epochs: int,
    *more: keras.callbacks.Callback,
    model: keras.Model | None = None,
    **options: object,
) -> replicate.Experiment:
    """Train; returns the experiment, with the epochs that were trained now, and the weights that it ended with.

    What has the same name already is extended: a finished run is resumed by its id only.
    """
    options = {"filepath": "model.keras", "name": "sums"} | options
    options.setdefault("resume", latest(options["name"]))
    callback = ReplicateCallback(save_weights_only=options["filepath"].endswith(".weights.h5"), **options)
    model = new_model() if model is None else model
    history = model.fit(*data, batch_size=10, epochs=epochs, verbose=0, callbacks=[callback, *more])
    callback.experiment.epochs = history.epoch
    callback.experiment.weights = model.get_weights()
    return callback.experiment


def latest(name: str) -> str:
    """The id of the latest experiment of a name, to extend it; "auto" where there is none."""
    found = [experiment.id for experiment in replicate.experiments.list() if experiment.name == name]
    return found[-1] if found else "auto"


def assert_equal(one: replicate.Experiment, other: replicate.Experiment) -> None:
    for left, right in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(left, right)
