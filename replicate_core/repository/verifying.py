"""Verifying a repository: is everything there that its records refer to, and is every byte what was stored?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from replicate_core.errors import Corrupted, NotFound, TooNew
from replicate_core.format import ids, records
from replicate_core.format.digest import Digest
from replicate_core.format.keys import DATA, HEARTBEATS, TOMBSTONES, is_heartbeat_key, is_tombstone_key
from replicate_core.format.manifest import Manifest, Part, decode, size_problem
from replicate_core.format.record_codec import encode
from replicate_core.format.records import ExperimentState, Record
from replicate_core.format.sealed import KEY, names_key
from replicate_core.format.segments import Segment, summarise
from replicate_core.format.values import dumps
from replicate_core.progress import Progress, silent
from replicate_core.repository import catalogue, heartbeats
from replicate_core.repository.reading import FETCH_BYTES, Wanted, plan, read, read_part
from replicate_core.repository.repository import Repository, Unusable, decode_record, ignore

RECORDS_AT_ONCE = 2000

BEGINNING_MISSING = (
    "the record of its beginning is missing, so no listing shows it: it was lost, or a copy was interrupted: repeat it"
)


@dataclass(frozen=True, slots=True)
class CheckedSnapshot:
    """A snapshot to check: its manifest, and the experiment or checkpoint that it belongs to."""

    experiment: str
    checkpoint: str | None
    """None: the snapshot is the code of the experiment."""
    manifest: str
    size_bytes: int | None = None
    """The total size of the files, from the record that names the manifest; None if the record does not say it."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that can't be read back as it was stored."""

    problem: str
    experiment: str | None = None
    """None: the damaged document belongs to no single experiment, or can't be read."""
    checkpoint: str | None = None
    path: str | None = None
    """None: all files of the snapshot are affected."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found."""

    damages: tuple[Damage, ...]
    experiments: int
    objects: int
    bytes_checked: int
    """Number of bytes whose digests were compared; 0 if only sizes were compared."""
    lacking: tuple[Damage, ...] = ()
    """What was never stored here, because an import found it damaged or missing. This storage is not damaged."""
    keyless: int = 0
    """Number of documents that do not contain their own key, because an earlier version wrote them. Whether one of them
    was put in the place of another was checked only by experiment, kind, and the size of the files."""


def codes_of(state: ExperimentState) -> Iterator[str]:
    """The manifests of the code of an experiment: the code it began with, and the code it was resumed with."""
    yield from filter(None, (state.created.manifest, state.code, *(item.code for item in state.checkpoints)))


def snapshots_of(states: Mapping[str, ExperimentState]) -> Iterator[CheckedSnapshot]:
    """The snapshots that experiments refer to."""
    for experiment, state in states.items():
        for code in dict.fromkeys(codes_of(state)):
            size_bytes = state.created.size_bytes if code == state.created.manifest else None
            yield CheckedSnapshot(experiment, None, code, size_bytes)
        for checkpoint in state.checkpoints:
            if checkpoint.manifest:
                yield CheckedSnapshot(experiment, checkpoint.id, checkpoint.manifest, checkpoint.size_bytes)


