"""Storages that misbehave when a test says so, and recorders that run in a thread of the test."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from kit import PATIENCE_SECONDS, until

from replicate_core.errors import StorageFailed
from replicate_core.machine.background import Bell
from replicate_core.recording import launching
from replicate_core.spool import recorder, uploading
from replicate_core.spool.upload_queue import Queue
from replicate_core.storage.store import Entry, Store


def remove(directory: Path) -> None:
    """Remove a directory in which a recorder may be making files."""
    until(lambda: shutil.rmtree(directory, ignore_errors=True) or not directory.exists())


class Died(BaseException):
    """Ends a recorder as a kill would: nothing is caught, nothing is tidied up."""


def nothing(verb: str, key: str) -> None:
    """Does not misbehave."""


def fails(times: int = 10**9, *, permanent: bool = False, of: str = "", text: str = "the network is down") -> Callable:
    """Fails so many times, where the key contains `of`; all is well then."""
    left = [times]

    def before(verb: str, key: str) -> None:
        if of in key and left[0] > 0:
            left[0] -= 1
            raise StorageFailed(text, permanent=permanent)

    return before


def takes(seconds: float, *, of: str = "data/") -> Callable:
    """Takes so long for each key that contains `of`."""
    return lambda _verb, key: time.sleep(seconds) if of in key else None


class Gate:
    """Lets nothing through while it is shut.

    Args:
        of: what the keys contain that are held up.
    """

    def __init__(self, of: str = "") -> None:
        self._of = of
        self._open = threading.Event()
        self.held_up = 0

    def open(self) -> None:
        self._open.set()

    def __call__(self, verb: str, key: str) -> None:
        if self._of in key:
            self.held_up += 1
            assert self._open.wait(PATIENCE_SECONDS), "somebody opens the gate"


class Storage:
    """What becomes of every storage that a recorder opens while this is installed."""

    def __init__(self) -> None:
        self.before: Callable[[str, str], object] = nothing
        """Called with the verb and the key before anything is written; may raise."""
        self.asked: list[tuple[float, str]] = []
        """When which key was to be written."""
        self.written: list[str] = []
        self.lists = 0
        self.on_another_disk = False
        """Whether staged copies can't become objects by getting a second name."""
        self.recorders: list[RecorderThread] = []

    def opener(self, open_store: Callable[..., Store]) -> Callable[..., Store]:
        return lambda location, **options: Misbehaving(open_store(location, **options), self)

    def start(self, arguments: list[str], **_options: Path | None) -> RecorderThread:
        self.recorders.append(RecorderThread(Path(arguments[0])))
        return self.recorders[-1]

    def records(self, kind: str) -> list[str]:
        return [key for key in self.written if key.endswith(f"{kind}.json") and key.startswith("records/")]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on recorders are threads, are quick, and store in a storage of this kind."""
        monkeypatch.delenv("REPLICATE_RECORDER", raising=False)
        monkeypatch.setattr(uploading, "open_store", self.opener(uploading.open_store))
        monkeypatch.setattr(launching, "start", self.start)
        monkeypatch.setattr(recorder, "POLL_SECONDS", 0.005)
        monkeypatch.setattr(recorder, "PAUSE_SECONDS", (0.02, 0.2))
        monkeypatch.setattr(recorder, "GATHER_SECONDS", (0.02, 0.2))
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=15))

    def settle(self, at_exit: Iterable[Callable[..., object]]) -> None:
        """After a test: let the recorders end."""
        self.before = nothing
        for callback in at_exit:
            callback.__self__._queue.finish_appending()
        for one in self.recorders:
            one.thread.join(10)


class Misbehaving:
    """A store that asks before it writes."""

    def __init__(self, store: Store, storage: Storage) -> None:
        self._store = store
        self._storage = storage
        self.url = store.url

    def _ask(self, verb: str, key: str) -> None:
        self._storage.asked.append((time.monotonic(), key))
        self._storage.before(verb, key)

    def put(self, key: str, data: bytes) -> None:
        self._ask("put", key)
        self._store.put(key, data)
        self._storage.written.append(key)

    def put_file(self, key: str, path: Path) -> None:
        self._ask("put_file", key)
        if self._storage.on_another_disk:
            self._store.put(key, path.read_bytes())
        else:
            self._store.put_file(key, path)
        self._storage.written.append(key)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return self._store.get(key, start, end)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return self._store.get_many(keys)

    def names(self, prefix: str) -> list[str]:
        return self._store.names(prefix)

    def list(self, prefix: str) -> list[Entry]:
        return self._store.list(prefix)

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        return self._store.sizes(keys)

    def delete(self, keys: Iterable[str]) -> None:
        self._store.delete(keys)


class RecorderThread:
    """Looks like a recorder process to `ChildRecorder`."""

    def __init__(self, directory: Path) -> None:
        self.returncode: int | None = None
        self.pid = 0
        self.queues = 1
        self._bell = Bell()
        self.thread = threading.Thread(target=self._run, args=(Queue(directory),), daemon=True)
        self.thread.start()

    def _run(self, queue: Queue) -> None:
        try:
            is_stored = recorder.record(queue, bell=self._bell)
        except Died:
            self.returncode = 1
        except SystemExit as error:
            self.returncode = int(error.code or 0)
        else:
            self.returncode = 0 if is_stored else recorder.LEFT

    def add(self, directory: Path) -> bool:
        return False

    def wake(self) -> None:
        self._bell.ring()

    def poll(self) -> int | None:
        return None if self.thread.is_alive() else self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise subprocess.TimeoutExpired("recorder", timeout or 0)
        return self.returncode
