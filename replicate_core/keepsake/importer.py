"""Importing what Keepsake 0.4 or the first replicate (2020) stored: experiments, checkpoints, and their files.

Ids are kept, so that an import can be repeated: it skips what was imported before, and completes an import that was
interrupted. Archives are untrusted input: nothing in them is executed. The old repository is never changed. `documents`
knows what the documents mean.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Literal, TypeAlias, TypeVar

from replicate_core.errors import Corrupted, NotFound, StorageFailed, TooNew
from replicate_core.format import ids, records
from replicate_core.format.encodings import Policy
from replicate_core.format.keys import FORMAT_KEY, KEEPSAKE_EXPERIMENTS, RECORDS, record_name
from replicate_core.format.manifest import link_problem, path_problem, tree_problem
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Ended, Record, Restored
from replicate_core.format.values import Value
from replicate_core.keepsake import documents
from replicate_core.keepsake.documents import OldExperiment
from replicate_core.machine.staging import Staged, StagedFile
from replicate_core.progress import Progress, silent
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.compacting import compact_if_due
from replicate_core.repository.repository import Repository
from replicate_core.repository.writing import StoredSnapshot, publish
from replicate_core.storage.store import Store
from replicate_core.version import __version__

CHECKPOINTS = "metadata/checkpoints/"
HEARTBEATS = "metadata/heartbeats/"
VERSION_KEY = "repository.json"

RUNS_WITHIN = timedelta(seconds=30)
"""Maximum age of the last heartbeat of an experiment that still runs. Keepsake had the same limit, and sent a heartbeat
every five seconds."""

FETCH_BYTES = 16 << 20
COPY_BYTES = 1 << 20

_Parsed = TypeVar("_Parsed", Created, CheckpointFacts)
_Stored: TypeAlias = "StoredSnapshot | str"
"""The snapshot that was stored of the files at a place, or, as a string, why none was."""

Outcome: TypeAlias = Literal["imported", "completed", "present", "deleted", "running", "failed"]


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The result of importing one experiment."""

    experiment: str
    outcome: Outcome
    """`imported`: the experiment is new. `completed`: a part of it had been imported before. `present`: everything had
    been imported before, or what is missing still is. `deleted`: it had been imported and was deleted here. `running`:
    it has not ended yet, and was skipped. `failed`: its document can't be read."""
    checkpoints: int = 0
    """Number of checkpoints that are new."""
    size_bytes: int = 0
    """Total size of their files and of the code."""
    notes: tuple[str, ...] = ()
    """What could not be imported unchanged."""
    damages: tuple[str, ...] = ()
    """What can't be read in the old repository, and is missing here."""


def import_all(
    source: Store,
    repository: Repository,
    *,
    scratch: Path,
    policy: Policy = "auto",
    dry_run: bool = False,
    progress: Progress = silent,
) -> list[ImportResult]:
    """Import every experiment of an old repository that was not imported before.

    Args:
        source: the store of the old repository.
        repository: the repository to import to.
        scratch: a directory for fetched files; it needs room for twice the files of one checkpoint.
        policy: what to compress.
        dry_run: read and check everything, and store nothing.
        progress: called with the number of experiments done, and the total.

    Raises:
        NotFound: there is no old repository.
        TooNew: the old repository has an unknown version.
        StorageFailed: a storage can't be reached or written.
    """
    old = _OldRepository.of(source)
    if not dry_run:
        repository.prepare()
    importer = _Importer(old, _Known.of(repository), repository, ChunkIndex(repository), policy, scratch, dry_run)
    results: list[ImportResult] = []
    for number, key in enumerate(old.experiments, start=1):
        results.append(importer.import_experiment(key))
        progress(number, len(old.experiments))
    if any(result.outcome in ("imported", "completed") for result in results) and not dry_run:
        compact_if_due(repository)
    return results + [ImportResult(_id_in(key), "failed", damages=(why,)) for key, why in old.unreadable.items()]


def count_of_new(source: Store, repository: Repository) -> int:
    """Number of experiments of an old repository that a repository has no record of; 0 if there is no old repository.

    Only keys are listed: no document is read.
    """
    names = (name.removesuffix(".json") for name in source.names(KEEPSAKE_EXPERIMENTS) if name.endswith(".json"))
    found = {name for name in names if ids.is_id(name)}
    if not found:
        return 0
    recorded = (record_name(entry.key) for entry in repository.store.list(RECORDS))
    return len(found - {name.experiment for name in recorded if name is not None})


