"""What tests of recording share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from interrupted_runs import Training, save, start
from machines import Machines

import replicate_core as replicate
from replicate_core.machine import environment
from replicate_core.recording import notices


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said that is neither trouble nor a result."""
    lines: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", lines.append)
    return lines


@pytest.fixture
def train(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Training]]:
    """Starts training scripts; they and their recorders are killed after the test."""
    monkeypatch.delenv("REPLICATE_RECORDER")
    started: list[Training] = []

    def begin(directory: Path = project, **options: object) -> Training:
        started.append(Training(directory, **options))
        return started[-1]

    yield begin
    for training in started:
        training.kill()
        for process in training.recorders():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


@pytest.fixture
def elsewhere(machines: Machines) -> replicate.Experiment:
    """A run on another machine that has made two checkpoints; this one is `two`."""
    machines.on("one")
    experiment = start()
    save(experiment, 0)
    save(experiment, 1)
    machines.on("two")
    return experiment
