"""Measures what the Keras callback costs a training, compared to Keras' `ModelCheckpoint` and to no callback.

    KERAS_BACKEND=jax python benchmarks/keras_callback.py [--small]

Each training is a process of its own, with one callback and the other in turns. The process measures `fit`; the
benchmark measures the whole process. What counts are the ratios of the pairs, median and range, compared to the goals.
Measure on an idle machine; TMPDIR selects the disk.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from side_by_side import compare_saves, note, row, seconds_of, title

import replicate
from replicate.keras_callback import ReplicateCallback


@dataclass(frozen=True)
class Size:
    """How much to measure."""

    trainings: tuple[tuple[int, int, float], ...]
    """Units of the two hidden layers, number of epochs, and seconds of computing in each epoch."""
    pairs: int
    example_epochs: int
    """Number of epochs, each of 235 batches with a checkpoint after every second one; the specification has 20."""
    example_rounds: int


FULL = Size(((1486, 6, 1.0), (4133, 5, 4.6)), 5, 20, 3)
SMALL = Size(((300, 2, 0.1),), 1, 1, 1)


def seconds_of_fit(model: keras.Model, data: tuple[np.ndarray, ...], *callbacks: Any, **options: Any) -> float:
    return seconds_of(lambda: model.fit(*data, verbose=0, callbacks=list(callbacks), **options))


def one(kind: str, units: int, epochs: int, seconds: float) -> float:
    """Train with one callback; returns the seconds that `fit` took."""
    layer = keras.layers.Dense
    model = keras.Sequential([keras.Input((units,)), layer(units), layer(units), layer(1)])
    model.compile("adam", "mse")
    data = (np.ones((64, units), "float32"), np.ones((64, 1), "float32"))
    model.train_on_batch(*data)  # compilation is not measured
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: compute(seconds))
    saver = ReplicateCallback("model.keras") if kind == "replicate" else keras.callbacks.ModelCheckpoint("model.keras")
    return seconds_of_fit(model, data, begin, saver, batch_size=64, epochs=epochs)


def compute(seconds: float) -> None:
    """Keep a processor busy for a number of seconds."""
    end, matrix = time.perf_counter() + seconds, np.ones((500, 500), "float32")
    while time.perf_counter() < end:
        matrix @ matrix


def every_epoch(size: Size) -> None:
    """Measure `save_freq="epoch"` with `.keras`, in turns with Keras' own callback, one process a training."""
    title("a training that saves in every epoch, as .keras", "replicate", "Keras")
    compare_saves(__file__, size.trainings, size.pairs)


def example(size: Size) -> None:
    """Measure the specification's example in full size, with random arrays of MNIST's shape."""
    rng = np.random.default_rng(0)
    images = rng.random((60_000, 784), "float32")
    data = (images, rng.integers(0, 10, 60_000).astype("float32"))
    times: dict[str, list[float]] = {"ours": [], "stock": [], "none": []}
    for _ in range(size.example_rounds):
        for name, seconds in times.items():
            model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(1)])
            model.compile(keras.optimizers.RMSprop(0.01), "mean_squared_error", metrics=["mean_absolute_error"])
            callbacks = {
                "ours": lambda: [ReplicateCallback(primary_metric=("mean_absolute_error", "minimize"), save_freq=2)],
                "stock": lambda: [keras.callbacks.ModelCheckpoint("stock.keras", save_freq=2)],
                "none": list,
            }[name]()
            options = {"batch_size": 128, "epochs": size.example_epochs, "validation_split": 0.5}
            seconds.append(seconds_of_fit(model, data, *callbacks, **options))
    title("the specification's example: a checkpoint every 2 batches", "replicate", "other")
    row("beside Keras' ModelCheckpoint, as .keras", times["ours"], times["stock"], unit="s")
    row("beside no callback", times["ours"], times["none"], unit="s")
    experiment = replicate.experiments.list()[-1]
    count = len(experiment.checkpoints)
    took = (times["ours"][-1] - times["none"][-1]) / count
    note(
        f"{count} checkpoints; each held the training up for {took * 1e3:.2f} ms, of which checkpoint() took "
        f"{experiment.blocked.total_seconds() / count * 1e3:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="less of everything: to see whether it runs")
    parser.add_argument("--one", nargs=4, help="what each process is called with")
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    logging.getLogger("absl").setLevel(logging.ERROR)  # Keras advises against .hdf5 at every save
    if options.one:
        kind, units, epochs, seconds = options.one
        print(one(kind, int(units), int(epochs), float(seconds)))
        return
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    every_epoch(size)
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        os.environ["REPLICATE_CACHE"] = str(Path(room) / "cache")
        project = Path(room) / "project"
        project.mkdir()
        (project / "replicate.yaml").write_text("storage: ../storage\nquiet: true\n")
        (project / ".replicateignore").write_text("*.keras\n*.hdf5\n*.h5\n")  # other callbacks' files are not code
        os.chdir(project)
        example(size)
        os.chdir("/")


if __name__ == "__main__":
    main()
