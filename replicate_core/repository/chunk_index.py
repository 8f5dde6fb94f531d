"""The chunk index: the chunks that one process knows to be stored, from its own writes and from recent manifests.

The index need not be complete: a chunk that is not in it is stored again, which costs space but is always correct. It
must not be old: `prune` announces a deletion a whole grace period ahead, and an entry expires after a quarter of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from replicate_core.errors import Corrupted, TooNew
from replicate_core.format.manifest import Encoding, Manifest
from replicate_core.format.records import ExperimentState
from replicate_core.repository import catalogue
from replicate_core.repository.repository import Repository, ignore

GRACE = timedelta(hours=24)
"""Minimum time from the announcement that an object will be deleted to its deletion: the grace period."""

LIFETIME = GRACE / 4
"""Maximum time for which the index may be relied upon after it was read."""

EXPERIMENTS_MAX = 32
"""Maximum number of experiments to read, latest first: of each, the manifests of its code and of its last files."""

CHUNKS_MAX = 1_000_000
"""Maximum number of chunks in the index, about 300 bytes of memory each. The oldest are dropped."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk is stored."""

    object: str
    object_bytes: int
    offset: int
    encoding: Encoding | None = None
    object_digest: str | None = None


class ChunkIndex:
    """The chunks that one process knows to be in a repository.

    Args:
        repository: the repository.
        lifetime: how long the index may be relied upon after it was read.
    """

    def __init__(self, repository: Repository, *, lifetime: timedelta = LIFETIME) -> None:
        self._repository = repository
        self._lifetime = lifetime
        self._locations: dict[str, Location] = {}
        self._own: dict[str, datetime] = {}
        self._read_at: datetime | None = None

    def refresh(self) -> None:
        """Read the index again if it is too old."""
        if self.is_fresh():
            return
        read_at = self._repository.now()  # before anything is read: what is read is at least as new
        # Objects this young can't be doomed, even if no manifest names them yet.
        self._own = {key: written for key, written in self._own.items() if read_at - written <= 2 * self._lifetime}
        self._locations = {found: place for found, place in self._locations.items() if place.object in self._own}
        with suppress(Corrupted, TooNew):  # if it is unknown what is doomed, no object of another process is used
            doomed = self._repository.tombstoned()
            latest = list(catalogue.read(self._repository, ignore).experiments.values())[-EXPERIMENTS_MAX:]
            for key in recent_manifests(stored.state for stored in latest):
                with suppress(Corrupted, TooNew):  # `verify` reports it; here its chunks just stay unknown
                    self._add(self._repository.manifest(key), doomed)
        self._read_at = read_at

    def is_fresh(self) -> bool:
        """Tell whether the index may still be relied upon."""
        return self._read_at is not None and self._repository.now() - self._read_at <= self._lifetime

    def find(self, digest: str) -> Location | None:
        """Where a chunk is stored; None if it is not in the index."""
        return self._locations.get(digest)

    def wrote(self, digest: str, location: Location) -> None:
        """Remember a chunk that this process has stored."""
        self._own.setdefault(location.object, self._repository.now())
        self._remember(digest, location)

    def deleted(self, objects: set[str]) -> None:
        """Forget objects that this process has stored and deleted."""
        self._own = {key: written for key, written in self._own.items() if key not in objects}
        self.forget(objects)

    def missing(self, objects: Iterable[str]) -> set[str]:
        """The objects that other processes wrote and that are gone from the storage."""
        foreign = set(objects) - self._own.keys()
        return foreign - self._repository.store.sizes(sorted(foreign)).keys() if foreign else set()

    def forget(self, objects: set[str]) -> None:
        """Forget the chunks in these objects."""
        self._locations = {
            digest: location for digest, location in self._locations.items() if location.object not in objects
        }

    def _add(self, content: Manifest, doomed: set[str]) -> None:
        for file in content.files.values():
            for part in file.parts:
                if part.object not in doomed:
                    size = content.object_bytes[part.object]
                    whole = content.object_digests.get(part.object)
                    self._remember(part.digest, Location(part.object, size, part.offset, part.encoding, whole))

    def _remember(self, digest: str, location: Location) -> None:
        self._locations[digest] = location
        if len(self._locations) > CHUNKS_MAX:
            del self._locations[next(iter(self._locations))]


def recent_manifests(states: Iterable[ExperimentState]) -> Iterator[str]:
    """The manifests of the code and of the last files of each experiment: these refer to the chunks of earlier ones."""
    for state in states:
        yield from filter(None, [state.code or state.created.manifest])
        shared = (item.manifest for item in state.checkpoints if not item.is_private)
        yield from list(filter(None, shared))[-2:]
