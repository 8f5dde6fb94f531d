"""Storing the files of a snapshot: chunks that are not known yet to objects, objects to the store, then the manifest.

The order is the promise: a manifest is written when every object it names is there. Where a file is cut is decided in
`chunks`, what is compressed in `encodings`, what is known in `chunk_index`.
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
"""A pack that has grown beyond this is closed."""

VERBATIM_COST_MAX = 1.05
"""Maximum size of a file that is stored as one object, byte for byte, as a multiple of the size of its new chunks."""

ATTEMPTS = 5
"""So often the files are looked up again when objects of others vanish meanwhile."""

HASHING_THREADS = 2
"""sha256 gives up the interpreter's lock; more would take processors from the training."""

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """What was stored."""

    manifest: str
    """The key of its manifest."""
    objects: tuple[str, ...]
    """The keys of the objects that the manifest names."""
    added: tuple[str, ...]
    """Those of them that were stored for it."""
    size_bytes: int
    stored_bytes: int
    """Size of the objects that were added for it."""
    files: Mapping[str, File]
    """Path to what the manifest says of it."""


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

    Objects of others that the snapshot refers to are looked up before and after: should one vanish between, its chunks
    are stored again from the staged files, and the manifest is replaced.

    Args:
        repository: where to.
        known: what is there already.
        staged: the files.
        policy: what to compress.
        record_of: makes the record of what was stored; called again for what had to be stored again.

    Returns:
        What was stored in the end.

    Raises:
        StorageFailed: the storage refused; what was stored until then is referred to by nothing.
    """
    snapshot = store_snapshot(repository, known, staged, policy)
    record = record_of(snapshot)
    repository.append(record)
    with suppress(StorageFailed):  # it is published: that a second look fails is no failure of it
        while missing := known.missing(snapshot.objects):
            known.forget(missing)
            healed = store_snapshot(repository, known, staged, policy)
            record_of(healed)
            repository.append(Repacked(record.experiment, {snapshot.manifest: healed.manifest}))
            snapshot = replace(healed, added=snapshot.added + healed.added)
    return snapshot


def store_snapshot(repository: Repository, known: ChunkIndex, staged: Staged, policy: Policy) -> StoredSnapshot:
    """Store the files of a snapshot and its manifest, each chunk that is known already by reference.

    A manifest is written only if the copies are still what was cut and digested: then its digests are those of the
    objects.

    Raises:
        StorageFailed: the storage refused; what was stored until then is referred to by nothing.
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
            known.forget(set(writer.added))  # who knows what they hold
            continue
        missing = known.missing(manifest.object_bytes)
        known.forget(missing)
        if not missing and known.is_fresh():
            key = repository.put_manifest(manifest)
            objects, stored_bytes = tuple(manifest.object_bytes), sum(added.values())
            return StoredSnapshot(key, objects, tuple(added), manifest.total_bytes, stored_bytes, manifest.files)
    raise StorageFailed(
        f"what is stored in {repository.store.url} vanishes faster than it can be referred to: is something else "
        "deleting there? Only `replicate prune` may"
    )


def _versions(files: Iterable[StagedFile]) -> dict[Path, tuple[int, int]]:
    """What tells whether copies were changed."""
    statuses = {copy: copy.stat() for copy in {file.copy for file in files}}
    return {copy: (status.st_mtime_ns, status.st_size) for copy, status in statuses.items()}


def _cut_all(files: Iterable[StagedFile]) -> dict[str, list[_Piece]]:
    """Cut files, and digest their chunks."""
    try:
        with ThreadPoolExecutor(HASHING_THREADS) as executor:
            return {file.path: _cut(file, executor.map) for file in files}
    except RuntimeError:  # the interpreter is ending, and starts no threads any more
        return {file.path: _cut(file, map) for file in files}


def _cut(file: StagedFile, apply: Callable[[Callable[[Chunk], str], list[Chunk]], Iterable[str]]) -> list[_Piece]:
    with _reader(file) as read:
        chunks = list(cut(read, file.size))
        return list(map(_Piece, chunks, apply(lambda chunk: digest(read(*chunk)), chunks)))


class _Writer:
    """Stores the files of one snapshot; gathers where every chunk of it lies."""

    def __init__(self, repository: Repository, known: ChunkIndex, staged: Staged, policy: Policy) -> None:
        self.object_bytes: dict[str, int] = {}
        """The objects that the snapshot refers to: key to size."""
        self.object_digests: dict[str, str] = {}
        """The packs among them: key to digest."""
        self.added: dict[str, int] = {}
        """The objects that were stored for it: key to size."""
        self._repository = repository
        self._known = known
        self._places: dict[str, Location] = {}
        self._staged = staged
        self._policy = policy

    def store(self, files: Iterable[StagedFile], cuts: Mapping[str, list[_Piece]]) -> dict[str, File]:
        """Store what is not known yet; returns the files by their paths."""
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
        """Tell whether the middle one of these chunks gets smaller when it is encoded."""
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
        """Store the chunks of these files that are not known in packs."""
        pack = _Pack(self._staged.directory)
        try:
            for file in files:
                pack = self._pack(file, cuts[file.path], pack)
            self._seal(pack)
        finally:
            pack.close()

    def _pack(self, file: StagedFile, pieces: list[_Piece], pack: _Pack) -> _Pack:
        """Append the chunks of a file that are not known; returns the pack, or the next one once it is full."""
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
        """Where a chunk is. What was found once stays found, whatever is forgotten meanwhile."""
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
    """A pack of chunks, each a member under the name of its file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.members: dict[str, tuple[int, Encoding | None]] = {}
        """Digest of a chunk to where it begins, and how it is encoded."""
        self._names: set[str] = set()

    def add_chunk(self, file: StagedFile, piece: _Piece, data: bytes, policy: Policy) -> None:
        """Append a chunk."""
        encoded = encode(data, policy)
        codec, stored = encoded or ("", data)
        offset = self.add(self._unused_name(file, piece, codec), stored, mode=file.mode)
        self.members[piece.digest] = (offset, Encoding(codec, len(stored)) if codec else None)

    def _unused_name(self, file: StagedFile, piece: _Piece, codec: str) -> str:
        """The path of the file; where a chunk of it begins; and the ending by which tools know how it is encoded."""
        ending = f".{codec.replace('+', '.').replace('gzip', 'gz')}" if codec else ""
        name = file.path + ending
        if piece.chunk.length != file.size or name in self._names:
            name = f"{file.path}@{piece.chunk.offset}{ending}"
        self._names.add(name)
        return name


@contextmanager
def _reader(file: StagedFile) -> Iterator[Read]:
    """Read a staged file, from several threads if need be."""
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