def verify(
    repository: Repository,
    *,
    wanted: Callable[[CheckedSnapshot], bool] = lambda _: True,
    deep: bool = False,
    progress: Progress = silent,
) -> VerifyReport:
    """Check that every object that is referred to exists and has its size or, if `deep`, that every byte is right.

    Segments, tombstones and heartbeats are always checked, whichever snapshots are wanted.

    Args:
        repository: read without any cache.
        wanted: tells whether to check a snapshot.
        deep: read all bytes.
        progress: called with the number of bytes that a deep check compared, and the total.

    Raises:
        StorageFailed: the storage can't be reached.
    """
    damages: list[Damage] = []

    def unusable(error: Corrupted | TooNew) -> None:
        if isinstance(error, Corrupted):
            damages.append(Damage(str(error)))

    held = catalogue.read_segments(repository, unusable)  # before the records, so that these include all of them
    by_key, keyless = _read_records(repository, unusable)
    found = [record for record in by_key.values() if record is not None]
    states = records.by_age(records.fold(found))
    damages += map(Damage, (*_segment_problems(held, by_key), *_tombstone_problems(repository)))
    damages += map(Damage, _heartbeat_problems(repository))
    damages += [
        Damage(BEGINNING_MISSING, experiment)
        for experiment in records.headless(found)
        if wanted(CheckedSnapshot(experiment, None, ""))
    ]
    sizes = {entry.key: entry.size for entry in repository.store.list(DATA)}
    snapshots = [snapshot for snapshot in snapshots_of(states) if wanted(snapshot)]
    experiments = sum(wanted(CheckedSnapshot(experiment, None, "")) for experiment in states)  # even without files
    objects: set[str] = set()
    parts: dict[Part, list[tuple[CheckedSnapshot, str]]] = {}
    packs: dict[str, _Pack] = {}
    for snapshot in snapshots:
        try:
            document = repository.manifest_document(snapshot.manifest)
            manifest = decode(document, key=snapshot.manifest)
            if problem := size_problem(manifest, snapshot.size_bytes):
                raise Corrupted(f"the manifest {snapshot.manifest} {problem}")
        except Corrupted as error:
            damages.append(Damage(str(error), snapshot.experiment, snapshot.checkpoint))
            continue
        if KEY not in document:
            keyless.add(snapshot.manifest)
        objects |= manifest.object_bytes.keys()
        damages += [
            Damage(problem, snapshot.experiment, snapshot.checkpoint, path)
            for path, problem in _size_problems(manifest, sizes)
        ]
        for path, file in manifest.files.items():
            for part in file.parts:
                if deep and sizes.get(part.object) == manifest.object_bytes[part.object]:
                    parts.setdefault(part, []).append((snapshot, path))
                    if part.object in manifest.object_digests:
                        pack = packs.setdefault(part.object, _Pack(manifest.object_digests[part.object]))
                        pack.owners[snapshot] = None
    checked = 0
    damaged: set[str] = set()
    for part, problem in _check_parts(repository, parts, progress):
        checked += part.length
        if problem is not None:
            damaged.add(part.object)
            damages += [Damage(problem, owner.experiment, owner.checkpoint, path) for owner, path in parts[part]]
    for key in packs.keys() - damaged:
        if (problem := _pack_problem(repository, key, packs[key].digest, sizes[key])) is not None:
            damages += [Damage(problem, owner.experiment, owner.checkpoint) for owner in packs[key].owners]
    if damages:  # files may have been released or deleted since the records were read
        states = repository.states(ignore)
        still = {snapshot.checkpoint for snapshot in snapshots_of(states)}
        damages = [damage for damage in damages if damage.checkpoint is None or damage.checkpoint in still]
    lacking = tuple(
        item for item in _lacking(states) if wanted(CheckedSnapshot(item.experiment or "", item.checkpoint, ""))
    )
    return VerifyReport(tuple(dict.fromkeys(damages)), experiments, len(objects), checked, lacking, len(keyless))


def _read_records(repository: Repository, unusable: Unusable) -> tuple[dict[str, Record | None], set[str]]:
    """All records by key, None for those that can't be used; and the keys of those that do not contain their key."""
    read: dict[str, Record | None] = {}
    keyless: set[str] = set()
    keys = repository.record_keys()
    for start in range(0, len(keys), RECORDS_AT_ONCE):
        some = keys[start : start + RECORDS_AT_ONCE]
        found = repository.store.get_many(some)
        for key in some:
            read[key] = None
            try:
                read[key] = decode_record(key, found.get(key))
            except (Corrupted, TooNew) as error:
                unusable(error)
            else:
                if not names_key(found[key]):
                    keyless.add(key)
    return read, keyless


