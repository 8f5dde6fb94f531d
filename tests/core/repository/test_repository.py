"""What stands under which key, in which order, and that damage hides nothing but what it hit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from replicate_core.errors import Corrupted, StorageFailed, TooNew
from replicate_core.format.digest import digest
from replicate_core.format.keys import FORMAT_KEY
from replicate_core.format.manifest import File, Manifest
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Ended
from replicate_core.format.sealed import seal
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.storage.local import LocalStore
from replicate_core.storage.store import Store

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "storage")


@pytest.fixture
def repository(store: Store) -> Repository:
    """A repository where it is always noon, and where chance always falls the same way."""
    return Repository(store, now=lambda: NOON, randomness=random.Random(7).randbytes)


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.list("")]


class TestFormat:
    def test_an_empty_storage_has_none(self, repository: Repository) -> None:
        assert repository.check_format() is False

    def test_preparing_writes_it_once(self, repository: Repository, store: Store) -> None:
        repository.prepare()
        assert json.loads(store.get(FORMAT_KEY)) == {"format": 1, "digest": "sha256"}
        assert repository.check_format() is True
        store.put(FORMAT_KEY, b'{"digest":"sha256", "format":1, "more": null}')
        repository.prepare()
        assert store.get(FORMAT_KEY) == b'{"digest":"sha256", "format":1, "more": null}'

    @pytest.mark.parametrize("text", ['{"format": 2, "digest": "sha256"}', '{"format": 1, "digest": "blake3"}'])
    def test_a_newer_one_asks_for_an_upgrade(self, repository: Repository, store: Store, text: str) -> None:
        store.put(FORMAT_KEY, text.encode())
        for action in (repository.check_format, repository.prepare, repository.states):
            with pytest.raises(TooNew, match="upgrade replicate"):
                action()

    @pytest.mark.parametrize(
        "data",
        [b"", b"{", b"[]", b'"format"', b"{}", b'{"format": 1}', b"\xff\xfe", b"null", b"[" * 100_000],
        ids=lambda data: repr(data[:12]),
    )
    def test_one_that_makes_no_sense_is_corrupted(self, repository: Repository, store: Store, data: bytes) -> None:
        store.put(FORMAT_KEY, data)
        with pytest.raises(Corrupted, match=r"replicate\.json in .* can't be understood"):
            repository.check_format()

    @pytest.mark.parametrize("format_", ["0", "-1", "true"])
    def test_a_format_that_never_was_is_refused(self, repository: Repository, store: Store, format_: str) -> None:
        store.put(FORMAT_KEY, f'{{"format": {format_}, "digest": "sha256"}}'.encode())
        with pytest.raises((Corrupted, TooNew)):
            repository.check_format()

    def test_a_storage_that_cannot_be_reached_is_no_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailed):
            Repository(LocalStore(tmp_path / "file/storage")).prepare()


class TestNames:
    def test_ids_are_32_hexadecimal_characters_and_differ(self, repository: Repository) -> None:
        made = {repository.new_id() for _ in range(100)}
        assert len(made) == 100
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)

    def test_ulids_grow_while_the_clock_stands_still(self, repository: Repository) -> None:
        made = [repository.new_ulid() for _ in range(100)]
        assert sorted(set(made)) == made

    def test_ulids_grow_when_the_clock_goes_back(self, store: Store) -> None:
        times = iter([NOON, NOON - timedelta(hours=1), NOON + timedelta(hours=1)])
        repository = Repository(store, now=lambda: next(times))
        made = [repository.new_ulid() for _ in range(3)]
        assert sorted(set(made)) == made

    def test_threads_never_get_the_same_ulid(self, repository: Repository) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: repository.new_ulid(), range(400)))
        assert len(set(made)) == 400

    def test_objects_are_named_by_their_digest_and_never_twice_alike(self, repository: Repository) -> None:
        digits = digest(b"").partition(":")[2]
        made = {repository.new_object_key(digest(b""), ".bin") for _ in range(100)}
        assert len(made) == 100
        assert all(re.fullmatch(rf"data/{digits[:2]}/{digits}-[0-9a-f]{{16}}\.bin", key) for key in made)

    def test_by_default_time_and_chance_are_real(self, store: Store) -> None:
        first, second = Repository(store), Repository(store)
        assert first.new_id() != second.new_id()
        assert abs(first.now() - datetime.now(timezone.utc)) < timedelta(minutes=1)
        assert utc_now().tzinfo is timezone.utc


def created(experiment: str, hours: int = 0) -> Created:
    return Created(experiment, NOON + timedelta(hours=hours))


class TestRecords:
    def test_a_record_lies_under_its_day_time_experiment_and_kind(self, repository: Repository, store: Store) -> None:
        key = repository.append(created("e" * 32))
        assert re.fullmatch(rf"records/20261123/[0-9A-Z]{{26}}-{'e' * 32}-created\.json", key)
        assert keys(store) == [key]
        assert store.get(key).startswith(b'{"digest":"sha256:')

    def test_the_day_is_that_of_the_ulid_also_when_the_clock_goes_back(self, store: Store) -> None:
        times = iter([NOON, NOON - timedelta(days=1)])
        repository = Repository(store, now=lambda: next(times))
        made = [repository.append(created("e" * 32)), repository.append(Ended("e" * 32, NOON, "finished"))]
        assert sorted(made) == made == keys(store)

    def test_records_come_back_in_the_order_they_were_written(self, repository: Repository) -> None:
        written = [
            created("b" * 32),
            created("a" * 32),
            Checkpointed("a" * 32, (CheckpointFacts("1" * 32, NOON, 0, {"loss": float("inf")}),)),
            Ended("b" * 32, NOON, "failed", "ValueError: no"),
        ]
        for record in written:
            repository.append(record)
        assert repository.read_records() == written

    def test_states_are_sorted_by_their_beginning_without_deleted_ones(self, repository: Repository) -> None:
        for record in (created("a" * 32, 2), created("b" * 32, 1), created("c" * 32, 0), created("0" * 32, 1)):
            repository.append(record)
        repository.append(Deleted("c" * 32))
        assert [experiment[0] for experiment in repository.states()] == ["0", "b", "a"]

    def test_an_empty_storage_has_none(self, repository: Repository) -> None:
        assert repository.read_records() == []
        assert repository.states() == {}

    def test_a_damaged_record_is_left_out_with_a_warning(self, repository: Repository, store: Store) -> None:
        damaged = repository.append(created("a" * 32))
        repository.append(created("b" * 32))
        store.put(damaged, store.get(damaged).replace(b'"name":null', b'"name":"me"'))
        with pytest.warns(UserWarning, match=f"left out of the listing: {damaged} was changed") as caught:
            assert list(repository.states()) == ["b" * 32]
        assert len(caught) == 1

    def test_a_record_that_says_nonsense_is_left_out_with_a_warning(self, repository: Repository, store: Store) -> None:
        key = f"records/20261123/{'0' * 26}-{'a' * 32}-created.json"
        store.put(key, seal({"kind": "created", "experiment": "a" * 32}))
        with pytest.warns(UserWarning, match=f"the record {key} can't be understood"):
            assert repository.read_records() == []

    def test_what_later_versions_add_is_passed_over(self, repository: Repository, store: Store) -> None:
        key = f"records/20261123/{'0' * 26}-{'a' * 32}-starred.json"
        store.put(key, seal({"kind": "starred", "experiment": "a" * 32}))
        store.put("records/20261123/notes.txt", b"mine")
        store.put("other/x.json", b"theirs")
        assert repository.read_records() == []

    def test_a_record_that_vanishes_while_they_are_read_is_passed_over(self, repository, store, monkeypatch) -> None:
        gone = repository.append(created("a" * 32))
        repository.append(created("b" * 32))
        listing = store.list("records/")
        monkeypatch.setattr(store, "list", lambda prefix: listing)
        store.delete([gone])
        assert list(repository.states()) == ["b" * 32]


class TestManifests:
    CONTENT = Manifest({"empty": File(0, 0o644, ())}, {"link": "empty"}, ("directory",))

    def test_come_back_as_they_were(self, repository: Repository, store: Store) -> None:
        key = repository.put_manifest(self.CONTENT)
        assert re.fullmatch(r"manifests/[0-9A-Z]{26}\.json", key)
        assert Repository(store).manifest(key) == self.CONTENT

    def test_are_read_once(self, repository: Repository, store: Store) -> None:
        key = repository.put_manifest(self.CONTENT)
        reader = Repository(store)
        first = reader.manifest(key)
        store.delete([key])
        assert reader.manifest(key) is first
        assert reader.manifests([None, key, None]) == [self.CONTENT]

    def test_no_more_than_so_many_are_kept(self, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replicate_core.repository.repository.MANIFESTS_MAX", 2)
        keys = [repository.put_manifest(self.CONTENT) for _ in range(4)]
        assert repository.manifests(keys) == [self.CONTENT] * 4
        last = repository.manifest(keys[-1])
        repository.store.delete(keys)
        assert repository.manifest(keys[-1]) is last
        with pytest.raises(Corrupted, match="is missing from"):
            repository.manifest(keys[0])

    def test_one_that_is_missing_or_damaged_is_corrupted(self, repository: Repository, store: Store) -> None:
        key = repository.put_manifest(self.CONTENT)
        store.put(key, store.get(key).replace(b"empty", b"other"))
        with pytest.raises(Corrupted, match=f"{key} was changed"):
            Repository(store).manifest(key)
        store.delete([key])
        with pytest.raises(Corrupted, match=f"the manifest {key} is missing from"):
            Repository(store).manifest(key)


@pytest.fixture(autouse=True)
def nothing_half_written(store: Store) -> Iterator[None]:
    """No test of this file may leave a temporary file in its storage."""
    yield
    assert isinstance(store, LocalStore)
    assert not list(store.root.rglob("*.tmp"))
