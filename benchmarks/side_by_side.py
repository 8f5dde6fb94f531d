"""What benchmarks share that measure side by side: the table of both and their ratio, and the same memory for both."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

MEGABYTE = 10**6


def title(text: str, mine: str, theirs: str) -> None:
    print(f"\n{text:56} {mine:>11} {theirs:>11} {'ratio':>7} {'of rounds':>15} {'goal':>8}", flush=True)


def row(what: str, mine: list[float], theirs: list[float], goal: str = "", *, unit: str = "ms") -> None:
    """Medians of what was measured side by side, and the median and the range of the ratios."""
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


def warm_memory(megabytes: int) -> None:
    """Leave that much free memory which was just in use, as that of a machine that has been at work for a while is.

    A virtual machine may have to ask its host for any other: measured, a copy takes ten times as long then, and who of
    two gets the slow memory is chance.
    """
    with tempfile.TemporaryFile(dir=".") as file:
        file.writelines(bytes(MEGABYTE) for _ in range(2 * megabytes))
