"""The files of checkpoints as an fsspec file system: `replicate://<id>/<path>`, for everything that opens such URLs.

It offers `Checkpoint.files` and `Checkpoint.open` through fsspec's interface. fsspec imports it when such a URL is
first opened, by the entry point in `pyproject.toml`; nothing else does.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from fsspec.spec import AbstractFileSystem

from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.experiment import Experiment
from replicate_core.format.manifest import follow
from replicate_core.project import Project

Info: TypeAlias = dict[str, Any]
"""fsspec's description of a path: `name`, `size` in bytes, `type`, and for a file `created`, `checkpoint`, `step`."""

MOMENTS = ("best", "latest")


class ReplicateFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of the checkpoints of a project, for reading: `<experiment or checkpoint>[@best|@latest]/<path>`.

    The first part is the beginning of an id. The id of an experiment means its best checkpoint, else its latest, as in
    `replicate checkout`; `@best` and `@latest` choose one. The root lists the experiments. Listings show the files of
    the checkpoint itself. A file of the project's code can be opened by its name, unless checkpoints saved that path.
    Everything that is read is verified.

    Args:
        storage: a URL or path; by default that of the project.
        directory: the project directory; by default the one around the working directory.
        storage_options: options of the storage's driver, as for `Project`.
        **options: options that every fsspec file system accepts.

    Raises:
        ConfigInvalid, InvalidInput: see `Project`.

    A missing path raises `FileNotFoundError`, which says what exists; for other errors see `Checkpoint.open`.
    """

    protocol = "replicate"
    cachable = False  # after `chdir`, the project around the working directory may be another one

    def __init__(
        self,
        *,
        storage: str | None = None,
        directory: str | Path | None = None,
        storage_options: Mapping[str, object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._project = Project(storage=storage, directory=directory, storage_options=storage_options)
        self._storage = None if storage is None else self._project.storage
        self._storage_options = storage_options

    def __reduce__(self) -> tuple[object, ...]:
        """Another process reads the same project, whatever its working directory is."""
        return _reopen, (self._storage, str(self._project.above or self._project.directory), self._storage_options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.strip("/") if isinstance(stripped, str) else stripped

    def info(self, path: str, **_: object) -> Info:
        """What is at a path."""
        name = self._strip_protocol(path)
        if not name:
            return _directory("")
        top, _slash, inner = name.partition("/")
        with _as_file_not_found():
            return {**self._files(top).tree(inner).entry(inner), "name": name}

    def ls(self, path: str, detail: bool = True, **_: object) -> list[Info] | list[str]:  # noqa: FBT001, FBT002  # fsspec's way
        """The contents of a directory; for a file, the file itself."""
        name = self._strip_protocol(path)
        found = list(self._below(name, 1) if name else self._below_root(1))
        if name and found[0]["type"] == "directory":
            del found[0]
        return found if detail else [info["name"] for info in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,  # noqa: FBT001, FBT002  # fsspec's way
        detail: bool = False,  # noqa: FBT001, FBT002
        **_: object,
    ) -> Any:
        """The files below a path; empty if there is no such path."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        name = self._strip_protocol(path)
        below = self._below_root(maxdepth) if not name else self._below(name, maxdepth)
        try:
            found = {info["name"]: info for info in below if withdirs or info["type"] == "file"}
        except FileNotFoundError:
            found = {}
        ordered = {name: found[name] for name in sorted(found)}
        return ordered if detail else list(ordered)

    def exists(self, path: str, **_: object) -> bool:
        """Tell whether a path exists. A storage that can't be reached is an error, not False."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def created(self, path: str) -> datetime | None:
        """When the checkpoint of a path was made; None for the root."""
        moment: datetime | None = self.info(path).get("created")
        return moment

    modified = created

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        """The bytes of a file, or those from `start` up to `end`; negative values count from the end of the file."""
        with self._open(path) as file:
            begin, stop, _step = slice(start, end).indices(file.seek(0, io.SEEK_END))
            file.seek(begin)
            return file.read(max(0, stop - begin))

    def _open(self, path: str, mode: str = "rb", **_: object) -> io.BufferedReader:
        if mode != "rb":
            self._refuse(path)
        name = self._strip_protocol(path)
        top, _slash, inner = name.partition("/")
        with _as_file_not_found():
            files = self._files(top)
            tree = files.tree(inner)
            if tree.entry(inner)["type"] == "directory":
                raise IsADirectoryError(f"replicate://{name} is a directory: name a file in it")
            return files.checkpoint.open(tree.followed(inner))

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Refuse to write: all of fsspec's methods that change something are this one."""
        # Not a PermissionError: some trainers ignore that one, and would continue to train without saving.
        raise InvalidInput(
            "replicate:// is read-only: a checkpoint is never changed. To save one, call "
            "experiment.checkpoint(path, metrics), or give the trainer a ReplicateCallback (replicate.keras_callback, "
            "replicate.lightning_callback); other callbacks can write to a local directory beside it"
        )

    mkdir = makedirs = rmdir = rm = rm_file = mv = cp_file = copy = pipe_file = put_file = touch = _refuse

    def _files(self, top: str) -> _Files:
        prefix, at, moment = top.partition("@")
        experiment, checkpoint = self._project.experiments.find(prefix)
        if at and moment not in MOMENTS:
            raise NotFound(f"replicate://{top}: after the @ there must be {' or '.join(MOMENTS)}, not {moment!r}")
        if checkpoint is None:
            checkpoint = _chosen(experiment, moment)
        elif at:
            raise NotFound(f"replicate://{top}: {prefix!r} is a checkpoint, not an experiment: leave out '@{moment}'")
        return _Files(checkpoint)

    def _below(self, name: str, maxdepth: int | None) -> Iterator[Info]:
        """The entries at and below a path that is not the root."""
        top, _slash, inner = name.partition("/")
        with _as_file_not_found():
            tree = self._files(top).tree(inner)
            yield {**tree.entry(inner), "name": name}
            followed = tree.followed(inner)
            above = f"{followed}/" if followed else ""
        for path, info in tree.entries.items():
            if path.startswith(above) and path:
                rest = path[len(above) :]
                if rest and (maxdepth is None or rest.count("/") < maxdepth):
                    yield {**info, "name": f"{name}/{rest}"}

    def _below_root(self, maxdepth: int | None) -> Iterator[Info]:
        with _as_file_not_found():
            experiments = self._project.experiments.list()
        for experiment in experiments:
            yield _directory(experiment.id)
            if maxdepth != 1 and len(experiment.checkpoints):
                yield from self._below(experiment.id, None if maxdepth is None else maxdepth - 1)


