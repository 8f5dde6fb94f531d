"""A project and its experiments: where `replicate.init` and `replicate.experiments` begin."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from replicate_core import user_warnings
from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import NotFound, StorageFailed
from replicate_core.experiment import Experiment, ExperimentList
from replicate_core.format import ids, records
from replicate_core.format.records import Created, ExperimentState
from replicate_core.format.values import Value, renamed
from replicate_core.machine import environment
from replicate_core.machine.files import DEFAULT_STORAGE, working_directory
from replicate_core.machine.fresh_ids import new_id
from replicate_core.machine.gc_pause import collection_paused
from replicate_core.machine.names import portable
from replicate_core.machine.ranks import (
    IMPORTING,
    LAUNCHERS,
    OVERRIDE,
    Rank,
    is_first_worker,
    know_id,
    tell_id,
    this_rank,
    told_id,
)
from replicate_core.progress import Progress, silent
from replicate_core.recording import resuming
from replicate_core.recording.inputs import check_inside, labels, mapping, text, warn_of_secrets
from replicate_core.recording.launching import start_for_abandoned
from replicate_core.recording.null_recording import NullRecording, Recorded
from replicate_core.recording.place import Place
from replicate_core.recording.recording import Recording, open_here
from replicate_core.recording.secret_params import Redactor
from replicate_core.redaction import without_credentials
from replicate_core.repository.chunk_index import GRACE
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool.spool import Spool
from replicate_core.storage.cache import cached
from replicate_core.storage.opening import check_scheme, found_at, is_config, local_root, open_store, scheme, within
from replicate_core.storage.options import CREATE
from replicate_core.storage.store import LocalStore, Store
from replicate_core.storage.trust import Request, check_trusted
from replicate_core.storage.vetting import doubts
from replicate_core.version import __version__
from replicate_core.views.comparing import Comparison, Side
from replicate_core.views.preview import Preview
from replicate_core.views.source import Listed, Source

if TYPE_CHECKING:  # a training needs none of these, and does not wait for them
    from replicate_core.keepsake import importer
    from replicate_core.provenance import FileMatch
    from replicate_core.repository import compacting, copying, pruning, verifying
    from replicate_core.spool import syncing

Filter = Callable[[Experiment], bool]

CANDIDATES_SHOWN = 10

REACH_SECONDS = 10.0
"""How long a storage may take to answer the question whether it is there."""

FORMER_PLACES = (".keepsake", DEFAULT_STORAGE)
"""Where, in a project, Keepsake and the first replicate kept experiments unless they were told where."""

KNOWN_SECONDS = 30.0
"""How long a process that resumes waits, at most, until other machines can see that."""


class Project:
    """A project directory, and the storage of its experiments.

    Args:
        storage: a URL or path, or a file that names one, with its options, as `replicate.yaml` does: `archive.yaml`;
            left out, the one in `replicate.yaml`, else `.replicate/storage`.
        directory: the project directory; left out, the nearest one at or above the working directory with a
            `replicate.yaml`, else the working directory. Without such a file, a working directory that lies below a
            directory with a `.replicate/storage`, and has no `.replicate` itself, shares that storage: see `above`.
        storage_options: what the driver of the storage is told: endpoint, profile, anonymous and the like; a text may
            refer to the environment: `${NAME}`. `create: True` makes the bucket if it is missing. Left out, those in
            `replicate.yaml`, unless `storage` is of another kind than the one they stand beside there; or those in the
            file that `storage` names.
        repository: Keepsake's name for `storage`.

    The storage is opened when it is first needed. To read from one that was named here and holds no repository raises
    `NotFound`; the default one may be empty. A project can be pickled: what it was made of is, and read again.

    Raises:
        ConfigInvalid: `replicate.yaml` can't be used, or asks for what only the user may allow: `replicate trust`.
        InvalidInput: what names the storage is neither a path nor a URL; or an option can't be one.
    """

    def __init__(
        self,
        *,
        storage: str | None = None,
        directory: str | Path | None = None,
        storage_options: Mapping[str, object] | None = None,
        repository: str | None = None,
    ) -> None:
        from replicate_core import config as configs  # noqa: PLC0415  # YAML takes 0.01 s, `import replicate` need not

        storage = renamed("storage", storage, "repository", repository)
        found = configs.find_directory(working_directory()) if directory is None else Path(directory)
        self.config = configs.load(found)
        beside = self.config
        self._is_named, self._has_options = storage is not None, storage_options is not None
        is_named_by_file = storage is None
        self.above = configs.project_above(beside.directory) if directory is None and storage is None else None
        """The directory above whose `.replicate` keeps what is recorded here, where that is not the project's own."""
        if self.above is not None:
            self.storage = str(self.above / DEFAULT_STORAGE)
        elif storage is None:
            self.storage = beside.storage
            local_root(self.storage, relative_to=beside.directory)  # raises where it can be none
        else:
            start = working_directory(storage)
            is_named_by_file = is_config(storage, relative_to=start)
            if is_named_by_file:
                beside = configs.load_file(Path(storage).expanduser())
                storage, start = beside.storage, beside.directory
            local = local_root(storage, relative_to=start)
            self.storage = storage if local is None else str(local)
        if storage_options is not None:
            self.storage_options: Mapping[str, Value] = mapping("storage_options", storage_options)
        else:
            is_same_kind = scheme(self.storage) == scheme(beside.storage)
            self.storage_options = beside.storage_options if is_same_kind else {}
        if beside.file is not None and local_root(self.storage, relative_to=beside.directory) is None:
            said = self.storage_options if storage_options is None else {}
            asked = doubts(self.storage, said, names_location=is_named_by_file)
            if asked:
                check_scheme(self.storage)  # a scheme that is mistyped is no question of trust
            check_trusted(Request(beside.file, beside.storage, beside.storage_options), asked)
        self._connect()
        self.experiments = Experiments(lambda: self)

    def _connect(self) -> None:
        self.spool = Spool(self.above or self.config.directory, self.config.spool.directory)
        self.source = Source(self._opened, self.spool, check=self._check_is_there)
        self.source_to_record = Source(self._opened, self.spool)
        """As `source`, for callers that will make the storage if it is not there yet."""

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def __reduce__(self) -> tuple[Callable[..., Project], tuple[object, ...]]:
        """What it is made of, for pickles and copies; what `replicate.yaml` says is read from there again."""
        storage = self.storage if self._is_named else None
        options = dict(self.storage_options) if self._is_named or self._has_options else None
        return _project_again, (str(self.directory), storage, options, self.above)

    def _opened(self) -> Repository:
        return self.repository

    def check_path(self, path: str | Path) -> None:
        """Make sure that a file at `path`, relative to the working directory, could be saved once it is there.

        Raises:
            InvalidInput: it lies outside of the project.
        """
        check_inside(working_directory(path), self.directory, path)

    def place(self) -> Place:
        """Where its experiments are recorded from, and to."""
        return Place(self.config, self.storage, self.spool, self.open_patiently, self.storage_options)

    @cached_property
    def repository(self) -> Repository:
        """What is stored at the storage.

        Raises:
            ConfigInvalid, MissingExtra, StorageFailed: the storage can't be opened.
        """
        return Repository(cached(self._store))

    @cached_property
    def _store(self) -> Store:
        return open_store(self.storage, relative_to=self.directory, options=self.storage_options)

    def directory_of(self, experiment: Experiment) -> Path:
        """Where the files of an experiment belong: the project directory, or the one above that it was recorded in."""
        recorded_in = experiment.config.get("project")
        is_from_above = self.above is not None and recorded_in != self.directory.name
        return self.above if self.above is not None and is_from_above else self.directory

    def _check_is_there(self) -> None:
        """Make sure that a storage which was named holds a repository; called where nothing was found in it.

        Raises:
            NotFound: it does not.
        """
        if self._is_named and not self.storage_options.get(CREATE) and not Repository(self._store).check_format():
            raise NotFound(f"there is no repository at {self._store.url}: {found_at(self._store)}")

    def _store_to_read(self) -> Store:
        """What is read from only, and must be there: a bucket that is missing is not made.

        Raises:
            NotFound: it is missing.
        """
        options = {name: value for name, value in self.storage_options.items() if name != CREATE}
        try:
            return open_store(self.storage, relative_to=self.directory, options=options)
        except StorageFailed as error:
            if error.bucket_is_missing:
                missing = f"the bucket of {self.shown_storage} does not exist: nothing can be read there"
                raise NotFound(missing) from error
            raise

    def open_patiently(self) -> Repository:
        """What is stored at the storage, for recording: as `repository`, but nobody waits for a request."""
        store = open_store(self.storage, relative_to=self.directory, options=self.storage_options, patient=True)
        return Repository(cached(store))

    def preview(self, path: str = ".") -> Preview:
        """What `replicate.init()` would save as code, and what it would leave out, without saving it.

        Args:
            path: as of `init`.

        Raises:
            InvalidInput, ConfigInvalid: `init` would fail.
        """
        return self.place().code(path)[2]

    def reach(self, *, seconds: float = REACH_SECONDS) -> bool:
        """Look whether the storage can be reached, without changing it; tells whether anything is stored there yet.

        Args:
            seconds: it is given up then.

        Raises:
            StorageFailed: it can't be, or did not answer in time.
            MissingExtra, InvalidInput, TooNew, Corrupted: it can't be opened, or is no storage of this version.
        """
        try:
            return within(seconds, lambda: Repository(self._store).check_format())
        except TimeoutError as error:
            raise StorageFailed(
                f"{self.shown_storage} did not answer within {seconds:g} seconds: check the network and the URL"
            ) from error

    def verify(
        self, prefixes: Sequence[str] = (), *, deep: bool = False, progress: Progress = silent
    ) -> verifying.VerifyReport:
        """Check that every object that experiments refer to exists, or, `deep`, that every byte is what was stored.

        Args:
            prefixes: of the ids of experiments and checkpoints; left out, all are checked.
            deep: read everything, instead of comparing sizes.
            progress: called with the bytes that are checked and all there are.

        Raises:
            NotFound: a prefix fits nothing.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.repository import verifying  # noqa: PLC0415

        chosen = [self.experiments.find(prefix) for prefix in prefixes]

        def wanted(snapshot: verifying.CheckedSnapshot) -> bool:
            return not chosen or any(
                experiment.id == snapshot.experiment
                and (checkpoint is None or snapshot.checkpoint in (None, checkpoint.id))
                for experiment, checkpoint in chosen
            )

        report = verifying.verify(Repository(self._store), wanted=wanted, deep=deep, progress=progress)
        if not report.experiments:
            self._check_is_there()
        return report

    def prune(self, *, dry_run: bool = False, grace: timedelta = GRACE, repack: bool = True) -> pruning.PruneReport:
        """Remove from the storage what nothing refers to any more, in two steps: announce, and a grace later delete.

        Safe beside running experiments, on any machine.

        Args:
            dry_run: change nothing.
            grace: from announcement to deletion. Less than 24 hours only where no experiment is running anywhere.
            repack: pack objects anew of which little is needed.

        Raises:
            Corrupted: it can't be told what is still needed; nothing was deleted.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.repository import pruning  # noqa: PLC0415

        repository = Repository(self._store)
        if not repository.check_format():  # nothing was ever stored
            self._check_is_there()
            return pruning.PruneReport()
        with self.spool.scratch() as scratch:
            return pruning.prune(repository, scratch=scratch, grace=grace, dry_run=dry_run, repack=repack)

    def compact(self, *, rebuild: bool = False) -> compacting.CompactReport:
        """Put the records of many experiments together, so that listing them takes a few requests.

        Recorders do so by themselves where many records have gathered. Safe beside running experiments, on any machine.

        Args:
            rebuild: do it anew, of all records.

        Raises:
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.repository import compacting  # noqa: PLC0415

        repository = Repository(self._store)
        if not repository.check_format():
            self._check_is_there()
            return compacting.CompactReport()
        return compacting.compact(repository, rebuild=rebuild)

    def copy_to(
        self, target: Project, prefixes: Sequence[str] = (), *, progress: Progress = silent
    ) -> copying.CopyReport:
        """Copy to the storage of another project all that it has not, or some experiments.

        What is there is never changed; what was deleted here or there is deleted in both. May be repeated, and goes on
        where it was stopped. What waits in a spool is not stored yet, and so not copied.

        Args:
            target: the other one, `Project(storage=...)`. Its storage is made where there is none.
            prefixes: of the ids of experiments; left out, all are copied.
            progress: called with about how many bytes are copied, and how many there are.

        Raises:
            InvalidInput: both storages are the same.
            NotFound: a prefix fits no experiment, or there is nothing to copy.
            StorageFailed: one of the storages can't be reached.
        """
        from replicate_core.repository import copying  # noqa: PLC0415

        source, other = Repository(self._store_to_read()), Repository(target._store)
        if not source.check_format():
            raise NotFound(f"nothing to copy: there is no repository at {source.store.url}: {found_at(source.store)}")
        chosen = {self.experiments.find(prefix) for prefix in prefixes}
        for experiment, checkpoint in chosen:
            if checkpoint is not None:
                raise NotFound(
                    f"{checkpoint.short_id} is a checkpoint of the experiment {experiment.short_id}: experiments are "
                    "copied whole"
                )
        only = {experiment.id for experiment, _ in chosen} if prefixes else None
        with self.spool.scratch() as scratch:
            return copying.copy(source, other, scratch=scratch, experiments=only, progress=progress)

    def sync(
        self, *, anew: bool = False, progress: Progress = silent, tell: Callable[[str], object] = str
    ) -> list[syncing.SyncResult]:
        """Store what waits in the spool of this project and that no living process of its own will store.

        Experiments whose process is gone are ended, as killed if they did not live to say otherwise.

        Args:
            anew: also where the storage was emptied since, or is another one: what waits is stored without what is
                gone. By default it stays where it is, because the disk of the storage may only not be there.
            progress: called with the number of jobs that are done, and of all there are.
            tell: called with what is waited for, if that takes longer than people expect.

        Returns:
            What became of each experiment that had something waiting; what could not be stored stays where it is.
        """
        from replicate_core.spool import syncing  # noqa: PLC0415

        return syncing.sync(self.spool, anew=anew, progress=progress, tell=tell)

    def whence(self, file: str | Path) -> list[FileMatch]:
        """The experiments and checkpoints that hold the bytes of a file on this machine, whatever its name.

        Args:
            file: its path; it may have been renamed, or copied out of the project.

        Raises:
            InvalidInput: it can't be read.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.provenance import whence  # noqa: PLC0415

        return whence(self.source, Path(file), partial(_loaded, self))

    def import_from(
        self, url: str, *, dry_run: bool = False, progress: Progress = silent
    ) -> list[importer.ImportResult]:
        """Take over the experiments of a repository that Keepsake 0.4, or the first replicate of 2020, has written.

        Ids are kept. What is there already is passed over, so that it can be done again; nothing is changed there.

        Args:
            url: where it lies: a URL, or a path relative to the working directory.
            dry_run: read and check everything, and store nothing.
            progress: called with how many experiments are done, and how many there are.

        Returns:
            What became of each experiment.

        Raises:
            NotFound: no such repository is there.
            TooNew: it was written in a format that is not known.
            InvalidInput, MissingExtra, StorageFailed: one of the two storages can't be opened, read or written.
        """
        from replicate_core.keepsake import importer  # noqa: PLC0415

        is_same_kind = scheme(url) == scheme(self.storage) and not is_config(url, relative_to=working_directory(url))
        options = self.storage_options if is_same_kind else None
        source = Project(storage=url, directory=self.directory, storage_options=options)
        with self.spool.scratch() as scratch:
            return importer.import_all(
                source._store_to_read(),
                Repository(self._store),
                scratch=scratch,
                policy=self.config.compression,
                dry_run=dry_run,
                progress=progress,
            )

    def importable(self, *, remote: bool = True) -> dict[str, int]:
        """Where experiments of Keepsake, or of the first replicate, lie that are not here, and how many.

        They are looked for where both kept them by default, and in the storage. `import_from` takes them over.

        Args:
            remote: also look into a storage that is not on the disks of this machine.

        Raises:
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.keepsake import importer  # noqa: PLC0415

        places = {name: self.directory / name for name in FORMER_PLACES}
        is_here = self.directory == working_directory(self.directory)
        stores: dict[str, Store] = {
            name if is_here else str(place): LocalStore(place) for name, place in places.items()
        }
        if self.storage not in stores and (remote or isinstance(self._store, LocalStore)):
            stores[self.shown_storage] = self._store
        found: dict[str, int] = {}
        seen: set[str] = set()
        for location, store in stores.items():
            if store.url not in seen and (count := importer.count_of_new(store, Repository(self._store))):
                found[location] = count
            seen.add(store.url)
        return found

    @property
    def shown_storage(self) -> str:
        """The storage, without credentials."""
        return without_credentials(self.storage)

    @property
    def has_waiting(self) -> bool:
        """Whether something waits on this machine that only `sync` will store: its process is gone."""
        return any(queue.is_abandoned() and not queue.is_taken() for queue in self.spool.queues())

    def __repr__(self) -> str:
        return f"<Project {str(self.directory)!r} storage={self.shown_storage!r}>"


class Experiments:
    """The experiments of a project.

    Args:
        project: gives the project, each time it is needed.
    """

    def __init__(self, project: Callable[[], Project]) -> None:
        self._project = project

    def list(self, filter: Filter | str | Iterable[str] | None = None, *, sort: str | None = None) -> ExperimentList:  # noqa: A002  # the name users know
        """All experiments, in the order they began.

        Args:
            filter: keeps those for which it returns true; or conditions, one or several, as the command line takes
                them: `"metrics.loss < 0.1"`, `"created > 2 days ago"`.
            sort: a name, as in a condition; `"loss-desc"`: the largest first.

        A name that no experiment has is warned of, where it makes a difference.

        Raises:
            InvalidInput: a condition can't be read.
        """
        from replicate_core.views import query  # noqa: PLC0415

        project = self._project()
        conditions = [filter] if isinstance(filter, str) else [] if filter is None or callable(filter) else [*filter]
        now, known = utc_now(), project.source.all().values()
        found = query.select(known, conditions, sort, now=now)
        if known:
            for problem in query.misnamed(known, () if found else conditions, sort if found else None, now=now):
                user_warnings.warn(problem)
        with collection_paused():
            everything = [_loaded(project, listed) for listed in found]
        return ExperimentList(everything if not callable(filter) else [one for one in everything if filter(one)])

    def get(self, prefix: str) -> Experiment | Checkpoint:
        """The experiment or the checkpoint whose id begins with `prefix`.

        Raises:
            NotFound: there is none, or there are several; the message lists them.
        """
        experiment, checkpoint = self.find(prefix)
        return experiment if checkpoint is None else checkpoint

    def find(self, prefix: str) -> tuple[Experiment, Checkpoint | None]:
        """The experiment, or the checkpoint and its experiment, whose id begins with `prefix`.

        Raises:
            NotFound: there is none, or there are several; the message lists them.
        """
        project = self._project()
        listed, checkpoint_id = _only_match(project.source, prefix)
        experiment = _loaded(project, listed)
        return experiment, next((item for item in experiment.checkpoints if item.id == checkpoint_id), None)

    def compare(self, before: str, after: str) -> Comparison:
        """What differs between two experiments or checkpoints, of which these begin the ids.

        An experiment stands for its best checkpoint, else its latest.

        Raises:
            NotFound: a prefix fits nothing, or several.
        """
        source = self._project().source
        sides = [_side(*_only_match(source, prefix)) for prefix in (before, after)]
        return Comparison(source, sides[0], sides[1])

    def create(
        self,
        params: Mapping[str, object] | None = None,
        *,
        path: str | None = ".",
        name: str | None = None,
        tags: Iterable[str] = (),
        notes: str | None = None,
        strict: bool = False,
        resume: str | None = None,
    ) -> Experiment:
        """Begin an experiment, or resume one; see `init`."""
        project = self._project()
        prepared = _prepare(project, params, name=name, tags=tags, notes=notes, resume=resume)
        return prepared.begin(path=path, strict=strict)


class Prepared:
    """An experiment that is about to begin, or to be resumed: nothing of it is recorded yet.

    For what must be restored before anything is recorded, so that a resume that fails leaves things as they were.
    """

    def __init__(self, project: Project, created: Created, start: resuming.Start | None, why_anew: str | None) -> None:
        self._project = project
        self._created = created
        self._start = start
        self._why_anew = why_anew

    @property
    def id(self) -> str:
        """The id that the experiment has, or will have."""
        return self._created.experiment if self._start is None else self._start.listed.experiment

    @property
    def short_id(self) -> str:
        """The first characters of its id, as listings show it."""
        return ids.short(self.id)

    @property
    def resumed_from(self) -> Checkpoint | None:
        """The checkpoint to restore from, whose files all verify; None where training begins at its beginning."""
        if self._start is None or self._start.checkpoint is None:
            return None
        return _experiment(self._project, self._created, self._start, NullRecording()).resumed_from

    def begin(self, *, path: str | None = ".", strict: bool = False) -> Experiment:
        """Record that it begins, or is resumed; arguments and errors are those of `init`."""
        project, start = self._project, self._start
        rank = this_rank()
        if rank.number != 0:
            _warn_of_rank(rank)
            told = told_id()
            created = self._created if told is None else replace(self._created, experiment=told)
            return _experiment(project, created, start, NullRecording())
        place = project.place()
        if project.above is not None:
            place.say(
                f"there is no replicate.yaml here, so this is stored with the experiments of the project above, "
                f"{project.above}. A replicate.yaml there makes both one project; one here makes this a project of its "
                "own"
            )
        if start is None:
            if self._why_anew is not None:
                place.say(f"a new experiment begins, because {self._why_anew}")
            recording = Recording.begin(place, self._created, path=path, strict=strict)
        else:
            place.say(resuming.described(start, self._created))
            recording = _go_on(project, place, start, path=path, strict=strict)
        start_for_abandoned(project.spool, project.directory)
        begun = _experiment(project, self._created, start, recording)
        tell_id(begun.id)
        return begun


def prepare(
    params: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
    resume: str | None = None,
) -> Prepared:
    """Find what `init` would resume, and record nothing yet: for the adapters, which restore a model first.

    Arguments and errors are those of `init`.
    """
    return _prepare(Project(), params, name=name, tags=tags, notes=notes, resume=resume)


def join(
    experiment: str,
    resumed_from: str | None,
    params: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
) -> Experiment:
    """The experiment that the first process of a distributed run records, for another one, which records nothing.

    Args:
        experiment: its id.
        resumed_from: the id of the checkpoint that it resumes from, if any.
        params: as of `init`; they count where the experiment is a new one, as the others.
        name: as of `init`.
        tags: as of `init`.
        notes: as of `init`.

    Raises:
        NotFound: that checkpoint can't be seen from here.
        InvalidInput: an argument can't be taken.
        StorageFailed: the storage can't be reached.
    """
    project = Project()
    redactor = Redactor(enabled=project.config.redact)  # the first process warns of what it leaves out
    created = replace(_created(project, redactor, params, name=name, tags=tags, notes=notes), experiment=experiment)
    know_id(experiment)
    if resumed_from is None:
        return _experiment(project, created, None, NullRecording())
    listed = project.source.one(experiment)
    found = () if listed is None else listed.state.checkpoints
    checkpoint = next((item for item in found if item.id == resumed_from), None)
    if listed is None or checkpoint is None:
        raise NotFound(
            f"the first process of this run resumes from the checkpoint {ids.short(resumed_from)}, which is not in "
            f"{project.shown_storage} as this process sees it: give all of them the same storage"
        )
    start = resuming.Start(listed, checkpoint, "the first process does")
    return _experiment(project, created, start, NullRecording())


def _prepare(
    project: Project,
    params: Mapping[str, object] | None,
    *,
    name: str | None,
    tags: Iterable[str],
    notes: str | None,
    resume: str | None,
) -> Prepared:
    redactor = Redactor(enabled=project.config.redact)
    created = _created(project, redactor, params, name=name, tags=tags, notes=notes)
    warn_of_secrets(redactor.found)
    rank = this_rank()
    if resume is None or rank.source == IMPORTING:  # which is no reason to reach the storage
        return Prepared(project, created, None, None)
    wanted, say = text("resume", resume), project.place().say
    source = project.source_to_record
    if rank.number != 0:
        return Prepared(project, created, resuming.follow(source, wanted, created, say), None)
    found = resuming.find_over(source, wanted, created, say)
    if isinstance(found, resuming.Anew):
        return Prepared(project, created, None, found.reason)
    return Prepared(project, created, resuming.choose(source, found), None)


def _created(
    project: Project,
    redactor: Redactor,
    params: Mapping[str, object] | None,
    *,
    name: str | None,
    tags: Iterable[str],
    notes: str | None,
) -> Created:
    """What is known of an experiment that is about to begin."""
    return Created(
        experiment=new_id(),
        created=utc_now(),
        name=None if name is None else redactor.text(text("name", name), "name"),
        tags=tuple(redactor.text(tag, "tags") for tag in labels(tags)),
        notes=None if notes is None else redactor.text(text("notes", notes), "notes"),
        params=redactor.values(mapping("params", {} if params is None else params), "params."),
        user=environment.user(),
        host=environment.host(),
        command=environment.command_line(),
        config=_config_record(project),
        python_version=platform.python_version(),
        packages=environment.packages(),
        system=environment.system(),
        git=environment.git_state(project.directory),
        replicate_version=__version__,
    )


def _go_on(project: Project, place: Place, start: resuming.Start, *, path: str | None, strict: bool) -> Recording:
    """Record a session that resumes an experiment, unless another process does.

    One that this process left open is ended once the new session has begun: if that fails, nothing has changed.
    """
    resumed = start.resumed(new_id(), utc_now())
    is_open = project.source.is_recorded_by_this_process(resumed.experiment)
    left_open = open_here(resumed.experiment) if is_open else None
    recording = Recording.begin(
        place,
        resumed,
        path=path,
        strict=strict,
        next_step=0 if start.checkpoint is None else start.checkpoint.step + 1,
        check=lambda: resuming.check_alone(project.source, start),
    )
    if left_open is not None:
        left_open.supersede()
    if recording.wait_until_known(KNOWN_SECONDS):
        try:
            resuming.check_unrivalled(project.source, resumed)
        except BaseException as error:
            with suppress(StorageFailed):  # of the two errors the first one counts
                recording.end("interrupted", str(error))
            raise
    return recording


def _project_again(
    directory: str, storage: str | None, options: Mapping[str, object] | None, above: Path | None
) -> Project:
    project = Project(directory=directory, storage=storage, storage_options=options)
    if above is not None:
        project.above, project.storage = above, str(above / DEFAULT_STORAGE)
        project._connect()  # noqa: SLF001  # it is ours
    return project


def _loaded(project: Project, listed: Listed) -> Experiment:
    go_on = partial(_add_to, project, listed.experiment)
    return Experiment(listed, project.source, go_on=go_on, redact=project.config.redact)


def _add_to(project: Project, experiment: str) -> tuple[Listed, Recorded]:
    """Record a session that adds to an experiment which nobody records any more."""
    rank = this_rank()
    if rank.number != 0:
        _warn_of_rank(rank)
        return resuming.one(project.source, experiment), NullRecording()
    place = project.place()
    resuming.wait_until_over(project.source, experiment, place.say)
    start = resuming.behind_the_last(project.source, experiment)
    recording = _go_on(project, place, start, path=None, strict=False)
    start_for_abandoned(project.spool, project.directory)
    return start.listed, recording


def _experiment(project: Project, created: Created, start: resuming.Start | None, recorded: Recorded) -> Experiment:
    """The experiment that a process has begun, or resumed, or stands beside."""
    listed = Listed(ExperimentState(created), "running") if start is None else start.listed
    go_on = partial(_add_to, project, listed.experiment)
    checkpoint = None if start is None else start.checkpoint
    redact = project.config.redact
    return Experiment(listed, project.source, recorded, resumed_from=checkpoint, go_on=go_on, redact=redact)


def _warn_of_rank(rank: Rank) -> None:
    """Say that this process does not record, where it is not sure that it is one of a distributed run."""
    if rank.source == IMPORTING and is_first_worker():
        user_warnings.warn(
            "this script calls replicate.init() again while a worker of it (multiprocessing: spawn or forkserver) "
            "imports it: nothing is recorded there. Put what the main process alone shall do below `if __name__ == "
            '"__main__":`'
        )
    if rank.source in LAUNCHERS or (rank.source == "RANK" and "WORLD_SIZE" not in os.environ):
        user_warnings.warn(
            f"this process is number {rank.number} of its job ({rank.source}), and only number 0 records. If these are "
            f"runs of their own, set {OVERRIDE}=0"
        )


def _side(listed: Listed, checkpoint_id: str | None) -> Side:
    """The checkpoint that an id stands for: that of an experiment for its best, else its latest."""
    checkpoints = listed.state.checkpoints
    if checkpoint_id is None:
        return Side(listed.state, records.best_or_latest(checkpoints))
    return Side(listed.state, next(item for item in checkpoints if item.id == checkpoint_id))


def _only_match(source: Source, prefix: str) -> tuple[Listed, str | None]:
    """The experiment, or the checkpoint of it, whose id begins with `prefix`; errors as in `Experiments.find`."""
    matches = source.matching(prefix)
    if not matches:
        named = source.named(prefix.strip())
        shown = [ids.short(one) for one in named[-CANDIDATES_SHOWN:]]
        hint = f"{', '.join(shown)} {'has' if len(shown) == 1 else 'have'} that name" if named else ""
        raise NotFound(
            f"no experiment or checkpoint in {source.repository.store.url} has an id that begins with {prefix!r}. "
            f"{hint or '`replicate ls` shows those that are there'}"
        )
    if len(matches) > 1:
        raise NotFound(_ambiguous(prefix, matches))
    return matches[0]


def _ambiguous(prefix: str, matches: list[tuple[Listed, str | None]]) -> str:
    lines = [
        f"  {checkpoint or listed.experiment}  "
        f"({'checkpoint' if checkpoint else 'experiment'}, {listed.created:%Y-%m-%d %H:%M})"
        for listed, checkpoint in matches[:CANDIDATES_SHOWN]
    ]
    rest = len(matches) - CANDIDATES_SHOWN
    more = [f"  and {rest} more"] if rest > 0 else []
    return "\n".join([f"{prefix!r} begins {len(matches)} ids: give more characters of one of", *lines, *more])


def _config_record(project: Project) -> dict[str, Value]:
    metrics: dict[str, Value] = {
        name: {"goal": metric.goal, "primary": metric == project.config.primary_metric}
        for name, metric in project.config.metrics.items()
    }
    name = portable(project.directory.name).encode("utf-8", "backslashreplace").decode()
    return {"project": name, "storage": without_credentials(project.storage), "metrics": metrics}


experiments = Experiments(Project)
"""The experiments of the project around the working directory."""


def init(
    params: Mapping[str, object] | None = None,
    *,
    path: str | None = ".",
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
    strict: bool = False,
    resume: str | None = None,
    disable_heartbeat: bool = False,  # noqa: ARG001  # the recorder sends them
) -> Experiment:
    """Begin an experiment: save the project's code and the hyperparameters, and return what records the rest.

    The project directory is the nearest one at or above the working directory with a `replicate.yaml`, else the
    working directory; where that lies below a directory with a `.replicate/storage`, and has no `.replicate` itself,
    it is stored there. All of it is saved, except what `.gitignore` and `.replicateignore` files name, what earlier
    runs have saved as checkpoints, version control, virtual environments and caches.

    Args:
        params: hyperparameters: name to value, nested as you like. Numbers, texts, lists, None; scalars and arrays of
            numpy, torch, TensorFlow and JAX.
        path: what to save of the project, relative to its directory: a file or a directory. None saves no code.
        name: for people; need not be unique.
        tags: for people, and for finding it.
        notes: for people.
        strict: raise `StorageFailed` from `checkpoint()` and `stop()` when the storage fails. Without, what is saved
            waits on this machine, a warning says so, and training goes on.
        resume: `"auto"` resumes the same run, if it was begun before and did not finish: the latest experiment of this
            project (by the name of its directory) with the same name and params, or, where neither has a name, with the
            same params and command. Where that has finished, or the params differ, a new experiment begins, and one
            line says so. The first characters of an id resume that experiment, or from that checkpoint, whatever its
            status. `experiment.resumed_from` is then the newest checkpoint whose files all verify, for the script to
            restore from, and what came after it is set aside; it is None on a first start. What this process left open
            is ended and resumed.
        disable_heartbeat: taken as by Keepsake, and without effect: another process sends the heartbeats.

    What is saved is copied at once, and stored by a process of its own while training goes on: nothing is lost should
    this one be killed. In a distributed run the first process records; in the others the experiment does nothing.

    Raises:
        InvalidInput: an argument, or a file of the project, can't be recorded; or what `resume` means is still being
            recorded by another process.
        NotFound, Corrupted: what `resume` names is not there, or can't be read.
        ConfigInvalid: `replicate.yaml`, a `.gitignore` or a `.replicateignore` can't be used.
        MissingExtra: the storage needs a driver that is not installed.
        StorageFailed: the storage can't be reached or written.

    Example:
        ```python
        experiment = replicate.init(params={"learning_rate": 0.01})
        experiment.checkpoint(path="model.pt", step=1, metrics={"loss": 0.5}, primary_metric=("loss", "minimize"))
        ```
    """
    return experiments.create(params, path=path, name=name, tags=tags, notes=notes, strict=strict, resume=resume)
