"""What tests of recording share."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from interrupted_runs import Training, save, start
from machines import Machines
from misbehaving import Storage
from stored_checkpoints import AtExit

import replicate_core as replicate
from replicate_core.machine import environment


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow


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


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, at_exit: AtExit, told: list) -> Iterator[Storage]:
    found = Storage()
    found.install(monkeypatch)
    yield found
    found.settle(at_exit)


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of a test."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found