@dataclass(frozen=True, slots=True)
class _OldRepository:
    """The contents of an old repository."""

    store: Store
    sizes: Mapping[str, int]
    experiments: Sequence[str]
    """The keys of the documents of its experiments."""
    below: Mapping[str, Sequence[str]]
    """Place of a snapshot to the keys of its files: in 2020, each file was stored by itself."""
    separate: Mapping[str, Sequence[Mapping[str, Value]]]
    """Experiment to the documents of its checkpoints, if these have documents of their own, as in 2020."""
    unreadable: Mapping[str, str]
    """Key of each document of a checkpoint or of the version that can't be read, and why."""

    @classmethod
    def of(cls, store: Store) -> _OldRepository:
        sizes = {entry.key: entry.size for entry in store.list("")}
        experiments = [key for key in sizes if key.startswith(KEEPSAKE_EXPERIMENTS) and key.endswith(".json")]
        if not experiments:
            hint = ". It is a repository of this replicate, and needs no import" if FORMAT_KEY in sizes else ""
            raise NotFound(
                f"{store.url} is not a repository of Keepsake or of the first replicate: it has no "
                f"{KEEPSAKE_EXPERIMENTS}*.json{hint}"
            )
        unreadable: dict[str, str] = {}
        if VERSION_KEY in sizes:
            try:
                _check_version(store)
            except Corrupted as error:
                unreadable[VERSION_KEY] = (
                    f"the version of the repository can't be read, and is assumed to be 1: {error}"
                )
        separate: dict[str, list[dict[str, Value]]] = {}
        keys = [key for key in sizes if key.startswith(CHECKPOINTS) and key.endswith(".json")]
        for key, data in store.get_many(keys).items():
            try:
                document = documents.load(data, key=key)
                separate.setdefault(documents.owner(document, key=key), []).append(document)
            except Corrupted as error:
                unreadable[key] = str(error)
        below: dict[str, list[str]] = {}
        for key in sizes:
            if key.count("/") > 1:
                below.setdefault("/".join(key.split("/", 2)[:2]), []).append(key)
        return cls(store, sizes, experiments, below, separate, unreadable)

    def archive(self, place: str) -> str | None:
        """The key of the archive of the files at a place, as Keepsake packed them; None if there is none."""
        return key if (key := f"{place}.tar.gz") in self.sizes else None

    def path(self, recorded: str | None, place: str) -> str | None:
        """The path that was saved of the project: in 2020, it was the whole project, and no path was recorded."""
        return "." if recorded is None and (self.archive(place) or place in self.below) else recorded

    def document(self, key: str) -> dict[str, Value]:
        """Read a document. Raises `Corrupted`."""
        return _document(self.store, key)

    def last_heartbeat(self, experiment: str) -> datetime | None:
        """The time of the last heartbeat of an experiment; None if it has none. Raises `Corrupted`."""
        key = f"{HEARTBEATS}{experiment}.json"
        return documents.heartbeat(self.document(key), key=key) if key in self.sizes else None


def _document(store: Store, key: str) -> dict[str, Value]:
    """Read a document that was listed. Raises `Corrupted`."""
    try:
        return documents.load(store.get(key), key=key)
    except NotFound as error:
        raise Corrupted(f"{key} was listed, and is not there") from error


