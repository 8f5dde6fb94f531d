"""Which chunks a repository has already, as far as one process knows: what it wrote, and what recent manifests say.

Knowledge is never complete: a chunk that is not known is stored again, which costs space and never correctness. And it
is never old: what `prune` may delete is announced a whole grace before, and knowledge lives for a quarter of it.
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
from replicate_core.repository.repository import Repository

GRACE = timedelta(hours=24)
"""From the announcement that an object will be deleted to its deletion, at least."""

LIFETIME = GRACE / 4
"""How long what is known may be relied upon."""

EXPERIMENTS_MAX = 32
"""How many of the latest experiments are read: of each, its code and its last files."""

CHUNKS_MAX = 1_000_000
"""More are forgotten, the oldest first: about 300 bytes of memory each."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk is stored."""

    object: str
    object_bytes: int
    offset: int
    encoding: Encoding | None = None
    object_digest: str | None = None


class ChunkIndex:
    """What one process knows of a repository.

    Args:
        repository: the repository.
        lifetime: how long that may be relied upon.
    """

    def __init__(self, repository: Repository, *, lifetime: timedelta = LIFETIME) -> None:
        self._repository = repository
        self._lifetime = lifetime
        self._locations: dict[str, Location] = {}
        self._own: dict[str, datetime] = {}
        self._learnt: datetime | None = None

    def refresh(self) -> None:
        """Read again what is there, if what is known is too old."""
        if self.is_fresh():
            return
        learnt = self._repository.now()  # before anything is read: what is read is at least so new
        # Nothing so young can be doomed, whether a manifest names it yet or not.
        self._own = {key: written for key, written in self._own.items() if learnt - written <= 2 * self._lifetime}
        self._locations = {found: place for found, place in self._locations.items() if place.object in self._own}
        with suppress(Corrupted, TooNew):  # what is doomed can't be told: then nothing of others is relied upon
            doomed = self._repository.tombstoned()
            latest = list(catalogue.read(self._repository, _ignore).experiments.values())[-EXPERIMENTS_MAX:]
            for key in recent_manifests(stored.state for stored in latest):
                with suppress(Corrupted, TooNew):  # `verify` names it; here it only teaches nothing
                    self._learn(self._repository.manifest(key), doomed)
        self._learnt = learnt

    def is_fresh(self) -> bool:
        """Tell whether what is known may still be relied upon."""
        return self._learnt is not None and self._repository.now() - self._learnt <= self._lifetime

    def find(self, digest: str) -> Location | None:
        """Where a chunk is, if that is known."""
        return self._locations.get(digest)

    def wrote(self, digest: str, location: Location) -> None:
        """Remember a chunk that this process has stored."""
        self._own.setdefault(location.object, self._repository.now())
        self._remember(digest, location)

    def lost(self, objects: set[str]) -> None:
        """Forget objects that this process has stored and deleted."""
        self._own = {key: written for key, written in self._own.items() if key not in objects}
        self.forget(objects)

    def missing(self, objects: Iterable[str]) -> set[str]:
        """Those objects that others wrote and that are no longer there."""
        foreign = set(objects) - self._own.keys()
        return foreign - self._repository.store.sizes(sorted(foreign)).keys() if foreign else set()

    def forget(self, objects: set[str]) -> None:
        """Forget the chunks in these objects."""
        self._locations = {
            digest: location for digest, location in self._locations.items() if location.object not in objects
        }

    def _learn(self, content: Manifest, doomed: set[str]) -> None:
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


def _ignore(_: Corrupted | TooNew) -> None:
    """A damaged record is reported by listings, not during a training."""


def recent_manifests(states: Iterable[ExperimentState]) -> Iterator[str]:
    """Of each experiment: the code, and the last files; what came before is referred to by those."""
    for state in states:
        yield from filter(None, [state.code or state.created.manifest])
        shared = (item.manifest for item in state.checkpoints if not item.is_private)
        yield from list(filter(None, shared))[-2:]
