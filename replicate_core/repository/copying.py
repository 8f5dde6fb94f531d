"""Copying experiments from one repository (the source) to another (the target).

Only what the target lacks is copied, and nothing in the target is changed. The order keeps the target readable at every
moment: objects, manifests, records, and the record that begins a new experiment last. A process that dies leaves
objects that nothing refers to, and the next one continues where it stopped. Every byte is verified before it is stored.
Heartbeats, tombstones and segments are not copied: they describe the repository that they are in.

An object that is doomed in the target is not relied upon: it is stored again under another key, and the manifests that
name it are replaced, as in `prune`. The rules are in `pruning`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from replicate_core.errors import Corrupted, InvalidInput, NotFound, TooNew
from replicate_core.format import record_codec, records
from replicate_core.format.digest import Digest
from replicate_core.format.keys import DATA, MANIFESTS, RECORDS, TOMBSTONES, clock_probe_key, is_record_key
from replicate_core.format.manifest import Manifest, Part
from replicate_core.format.records import Checkpointed, Created, Deleted, Record, Released, Repacked, Restored, Resumed
from replicate_core.format.sealed import unseal_under
from replicate_core.progress import Progress, silent
from replicate_core.repository.catalogue import read_segments
from replicate_core.repository.compacting import compact, compact_if_due
from replicate_core.repository.reading import Wanted, plan, read
from replicate_core.repository.repository import Repository, ignore
from replicate_core.repository.verifying import snapshots_of
from replicate_core.storage.local import LocalStore

FETCH_BYTES = 16 << 20
"""Maximum number of bytes of an object that are in memory at once."""

OBJECTS_AT_ONCE = 4

RECORDS_AT_ONCE = 2000

DOOMED_LIFETIME = timedelta(minutes=10)
"""Maximum time for which the list of doomed keys of the target is relied upon: much less than a writer may."""

_ORDER = ("deleted", "released", "repacked", "resumed", "edited", "checkpoints", "restored", "ended", "created")
"""The order in which the records of an experiment are copied, by kind: those that hide something come first."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied."""

    experiments: tuple[str, ...] = ()
    """The experiments of which something was copied."""
    deleted: tuple[str, ...] = ()
    """The experiments that are deleted in the source: now they are deleted in the target, too."""
    unchanged: int = 0
    """Number of experiments that the target already had completely."""
    records: int = 0
    objects: int = 0
    bytes_copied: int = 0
    """Number of bytes of objects that were copied."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Experiments that could not be copied, and why. The target shows nothing new of them."""
    unusable: tuple[str, ...] = ()
    """The errors of records that were left out, because they can't be read."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What to copy of one experiment."""

    experiment: str
    log: Sequence[Record]
    """All its records in the source, in the order of their keys."""
    missing: Mapping[str, tuple[bytes, Record]]
    """The records that the target lacks, by key: their stored bytes, and the decoded record."""

    @property
    def is_alive(self) -> bool:
        """Whether the experiment exists, that is, was not deleted."""
        return bool(records.fold(self.log))

    @property
    def expected_bytes(self) -> int:
        """About how many bytes will be copied: the bytes that the missing records added to the source."""
        return sum(map(_added_bytes, (record for _, record in self.missing.values())))


