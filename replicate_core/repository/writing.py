"""Storing the files of a snapshot: new chunks are put into objects, objects into the store, then the manifest.

The order guarantees that every object that a manifest names is stored before the manifest. `chunks` decides where a
file is cut, `encodings` what is compressed, and `chunk_index` which chunks are stored already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from replicate_core.errors import StorageFailed
from replicate_core.format.chunks import Chunk, cut
from replicate_core.format.digest import digest
from replicate_core.format.encodings import Policy, encode
from replicate_core.format.file_structure import Read
from replicate_core.format.manifest import Encoding, File, Manifest, Part
from replicate_core.format.records import Record, Repacked
from replicate_core.machine.staging import SMALL_BYTES, Staged, StagedFile, open_copy
from replicate_core.repository.chunk_index import ChunkIndex, Location
from replicate_core.repository.pack import PackWriter
from replicate_core.repository.repository import Repository

PACK_BYTES = 64 << 20
"""Size at which a pack is stored and the next one begun."""

VERBATIM_COST_MAX = 1.05
"""Maximum size of a file that is stored as one object, byte for byte, as a multiple of the size of its new chunks."""

ATTEMPTS = 5
"""Maximum number of attempts to store a snapshot while objects of other processes vanish or the copies change."""

HASHING_THREADS = 2
"""Number of threads that digest chunks: sha256 releases the GIL. More would take processors from the training."""

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot that was stored."""

    manifest: str
    """The key of its manifest."""
    objects: tuple[str, ...]
    """The keys of the objects that the manifest names."""
    added: tuple[str, ...]
    """The keys of the objects that were added for this snapshot."""
    size_bytes: int
    stored_bytes: int
    """Total size of the objects that were added for this snapshot."""
    files: Mapping[str, File]
    """The files of the manifest, by path."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk of a file, and its digest."""

    chunk: Chunk
    digest: str


def publish(
    repository: Repository,
    known: ChunkIndex,
    staged: Staged,
    policy: Policy,
    record_of: Callable[[StoredSnapshot], Record],
) -> StoredSnapshot:
    """Store the files of a snapshot, then the record that makes them visible.

    Objects of other processes that the snapshot refers to are checked before and after the record is stored. If one has
    vanished, its chunks are stored again from the staged files, and the manifest is replaced.

    Args:
        repository: where to store it.
        known: the chunk index.
        staged: the files.
        policy: what to compress.
        record_of: makes the record of a stored snapshot; called again if the snapshot had to be stored again.

    Returns:
        The snapshot as it was finally stored.

    Raises:
        StorageFailed: the storage failed; nothing refers to the objects that were stored before.
    """
    snapshot = store_snapshot(repository, known, staged, policy)
    record = record_of(snapshot)
    repository.append(record)
    with suppress(StorageFailed):  # the snapshot is published: it is no failure if it can't be checked again
        while missing := known.missing(snapshot.objects):
            known.forget(missing)
            healed = store_snapshot(repository, known, staged, policy)
            record_of(healed)
            repository.append(Repacked(record.experiment, {snapshot.manifest: healed.manifest}))
            snapshot = replace(healed, added=snapshot.added + healed.added)
    return snapshot


def store_snapshot(repository: Repository, known: ChunkIndex, staged: Staged, policy: Policy) -> StoredSnapshot:
    """Store the files of a snapshot and its manifest. Chunks that are stored already are only referred to.

    The manifest is written only if the copies did not change since they were cut and digested: only then are its
    digests those of the objects.

    Raises:
        StorageFailed: the storage failed; nothing refers to the objects that were stored before.
    """
    added: dict[str, int] = {}
    cuts: dict[str, list[_Piece]] = {}
    seen: dict[Path, tuple[int, int]] | None = None
    for _ in range(ATTEMPTS):
        if seen != (seen := _versions(staged.files)):
            cuts = _cut_all(staged.files)
        known.refresh()
        writer = _Writer(repository, known, staged, policy)
        files = writer.store(staged.files, cuts)
        manifest = Manifest(files, staged.links, staged.directories, writer.object_bytes, writer.object_digests)
        added |= writer.added
        if _versions(staged.files) != seen:
            known.forget(set(writer.added))  # it is unknown what they hold
            continue
        missing = known.missing(manifest.object_bytes)
        known.forget(missing)
        if not missing and known.is_fresh():
            key = repository.put_manifest(manifest)
            objects, stored_bytes = tuple(manifest.object_bytes), sum(added.values())
            return StoredSnapshot(key, objects, tuple(added), manifest.total_bytes, stored_bytes, manifest.files)
    raise StorageFailed(
        f"objects in {repository.store.url} vanish, or the files change, while the snapshot is stored: does another "
        "program delete objects there? Only `replicate prune` may"
    )


