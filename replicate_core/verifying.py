"""Checking a repository: is everything there that its records refer to, and is every byte what was stored?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from replicate_core import records
from replicate_core.documents import DIGEST_NAME
from replicate_core.errors import Corrupted, NotFound, TooNew
from replicate_core.manifest import Manifest, Part
from replicate_core.progress import Progress, silent
from replicate_core.reading import FETCH_BYTES, Wanted, plan, read, read_part
from replicate_core.records import ExperimentState
from replicate_core.repository import DATA, Repository

BEGINNING_MISSING = (
    "the record of its beginning is missing, so that no listing shows it: it was lost, or copying was broken off, and "
    "can be repeated"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Whose files a manifest lists."""

    experiment: str
    checkpoint: str | None
    """None: the code of the experiment."""
    manifest: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that can't be read back as it was stored."""

    problem: str
    experiment: str | None = None
    """None: a record is damaged, and nobody knows what it said."""
    checkpoint: str | None = None
    path: str | None = None
    """None: all files of the snapshot."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    damages: tuple[Damage, ...]
    experiments: int
    objects: int
    bytes_checked: int
    """Bytes whose digests were compared; 0 where only sizes were."""


def codes_of(state: ExperimentState) -> Iterator[str]:
    """The manifests of the code of an experiment: what it began with, and what it was resumed with."""
    yield from filter(None, (state.created.manifest, state.code, *(item.code for item in state.checkpoints)))


def snapshots_of(states: Mapping[str, ExperimentState]) -> Iterator[Snapshot]:
    """The snapshots that experiments refer to."""
    for experiment, state in states.items():
        for code in dict.fromkeys(codes_of(state)):
            yield Snapshot(experiment, None, code)
        for checkpoint in state.checkpoints:
            if checkpoint.manifest:
                yield Snapshot(experiment, checkpoint.id, checkpoint.manifest)


def verify(
    repository: Repository,
    *,
    wanted: Callable[[Snapshot], bool] = lambda _: True,
    deep: bool = False,
    progress: Progress = silent,
) -> Report:
    """Check that every object that is referred to exists with its size, or, `deep`, that every byte is right.

    Args:
        repository: read without any cache.
        wanted: which snapshots to check.
        deep: read everything.
        progress: called with the bytes that a deep check has compared, and all there are.

    Raises:
        StorageFailed: the storage can't be reached.
    """
    damages: list[Damage] = []

    def unusable(error: Corrupted | TooNew) -> None:
        if isinstance(error, Corrupted):
            damages.append(Damage(str(error)))

    found = repository.read_records(unusable)
    states = records.by_age(records.fold(found))
    damages += [
        Damage(BEGINNING_MISSING, experiment)
        for experiment in records.headless(found)
        if wanted(Snapshot(experiment, None, ""))
    ]
    sizes = {entry.key: entry.size for entry in repository.store.list(DATA)}
    snapshots = [snapshot for snapshot in snapshots_of(states) if wanted(snapshot)]
    experiments = sum(wanted(Snapshot(experiment, None, "")) for experiment in states)  # with files or without
    objects: set[str] = set()
    parts: dict[Part, list[tuple[Snapshot, str]]] = {}
    packs: dict[str, _Pack] = {}
    for snapshot in snapshots:
        try:
            manifest = repository.manifest(snapshot.manifest)
        except Corrupted as error:
            damages.append(Damage(str(error), snapshot.experiment, snapshot.checkpoint))
            continue
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
    hurt: set[str] = set()
    for part, problem in _check_parts(repository, parts, progress):
        checked += part.length
        if problem is not None:
            hurt.add(part.object)
            damages += [Damage(problem, owner.experiment, owner.checkpoint, path) for owner, path in parts[part]]
    for key in packs.keys() - hurt:
        if (problem := _pack_problem(repository, key, packs[key].digest, sizes[key])) is not None:
            damages += [Damage(problem, owner.experiment, owner.checkpoint) for owner in packs[key].owners]
    if damages:  # files may have been let go, or deleted, since it was read that they are there
        states = repository.states(lambda _: None)
        still = {snapshot.checkpoint for snapshot in snapshots_of(states)}
        damages = [damage for damage in damages if damage.checkpoint is None or damage.checkpoint in still]
    return Report(tuple(dict.fromkeys(damages)), experiments, len(objects), checked)


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack, and the snapshots that have files in it."""

    digest: str
    owners: dict[Snapshot, None] = field(default_factory=dict)


def _pack_problem(repository: Repository, key: str, expected: str, size: int) -> str | None:
    """Say what is wrong with a pack whose parts are all right: what stands between them is needed by `tar`."""
    whole = hashlib.new(DIGEST_NAME)
    try:
        for start in range(0, size, FETCH_BYTES):
            whole.update(repository.store.get(key, start, min(start + FETCH_BYTES, size)))
    except NotFound:
        return f"the object {key} is missing"
    if f"{DIGEST_NAME}:{whole.hexdigest()}" == expected:
        return None
    return f"the pack {key} was changed between its parts: every file is whole, but `tar` may not open it"


def _size_problems(manifest: Manifest, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Path and problem of every file that lies in an object which is missing or has another size."""
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
    """Read parts; for each what is wrong with it, if anything is."""
    total = sum(part.length for part in parts)
    done = 0
    for fetch in plan(map(Wanted, parts)):
        try:
            read(repository, fetch)
            found: list[tuple[Part, str | None]] = [(item.part, None) for item in fetch.wanted]
        except Corrupted:  # one of them at least: which?
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