def copy(
    source: Repository,
    target: Repository,
    *,
    scratch: Path,
    experiments: Collection[str] | None = None,
    progress: Progress = silent,
) -> CopyReport:
    """Copy everything that one repository has and another lacks.

    Args:
        source: read without any cache.
        target: written to; made if it is missing.
        scratch: a local directory for objects in transit.
        experiments: the ids of the experiments to copy; None: all.
        progress: called after every object with about how many bytes are done, and the total.

    Raises:
        InvalidInput: source and target are the same repository.
        NotFound: there is no repository to copy from.
        Corrupted, TooNew: it can't be determined what is doomed in the target.
        StorageFailed: one of the storages can't be reached.
    """
    if not source.check_format():
        raise NotFound(f"there is no repository in {source.store.url}: nothing to copy")
    target.prepare()
    _check_differ(source, target)
    copier = _Copier(source, target, scratch)
    works, unchanged, unusable = copier.plan(experiments)
    done: list[_Work] = []
    failed: dict[str, str] = {}
    before, total = 0, sum(work.expected_bytes for work in works)
    for work in works:
        progress(before, total)
        copier.advance = _advance(progress, before, work.expected_bytes, total)
        try:
            copier.carry_out(work)
            done.append(work)
        except (Corrupted, NotFound, TooNew) as error:
            failed[work.experiment] = str(error)
        before += work.expected_bytes
    progress(total, total)
    # Most of the new records are in settled days, which a reader with segments does not list: they must get a segment.
    (compact if read_segments(target, ignore) else compact_if_due)(target)
    return CopyReport(
        tuple(work.experiment for work in done if work.is_alive),
        tuple(work.experiment for work in done if not work.is_alive),
        unchanged,
        sum(len(work.missing) for work in done),
        copier.objects,
        copier.bytes_copied,
        failed,
        tuple(unusable),
    )


def _advance(progress: Progress, before: int, expected: int, total: int) -> Callable[[int], object]:
    return lambda copied: progress(before + min(copied, expected), total)


def _check_differ(source: Repository, target: Repository) -> None:
    """Make sure that source and target differ, whatever their URLs: a key written to one must not be in the other."""
    probe = clock_probe_key(target.new_ulid())  # `prune` deletes it if this process dies
    target.store.put(probe, b"")
    try:
        if probe.removeprefix(TOMBSTONES) in source.store.names(TOMBSTONES):
            raise InvalidInput(f"{source.store.url} and {target.store.url} are the same repository: nothing to copy")
    finally:
        target.store.delete([probe])


