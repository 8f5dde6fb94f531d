"""Copies of files that somebody is writing: what they hold was there at one moment, or they are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate_core.errors import InvalidInput
from replicate_core.machine import steady
from replicate_core.machine.steady import COPY_ATTEMPTS, COPY_BYTES, Copied, Unreadable, copy_steadily, read_steadily

Meanwhile = Callable[[Path, Callable[[], object]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Does something to a file before each look at it, and so around each reading."""
    plain = os.fstat

    def install(path: Path, action: Callable[[], object]) -> None:
        number = path.stat().st_ino

        def look(descriptor: int) -> os.stat_result:
            if plain(descriptor).st_ino == number:
                action()
            return plain(descriptor)

        monkeypatch.setattr(os, "fstat", look)

    return install


def times(count: int, action: Callable[[], object]) -> Callable[[], object]:
    """Does it so many times, and nothing then."""
    left = [count]

    def limited() -> None:
        left[0] -= 1
        if left[0] >= 0:
            action()

    return limited


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def overwrite(path: Path, data: bytes, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def copied(source: Path, target: Path) -> tuple[bytes, Copied]:
    found = copy_steadily(source, target)
    return target.read_bytes(), found


def read(source: Path, _target: Path) -> tuple[bytes, Copied]:
    found = read_steadily(source, size_max=1 << 30)
    assert found is not None, "it is small enough"
    return found


@pytest.fixture(params=[copied, read])
def take(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], tuple[bytes, Copied]]:
    """Copies a file, or reads it."""
    return lambda source: request.param(source, tmp_path / "target")