def _reopen(storage: str | None, directory: str, options: Mapping[str, object] | None) -> ReplicateFileSystem:
    return ReplicateFileSystem(storage=storage, directory=directory, storage_options=options)


class _Files:
    """The readable files of a checkpoint: its own, and those of its project by their names."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._own = _Tree(checkpoint, checkpoint.files, checkpoint.links)

    def tree(self, path: str) -> _Tree:
        """The tree that has a path: the checkpoint's own if it has it, else the project's. Raises `NotFound`."""
        if self._own.has(path):
            return self._own
        made = self.checkpoint
        code = _Tree(made, made.project_files, made.project_links)
        if not code.has(path):
            raise NotFound(made.why_not(path))
        return code


class _Tree:
    """The files of a snapshot, by path; the empty path is the snapshot itself."""

    def __init__(self, checkpoint: Checkpoint, sizes: Mapping[str, int], links: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._links = links
        paths = [*sizes, *self._links]
        self.entries: dict[str, Info] = {"": self._info("directory", 0)}
        for path in paths:
            for count in range(1, path.count("/") + 1):
                self.entries.setdefault("/".join(path.split("/")[:count]), self._info("directory", 0))
        self.entries |= {path: self._info("file", size) for path, size in sizes.items()}
        for path, target in self._links.items():
            if (found := self.entries.get(self.followed(path))) is not None:  # else the link is broken
                self.entries[path] = {**found, "islink": True, "destination": target}

    def _info(self, kind: str, size: int) -> Info:
        made = self._checkpoint
        return {
            "name": "",
            "size": size,
            "type": kind,
            "created": made.created,
            "checkpoint": made.id,
            "step": made.step,
        }

    def has(self, path: str) -> bool:
        """Tell whether a path exists, through links or not."""
        return self.followed(path) in self.entries

    def followed(self, path: str) -> str:
        """The path that a path leads to through links."""
        return follow(path, self._links)

    def entry(self, path: str) -> Info:
        """The description of a path that exists."""
        return self.entries[self.followed(path)]


def _chosen(experiment: Experiment, moment: str) -> Checkpoint:
    """The checkpoint of an experiment that `@best`, `@latest` or nothing chooses."""
    latest = experiment.latest()
    if latest is None:
        raise NotFound(f"the experiment {experiment.short_id} has no checkpoint")
    best = None if moment == "latest" else experiment.best()
    if best is None and moment == "best":
        raise NotFound(
            f"the experiment {experiment.short_id} has no best checkpoint, because none has a primary metric: "
            f"its latest is replicate://{experiment.short_id}@latest"
        )
    return best or latest


def _directory(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


@contextmanager
def _as_file_not_found() -> Iterator[None]:
    """Raise `NotFound` as `FileNotFoundError`, as file systems do."""
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(str(error)) from error
