"""What is known comes from live manifests and from what was written here, and it is never old."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from replicate_core.errors import StorageFailed
from replicate_core.format.digest import digest
from replicate_core.format.manifest import Encoding, File, Manifest, Part
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, ExperimentState, Repacked
from replicate_core.repository import catalogue
from replicate_core.repository import chunk_index as known_module
from replicate_core.repository.chunk_index import GRACE, LIFETIME, ChunkIndex, Location, recent_manifests
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore

SECOND = timedelta(seconds=1)
GZIP = Encoding("gzip", 50)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.at


class Counting(LocalStore):
    """Remembers which keys were asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests = 0
        self.looked_up: list[set[str]] = []

    def list(self, prefix):
        self.requests += 1
        return super().list(prefix)

    def sizes(self, keys):
        keys = set(keys)
        self.looked_up.append(keys)
        return super().sizes(keys)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    return Repository(Counting(tmp_path / "storage"), now=clock, randomness=random.Random(1).randbytes)


@pytest.fixture
def known(repository: Repository) -> ChunkIndex:
    return ChunkIndex(repository)


def id_of(name: str) -> str:
    """An id: users and records have no other names."""
    return digest(name.encode()).partition(":")[2][:32]


def chunk(number: int) -> str:
    return digest(b"%d" % number)


def object_of(number: int) -> str:
    return f"data/00/{number:064x}-0.tar"


def manifest_of(repository: Repository, *numbers: int, encoding: Encoding | None = None) -> str:
    """Store a manifest of files with one chunk each, each in an object of its own."""
    files = {
        f"{number}.bin": File(100, 0o644, (Part(object_of(number), 512, 100, chunk(number), encoding),))
        for number in numbers
    }
    return repository.put_manifest(Manifest(files, object_bytes={object_of(number): 2048 for number in numbers}))


def begin(repository: Repository, experiment: str, *numbers: int) -> str:
    """Record an experiment whose code has these chunks."""
    key = manifest_of(repository, *numbers)
    repository.append(Created(id_of(experiment), repository.now(), manifest=key))
    return key


def checkpoint(repository: Repository, experiment: str, name: str, *numbers: int) -> str:
    key = manifest_of(repository, *numbers)
    facts = CheckpointFacts(id_of(name), repository.now(), 1, {}, manifest=key if numbers else None)
    repository.append(Checkpointed(id_of(experiment), (facts,)))
    return key


def found(known: ChunkIndex, numbers: Iterable[int] = range(10)) -> list[int]:
    return [number for number in numbers if known.find(chunk(number)) is not None]


class TestLearning:
    def test_nothing_is_known_before_anything_is_read(self, repository, known) -> None:
        begin(repository, "e", 1)
        assert not known.is_fresh()
        assert found(known) == []

    def test_nothing_is_known_of_an_empty_repository(self, known) -> None:
        known.refresh()
        assert known.is_fresh()
        assert found(known) == []

    def test_chunks_of_code_and_checkpoints_are_known_with_their_places(self, repository, known) -> None:
        begin(repository, "e", 1)
        checkpoint(repository, "e", "c", 2, 3)
        known.refresh()
        assert found(known) == [1, 2, 3]
        assert known.find(chunk(2)) == Location(object_of(2), 2048, 512, None)

    def test_how_a_chunk_is_encoded_is_known(self, repository, known) -> None:
        repository.append(Created(id_of("e"), repository.now(), manifest=manifest_of(repository, 1, encoding=GZIP)))
        known.refresh()
        assert known.find(chunk(1)) == Location(object_of(1), 2048, 512, GZIP)

    def test_what_nothing_refers_to_teaches_nothing(self, repository, known) -> None:
        manifest_of(repository, 1)
        begin(repository, "gone", 2)
        repository.append(Deleted(id_of("gone")))
        begin(repository, "e", 3)
        checkpoint(repository, "e", "kept", 4)
        checkpoint(repository, "e", "gone", 5)
        repository.append(Deleted(id_of("e"), (id_of("gone"),)))
        old = checkpoint(repository, "e", "repacked", 6)
        repository.append(Repacked(id_of("e"), {old: manifest_of(repository, 7)}))
        checkpoint(repository, "never begun", "c", 8)
        known.refresh()
        assert found(known) == [3, 4, 7]

    def test_objects_that_are_doomed_are_never_referred_to(self, repository, known) -> None:
        begin(repository, "e", 1, 2, 3)
        repository.put_tombstone([object_of(1)])
        repository.put_tombstone([object_of(3)])
        known.refresh()
        assert found(known) == [2]

    def test_a_checkpoint_without_files_and_an_experiment_without_code_teach_nothing(self, repository, known) -> None:
        repository.append(Created(id_of("e"), repository.now()))
        checkpoint(repository, "e", "c")
        known.refresh()
        assert found(known) == []

    def test_a_manifest_that_is_gone_or_damaged_is_no_hindrance(self, repository, known) -> None:
        begin(repository, "a", 1)
        repository.store.delete([begin(repository, "b", 2)])
        repository.store.put(checkpoint(repository, "a", "c", 3), b"damaged")
        known = ChunkIndex(Repository(repository.store, now=repository.now))
        known.refresh()
        assert found(known) == [1]

    def test_a_storage_that_fails_is_no_empty_one(self, repository, known, monkeypatch) -> None:
        def failing(prefix: str) -> None:
            raise StorageFailed("no answer")

        monkeypatch.setattr(repository.store, "list", failing)
        with pytest.raises(StorageFailed):
            known.refresh()
        assert not known.is_fresh()


