"""Train a Keras model on handwritten digits twice, find the better run, and load its best model.

    python keras_digits.py

The data, 1,797 images of 8x8 pixels, comes with scikit-learn. Keras needs a backend: TensorFlow, JAX or torch.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if "KERAS_BACKEND" not in os.environ:  # take the first backend that is installed
    os.environ["KERAS_BACKEND"] = next(
        name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)
    )

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import replicate
from replicate.keras_callback import ReplicateCallback

EPOCHS = 8


def data() -> list:
    images, digits = load_digits(return_X_y=True)
    return train_test_split(images.astype("float32") / 16.0, digits, test_size=0.25, random_state=0)


def train(learning_rate: float) -> replicate.Experiment:
    keras.utils.set_random_seed(0)
    x_train, x_val, y_train, y_val = data()
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    callback = ReplicateCallback(
        filepath="model.keras",
        params={"learning_rate": learning_rate, "epochs": EPOCHS, "hidden_units": 64},
        primary_metric=("val_accuracy", "maximize"),
    )
    model.fit(x_train, y_train, epochs=EPOCHS, validation_data=(x_val, y_val), verbose=0, callbacks=[callback])
    return callback.experiment


def run(*command: str) -> None:
    print("\n$ replicate", *command, flush=True)
    subprocess.run([sys.executable, "-m", "replicate", *command], check=True)


def main() -> None:
    experiments = [train(learning_rate) for learning_rate in (0.0001, 0.01)]

    run("ls")
    better = max(experiments, key=lambda experiment: experiment.best().metrics["val_accuracy"])
    run("show", better.short_id)
    run("checkout", better.short_id, "-o", "best", "--force")

    recorded = better.best().metrics["val_accuracy"]
    _, x_val, _, y_val = data()
    model = keras.models.load_model(Path("best") / "model.keras")
    measured = model.evaluate(x_val, y_val, verbose=0, return_dict=True)["accuracy"]
    print(f"\nbest/model.keras: validation accuracy {measured:.6f}, recorded was {recorded:.6f}")
    if abs(measured - recorded) > 1e-6:
        sys.exit("The model that came back is not the one that was saved.")


if __name__ == "__main__":
    main()
