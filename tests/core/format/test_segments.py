"""A segment holds what it was given, is plain gzip, and is refused where it is not what was written."""

from __future__ import annotations

import gzip
import random
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, TooNew
from replicate_core.format import record_codec, segments
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended, ExperimentState, fold
from replicate_core.format.sealed import seal, unseal
from replicate_core.format.segments import Group, Summary, decode, encode, is_whole, summarise

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
KEY = "segments/s.jsonl.gz"
ONE, OTHER = "1" * 32, "2" * 32


def key(number: int, experiment: str, kind: str) -> str:
    return f"records/20261123/{number:026}-{experiment}-{kind}.json"


def group(experiment: str = ONE, first: int = 1) -> Group:
    made = CheckpointFacts("c" * 32, NOW + timedelta(seconds=1), 0, {"loss": 1.0})
    records = [Created(experiment, NOW), Checkpointed(experiment, (made,)), Ended(experiment, NOW, "failed")]
    lines = {
        key(first + number, experiment, record_codec.kind(record)): seal(record_codec.encode(record))
        for number, record in enumerate(records)
    }
    return Group(experiment, summarise(fold(records)[experiment]), lines)


def head(data: bytes) -> dict:
    return unseal(segments._unpack(data, 1 << 20, KEY)[0], key=KEY)


def with_head(data: bytes, changed: object) -> bytes:
    """The same blocks below another head, which is sealed as it should be."""
    return gzip.compress(seal(changed), mtime=0) + segments._unpack(data, 1 << 20, KEY)[1]


def read_all(data: bytes) -> dict[str, bytes]:
    segment = decode(data, key=KEY)
    return {name: line for piece in segment.pieces.values() for name, line in segment.lines(piece).items()}


class TestSegment:
    def test_holds_what_it_was_given(self) -> None:
        one, other = group(), group(OTHER, 10)
        data = encode(KEY, [one, other], settled=["20261101"], others=[key(9, OTHER, "starred")], beside=["segments/a"])
        segment = decode(data, key=KEY)
        assert read_all(data) == {**one.lines, **other.lines}
        assert list(segment.keys) == [*one.lines, *other.lines]
        assert segment.pieces[ONE].summary == Summary(NOW, NOW, "failed", None)
        assert (segment.settled, segment.others, segment.beside) == (
            {"20261101"},
            [key(9, OTHER, "starred")],
            ["segments/a"],
        )
        assert is_whole(KEY, data)

    def test_may_be_empty(self) -> None:
        assert decode(encode(KEY, []), key=KEY).pieces == {}

    def test_is_plain_gzip_of_a_head_and_the_records_as_they_are_stored(self) -> None:
        data = encode(KEY, [group(), group(OTHER, 10)])
        first, *lines = gzip.decompress(data).splitlines(keepends=True)
        assert first == seal(head(data))
        assert lines == [*group().lines.values(), *group(OTHER, 10).lines.values()]

    def test_has_many_blocks_of_which_those_are_unpacked_that_are_looked_at(self, monkeypatch) -> None:
        monkeypatch.setattr(segments, "BLOCK_BYTES", 1000)
        monkeypatch.setattr(segments, "BLOCKS_KEPT", 2)
        groups = [group(f"{number:032x}", 10 * number) for number in range(1, 30)]
        segment = decode(encode(KEY, groups), key=KEY)
        assert len(segment.ends) == 30
        for item in random.Random(1).choices(groups, k=100):
            assert segment.lines(segment.pieces[item.experiment]) == item.lines
            assert len(segment._unpacked) <= 2
        assert list(segment.blocks_with([b'"experiment":"%032x"' % 7, b'"kind"'])) == [6]

    def test_keys_of_some_days_are_those_of_the_experiments_that_recorded_then(self) -> None:
        segment = decode(encode(KEY, [group()]), key=KEY)
        assert list(segment.keys_of({"20261123"})) == list(group().lines)
        assert list(segment.keys_of({"20261122"})) == []


class TestSummary:
    def test_of_what_runs_tells_when_it_was_last_active(self) -> None:
        later = NOW + timedelta(hours=1)
        state = ExperimentState(Created(ONE, NOW), (CheckpointFacts("c", later, 0, {}),), session=OTHER)
        summary = Summary(NOW, later, None, OTHER)
        assert summarise(state) == summary
        data = encode(KEY, [Group(ONE, summary, group().lines)])
        assert decode(data, key=KEY).pieces[ONE].summary == summary

    def test_of_what_is_not_listed_is_none(self) -> None:
        data = encode(KEY, [Group(ONE, None, group().lines)])
        assert decode(data, key=KEY).pieces[ONE].summary is None


