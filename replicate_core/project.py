"""A project and its storage, as users hold them: what can be looked at, checked, copied and taken care of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from replicate_core.errors import NotFound, StorageFailed
from replicate_core.machine.files import DEFAULT_STORAGE, working_directory
from replicate_core.progress import Progress, silent
from replicate_core.repository.chunk_index import GRACE
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore
from replicate_core.storage.opening import found_at, is_config, scheme, within
from replicate_core.storage.store import Store
from replicate_core.views.preview import Preview

if TYPE_CHECKING:  # a training needs none of these, and does not wait for them
    from replicate_core.experiment import Experiment
    from replicate_core.keepsake import importer
    from replicate_core.provenance import FileMatch
    from replicate_core.repository import compacting, copying, pruning, verifying
    from replicate_core.repository.checkout import Layout
    from replicate_core.spool import syncing
    from replicate_core.spool.spool import Stranger

from replicate_core.lookup import Experiments
from replicate_core.starting import loaded
from replicate_core.workspace import Workspace

REACH_SECONDS = 10.0
"""How long a storage may take to answer the question whether it is there."""

FORMER_PLACES = (".keepsake", DEFAULT_STORAGE)
"""Where, in a project, Keepsake and the first replicate kept experiments unless they were told where."""


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
        create: make the bucket if it is missing, as `storage_options={"create": True}` beside all other options.

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
        create: bool = False,
    ) -> None:
        self._workspace = Workspace(
            storage=storage,
            directory=directory,
            storage_options=storage_options,
            repository=repository,
            create=create,
        )
        self.experiments = Experiments(lambda: self._workspace)

    def __reduce__(self) -> tuple[Callable[..., Project], tuple[object, ...]]:
        """What it is made of, for pickles and copies; what `replicate.yaml` says is read from there again."""
        return _project_of, (self._workspace,)

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self._workspace.directory

    @property
    def above(self) -> Path | None:
        """The directory above whose `.replicate` keeps what is recorded here, where that is not the project's own."""
        return self._workspace.above

    @property
    def shown_storage(self) -> str:
        """The storage, without credentials."""
        return self._workspace.shown_storage

    @property
    def storage(self) -> str:
        """The storage as it was named: a URL, or a path. It may hold credentials; see `shown_storage`."""
        return self._workspace.storage

    @property
    def location(self) -> str:
        """Where its storage is, as it was opened. Errors are those of opening it."""
        return self._workspace.repository.store.url

    def directory_of(self, experiment: Experiment) -> Path:
        """Where the files of an experiment belong: the project directory, or the one above that it was recorded in."""
        recorded_in = experiment.config.get("project")
        is_from_above = self._workspace.above is not None and recorded_in != self._workspace.directory.name
        return (
            self._workspace.above if self._workspace.above is not None and is_from_above else self._workspace.directory
        )

    def check_out(self, layout: Layout, directory: Path, progress: Progress = silent) -> None:
        """Write the files of a layout to a directory, which is made if needed; what stands in their place is replaced.

        Raises:
            Corrupted: a stored byte is not what was stored; nothing in the directory was changed.
            InvalidInput: a directory stands where a file must go, or a link on the way leads out of `directory`.
            StorageFailed: the storage can't be read, or the directory can't be written.
        """
        from replicate_core.repository.checkout import check_out  # noqa: PLC0415

        check_out(self._workspace.repository, layout, directory, progress)

    def preview(self, path: str = ".") -> Preview:
        """What `replicate.init()` would save as code, and what it would leave out, without saving it.

        Args:
            path: as of `init`.

        Raises:
            InvalidInput, ConfigInvalid: `init` would fail.
        """
        return self._workspace.place().code(path)[2]

    def reach(self, *, seconds: float = REACH_SECONDS) -> bool:
        """Look whether the storage can be reached, without changing it; tells whether anything is stored there yet.

        Args:
            seconds: it is given up then.

        Raises:
            StorageFailed: it can't be, or did not answer in time.
            MissingExtra, InvalidInput, TooNew, Corrupted: it can't be opened, or is no storage of this version.
        """
        try:
            return within(seconds, lambda: Repository(self._workspace.store).check_format())
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

        report = verifying.verify(Repository(self._workspace.store), wanted=wanted, deep=deep, progress=progress)
        if not report.experiments:
            self._workspace.check_is_there()
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

        repository = Repository(self._workspace.store)
        if not repository.check_format():  # nothing was ever stored
            self._workspace.check_is_there()
            return pruning.PruneReport()
        with self._workspace.spool.scratch() as scratch:
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

        repository = Repository(self._workspace.store)
        if not repository.check_format():
            self._workspace.check_is_there()
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

        source, other = Repository(self._workspace.store_to_read()), Repository(target._workspace.store)
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
        with self._workspace.spool.scratch() as scratch:
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

        return syncing.sync(self._workspace.spool, anew=anew, progress=progress, tell=tell)

    def whence(self, file: str | Path) -> list[FileMatch]:
        """The experiments and checkpoints that hold the bytes of a file on this machine, whatever its name.

        Args:
            file: its path; it may have been renamed, or copied out of the project.

        Raises:
            InvalidInput: it can't be read.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.provenance import whence  # noqa: PLC0415

        return whence(self._workspace.source, Path(file), partial(loaded, self._workspace))

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

        is_same_kind = scheme(url) == scheme(self._workspace.storage) and not is_config(
            url, relative_to=working_directory(url)
        )
        options = self._workspace.storage_options if is_same_kind else None
        source = Workspace(storage=url, directory=self.directory, storage_options=options)
        with self._workspace.spool.scratch() as scratch:
            return importer.import_all(
                source.store_to_read(),
                Repository(self._workspace.store),
                scratch=scratch,
                policy=self._workspace.config.compression,
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
        if self._workspace.storage not in stores and (remote or isinstance(self._workspace.store, LocalStore)):
            stores[self.shown_storage] = self._workspace.store
        found: dict[str, int] = {}
        seen: set[str] = set()
        for location, store in stores.items():
            if store.url not in seen and (count := importer.count_of_new(store, Repository(self._workspace.store))):
                found[location] = count
            seen.add(store.url)
        return found

    @property
    def has_waiting(self) -> bool:
        """Whether something waits on this machine that only `sync` will store: its process is gone."""
        return any(queue.is_abandoned() and not queue.is_taken() for queue in self._workspace.spool.queues())

    @property
    def spool_directory(self) -> Path:
        """Where what is recorded here waits to be stored."""
        return self._workspace.spool.directory

    def waiting(self) -> list[syncing.Queued]:
        """What waits on this machine, by experiment and session. The storage is not asked."""
        from replicate_core.spool import syncing  # noqa: PLC0415

        return syncing.queued(self._workspace.spool)

    def strangers(self) -> list[Stranger]:
        """What looks as if it waited, and is not known to be of this user: nothing of it is stored."""
        return self._workspace.spool.strangers()

    def accept(self, stranger: Stranger) -> None:
        """Take a stranger for something of this user, because the user says so; `sync` stores it then.

        Raises:
            InvalidInput: it belongs to another user; or it holds links or other things that no queue has.
            StorageFailed: the spool can't be written.
        """
        self._workspace.spool.accept(stranger)

    def kept_aside(self) -> list[Path]:
        """What could not be stored, and is kept for people to look at."""
        return self._workspace.spool.kept_aside()

    def __repr__(self) -> str:
        return f"<Project {str(self.directory)!r} storage={self.shown_storage!r}>"


def _project_of(workspace: Workspace) -> Project:
    project = Project.__new__(Project)
    project._workspace = workspace  # noqa: SLF001  # it is ours
    project.experiments = Experiments(lambda: workspace)
    return project
