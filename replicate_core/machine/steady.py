"""Copies of files that somebody may be writing: each holds what a file held at one moment, or is none.

Where the copies go, and what becomes of a file of which there can be none, is not here.
"""

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
from replicate_core.machine.files import set_aside

COPY_BYTES = 1 << 20
COPY_ATTEMPTS = 5

_Copy: TypeAlias = io.FileIO | io.BytesIO

_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe would wait for a writer."""


class Unreadable(InvalidInput):
    """A file that can't be copied as it stands.

    Args:
        source: the file.
        why: what is the matter with it, as it stands behind its name.
        advice: the rest of the message.
    """

    def __init__(self, source: Path, why: str, advice: str = "") -> None:
        super().__init__(f"{source} {why}{advice}")
        self.why = why

    @classmethod
    def because(cls, source: Path, reason: str | None) -> Unreadable:
        """A file that can't be read, for a reason that the system gives."""
        return cls(source, f"can't be read ({reason})", ", so it can't be saved. Make it readable, or leave it out")


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied of a file."""

    mode: int
    """Its permissions."""
    size: int
    """How many bytes were copied."""
    is_growing: bool = False
    """Whether it kept growing: the copy is its beginning then, as it was at one moment."""


def copy_steadily(source: Path, target: Path) -> Copied:
    """Copy a file that somebody may be writing, as it was at one moment.

    Plain reads and writes into space that was set aside first: measured, no reflink, hard link or mapping is both
    cheaper and safe for a file that was just written. A `target` that exists is written over: that takes a fraction of
    the time, because its pages need not be found first.

    A file that grew meanwhile is copied on from where it was; one that changed in another way is copied again. If it
    never stands still, its copy counts where every byte of it is still in its place: then none has changed between the
    two readings, and all of them were there at once.

    What is seen is a new size or time. A file that is written over in place by one single `write` that had begun before
    the copy, or through a mapping, changes none of them: nothing tells that such a copy is torn.

    Raises:
        Unreadable: it can't be read; or it changed during `COPY_ATTEMPTS` copies in a row, and not only by growing.
        FileNotFoundError: it is gone.
        OSError: the copy can't be written.
    """
    with _opened(source) as reader, _writable(target) as copy:
        size = reader.look().st_size
        if os.fstat(copy.fileno()).st_size > size:  # else all of the old one takes room until the end
            copy.truncate(size)
        set_aside(copy.fileno(), size)
        copied = reader.copy_to(copy)
        copy.truncate(copied.size)
        return copied


def read_steadily(source: Path, *, size_max: int) -> tuple[bytes, Copied] | None:
    """Read a file as `copy_steadily` copies it; None if it is larger than `size_max`, at any moment."""
    with _opened(source) as reader:
        memory = io.BytesIO()
        try:
            copied = reader.copy_to(memory, size_max)
        except _TooLarge:
            return None
        return memory.getvalue()[: copied.size], copied


def _writable(path: Path) -> io.FileIO:
    return open(open_above(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


class _TooLarge(Exception):
    """A file has more bytes than are wanted."""


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    try:
        file = open(open_above(path, os.O_RDONLY | _AT_ONCE), "rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable.because(path, error.strerror) from error
    with file:
        source = _Source(path, file)
        if not stat.S_ISREG(source.look().st_mode):
            raise Unreadable.because(path, "it is a pipe or a device")
        yield source


class _Source:
    """A file that is opened once: what takes its place meanwhile is another file."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._path = path
        self._file = file

    def look(self) -> os.stat_result:
        """What the system knows of it now."""
        try:
            return os.fstat(self._file.fileno())
        except OSError as error:
            raise Unreadable.because(self._path, error.strerror) from error

    def copy_to(self, copy: _Copy, size_max: int | None = None) -> Copied:
        """See `copy_steadily`; what stands behind the copy is left to be cut off."""
        reached = taken = 0
        for _ in range(COPY_ATTEMPTS):
            before = self.look()
            if size_max is not None and before.st_size > size_max:
                raise _TooLarge
            begun = min(reached, before.st_size)
            taken = self._append(copy, begun, before.st_size)
            after = self.look()
            is_still = _version(before) == _version(after) and taken == after.st_size
            if is_still and (begun == 0 or self._begins_with(copy, taken)):
                return Copied(after.st_mode & 0o777, taken)
            reached = taken if before.st_size < after.st_size else 0
        if self._begins_with(copy, taken):
            return Copied(self.look().st_mode & 0o777, taken, is_growing=True)
        raise Unreadable(
            self._path, "is being written all the time", f": it changed during {COPY_ATTEMPTS} copies in a row"
        )

    def _append(self, copy: _Copy, start: int, end: int) -> int:
        """Copy the bytes between two places; returns where they really ended."""
        copy.seek(start)
        buffer = memoryview(bytearray(min(COPY_BYTES, max(1, end - start))))
        while count := self._read(buffer[: end - start], start):
            view = buffer[:count]
            start += count
            while view:
                view = view[copy.write(view) :]
        return start

    def _begins_with(self, copy: _Copy, size: int) -> bool:
        """Tell whether the first bytes of a copy are those of the file now."""
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
