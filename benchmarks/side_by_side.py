"""Shared by benchmarks that compare two things: tables of both and their ratio, runs in turns, and warm memory."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEGABYTE = 10**6


def title(text: str, mine: str, theirs: str) -> None:
    print(f"\n{text:56} {mine:>11} {theirs:>11} {'ratio':>7} {'of rounds':>15} {'goal':>8}", flush=True)


def row(what: str, mine: list[float], theirs: list[float], goal: str = "", *, unit: str = "ms") -> None:
    """Print the medians of both measurements, and the median and range of their ratios."""
    factor = {"s": 1, "ms": 1e3, "us": 1e6, "/s": 1}[unit]
    left, right = (f"{statistics.median(values) * factor:.4g} {unit}" for values in (mine, theirs))
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
    print(f"  {what:54} {left:>11} {right:>11} {statistics.median(ratios):7.3f} {spread:>15} {goal:>8}", flush=True)


def note(text: str) -> None:
    print(f"  {text}", flush=True)


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@dataclass
class Runs:
    """Measurements of one kind of training, each in its own process."""

    fit: list[float] = field(default_factory=list)
    """Seconds that `fit` took, measured by the process."""
    whole: list[float] = field(default_factory=list)
    """Seconds from the start of the process to its end."""


def by_turns(
    script: str, kinds: Sequence[str], arguments: Sequence[object], *, rounds: int, megabytes: int = 0
) -> dict[str, Runs]:
    """Run a script once for each kind in each round, in a new project; the order of kinds alternates.

    One more round, before the others, does not count.

    Args:
        script: a script that takes a kind and the arguments, and prints the seconds last.
        kinds: the kinds of runs.
        arguments: further arguments of the script.
        rounds: number of rounds that count.
        megabytes: size of the memory to warm before each run.
    """
    found = {kind: Runs() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as compiled:
        for number in range(-1, rounds):
            for kind in list(kinds)[:: 1 if number % 2 else -1]:
                warm_memory(megabytes)
                fit, whole = _run_apart(script, kind, arguments, compiled)
                if number >= 0:
                    found[kind].fit.append(fit)
                    found[kind].whole.append(whole)
    return found


def _run_apart(script: str, kind: str, arguments: Sequence[object], compiled: str) -> tuple[float, float]:
    """Run a script once, in a new project; returns the seconds that it prints, and those of the whole process."""
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        project = Path(room) / "project"
        project.mkdir()
        (project / "replicate.yaml").write_text("quiet: true\n")
        shutil.copy(script, project / "train.py")
        command = [sys.executable, "train.py", "--one", kind, *map(str, arguments)]
        here = os.pathsep.join([str(Path(script).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        told = {**os.environ, "PYTHONPATH": here, "REPLICATE_CACHE": f"{room}/cache", "PYTHONPYCACHEPREFIX": compiled}
        told.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles all modules, also the recorder's
        began = time.perf_counter()
        done = subprocess.run(command, cwd=project, env=told, stdout=subprocess.PIPE, check=True, text=True)
        whole = time.perf_counter() - began
        os.sync()  # the next run must not pay for this one
    return float(done.stdout.split()[-1]), whole


def compare_saves(script: str, trainings: Sequence[tuple[int, int, float]], pairs: int) -> None:
    """Print rows for trainings that save in every epoch, in turns with the stock callback, each in its own process.

    Args:
        script: as for `by_turns`, with the kinds `replicate` and `stock`.
        trainings: units of the two large layers, number of epochs, and seconds of computing in each epoch.
        pairs: number of pairs that count.
    """
    for units, epochs, seconds in trainings:
        size = 24 * units * units // MEGABYTE
        kinds, arguments = ("replicate", "stock"), (units, epochs, seconds)
        found = by_turns(script, kinds, arguments, rounds=pairs, megabytes=4 * size)
        ours, stock = found["replicate"], found["stock"]
        what = f"{size} MB, {epochs} epochs of {seconds:g} s"
        row(f"{what}: fit", ours.fit, stock.fit, "<= 1.00", unit="s")
        row(f"{what}: the process", ours.whole, stock.whole, "<= 1.03", unit="s")


def warm_memory(megabytes: int) -> None:
    """Leave twice that much memory free but recently used, as on a machine that has been running for a while.

    A virtual machine may have to get other memory from its host first. We measured that a copy then takes ten times as
    long, and chance decides which of two measurements gets the slow memory.
    """
    with tempfile.TemporaryFile(dir=".") as file:
        file.writelines(bytes(MEGABYTE) for _ in range(2 * megabytes))