def _segment_problems(held: Sequence[Segment], stored: Mapping[str, Record | None]) -> Iterator[str]:
    """The problems of segments whose heads are intact: a segment must repeat the records exactly.

    Args:
        held: the segments.
        stored: every record by its key; None for one that can't be used.
    """
    for segment in held:
        try:
            for piece in segment.pieces.values():
                read = catalogue.decoded(segment.lines(piece))
                strange = next((key for key in read if not _is_stored(key, read[key], stored)), None)
                if strange is not None:
                    raise Corrupted(f"the record {strange} says something else, or does not exist")
                state = records.fold(read[key] for key in sorted(read)).get(piece.experiment)
                if piece.summary != (None if state is None else summarise(state)):
                    raise Corrupted(f"its summary of the experiment {piece.experiment} is not what the records say")
        except Corrupted as error:
            yield (
                f"the segment {segment.key} can't be used: {error}. Nothing is lost: `replicate compact --rebuild` "
                "rebuilds the segments from the records"
            )


def _is_stored(key: str, held: Record, stored: Mapping[str, Record | None]) -> bool:
    """Tell whether a segment holds a record as it is stored; if the stored one is damaged, the segment is accepted."""
    if (record := stored.get(key)) is None:
        return key in stored
    return held == record or dumps(encode(held)) == dumps(encode(record))  # NaN differs from itself


def _tombstone_problems(repository: Repository) -> Iterator[str]:
    for entry in repository.store.list(TOMBSTONES):
        if is_tombstone_key(entry.key):
            try:
                repository.tombstone(entry.key)
            except NotFound:  # another process swept it meanwhile
                continue
            except Corrupted as error:
                yield f"{error}. `prune` ignores it; delete it"


def _heartbeat_problems(repository: Repository) -> Iterator[str]:
    keys = [entry.key for entry in repository.store.list(HEARTBEATS) if is_heartbeat_key(entry.key)]
    for key, data in repository.store.get_many(keys).items():
        try:
            heartbeats.decode(key, data)
        except Corrupted as error:
            yield f"{error}. It only tells whether an experiment runs, and is rewritten while it does"


def _lacking(states: Mapping[str, ExperimentState]) -> Iterator[Damage]:
    """The code and the checkpoint files that are known to be missing, because an import could not read them."""
    for experiment, state in states.items():
        if (problem := records.code_problem(state.created)) is not None:
            yield Damage(problem, experiment)
        for item in state.checkpoints:
            if item.lacks is not None and not item.is_released:
                yield Damage(
                    f"the files of the checkpoint {ids.short(item.id)} are missing: {item.lacks}", experiment, item.id
                )


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack, and the snapshots that have files in it."""

    digest: str
    owners: dict[CheckedSnapshot, None] = field(default_factory=dict)


def _pack_problem(repository: Repository, key: str, expected: str, size: int) -> str | None:
    """The problem of a pack whose parts are all intact, or None: `tar` also needs the bytes between them."""
    whole = Digest()
    try:
        for start in range(0, size, FETCH_BYTES):
            whole.update(repository.store.get(key, start, min(start + FETCH_BYTES, size)))
    except NotFound:
        return f"the object {key} is missing"
    if str(whole) == expected:
        return None
    return f"the pack {key} was changed between its parts: every file is whole, but `tar` may not open it"


def _size_problems(manifest: Manifest, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Path and problem of every file with an object that is missing or has the wrong size."""
    for path, file in manifest.files.items():
        for key in dict.fromkeys(part.object for part in file.parts):
            found, expected = sizes.get(key), manifest.object_bytes[key]
            if found is None:
                yield path, f"the object {key} is missing"
            elif found != expected:
                yield path, f"the object {key} has {found} bytes, and should have {expected}"


def _check_parts(
    repository: Repository, parts: Mapping[Part, object], progress: Progress
) -> Iterator[tuple[Part, str | None]]:
    """Read parts; yields each with its problem, or None."""
    total = sum(part.length for part in parts)
    done = 0
    for fetch in plan(map(Wanted, parts)):
        try:
            read(repository, fetch)
            found: list[tuple[Part, str | None]] = [(item.part, None) for item in fetch.wanted]
        except Corrupted:  # at least one of them is damaged: read each by itself
            found = [(item.part, _problem(repository, item)) for item in fetch.wanted]
        for part, problem in found:
            done += part.length
            yield part, problem
        progress(done, total)


def _problem(repository: Repository, item: Wanted) -> str | None:
    try:
        read_part(repository, item.part)
    except Corrupted as error:
        return str(error)
    return None