class _Copier:
    """Copies one experiment after the other, and keeps track of what the target holds."""

    def __init__(self, source: Repository, target: Repository, scratch: Path) -> None:
        self.objects = 0
        self.bytes_copied = 0
        self.advance: Callable[[int], object] = lambda _: None
        """Called with the number of bytes copied of the current experiment."""
        self._source = source
        self._target = target
        self._scratch = scratch
        self._there = {entry.key: entry.size for prefix in (DATA, MANIFESTS) for entry in target.store.list(prefix)}
        """Key to size of every object and manifest in the target."""
        self._own: set[str] = set()
        """The keys that this copy stored: they are too young to be doomed."""
        self._moved: dict[str, str] = {}
        """Objects that are doomed in the target: old key to the key under which they were stored again."""
        self._doomed: set[str] = set()
        self._doomed_known: datetime | None = None
        self._verified: set[Part] = set()
        self._lock = Lock()

    def plan(self, experiments: Collection[str] | None) -> tuple[list[_Work], int, list[str]]:
        """Returns what to copy, the number of experiments that need nothing, and the errors of unusable records."""
        there = {entry.key for entry in self._target.store.list(RECORDS)}
        found, unusable = self._records(experiments)
        works = []
        for experiment, own in found.items():
            missing = {key: item for key, item in own.items() if key not in there}
            works.append(_Work(experiment, [own[key][1] for key in sorted(own)], missing))
        unchanged = sum(work.is_alive for work in works if not work.missing)
        return [work for work in works if work.missing], unchanged, unusable

    def _records(
        self, experiments: Collection[str] | None
    ) -> tuple[dict[str, dict[str, tuple[bytes, Record]]], list[str]]:
        """The records of the source, by experiment and key."""
        keys = [entry.key for entry in self._source.store.list(RECORDS) if is_record_key(entry.key)]
        if experiments is not None:
            keys = [key for key in keys if any(f"-{experiment}-" in key for experiment in experiments)]
        found: dict[str, dict[str, tuple[bytes, Record]]] = {}
        unusable: list[str] = []
        for start in range(0, len(keys), RECORDS_AT_ONCE):
            for key, data in self._source.store.get_many(keys[start : start + RECORDS_AT_ONCE]).items():
                try:
                    record = record_codec.read(key, data)
                except Corrupted as error:
                    unusable.append(str(error))
                    continue
                if record is None:
                    unusable.append(f"the record {key} is of a kind that this version does not know: upgrade replicate")
                else:
                    found.setdefault(record.experiment, {})[key] = data, record
        return found, unusable

    def carry_out(self, work: _Work) -> None:
        """Copy what the target lacks of an experiment.

        Raises:
            Corrupted, NotFound, TooNew: something is damaged or gone; nothing that names it was stored.
        """
        contents = self._contents(work)
        replaced = self._store(contents)
        if replaced:  # from now on, no reader looks for the old ones
            self._target.append(Repacked(work.experiment, replaced))
        order = {key: _ORDER.index(record_codec.kind(record)) for key, (_, record) in work.missing.items()}
        for key in sorted(work.missing, key=lambda key: (order[key], key)):
            self._target.store.put(key, work.missing[key][0])
        objects = {self._moved.get(key, key) for content in contents.values() for key in content.object_bytes}
        foreign = sorted(objects - self._own)
        lost = set(foreign) - self._target.store.sizes(foreign).keys() if foreign else set()
        if lost:  # another process deleted them meanwhile
            self._doomed |= lost
            damaged = {key: content for key, content in contents.items() if lost & content.object_bytes.keys()}
            healed = self._store(damaged)
            self._target.append(Repacked(work.experiment, {replaced.get(key, key): new for key, new in healed.items()}))

    def _contents(self, work: _Work) -> dict[str, Manifest]:
        """The manifests to copy: those that the missing records name.

        A manifest that no checkpoint needs any more may be missing in the source, but is copied if it is there: a
        session that was set aside may count again once the records of both repositories are merged.
        """
        states = records.fold(work.log)
        if not states and not any(isinstance(record, Deleted) and record.checkpoints is None for record in work.log):
            raise Corrupted(f"the record of its beginning is not in {self._source.store.url}, or can't be read")
        live = {snapshot.manifest: snapshot.size_bytes for snapshot in snapshots_of(states)}
        contents: dict[str, Manifest] = {}
        for key in _named(work.log, (record for _, record in work.missing.values())) if states else ():
            try:
                contents[key] = self._source.manifest(key, size_bytes=live.get(key))
            except Corrupted:
                if key in live:
                    raise
        return contents

    def _store(self, contents: Mapping[str, Manifest]) -> dict[str, str]:
        """Store the objects that manifests name, then the manifests; returns old key to new key of the replaced ones.

        No doomed key is relied upon; lost keys count as doomed.
        """
        self._refresh_doomed()
        self._copy_objects(contents)
        replaced: dict[str, str] = {}
        for key, content in contents.items():
            moved = {name: self._moved[name] for name in content.object_bytes if name in self._moved}
            if moved or key in self._doomed:
                replaced[key] = self._target.put_manifest(_renamed(content, moved))
            elif key not in self._there:
                data = self._source.store.get(key)
                unseal_under(key, data)
                self._target.store.put(key, data)
                self._there[key] = len(data)
                self._own.add(key)
        return replaced

    def _refresh_doomed(self) -> None:
        now = self._target.now()
        if self._doomed_known is None or now - self._doomed_known > DOOMED_LIFETIME:
            self._doomed |= self._target.tombstoned() - self._own
            self._doomed_known = now

    def _copy_objects(self, contents: Mapping[str, Manifest]) -> None:
        """Copy the objects that the target lacks, or that are doomed there."""
        parts: dict[str, set[Part]] = {}
        for content in contents.values():
            for file in content.files.values():
                for part in file.parts:
                    parts.setdefault(part.object, set()).add(part)
        needed: dict[str, tuple[int, str | None]] = {}
        copied_before: set[Part] = set()
        for content in contents.values():
            for key, size in content.object_bytes.items():
                name = self._moved.get(key, key)
                if name in self._own:
                    copied_before |= {replace(part, object=name) for part in parts.get(key, ())} - self._verified
                elif self._there.get(key) != size or key in self._doomed:
                    needed[key] = size, content.object_digests.get(key)
        for fetch in plan(map(Wanted, copied_before)):  # copied for another experiment, which needs other parts of it
            read(self._target, fetch)
        self._verified |= copied_before
        before = self.bytes_copied
        with ThreadPoolExecutor(OBJECTS_AT_ONCE) as executor:
            copies = [
                executor.submit(self._copy_object, key, size, whole, parts.get(key, set()), before)
                for key, (size, whole) in needed.items()
            ]
        for one in copies:
            one.result()

    def _copy_object(self, key: str, size: int, whole: str | None, parts: Collection[Part], before: int) -> None:
        """Fetch an object, verify it, and store it: under its own key, or under a new one if that is doomed."""
        path = self._scratch / key
        path.parent.mkdir(parents=True, exist_ok=True)
        seen = Digest()
        try:
            with open(path, "wb") as file:
                for start in range(0, size, FETCH_BYTES):
                    data = self._source.store.get(key, start, min(start + FETCH_BYTES, size))
                    seen.update(data)
                    file.write(data)
            if path.stat().st_size != size or whole not in (None, str(seen)):
                raise Corrupted(f"the object {key} in {self._source.store.url} is not what was stored")
            fetched = LocalStore(self._scratch)
            fetched.url = self._source.store.url  # errors must name the source
            for fetch in plan(map(Wanted, parts)):
                read(Repository(fetched), fetch)
            name = self._new_key(key) if key in self._doomed else key
            self._target.store.put_file(name, path)
        finally:
            path.unlink(missing_ok=True)
        with self._lock:
            self._there[name] = size
            self._own.add(name)
            self._verified |= {replace(part, object=name) for part in parts}
            if name != key:
                self._moved[key] = name
            self.objects += 1
            self.bytes_copied += size
            self.advance(self.bytes_copied - before)

    def _new_key(self, key: str) -> str:
        """A new key for an object whose key is doomed."""
        digits, _, rest = key.rpartition("/")[2].partition("-")
        _, dot, extension = rest.partition(".")
        return self._target.new_object_key(f"sha256:{digits}", dot + extension)


