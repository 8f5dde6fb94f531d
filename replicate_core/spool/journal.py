"""A journal: one process appends documents, and others read them. A document is read whole or not at all.

Each line is a sealed document, written by one system call. It outlives the process that wrote it, however that process
ends. `spool` defines what the documents say.
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
"""Size in bytes after which a journal starts its next file. Files that are no longer needed are deleted one by one."""

_ENDING = ".jsonl"
_SEGMENT = re.compile(r"[0-9]{8,}\.jsonl")


class Position(NamedTuple):
    """A position between two documents."""

    segment: int = 0
    offset: int = 0


START = Position()
"""The position before the first document."""


class JournalLine(NamedTuple):
    """A document, and the position after it."""

    document: Value
    after: Position
    damaged: bytes = b""
    """Unreadable bytes between the previous document and this one."""


class Journal:
    """A journal in a directory of its own.

    Args:
        directory: where the journal is, or will be.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None
        self._size = 0

    def append(self, document: Value) -> None:
        """Write a document after all others.

        Raises:
            OSError: there is no room. No reader will ever see a part of the document.
        """
        line = seal(document)
        if self._descriptor is None or self._size > SEGMENT_BYTES:
            self._begin_segment()
        assert self._descriptor is not None, "a segment was begun"
        try:
            write_all(self._descriptor, line)
        except OSError:
            self.close()  # this line may be torn, so the next document begins another segment
            raise
        self._size += len(line)

    def read(self, start: Position = START, *, count_max: int | None = None) -> list[JournalLine]:
        """The complete documents after a position, in order.

        Unreadable bytes are returned with the document that follows them. `unreadable_end` returns those that no
        document follows.

        Args:
            start: the position.
            count_max: maximum number of documents.

        Raises:
            Corrupted: a file of the journal can't be read, or is not a regular file.
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
        """The unreadable lines after the last document; empty if there are none.

        Args:
            start: a position after which there is no readable document.
        """
        segments = [segment for segment in self._readable() if segment >= start.segment]
        return b"".join(
            damage
            for segment in segments
            for _, damage, _ in self._scan(segment, start.offset if segment == start.segment else 0)
        )

    def end(self) -> Position:
        """The position after the last document. That document may still be being written."""
        last = max(self._readable(), default=0)
        try:
            return Position(last, self._path(last).stat().st_size)
        except FileNotFoundError:
            return START

    def forget(self, before: Position) -> None:
        """Delete the files that hold only documents before this position."""
        for segment in self._segments():
            if segment < before.segment:
                self._path(segment).unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until everything that was appended is on the disk."""
        for segment in self._segments():
            sync(self._path(segment))

    def close(self) -> None:
        """Close the file that `append` writes to; the next `append` begins another one."""
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
        """The lines of a file from an offset on: the document if it is readable, the unreadable bytes, the position."""
        path = self._path(segment)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise Corrupted(f"{path} is not a file of a journal, but a link, a pipe or the like")
            file = open(path, "rb", opener=_follow_nothing)
        except FileNotFoundError:  # `forget` deleted it meanwhile
            return
        except OSError as error:
            raise Corrupted(f"{path} can't be read: {error}") from error
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written, or its writer died
                    return
                offset += len(line)
                begins = max(0, line.rfind(HEAD))  # another program may have written before it, without a line break
                try:
                    document = unseal(line[begins:], key=f"{file.name}, before byte {offset}")
                except Corrupted:
                    yield None, line, Position(segment, offset)
                else:
                    yield (document,), line[:begins], Position(segment, offset)

    def segments(self) -> list[Path]:
        """The files of the journal, in order."""
        return [self._path(segment) for segment in self._segments()]

    def _readable(self) -> list[int]:
        """Like `_segments`, for readers. Raises `Corrupted` if the directory can't be read: it may hold documents."""
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
    """Open a file, but not a link; never block on a pipe."""
    return open_above(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