Take = Callable[[Path], tuple[bytes, Copied]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


class TestCopies:
    @pytest.mark.parametrize("size", [0, 1, COPY_BYTES, 2 * COPY_BYTES + 17])
    def test_have_the_bytes_of_the_file(self, source: Path, take: Take, size: int) -> None:
        data = os.urandom(size)
        source.write_bytes(data)
        source.chmod(0o640)
        assert take(source) == (data, Copied(0o640, size))

    @pytest.mark.parametrize("size", [0, 10, 1000])
    def test_are_written_over_what_was_there(self, source: Path, tmp_path: Path, size: int) -> None:
        source.write_bytes(b"content")
        (tmp_path / "target").write_bytes(b"x" * size)
        assert copied(source, tmp_path / "target")[0] == b"content"

    def test_of_what_is_gone_are_not_found(self, tmp_path: Path, take: Take) -> None:
        with pytest.raises(FileNotFoundError) as raised:
            take(tmp_path / "gone")
        assert Path(raised.value.filename) == tmp_path / "gone"

    def test_of_what_is_larger_than_wanted_are_not_made(self, source: Path) -> None:
        source.write_bytes(b"12345")
        assert read_steadily(source, size_max=5) == (b"12345", Copied(source.stat().st_mode & 0o777, 5))
        assert read_steadily(source, size_max=4) is None


class TestAFileThatChangesMeanwhile:
    @pytest.mark.parametrize("after", [b"longer than it was before", b"short", b"what it was then.."])
    def test_is_copied_again(self, source: Path, take: Take, monkeypatch: pytest.MonkeyPatch, after: bytes) -> None:
        source.write_bytes(b"what it was before")
        plain, change = steady._Source._append, times(1, lambda: source.write_bytes(after))

        def append_and_change(self: steady._Source, *arguments: object) -> int:
            reached = plain(self, *arguments)
            change()
            return reached

        monkeypatch.setattr(steady._Source, "_append", append_and_change)
        data, found = take(source)
        assert (data, found.size, found.is_growing) == (after, len(after), False)

    def test_by_growing_is_copied_to_its_end_once_it_stands_still(
        self, source: Path, take: Take, meanwhile: Meanwhile
    ) -> None:
        source.write_bytes(b"begin ")
        meanwhile(source, times(6, lambda: append(source, b"more ")))
        data, found = take(source)
        assert data == source.read_bytes() == b"begin " + 6 * b"more "
        assert not found.is_growing

    def test_by_growing_and_in_its_midst_is_copied_from_its_beginning(
        self, source: Path, take: Take, meanwhile: Meanwhile
    ) -> None:
        source.write_bytes(b"header 0, rows")

        def change() -> None:
            overwrite(source, b"1", 7)
            append(source, b", more")

        meanwhile(source, times(5, change))
        data, found = take(source)
        assert data == source.read_bytes()
        assert data.startswith(b"header 1, rows, more")
        assert not found.is_growing

    @pytest.mark.parametrize("size", [5, COPY_BYTES + 5])
    def test_by_growing_all_the_time_is_copied_as_far_as_it_reached(
        self, source: Path, take: Take, meanwhile: Meanwhile, size: int
    ) -> None:
        source.write_bytes(os.urandom(size))
        meanwhile(source, lambda: append(source, os.urandom(7)))
        data, found = take(source)
        assert found.is_growing
        assert found.size == len(data) > size
        assert source.read_bytes().startswith(data)

    def test_by_growing_all_the_time_is_copied_once(
        self, source: Path, tmp_path: Path, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A log of gigabytes is read twice, not ten times: once for the copy, and once to see that nothing changed."""
        source.write_bytes(os.urandom(COPY_BYTES))
        meanwhile(source, lambda: append(source, b"line\n"))
        plain, counted = steady._Source._read, [0]

        def counting(self: steady._Source, buffer: memoryview, place: int) -> int:
            count = plain(self, buffer, place)
            counted[0] += count
            return count

        monkeypatch.setattr(steady._Source, "_read", counting)
        copy_steadily(source, tmp_path / "target")
        assert counted[0] < 2.5 * COPY_BYTES

    def test_in_place_all_the_time_is_an_error(self, source: Path, take: Take, meanwhile: Meanwhile) -> None:
        source.write_bytes(bytes(100))
        meanwhile(source, lambda: overwrite(source, os.urandom(8), 50))
        with pytest.raises(InvalidInput, match=rf"source is being written .* changed during {COPY_ATTEMPTS} copies"):
            take(source)

    def test_in_place_while_it_grows_is_an_error(self, source: Path, take: Take, meanwhile: Meanwhile) -> None:
        source.write_bytes(bytes(100))

        def change() -> None:
            overwrite(source, os.urandom(8), 0)
            append(source, b"more")

        meanwhile(source, change)
        with pytest.raises(Unreadable, match="is being written all the time"):
            take(source)

    def test_by_shrinking_all_the_time_never_has_bytes_that_are_gone(
        self, source: Path, take: Take, meanwhile: Meanwhile
    ) -> None:
        source.write_bytes(os.urandom(1000))
        meanwhile(source, lambda: os.truncate(source, max(0, source.stat().st_size - 100)))
        data, found = take(source)
        assert data == source.read_bytes()
        assert found.size == len(data)

    def test_beyond_what_is_small_is_not_small(self, source: Path, meanwhile: Meanwhile) -> None:
        source.write_bytes(b"12345")
        meanwhile(source, times(3, lambda: append(source, b"6")))
        assert read_steadily(source, size_max=6) is None

    def test_by_being_replaced_is_as_it_was_or_as_it_is(self, source: Path, take: Take, meanwhile: Meanwhile) -> None:
        source.write_bytes(b"before")

        def replace() -> None:
            source.with_name("new").write_bytes(b"after, and longer")
            source.with_name("new").rename(source)

        meanwhile(source, times(1, replace))
        assert take(source)[0] == b"before"
        assert take(source)[0] == b"after, and longer"

    def test_by_being_removed_is_as_it_was(self, source: Path, take: Take, meanwhile: Meanwhile) -> None:
        source.write_bytes(b"before")
        meanwhile(source, times(1, source.unlink))
        assert take(source)[0] == b"before"


class TestWhatIsNoFile:
    def test_a_directory_is_named(self, source: Path, take: Take) -> None:
        source.mkdir()
        with pytest.raises(Unreadable, match=r"source can't be read \(Is a directory\)"):
            take(source)

    def test_a_pipe_is_not_waited_for(self, source: Path, take: Take) -> None:
        os.mkfifo(source)
        with pytest.raises(Unreadable, match="it is a pipe or a device"):
            take(source)

    def test_a_disk_that_fails_is_named(self, source: Path, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
        source.write_bytes(b"content")

        def fails(descriptor: int) -> os.stat_result:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fstat", fails)
        with pytest.raises(Unreadable, match=r"source can't be read \(Input/output"):
            take(source)
        monkeypatch.undo()