def _added_bytes(record: Record) -> int:
    """Number of bytes that the files of a record added to the storage."""
    match record:
        case Created() | Resumed() | Restored():
            return record.stored_bytes
        case Checkpointed():
            return sum(item.stored_bytes for item in record.checkpoints)
    return 0


def _named(log: Sequence[Record], missing: Iterable[Record]) -> list[str]:
    """The manifests that the missing records name, except those of checkpoints that the log deletes or releases."""
    gone = {
        identifier
        for record in log
        if isinstance(record, (Deleted, Released))
        for identifier in record.checkpoints or ()
    }
    named: dict[str | None, None] = {}
    for record in missing:
        match record:
            case Created() | Resumed():
                named[record.manifest] = None
            case Restored():
                named |= {record.manifest: None} if record.checkpoint not in gone else {}
            case Checkpointed():
                named |= dict.fromkeys(item.manifest for item in record.checkpoints if item.id not in gone)
            case Repacked():
                named |= dict.fromkeys(record.manifests.values())
    return [key for key in named if key is not None]


def _renamed(content: Manifest, moved: Mapping[str, str]) -> Manifest:
    """The same files, with new keys for the objects that moved."""

    def name(key: str) -> str:
        return moved.get(key, key)

    files = {
        path: replace(file, parts=tuple(replace(part, object=name(part.object)) for part in file.parts))
        for path, file in content.files.items()
    }
    return replace(
        content,
        files=files,
        object_bytes={name(key): size for key, size in content.object_bytes.items()},
        object_digests={name(key): digest for key, digest in content.object_digests.items()},
    )
