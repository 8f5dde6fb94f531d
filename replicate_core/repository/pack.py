"""Packs: tars of members that are read by their offsets, written member by member."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection
from pathlib import Path

from replicate_core.format.digest import Digest
from replicate_core.machine.descriptors import opener


class PackWriter:
    """A pack that is being written, to a file of its own.

    Args:
        directory: where the file is made: a stored pack may be a link to this very file.

    Raises:
        OSError: there is no room; so do `add` and `end`.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"pack-{os.urandom(8).hex()}.tar"
        self.size = 0
        self._digest = Digest()
        self._file = open(self.path, "xb", opener=opener)

    @property
    def digest(self) -> str:
        """Of all that was written."""
        return str(self._digest)

    def add(self, name: str, data: bytes, *, mode: int = 0o644) -> int:
        """Append a member; returns the offset at which its bytes begin."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        header = member.tobuf(tarfile.GNU_FORMAT, "utf-8")
        offset = self.size + len(header)
        self._write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def end(self) -> None:
        """Write the end of the tar: it is whole then."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.close()

    def close(self) -> None:
        """Close the file, and remove it: what is stored has another name."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def packed_bytes(lengths: Collection[int]) -> int:
    """What a pack of members of these lengths takes, with their headers and what they are filled up with."""
    block = tarfile.BLOCKSIZE
    return sum(block + length + -length % block for length in lengths) + 2 * block
