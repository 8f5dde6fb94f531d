"""The specification's own example, with arrays of MNIST's shape in place of the download: nothing else is changed."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback


class MyLogger(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


def load_data():
    rng = np.random.default_rng(0)
    images, digits = rng.integers(0, 256, (70_000, 28, 28), "uint8"), rng.integers(0, 10, 70_000, "uint8")
    return (images[:60_000], digits[:60_000]), (images[60_000:], digits[60_000:])


# Keras' own advice about `input_dim`, which the example uses.
@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")
def test_the_example_of_the_specification_runs_and_records_what_it_says(project: Path) -> None:
    dense_size = 784
    learning_rate = 0.01

    model = keras.Sequential()
    model.add(keras.layers.Dense(1, input_dim=dense_size))
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=learning_rate),
        loss="mean_squared_error",
        metrics=["mean_absolute_error"],
    )

    (x_train, y_train), (x_test, _) = load_data()
    x_train = x_train.reshape(-1, 784).astype("float32") / 255.0
    x_test = x_test.reshape(-1, 784).astype("float32") / 255.0

    logger = MyLogger()
    model.fit(
        x_train[:1000],
        y_train[:1000],
        batch_size=128,
        epochs=20,
        validation_split=0.5,
        callbacks=[
            logger,
            ReplicateCallback(
                params={
                    "dense_size": dense_size,
                    "learning_rate": learning_rate,
                },
                primary_metric=("mean_absolute_error", "minimize"),
                save_freq=2,
            ),
        ],
        verbose=0,
    )

    (experiment,) = replicate.experiments.list()
    assert experiment.params == {"dense_size": 784, "learning_rate": 0.01}
    assert experiment.status == "finished"
    assert logger.batches == 4 * 20
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == list(range(2, 81, 2))
    last = experiment.latest()
    assert last.path == "model.hdf5"
    assert set(last.metrics) == {"loss", "mean_absolute_error"}
    assert last.primary_metric == ("mean_absolute_error", "minimize")
    assert experiment.best().metrics["mean_absolute_error"] == min(
        checkpoint.metrics["mean_absolute_error"] for checkpoint in experiment.checkpoints
    )

    shown = subprocess.run(
        [sys.executable, "-m", "replicate", "show", experiment.short_id, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(json.loads(shown.stdout)["checkpoints"]) == 40

    last.checkout(project / "back")
    reference = model.predict(x_test[:16], verbose=0)
    model.load_weights(project / "back" / "model.hdf5")
    np.testing.assert_array_equal(model.predict(x_test[:16], verbose=0), reference)
