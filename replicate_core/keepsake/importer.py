"""Taking over what Keepsake 0.4, or the first replicate of 2020, has stored: experiments, checkpoints, and their files.

Ids are kept, so that an import can be made again: what is there is passed over, and one that was broken off goes on.
Archives are read as something that a stranger wrote, nothing in them is carried out, and nothing is changed where they
lie. What the documents mean is in `documents`.
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
"""An experiment whose last heartbeat is younger still runs: so said Keepsake, which beat every five seconds."""

FETCH_BYTES = 16 << 20
COPY_BYTES = 1 << 20

_Said = TypeVar("_Said", Created, CheckpointFacts)
_Stored: TypeAlias = "StoredSnapshot | str"
"""What was stored of the files at a place; or, as a string, why nothing was."""

Outcome: TypeAlias = Literal["imported", "completed", "present", "deleted", "running", "failed"]


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of one experiment."""

    experiment: str
    outcome: Outcome
    """`completed`: some of it was there already. `present`: all of it was, or what is missing still is. `deleted`: it
    was, and was deleted here. `running`: it has not ended yet, and was left alone. `failed`: what tells of it can't be
    read."""
    checkpoints: int = 0
    """How many checkpoints came new."""
    size_bytes: int = 0
    """Size of their files, and of the code."""
    notes: tuple[str, ...] = ()
    """What could not be taken over as it was."""
    damages: tuple[str, ...] = ()
    """What can't be read where it came from: it is missing here."""


def import_all(
    source: Store,
    repository: Repository,
    *,
    scratch: Path,
    policy: Policy = "auto",
    dry_run: bool = False,
    progress: Progress = silent,
) -> list[ImportResult]:
    """Take over every experiment of an old repository that is not there yet.

    Args:
        source: where the old repository lies.
        repository: where to.
        scratch: a directory for what is fetched; there must be room for the files of one checkpoint, twice.
        policy: what to compress.
        dry_run: read and check everything, and store nothing.
        progress: called with how many experiments are done, and how many there are.

    Raises:
        NotFound: there is no old repository.
        TooNew: it was written in a format that is not known.
        StorageFailed: a storage can't be reached or written.
    """
    old = _Old.of(source)
    if not dry_run:
        repository.prepare()
    importer = _Importer(old, _There.of(repository), repository, ChunkIndex(repository), policy, scratch, dry_run)
    results: list[ImportResult] = []
    for number, key in enumerate(old.experiments, start=1):
        results.append(importer.take_over(key))
        progress(number, len(old.experiments))
    if any(result.outcome in ("imported", "completed") for result in results) and not dry_run:
        compact_if_due(repository)
    return results + [ImportResult(_id_in(key), "failed", damages=(why,)) for key, why in old.unreadable.items()]


def count_of_new(source: Store, repository: Repository) -> int:
    """How many experiments of an old repository a repository has never heard of; 0 where there is no old one.

    Names alone are listed: nothing is read.
    """
    names = (name.removesuffix(".json") for name in source.names(KEEPSAKE_EXPERIMENTS) if name.endswith(".json"))
    found = {name for name in names if ids.is_id(name)}
    if not found:
        return 0
    recorded = (record_name(entry.key) for entry in repository.store.list(RECORDS))
    return len(found - {name.experiment for name in recorded if name is not None})


@dataclass(frozen=True, slots=True)
class _Old:
    """What lies in an old repository."""

    store: Store
    sizes: Mapping[str, int]
    experiments: Sequence[str]
    """The keys of the documents of its experiments."""
    below: Mapping[str, Sequence[str]]
    """Place of a snapshot to the keys of its files, as they were stored in 2020: each by itself."""
    separate: Mapping[str, Sequence[Mapping[str, Value]]]
    """Experiment to the documents of those of its checkpoints that have one of their own, as in 2020."""
    unreadable: Mapping[str, str]
    """Key of such a document, or of that of the version, to why it can't be read."""

    @classmethod
    def of(cls, store: Store) -> _Old:
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
                unreadable[VERSION_KEY] = f"the version of the repository can't be read, and is taken for 1: {error}"
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

    def path(self, said: str | None, place: str) -> str | None:
        """What was saved of the project: in 2020 it was all of it, without saying so."""
        return "." if said is None and (self.archive(place) or place in self.below) else said

    def document(self, key: str) -> dict[str, Value]:
        """Read a document. Raises `Corrupted`."""
        return _document(self.store, key)

    def last_sign(self, experiment: str) -> datetime | None:
        """The last sign of life of an experiment; None if it left none. Raises `Corrupted`."""
        key = f"{HEARTBEATS}{experiment}.json"
        return documents.heartbeat(self.document(key), key=key) if key in self.sizes else None


