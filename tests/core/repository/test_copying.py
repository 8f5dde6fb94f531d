"""What is copied is the union of both, verified, readable at every moment, and the same however often it is stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remote import ONE, OTHER
from stores import MemoryStore

from replicate_core.errors import Corrupted, InvalidInput, NotFound, StorageFailed, TooNew
from replicate_core.format import records
from replicate_core.format.keys import DATA, MANIFESTS, RECORDS, SEGMENTS, TOMBSTONES
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Deleted,
    Ended,
    Record,
    Released,
    Resumed,
)
from replicate_core.format.sealed import seal
from replicate_core.machine.staging import Staged, StagedFile
from replicate_core.repository import catalogue, copying
from replicate_core.repository.chunk_index import GRACE, ChunkIndex
from replicate_core.repository.copying import copy
from replicate_core.repository.pruning import prune
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of, verify
from replicate_core.repository.writing import publish

CONTENTS = [bytes([number]) * 300 for number in range(8)]
NAMES, FOREIGN = ["1" * 32, "2" * 32], "3" * 32


class Died(BaseException):
    """Ends a copy as a kill would."""


class Side:
    """A repository that experiments are recorded in."""

    def __init__(self, scratch: Path, seed: int) -> None:
        self.remote = MemoryStore()
        self.chance = random.Random(seed)
        self.scratch = scratch
        self.copies = scratch / "copies"
        self.copies.write_bytes(b"".join(CONTENTS))
        self.made: dict[str, list[str]] = {}
        self.repository.prepare()

    @property
    def repository(self) -> Repository:
        """As a process sees it that looks now."""
        return Repository(self.remote, now=lambda: self.remote.now, randomness=self.chance.randbytes)

    def record(self, record: Record) -> None:
        self.remote.wait(seconds=1)
        self.repository.append(record)

    def begin(self, experiment: str = ONE) -> None:
        self.made.setdefault(experiment, [])
        self.record(Created(experiment, self.remote.now))

    def save(self, experiment: str, *numbers: int, session: str | None = None) -> str:
        """Make a checkpoint of some files; returns its id."""
        self.remote.wait(seconds=1)
        files = tuple(StagedFile(str(number), 0o644, self.copies, 300 * number, 300) for number in numbers)
        facts = CheckpointFacts(self.chance.randbytes(16).hex(), self.remote.now, len(self.made[experiment]), {})
        publish(
            self.repository,
            ChunkIndex(self.repository),
            Staged(self.scratch, files, {}, ()),
            "none",
            lambda done: Checkpointed(
                experiment, (replace(facts, manifest=done.manifest, size_bytes=done.size_bytes),), session
            ),
        )
        self.made[experiment].append(facts.id)
        return facts.id

    def train(self, experiment: str = ONE, *, first: int = 0) -> None:
        self.begin(experiment)
        self.save(experiment, first, first + 1)
        self.save(experiment, first + 1, first + 2)
        self.record(Ended(experiment, self.remote.now, "finished"))

    def prune(self) -> None:
        """Announce, wait, and delete."""
        for _ in range(2):
            self.remote.wait(days=2)
            prune(self.repository, scratch=self.scratch)

    def doom(self) -> None:
        self.remote.wait(days=2)
        prune(self.repository, scratch=self.scratch)
        assert self.remote.keys(TOMBSTONES)

    def states(self) -> dict[str, records.ExperimentState]:
        return self.repository.states()

    def dangling(self) -> list[str]:
        """What is referred to, and not there."""
        before, self.remote.before = self.remote.before, lambda _verb, _key: None
        try:
            repository = self.repository
            missing = []
            for snapshot in snapshots_of(repository.states()):
                try:
                    content = repository.manifest(snapshot.manifest)
                except Corrupted:
                    missing.append(snapshot.manifest)
                else:
                    missing += [key for key in content.object_bytes if key not in self.remote.objects]
            return missing
        finally:
            self.remote.before = before

    def keys(self, *prefixes: str) -> set[str]:
        return {key for prefix in prefixes for key in self.remote.keys(prefix)}


class Pair:
    """Two repositories, and a place for what is on its way."""

    def __init__(self, directory: Path) -> None:
        self.scratch = directory / "scratch"
        sides = []
        for number in range(2):
            (directory / str(number)).mkdir()
            sides.append(Side(directory / str(number), number))
        self.source, self.target = sides
        self.scratch.mkdir()

    def copy(self, **options: object) -> copying.CopyReport:
        return copy(self.source.repository, self.target.repository, scratch=self.scratch, **options)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def without_keys(state: records.ExperimentState) -> records.ExperimentState:
    """What a state says but for the manifests: those may have been replaced."""
    made = tuple(replace(item, manifest="some" if item.manifest else None, code=None) for item in state.checkpoints)
    return replace(state, checkpoints=made, created=replace(state.created, manifest=None), code=None)


def watch(pair: Pair, also: Callable[[int], object] = lambda _: None) -> Callable[[], int]:
    """From now on every write to the target finds it readable; returns what counts the requests."""
    count = 0

    def before(verb: str, _key: str) -> None:
        nonlocal count
        count += 1
        also(count)
        if verb == "put":
            assert pair.target.dangling() == []

    pair.target.remote.before = before
    return lambda: count


class TestCopy:
    def test_brings_everything_under_its_own_keys(self, pair: Pair) -> None:
        pair.source.train()
        report = pair.copy()
        assert (report.experiments, report.records, report.failed, report.unusable) == ((ONE,), 4, {}, ())
        assert report.bytes_copied == sum(
            len(data) for key, (data, _) in pair.source.remote.objects.items() if key in pair.source.keys(DATA)
        )
        kinds = (RECORDS, MANIFESTS, DATA)
        assert pair.target.keys(*kinds) == pair.source.keys(*kinds)
        assert all(
            pair.target.remote.objects[key][0] == pair.source.remote.objects[key][0] for key in pair.source.keys(*kinds)
        )
        assert verify(pair.target.repository, deep=True).damages == ()

    def test_again_does_nothing(self, pair: Pair) -> None:
        pair.source.train()
        pair.copy()
        before = dict(pair.target.remote.objects)
        assert pair.copy() == copying.CopyReport(unchanged=1)
        assert pair.target.remote.objects == before

    def test_of_some_experiments_brings_those(self, pair: Pair) -> None:
        pair.source.train(ONE)
        pair.source.train(OTHER, first=4)
        assert pair.copy(experiments=[OTHER]).experiments == (OTHER,)
        assert list(pair.target.states()) == [OTHER]
        assert pair.target.dangling() == []

    def test_leaves_what_is_there(self, pair: Pair) -> None:
        pair.source.train(ONE)
        pair.target.train(OTHER)
        before = pair.target.keys(RECORDS, MANIFESTS, DATA)
        pair.copy()
        assert before < pair.target.keys(RECORDS, MANIFESTS, DATA)
        assert set(pair.target.states()) == {ONE, OTHER}

    def test_goes_on_with_what_went_on(self, pair: Pair) -> None:
        pair.source.begin()
        pair.source.save(ONE, 0)
        pair.copy()
        pair.source.save(ONE, 0, 1)
        report = pair.copy()
        assert (report.records, report.objects) == (1, 1)
        assert pair.target.states() == pair.source.states()

    def test_brings_deletions(self, pair: Pair) -> None:
        pair.source.train(ONE)
        pair.source.train(OTHER)
        pair.copy()
        pair.source.record(Deleted(ONE))
        pair.source.record(Deleted(OTHER, tuple(pair.source.made[OTHER][:1])))
        pair.source.prune()
        report = pair.copy()
        assert (report.experiments, report.deleted, report.unchanged) == ((OTHER,), (ONE,), 0)
        assert pair.target.states() == pair.source.states()
        assert pair.copy() == copying.CopyReport(unchanged=1)

    def test_of_a_deleted_experiment_brings_the_records_alone(self, pair: Pair) -> None:
        pair.source.train()
        pair.source.record(Deleted(ONE))
        pair.source.prune()
        assert pair.copy().objects == 0
        assert pair.target.states() == {}
        assert pair.target.keys(DATA) == set()

    def test_needs_no_files_that_were_let_go(self, pair: Pair) -> None:
        pair.source.begin()
        first, _ = pair.source.save(ONE, 0), pair.source.save(ONE, 5)
        pair.source.record(Released(ONE, (first,)))
        pair.source.prune()
        watch(pair)
        assert pair.copy().failed == {}
        assert pair.target.states() == pair.source.states()

    def test_needs_no_files_that_were_set_aside(self, pair: Pair) -> None:
        pair.source.begin()
        first, _ = pair.source.save(ONE, 0), pair.source.save(ONE, 5)
        pair.source.record(Resumed(ONE, pair.source.remote.now, "a" * 32, None, first))
        pair.source.save(ONE, 6, session="a" * 32)
        pair.source.prune()
        watch(pair)
        assert pair.copy().failed == {}
        assert pair.target.states() == pair.source.states()

    def test_brings_no_heartbeats_tombstones_or_segments(self, pair: Pair) -> None:
        pair.source.train()
        pair.source.remote.put("heartbeats/x.json", seal({}))
        pair.source.repository.put_tombstone([f"manifests/{'0' * 26}.json"])
        pair.source.remote.put("segments/x.jsonl.gz", b"")
        pair.copy()
        assert pair.target.keys("heartbeats/", TOMBSTONES, SEGMENTS) == set()

    def test_into_days_that_are_over_is_seen_at_once(self, pair: Pair) -> None:
        """Where a listing goes by segments it does not look through old days."""
        pair.source.train(ONE)
        pair.target.train(OTHER)
        pair.target.remote.wait(days=3)
        pair.target.train("3" * 32)
        from replicate_core.repository.compacting import compact

        compact(pair.target.repository)
        pair.copy()
        assert set(catalogue.read(pair.target.repository).experiments) == {ONE, OTHER, "3" * 32}

    def test_tells_how_far_it_is(self, pair: Pair) -> None:
        pair.source.train(ONE)
        pair.source.train(OTHER, first=4)
        seen: list[tuple[int, int]] = []
        pair.copy(progress=lambda done, total: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1]


class TestRefusals:
    def test_both_are_the_same_under_whatever_name(self, pair: Pair) -> None:
        pair.source.train()
        before = dict(pair.source.remote.objects)
        with pytest.raises(InvalidInput, match="are the same repository"):
            copy(pair.source.repository, pair.source.repository, scratch=pair.scratch)
        assert pair.source.remote.objects == before

    def test_nothing_is_there(self, pair: Pair) -> None:
        pair.source.remote.objects.clear()
        with pytest.raises(NotFound, match="nothing to copy"):
            pair.copy()

    def test_the_target_is_newer(self, pair: Pair) -> None:
        pair.target.remote.put("replicate.json", b'{"format": 2, "digest": "sha256"}')
        with pytest.raises(TooNew):
            pair.copy()

    def test_a_storage_that_fails_is_an_error_and_the_next_time_goes_on(self, pair: Pair) -> None:
        pair.source.train()

        def fail(verb: str, key: str) -> None:
            if verb == "put" and key.startswith(RECORDS):
                raise StorageFailed("the network is gone")

        pair.target.remote.before = fail
        with pytest.raises(StorageFailed):
            pair.copy()
        pair.target.remote.before = lambda _verb, _key: None
        assert pair.target.states() == {}
        assert pair.copy().objects == 0
        assert pair.target.states() == pair.source.states()


class TestDamage:
    def test_of_an_object_keeps_its_experiment_back_alone(self, pair: Pair) -> None:
        pair.source.train(ONE)
        hurt = sorted(pair.source.keys(DATA))
        pair.source.train(OTHER, first=5)
        for key in hurt:
            data, written = pair.source.remote.objects[key]
            pair.source.remote.objects[key] = data[:600] + b"x" + data[601:], written
        report = pair.copy()
        assert (report.experiments, list(report.failed)) == ((OTHER,), [ONE])
        assert list(pair.target.states()) == [OTHER]
        assert not pair.target.keys(DATA) & set(hurt)

    @pytest.mark.parametrize("prefix", [DATA, MANIFESTS])
    def test_what_is_missing_keeps_its_experiment_back(self, pair: Pair, prefix: str) -> None:
        pair.source.train()
        for key in pair.source.keys(prefix):
            del pair.source.remote.objects[key]
        assert list(pair.copy().failed) == [ONE]
        assert pair.target.states() == {}

    def test_between_the_members_of_a_pack_is_noticed(self, pair: Pair) -> None:
        pair.source.begin()
        pair.source.save(ONE, 0, 1)
        (key,) = pair.source.keys(DATA)
        data, written = pair.source.remote.objects[key]
        pair.source.remote.objects[key] = data[:-1] + b"x", written
        assert "is not what was stored" in pair.copy().failed[ONE]

    def test_of_a_record_is_said(self, pair: Pair) -> None:
        pair.source.train()
        key = next(key for key in pair.source.keys(RECORDS) if "-ended" in key)
        pair.source.remote.put(key, b"damaged")
        pair.source.remote.put(key.replace("-ended", "-invented"), seal({"kind": "invented", "experiment": ONE}))
        report = pair.copy()
        assert list(report.experiments) == [ONE]
        assert sorted("upgrade" in problem for problem in report.unusable) == [False, True]

    def test_of_the_beginning_keeps_all_back(self, pair: Pair) -> None:
        pair.source.train()
        pair.source.remote.put(next(key for key in pair.source.keys(RECORDS) if "-created" in key), b"damaged")
        assert "its beginning" in pair.copy().failed[ONE]
        assert pair.target.keys(RECORDS) == set()


class TestDoomed:
    """What is about to be deleted in the target is not relied upon, though it be what is wanted."""

    @pytest.fixture
    def doomed(self, pair: Pair) -> Pair:
        """A copy that died before its records were there, and two days later a prune."""
        pair.source.train()

        def die(verb: str, key: str) -> None:
            if verb == "put" and key.startswith(RECORDS):
                raise Died

        pair.target.remote.before = die
        with suppress(Died):
            pair.copy()
        pair.target.remote.before = lambda _verb, _key: None
        pair.target.doom()
        return pair

    def test_is_stored_again_under_another_key(self, doomed: Pair) -> None:
        old = doomed.target.keys(DATA, MANIFESTS)
        watch(doomed)
        doomed.copy()
        referred = {snapshot.manifest for snapshot in snapshots_of(doomed.target.states())}
        assert not referred & old
        doomed.target.remote.before = lambda _verb, _key: None
        doomed.target.prune()
        assert not doomed.target.keys(DATA, MANIFESTS) & old
        assert doomed.target.dangling() == []
        assert verify(doomed.target.repository, deep=True).damages == ()
        found, wanted = doomed.target.states()[ONE], doomed.source.states()[ONE]
        assert without_keys(found) == without_keys(wanted)
        assert doomed.copy() == copying.CopyReport(unchanged=1)

    def test_goes_on_under_the_old_keys_in_the_source(self, doomed: Pair) -> None:
        doomed.copy()
        doomed.source.begin(OTHER)
        doomed.source.save(OTHER, 0, 1, 2)
        assert doomed.copy().failed == {}
        doomed.target.prune()
        assert doomed.target.dangling() == []

    def test_while_others_are_deleted_meanwhile_what_is_lost_is_stored_again(self, pair: Pair) -> None:
        """Somebody prunes without a grace, though we write."""
        pair.source.train()
        pair.copy()
        pair.source.begin(OTHER)
        pair.source.save(OTHER, 0, 1)

        def vanish(verb: str, key: str) -> None:
            if verb == "put" and "-created" in key:
                pair.target.remote.before = lambda _verb, _key: None
                for gone in pair.source.keys(DATA) - {key for key in pair.target.keys(DATA) if key in fresh}:
                    pair.target.remote.objects.pop(gone, None)

        fresh: set[str] = set()
        pair.target.remote.before = vanish
        pair.copy()
        state = pair.target.states()[OTHER]
        content = pair.target.repository.manifest(state.checkpoints[0].manifest)
        assert content.object_bytes.keys() <= pair.target.keys(DATA)


def record_something(data: st.DataObject, side: Side, session: str, names: list[str]) -> None:
    """One thing that may happen to a repository: to an experiment that began there, or that was copied there."""
    for experiment, state in side.states().items():
        side.made.setdefault(experiment, [item.id for item in state.checkpoints])
    name = data.draw(st.sampled_from(sorted({*side.made, *names})))
    made = side.made.get(name)
    state = side.states().get(name)
    live = [item.id for item in state.checkpoints] if state else []
    begun = state is not None and state.session == session
    action = data.draw(st.integers(0, 9))
    if made is None:
        side.begin(name)
    elif action <= 3:
        made_in = data.draw(st.sampled_from([None, session] if begun else [None]))
        side.save(name, *data.draw(st.sets(st.integers(0, 7), min_size=1, max_size=3)), session=made_in)
    elif action == 4:
        side.record(Ended(name, side.remote.now, "finished"))
    elif action == 5 and made:
        side.record(Deleted(name, (data.draw(st.sampled_from(made)),) if data.draw(st.booleans()) else None))
    elif action == 6 and made:
        side.record(Released(name, (data.draw(st.sampled_from(made)),)))
    elif action == 7 and live and state.session is None:
        side.record(Resumed(name, side.remote.now, session, None, data.draw(st.sampled_from(live))))
    elif action == 8:
        side.prune()
    else:
        side.remote.wait(days=1)


def numbered() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


DIRECTORIES = numbered()


class TestTwoRandomRepositories:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(data=st.data())
    def test_become_their_union_and_killed_anywhere_and_repeated_the_same(
        self, data: st.DataObject, tmp_path: Path
    ) -> None:
        directory = tmp_path / str(next(DIRECTORIES))
        directory.mkdir()
        pair = Pair(directory)
        for _ in range(data.draw(st.integers(1, 12))):
            record_something(data, pair.source, "a" * 32, NAMES)
        for _ in range(data.draw(st.integers(0, 8))):
            if data.draw(st.booleans()):
                record_something(data, pair.source, "a" * 32, NAMES)
            elif data.draw(st.booleans()):
                record_something(data, pair.target, "b" * 32, [FOREIGN])
            else:
                pair.copy()
        union = {**pair.target.repository.records_at(sorted(pair.target.keys(RECORDS)))}
        union |= pair.source.repository.records_at(sorted(pair.source.keys(RECORDS)))
        pair.target.remote.now = max(pair.source.remote.now, pair.target.remote.now)
        for _ in range(data.draw(st.integers(0, 3))):
            moment = data.draw(st.integers(1, 40))

            def die(count: int, moment: int = moment) -> None:
                if count == moment:
                    raise Died

            watch(pair, die)
            with suppress(Died):
                pair.copy()
            pair.target.remote.before = lambda _verb, _key: None
            pair.target.remote.now += GRACE * data.draw(st.integers(0, 2)) + timedelta(seconds=1)
            if data.draw(st.booleans()):
                prune(pair.target.repository, scratch=pair.scratch)
        watch(pair)
        report = pair.copy()
        assert report.failed == {}
        pair.target.remote.before = lambda _verb, _key: None
        assert pair.target.dangling() == []
        assert set(union) <= pair.target.keys(RECORDS)
        wanted = records.fold(union[key] for key in sorted(union))
        found = pair.target.states()
        assert {name: without_keys(state) for name, state in found.items()} == {
            name: without_keys(state) for name, state in wanted.items()
        }
        assert verify(pair.target.repository, deep=True).damages == ()
        assert pair.copy().experiments == ()
        pair.target.prune()
        assert pair.target.dangling() == []
