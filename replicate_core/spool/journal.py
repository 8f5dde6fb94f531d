"""A journal: documents appended by one process and read by others, each whole or not there at all.

A line of it is a sealed document, written by one system call: it outlives the process that wrote it, however that
process ends. What the documents say is in `spool`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from replicate_core.errors import Corrupted
from replicate_core.format.sealed import HEAD, seal, unseal
from replicate_core.format.values import Value
from replicate_core.machine.descriptors import open_above, write_all
from replicate_core.machine.files import sync

SEGMENT_BYTES = 1 << 20
"""A file of a journal that is longer is followed by another one; what is no longer needed is deleted file by file."""

_ENDING = ".jsonl"
_SEGMENT = re.compile(r"[0-9]{8,}\.jsonl")


class Position(NamedTuple):
    """A place between two documents."""

    segment: int = 0
    offset: int = 0


START = Position()
"""Before everything."""


class JournalLine(NamedTuple):
    """A document, and the place behind it."""

    document: Value
    after: Position
    damaged: bytes = b""
    """What stands between it and the document before, and can't be read."""


class Journal:
    """A journal in a directory of its own.

    Args:
        directory: where it is, or will be.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None
        self._size = 0

    def append(self, document: Value) -> None:
        """Write a document behind all others.

        Raises:
            OSError: there is no room; nothing of it will ever be read.
        """
        line = seal(document)
        if self._descriptor is None or self._size > SEGMENT_BYTES:
            self._begin_segment()
        assert self._descriptor is not None, "a segment was begun"
        try:
            write_all(self._descriptor, line)
        except OSError:
            self.close()  # the next document begins another segment, behind what is torn here
            raise
        self._size += len(line)

    def read(self, start: Position = START, *, count_max: int | None = None) -> list[JournalLine]:
        """The documents behind a place, in order, as far as they are whole.

        What can't be read is handed out with the document that follows it; what none follows, by `unreadable_end`.

        Args:
            start: the place.
            count_max: no more than so many.

        Raises:
            Corrupted: something else stands in place of a file of it, or it can't be read.
        """
        lines: list[JournalLine] = []
        damaged = b""
        for segment in self._readable():
            if segment < start.segment:
                continue
            for document, damage, after in self._scan(segment, start.offset if segment == start.segment else 0):
                if count_max is not None and len(lines) >= count_max:
                    return lines
                damaged += damage
                if document is not None:
                    lines.append(JournalLine(document[0], after, damaged))
                    damaged = b""
        return lines

    def unreadable_end(self, start: Position = START) -> bytes:
        """The lines behind the last document that can't be read; empty if there are none.

        Args:
            start: a place behind which there is no document that can be read.
        """
        segments = [segment for segment in self._readable() if segment >= start.segment]
        return b"".join(
            damage
            for segment in segments
            for _, damage, _ in self._scan(segment, start.offset if segment == start.segment else 0)
        )

    def end(self) -> Position:
        """The place behind the last document, which may be being written."""
        last = max(self._readable(), default=0)
        try:
            return Position(last, self._path(last).stat().st_size)
        except FileNotFoundError:
            return START

    def forget(self, before: Position) -> None:
        """Delete the files that hold nothing from this place on."""
        for segment in self._segments():
            if segment < before.segment:
                self._path(segment).unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until all that was appended is on the disk."""
        for segment in self._segments():
            sync(self._path(segment))

    def close(self) -> None:
        """Close the file that is being appended to; the next `append` begins another one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _begin_segment(self) -> None:
        self.close()
        self.directory.mkdir(exist_ok=True)
        path = self._path(max(self._segments(), default=0) + 1)
        self._descriptor = open_above(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        self._size = 0

    def _scan(self, segment: int, offset: int) -> Iterator[tuple[tuple[Value] | None, bytes, Position]]:
        """The lines of a file from a byte on: the document, if it can be read; what of the line can't; its end."""
        path = self._path(segment)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise Corrupted(f"{path} is not a file of a journal, but a link, a pipe or the like")
            file = open(path, "rb", opener=_follow_nothing)
        except FileNotFoundError:  # it was forgotten meanwhile
            return
        except OSError as error:
            raise Corrupted(f"{path} can't be read: {error}") from error
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written, or its writer is gone
                    return
                offset += len(line)
                begins = max(0, line.rfind(HEAD))  # what another program wrote before it has no line break, maybe
                try:
                    document = unseal(line[begins:], key=f"{file.name}, before byte {offset}")
                except Corrupted:
                    yield None, line, Position(segment, offset)
                else:
                    yield (document,), line[:begins], Position(segment, offset)

    def segments(self) -> list[Path]:
        """Its files, in order."""
        return [self._path(segment) for segment in self._segments()]

    def _readable(self) -> list[int]:
        """As `_segments`, for those who read. Raises `Corrupted` where that can't be told: it does not mean none."""
        try:
            return self._segments()
        except OSError as error:
            raise Corrupted(f"{self.directory} can't be read: {error}") from error

    def _segments(self) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):  # it is gone
            return []
        return sorted(int(name.removesuffix(_ENDING)) for name in names if _SEGMENT.fullmatch(name))

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:08d}{_ENDING}"


def _follow_nothing(path: str, flags: int) -> int:
    """Open a file, unless a link stands there; a pipe is not waited for."""
    return open_above(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