def _document(store: Store, key: str) -> dict[str, Value]:
    """Read a document that was listed. Raises `Corrupted`."""
    try:
        return documents.load(store.get(key), key=key)
    except NotFound as error:
        raise Corrupted(f"{key} was listed, and is not there") from error


def _check_version(store: Store) -> None:
    """Raises `TooNew` where a later Keepsake wrote the repository; `Corrupted` where that can't be read."""
    version = _document(store, VERSION_KEY).get("version")
    if version != documents.VERSION:
        raise TooNew(
            f"the repository at {store.url} has version {version!r}; Keepsake 0.4 wrote {documents.VERSION}, "
            "and nothing else is known here"
        )


@dataclass(frozen=True, slots=True)
class _There:
    """What the repository knows already, by id; what was deleted, too: it stays deleted."""

    created: frozenset[str]
    checkpoints: frozenset[str]
    ended: Mapping[str, datetime]
    """Experiment to when it ended, as far as an import said so."""
    deleted: frozenset[str]
    lacking: Mapping[str, frozenset[str | None]]
    """Experiment to which of its checkpoints came over without their files; None among them stands for its code."""

    @classmethod
    def of(cls, repository: Repository) -> _There:
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
    """Which snapshots of an experiment are known to have had files that are not here; what was let go is not meant."""
    of_checkpoints = (item.id for item in state.checkpoints if item.path and not item.manifest and not item.is_released)
    of_code = [None] if state.created.path and not state.created.manifest else []
    return frozenset([*of_checkpoints, *of_code])


@dataclass(slots=True)
class _Gathered:
    """What is to be said of an experiment once it is done."""

    notes: list[str]
    damages: list[str]
    size_bytes: int = 0
    restored: int = 0
    """How many snapshots came over whose files were missing here."""


