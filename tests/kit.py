"""What tests of all packages share: waiting for something, a clock, and what is read off experiments and warnings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType

import pytest

import replicate_core as replicate

PATIENCE_SECONDS = 120
"""How long a busy machine may take for what takes no time."""


def until(
    condition: Callable[[], object], what: str = "it does not come to be", *, seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(0.005)


def steps(experiment: replicate.Experiment) -> list[int]:
    """The steps of the checkpoints of an experiment."""
    return [checkpoint.step for checkpoint in experiment.checkpoints]


def texts(told: Iterable[warnings.WarningMessage]) -> list[str]:
    """What warnings say."""
    return [str(item.message) for item in told]


def text_of(checkpoint: replicate.Checkpoint | None, path: str = "model.txt") -> str:
    """What a file of a checkpoint says."""
    assert checkpoint is not None
    with checkpoint.open(path) as file:
        return file.read().decode()


class Clock:
    """The time as one module sees it: it passes only as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, now: float = 0.0) -> None:
        self.now = now
        monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
