"""Pruning: removing objects and manifests that nothing refers to, without a lock, while other processes write.

Pruning has two phases. The first lists objects and manifests, and then reads everything that refers to them. Those that
are old and not referred to are announced as doomed, in a tombstone. After a grace period, the second phase reads
everything again, and deletes what is doomed and still not referred to.

This is safe because a writer refers to an object of another process only if it has read, within the last quarter of the
grace period, that something refers to the object and that it is not doomed; and no key is ever used twice. So any
writer that still refers to a doomed object has published its record long before the object is deleted.

Only keys that match our grammar are ever announced or deleted. A tombstone that is damaged, or that dooms any other
key, is ignored entirely and reported.

Ages are measured by the clock of the storage alone. Duplicacy's fossils have the same two phases, for the same reason:
https://github.com/gilbertchen/duplicacy/blob/master/DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

from replicate_core.errors import Corrupted, NotFound, StorageFailed, TooNew
from replicate_core.format import ids, records
from replicate_core.format.digest import digest
from replicate_core.format.keys import (
    DATA,
    MANIFESTS,
    TOMBSTONES,
    clock_probe_key,
    is_clock_probe_key,
    is_manifest_key,
    is_object_key,
    is_tombstone_key,
)
from replicate_core.format.manifest import Manifest, Part, digest_hex, objects_of, size_problem
from replicate_core.format.records import Created, ExperimentState, Record, Repacked
from replicate_core.repository.chunk_index import GRACE
from replicate_core.repository.pack import PackWriter, packed_bytes
from replicate_core.repository.reading import read_stored
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import CheckedSnapshot, snapshots_of
from replicate_core.storage.store import Entry

LIVE_SHARE = 0.5
"""Minimum share of an object that must be referred to: an object with less is repacked."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What `prune` did, or would do. Sizes are in bytes."""

    deleted: Mapping[str, int] = field(default_factory=dict)
    """Keys that were deleted, and their sizes."""
    doomed: Mapping[str, int] = field(default_factory=dict)
    """Keys whose deletion this run announced."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Keys that an earlier run announced, and that are not due yet."""
    young: Mapping[str, int] = field(default_factory=dict)
    """Keys that nothing refers to yet, but that were written so lately that something may soon."""
    repacked: Mapping[str, int] = field(default_factory=dict)
    """Objects that were repacked because little of them is referred to; the next run dooms them."""
    passed_over: tuple[str, ...] = ()
    """The errors of tombstones that were ignored, and of snapshots that can't be read, whose objects stay."""


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A manifest that is intact but can't be checked out, for example because it has a path in `.git`."""

    problem: str
    objects: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Live:
    """Everything that experiments refer to."""

    states: Mapping[str, ExperimentState]
    manifests: Mapping[str, Manifest]
    unusable: Mapping[str, _Unusable]
    """The manifests that can't be used, by key."""

    @property
    def keys(self) -> set[str]:
        objects = {key for content in self.manifests.values() for key in content.object_bytes}
        return objects.union(self.manifests, self.untouchable, self.unusable)

    @property
    def untouchable(self) -> frozenset[str]:
        """The objects of manifests that can't be used: it is unknown which of their bytes are needed."""
        return frozenset[str]().union(*(item.objects for item in self.unusable.values()))


def prune(
    repository: Repository, *, scratch: Path, grace: timedelta = GRACE, dry_run: bool = False, repack: bool = True
) -> PruneReport:
    """Delete what was doomed a grace period ago, repack what is mostly dead, and doom what nothing refers to now.

    Args:
        repository: read without any cache.
        scratch: a local directory for new packs.
        grace: time from announcement to deletion. Writers rely on `GRACE`: pass less only while nobody writes.
        dry_run: only report what would be done.
        repack: repack objects of which less than `LIVE_SHARE` is referred to.

    Raises:
        Corrupted: something that may refer to objects can't be read; nothing was deleted.
        StorageFailed: the storage can't be reached, or does not tell when it wrote something.
    """
    now = _clock(repository)
    deleted, waiting, ignored = _sweep(repository, now, grace, dry_run=dry_run)
    # Objects are listed before what refers to them is read: an object written meanwhile is not listed, or is young.
    listed = [entry for prefix in (DATA, MANIFESTS) for entry in repository.store.list(prefix)]
    entries = [entry for entry in listed if is_object_key(entry.key) or is_manifest_key(entry.key)]
    live = _read_live(repository)
    known = live.keys | deleted.keys() | waiting.keys()
    unneeded = [entry for entry in entries if entry.key not in known]
    doomed = {entry.key: entry.size for entry in unneeded if _age(entry, now) > grace}
    young = {entry.key: entry.size for entry in unneeded if entry.key not in doomed}
    mostly_dead = _mostly_dead(entries, live, now, grace) if repack else {}
    if not dry_run:
        if mostly_dead:
            _repack(repository, live, mostly_dead, scratch)
        if doomed:
            repository.put_tombstone(sorted(doomed))
    passed_over = (*ignored, *(item.problem for item in live.unusable.values()))
    return PruneReport(deleted, doomed, waiting, young, mostly_dead, passed_over)


