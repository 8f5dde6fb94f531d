"""Measures what the Lightning callback costs a training, compared to `ModelCheckpoint` and to no callback.

    python benchmarks/lightning_callback.py [--small]

Each training that saves in every epoch is a process of its own, with one callback and the other in turns; trainings of
small modules share a process. What counts are the ratios of the pairs, median and range, compared to the goals. Measure
on an idle machine; TMPDIR selects the disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from side_by_side import compare_saves, note, row, seconds_of, title

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger


@dataclass(frozen=True)
class Size:
    """How much to measure."""

    trainings: tuple[tuple[int, int, float], ...]
    """Units of the two layers, number of epochs, and seconds of computing in each epoch."""
    pairs: int
    rounds: int
    steps: int
    """Number of steps of a training of a small module."""


FULL = Size(((1486, 6, 1.0), (4133, 5, 4.6)), 5, 7, 200)
SMALL = Size(((300, 2, 0.1),), 1, 1, 20)


class Module(pl.LightningModule):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(units, units), torch.nn.Linear(units, units))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.net(batch).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def seconds_of_fit(units: int, *callbacks: pl.Callback, steps: int = 1, epochs: int = 1, logger: Any = False) -> float:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    loader = torch.utils.data.DataLoader(torch.ones(16 * steps, units), batch_size=16)
    module = Module(units)
    return seconds_of(lambda: trainer.fit(module, loader))


def stock_callback(**options: Any) -> pl.callbacks.ModelCheckpoint:
    return pl.callbacks.ModelCheckpoint("stock", filename="model", enable_version_counter=False, **options)


def wait_until_stored() -> None:
    """Wait until everything is stored, so that the next measurement does not include it."""
    while any(Path(".replicate/spool").glob("*/files/*")):
        time.sleep(0.02)


def one(kind: str, units: int, epochs: int, seconds: float) -> float:
    """Train with one callback; returns the seconds that `fit` took."""
    callback = ReplicateCallback("model.ckpt") if kind == "replicate" else stock_callback()
    return seconds_of_fit(units, Work(seconds), callback, epochs=epochs)


class Work(pl.Callback):
    """Keeps a processor busy for a number of seconds in each epoch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_epoch_start(self, *_: Any) -> None:
        end, matrix = time.perf_counter() + self._seconds, torch.ones(500, 500)
        while time.perf_counter() < end:
            matrix @ matrix


def every_epoch(size: Size) -> None:
    """Measure `save_freq="epoch"`, in turns with Lightning's own callback, each training in its own process."""
    title("a training that saves in every epoch", "replicate", "Lightning")
    compare_saves(__file__, size.trainings, size.pairs)


def every_second_step(size: Size) -> None:
    """Measure many checkpoints of a small module, and many metrics."""
    saved, logged = replicate.init(path=None), replicate.init(path=None)
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: {"callback": ReplicateCallback(save_freq=2, experiment=saved)},
        "stock": lambda: {"callback": stock_callback(every_n_train_steps=2)},
        "none": dict,
        "our logger": lambda: {"logger": ReplicateLogger(experiment=logged)},
        "CSV logger": lambda: {"logger": CSVLogger("csv")},
    }
    if importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX"):
        kinds["TensorBoard"] = lambda: {"logger": TensorBoardLogger("tensorboard")}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(size.rounds):
        for name in list(kinds)[:: 1 if number % 2 else -1]:
            made = kinds[name]()
            callbacks = [made["callback"]] if "callback" in made else []
            times[name].append(seconds_of_fit(64, *callbacks, steps=size.steps, logger=made.get("logger", False)))
            wait_until_stored()
    title(f"{size.steps} steps of a small module", "replicate", "other")
    row("a checkpoint every 2 steps, beside ModelCheckpoint", times["ours"], times["stock"], "<= 1.0", unit="s")
    row("a checkpoint every 2 steps, beside no callback", times["ours"], times["none"], unit="s")
    row("metrics of every step, beside CSVLogger", times["our logger"], times["CSV logger"], unit="s")
    if "TensorBoard" in times:
        row("metrics of every step, beside TensorBoard", times["our logger"], times["TensorBoard"], unit="s")
    row("metrics of every step, beside no logger", times["our logger"], times["none"], unit="s")
    for experiment in (saved, logged):
        experiment.stop()
    count = len(saved.checkpoints)
    held = (sum(times["ours"]) - sum(times["none"])) / count
    blocked = saved.blocked.total_seconds() / count  # type: ignore[union-attr]  # it has ended
    note(
        f"{count} checkpoints; each held the training up for {held * 1e3:.2f} ms, of which checkpoint() took "
        f"{blocked * 1e3:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="less of everything: to see whether it runs")
    parser.add_argument("--one", nargs=4, help="what each process is called with")
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if options.one:
        kind, units, epochs, seconds = options.one
        print(one(kind, int(units), int(epochs), float(seconds)))
        return
    print(f"Lightning {pl.__version__}, torch {torch.__version__}")
    every_epoch(size)
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        os.environ["REPLICATE_CACHE"] = str(Path(room) / "cache")
        project = Path(room) / "project"
        project.mkdir()
        (project / "replicate.yaml").write_text("storage: ../storage\nquiet: true\n")
        (project / ".replicateignore").write_text("*.ckpt\n")  # other callbacks' files are not code
        os.chdir(project)
        every_second_step(size)
        os.chdir("/")


if __name__ == "__main__":
    main()