class TestDamage:
    @settings(max_examples=300)
    @given(st.data())
    def test_anywhere_is_noticed_or_changes_nothing(self, data: st.DataObject) -> None:
        good = encode(KEY, [group(), group(OTHER, 10)], settled=["20261101"])
        wanted = read_all(good)
        place = data.draw(st.integers(0, len(good) - 1))
        bad = data.draw(
            st.sampled_from(
                [good[:place], good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], good + b"x", good[place:]]
            )
        )
        try:
            found = read_all(bad)
            for name, line in found.items():
                unseal(line, key=name)
        except Corrupted:
            return
        assert found == wanted

    @settings(max_examples=300)
    @given(data=st.data())
    def test_of_a_head_by_a_stranger_is_refused_or_harmless(self, data: st.DataObject, damaged) -> None:
        good = encode(KEY, [group(), group(OTHER, 10)], settled=["20261101"])
        bad = with_head(good, data.draw(damaged(head(good))))
        try:
            read_all(bad)
        except (Corrupted, TooNew):
            return

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("blocks", [1]),
            ("blocks", [-1]),
            ("experiments", [["x", 0, None, []]]),
            ("experiments", [[ONE, 7, None, []]]),
            ("experiments", [[ONE, 0, None, ["../../x"]]]),
            ("experiments", [[ONE, 0, None, ["20261123/" + "0" * 26 + "-created\n20261123/" + "0" * 26 + "-ended"]]]),
            ("experiments", [[ONE, 0, None, [1]]]),
            ("experiments", [[ONE, 0, ["2026", None, None, None], []]]),
            ("experiments", [[ONE, 0, ["2026-11-23T00:00:00.000000Z", None, "flying", None], []]]),
            ("experiments", [[ONE, 0, None, []], [ONE, 0, None, []]]),
            ("experiments", 5),
        ],
        ids=str,
    )
    def test_of_one_field_is_refused(self, field: str, value: object) -> None:
        good = encode(KEY, [group()])
        with pytest.raises(Corrupted, match=r"segments/s\.jsonl\.gz"):
            decode(with_head(good, {**head(good), field: value}), key=KEY)

    def test_more_records_than_there_are_is_refused(self) -> None:
        good = encode(KEY, [group()])
        changed = head(good)
        changed["experiments"][0][3] *= 2
        segment = decode(with_head(good, changed), key=KEY)
        with pytest.raises(Corrupted, match="lacks records"):
            segment.lines(segment.pieces[ONE])

    def test_blocks_at_other_places_are_refused(self, monkeypatch) -> None:
        monkeypatch.setattr(segments, "BLOCK_BYTES", 1)
        good = encode(KEY, [group(), group(OTHER, 10)])
        changed = head(good)
        changed["blocks"] = [sum(changed["blocks"]), 0]
        segment = decode(with_head(good, changed), key=KEY)
        with pytest.raises(Corrupted, match="not where its head says"):
            segment.lines(segment.pieces[ONE])

    def test_what_unpacks_to_very_much_is_refused(self, monkeypatch) -> None:
        good = encode(KEY, [group()])
        monkeypatch.setattr(segments, "BLOCK_BYTES_MAX", 100)
        segment = decode(good, key=KEY)
        with pytest.raises(Corrupted, match="is too large"):
            segment.lines(segment.pieces[ONE])
        monkeypatch.setattr(segments, "HEAD_BYTES_MAX", 10)
        assert not is_whole(KEY, good)

    def test_other_records_that_are_none_are_passed_over(self) -> None:
        good = encode(KEY, [group()])
        others = ["replicate.json", "records/../../secret.json", "records/20261101/x.json", key(7, ONE, "starred")]
        assert decode(with_head(good, {**head(good), "others": others}), key=KEY).others == [key(7, ONE, "starred")]

    def test_that_makes_one_of_another_is_refused(self) -> None:
        good = encode("segments/other.jsonl.gz", [group()])
        assert not is_whole(KEY, good)
        with pytest.raises(Corrupted, match=r"segments/s\.jsonl\.gz holds what belongs under another key"):
            decode(good, key=KEY)

    def test_another_format_is_left_to_those_who_know_it(self) -> None:
        good = encode(KEY, [group()])
        with pytest.raises(TooNew, match="format 2"):
            decode(with_head(good, {**head(good), "format": 2}), key=KEY)
