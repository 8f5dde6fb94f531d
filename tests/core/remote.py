"""A repository far away, whose clock is moved by hand."""

from __future__ import annotations

import gzip
import random

from stores import MemoryStore

from replicate_core.format import segments
from replicate_core.format.keys import SEGMENTS
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended, Record
from replicate_core.format.sealed import seal, unseal
from replicate_core.repository import catalogue, compacting
from replicate_core.repository.compacting import compact
from replicate_core.repository.repository import Repository

ONE, OTHER = "1" * 32, "2" * 32


class Lab:
    """A repository far away, whose clock is moved by hand."""

    def __init__(self) -> None:
        self.remote = MemoryStore()
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
