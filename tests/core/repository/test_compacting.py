"""Compaction deletes nothing that counts, may die or be done by several at once, and is done when it is worth it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest
from kit import until
from misbehaving import Storage
from remote import ONE, OTHER, Lab

from replicate_core.errors import StorageFailed, TooNew
from replicate_core.format import record_codec, segments
from replicate_core.format.keys import RECORDS, SEGMENTS
from replicate_core.format.records import Edited
from replicate_core.format.sealed import seal
from replicate_core.repository import catalogue, compacting
from replicate_core.repository.compacting import SEGMENTS_MAX, CompactReport, compact, compact_if_due
from replicate_core.repository.repository import Repository
from replicate_core.storage.cache import cached
from replicate_core.storage.local import LocalStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


class Died(BaseException):
    """Ends a compaction as a kill would."""


class TestCompact:
    def test_puts_what_is_new_into_a_segment_and_leaves_the_records(self, lab: Lab) -> None:
        keys = lab.train()
        assert lab.compact() == CompactReport(4, 0, lab.segment(), 0)
        assert lab.remote.keys(RECORDS) == set(keys)
        assert lab.compact() == CompactReport()

    def test_of_nothing_writes_nothing(self, lab: Lab) -> None:
        assert lab.compact() == CompactReport()
        assert lab.remote.keys(SEGMENTS) == set()

    def test_takes_what_was_recorded_before_of_the_experiments_that_went_on(self, lab: Lab) -> None:
        lab.train(ends=False)
        lab.train(OTHER)
        lab.compact()
        lab.train(checkpoints=0)
        report = lab.compact()
        assert report.records == 2
        *_, newest = catalogue.read_segments(lab.repository, lambda _: None)
        assert {name: len(piece.names) for name, piece in newest.pieces.items()} == {ONE: 5}

    def test_of_many_makes_one(self, lab: Lab) -> None:
        for number in range(SEGMENTS_MAX):
            lab.train(f"{number:032x}")
            assert lab.compact().replaced == 0
        assert len(lab.remote.keys(SEGMENTS)) == SEGMENTS_MAX
        lab.train()
        assert lab.compact().replaced == SEGMENTS_MAX
        assert len(list(catalogue.read_segments(lab.repository, lambda _: None)[0].keys)) == 4 * (SEGMENTS_MAX + 1)
        lab.check()
        lab.segment()

    def test_anew_goes_by_the_records_alone(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        lab.remote.put(lab.segment(), segments.encode(lab.segment(), []))
        lab.check()
        report = lab.compact(rebuild=True)
        assert (report.records, report.replaced) == (4, 1)
        lab.check()

    def test_anew_keeps_what_only_a_segment_holds_of_a_damaged_record(self, lab: Lab) -> None:
        created, *_ = lab.train()
        whole = lab.repository.states()
        lab.compact()
        lab.remote.put(created, lab.remote.objects[created][0][:-9])
        assert lab.repository.states(lambda _: None) == {}
        lab.compact(rebuild=True)
        assert lab.read() == whole
        lab.compact(rebuild=True)
        assert lab.read() == whole

    def test_leaves_alone_what_another_version_wrote(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        other = lab.segment()
        lab.forge(other, format=2)
        lab.compact(rebuild=True)
        assert other in lab.remote.keys(SEGMENTS)
        lab.check()

    def test_leaves_out_what_would_not_be_the_same(self, lab: Lab) -> None:
        (created, first, *_) = lab.train()
        copy = first.replace(ONE, OTHER)  # a record of ONE under a name that says OTHER
        lab.remote.put(copy, lab.remote.objects[first][0])
        lab.remote.put(created.replace("created", "edited"), b"nonsense\n")
        unbroken = f"{RECORDS}20261101/{'0' * 26}-{ONE}-edited.json"
        lab.remote.put(unbroken, seal(record_codec.encode(Edited(ONE, notes="by hand"))).rstrip(b"\n"))
        report = lab.compact()
        assert (report.records, report.unusable) == (4, 3)
        assert lab.compact() == CompactReport(unusable=3)
        with pytest.warns(UserWarning, match="not a document|belongs under another key"):
            lab.check()

    def test_leaves_out_experiments_that_are_too_large(self, lab: Lab, monkeypatch) -> None:
        monkeypatch.setattr(segments, "GROUP_BYTES_MAX", 2000)
        lab.train(checkpoints=20)
        lab.train(OTHER)
        report = lab.compact()
        assert (report.records, report.unusable) == (4, 22)
        lab.check()
        lab.later(3)
        lab.compact()
        lab.check()

    def test_reads_the_records_where_a_segment_that_it_needs_is_damaged(self, lab: Lab) -> None:
        lab.train(ends=False)
        lab.compact()
        key = lab.segment()
        data = bytearray(lab.remote.objects[key][0])
        data[-12] ^= 1
        lab.remote.put(key, bytes(data))
        lab.train(checkpoints=0)
        lab.compact()
        *_, newest = catalogue.read_segments(lab.repository, lambda _: None)
        assert newest.lines(newest.pieces[ONE]) == {
            name: lab.remote.objects[name][0] for name in lab.remote.keys(RECORDS)
        }

    def test_refuses_a_newer_repository(self, lab: Lab) -> None:
        lab.remote.put("replicate.json", b'{"format": 2, "digest": "sha256"}')
        with pytest.raises(TooNew):
            lab.compact()


class TestAtOnce:
    def test_two_leave_what_one_leaves(self, lab: Lab) -> None:
        """The second one begins at each moment of the first."""
        for moment in range(20):
            lab = Lab()
            for number in range(SEGMENTS_MAX):
                lab.train(f"{number:032x}")
                lab.compact()
            lab.train()
            asked = iter(range(1000))

            def another(_verb: str, _key: str, lab: Lab = lab, asked: Iterator[int] = asked, at: int = moment) -> None:
                if next(asked) == at:
                    lab.compact()

            lab.remote.before = another
            lab.compact()
            lab.remote.before = lambda _verb, _key: None
            lab.check()
            lab.compact()
            lab.check()
            held = catalogue.read_segments(lab.repository, lambda _: None)
            assert catalogue.uncovered_keys(lab.repository, held) == []

    def test_one_that_dies_at_any_moment_leaves_everything(self, lab: Lab) -> None:
        for number in range(SEGMENTS_MAX):
            lab.train(f"{number:032x}")
            lab.compact()
        lab.train()
        before = dict(lab.remote.objects)
        for moment in range(20):
            lab.remote.objects = dict(before)
            asked = iter(range(1000))

            def die(_verb: str, _key: str, asked: Iterator[int] = asked, at: int = moment) -> None:
                if next(asked) == at:
                    raise Died

            lab.remote.before = die
            with suppress(Died):
                lab.compact()
            lab.remote.before = lambda _verb, _key: None
            lab.check()
            lab.compact()
            lab.check()

    def test_a_storage_that_fails_is_an_error(self, lab: Lab) -> None:
        lab.train()

        def fail(verb: str, _key: str) -> None:
            if verb == "put":
                raise StorageFailed("the network is gone")

        lab.remote.before = fail
        with pytest.raises(StorageFailed):
            lab.compact()


class TestDue:
    def test_is_not_for_few_records(self, lab: Lab, monkeypatch) -> None:
        monkeypatch.setattr(compacting, "UNCOVERED_MAX", 5)
        monkeypatch.setattr(random, "uniform", lambda low, _high: low)
        lab.train()
        assert compact_if_due(lab.repository) == CompactReport()
        lab.train(OTHER)
        assert compact_if_due(lab.repository).records == 8
        assert compact_if_due(lab.repository) == CompactReport()

    def test_is_again_a_day_later(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        lab.later(0)
        assert compact_if_due(lab.repository) == CompactReport()
        lab.remote.wait(hours=25)
        assert compact_if_due(lab.repository).records == 4

    def test_is_where_a_name_says_nothing(self, lab: Lab) -> None:
        lab.train()
        key = f"{SEGMENTS}{'Z' * 26}.jsonl.gz"
        lab.remote.put(key, segments.encode(key, []))
        assert compact_if_due(lab.repository).records == 4

    def test_is_done_by_a_recorder_that_has_ended(self, project, storage: Storage, monkeypatch) -> None:
        import replicate_core as replicate

        monkeypatch.setattr(compacting, "UNCOVERED_MAX", 3)
        storage.install(monkeypatch)
        for number in range(3):
            experiment = replicate.init({"number": number}, path=None)
            experiment.checkpoint(None, {"loss": 1.0})
            experiment.stop()
        repository = Repository(LocalStore(project / ".replicate/storage"))
        until(lambda: repository.store.names(SEGMENTS))
        assert len(replicate.experiments.list()) == 3


@pytest.fixture
def storage() -> Storage:
    return Storage()


class TestCache:
    def test_keeps_the_segments_that_are_there(self, lab: Lab, tmp_path) -> None:
        """They are fetched once, and forgotten when others have taken their place."""
        lab.train()
        lab.compact()
        repository = Repository(cached(lab.remote, directory=tmp_path))
        for _ in range(2):
            assert list(catalogue.read(repository).experiments) == [ONE]
        assert lab.remote.asked.count("get_many 1") == 1
        old = lab.segment()
        lab.compact(rebuild=True)
        assert list(catalogue.read(repository).experiments) == [ONE]
        assert repository.store._load([old]) == {}
        assert repository.store._load([lab.segment()]) != {}

    def test_takes_no_damaged_one(self, lab: Lab, tmp_path) -> None:
        lab.train()
        lab.compact()
        store = cached(lab.remote, directory=tmp_path)
        good = lab.remote.objects[lab.segment()]
        lab.remote.put(lab.segment(), b"damaged")
        store.get_many([lab.segment()])
        lab.remote.objects[lab.segment()] = good
        assert store.get_many([lab.segment()]) == {lab.segment(): good[0]}


def test_a_sealed_line_that_is_no_record_is_left_out(lab: Lab) -> None:
    key = lab.train()[1]
    lab.remote.put(key, seal({"kind": "checkpoints"}))
    assert lab.compact().unusable == 1
    assert compact(lab.repository).records == 0
