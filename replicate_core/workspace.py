"""The workspace: the configuration, the spool and the storage of a project directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from replicate_core.errors import NotFound, StorageFailed
from replicate_core.format.values import Value, renamed
from replicate_core.machine.files import DEFAULT_STORAGE, working_directory
from replicate_core.recording.inputs import check_inside, mapping
from replicate_core.recording.place import Place
from replicate_core.redaction import without_credentials
from replicate_core.repository.repository import Repository
from replicate_core.spool.spool import Spool
from replicate_core.storage.cache import cached
from replicate_core.storage.opening import check_scheme, found_at, is_config, local_root, open_store, scheme
from replicate_core.storage.options import CREATE
from replicate_core.storage.store import Store
from replicate_core.storage.trust import Request, check_trusted
from replicate_core.storage.vetting import doubts
from replicate_core.views.source import Source


class Workspace:
    """A project directory, its spool, and its storage, which is opened when it is first needed.

    See `Project` for arguments and errors. A workspace can be pickled: the pickle holds its arguments, and
    `replicate.yaml` is read again.
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
        from replicate_core import config as configs  # noqa: PLC0415  # YAML takes 0.01 s, `import replicate` need not

        storage = renamed("storage", storage, "repository", repository)
        found = (
            configs.find_directory(working_directory())
            if directory is None
            else working_directory(directory) / directory
        )
        self.config = configs.load(found)
        config = self.config
        self._is_named, self._has_options = storage is not None, storage_options is not None
        is_named_by_file = storage is None
        self.above = configs.project_above(config.directory) if directory is None and storage is None else None
        """The directory above whose `.replicate` holds this project's experiments; None if the project has its own."""
        if self.above is not None:
            self.storage = str(self.above / DEFAULT_STORAGE)
        elif storage is None:
            self.storage = config.storage
            local_root(self.storage, relative_to=config.directory)  # raises if it is not a valid storage
        else:
            start = working_directory(storage)
            is_named_by_file = is_config(storage, relative_to=start)
            if is_named_by_file:
                config = configs.load_file(Path(storage).expanduser())
                storage, start = config.storage, config.directory
            local = local_root(storage, relative_to=start)
            self.storage = storage if local is None else str(local)
        if storage_options is not None:
            self.storage_options: Mapping[str, Value] = mapping("storage_options", storage_options)
        else:
            is_same_kind = scheme(self.storage) == scheme(config.storage)
            self.storage_options = config.storage_options if is_same_kind else {}
        if config.file is not None and local_root(self.storage, relative_to=config.directory) is None:
            options = self.storage_options if storage_options is None else {}
            doubtful = doubts(self.storage, options, names_location=is_named_by_file)
            if doubtful:
                check_scheme(self.storage)  # a mistyped scheme is an error, whether trusted or not
            check_trusted(Request(config.file, config.storage, config.storage_options), doubtful)
        self._creates = create
        if create:
            self.storage_options = {**self.storage_options, CREATE: True}
        self._connect()

    def _connect(self) -> None:
        self.spool = Spool(self.above or self.config.directory, self.config.spool.directory)
        self.source = Source(self._opened, self.spool, check=self.check_is_there)
        self.source_to_record = Source(self._opened, self.spool)
        """Like `source`, for callers that make the storage if it is missing."""

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def __reduce__(self) -> tuple[Callable[..., Workspace], tuple[object, ...]]:
        """The arguments, for pickles and copies; `replicate.yaml` is read again."""
        storage = self.storage if self._is_named else None
        options = dict(self.storage_options) if self._is_named or self._has_options else None
        return _unpickled, (str(self.directory), storage, options, self.above, self._creates)

    def _opened(self) -> Repository:
        return self.repository

    def check_path(self, path: str | os.PathLike[str]) -> None:
        """Make sure that a file at `path`, relative to the working directory, can be saved once it exists.

        Raises:
            InvalidInput: the path is outside the project.
        """
        check_inside(working_directory(path), self.directory, path)

    def place(self) -> Place:
        """The project and the storage, as a recording needs them."""
        return Place(self.config, self.storage, self.spool, self.open_patiently, self.storage_options)

    @cached_property
    def repository(self) -> Repository:
        """The repository in the storage.

        Raises:
            ConfigInvalid, MissingExtra, StorageFailed: the storage can't be opened.
        """
        return Repository(cached(self.store))

    @cached_property
    def store(self) -> Store:
        """The storage, without a cache."""
        return open_store(self.storage, relative_to=self.directory, options=self.storage_options)

    def check_is_there(self) -> None:
        """Make sure that a storage that the user named holds a repository; called if nothing was found in it.

        Raises:
            NotFound: it holds none.
        """
        if self._is_named and not self.storage_options.get(CREATE) and not Repository(self.store).check_format():
            raise NotFound(f"there is no repository at {self.store.url}: {found_at(self.store)}")

    def store_to_read(self) -> Store:
        """The storage for reading only: a missing bucket is not made.

        Raises:
            NotFound: the bucket is missing.
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
        """The repository for recording: like `repository`, but requests may take longer, as no user waits for them."""
        store = open_store(self.storage, relative_to=self.directory, options=self.storage_options, patient=True)
        return Repository(cached(store))

    @property
    def shown_storage(self) -> str:
        """The storage, without credentials."""
        return without_credentials(self.storage)


def _unpickled(
    directory: str,
    storage: str | None,
    options: Mapping[str, object] | None,
    above: Path | None,
    create: bool,  # noqa: FBT001  # as pickle calls it
) -> Workspace:
    workspace = Workspace(directory=directory, storage=storage, storage_options=options, create=create)
    if above is not None:
        workspace.above, workspace.storage = above, str(above / DEFAULT_STORAGE)
        workspace._connect()  # noqa: SLF001  # it is ours
    return workspace
