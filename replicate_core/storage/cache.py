"""A local cache of stored documents: records and manifests never change, so they are fetched once per machine.

There is one sqlite file per storage, in the user's cache directory. It may be deleted at any time. If it is damaged it
is made anew; if it can't be used, there is no cache. Documents carry their digest, and are verified when they are read.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from replicate_core.format import segments
from replicate_core.format.keys import MANIFESTS, RECORDS, SEGMENTS
from replicate_core.format.sealed import is_sealed_under
from replicate_core.storage.local import LocalStore
from replicate_core.storage.store import Entry, Store

CACHED_PREFIXES = (RECORDS, MANIFESTS, SEGMENTS)
"""Prefixes of keys that are written once and never changed. Segments that were deleted from the storage are deleted
from the cache: they are large, and others have replaced them."""

_KEYS_AT_ONCE = 500

VERSION = 1
"""Version of the file's layout, which is part of its name."""


def cached(store: Store, *, directory: Path | None = None) -> Store:
    """The store with its documents cached, unless it is on this disk or in memory.

    Args:
        store: the store.
        directory: the directory of the cache; by default the user's cache directory.
    """
    if isinstance(store, LocalStore) or store.url.startswith("memory://"):
        return store
    name = f"documents-{VERSION}-{hashlib.sha256(store.url.encode()).hexdigest()[:32]}.sqlite"
    try:
        return CachedStore(store, (directory or cache_directory()) / name)
    except RuntimeError:  # a user without a home directory, as in a container with an arbitrary user number
        return store


def cache_directory() -> Path:
    """The directory where this user's programs keep files that they can do without."""
    if named := os.environ.get("REPLICATE_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "replicate"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "replicate" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "replicate"


class CachedStore:
    """A store whose documents are kept in a local file after they were read.

    Args:
        store: the store that is cached.
        path: the local file.
    """

    def __init__(self, store: Store, path: Path) -> None:
        self.url = store.url
        self._store = store
        self._path = path
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Store.get`."""
        if not key.startswith(CACHED_PREFIXES) or start or end is not None:
            return self._store.get(key, start, end)
        if (data := self._load([key]).get(key)) is not None:
            return data
        data = self._store.get(key)
        self._save({key: data})
        return data

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        names = list(keys)
        known = self._load([name for name in names if name.startswith(CACHED_PREFIXES)])
        fresh = self._store.get_many([name for name in names if name not in known])
        self._save({name: data for name, data in fresh.items() if name.startswith(CACHED_PREFIXES)})
        return known | fresh

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        self._store.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        self._store.put_file(key, path)

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        return self._store.names(prefix)

    def list(self, prefix: str) -> list[Entry]:
        """See `Store.list`."""
        found = self._store.list(prefix)
        if prefix == SEGMENTS:
            self._forget_all_but([entry.key for entry in found])
        return found

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """See `Store.sizes`."""
        return self._store.sizes(keys)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Store.delete`."""
        self._store.delete(keys)

    def _load(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The undamaged documents in the cache. If anything fails here, the store is used instead."""
        found: dict[str, bytes] = {}
        try:
            if keys and self._path.exists():
                with self._lock, closing(self._open()) as database:
                    for start in range(0, len(keys), _KEYS_AT_ONCE):
                        some = keys[start : start + _KEYS_AT_ONCE]
                        marks = ",".join("?" * len(some))
                        query = f"SELECT key, data FROM documents WHERE key IN ({marks})"  # noqa: S608  # marks only
                        found.update(database.execute(query, some))
        except sqlite3.DatabaseError as error:
            self._discard(error)
        except OSError:
            return {}
        return {key: data for key, data in found.items() if _is_whole(key, data)}

    def _save(self, documents: dict[str, bytes]) -> None:
        whole = {key: data for key, data in documents.items() if _is_whole(key, data)}
        if not whole:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", whole.items())
        except sqlite3.DatabaseError as error:
            self._discard(error)
        except OSError:  # the disk is full or read-only: there is no cache then
            return

    def _forget_all_but(self, there: Sequence[str]) -> None:
        """Delete the segments that are no longer in the storage."""
        try:
            if self._path.exists():
                with self._lock, closing(self._open()) as database, database:
                    known = database.execute("SELECT key FROM documents WHERE key LIKE 'segments/%'").fetchall()
                    gone = [key for (key,) in known if key not in there]
                    if gone:
                        database.executemany("DELETE FROM documents WHERE key = ?", [(key,) for key in gone])
        except sqlite3.DatabaseError as error:
            self._discard(error)
        except OSError:
            return

    def _open(self) -> sqlite3.Connection:
        # No write-ahead log: it does not work on network file systems, where home directories often are.
        database = sqlite3.connect(self._path, timeout=10)
        database.execute("CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID")
        return database

    def _discard(self, error: sqlite3.DatabaseError) -> None:
        """Remove the file if it is damaged; leave it alone if it is only busy or read-only."""
        if isinstance(error, sqlite3.OperationalError):
            return
        with suppress(OSError):
            for ending in ("", "-journal", "-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)


def _is_whole(key: str, data: object) -> bool:
    """Tell whether a document is undamaged and belongs to this key: nothing else is kept or trusted."""
    if not isinstance(data, bytes):
        return False
    return segments.is_whole(key, data) if key.startswith(SEGMENTS) else is_sealed_under(key, data)
