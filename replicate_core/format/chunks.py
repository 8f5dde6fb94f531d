"""Where files are cut into chunks, the unit of deduplication.

Pure. Readers follow the parts in a file's manifest and never need to know how the file was cut, so the cutting can
change without a new format. `file_structure` finds the members of a container.

A file is cut on a grid. The grid restarts at every large member of a container, so an unchanged tensor has the same
chunks again, even if it moved within the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replicate_core.format.file_structure import Read, members

GRID_BYTES = 1 << 20
"""Bytes between cuts."""

GRID_BYTES_MAX = 16 << 20
"""Maximum width of the grid, for very large files: a reader holds one chunk in memory."""

LARGE_FILE_BYTES = 4 << 30
"""Maximum size of a file whose grid is `GRID_BYTES` wide; beyond it, the width doubles whenever the size does."""

MEMBER_BYTES = 64 << 10
"""Minimum size of a member that restarts the grid: each chunk costs about 100 bytes in a manifest."""


class Chunk(NamedTuple):
    """A run of bytes of a file."""

    offset: int
    length: int


def cut(read: Read, size: int) -> Iterator[Chunk]:
    """Cut a file into chunks that cover it exactly, in order.

    Args:
        read: returns the bytes of the file at an offset; fewer at its end.
        size: size of the file, in bytes.
    """
    width = grid_bytes(size)
    starts = _starts(members(read, size, at_least=MEMBER_BYTES), size) if size > MEMBER_BYTES else [0]
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        for offset in range(start, end, width):
            yield Chunk(offset, min(width, end - offset))


def grid_bytes(size: int) -> int:
    """The number of bytes between cuts in a file of `size` bytes."""
    width, limit = GRID_BYTES, LARGE_FILE_BYTES
    while size > limit and width < GRID_BYTES_MAX:
        width, limit = width * 2, limit * 2
    return width


def _starts(found: Iterable[tuple[int, int]], size: int) -> list[int]:
    """Where the grid starts: at the beginning, and at both ends of every large member that overlaps no other."""
    starts = [0]
    for start, end in sorted(found):
        if start >= starts[-1] and end <= size:
            starts += [edge for edge in (start, end) if edge > starts[-1]]
    return starts[:-1] if len(starts) > 1 and starts[-1] == size else starts
