"""What the Keras callback costs the training: beside Keras' own `ModelCheckpoint`, and beside no callback, in one run.

    KERAS_BACKEND=jax python benchmarks/keras_callback.py [--small]

Each round trains the same model by turns with one callback after the other. What counts are the ratios, and the goals
beside them: times are medians of one run, on one machine. TMPDIR says which disk.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from side_by_side import MEGABYTE, note, row, seconds_of, title, warm_memory

import replicate
from replicate.keras_callback import ReplicateCallback


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    units: tuple[int, ...]
    """Of the two hidden layers of each model."""
    rounds: int
    example_epochs: int
    """Each has 235 batches, and a checkpoint after every second one: 20 make the specification's example."""
    example_rounds: int


FULL = Size((1000, 3000), 9, 20, 3)
SMALL = Size((300,), 2, 1, 1)


class Stopwatch:
    """Calls a function, and adds up how long it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*arguments, **named)
        finally:
            self.seconds += time.perf_counter() - began


def seconds_of_fit(model: keras.Model, data: tuple[np.ndarray, ...], *callbacks: Any, **options: Any) -> float:
    return seconds_of(lambda: model.fit(*data, verbose=0, callbacks=list(callbacks), **options))


def stock_callback(model: keras.Model, name: str) -> keras.callbacks.Callback:
    """What Keras has for it: its `ModelCheckpoint` takes no other name for a whole model than `.keras`."""
    if name == ".keras":
        return keras.callbacks.ModelCheckpoint(f"stock{name}")
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: model.save(f"stock{name}"))


def every_epoch(size: Size, name: str) -> None:
    """`save_freq="epoch"` of a model that takes long to save, and has little to learn from."""
    title(
        f"an epoch with a save, as {name}",
        "replicate",
        "Keras",
    )
    for units in size.units:
        layer = keras.layers.Dense
        model = keras.Sequential([keras.Input((units,)), layer(units), layer(units), layer(1)])
        model.compile("adam", "mse")
        data = (np.ones((64, units), "float32"), np.ones((64, 1), "float32"))
        experiment = replicate.init(path=None)
        stored = Stopwatch(experiment.checkpoint)
        experiment.checkpoint = stored  # type: ignore[method-assign]
        ours = ReplicateCallback(f"ours{name}", experiment=experiment)
        saving = Stopwatch(ours.on_epoch_end)
        ours.on_epoch_end = saving  # type: ignore[method-assign]
        stock = stock_callback(model, name)
        stock_saving = Stopwatch(stock.on_epoch_end)
        stock.on_epoch_end = stock_saving  # type: ignore[method-assign]
        for callback in (ours, stock):  # compile, and make the files once
            seconds_of_fit(model, data, callback)
        megabytes = Path(f"ours{name}").stat().st_size // MEGABYTE
        fits: tuple[list[float], list[float]] = ([], [])
        saves: tuple[list[float], list[float]] = ([], [])
        blocked: list[float] = []
        for number in range(size.rounds):
            for mine in (True, False) if number % 2 else (False, True):
                watch = saving if mine else stock_saving
                watch.seconds = stored.seconds = 0.0
                warm_memory(5 * megabytes)
                fits[not mine].append(seconds_of_fit(model, data, ours if mine else stock))
                saves[not mine].append(watch.seconds)
                if mine:
                    blocked.append(stored.seconds)
            while any(Path(".replicate/spool").glob("*/files/*")):  # Keras' turn is not to pay for storing
                time.sleep(0.02)
        row(f"{megabytes} MB: fit", *fits, "<= 1.0", unit="s")
        row(f"{megabytes} MB: the callback", *saves, "<= 1.1")
        row(f"{megabytes} MB: blocked by checkpoint(), beside Keras' save", blocked, saves[1], "<= 0.1")
        experiment.stop()


def example(size: Size) -> None:
    """The specification's example at its full size, with arrays of MNIST's shape in place of the download."""
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
    size = SMALL if parser.parse_args().small else FULL
    logging.getLogger("absl").setLevel(logging.ERROR)  # Keras advises against .hdf5 at every save
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        os.environ["REPLICATE_CACHE"] = str(Path(room) / "cache")
        project = Path(room) / "project"
        project.mkdir()
        (project / "replicate.yaml").write_text("storage: ../storage\nquiet: true\n")
        (project / ".replicateignore").write_text("*.keras\n*.hdf5\n*.h5\n")  # what others saved is no code
        os.chdir(project)
        for name in (".keras", ".hdf5"):
            every_epoch(size, name)
        example(size)
        os.chdir("/")


if __name__ == "__main__":
    main()
