"""A Keras training that resumes after a kill: run it, kill it at any moment, run it again.

    python keras_resume.py           # kill -9 it, and start it again, as often as you like
    replicate ls

The model ends with the same weights, bit for bit, as one that was never killed, despite dropout, shuffling and a
learning rate that decreases. The data comes with scikit-learn. Keras needs a backend: TensorFlow, JAX or torch.
"""

import argparse
import hashlib
import importlib.util
import os

if "KERAS_BACKEND" not in os.environ:  # take the first backend that is installed
    os.environ["KERAS_BACKEND"] = next(
        name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)
    )

import keras
from sklearn.datasets import load_digits

from replicate.keras_callback import ReplicateCallback


def train(epochs: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    images, digits = load_digits(return_X_y=True)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        images.astype("float32") / 16.0,
        digits,
        epochs=epochs,
        validation_split=0.25,
        verbose=2,
        callbacks=[
            ReplicateCallback(
                "model.keras",
                params={"optimizer": "adam", "hidden_units": 64},
                primary_metric=("val_loss", "minimize"),
                name="digits",
                keep_best=1,
                resume="auto",  # resuming needs nothing else
            ),
            keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.05),
        ],
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    model = train(parser.parse_args().epochs)
    weights = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights()))
    print(f"sha256 of all weights: {weights.hexdigest()}")


if __name__ == "__main__":
    main()