@dataclass(frozen=True, slots=True)
class _Importer:
    """Takes over one experiment after the other."""

    old: _Old
    there: _There
    repository: Repository
    known: ChunkIndex
    policy: Policy
    scratch: Path
    dry_run: bool

    def take_over(self, key: str) -> ImportResult:
        """Take over the experiment that the document at `key` tells of."""
        experiment = _id_in(key)
        if experiment in self.there.deleted:
            return ImportResult(experiment, "deleted")
        try:
            separate = self.old.separate.get(experiment, ())
            found = documents.experiment(self.old.document(key), separate, key=key, url=self.old.store.url)
            if found.created.experiment != experiment:
                raise Corrupted(f"{key} tells of another experiment: {found.created.experiment}")
        except Corrupted as error:
            return ImportResult(experiment, "failed", damages=(str(error),))
        damages = list(found.damages)
        try:
            last_sign = self.old.last_sign(experiment)
        except Corrupted as error:
            last_sign = None
            damages.append(f"its heartbeat can't be read, so that its last checkpoint tells when it ended: {error}")
        if last_sign is not None and self.repository.now() - last_sign < RUNS_WITHIN:
            return ImportResult(experiment, "running")
        return self._take_over(found, last_sign, damages)

    def _take_over(self, found: OldExperiment, last_sign: datetime | None, damages: list[str]) -> ImportResult:
        experiment = found.created.experiment
        new = [facts for facts in found.checkpoints if facts.id not in self.there.checkpoints]
        is_new = experiment not in self.there.created
        moments = [found.created.created, *(facts.created for facts in found.checkpoints)]
        end = max([*moments, last_sign or moments[0]])
        ended = self.there.ended.get(experiment)
        is_whole = not is_new and not new and ended is not None and end <= ended
        gathered = _Gathered([] if is_whole else list(found.notes), damages)
        if is_new:
            self._take_over_code(replace(found.created, replicate_version=__version__), gathered)
        else:
            self._restore(found, self.there.lacking.get(experiment, frozenset()), gathered)
        self._take_over_checkpoints(experiment, new, gathered)
        if not is_whole:
            self._append(Ended(experiment, end, "finished"))  # again, if it has grown: one before that does not count
        outcome: Outcome = "imported" if is_new else "present" if is_whole and not gathered.restored else "completed"
        return ImportResult(
            experiment, outcome, len(new), gathered.size_bytes, tuple(gathered.notes), tuple(gathered.damages)
        )

    def _restore(self, found: OldExperiment, lacking: frozenset[str | None], gathered: _Gathered) -> None:
        """Look again for the files that could not be taken over before."""
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

            if self._store(place, what, record_of, gathered) is None:
                gathered.restored += 1
                gathered.notes.append(f"the files of {what} were missing here, and have come now")

    def _take_over_code(self, said: Created, gathered: _Gathered) -> None:
        place = f"experiments/{said.experiment}"
        created = replace(said, path=self.old.path(said.path, place))

        def record_of(stored: _Stored) -> Created:
            return _with_files(created, stored)

        if created.path is None:
            self._append(created)
        else:
            self._store_or_record(place, "the code", record_of, gathered)

    def _take_over_checkpoints(self, experiment: str, new: Sequence[CheckpointFacts], gathered: _Gathered) -> None:
        """Those without files are recorded together with the next one that has some: one small object less each."""
        pending: list[CheckpointFacts] = []
        for said in new:
            place = f"checkpoints/{said.id}"
            facts = replace(said, path=self.old.path(said.path, place))
            if facts.path is None:
                pending.append(facts)
                continue
            before = tuple(pending)

            def record_of(
                stored: _Stored, facts: CheckpointFacts = facts, before: tuple[CheckpointFacts, ...] = before
            ) -> Checkpointed:
                return Checkpointed(experiment, (*before, _with_files(facts, stored)))

            self._store_or_record(place, f"the checkpoint {ids.short(facts.id)}", record_of, gathered)
            pending.clear()
        if pending:
            self._append(Checkpointed(experiment, tuple(pending)))

    def _store_or_record(
        self, place: str, what: str, record_of: Callable[[_Stored], Record], gathered: _Gathered
    ) -> None:
        """Store the files at a place, and the record of them; where there are none, the record says why."""
        if (why := self._store(place, what, record_of, gathered)) is not None:
            self._append(record_of(why))

    def _store(
        self, place: str, what: str, record_of: Callable[[StoredSnapshot], Record], gathered: _Gathered
    ) -> str | None:
        """Store the files at a place of the old repository, and the record of them.

        Returns:
            Why the files are missing here; None if they are not. It is named to the user, too.
        """
        try:
            with self._fetched(place, what, gathered.notes) as staged:
                if staged is not None:
                    gathered.size_bytes += staged.total_bytes
                    if not self.dry_run:
                        publish(self.repository, self.known, staged, self.policy, record_of)
                    return None
        except Corrupted as error:
            gathered.damages.append(f"the files of {what} can't be read, and are missing here: {error}")
            return f"damaged where they were imported from: {error}"
        gathered.notes.append(f"the files of {what} are not there: they were deleted, or never stored")
        return "deleted, or never stored, where they were imported from"

    def _append(self, record: Record) -> None:
        if not self.dry_run:
            self.repository.append(record)

    @contextmanager
    def _fetched(self, place: str, what: str, notes: list[str]) -> Iterator[Staged | None]:
        """Fetch the files at a place: an archive, or a directory; None where there is neither.

        Raises:
            Corrupted: they are damaged.
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
        """Fetch a key to a file, a piece at a time. Returns its size."""
        size = self.old.sizes[key]
        with _writing(target) as file:
            for start in range(0, size, FETCH_BYTES):
                try:
                    piece = self.old.store.get(key, start, min(start + FETCH_BYTES, size))
                except NotFound as error:
                    raise Corrupted(f"{key} was listed, and is not there") from error
                file.write(piece)
            if file.tell() != size:
                raise Corrupted(f"{key} has {file.tell()} bytes, and was listed with {size}")
        return size


class _Staging:
    """Files of a snapshot, laid down one after the other, each under a number, once their names were checked."""

    def __init__(self, directory: Path, what: str, notes: list[str]) -> None:
        self._directory = directory
        self._what = what
        self._notes = notes
        self._files: dict[str, StagedFile] = {}
        self._links: dict[str, str] = {}
        self._directories: dict[str, None] = {}
        self._count = 0

    def place(self, path: str) -> Path | None:
        """Where a file goes; None if a snapshot can't have it, which is noted."""
        problem = path_problem(path) or (None if _is_unicode(path) else "is not Unicode text")
        if problem:
            self._leave_out(path, problem)
            return None
        self._count += 1
        return self._directory / str(self._count)

    def add(self, path: str, copy: Path, size: int, mode: int) -> None:
        """Take a file that was laid down where `place` said."""
        self._files[path] = StagedFile(path, mode, copy, 0, size)

    def unpack(self, archive: Path, key: str, *, prefix: str) -> None:
        """Lay down what is in a `.tar.gz`, whose members stand below a directory named `prefix`.

        Raises:
            Corrupted: it is none, or not whole: gzip knows by its checksum.
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
        """What was laid down. Raises `Corrupted` where it can't be one tree."""
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
    """A fresh file in the scratch directory."""
    try:
        with open(target, "xb") as file:
            yield file
    except gzip.BadGzipFile:  # an OSError of what is read, not of what is written
        raise
    except OSError as error:
        if isinstance(error, StorageFailed):
            raise
        raise StorageFailed(f"can't write what was fetched to {target.parent}: {error}. Make room there") from error


def _with_files(said: _Said, stored: _Stored) -> _Said:
    """What is recorded, with the files that were stored for it, or with the reason why none were."""
    if isinstance(stored, str):
        return replace(said, lacks=stored)
    size, added = stored.size_bytes, stored.stored_bytes
    return replace(said, manifest=stored.manifest, size_bytes=size, stored_bytes=added)


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
