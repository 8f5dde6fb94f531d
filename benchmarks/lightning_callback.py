"""What the Lightning callback costs the training: beside stock `ModelCheckpoint`, and beside no callback, in one run.

    python benchmarks/lightning_callback.py [--small]

Each round trains the same module by turns with one callback after the other. What counts are the ratios, and the goals
beside them: times are medians of one run, on one machine. TMPDIR says which disk.
"""

from __future__ import annotations

import argparse
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
from pytorch_lightning.loggers import CSVLogger
from side_by_side import MEGABYTE, note, row, seconds_of, title, warm_memory

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    units: tuple[int, ...]
    """Of the two layers of each module."""
    rounds: int
    steps: int
    """Of trainings of a small module."""


FULL = Size((1000, 3000), 7, 200)
SMALL = Size((300,), 2, 20)


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


def seconds_of_fit(units: int, *callbacks: pl.Callback, steps: int = 1, logger: Any = False) -> float:
    trainer = pl.Trainer(
        max_epochs=1,
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
    """The other's turn is not to pay for storing."""
    while any(Path(".replicate/spool").glob("*/files/*")):
        time.sleep(0.02)


def every_epoch(size: Size) -> None:
    """`save_freq="epoch"` of a module that takes long to save, and has little to learn from."""
    title("an epoch with a save", "replicate", "Lightning")
    for units in size.units:
        experiment = replicate.init(path=None)
        stored = Stopwatch(experiment.checkpoint)
        experiment.checkpoint = stored  # type: ignore[method-assign]
        fits: tuple[list[float], list[float]] = ([], [])
        saves: tuple[list[float], list[float]] = ([], [])
        blocked: list[float] = []
        megabytes = 0
        for number in range(-1, size.rounds):  # the first one makes the files, and does not count
            for mine in (True, False) if number % 2 else (False, True):
                callback = ReplicateCallback("ours.ckpt", experiment=experiment) if mine else stock_callback()
                hook = "after_epoch" if mine else "on_train_epoch_end"
                watch = Stopwatch(getattr(callback, hook))
                setattr(callback, hook, watch)
                stored.seconds = 0.0
                warm_memory(4 * megabytes)
                seconds = seconds_of_fit(units, callback)
                if number < 0:
                    continue
                fits[not mine].append(seconds)
                saves[not mine].append(watch.seconds)
                if mine:
                    blocked.append(stored.seconds)
            megabytes = Path("ours.ckpt").stat().st_size // MEGABYTE
            wait_until_stored()
        row(f"{megabytes} MB: fit", *fits, "<= 1.0", unit="s")
        row(f"{megabytes} MB: the callback", *saves, "<= 1.1")
        row(f"{megabytes} MB: blocked by checkpoint(), beside Lightning's save", blocked, saves[1])
        experiment.stop()


def every_second_step(size: Size) -> None:
    """Many checkpoints of a small module, and many metrics."""
    saved, logged = replicate.init(path=None), replicate.init(path=None)
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: {"callback": ReplicateCallback(save_freq=2, experiment=saved)},
        "stock": lambda: {"callback": stock_callback(every_n_train_steps=2)},
        "none": dict,
        "our logger": lambda: {"logger": ReplicateLogger(experiment=logged)},
        "CSV logger": lambda: {"logger": CSVLogger("csv")},
    }
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
    size = SMALL if parser.parse_args().small else FULL
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"Lightning {pl.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        os.environ["REPLICATE_CACHE"] = str(Path(room) / "cache")
        project = Path(room) / "project"
        project.mkdir()
        (project / "replicate.yaml").write_text("storage: ../storage\nquiet: true\n")
        (project / ".replicateignore").write_text("*.ckpt\n")  # what others saved is no code
        os.chdir(project)
        every_epoch(size)
        every_second_step(size)
        os.chdir("/")


if __name__ == "__main__":
    main()
