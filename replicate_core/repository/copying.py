"""Copying experiments from one repository to another: what the other one has not, and nothing that is changed by it.

In the order that keeps the other one readable at every moment: objects, manifests, records; of an experiment that is
new there its beginning last. A process that dies in between leaves objects that nothing refers to, and the next one
begins where it stopped. Every byte is verified before it is stored. Heartbeats, tombstones and
segments are not copied: what they say is about the repository that they stand in.

What is doomed there is not relied upon, though it be just what is wanted: it is stored again under another key, and the
manifests that name it are replaced, as `prune` does it. The rules are in `pruning`.
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
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of
from replicate_core.storage.local import LocalStore

FETCH_BYTES = 16 << 20
"""How much of an object is in memory at once."""

OBJECTS_AT_ONCE = 4

RECORDS_AT_ONCE = 2000

DOOMED_FOR = timedelta(minutes=10)
"""How long it is believed what is doomed in the other repository: much less than a writer may."""

_ORDER = ("deleted", "released", "repacked", "resumed", "edited", "checkpoints", "restored", "ended", "created")
"""Of an experiment, what hides something comes before what shows it."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied."""

    experiments: tuple[str, ...] = ()
    """Those of which something was."""
    deleted: tuple[str, ...] = ()
    """Those of which only that they were deleted: now they are in the target, too."""
    unchanged: int = 0
    """How many there were of which all was there already."""
    records: int = 0
    objects: int = 0
    bytes_copied: int = 0
    """Bytes of objects."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Experiments that could not be copied, of which nothing new is shown there, and why."""
    unusable: tuple[str, ...] = ()
    """What is wrong with records that were left out, because nobody knows what they say."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done for one experiment."""

    experiment: str
    log: Sequence[Record]
    """All its records in the source, in the order of their keys."""
    missing: Mapping[str, tuple[bytes, Record]]
    """Those that the target has not, by key: as they are stored, and what they say."""

    @property
    def is_alive(self) -> bool:
        """Whether there is an experiment: it was not deleted."""
        return bool(records.fold(self.log))

    @property
    def expected_bytes(self) -> int:
        """About how much is to be copied: what it once added to the source."""
        return sum(map(_added_bytes, (record for _, record in self.missing.values())))