class TestRecent:
    def test_of_an_experiment_the_code_and_the_last_files_are_read(self) -> None:
        now = Clock()()
        items = tuple(
            CheckpointFacts(name, now, 1, {}, manifest=name if name in "acd" else None)
            for name in ("a", "b", "c", "d", "e")
        )
        state = ExperimentState(Created("x", now, manifest="code"), items)
        assert list(recent_manifests([state])) == ["code", "c", "d"]

    def test_only_the_latest_experiments_are_read(self, repository, known, clock, monkeypatch) -> None:
        monkeypatch.setattr(known_module, "EXPERIMENTS_MAX", 2)
        for number, name in enumerate("cab"):
            clock.at += SECOND
            begin(repository, name, number)
        known.refresh()
        assert found(known) == [1, 2]

    def test_the_oldest_are_forgotten_when_there_are_too_many(self, repository, known, monkeypatch) -> None:
        monkeypatch.setattr(known_module, "CHUNKS_MAX", 3)
        begin(repository, "e", 1, 2, 3)
        known.refresh()
        known.wrote(chunk(4), Location("data/own", 100, 0))
        assert found(known) == [2, 3, 4]


class TestAge:
    def test_what_is_known_is_relied_upon_for_a_quarter_of_the_grace(self, repository, known, clock) -> None:
        assert LIFETIME == GRACE / 4
        begin(repository, "e", 1)
        known.refresh()
        clock.at += LIFETIME
        assert known.is_fresh()
        clock.at += SECOND
        assert not known.is_fresh()

    def test_it_is_not_read_again_before(self, repository, known, clock) -> None:
        known.refresh()
        requests = repository.store.requests
        begin(repository, "e", 1)
        clock.at += LIFETIME
        known.refresh()
        assert repository.store.requests == requests
        assert found(known) == []

    def test_it_is_read_again_afterwards(self, repository, known, clock) -> None:
        begin(repository, "old", 1)
        known.refresh()
        begin(repository, "new", 2)
        repository.append(Deleted(id_of("old")))
        clock.at += LIFETIME + SECOND
        known.refresh()
        assert known.is_fresh()
        assert found(known) == [2]

    def test_what_was_doomed_meanwhile_is_forgotten(self, repository, known, clock) -> None:
        begin(repository, "e", 1, 2)
        known.refresh()
        repository.put_tombstone([object_of(1)])
        clock.at += LIFETIME + SECOND
        known.refresh()
        assert found(known) == [2]

    def test_the_time_it_takes_to_read_counts(self, repository, known, clock, monkeypatch) -> None:
        read = catalogue.read

        def slow(*arguments):
            clock.at += LIFETIME + SECOND
            return read(*arguments)

        monkeypatch.setattr(catalogue, "read", slow)
        known.refresh()
        assert not known.is_fresh()

    def test_the_lifetime_can_be_chosen(self, repository, clock) -> None:
        known = ChunkIndex(repository, lifetime=SECOND)
        known.refresh()
        clock.at += 2 * SECOND
        assert not known.is_fresh()


class TestOwn:
    def test_what_was_written_here_is_known_at_once(self, known) -> None:
        place = Location("data/own", 2000, 512, GZIP)
        known.wrote(chunk(1), place)
        assert known.find(chunk(1)) == place

    def test_it_survives_reading_again_while_it_is_young(self, known, clock) -> None:
        known.refresh()
        known.wrote(chunk(1), Location("data/own", 2000, 512))
        clock.at += LIFETIME + SECOND
        known.refresh()
        assert found(known) == [1]

    def test_it_is_forgotten_long_before_it_could_be_deleted(self, known, clock) -> None:
        known.refresh()
        known.wrote(chunk(1), Location("data/own", 2000, 512))
        clock.at += SECOND
        known.wrote(chunk(2), Location("data/own", 2000, 1024))
        age = SECOND
        while found(known):
            clock.at += LIFETIME / 2
            age += LIFETIME / 2
            known.refresh()
        assert age + LIFETIME < GRACE

    def test_it_is_known_for_longer_where_a_manifest_names_it(self, repository, known, clock) -> None:
        known.wrote(chunk(1), Location(object_of(1), 2048, 512))
        begin(repository, "e", 1)
        clock.at += GRACE
        known.refresh()
        assert found(known) == [1]


class TestMissing:
    def test_objects_of_others_that_are_gone_are_missing(self, repository, known) -> None:
        repository.store.put(object_of(1), b"there")
        assert known.missing([object_of(1), object_of(2)]) == {object_of(2)}

    def test_own_objects_are_not_even_looked_for(self, repository, known) -> None:
        known.wrote(chunk(1), Location(object_of(1), 2048, 512))
        assert known.missing([object_of(1)]) == set()
        assert repository.store.looked_up == []
        assert known.missing([object_of(1), object_of(2), object_of(2)]) == {object_of(2)}
        assert repository.store.looked_up == [{object_of(2)}]

    def test_nothing_is_asked_of_nothing(self, repository, known) -> None:
        assert known.missing([]) == set()
        assert repository.store.looked_up == []

    def test_own_objects_that_are_old_are_looked_for(self, repository, known, clock) -> None:
        known.wrote(chunk(1), Location(object_of(1), 2048, 512))
        begin(repository, "e", 1)
        clock.at += GRACE
        known.refresh()
        assert known.missing([object_of(1)]) == {object_of(1)}

    def test_chunks_of_objects_that_are_gone_can_be_forgotten(self, repository, known) -> None:
        begin(repository, "e", 1, 2)
        known.refresh()
        known.forget({object_of(2)})
        assert found(known) == [1]
        known.forget(set())
        assert found(known) == [1]
