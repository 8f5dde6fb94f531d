"""A journal: what was appended is read whole, in order, or not at all, wherever its writer was stopped."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted
from replicate_core.format.sealed import seal
from replicate_core.format.values import Value
from replicate_core.spool import journal as journals
from replicate_core.spool.journal import START, Journal, Position


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


def documents(journal: Journal, start: Position = START, **options: int) -> list[Value]:
    return [line.document for line in Journal(journal.directory).read(start, **options)]


def segments(journal: Journal) -> list[str]:
    return sorted(os.listdir(journal.directory))


def append(journal: Journal, *documents: Value) -> None:
    for document in documents:
        journal.append(document)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


class TestReading:
    def test_what_was_appended_is_read_in_order(self, journal: Journal) -> None:
        written = [{"a": 1}, [], None, "ä\n\u2028", 1.5, {"nested": [{}]}]
        append(journal, *written)
        assert documents(journal) == written

    def test_nothing_was_appended_to_a_journal_that_is_not_there(self, journal: Journal) -> None:
        assert journal.read() == []
        assert not journal.directory.exists(), "and looking makes nothing"
        journal.directory.write_text("a file in its place")
        assert journal.read() == []

    def test_each_document_is_there_as_soon_as_it_is_appended(self, journal: Journal) -> None:
        for number in range(5):
            journal.append(number)
            assert documents(journal) == list(range(number + 1))

    def test_it_goes_on_behind_every_document(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 300)
        append(journal, *range(10))
        lines = journal.read()
        assert len({line.after.segment for line in lines}) > 1
        for number, line in enumerate(lines):
            assert documents(journal, line.after) == list(range(number + 1, 10))
        assert [line.after for line in lines] == sorted(line.after for line in lines)

    def test_no_more_than_what_is_asked_for(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 300)
        append(journal, *range(10))
        for count in range(12):
            assert documents(journal, count_max=count) == list(range(min(count, 10)))
        found, place = [], START
        while lines := journal.read(place, count_max=3):
            found += [line.document for line in lines]
            place = lines[-1].after
        assert found == list(range(10))

    def test_while_it_is_written_every_document_is_whole_and_none_is_missed(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 5000)
        writer = threading.Thread(target=append, args=(journal, *({"n": n, "fill": "x" * n} for n in range(400))))
        writer.start()
        found, place, alive = [], START, True
        while alive:
            alive = writer.is_alive()
            lines = Journal(journal.directory).read(place)
            found += [line.document["n"] for line in lines]
            place = lines[-1].after if lines else place
        assert found == list(range(400))


class TestSegments:
    def test_a_long_one_is_followed_by_another(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 300)
        append(journal, *range(20))
        assert len(segments(journal)) > 3
        assert segments(journal)[0] == "00000001.jsonl"
        assert documents(journal) == list(range(20))

    def test_what_is_behind_the_last_place_is_forgotten_file_by_file(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 300)
        append(journal, *range(20))
        for line in journal.read():
            journal.forget(line.after)
            assert segments(journal)[0] == f"{line.after.segment:08d}.jsonl"
            assert documents(journal, line.after) == list(range(line.document + 1, 20))
        append(journal, 20)
        assert documents(journal, line.after) == [20], "and it goes on behind what was forgotten"

    def test_forgetting_nothing_keeps_all(self, journal: Journal) -> None:
        journal.forget(START)
        append(journal, 1, 2)
        journal.forget(START)
        journal.forget(Position(1, 10))
        assert documents(journal) == [1, 2]

    def test_one_that_is_forgotten_while_it_is_read_has_nothing(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 0)
        append(journal, *range(3))
        reader = Journal(journal.directory)
        names = reader._segments()
        monkeypatch.setattr(reader, "_segments", lambda: names)
        journal.forget(Position(3, 0))
        assert [line.document for line in reader.read()] == [2]

    def test_two_that_forget_at_once_do_not_mind(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 0)
        append(journal, *range(3))
        names = journal._segments()
        monkeypatch.setattr(journal, "_segments", lambda: names)
        journal.forget(Position(3, 0))
        journal.forget(Position(3, 0))

    def test_after_closing_the_next_document_begins_another_one(self, journal: Journal) -> None:
        journal.append(1)
        journal.close()
        journal.close()
        journal.append(2)
        assert segments(journal) == ["00000001.jsonl", "00000002.jsonl"]
        assert documents(journal) == [1, 2]

    def test_a_new_writer_appends_behind_the_old_one(self, journal: Journal) -> None:
        journal.append(1)
        another = Journal(journal.directory)
        another.append(2)
        another.close()
        assert documents(journal) == [1, 2]

    def test_all_of_it_can_be_made_durable(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 0)
        journal.sync()
        append(journal, *range(3))
        synced = []
        monkeypatch.setattr(journals, "sync", lambda path: synced.append(path.name))
        journal.sync()
        assert synced == segments(journal)


class TestWhatWasTorn:
    def test_at_the_end_is_not_there(self, journal: Journal) -> None:
        append(journal, 1, 2)
        path = journal.directory / "00000001.jsonl"
        with open(path, "ab") as file:
            file.write(seal(3)[:-1])
        assert documents(journal) == [1, 2]
        with open(path, "ab") as file:
            file.write(b"\n")
        assert documents(journal) == [1, 2, 3], "it was only being written"

    def test_in_an_older_segment_hides_nothing_of_the_next_one(self, journal: Journal) -> None:
        append(journal, 1, 2)
        journal.close()
        path = journal.directory / "00000001.jsonl"
        os.truncate(path, path.stat().st_size - 1)
        append(journal, 3)
        assert documents(journal) == [1, 3]

    def test_in_the_middle_is_left_out_alone(self, journal: Journal) -> None:
        append(journal, *range(5))
        line = len(seal(0))
        for at in (2 * line + 20, 2 * line, 3 * line - 3):
            damage(journal.directory / "00000001.jsonl", at)
            assert documents(journal) == [0, 1, 3, 4]
            damage(journal.directory / "00000001.jsonl", at)

    def test_with_its_line_break_takes_its_neighbour_along_at_most(self, journal: Journal) -> None:
        append(journal, *range(5))
        damage(journal.directory / "00000001.jsonl", 3 * len(seal(0)) - 1)
        assert documents(journal) == [0, 1, 3, 4]

    def test_is_handed_out_with_the_document_that_follows_it(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journals, "SEGMENT_BYTES", 2 * len(seal(0)) - 1)
        append(journal, *range(6))
        size = len(seal(0))
        damage(journal.directory / "00000001.jsonl", size + 20)
        damage(journal.directory / "00000002.jsonl", 20)
        lines = journal.read()
        assert [line.document for line in lines] == [0, 3, 4, 5]
        assert [len(line.damaged) for line in lines] == [0, 2 * size, 0, 0]
        assert journal.read(lines[0].after, count_max=1)[0].damaged == lines[1].damaged
        assert journal.unreadable_end(lines[-1].after) == b""

    def test_behind_the_last_document_is_told_when_it_is_asked_for(self, journal: Journal) -> None:
        append(journal, 1, 2, 3)
        size = len(seal(1))
        damage(journal.directory / "00000001.jsonl", size + 20)
        damage(journal.directory / "00000001.jsonl", 2 * size + 20)
        (first,) = journal.read()
        assert len(journal.unreadable_end(first.after)) == 2 * size
        assert journal.unreadable_end(Position(2, 0)) == b""

    def test_by_another_program_in_front_of_a_document_leaves_the_document_whole(self, journal: Journal) -> None:
        """A C library that prints progress to a descriptor that was its own before."""
        append(journal, 1)
        with open(journal.directory / "00000001.jsonl", "ab") as file:
            file.write(b"progress 10%\r")
        append(journal, {"says": '{"digest":"'})
        first, second = journal.read()
        assert (first.document, second.document) == (1, {"says": '{"digest":"'})
        assert (first.damaged, second.damaged) == (b"", b"progress 10%\r")

    def test_is_passed_by_the_place_behind_the_next_one(self, journal: Journal) -> None:
        append(journal, 1, 2, 3)
        damage(journal.directory / "00000001.jsonl", len(seal(1)) + 30)
        (first, third) = journal.read()
        assert documents(journal, first.after) == [3]
        assert documents(journal, third.after) == []

    def test_a_segment_that_is_empty_is_as_good_as_none(self, journal: Journal) -> None:
        append(journal, 1)
        journal.close()
        (journal.directory / "00000002.jsonl").touch()
        append(journal, 2)
        assert documents(journal) == [1, 2]
        assert segments(journal)[-1] == "00000003.jsonl"

    def test_what_is_no_segment_is_not_read(self, journal: Journal) -> None:
        append(journal, 1)
        (journal.directory / "notes.txt").write_text("x")
        (journal.directory / "00000001.jsonl~").write_text("a copy of an editor")
        assert documents(journal) == [1]
        journal.append(2)
        assert documents(journal) == [1, 2]


def test_its_file_is_none_of_the_standard_streams(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from replicate_core.spool.journal import Journal\n"
        "for number in range(3): os.close(number)\n"
        "journal = Journal(Path(sys.argv[1])); journal.append(1); sys.exit(0 if journal._descriptor > 2 else 1)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "journal"], check=False, cwd=Path(__file__).parents[3]
    )
    assert process.returncode == 0
    assert documents(Journal(tmp_path / "journal")) == [1]


class TestADiskThatIsFull:
    """The system writes as much as fits, and says so with the next call."""

    @pytest.fixture
    def room(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many bytes still fit; a list of one number."""
        left, write = [10**9], os.write

        def limited(descriptor: int, data: bytes) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = write(descriptor, data[: left[0]])
            left[0] -= count
            return count

        monkeypatch.setattr(os, "write", limited)
        return left

    @pytest.mark.parametrize("fits", [0, 1, 50, len(seal(2)) - 1])
    def test_keeps_nothing_of_what_did_not_fit_and_loses_nothing_else(
        self, journal: Journal, room: list[int], fits: int
    ) -> None:
        journal.append(1)
        for _ in range(3):
            room[0] = fits
            with pytest.raises(OSError, match="No space left"):
                journal.append(2)
            assert documents(journal) == [1]
        room[0] = 10**9
        append(journal, 3, 4)
        assert documents(journal) == [1, 3, 4]

    def test_that_has_room_for_a_part_at_a_time_takes_it_all(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        append(journal, "a" * 100, "b")
        assert documents(journal) == ["a" * 100, "b"]

    def test_that_has_no_room_for_a_segment_is_no_end(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        journal.append(1)
        journal.close()

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(OSError, match="No space left"):
                journal.append(2)
        journal.append(3)
        assert documents(journal) == [1, 3]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=8), st.sampled_from([0, 200, 1 << 20]), st.data())