def copy(
    source: Repository,
    target: Repository,
    *,
    scratch: Path,
    experiments: Collection[str] | None = None,
    progress: Progress = silent,
) -> CopyReport:
    """Copy all that one repository has and another has not.

    Args:
        source: read without any cache.
        target: written to; made where there is none.
        scratch: a local directory for objects on their way.
        experiments: the ids of those that are copied; None: all.
        progress: called after every object with about how many bytes are done, and how many there are.

    Raises:
        InvalidInput: both are the same.
        NotFound: there is nothing to copy from.
        Corrupted, TooNew: what is doomed in the target can't be told.
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
    # Most records stand in days that are over, where no listing looks that goes by segments.
    (compact if read_segments(target, _ignore) else compact_if_due)(target)
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


def _ignore(_: Corrupted | TooNew) -> None:
    """A compaction mends it."""


def _check_differ(source: Repository, target: Repository) -> None:
    """Make sure that both are not the same, under whatever names: what is written into one must not be in the other."""
    probe = clock_probe_key(target.new_ulid())  # `prune` clears away what is left of it
    target.store.put(probe, b"")
    try:
        if probe.removeprefix(TOMBSTONES) in source.store.names(TOMBSTONES):
            raise InvalidInput(f"{source.store.url} and {target.store.url} are the same repository: nothing to copy")
    finally:
        target.store.delete([probe])


class _Copier:
    """Copies experiment by experiment; remembers what is there meanwhile."""

    def __init__(self, source: Repository, target: Repository, scratch: Path) -> None:
        self.objects = 0
        self.bytes_copied = 0
        self.advance: Callable[[int], object] = lambda _: None
        """Called with how many bytes of an experiment are copied."""
        self._source = source
        self._target = target
        self._scratch = scratch
        self._there = {entry.key: entry.size for prefix in (DATA, MANIFESTS) for entry in target.store.list(prefix)}
        """What the target has, and how large it is."""
        self._own: set[str] = set()
        """What was stored there just now: nothing so young can be doomed."""
        self._moved: dict[str, str] = {}
        """Objects that are doomed in the target, and under which key they were stored there again."""
        self._doomed: set[str] = set()
        self._doomed_known: datetime | None = None
        self._verified: set[Part] = set()
        self._lock = Lock()

    def plan(self, experiments: Collection[str] | None) -> tuple[list[_Work], int, list[str]]:
        """What is to be done; how many experiments need nothing; and what is wrong with records that can't be used."""
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
        """Copy what is new of an experiment.

        Raises:
            Corrupted, NotFound, TooNew: something is damaged, or gone; nothing that names it is stored.
        """
        contents = self._contents(work)
        replaced = self._place(contents)
        if replaced:  # from now on nobody looks for the old ones
            self._target.append(Repacked(work.experiment, replaced))
        for key in sorted(work.missing, key=lambda key: (_rank(work.missing[key][1]), key)):
            self._target.store.put(key, work.missing[key][0])
        objects = {self._moved.get(key, key) for content in contents.values() for key in content.object_bytes}
        foreign = sorted(objects - self._own)
        lost = set(foreign) - self._target.store.sizes(foreign).keys() if foreign else set()
        if lost:  # somebody has deleted them meanwhile
            self._doomed |= lost
            hurt = {key: content for key, content in contents.items() if lost & content.object_bytes.keys()}
            healed = self._place(hurt)
            self._target.append(Repacked(work.experiment, {replaced.get(key, key): new for key, new in healed.items()}))

    def _contents(self, work: _Work) -> dict[str, Manifest]:
        """The manifests to be copied: those that new records name, and that are there.

        Of what was let go they need not be; nor of what was set aside, but it may count once both logs are one.
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

    def _place(self, contents: Mapping[str, Manifest]) -> dict[str, str]:
        """Store manifests, and before them the objects that they name; returns those that got another key, and which.

        Nothing that is doomed is relied upon; what is lost counts as doomed.
        """
        self._see_what_is_doomed()
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

    def _see_what_is_doomed(self) -> None:
        now = self._target.now()
        if self._doomed_known is None or now - self._doomed_known > DOOMED_FOR:
            self._doomed |= self._target.tombstoned() - self._own
            self._doomed_known = now

    def _copy_objects(self, contents: Mapping[str, Manifest]) -> None:
        """Copy the objects that the target has not, or that are doomed there."""
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
        for fetch in plan(map(Wanted, copied_before)):  # for another experiment, which needs other parts of them
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
        """Fetch an object, verify it, and store it: under its own key, or another one if that is doomed."""
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
            fetched.url = self._source.store.url  # what is wrong here is wrong there
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
        """A fresh key for what is stored under a key that is doomed."""
        digits, _, rest = key.rpartition("/")[2].partition("-")
        _, dot, extension = rest.partition(".")
        return self._target.new_object_key(f"sha256:{digits}", dot + extension)


def _added_bytes(record: Record) -> int:
    """What storing the files of a record added to the storage."""
    match record:
        case Created() | Resumed() | Restored():
            return record.stored_bytes
        case Checkpointed():
            return sum(item.stored_bytes for item in record.checkpoints)
    return 0


def _named(log: Sequence[Record], missing: Iterable[Record]) -> list[str]:
    """The manifests that some records name, without those of checkpoints that others delete or release."""
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


def _rank(record: Record) -> int:
    return _ORDER.index(record_codec.kind(record))


def _renamed(content: Manifest, moved: Mapping[str, str]) -> Manifest:
    """The same files, in objects under other keys."""

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
