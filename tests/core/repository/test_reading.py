"""Files of a snapshot are read part by part, and no byte is handed over before its digest was checked."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, NotFound, StorageFailed
from replicate_core.format.digest import digest
from replicate_core.format.manifest import Encoding, File, Part
from replicate_core.repository.reading import (
    FETCH_BYTES,
    FETCHES_AT_ONCE,
    GAP_BYTES,
    KEPT_BYTES,
    Wanted,
    open_file,
    plan,
    read,
    read_all,
    read_part,
    wanted_of,
)
from replicate_core.repository.repository import Repository

KEY = f"data/00/{'0' * 64}-0"
MIB = 1 << 20


class Objects:
    """A store of given objects, which counts what is read."""

    url = "counting://here"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.read: list[tuple[int, int | None]] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.together = 1
        """How many requests have to be there before the first of them is answered."""
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        with self._lock:
            self.read.append((start, end))
            self.keys.append(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        deadline = time.monotonic() + 60
        while self.most_at_once < self.together:
            assert time.monotonic() < deadline, "the others do not come"
            time.sleep(0.001)
        with self._lock:
            self.at_once -= 1
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][start:end]

    @property
    def bytes_read(self) -> int:
        return sum((end or 0) - start for start, end in self.read)


def key_of(number: int) -> str:
    return f"data/00/{number:064x}-0"


def file_of(data: bytes, *lengths: int) -> tuple[Repository, File]:
    """A file that is stored in parts of these lengths, and then the rest."""
    parts, at = [], 0
    for length in (*lengths, len(data) - sum(lengths)):
        if length:
            parts.append(Part(KEY, at, length, digest(data[at : at + length])))
        at += length
    return Repository(Objects({KEY: data})), File(len(data), 0o644, tuple(parts))


def on_a_grid(data: bytes, step: int = MIB) -> tuple[Repository, File]:
    """A file in one object, in parts of the same length."""
    return file_of(data, *[step] * (len(data) // step))


def scattered(contents: Sequence[bytes]) -> tuple[Repository, File]:
    """A file whose every part is an object of its own."""
    parts = tuple(Part(key_of(number), 0, len(data), digest(data)) for number, data in enumerate(contents))
    objects = {key_of(number): data for number, data in enumerate(contents)}
    return Repository(Objects(objects)), File(sum(map(len, contents)), 0o644, parts)


def pieces_of(repository: Repository, files: Sequence[File]) -> Iterator[tuple[Wanted, bytes]]:
    """What `read_all` hands over."""
    return itertools.chain.from_iterable(read_all(repository, files, list))


def joined(repository: Repository, files: Sequence[File]) -> list[bytes]:
    """What `read_all` hands over, put together; every byte must come once."""
    found = [bytearray(file.size) for file in files]
    seen = [bytearray(file.size) for file in files]
    for wanted, data in pieces_of(repository, files):
        end = wanted.position + len(data)
        assert not any(seen[wanted.file][wanted.position : end]), "bytes were given twice"
        found[wanted.file][wanted.position : end] = data
        seen[wanted.file][wanted.position : end] = b"\x01" * len(data)
    assert all(all(one) for one in seen)
    return [bytes(one) for one in found]


def part_at(offset: int, length: int, key: str = KEY) -> Part:
    return Part(key, offset, length, f"sha256:{'0' * 64}")


def ranges(*parts: Part) -> list[tuple[str, int, int]]:
    return [(fetch.object, fetch.start, fetch.end) for fetch in plan(map(Wanted, parts))]


class TestPlan:
    def test_nothing_takes_no_request(self) -> None:
        assert ranges() == []

    def test_parts_side_by_side_come_together(self) -> None:
        assert ranges(part_at(0, 10), part_at(10, 10), part_at(20, 5)) == [(KEY, 0, 25)]

    def test_the_order_in_which_they_are_wanted_does_not_matter(self) -> None:
        assert ranges(part_at(20, 5), part_at(0, 10), part_at(10, 10)) == [(KEY, 0, 25)]

    def test_a_small_gap_is_fetched_with_them_and_a_larger_one_is_not(self) -> None:
        assert ranges(part_at(0, 10), part_at(10 + GAP_BYTES, 10)) == [(KEY, 0, 20 + GAP_BYTES)]
        assert ranges(part_at(0, 10), part_at(11 + GAP_BYTES, 10)) == [
            (KEY, 0, 10),
            (KEY, 11 + GAP_BYTES, 21 + GAP_BYTES),
        ]

    def test_each_object_takes_a_request_of_its_own(self) -> None:
        assert ranges(part_at(0, 10, key_of(1)), part_at(10, 10, key_of(2))) == [
            (key_of(1), 0, 10),
            (key_of(2), 10, 20),
        ]

    def test_a_request_brings_no_more_than_its_limit_unless_one_part_is_longer(self) -> None:
        parts = [part_at(number * MIB, MIB) for number in range(10)]
        assert [end - start for _, start, end in ranges(*parts)] == [FETCH_BYTES, FETCH_BYTES, 2 * MIB]
        assert ranges(part_at(0, 10), part_at(10, FETCH_BYTES + 1), part_at(FETCH_BYTES + 11, 10)) == [
            (KEY, 0, 10),
            (KEY, 10, FETCH_BYTES + 11),
            (KEY, FETCH_BYTES + 11, FETCH_BYTES + 21),
        ]

    def test_what_is_stored_counts_not_what_it_unpacks_to(self) -> None:
        encoded = [Part(KEY, number * 100, 1000, f"sha256:{'0' * 64}", Encoding("gzip", 100)) for number in range(5)]
        assert ranges(*encoded) == [(KEY, 0, 500)]

    def test_what_a_request_unpacks_to_is_bounded_too(self) -> None:
        encoded = [
            Part(KEY, number * 1000, MIB, f"sha256:{number:064x}", Encoding("gzip", 1000)) for number in range(2000)
        ]
        most = max(sum(item.part.length for item in fetch.wanted) for fetch in plan(map(Wanted, encoded)))
        assert most <= FETCH_BYTES + MIB, f"{most / MIB:.0f} MiB are held by one request"

    @given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12 * MIB), st.integers(1, 6 * MIB)), max_size=30))
    def test_every_part_is_fetched_once_within_its_limits(self, places) -> None:
        wanted = [
            Wanted(part_at(offset, length, key_of(number)), position=at)
            for at, (number, offset, length) in enumerate(places)
        ]
        fetches = list(plan(wanted))
        assert sorted(item.position for fetch in fetches for item in fetch.wanted) == list(range(len(places)))
        for fetch in fetches:
            longest = max(item.part.stored_bytes for item in fetch.wanted)
            assert fetch.end - fetch.start <= max(FETCH_BYTES, longest)
            for item in fetch.wanted:
                assert item.part.object == fetch.object
                assert fetch.start <= item.part.offset
                assert item.part.offset + item.part.stored_bytes <= fetch.end


class TestOnePart:
    def test_is_what_was_stored(self) -> None:
        data = os.urandom(1000)
        repository, file = file_of(data, 300, 300)
        assert [read_part(repository, part) for part in file.parts] == [data[:300], data[300:600], data[600:]]
        assert repository.store.read == [(0, 300), (300, 600), (600, 1000)]

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


class TestAll:
    def test_gives_every_byte_of_every_file_once(self) -> None:
        data = random.Random(0).randbytes(3000)
        repository, first = file_of(data, 1000, 1000)
        second = File(2000, 0o644, (first.parts[2], first.parts[0]))
        empty = File(0, 0o644, ())
        assert joined(repository, [first, empty, second]) == [data, b"", data[2000:] + data[:1000]]
        assert repository.store.read == [(0, 3000)]

    def test_no_files_and_empty_files_take_no_request(self) -> None:
        repository, file = file_of(b"")
        assert list(read_all(repository, [], list)) == []
        assert list(read_all(repository, [file, file], list)) == []
        assert repository.store.read == []

    def test_a_part_that_several_files_share_is_fetched_once(self) -> None:
        data = random.Random(1).randbytes(MIB)
        repository, file = file_of(data)
        assert joined(repository, [file] * 20) == [data] * 20
        assert repository.store.bytes_read == MIB

    @given(
        st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=6),
        st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=4),
    )
    def test_whatever_parts_files_are_made_of(self, pieces, files) -> None:
        repository, whole = file_of(b"".join(pieces), *map(len, pieces[:-1]))
        chosen = [[number % len(pieces) for number in numbers] for numbers in files]
        wanted = [
            File(
                sum(len(pieces[number]) for number in numbers), 0o644, tuple(whole.parts[number] for number in numbers)
            )
            for numbers in chosen
        ]
        assert joined(repository, wanted) == [b"".join(pieces[number] for number in numbers) for numbers in chosen]

    def test_several_requests_run_at_once_but_not_too_many(self) -> None:
        contents = [bytes([number]) * 100 for number in range(30)]
        repository, file = scattered(contents)
        repository.store.together = FETCHES_AT_ONCE
        assert joined(repository, [file]) == [b"".join(contents)]
        assert repository.store.most_at_once == FETCHES_AT_ONCE
        assert len(repository.store.read) == 30

    def test_no_more_is_fetched_ahead_than_a_few_requests(self) -> None:
        repository, file = scattered([bytes([number]) * 100 for number in range(30)])
        pieces = read_all(repository, [file], list)
        next(pieces)
        time.sleep(0.1)
        assert len(repository.store.read) <= FETCHES_AT_ONCE + 1
        pieces.close()
        made = len(repository.store.read)
        time.sleep(0.05)
        assert len(repository.store.read) == made

    def test_memory_is_bounded_whatever_the_size(self) -> None:
        data = random.Random(2).randbytes(64 * MIB)
        repository, file = on_a_grid(data)
        tracemalloc.start()
        try:
            assert sum(len(piece) for _, piece in pieces_of(repository, [file])) == len(data)
            assert tracemalloc.get_traced_memory()[1] < 3 * (FETCHES_AT_ONCE + 1) * FETCH_BYTES
        finally:
            tracemalloc.stop()
        assert len(repository.store.read) == 16

    def test_a_damaged_part_is_corrupted_before_any_of_its_bytes_is_given(self) -> None:
        contents = [bytes([number]) * 100 for number in range(12)]
        repository, file = scattered(contents)
        repository.store.objects[key_of(7)] = b"\x07" * 99 + b"\x06"
        given: list[int] = []
        with pytest.raises(Corrupted, match=f"{key_of(7)} in counting://here is damaged"):
            given.extend(wanted.position // 100 for wanted, _ in pieces_of(repository, [file]))
        assert given == list(range(7))

    def test_an_object_that_is_gone_is_corrupted(self) -> None:
        repository, file = scattered([b"one", b"two"])
        del repository.store.objects[key_of(1)]
        with pytest.raises(Corrupted, match=f"the object {key_of(1)} is missing"):
            list(pieces_of(repository, [file]))

    def test_a_part_that_claims_more_for_the_same_digest_is_refused(self) -> None:
        data = os.urandom(200)
        repository = Repository(Objects({KEY: data}))
        honest = Part(KEY, 0, 100, digest(data[:100]))
        for part in (
            Part(KEY, 0, 150, honest.digest),
            Part(KEY, 0, 50, honest.digest),
            Part(KEY, 100, 100, honest.digest),
            Part(KEY, 0, 300, honest.digest),
        ):
            file = File(100 + part.length, 0o644, (honest, part))
            with pytest.raises(Corrupted, match="is damaged"):
                list(pieces_of(repository, [file]))
            with pytest.raises(Corrupted, match="is damaged"):
                read(repository, next(plan(wanted_of(File(100 + part.length, 0o644, (part, honest))))))

    def test_a_part_that_has_another_encoding_for_the_same_digest_is_refused(self) -> None:
        data = os.urandom(100)
        repository = Repository(Objects({KEY: data}))
        honest = Part(KEY, 0, 100, digest(data))
        with pytest.raises(Corrupted, match="is damaged"):
            list(
                pieces_of(
                    repository,
                    [File(200, 0o644, (honest, Part(KEY, 0, 100, honest.digest, Encoding("gzip", 100))))],
                )
            )


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
        with pytest.raises(Corrupted, match=f"a part of {KEY} is damaged: it can't be decoded as gzip"):
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

    def test_a_few_bytes_of_a_large_file_cost_one_part_at_most(self) -> None:
        data = np.random.default_rng(1).bytes(50 * MIB)
        repository, file = on_a_grid(data)
        for position in (0, 50 * MIB - 10, 25 * MIB + 7):
            stream = open_file(repository, file, name="large")
            stream.seek(position)
            before = len(repository.store.read)
            assert stream.read(10) == data[position : position + 10]
            assert len(repository.store.read) == before + 1
            start, end = repository.store.read[-1]
            assert end - start == MIB

    def test_going_back_and_forth_fetches_nothing_twice(self) -> None:
        data = random.Random(2).randbytes(4 << 17)
        repository, file = on_a_grid(data, 1 << 17)
        stream = open_file(repository, file, name="large")
        for position in [0, len(data) - 5, 1 << 17, 7, 2 << 17, 0] * 3:
            stream.seek(position)
            assert stream.read(5) == data[position : position + 5]
        assert repository.store.bytes_read == len(data)

    def test_reading_on_and_on_takes_few_requests_and_bounded_memory(self) -> None:
        data = np.random.default_rng(3).bytes(50 * MIB)
        repository, file = on_a_grid(data)
        tracemalloc.start()
        try:
            stream = open_file(repository, file, name="large")
            for position in range(0, len(data), 100_000):
                assert stream.read(100_000) == data[position : position + 100_000]
            assert tracemalloc.get_traced_memory()[1] < KEPT_BYTES + 4 * FETCH_BYTES
        finally:
            tracemalloc.stop()
        assert len(repository.store.read) < 20
        assert repository.store.bytes_read == len(data)

    def test_what_was_read_long_ago_is_fetched_again(self) -> None:
        data = np.random.default_rng(4).bytes(2 * KEPT_BYTES)
        repository, file = on_a_grid(data)
        stream = open_file(repository, file, name="large")
        assert stream.read() == data
        stream.seek(0)
        assert stream.read(1) == data[:1]
        assert repository.store.read[-1] == (0, MIB)

    def test_a_part_longer_than_what_is_kept_can_be_read_and_nothing_is_read_ahead_with_it(self) -> None:
        data = np.random.default_rng(5).bytes(4 * KEPT_BYTES)
        repository, file = on_a_grid(data, KEPT_BYTES + MIB)
        stream = open_file(repository, file, name="large")
        assert stream.read() == data
        assert repository.store.bytes_read == len(data)
        assert len(repository.store.read) == len(file.parts)

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

    def test_a_good_part_can_be_read_though_one_that_is_read_ahead_is_damaged(self) -> None:
        repository, file = file_of(b"oneetwothree", 4, 4)
        repository.store.objects[KEY] = b"oneetwothrEE"
        stream = open_file(repository, file, name="most")
        assert stream.raw.read(4) == b"onee"
        assert stream.raw.read(4) == b"twot"
        with pytest.raises(Corrupted, match="is damaged"):
            stream.raw.read(4)

    def test_encoded_parts_are_read_anywhere_too(self) -> None:
        pieces = [f"line {number}\n".encode() * 200 for number in range(5)]
        stored = [gzip.compress(piece) for piece in pieces]
        starts = [sum(map(len, stored[:number])) for number in range(5)]
        parts = tuple(
            Part(KEY, start, len(piece), digest(piece), Encoding("gzip", len(packed)))
            for start, piece, packed in zip(starts, pieces, stored, strict=True)
        )
        data = b"".join(pieces)
        repository = Repository(Objects({KEY: b"".join(stored)}))
        stream = open_file(repository, File(len(data), 0o644, parts), name="log.txt")
        stream.seek(len(data) - 7)
        assert stream.read() == data[-7:]
        stream.seek(len(pieces[0]) - 3)
        assert stream.read(6) == data[len(pieces[0]) - 3 : len(pieces[0]) + 3]

    def test_a_zip_is_opened_directly_and_only_what_is_asked_for_is_fetched(self) -> None:
        chance = random.Random(6)
        contents = {f"{number}.bin": chance.randbytes(3 * MIB) for number in range(8)}
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        repository, file = on_a_grid(written.getvalue())
        with zipfile.ZipFile(open_file(repository, file, name="model.zip")) as archive:
            assert archive.namelist() == list(contents)
            assert archive.read("5.bin") == contents["5.bin"]
        assert repository.store.bytes_read < 10 * MIB

    def test_numpy_opens_its_files_directly(self) -> None:
        weights = np.random.default_rng(7).standard_normal((300, 1000))
        for save in (np.save, lambda written, array: np.savez(written, weights=array)):
            written = io.BytesIO()
            save(written, weights)
            repository, file = on_a_grid(written.getvalue())
            loaded = np.load(open_file(repository, file, name="weights"))
            assert np.array_equal(loaded if isinstance(loaded, np.ndarray) else loaded["weights"], weights)

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