def test_cut_at_any_byte_all_that_was_whole_is_read_and_what_follows_is_appended(written, segment_bytes, data) -> None:
    """As a machine leaves it that lost its power: the end of the last segment is not there."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "SEGMENT_BYTES", segment_bytes)
        journal = Journal(Path(name) / "journal")
        append(journal, *written)
        journal.close()
        lines = journal.read()
        assert [line.document for line in lines] == written
        last = journal.directory / segments(journal)[-1]
        size = data.draw(st.integers(0, last.stat().st_size))
        os.truncate(last, size)
        whole = [line.document for line in lines if line.after <= (int(last.stem), size)]
        assert documents(journal) == whole
        append(journal, "next")
        journal.close()
        assert documents(journal) == [*whole, "next"]
        start = data.draw(st.sampled_from([START, *(line.after for line in lines)]))
        assert documents(journal, start) == [line.document for line in lines[: len(whole)] if line.after > start] + [
            "next"
        ]


@pytest.mark.parametrize("part", ["journal", "journal/00000001.jsonl"])
def test_one_that_can_not_be_read_is_no_empty_one(
    open_directory: Path, as_nobody: Callable[[], AbstractContextManager[None]], part: str
) -> None:
    """Else all that it holds would count as stored."""
    with as_nobody():
        journal = Journal(open_directory / "journal")
        journal.append({"step": 1})
        journal.close()
        (open_directory / part).chmod(0o311 if part == "journal" else 0)
        for look in (journal.read, journal.unreadable_end):
            with pytest.raises(Corrupted, match=r"can't be read: .*Permission denied"):
                look()
