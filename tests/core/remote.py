"""A storage far away, made small: in memory, with a clock of its own, and with a log of what it was asked.

`Lab` is a repository in it.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from replicate_core.errors import NotFound
from replicate_core.format import segments
from replicate_core.format.keys import SEGMENTS
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended, Record
from replicate_core.format.sealed import seal, unseal
from replicate_core.repository import catalogue, compacting
from replicate_core.repository.compacting import compact
from replicate_core.repository.repository import Repository
from replicate_core.storage.store import Entry

BEGAN = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


class Remote:
    """Strongly consistent; a key is there whole or not at all."""

    url = "test://remote"

    def __init__(self) -> None:
        self.now = BEGAN
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.asked: list[str] = []
        """Verb and key, or number of keys, of every call."""
        self.before: Callable[[str, str], object] = lambda _verb, _key: None
        """Called before every call; may raise."""
        self.tells_times = True

    def wait(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def _ask(self, verb: str, key: str) -> None:
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
        found = (key[len(prefix) :] for key in self.objects if key.startswith(prefix))
        return sorted({re.match("[^/]*/?", name)[0] for name in found})

    def list(self, prefix: str) -> list[Entry]:
        self._ask("list", prefix)
        found = sorted((key, value) for key, value in self.objects.items() if key.startswith(prefix))
        return [Entry(key, len(data), written if self.tells_times else None) for key, (data, written) in found]

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        return {key: len(data) for key, data in self.get_many(keys).items()}

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._ask("delete", key)
            self.objects.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))


ONE, OTHER = "1" * 32, "2" * 32


class Lab:
    """A repository far away, whose clock is moved by hand."""

    def __init__(self) -> None:
        self.remote = Remote()
        self.chance = random.Random(1)
        self.repository = Repository(self.remote, now=lambda: self.remote.now, randomness=self.chance.randbytes)
        self.repository.prepare()

    def record(self, record: Record) -> str:
        self.remote.wait(seconds=1)
        return self.repository.append(record)

    def train(self, experiment: str = ONE, *, checkpoints: int = 2, ends: bool = True) -> list[str]:
        """Record an experiment; returns the keys of its records."""
        keys = [self.record(Created(experiment, self.remote.now, params={"lr": 0.1}))]
        keys += [self.record(Checkpointed(experiment, (self.point(step),))) for step in range(checkpoints)]
        return [*keys, self.record(Ended(experiment, self.remote.now, "finished"))] if ends else keys

    def point(self, step: int) -> CheckpointFacts:
        return CheckpointFacts(self.chance.randbytes(16).hex(), self.remote.now, step, {"loss": 1.0 / (step + 1)})

    def later(self, days: int) -> None:
        """Days pass, and something else is recorded then."""
        self.remote.wait(days=days)
        self.train(self.chance.randbytes(16).hex())

    def compact(self, **options: bool) -> compacting.CompactReport:
        self.remote.wait(seconds=1)
        return compact(self.repository, **options)

    def asked(self) -> list[str]:
        """What was asked for since the last look; keys without what is different each time."""
        found, self.remote.asked = self.remote.asked, []
        return found

    def read(self) -> dict[str, object]:
        """What is listed, looked at closely."""
        return {name: stored.state for name, stored in catalogue.read(self.repository).experiments.items()}

    def check(self) -> None:
        """What is listed is what the records alone say, in the same order."""
        found = catalogue.read(self.repository).experiments
        wanted = self.repository.states()
        assert list(found) == list(wanted)
        for name, stored in found.items():
            assert stored.summary == segments.summarise(wanted[name])
            assert stored.state == wanted[name]

    def segment(self) -> str:
        (key,) = self.remote.keys(SEGMENTS)
        return key

    def forge(self, key: str, **changes: object) -> None:
        """Change the head of a segment, and seal it as it should be."""
        data = self.remote.objects[key][0]
        text, blocks = segments._unpack(data, 1 << 20, key)
        self.remote.put(key, gzip.compress(seal({**unseal(text, key=key), **changes}), mtime=0) + blocks)
