"""Reading the files of a snapshot back: part by part, and no byte is handed over before its digest was checked."""

from __future__ import annotations

import bisect
import io
import itertools
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from replicate_core.documents import digest
from replicate_core.errors import Corrupted, NotFound
from replicate_core.manifest import Encoding, File, Part
from replicate_core.repository import Repository

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_GZIP = 16 + zlib.MAX_WBITS  # the gzip format, in the words of zlib

PARTS_KEPT = 4
"""Parts that an open file holds in memory: going back and forth does not fetch them again."""


def read_part(repository: Repository, part: Part) -> bytes:
    """Fetch one part, decoded and verified.

    Raises:
        Corrupted: its object is missing or damaged.
    """
    try:
        stored = repository.store.get(part.object, part.offset, part.offset + part.stored_bytes)
    except NotFound as error:
        raise Corrupted(f"the object {part.object} is missing from {repository.store.url}") from error
    data = stored if part.encoding is None else _decoded(stored, part.encoding, part)
    if len(data) != part.length or digest(data) != part.digest:
        raise Corrupted(
            f"the object {part.object} in {repository.store.url} is damaged: bytes {part.offset} to "
            f"{part.offset + part.stored_bytes} are not what was stored"
        )
    return data


def _decoded(stored: bytes, encoding: Encoding, part: Part) -> bytes:
    """Undo an encoding, without ever allocating more than the part says."""
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        return decompressor.decompress(stored, part.length)
    except zlib.error as error:
        raise Corrupted(f"a part of {part.object} can't be decoded as {encoding.codec}: {error}") from error


def read_parts(repository: Repository, file: File) -> Iterator[bytes]:
    """The bytes of a file, part after part."""
    for part in file.parts:
        yield read_part(repository, part)


def open_file(repository: Repository, file: File, *, name: str) -> io.BufferedReader:
    """Open a file of a snapshot for reading: seekable, verified, and only what is read is fetched."""
    return io.BufferedReader(_StoredFile(repository, file, name), buffer_size=1 << 16)


class _StoredFile(io.RawIOBase):
    def __init__(self, repository: Repository, file: File, name: str) -> None:
        self.name = name
        self._repository = repository
        self._file = file
        self._starts = list(itertools.accumulate((part.length for part in file.parts), initial=0))
        self._position = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if origin + offset < 0:
            raise OSError(f"can't seek to {origin + offset}, before the beginning of {self.name}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._file.size:
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        start = self._position - self._starts[number]
        piece = self._part(number)[start : start + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _part(self, number: int) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            self._kept[number] = read_part(self._repository, self._file.parts[number])
            if len(self._kept) > PARTS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[number]
