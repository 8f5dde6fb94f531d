"""Machines with a spool and a clock each, and the storage that they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from interrupted_runs import kinds, repository

from replicate_core.format.records import Record
from replicate_core.machine import environment
from replicate_core.recording import resuming
from replicate_core.repository import heartbeats
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import Repository, utc_now


def at(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project directory whose storage is shared with others; its spool is its own."""
    if not directory.is_dir():
        directory.mkdir(parents=True)
        (directory / "replicate.yaml").write_text(f"storage: {json.dumps(str(directory.parents[1] / 'storage'))}\n")
    monkeypatch.chdir(directory)
    monkeypatch.setattr(environment, "host", lambda: directory.parent.name)
    return directory


class Machines:
    """Machines with a spool each, and the storage that they share; waiting for one another takes no time."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self.waited = 0.0
        """How many seconds signs of life were waited for."""
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while they are waited for, again and again."""
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(resuming, "LOOK_SECONDS", 10.0)
        monkeypatch.setattr(resuming, "time", SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.waited))

    def on(self, name: str) -> Path:
        return at(self.directory / name / "digits", self._monkeypatch)

    def repository(self) -> Repository:
        return repository(self.storage)

    def beat(self, experiment: str, *, ago: timedelta = timedelta(0), host: str = "one") -> None:
        sign = Heartbeat(experiment, self.session_of(experiment), utc_now() - ago, host, 4242, 0)
        heartbeats.beat(self.repository(), sign)

    def beats(self, experiment: str) -> Heartbeat | None:
        return heartbeats.last(self.repository(), {experiment: self.session_of(experiment)}).get(experiment)

    def session_of(self, experiment: str) -> str | None:
        return self.repository().states()[experiment].session

    def kinds(self, *types: type[Record]) -> list[Record]:
        return kinds(*types, storage=self.storage)

    def _sleep(self, seconds: float) -> None:
        self.waited += seconds
        self.meanwhile()


class Clock:
    """Sets the clock of this machine wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = timedelta(0)
        for module in ("starting", "recording.recording"):
            monkeypatch.setattr(f"replicate_core.{module}.utc_now", self.now)
        plain = Repository.__init__
        monkeypatch.setattr(Repository, "__init__", lambda one, store, **_: plain(one, store, now=self.now))

    def now(self) -> datetime:
        return utc_now() + self.off
