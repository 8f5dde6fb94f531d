"""A journal: documents appended by one process and read by others, each whole or not there at all.

A line of it is a sealed document, written by one system call: it outlives the process that wrote it, however that
process ends. What the documents say is in `spool`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from replicate_core.documents import seal, unseal
from replicate_core.errors import Corrupted
from replicate_core.files import sync
from replicate_core.values import Value

SEGMENT_BYTES = 1 << 20
"""A file of a journal that is longer is followed by another one; what is no longer needed is deleted file by file."""

_ENDING = ".jsonl"


class Mark(NamedTuple):
    """A place between two documents."""

    segment: int = 0
    offset: int = 0


START = Mark()
"""Before everything."""


class Line(NamedTuple):
    """A document, and the place behind it."""

    document: Value
    after: Mark


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
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            self.close()  # the next document begins another segment, behind what is torn here
            raise
        self._size += len(line)

    def read(self, start: Mark = START, *, count_max: int | None = None) -> list[Line]:
        """The documents behind a place, in order, as far as they are whole; those that were damaged are left out.

        Args:
            start: the place.
            count_max: no more than so many.
        """
        lines: list[Line] = []
        for segment in self._segments():
            if segment < start.segment or (count_max is not None and len(lines) >= count_max):
                continue
            offset = start.offset if segment == start.segment else 0
            left = None if count_max is None else count_max - len(lines)
            lines += self._read_segment(segment, offset, left)
        return lines

    def end(self) -> Mark:
        """The place behind the last document, which may be being written."""
        last = max(self._segments(), default=0)
        try:
            return Mark(last, self._path(last).stat().st_size)
        except FileNotFoundError:
            return START

    def forget(self, before: Mark) -> None:
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
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._size = 0

    def _read_segment(self, segment: int, offset: int, count_max: int | None) -> list[Line]:
        lines: list[Line] = []
        try:
            file = open(self._path(segment), "rb")
        except FileNotFoundError:  # it was forgotten meanwhile
            return lines
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written, or its writer is gone
                    break
                offset += len(line)
                try:
                    document = unseal(line, key=f"{file.name}, before byte {offset}")
                except Corrupted:
                    continue
                lines.append(Line(document, Mark(segment, offset)))
                if count_max is not None and len(lines) >= count_max:
                    break
        return lines

    def _segments(self) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # gone, or another user's
            return []
        return sorted(int(name.removesuffix(_ENDING)) for name in names if name.endswith(_ENDING))

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:08d}{_ENDING}"