def _clock(repository: Repository) -> datetime:
    """The current time, by the clock of the storage."""
    probe = clock_probe_key(repository.new_ulid())
    repository.store.put(probe, b"")
    try:
        return next(_modified(entry) for entry in repository.store.list(TOMBSTONES) if entry.key == probe)
    finally:
        repository.store.delete([probe])


def _modified(entry: Entry) -> datetime:
    if entry.modified is None:
        raise StorageFailed(
            f"the storage does not tell when it wrote {entry.key}, and without that nothing can be deleted safely"
        )
    return entry.modified


def _age(entry: Entry, now: datetime) -> timedelta:
    return now - _modified(entry)


def _read_live(repository: Repository) -> _Live:
    """Read everything that refers to objects. Raises if anything can't be read, because it may refer to some, too."""

    def refuse(error: Corrupted | TooNew) -> NoReturn:
        raise type(error)(f"nothing was pruned, because it is not known what is still needed: {error}") from error

    found = repository.read_records(refuse)
    states = records.fold(found)
    manifests: dict[str, Manifest] = {}
    unusable: dict[str, _Unusable] = {}

    def read(snapshot: CheckedSnapshot) -> None:
        content = _content(repository, snapshot)
        if isinstance(content, Manifest):
            manifests[snapshot.manifest] = content
        else:
            unusable[snapshot.manifest] = content

    for snapshot in snapshots_of(states):
        try:
            read(snapshot)
        except (Corrupted, TooNew) as error:
            owner = ids.short(snapshot.checkpoint or snapshot.experiment)
            refuse(type(error)(f"{error}. If it can't be restored, `replicate rm {owner}` deletes what it belongs to"))
    for snapshot in snapshots_of(_without_beginning(repository, found)):
        with suppress(Corrupted):
            read(snapshot)
    return _Live(states, manifests, unusable)


def _content(repository: Repository, snapshot: CheckedSnapshot) -> Manifest | _Unusable:
    """What a manifest refers to. Raises `Corrupted` and `TooNew` if that can't be determined."""
    key = snapshot.manifest
    try:
        content = repository.manifest(key)
    except Corrupted as error:
        return _Unusable(
            f"{error}. The objects that it names are kept", objects_of(repository.manifest_document(key), key=key)
        )
    if problem := size_problem(content, snapshot.size_bytes):
        raise Corrupted(f"the manifest {key} {problem}")
    return content


def _without_beginning(repository: Repository, found: Sequence[Record]) -> Mapping[str, ExperimentState]:
    """The experiments that no listing shows because the record of their beginning is missing; a copy may restore it."""
    headless = records.headless(found)
    begun = (Created(experiment, repository.now()) for experiment in headless)
    return records.fold([*begun, *(record for own in headless.values() for record in own)])


