"""Files of a snapshot are read part by part, and no byte is handed over before its digest was checked."""

from __future__ import annotations

import gzip
import io
import os
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.documents import digest
from replicate_core.errors import Corrupted, NotFound, StorageFailed
from replicate_core.manifest import Encoding, File, Part
from replicate_core.reading import PARTS_KEPT, open_file, read_part, read_parts
from replicate_core.repository import Repository
from replicate_core.store import Entry

KEY = f"data/00/{'0' * 64}-0"


class Objects:
    """A store of given objects, which counts what is read."""

    url = "counting://here"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.read: list[tuple[int, int | None]] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.read.append((start, end))
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][start:end]

    def list(self, prefix: str) -> list[Entry]:
        raise NotImplementedError


def file_of(data: bytes, *lengths: int) -> tuple[Repository, File]:
    """A file that is stored in parts of these lengths, and then the rest."""
    parts, at = [], 0
    for length in (*lengths, len(data) - sum(lengths)):
        if length:
            parts.append(Part(KEY, at, length, digest(data[at : at + length])))
        at += length
    return Repository(Objects({KEY: data})), File(len(data), 0o644, tuple(parts))


class TestParts:
    def test_are_the_bytes_that_were_stored(self) -> None:
        data = os.urandom(1000)
        repository, file = file_of(data, 300, 300)
        assert list(read_parts(repository, file)) == [data[:300], data[300:600], data[600:]]

    def test_an_empty_file_has_none(self) -> None:
        repository, file = file_of(b"")
        assert list(read_parts(repository, file)) == []

    def test_every_flipped_bit_is_found(self) -> None:
        data = os.urandom(20)
        for bit in range(8 * len(data)):
            repository, file = file_of(data)
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            repository.store.objects[KEY] = bytes(damaged)
            with pytest.raises(Corrupted, match=f"{KEY} in counting://here is damaged: bytes 0 to 20 are not what"):
                read_part(repository, file.parts[0])

    def test_an_object_that_is_cut_short_or_gone_is_corrupted(self) -> None:
        repository, file = file_of(b"0123456789")
        repository.store.objects[KEY] = b"01234"
        with pytest.raises(Corrupted, match="is damaged"):
            read_part(repository, file.parts[0])
        del repository.store.objects[KEY]
        with pytest.raises(Corrupted, match=f"the object {KEY} is missing from counting://here"):
            read_part(repository, file.parts[0])

    def test_a_storage_that_fails_is_not_corrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> bytes:
            raise StorageFailed("no answer")

        repository, file = file_of(b"data")
        monkeypatch.setattr(repository.store, "get", failing)
        with pytest.raises(StorageFailed, match="no answer"):
            read_part(repository, file.parts[0])


class TestEncodedParts:
    DATA = b"text " * 1000

    def part(self, stored: bytes, data: bytes = DATA, *, length: int | None = None) -> tuple[Repository, Part]:
        encoding = Encoding("gzip", len(stored))
        part = Part(KEY, 3, len(data) if length is None else length, digest(data), encoding)
        return Repository(Objects({KEY: b"..." + stored + b"..."})), part

    def test_are_decoded(self) -> None:
        stored = gzip.compress(self.DATA)
        repository, part = self.part(stored)
        assert read_part(repository, part) == self.DATA
        assert repository.store.read == [(3, 3 + len(stored))]

    def test_what_cannot_be_decoded_is_corrupted(self) -> None:
        with pytest.raises(Corrupted, match=f"a part of {KEY} can't be decoded as gzip"):
            read_part(*self.part(b"this is no gzip"))
        with pytest.raises(Corrupted, match="is damaged"):
            read_part(*self.part(gzip.compress(self.DATA)[:-20]))
        with pytest.raises(Corrupted, match="is damaged"):
            read_part(*self.part(gzip.compress(b"shorter")))

    def test_a_part_that_unpacks_to_more_than_it_says_allocates_no_more(self) -> None:
        bomb = gzip.compress(bytes(64 << 20))
        tracemalloc.start()
        try:
            with pytest.raises(Corrupted, match="is damaged"):
                read_part(*self.part(bomb, length=1000))
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


