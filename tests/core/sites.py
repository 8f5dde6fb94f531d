"""A repository in a store with a clock of its own, and what tests of pruning do with it."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from snapshots import staged_of
from stores import MemoryStore

from replicate_core.format.keys import DATA, MANIFESTS
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Resumed, replace
from replicate_core.repository.chunk_index import GRACE, ChunkIndex
from replicate_core.repository.pruning import PruneReport, prune
from replicate_core.repository.reading import read_all
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of
from replicate_core.repository.writing import StoredSnapshot, publish

SECOND = timedelta(seconds=1)
CONTENTS = {f"{number}.bin": random.Random(number).randbytes(2000) for number in range(10)}


def stored(shelf: MemoryStore) -> set[str]:
    """The keys of what prune may delete: objects and manifests."""
    return shelf.keys(DATA) | shelf.keys(MANIFESTS)


def with_files(facts: CheckpointFacts, done: StoredSnapshot) -> CheckpointFacts:
    return replace(facts, manifest=done.manifest, size_bytes=done.size_bytes)


class Site:
    """A repository, and what is done with it."""

    def __init__(self, shelf: MemoryStore, scratch: Path) -> None:
        self.shelf = shelf
        self.scratch = scratch

    def repository(self) -> Repository:
        """As a process sees it that begins now."""
        return Repository(self.shelf, now=lambda: self.shelf.now)

    def save(self, *numbers: int, known: ChunkIndex | None = None, experiment: str | None = None) -> str:
        """Save some of `CONTENTS` as an experiment, or as a checkpoint of one; returns its id."""
        repository = self.repository()
        staged = staged_of(self.scratch, {f"{one}.bin": CONTENTS[f"{one}.bin"] for one in numbers})
        known = known or ChunkIndex(repository)
        if experiment is None:
            made = repository.new_id()
            publish(
                repository,
                known,
                staged,
                "none",
                lambda done: Created(made, repository.now(), manifest=done.manifest, size_bytes=done.size_bytes),
            )
            return made
        facts = CheckpointFacts(repository.new_id(), repository.now(), 0, {})
        session = repository.states()[experiment].session
        publish(
            repository,
            known,
            staged,
            "none",
            lambda done: Checkpointed(experiment, (with_files(facts, done),), session),
        )
        return facts.id

    def resume(self, experiment: str, checkpoint: str | None, *numbers: int) -> str:
        """Go on with an experiment, with some of `CONTENTS` as its code; returns the manifest of that."""
        repository = self.repository()
        session, previous = repository.new_id(), repository.states()[experiment].session
        staged = staged_of(self.scratch, {f"{one}.bin": CONTENTS[f"{one}.bin"] for one in numbers})
        done = publish(
            repository,
            ChunkIndex(repository),
            staged,
            "none",
            lambda done: Resumed(experiment, repository.now(), session, previous, checkpoint, manifest=done.manifest),
        )
        return done.manifest

    def delete(self, experiment: str, checkpoint: str | None = None) -> None:
        self.repository().append(Deleted(experiment, None if checkpoint is None else (checkpoint,)))

    def prune(self, **options: object) -> PruneReport:
        return prune(self.repository(), scratch=self.scratch, **options)

    def later(self, passed: timedelta = GRACE + SECOND) -> None:
        self.shelf.now += passed

    def read(self) -> dict[str, dict[str, bytes]]:
        """Everything that is listed, read and verified: id of experiment or checkpoint to its files."""
        repository = self.repository()
        found: dict[str, dict[str, bytes]] = {}
        for snapshot in snapshots_of(repository.states(pytest.fail)):
            manifest = repository.manifest(snapshot.manifest)
            contents = {path: bytearray(file.size) for path, file in manifest.files.items()}
            paths = list(contents)
            for pieces in read_all(repository, list(manifest.files.values()), list):
                for wanted, data in pieces:
                    contents[paths[wanted.file]][wanted.position : wanted.position + len(data)] = data
            found[snapshot.checkpoint or snapshot.experiment] = {path: bytes(data) for path, data in contents.items()}
        return found

    def objects(self, experiment: str) -> set[str]:
        repository = self.repository()
        return set(repository.manifest(repository.states()[experiment].created.manifest).object_bytes)

    def needed(self) -> set[str]:
        repository = self.repository()
        manifests = [snapshot.manifest for snapshot in snapshots_of(repository.states())]
        return {*manifests, *(key for one in manifests for key in repository.manifest(one).object_bytes)}


def contents(*numbers: int) -> dict[str, bytes]:
    return {f"{number}.bin": CONTENTS[f"{number}.bin"] for number in numbers}


def mostly_dead(site: Site, *, needed: tuple[int, ...] = (3, 7)) -> tuple[str, str]:
    """A pack of ten files, of which two are still needed; returns who needs them, and the pack."""
    gone = site.save(*range(10))
    (pack,) = site.objects(gone)
    kept = site.save(*needed)
    assert site.objects(kept) == {pack}
    site.delete(gone)
    site.later()
    return kept, pack
