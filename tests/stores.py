"""A store in memory for tests of what stands above the byte seam; and where in a storage the files of somebody are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import replicate_core as replicate
from replicate_core.errors import NotFound, StorageFailed
from replicate_core.format.manifest import Manifest
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore
from replicate_core.storage.store import Entry

BEGAN = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


class MemoryStore:
    """A storage far away, made small: with a clock of its own, and with a log of what it was asked.

    Strongly consistent; a key is there whole or not at all.
    """

    url = "test://remote"

    def __init__(self) -> None:
        self.now = BEGAN
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.asked: list[str] = []
        """Verb and key, or number of keys, of every call."""
        self.deleted: list[str] = []
        self.before: Callable[[str, str], object] = lambda _verb, _key: None
        """Called before every call; may raise."""
        self.fails_at: int | None = None
        """The number of calls after which it fails."""
        self.tells_times = True

    def wait(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def _ask(self, verb: str, key: str) -> None:
        if len(self.asked) == self.fails_at:
            raise StorageFailed("the network is gone")
        self.before(verb, key)
        self.asked.append(f"{verb} {key}")

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._ask("get", key)
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][0][start:end]

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        names = list(keys)
        if names:
            self._ask("get_many", str(len(names)))
        return {name: self.objects[name][0] for name in names if name in self.objects}

    def put(self, key: str, data: bytes) -> None:
        self._ask("put", key)
        self.objects[key] = (data, self.now)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def names(self, prefix: str) -> list[str]:
        self._ask("names", prefix)
        return sorted({re.match("[^/]*/?", key[len(prefix) :])[0] for key in self.keys(prefix)})

    def list(self, prefix: str) -> list[Entry]:
        self._ask("list", prefix)
        found = ((key, *self.objects[key]) for key in sorted(self.keys(prefix)))
        return [Entry(key, len(data), written if self.tells_times else None) for key, data, written in found]

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        return {key: len(data) for key, data in self.get_many(keys).items()}

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._ask("delete", key)
            if self.objects.pop(key, None) is not None:
                self.deleted.append(key)

    def keys(self, prefix: str = "") -> set[str]:
        """What is there: nobody asked for it."""
        return {key for key in self.objects if key.startswith(prefix)}

    def copy(self) -> MemoryStore:
        """The same objects at the same moment, in a store that was asked for nothing yet."""
        copy = MemoryStore()
        copy.objects, copy.now = dict(self.objects), self.now
        return copy


def manifest_key(one: replicate.Experiment | replicate.Checkpoint, storage: Path | str = ".replicate/storage") -> str:
    """The key of the manifest of an experiment's code, or of a checkpoint's files, as it was recorded."""
    states = Repository(LocalStore(Path(storage))).states(lambda *_: None)  # a test may have damaged others
    if isinstance(one, replicate.Experiment):
        return states[one.id].created.manifest
    return next(facts.manifest for facts in states[one.experiment_id].checkpoints if facts.id == one.id)


def manifest_of(
    one: replicate.Experiment | replicate.Checkpoint, storage: Path | str = ".replicate/storage"
) -> Manifest:
    """What an experiment's code, or a checkpoint's files, consist of in a storage."""
    return Repository(LocalStore(Path(storage))).manifest(manifest_key(one, storage))