def _check_version(store: Store) -> None:
    """Raises `TooNew` if a later Keepsake wrote the repository, and `Corrupted` if the version can't be read."""
    version = _document(store, VERSION_KEY).get("version")
    if version != documents.VERSION:
        raise TooNew(
            f"the repository at {store.url} has version {version!r}; Keepsake 0.4 wrote {documents.VERSION}, "
            "and no other version can be imported"
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What the repository has recorded already, by id. It includes what was deleted, so that this stays deleted."""

    created: frozenset[str]
    checkpoints: frozenset[str]
    ended: Mapping[str, datetime]
    """Experiment to the time of its end, as an import recorded it."""
    deleted: frozenset[str]
    lacking: Mapping[str, frozenset[str | None]]
    """Experiment to its checkpoints that were imported without their files; None among them stands for its code."""

    @classmethod
    def of(cls, repository: Repository) -> _Known:
        stored = repository.read_records()
        return cls(
            frozenset(record.experiment for record in stored if isinstance(record, Created)),
            frozenset(item.id for record in stored if isinstance(record, Checkpointed) for item in record.checkpoints),
            {
                record.experiment: record.created
                for record in stored
                if isinstance(record, Ended) and not record.session
            },
            frozenset(
                record.experiment for record in stored if isinstance(record, Deleted) and record.checkpoints is None
            ),
            {experiment: _lacking(state) for experiment, state in records.fold(stored).items()},
        )


def _lacking(state: records.ExperimentState) -> frozenset[str | None]:
    """The snapshots of an experiment whose files are missing here, except those that were released."""
    of_checkpoints = (item.id for item in state.checkpoints if item.path and not item.manifest and not item.is_released)
    of_code = [None] if state.created.path and not state.created.manifest else []
    return frozenset([*of_checkpoints, *of_code])


@dataclass(slots=True)
class _Report:
    """What to report of an experiment after its import."""

    notes: list[str]
    damages: list[str]
    size_bytes: int = 0
    restored: int = 0
    """Number of snapshots whose files were missing here and are imported now."""


@dataclass(frozen=True, slots=True)
class _Importer:
    """Imports one experiment after the other."""

    old: _OldRepository
    known: _Known
    repository: Repository
    chunks: ChunkIndex
    policy: Policy
    scratch: Path
    dry_run: bool

    def import_experiment(self, key: str) -> ImportResult:
        """Import the experiment whose document is at `key`."""
        experiment = _id_in(key)
        if experiment in self.known.deleted:
            return ImportResult(experiment, "deleted")
        try:
            separate = self.old.separate.get(experiment, ())
            found = documents.experiment(self.old.document(key), separate, key=key, url=self.old.store.url)
            if found.created.experiment != experiment:
                raise Corrupted(f"{key} describes another experiment: {found.created.experiment}")
        except Corrupted as error:
            return ImportResult(experiment, "failed", damages=(str(error),))
        damages = list(found.damages)
        try:
            heartbeat = self.old.last_heartbeat(experiment)
        except Corrupted as error:
            heartbeat = None
            damages.append(
                f"its heartbeat can't be read, so the time of its last checkpoint counts as its end: {error}"
            )
        if heartbeat is not None and self.repository.now() - heartbeat < RUNS_WITHIN:
            return ImportResult(experiment, "running")
        return self._import(found, heartbeat, damages)

    def _import(self, found: OldExperiment, heartbeat: datetime | None, damages: list[str]) -> ImportResult:
        experiment = found.created.experiment
        new = [facts for facts in found.checkpoints if facts.id not in self.known.checkpoints]
        is_new = experiment not in self.known.created
        moments = [found.created.created, *(facts.created for facts in found.checkpoints)]
        end = max([*moments, heartbeat or moments[0]])
        ended = self.known.ended.get(experiment)
        is_whole = not is_new and not new and ended is not None and end <= ended
        report = _Report([] if is_whole else list(found.notes), damages)
        if is_new:
            self._import_code(replace(found.created, replicate_version=__version__), report)
        else:
            self._restore(found, self.known.lacking.get(experiment, frozenset()), report)
        self._import_checkpoints(experiment, new, report)
        if not is_whole:
            self._append(Ended(experiment, end, "finished"))  # again if it has new checkpoints: the last one counts
        outcome: Outcome = "imported" if is_new else "present" if is_whole and not report.restored else "completed"
        return ImportResult(
            experiment, outcome, len(new), report.size_bytes, tuple(report.notes), tuple(report.damages)
        )

    def _restore(self, found: OldExperiment, lacking: frozenset[str | None], report: _Report) -> None:
        """Try again to import the files that could not be imported before."""
        experiment = found.created.experiment
        places: dict[str | None, tuple[str, str]] = {None: (f"experiments/{experiment}", "the code")}
        places |= {
            facts.id: (f"checkpoints/{facts.id}", f"the checkpoint {ids.short(facts.id)}")
            for facts in found.checkpoints
        }
        for checkpoint, (place, what) in places.items():
            if checkpoint not in lacking:
                continue

            def record_of(stored: StoredSnapshot, checkpoint: str | None = checkpoint) -> Restored:
                return Restored(experiment, checkpoint, stored.manifest, stored.size_bytes, stored.stored_bytes)

            if self._store(place, what, record_of, report) is None:
                report.restored += 1
                report.notes.append(f"the files of {what} were missing here, and are imported now")

    def _import_code(self, parsed: Created, report: _Report) -> None:
        place = f"experiments/{parsed.experiment}"
        created = replace(parsed, path=self.old.path(parsed.path, place))

        def record_of(stored: _Stored) -> Created:
            return _with_files(created, stored)

        if created.path is None:
            self._append(created)
        else:
            self._store_or_record(place, "the code", record_of, report)

    def _import_checkpoints(self, experiment: str, new: Sequence[CheckpointFacts], report: _Report) -> None:
        """Import checkpoints. Those without files share the record of the next one with files, to save objects."""
        pending: list[CheckpointFacts] = []
        for parsed in new:
            place = f"checkpoints/{parsed.id}"
            facts = replace(parsed, path=self.old.path(parsed.path, place))
            if facts.path is None:
                pending.append(facts)
                continue
            before = tuple(pending)

            def record_of(
                stored: _Stored, facts: CheckpointFacts = facts, before: tuple[CheckpointFacts, ...] = before
            ) -> Checkpointed:
                return Checkpointed(experiment, (*before, _with_files(facts, stored)))

            self._store_or_record(place, f"the checkpoint {ids.short(facts.id)}", record_of, report)
            pending.clear()
        if pending:
            self._append(Checkpointed(experiment, tuple(pending)))

    def _store_or_record(self, place: str, what: str, record_of: Callable[[_Stored], Record], report: _Report) -> None:
        """Store the files at a place, and their record; if there are no files, the record says why."""
        if (why := self._store(place, what, record_of, report)) is not None:
            self._append(record_of(why))

    def _store(
        self, place: str, what: str, record_of: Callable[[StoredSnapshot], Record], report: _Report
    ) -> str | None:
        """Store the files at a place of the old repository, and their record.

        Returns:
            Why the files are missing, which is also reported to the user; None if they were stored.
        """
        try:
            with self._fetched(place, what, report.notes) as staged:
                if staged is not None:
                    report.size_bytes += staged.total_bytes
                    if not self.dry_run:
                        publish(self.repository, self.chunks, staged, self.policy, record_of)
                    return None
        except Corrupted as error:
            report.damages.append(f"the files of {what} can't be read, and are missing here: {error}")
            return f"damaged where they were imported from: {error}"
        report.notes.append(f"the files of {what} are not there: they were deleted, or never stored")
        return "deleted, or never stored, where they were imported from"

    def _append(self, record: Record) -> None:
        if not self.dry_run:
            self.repository.append(record)

    @contextmanager
    def _fetched(self, place: str, what: str, notes: list[str]) -> Iterator[Staged | None]:
        """Fetch the files at a place, from an archive or a directory; None if there is neither.

        Raises:
            Corrupted: the files are damaged.
        """
        directory = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            archive = self.old.archive(place)
            below = [] if archive else self.old.below.get(place, [])
            staging = _Staging(directory, what, notes)
            if archive:
                self._fetch(archive, directory / "archive")
                staging.unpack(directory / "archive", archive, prefix=place.partition("/")[2])
                (directory / "archive").unlink()
            for key in below:
                path = key.removeprefix(f"{place}/")
                if (copy := staging.place(path)) is not None:
                    staging.add(path, copy, self._fetch(key, copy), 0o644)
            yield staging.staged() if archive or below else None
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _fetch(self, key: str, target: Path) -> int:
        """Fetch an object to a file, piece by piece. Returns its size."""
        size = self.old.sizes[key]
        with _writing(target) as file:
            for start in range(0, size, FETCH_BYTES):
                try:
                    piece = self.old.store.get(key, start, min(start + FETCH_BYTES, size))
                except NotFound as error:
                    raise Corrupted(f"{key} was listed, and is not there") from error
                file.write(piece)
            if file.tell() != size:
                raise Corrupted(f"{key} has {file.tell()} bytes, but was listed with {size}")
        return size


class _Staging:
    """Stages the files of a snapshot: checks their paths, and writes each under a number."""

    def __init__(self, directory: Path, what: str, notes: list[str]) -> None:
        self._directory = directory
        self._what = what
        self._notes = notes
        self._files: dict[str, StagedFile] = {}
        self._links: dict[str, str] = {}
        self._directories: dict[str, None] = {}
        self._count = 0

    def place(self, path: str) -> Path | None:
        """Where to write a file; None, and a note, if a snapshot can't hold it."""
        problem = path_problem(path) or (None if _is_unicode(path) else "is not Unicode text")
        if problem:
            self._leave_out(path, problem)
            return None
        self._count += 1
        return self._directory / str(self._count)

    def add(self, path: str, copy: Path, size: int, mode: int) -> None:
        """Add a file that was written to the path that `place` returned."""
        self._files[path] = StagedFile(path, mode, copy, 0, size)

    def unpack(self, archive: Path, key: str, *, prefix: str) -> None:
        """Unpack a `.tar.gz`, whose members are below a directory named `prefix`.

        Raises:
            Corrupted: it is not such an archive, or it is incomplete: the checksum of gzip tells.
        """
        try:
            with gzip.open(archive) as stream:
                with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8") as members:
                    for member in members:
                        self._unpack(
                            members, member, member.name.removeprefix(f"{prefix}/"), is_top=member.name == prefix
                        )
                while stream.read(COPY_BYTES):  # to its end, where the checksum is
                    pass
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
            raise Corrupted(f"{key} is damaged: {error}") from error

    def _unpack(self, members: tarfile.TarFile, member: tarfile.TarInfo, path: str, *, is_top: bool) -> None:
        if is_top and member.isdir():
            return
        if not (member.isreg() or member.isdir() or member.issym()):
            self._leave_out(path, "is neither a file nor a directory nor a symbolic link")
            return
        copy = self.place(path)
        if copy is None:
            return
        if member.isdir():
            self._directories[path] = None
        elif member.issym():
            self._links[path] = member.linkname
        else:
            content = members.extractfile(member)
            assert content is not None, "it is a regular file"
            with _writing(copy) as file:
                shutil.copyfileobj(content, file, COPY_BYTES)
            self.add(path, copy, member.size, member.mode & 0o777)

    def staged(self) -> Staged:
        """The staged files. Raises `Corrupted` if they can't be in one directory tree."""
        bad = {path for path in self._links if link_problem(path, self._links)}
        for path in sorted(bad):
            self._leave_out(path, f"is a link to {self._links[path]!r}, which leads out of the snapshot")
        links = {path: target for path, target in self._links.items() if path not in bad}
        above = {path[:at] for path in (*self._files, *links, *self._directories) for at in _slashes(path)}
        directories = tuple(path for path in self._directories if path not in above)
        if problem := tree_problem(self._files, links, directories):
            raise Corrupted(f"it can't be laid out in one directory: {problem}")
        return Staged(self._directory, tuple(self._files.values()), links, directories)

    def _leave_out(self, path: str, problem: str) -> None:
        self._notes.append(f"{path!r} of {self._what} is left out: it {problem}")


@contextmanager
def _writing(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file in the scratch directory for writing. Raises `StorageFailed` if it can't be written."""
    try:
        with open(target, "xb") as file:
            yield file
    except gzip.BadGzipFile:  # an OSError, but from reading, not from writing
        raise
    except OSError as error:
        if isinstance(error, StorageFailed):
            raise
        raise StorageFailed(f"can't write fetched files to {target.parent}: {error}. Make room there") from error


def _with_files(parsed: _Parsed, stored: _Stored) -> _Parsed:
    """What to record: the parsed document with the files that were stored for it, or with the reason why none were."""
    if isinstance(stored, str):
        return replace(parsed, lacks=stored)
    size, added = stored.size_bytes, stored.stored_bytes
    return replace(parsed, manifest=stored.manifest, size_bytes=size, stored_bytes=added)


def _id_in(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _slashes(path: str) -> Iterator[int]:
    return (at for at, character in enumerate(path) if character == "/")