def _sweep(
    repository: Repository, now: datetime, grace: timedelta, *, dry_run: bool
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Delete what was announced long enough ago and is still not referred to.

    Returns:
        The deleted keys and the waiting keys, with their sizes, and the errors of the tombstones that were ignored.
    """
    due: dict[str, list[str]] = {}
    waiting: set[str] = set()
    ignored: list[str] = []
    entries = repository.store.list(TOMBSTONES)
    probes = [entry.key for entry in entries if is_clock_probe_key(entry.key) and _age(entry, now) > grace]
    if probes and not dry_run:  # the processes that wrote them have died
        repository.store.delete(probes)
    for entry in entries:
        if not is_tombstone_key(entry.key):
            continue
        try:
            keys = repository.tombstone(entry.key)
        except NotFound:  # another process swept it meanwhile
            continue
        except Corrupted as error:
            ignored.append(f"{error}. It is ignored; delete it")
            continue
        if _age(entry, now) >= grace:
            due[entry.key] = keys
        else:
            waiting.update(keys)
    if not due:
        return {}, repository.store.sizes(sorted(waiting)), ignored
    live = _read_live(repository).keys
    doomed = sorted({key for keys in due.values() for key in keys} - live)
    sizes = repository.store.sizes(doomed)
    if not dry_run:
        repository.store.delete(doomed)
        repository.store.delete(due)
    return sizes, repository.store.sizes(sorted(waiting - live)), ignored


def _mostly_dead(entries: Sequence[Entry], live: _Live, now: datetime, grace: timedelta) -> dict[str, int]:
    """Objects that a new pack would shrink below `LIVE_SHARE` of their size, with their sizes."""
    referred: dict[str, dict[int, int]] = {}
    for content in live.manifests.values():
        for file in content.files.values():
            for part in file.parts:
                referred.setdefault(part.object, {})[part.offset] = part.stored_bytes
    may_move = referred.keys() - live.untouchable
    old = {entry.key: entry.size for entry in entries if entry.key in may_move and _age(entry, now) > grace}
    return {key: size for key, size in old.items() if packed_bytes(referred[key].values()) < LIVE_SHARE * size}


def _repack(repository: Repository, live: _Live, keys: Collection[str], scratch: Path) -> None:
    """Copy the parts of these objects that are still needed to new packs, and replace the manifests that name them."""
    parts = {part for content in live.manifests.values() for file in content.files.values() for part in file.parts}
    by_object: dict[str, list[Part]] = {key: [] for key in keys}
    for part in sorted(parts, key=lambda part: part.offset):
        if part.object in by_object:
            by_object[part.object].append(part)
    moved: dict[Part, _Place] = {}
    for group in by_object.values():
        with suppress(Corrupted):  # a damaged object stays as it is; `verify` reports which files it damages
            moved |= _copy(repository, group, scratch)
    for snapshot in snapshots_of(live.states):
        content = live.manifests.get(snapshot.manifest)
        if content is not None and any(part in moved for file in content.files.values() for part in file.parts):
            key = repository.put_manifest(_rewritten(content, moved))
            repository.append(Repacked(snapshot.experiment, {snapshot.manifest: key}))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part is after repacking, with size and digest of its object."""

    part: Part
    object_bytes: int
    object_digest: str


def _copy(repository: Repository, parts: Sequence[Part], scratch: Path) -> dict[Part, _Place]:
    """Copy parts to a new pack, without decoding them. Raises `Corrupted` if one is damaged."""
    pack = PackWriter(scratch)
    try:
        offsets = {}
        for part in parts:
            stored = read_stored(repository, part)  # verified: damage must not be copied
            offsets[part] = pack.add(digest_hex(part.digest), stored)
        pack.end()
        key = repository.new_object_key(digest("\n".join(part.digest for part in parts).encode()), ".tar")
        repository.store.put_file(key, pack.path)
    finally:
        pack.close()
    return {
        part: _Place(replace(part, object=key, offset=offset), pack.size, pack.digest)
        for part, offset in offsets.items()
    }


def _rewritten(content: Manifest, moved: Mapping[Part, _Place]) -> Manifest:
    """The same files, with their parts at the new places."""
    files = {
        path: replace(file, parts=tuple(moved[part].part if part in moved else part for part in file.parts))
        for path, file in content.files.items()
    }
    sizes = {**content.object_bytes, **{place.part.object: place.object_bytes for place in moved.values()}}
    digests = {**content.object_digests, **{place.part.object: place.object_digest for place in moved.values()}}
    used = dict.fromkeys(part.object for file in files.values() for part in file.parts)
    return replace(
        content,
        files=files,
        object_bytes={key: sizes[key] for key in used},
        object_digests={key: digests[key] for key in used if key in digests},
    )
