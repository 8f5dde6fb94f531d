"""Where the large members of containers are: zip archives (`.pt`, `.keras`, `.npz`), safetensors, pickles.

Pure, and safe on hostile input: sizes that the bytes claim are never allocated, nothing is executed, and a file that
can't be understood has no members. `chunks` decides where a file is cut.

Sources: the zip format, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (4.3.7, 4.3.12 to 4.3.16);
safetensors, https://github.com/huggingface/safetensors#format; pickles by the standard library's `pickletools`.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

Read: TypeAlias = Callable[[int, int], bytes]
"""Returns the bytes of a file at (offset, length); fewer at its end."""

Span: TypeAlias = tuple[int, int]
"""The offsets where a member begins and ends."""

_HEADER_BYTES_MAX = 32 << 20
"""Maximum size of a directory of members that is read."""

_OPCODES_MAX = 200_000
_SKIPPED_BYTES = 64 << 10
_LINE_BYTES = 4096

_END = struct.Struct("<4s4H2LH")  # end of the central directory
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # of the central directory
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT_BYTES_MAX = 0xFFFF
_LARGE = 0xFFFFFFFF
"""Placeholder in a field whose value is in the zip64 extra field."""


def members(read: Read, size: int, *, at_least: int) -> list[Span]:
    """The members of a container of at least `at_least` bytes, in any order; none if the file is not a container."""
    try:
        head = read(0, 9)
        found: Iterable[Span] = ()
        if head[:4] == b"PK\3\4":
            found = _zip_members(read, size, at_least)
        elif head[8:] == b"{":
            found = _safetensors_members(read, size, head)
        elif head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
            found = _pickle_members(read, size)
        return [(start, end) for start, end in found if end - start >= at_least]
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, RecursionError):
        return []  # only its first bytes look like a container


def _zip_members(read: Read, size: int, at_least: int) -> Iterator[Span]:
    """Members of a zip archive, or of several that follow one another (torch's distributed checkpoints)."""
    end = size
    while end > 0:
        directory, directory_end, base = _directory(read, end)
        yield from _directory_members(read, directory, directory_end, base, at_least)
        end = base


def _directory(read: Read, end: int) -> tuple[int, int, int]:
    """Where the central directory of the archive that ends at `end` begins and ends, and where the archive begins."""
    tail_start = max(0, end - _END.size)
    tail = read(tail_start, end - tail_start)
    if tail[:4] != b"PK\5\6":  # there is a comment
        tail_start = max(0, tail_start - _COMMENT_BYTES_MAX)
        tail = read(tail_start, end - tail_start)
    at = tail.rindex(b"PK\5\6")
    *_, directory_bytes, directory_offset, _ = _END.unpack_from(tail, at)
    directory_end = tail_start + at
    locator = read(directory_end - _LOCATOR64.size, _LOCATOR64.size) if directory_end >= _LOCATOR64.size else b""
    if locator[:4] == b"PK\6\7":
        directory_end -= _LOCATOR64.size + _END64.size
        *_, directory_bytes, directory_offset = _END64.unpack(
            _read_exactly(read, directory_end, _END64.size, b"PK\6\6")
        )
    directory = directory_end - directory_bytes
    base = directory - directory_offset
    if base < 0 or directory_bytes > _HEADER_BYTES_MAX:
        raise ValueError("the central directory is not in the file, or is too large")
    return directory, directory_end, base


def _directory_members(read: Read, directory: int, directory_end: int, base: int, at_least: int) -> Iterator[Span]:
    data = read(directory, directory_end - directory)
    at = 0
    while at + _ENTRY.size <= len(data):
        signature, *_, stored, full, name, extra, comment, _, _, _, local = _ENTRY.unpack_from(data, at)
        if signature != b"PK\1\2":
            raise ValueError("not an entry of a central directory")
        if _LARGE in (stored, full, local):
            begin = at + _ENTRY.size + name
            stored, local = _zip64(data[begin : begin + extra], stored, full, local)
        if stored >= at_least:
            start = base + local
            if start + _LOCAL.size > directory:
                raise ValueError("a member that is not before the directory")
            *_, local_name, local_extra = _LOCAL.unpack(_read_exactly(read, start, _LOCAL.size, b"PK\3\4"))
            start += _LOCAL.size + local_name + local_extra
            yield start, start + stored
        at += _ENTRY.size + name + extra + comment


def _zip64(extra: bytes, stored: int, full: int, local: int) -> tuple[int, int]:
    """Stored size and offset, taken from the zip64 extra field where they don't fit into their own fields."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            fields = (full, stored, local)
            values = iter(struct.unpack_from(f"<{fields.count(_LARGE)}Q", extra, at + 4))
            _, stored, local = (next(values) if field == _LARGE else field for field in fields)
            return stored, local
        at += 4 + length
    raise ValueError("a large member without its zip64 field")


def _read_exactly(read: Read, offset: int, length: int, signature: bytes) -> bytes:
    data = read(offset, length) if offset >= 0 else b""
    if len(data) != length or data[:4] != signature:
        raise ValueError("another signature is there")
    return data


def _safetensors_members(read: Read, size: int, head: bytes) -> Iterator[Span]:
    (length,) = struct.unpack_from("<Q", head)
    if length > min(_HEADER_BYTES_MAX, size - 8):
        raise ValueError("the header is not in the file, or is too large")
    for name, tensor in json.loads(read(8, length)).items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= size - 8 - length):
                raise ValueError("a tensor outside of the file")
            yield 8 + length + start, 8 + length + end


def _pickle_members(read: Read, size: int) -> list[Span]:
    """The large strings of a pickle, found by its opcodes, none of which is executed."""
    stream = _SkippingReader(read, size)
    try:
        for _ in itertools.islice(pickletools.genops(stream), _OPCODES_MAX):  # type: ignore[arg-type]  # it only reads
            pass
    except (ValueError, LookupError, OverflowError):
        pass  # the members found so far are still valid
    return stream.spans


class _SkippingReader(io.RawIOBase):
    """A file for `pickletools` to read that skips large strings and remembers where they are."""

    def __init__(self, read: Read, size: int) -> None:
        self.spans: list[Span] = []
        self._read = read
        self._size = size
        self._position = 0
        self._window = b""
        self._window_start = 0

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        if count >= _SKIPPED_BYTES:
            return self._skip(count)
        start = self._position - self._window_start
        if not 0 <= start <= start + count <= len(self._window):
            self._window, self._window_start, start = self._read(self._position, 2 * _SKIPPED_BYTES), self._position, 0
        data = self._window[start : start + count]
        self._position += len(data)
        return data

    def readline(self, _: int | None = -1) -> bytes:
        start = self._position
        line = self.read(_LINE_BYTES)
        line = line[: line.find(b"\n") + 1]  # empty, and so an error, if it is longer
        self._position = start + len(line)
        return line

    def _skip(self, count: int) -> bytes:
        if self._position + count > self._size:
            return b""
        self.spans.append((self._position, self._position + count))
        self._position += count
        absent = _SkippedBytes()
        absent.length = count
        return absent


class _SkippedBytes(bytes):
    """Bytes that were not read: only their length is ever used."""

    length = 0

    def __len__(self) -> int:
        return self.length
