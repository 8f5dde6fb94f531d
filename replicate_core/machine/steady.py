"""Consistent copies of files that may be written at the same time: a copy holds what the file held at one moment."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from replicate_core.errors import InvalidInput
from replicate_core.machine.descriptors import open_above
from replicate_core.machine.files import preallocate

COPY_BYTES = 1 << 20
COPY_ATTEMPTS = 5

_Copy: TypeAlias = io.FileIO | io.BytesIO

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""Flag without which opening a pipe would wait for a writer."""


class Unreadable(InvalidInput):
    """A file can't be copied as it is.

    Args:
        source: the file.
        why: the problem, in words that follow its name.
        advice: the rest of the message.
    """

    def __init__(self, source: Path, why: str, advice: str = "") -> None:
        super().__init__(f"{source} {why}{advice}")
        self.why = why

    @classmethod
    def because(cls, source: Path, reason: str | None) -> Unreadable:
        """The error for a file that can't be read, with the system's reason."""
        return cls(source, f"can't be read ({reason})", ", so it can't be saved. Make it readable, or leave it out")


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was made of a file."""

    mode: int
    """Its permissions."""
    size: int
    """Number of bytes that were copied."""
    is_growing: bool = False
    """Whether the file kept growing: then the copy is its beginning, as it was at one moment."""


def copy_steadily(source: Path, target: Path) -> Copied:
    """Copy a file that may be written at the same time, as it was at one moment.

    It uses plain reads, and writes into preallocated space: by measurement, no reflink, hard link or mapping is both
    cheaper and safe for a file that was just written. A `target` that exists is overwritten, which takes a fraction of
    the time because its pages need not be allocated.

    If the file grew meanwhile, the copy continues where it ended; if it changed in another way, it is copied again. If
    the file never stands still, its copy is compared with it and accepted if every byte is unchanged: then all of them
    were there at the same time.

    Changes are detected by size and modification time. A single `write` over the file in place that began before the
    copy, or a write through a mapping, changes neither: such a torn copy is not detected.

    Raises:
        Unreadable: it can't be read; or it changed during `COPY_ATTEMPTS` copies in a row, and not only by growing.
        FileNotFoundError: it is gone.
        OSError: the copy can't be written.
    """
    with _opened(source) as reader, open(open_above(target, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as copy:
        size = reader.status().st_size
        if os.fstat(copy.fileno()).st_size > size:  # else the old content takes space until the end
            copy.truncate(size)
        preallocate(copy.fileno(), size)
        copied = reader.copy_to(copy)
        copy.truncate(copied.size)
        return copied


def read_steadily(source: Path, *, size_max: int) -> tuple[bytes, Copied] | None:
    """Read a file as `copy_steadily` copies it; None if at any moment it is larger than `size_max`."""
    with _opened(source) as reader:
        memory = io.BytesIO()
        try:
            copied = reader.copy_to(memory, size_max)
        except _TooLarge:
            return None
        return memory.getvalue()[: copied.size], copied


class _TooLarge(Exception):
    """A file is larger than the limit."""


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    try:
        file = open(open_above(path, os.O_RDONLY | _NO_WAIT), "rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable.because(path, error.strerror) from error
    with file:
        source = _Source(path, file)
        if not stat.S_ISREG(source.status().st_mode):
            raise Unreadable.because(path, "it is a pipe or a device")
        yield source


class _Source:
    """An open file; if another one replaces it meanwhile, this one is still read."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._path = path
        self._file = file

    def status(self) -> os.stat_result:
        """Its current status."""
        try:
            return os.fstat(self._file.fileno())
        except OSError as error:
            raise Unreadable.because(self._path, error.strerror) from error

    def copy_to(self, copy: _Copy, size_max: int | None = None) -> Copied:
        """See `copy_steadily`; the caller cuts off what comes after the copied bytes."""
        reached = taken = 0
        for _ in range(COPY_ATTEMPTS):
            before = self.status()
            if size_max is not None and before.st_size > size_max:
                raise _TooLarge
            begun = min(reached, before.st_size)
            taken = self._append(copy, begun, before.st_size)
            after = self.status()
            is_still = _version(before) == _version(after) and taken == after.st_size
            if is_still and (begun == 0 or self._begins_with(copy, taken)):
                return Copied(after.st_mode & 0o777, taken)
            reached = taken if before.st_size < after.st_size else 0
        if self._begins_with(copy, taken):
            return Copied(self.status().st_mode & 0o777, taken, is_growing=True)
        raise Unreadable(
            self._path, "is being written all the time", f": it changed during {COPY_ATTEMPTS} copies in a row"
        )

    def _append(self, copy: _Copy, start: int, end: int) -> int:
        """Copy the bytes between two offsets; returns the offset where the file really ended."""
        copy.seek(start)
        buffer = memoryview(bytearray(min(COPY_BYTES, max(1, end - start))))
        while count := self._read(buffer[: end - start], start):
            view = buffer[:count]
            start += count
            while view:
                view = view[copy.write(view) :]
        return start

    def _begins_with(self, copy: _Copy, size: int) -> bool:
        """Tell whether the first bytes of a copy equal those of the file now."""
        copy.seek(0)
        there, here = (memoryview(bytearray(COPY_BYTES)) for _ in range(2))
        place = 0
        while place < size:
            count = self._read(there[: size - place], place)
            if not count or copy.readinto(here[:count]) != count or there[:count] != here[:count]:
                return False
            place += count
        return True

    def _read(self, buffer: memoryview, place: int) -> int:
        try:
            self._file.seek(place)
            return self._file.readinto(buffer) or 0
        except OSError as error:
            raise Unreadable.because(self._path, error.strerror) from error


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size
