"""Where files are cut into chunks, the unit of deduplication.

Pure. Readers never ask how a file was cut, they follow the parts of its manifest: this can change without a new format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

GRID_BYTES = 1 << 20
"""Distance between cuts."""

GRID_BYTES_MAX = 16 << 20
"""The grid of very large files is no wider than this: whoever reads holds one chunk in memory."""

LARGE_FILE_BYTES = 4 << 30
"""Up to this size the grid is `GRID_BYTES` wide; it doubles with every doubling beyond."""


class Chunk(NamedTuple):
    """A run of bytes of a file."""

    offset: int
    length: int


def grid_bytes(size: int) -> int:
    """How far apart the cuts in a file of `size` bytes are."""
    width, limit = GRID_BYTES, LARGE_FILE_BYTES
    while size > limit and width < GRID_BYTES_MAX:
        width, limit = width * 2, limit * 2
    return width


def cut(size: int) -> Iterator[Chunk]:
    """Cut a file of `size` bytes into chunks that cover it exactly, in order."""
    width = grid_bytes(size)
    for offset in range(0, size, width):
        yield Chunk(offset, min(width, size - offset))