class TestOpenFile:
    def test_reads_like_a_file(self) -> None:
        repository, file = file_of(b"first line\nsecond line\n", 4, 8)
        with open_file(repository, file, name="notes.txt") as stream:
            assert stream.readable()
            assert stream.seekable()
            assert not stream.writable()
            assert stream.name == "notes.txt"
            assert list(stream) == [b"first line\n", b"second line\n"]
            assert stream.read() == b""
        assert stream.closed
        with io.TextIOWrapper(open_file(repository, file, name="notes.txt")) as text:
            assert text.readline() == "first line\n"

    def test_an_empty_file_is_empty(self) -> None:
        repository, file = file_of(b"")
        assert open_file(repository, file, name="empty").read() == b""

    def test_only_what_is_read_is_fetched(self) -> None:
        data = random.Random(1).randbytes(1 << 20)
        repository, file = file_of(data, *[1 << 17] * 7)
        stream = open_file(repository, file, name="large")
        stream.seek(-10, io.SEEK_END)
        assert stream.read() == data[-10:]
        assert repository.store.read == [(7 << 17, 1 << 20)]

    def test_going_back_and_forth_fetches_nothing_twice(self) -> None:
        data = random.Random(2).randbytes(PARTS_KEPT << 17)
        repository, file = file_of(data, *[1 << 17] * (PARTS_KEPT - 1))
        stream = open_file(repository, file, name="large")
        for position in [0, len(data) - 5, 1 << 17, 7, 3 << 17, 0] * 3:
            stream.seek(position)
            assert stream.read(5) == data[position : position + 5]
        assert len(repository.store.read) == PARTS_KEPT - 1

    def test_no_more_than_a_few_parts_are_held(self) -> None:
        data = random.Random(3).randbytes(8 << 17)
        repository, file = file_of(data, *[1 << 17] * 7)
        stream = open_file(repository, file, name="large")
        assert stream.read() == data
        assert len(stream.raw._kept) == PARTS_KEPT
        stream.seek(0)
        assert stream.read(1) == data[:1]
        assert len(repository.store.read) == 9

    def test_beyond_the_end_there_is_nothing_and_before_the_beginning_no_place(self) -> None:
        repository, file = file_of(b"0123456789")
        stream = open_file(repository, file, name="digits")
        assert stream.seek(100) == 100
        assert stream.read() == b""
        with pytest.raises(OSError, match="before the beginning of digits"):
            stream.seek(-11, io.SEEK_END)
        assert stream.seek(4) == stream.tell() == 4
        assert stream.seek(2, io.SEEK_CUR) == 6
        assert stream.read() == b"6789"

    def test_a_damaged_part_is_never_handed_over_and_others_are(self) -> None:
        repository, file = file_of(b"good" + b"bad!", 4)
        repository.store.objects[KEY] = b"good" + b"bad?"
        stream = open_file(repository, file, name="half")
        assert stream.read(4) == b"good"
        with pytest.raises(Corrupted, match="is damaged"):
            stream.read(1)

    @given(
        st.binary(max_size=60),
        st.lists(st.integers(1, 20), max_size=4),
        st.lists(st.tuples(st.integers(0, 70), st.integers(0, 2), st.integers(-1, 70)), max_size=8),
    )
    def test_any_seeks_and_reads_give_what_a_local_file_gives(self, data, lengths, steps) -> None:
        while sum(lengths) > len(data):
            lengths.pop()
        repository, file = file_of(data, *lengths)
        mine, theirs = open_file(repository, file, name="any"), io.BytesIO(data)
        for offset, whence, count in steps:
            assert mine.seek(offset, whence) == theirs.seek(offset, whence)
            assert mine.read(count) == theirs.read(count)
            assert mine.tell() == theirs.tell()
