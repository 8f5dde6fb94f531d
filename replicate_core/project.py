"""The `Project` that users hold: reading, checking, copying and maintaining its storage."""

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
"""Maximum number of seconds that `Project.reach` waits for the storage to answer."""

FORMER_PLACES = (".keepsake", DEFAULT_STORAGE)
"""The default storage directories of Keepsake and of the first replicate, relative to the project."""


class Project:
    """A project directory, and the storage of its experiments.

    Args:
        storage: a URL or path, or a file such as `archive.yaml` that names one with its options, in the format of
            `replicate.yaml`. By default, the storage in `replicate.yaml`, else `.replicate/storage`.
        directory: the project directory. By default, the nearest one at or above the working directory with a
            `replicate.yaml`, else the working directory. A working directory without `replicate.yaml` and
            `.replicate`, below a directory with a `.replicate/storage`, shares that storage: see `above`.
        storage_options: options for the driver of the storage, such as endpoint, profile or anonymous. A string may
            refer to environment variables: `${NAME}`. `create: True` makes the bucket if it is missing. By default, the
            options in the file that `storage` names or, if `storage` is of the same kind as the one in
            `replicate.yaml`, the options there.
        repository: Keepsake's name for `storage`.
        create: make the bucket if it is missing: adds `create: True` to the storage options.

    The storage is opened when it is first needed. Reading from a storage that was named here and holds no repository
    raises `NotFound`; the default storage may be empty. A project can be pickled: the pickle holds its arguments, and
    `replicate.yaml` is read again.

    Raises:
        ConfigInvalid: `replicate.yaml` can't be used, or needs the user's permission: `replicate trust`.
        InvalidInput: the storage is neither a path nor a URL; or an option is invalid.
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
        """The arguments, for pickles and copies; `replicate.yaml` is read again."""
        return _project_of, (self._workspace,)

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self._workspace.directory

    @property
    def above(self) -> Path | None:
        """The directory above whose `.replicate` holds this project's experiments; None if the project has its own."""
        return self._workspace.above

    @property
    def shown_storage(self) -> str:
        """The storage, without credentials."""
        return self._workspace.shown_storage

    @property
    def storage(self) -> str:
        """The storage as it was given: a URL or a path. It may contain credentials; see `shown_storage`."""
        return self._workspace.storage

    @property
    def location(self) -> str:
        """The URL of the opened storage. Raises what opening it raises."""
        return self._workspace.repository.store.url

    def directory_of(self, experiment: Experiment) -> Path:
        """Where the files of an experiment belong: the project directory, or the one above if it was recorded there."""
        recorded_in = experiment.config.get("project")
        is_from_above = self._workspace.above is not None and recorded_in != self._workspace.directory.name
        return (
            self._workspace.above if self._workspace.above is not None and is_from_above else self._workspace.directory
        )

    def check_out(self, layout: Layout, directory: Path, progress: Progress = silent) -> None:
        """Write the files of a layout to a directory, which is made if needed; files in their place are replaced.

        Raises:
            Corrupted: a stored byte is not what was stored; nothing in the directory was changed.
            InvalidInput: a directory is where a file must go, or a link on the way leads out of `directory`.
            StorageFailed: the storage can't be read, or the directory can't be written.
        """
        from replicate_core.repository.checkout import check_out  # noqa: PLC0415

        check_out(self._workspace.repository, layout, directory, progress)

    def preview(self, path: str = ".") -> Preview:
        """What `replicate.init()` would save as code, and what it would leave out, without saving it.

        Args:
            path: as in `init`.

        Raises:
            InvalidInput, ConfigInvalid: `init` would fail with the same error.
        """
        return self._workspace.place().code(path)[2]

    def reach(self, *, seconds: float = REACH_SECONDS) -> bool:
        """Check that the storage can be reached, without changing it. Returns whether it holds a repository yet.

        Args:
            seconds: maximum number of seconds to wait.

        Raises:
            StorageFailed: the storage can't be reached, or did not answer in time.
            MissingExtra, InvalidInput, TooNew, Corrupted: it can't be opened, or this version can't read it.
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
        """Check that every object that experiments refer to exists or, if `deep`, that every byte is what was stored.

        Args:
            prefixes: of the ids of the experiments and checkpoints to check; by default, all are checked.
            deep: read all bytes instead of comparing sizes.
            progress: called with the number of bytes checked, and the total.

        Raises:
            NotFound: a prefix matches no id.
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
        """Remove what nothing refers to, in two steps: announce it, and delete it a grace period later.

        This is safe while experiments run, on any machine.

        Args:
            dry_run: change nothing.
            grace: time from announcement to deletion. Pass less than 24 hours only if no experiment runs anywhere.
            repack: repack objects of which little is still needed.

        Raises:
            Corrupted: it can't be determined what is still needed; nothing was deleted.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.repository import pruning  # noqa: PLC0415

        repository = Repository(self._workspace.store)
        if not repository.check_format():  # nothing has been stored yet
            self._workspace.check_is_there()
            return pruning.PruneReport()
        with self._workspace.spool.scratch() as scratch:
            return pruning.prune(repository, scratch=scratch, grace=grace, dry_run=dry_run, repack=repack)

    def compact(self, *, rebuild: bool = False) -> compacting.CompactReport:
        """Combine the records of many experiments, so that listing them takes only a few requests.

        Recorders do this by themselves once there are many records. It is safe while experiments run, on any machine.

        Args:
            rebuild: start over with all records.

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
        """Copy the experiments that another project's storage lacks, or some of them.

        What the target holds is never changed, except that what was deleted here is deleted there, too. What was
        deleted there stays deleted. A copy may be repeated, and continues where it was stopped. What waits in a spool
        is not stored yet, and is not copied.

        Args:
            target: the other project, `Project(storage=...)`. Its storage is made if it is missing.
            prefixes: of the ids of the experiments to copy; by default, all are copied.
            progress: called with about how many bytes are copied, and the total.

        Raises:
            InvalidInput: both storages are the same.
            NotFound: a prefix matches no experiment, or there is nothing to copy.
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
        """Store what waits in the spool of this project, unless a living recorder will store it.

        Experiments whose process is gone are ended: as killed, unless the process recorded another end.

        Args:
            anew: also store if the storage was emptied or replaced since, without what is gone. By default, everything
                stays in the spool then, because the disk of the storage may only be unmounted.
            progress: called with the number of jobs done, and the total.
            tell: called with a message that says what `sync` waits for, if that takes long.

        Returns:
            The result for each experiment that had something waiting; what could not be stored stays in the spool.
        """
        from replicate_core.spool import syncing  # noqa: PLC0415

        return syncing.sync(self._workspace.spool, anew=anew, progress=progress, tell=tell)

    def whence(self, file: str | Path) -> list[FileMatch]:
        """The experiments and checkpoints that hold the bytes of a file on this machine, whatever its name.

        Args:
            file: its path; the file may have been renamed, or copied out of the project.

        Raises:
            InvalidInput: the file can't be read.
            StorageFailed: the storage can't be reached.
        """
        from replicate_core.provenance import whence  # noqa: PLC0415

        return whence(self._workspace.source, Path(file), partial(loaded, self._workspace))

    def import_from(
        self, url: str, *, dry_run: bool = False, progress: Progress = silent
    ) -> list[importer.ImportResult]:
        """Import the experiments of a repository that Keepsake 0.4 or the first replicate (2020) wrote.

        Ids are kept. An import can be repeated: it skips what was imported before. The old repository is not changed.

        Args:
            url: the old repository: a URL, or a path relative to the working directory.
            dry_run: read and check everything, and store nothing.
            progress: called with the number of experiments done, and the total.

        Returns:
            The result for each experiment.

        Raises:
            NotFound: there is no such repository.
            TooNew: the old repository has an unknown version.
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
        """The places with experiments of Keepsake or of the first replicate that are not imported yet, and how many.

        Looks in the default places of both, and in the storage. `import_from` imports them.

        Args:
            remote: also look in the storage if it is not on a disk of this machine.

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
        """Whether something waits on this machine that only `sync` will store, because its process is gone."""
        return any(queue.is_abandoned() and not queue.is_taken() for queue in self._workspace.spool.queues())

    @property
    def spool_directory(self) -> Path:
        """The directory where recorded data waits to be stored."""
        return self._workspace.spool.directory

    def waiting(self) -> list[syncing.Queued]:
        """What waits on this machine, by experiment and session. Does not access the storage."""
        from replicate_core.spool import syncing  # noqa: PLC0415

        return syncing.queued(self._workspace.spool)

    def strangers(self) -> list[Stranger]:
        """Queues in the spool that are not known to be this user's: nothing of them is stored."""
        return self._workspace.spool.strangers()

    def accept(self, stranger: Stranger) -> None:
        """Accept a stranger as this user's own, because the user says so; `sync` stores it then.

        Raises:
            InvalidInput: it belongs to another user; or it contains links or other things that no queue has.
            StorageFailed: the spool can't be written.
        """
        self._workspace.spool.accept(stranger)

    def kept_aside(self) -> list[Path]:
        """What could not be stored, and is kept for people to inspect."""
        return self._workspace.spool.kept_aside()

    def __repr__(self) -> str:
        return f"<Project {str(self.directory)!r} storage={self.shown_storage!r}>"


def _project_of(workspace: Workspace) -> Project:
    project = Project.__new__(Project)
    project._workspace = workspace  # noqa: SLF001  # it is ours
    project.experiments = Experiments(lambda: workspace)
    return project
