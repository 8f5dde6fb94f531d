"""Storing the files of a snapshot: chunks to objects, objects to the store, then the manifest.

The order is the promise: a manifest is written when every object it names is there. Where a file is cut is decided in
`chunks`; what refers to the manifest is a record, and written by the caller afterwards.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from replicate_core.chunks import Chunk, cut
from replicate_core.documents import digest
from replicate_core.manifest import File, Manifest, Part
from replicate_core.repository import Repository
from replicate_core.spool import SMALL_BYTES, Staged, StagedFile

PACK_BYTES = 64 << 20
"""A pack that has grown beyond this is closed."""

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was stored."""

    manifest: str
    """The key of its manifest."""
    size_bytes: int
    stored_bytes: int


def store_snapshot(repository: Repository, staged: Staged) -> Snapshot:
    """Store the files of a snapshot and its manifest.

    Small files go together into tar packs, every larger one is an object of its own, byte for byte.

    Raises:
        StorageFailed: the storage refused; what was stored until then is referred to by nothing.
    """
    objects = _Objects(repository, staged.directory)
    small, large = _sorted_by_size(staged.files)
    files = {file.path: objects.store_whole(file) for file in large} | objects.store_packed(small)
    manifest = Manifest(
        {file.path: files[file.path] for file in staged.files}, staged.links, staged.directories, objects.sizes
    )
    return Snapshot(repository.put_manifest(manifest), manifest.total_bytes, sum(objects.sizes.values()))


def _sorted_by_size(files: Iterable[StagedFile]) -> tuple[list[StagedFile], list[StagedFile]]:
    small: list[StagedFile] = []
    large: list[StagedFile] = []
    for file in files:
        (small if file.size <= SMALL_BYTES else large).append(file)
    return small, large


class _Objects:
    """The objects that one snapshot adds to the store."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._repository = repository
        self._directory = directory
        self.sizes: dict[str, int] = {}
        """Key to size, in bytes."""

    def store_whole(self, file: StagedFile) -> File:
        """Store a file as one object, byte for byte."""
        with _reader(file) as reader:
            chunks = [(chunk, digest(_read(reader, chunk))) for chunk in cut(file.size)]
        suffix = Path(file.path).suffix
        extension = suffix if _EXTENSION.fullmatch(suffix) else ""
        key = self._put(_staged_path(file, self._directory), [found for _, found in chunks], extension, file.size)
        return File(
            file.size, file.mode, tuple(Part(key, chunk.offset, chunk.length, found) for chunk, found in chunks)
        )

    def store_packed(self, files: Iterable[StagedFile]) -> dict[str, File]:
        """Store files in tar packs."""
        stored: dict[str, File] = {}
        for pack in _packs(files):
            stored |= self._store_pack(pack)
        return stored

    def _store_pack(self, files: list[StagedFile]) -> dict[str, File]:
        path = self._directory / "pack.tar"
        digests: dict[str, str] = {}
        offsets: dict[str, int] = {}
        with open(path, "wb") as pack:
            for file in files:
                with _reader(file) as reader:
                    data = reader.read()
                if data:
                    digests[file.path] = digest(data)
                offsets[file.path] = _add_member(pack, file, data)
            pack.write(bytes(2 * tarfile.BLOCKSIZE))
            size = pack.tell()
        if not digests:  # nothing but empty files: a manifest needs no object for them
            return {file.path: File(0, file.mode, ()) for file in files}
        key = self._put(path, list(digests.values()), ".tar", size)
        return {
            file.path: File(
                file.size,
                file.mode,
                (Part(key, offsets[file.path], file.size, digests[file.path]),) if file.size else (),
            )
            for file in files
        }

    def _put(self, path: Path, digests: list[str], extension: str, size: int) -> str:
        key = self._repository.new_object_key(digest("\n".join(digests).encode()), extension)
        self._repository.store.put_file(key, path)
        self.sizes[key] = size
        return key


def _packs(files: Iterable[StagedFile]) -> Iterator[list[StagedFile]]:
    pack: list[StagedFile] = []
    pack_bytes = 0
    for file in files:
        pack.append(file)
        pack_bytes += file.size
        if pack_bytes > PACK_BYTES:
            yield pack
            pack, pack_bytes = [], 0
    if pack:
        yield pack


def _add_member(pack: BinaryIO, file: StagedFile, data: bytes) -> int:
    """Append a file to a tar; returns where its bytes begin."""
    member = tarfile.TarInfo(file.path)
    member.size, member.mode = len(data), file.mode
    pack.write(member.tobuf(tarfile.GNU_FORMAT))
    offset = pack.tell()
    pack.write(data)
    pack.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


@contextmanager
def _reader(file: StagedFile) -> Iterator[BinaryIO]:

    if isinstance(file.content, bytes):
        yield io.BytesIO(file.content)
    else:
        with open(file.content, "rb") as reader:
            yield reader


def _read(reader: BinaryIO, chunk: Chunk) -> bytes:
    reader.seek(chunk.offset)
    return reader.read(chunk.length)


def _staged_path(file: StagedFile, directory: Path) -> Path:
    """The file on disk; one that is in memory is written there."""
    if isinstance(file.content, Path):
        return file.content
    path = directory / "object"
    path.write_bytes(file.content)
    return path
