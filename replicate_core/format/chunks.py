"""Where files are cut into chunks, the unit of deduplication.

Pure. Readers never ask how a file was cut, they follow the parts of its manifest: this can change without a new format.
Which runs of bytes a container holds is found in `file_structure`.

A file is cut on a grid, and the grid starts anew at every large member of a container: a tensor that did not change has
the same chunks again, wherever in the file it stands now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replicate_core.format.file_structure import Read, members

GRID_BYTES = 1 << 20
"""Distance between cuts."""

GRID_BYTES_MAX = 16 << 20
"""The grid of very large files is no wider than this: a reader holds one chunk in memory."""

LARGE_FILE_BYTES = 4 << 30
"""Up to this size the grid is `GRID_BYTES` wide; it doubles with every doubling beyond."""

MEMBER_BYTES = 64 << 10
"""Smaller members do not start the grid anew: each chunk costs about 100 bytes in a manifest."""


class Chunk(NamedTuple):
    """A run of bytes of a file."""

    offset: int
    length: int


def cut(read: Read, size: int) -> Iterator[Chunk]:
    """Cut a file into chunks that cover it exactly, in order.

    Args:
        read: gives the bytes of the file at an offset, fewer at its end.
        size: of the file, in bytes.
    """
    width = grid_bytes(size)
    starts = _starts(members(read, size, at_least=MEMBER_BYTES), size) if size > MEMBER_BYTES else [0]
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        for offset in range(start, end, width):
            yield Chunk(offset, min(width, end - offset))


def grid_bytes(size: int) -> int:
    """How far apart the cuts in a file of `size` bytes are."""
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