def _versions(files: Iterable[StagedFile]) -> dict[Path, tuple[int, int]]:
    """Modification time and size of every copy, to detect changes."""
    statuses = {copy: copy.stat() for copy in {file.copy for file in files}}
    return {copy: (status.st_mtime_ns, status.st_size) for copy, status in statuses.items()}


def _cut_all(files: Iterable[StagedFile]) -> dict[str, list[_Piece]]:
    """Cut files, and digest their chunks."""
    try:
        with ThreadPoolExecutor(HASHING_THREADS) as executor:
            return {file.path: _cut(file, executor.map) for file in files}
    except RuntimeError:  # the interpreter is shutting down, and starts no more threads
        return {file.path: _cut(file, map) for file in files}


def _cut(file: StagedFile, apply: Callable[[Callable[[Chunk], str], list[Chunk]], Iterable[str]]) -> list[_Piece]:
    with _reader(file) as read:
        chunks = list(cut(read, file.size))
        return list(map(_Piece, chunks, apply(lambda chunk: digest(read(*chunk)), chunks)))


class _Writer:
    """Stores the files of one snapshot, and collects the location of each of its chunks."""

    def __init__(self, repository: Repository, known: ChunkIndex, staged: Staged, policy: Policy) -> None:
        self.object_bytes: dict[str, int] = {}
        """Key to size of the objects that the snapshot refers to."""
        self.object_digests: dict[str, str] = {}
        """Key to digest of the packs among them."""
        self.added: dict[str, int] = {}
        """Key to size of the objects that were added for the snapshot."""
        self._repository = repository
        self._known = known
        self._places: dict[str, Location] = {}
        self._staged = staged
        self._policy = policy

    def store(self, files: Iterable[StagedFile], cuts: Mapping[str, list[_Piece]]) -> dict[str, File]:
        """Store the chunks that are not stored yet; returns the files by path."""
        files = list(files)
        whole = {file.path: self._store_whole(file, cuts[file.path]) for file in files if self._is_new(file, cuts)}
        self._store_packed([file for file in files if file.path not in whole], cuts)
        return {file.path: whole.get(file.path) or self._file(file, cuts[file.path]) for file in files}

    def _is_new(self, file: StagedFile, cuts: Mapping[str, list[_Piece]]) -> bool:
        """Tell whether a file is stored as an object of its own."""
        if file.size <= SMALL_BYTES or not file.has_copy_of_its_own():
            return False
        pieces = {piece.digest: piece.chunk for piece in cuts[file.path]}
        new = [chunk for found, chunk in pieces.items() if self._find(found) is None]
        if file.size > VERBATIM_COST_MAX * sum(chunk.length for chunk in new):
            return False
        return self._policy != "max" or not self._compresses(file, new)

    def _compresses(self, file: StagedFile, new: list[Chunk]) -> bool:
        """Tell whether encoding makes the middle one of these chunks smaller."""
        with _reader(file) as read:
            return encode(read(*new[len(new) // 2]), self._policy) is not None

    def _store_whole(self, file: StagedFile, pieces: list[_Piece]) -> File:
        suffix = Path(file.path).suffix
        extension = suffix if _EXTENSION.fullmatch(suffix) else ""
        key = self._put(file.copy, [piece.digest for piece in pieces], extension, file.size)
        for piece in pieces:
            self._wrote(piece.digest, Location(key, file.size, piece.chunk.offset))
        parts = (Part(key, piece.chunk.offset, piece.chunk.length, piece.digest) for piece in pieces)
        return File(file.size, file.mode, tuple(parts))

    def _store_packed(self, files: list[StagedFile], cuts: Mapping[str, list[_Piece]]) -> None:
        """Store the new chunks of these files in packs."""
        pack = _Pack(self._staged.directory)
        try:
            for file in files:
                pack = self._pack(file, cuts[file.path], pack)
            self._seal(pack)
        finally:
            pack.close()

    def _pack(self, file: StagedFile, pieces: list[_Piece], pack: _Pack) -> _Pack:
        """Append the new chunks of a file; returns the pack, or the next one once the pack is full."""
        with _reader(file) as read:
            for piece in pieces:
                if self._find(piece.digest) is not None or piece.digest in pack.members:
                    continue
                pack.add_chunk(file, piece, read(*piece.chunk), self._policy)
                if pack.size > PACK_BYTES:
                    self._seal(pack)
                    pack = _Pack(self._staged.directory)
        return pack

    def _seal(self, pack: _Pack) -> None:
        if not pack.members:
            return
        pack.end()
        try:
            key = self._put(pack.path, list(pack.members), ".tar", pack.size)
        finally:
            pack.close()
        for found, (offset, encoding) in pack.members.items():
            self._wrote(found, Location(key, pack.size, offset, encoding, pack.digest))

    def _file(self, file: StagedFile, pieces: list[_Piece]) -> File:
        return File(file.size, file.mode, tuple(self._part(piece) for piece in pieces))

    def _part(self, piece: _Piece) -> Part:
        location = self._places[piece.digest]
        self.object_bytes[location.object] = location.object_bytes
        if location.object_digest is not None:
            self.object_digests[location.object] = location.object_digest
        return Part(location.object, location.offset, piece.chunk.length, piece.digest, location.encoding)

    def _find(self, found: str) -> Location | None:
        """Where a chunk is stored, if known. The answer stays the same even if the index drops the chunk meanwhile."""
        if found not in self._places and (location := self._known.find(found)) is not None:
            self._places[found] = location
        return self._places.get(found)

    def _wrote(self, found: str, location: Location) -> None:
        self._places[found] = location
        self._known.wrote(found, location)

    def _put(self, path: Path, digests: list[str], extension: str, size: int) -> str:
        key = self._repository.new_object_key(digest("\n".join(digests).encode()), extension)
        self._repository.store.put_file(key, path)
        self.object_bytes[key] = size
        self.added[key] = size
        return key


class _Pack(PackWriter):
    """A pack of chunks; each member has the path of its file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.members: dict[str, tuple[int, Encoding | None]] = {}
        """Digest of each chunk to its offset and encoding."""
        self._names: set[str] = set()

    def add_chunk(self, file: StagedFile, piece: _Piece, data: bytes, policy: Policy) -> None:
        """Append a chunk."""
        encoded = encode(data, policy)
        codec, stored = encoded or ("", data)
        offset = self.add(self._unused_name(file, piece, codec), stored, mode=file.mode)
        self.members[piece.digest] = (offset, Encoding(codec, len(stored)) if codec else None)

    def _unused_name(self, file: StagedFile, piece: _Piece, codec: str) -> str:
        """A member name: the path of the file, the offset of the chunk if needed, and the suffix of its encoding."""
        ending = f".{codec.replace('+', '.').replace('gzip', 'gz')}" if codec else ""
        name = file.path + ending
        if piece.chunk.length != file.size or name in self._names:
            name = f"{file.path}@{piece.chunk.offset}{ending}"
        self._names.add(name)
        return name


@contextmanager
def _reader(file: StagedFile) -> Iterator[Read]:
    """Open a staged file for reading, from several threads if needed."""
    descriptor = open_copy(file)
    try:
        yield lambda offset, length: _pread(descriptor, file.offset + offset, min(length, file.size - offset))
    finally:
        os.close(descriptor)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data
