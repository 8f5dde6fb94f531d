"""Packs: tar files that are written member by member, and whose members are read by offset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection
from pathlib import Path

from replicate_core.format.digest import Digest
from replicate_core.machine.descriptors import opener


class PackWriter:
    """Writes a pack to a new file.

    Args:
        directory: where the file is made. A pack stored on the same disk may be a hard link to this file.

    Raises:
        OSError: the file can't be written, for example because the disk is full. `add` and `end` raise it, too.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"pack-{os.urandom(8).hex()}.tar"
        self.size = 0
        self._digest = Digest()
        self._file = open(self.path, "xb", opener=opener)

    @property
    def digest(self) -> str:
        """The digest of everything written so far."""
        return str(self._digest)

    def add(self, name: str, data: bytes, *, mode: int = 0o644) -> int:
        """Append a member; returns the offset of its first byte."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        header = member.tobuf(tarfile.GNU_FORMAT, "utf-8")
        offset = self.size + len(header)
        self._write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def end(self) -> None:
        """Write the end of the tar, and close the file."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.close()

    def close(self) -> None:
        """Close the file and remove it; a stored pack has another name."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def packed_bytes(lengths: Collection[int]) -> int:
    """The size of a pack with members of these lengths, including headers and padding."""
    block = tarfile.BLOCKSIZE
    return sum(block + length + -length % block for length in lengths) + 2 * block
