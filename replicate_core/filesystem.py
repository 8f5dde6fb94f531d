"""The files of checkpoints as an fsspec file system: `replicate://<id>/<path>`, for everything that opens such URLs.

A reader's face: it says in fsspec's words what `Checkpoint.files` and `Checkpoint.open` know. fsspec imports it when
such a URL is first opened, by the entry point in `pyproject.toml`; nothing else does. Storages are reached in `store`.
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
"""What fsspec knows of a path: `name`, `size` in bytes, `type`, and for a file `created`, `checkpoint`, `step`."""

MOMENTS = ("best", "latest")


class ReplicateFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of the checkpoints of a project, for reading: `<experiment or checkpoint>[@best|@latest]/<path>`.

    The first part is the beginning of an id. An experiment stands for its best checkpoint, else its latest, as in
    `replicate checkout`; `@best` and `@latest` say which. The root lists the experiments. What is listed are the files
    of the checkpoint itself; a file of the project that made it opens by its name, unless checkpoints saved that path.
    Whatever is read is verified.

    Args:
        storage: a URL or path; left out, that of the project.
        directory: the project directory; left out, the one around the working directory.
        storage_options: what the driver of the storage is told; as of `Project`.
        **options: those that every fsspec file system takes.

    Raises:
        ConfigInvalid, InvalidInput: as of `Project`.

    A path that is not there is a `FileNotFoundError`, which says what is; other errors are those of `Checkpoint.open`.
    """

    protocol = "replicate"
    cachable = False  # the project around the working directory is another one after `chdir`

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
        """Another process reads the same project, wherever it works."""
        return _opened, (self._storage, str(self._project.above or self._project.directory), self._storage_options)

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
        """What is in a directory; of a file, itself."""
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
        """The files below a path; nothing where there is no such path."""
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
        """Tell whether something is at a path. A storage that can't be reached is an error, and no answer."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def created(self, path: str) -> datetime | None:
        """When the checkpoint was made that a path is in; None for the root."""
        moment: datetime | None = self.info(path).get("created")
        return moment

    modified = created

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        """The bytes of a file, or those from `start` up to `end`, which count from its end where they are negative."""
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
        """Nothing is ever written: fsspec's verbs for it end here."""
        # No PermissionError: there are trainers that pass over that one, and would train on without saving.
        raise InvalidInput(
            "replicate:// is for reading: what a checkpoint holds is never changed. To save one, call "
            "experiment.checkpoint(path, metrics), or give the trainer a ReplicateCallback (replicate.keras_callback, "
            "replicate.lightning_callback); other callbacks can write to a local directory beside it"
        )

    mkdir = makedirs = rmdir = rm = rm_file = mv = cp_file = copy = pipe_file = put_file = touch = _refuse

    def _files(self, top: str) -> _Files:
        prefix, at, moment = top.partition("@")
        experiment, checkpoint = self._project.experiments.find(prefix)
        if at and moment not in MOMENTS:
            raise NotFound(f"replicate://{top}: behind the @ must stand {' or '.join(MOMENTS)}, not {moment!r}")
        if checkpoint is None:
            checkpoint = _moment(experiment, moment)
        elif at:
            raise NotFound(f"replicate://{top}: {prefix!r} is a checkpoint, not an experiment: leave out '@{moment}'")
        return _Files(checkpoint)

    def _below(self, name: str, maxdepth: int | None) -> Iterator[Info]:
        """What is at and below a path that is not the root."""
        top, _slash, inner = name.partition("/")
        with _as_file_not_found():
            tree = self._files(top).tree(inner)
            yield {**tree.entry(inner), "name": name}
            above = _within(tree.followed(inner))
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


def _opened(storage: str | None, directory: str, options: Mapping[str, object] | None) -> ReplicateFileSystem:
    return ReplicateFileSystem(storage=storage, directory=directory, storage_options=options)


class _Files:
    """What can be read of a checkpoint: its own files, and by their names those of its project."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._own = _Tree(checkpoint, checkpoint.files, checkpoint.links)

    def tree(self, path: str) -> _Tree:
        """The tree that has a path: that of the checkpoint before that of the project. Raises `NotFound`."""
        if self._own.has(path):
            return self._own
        made = self.checkpoint
        code = _Tree(made, made.project_files, made.project_links)
        if not code.has(path):
            raise NotFound(made.why_not(path))
        return code


class _Tree:
    """Files of a snapshot: paths to what is there, the snapshot itself at the empty one."""

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
            if (found := self.entries.get(self.followed(path))) is not None:  # else it leads nowhere
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
        """Tell whether something is at a path, over links or not."""
        return self.followed(path) in self.entries

    def followed(self, path: str) -> str:
        """The path of what a path leads to, over links on its way."""
        return follow(path, self._links)

    def entry(self, path: str) -> Info:
        """What is at a path that it has."""
        return self.entries[self.followed(path)]


def _moment(experiment: Experiment, moment: str) -> Checkpoint:
    """The checkpoint that an experiment stands for."""
    latest = experiment.latest()
    if latest is None:
        raise NotFound(f"the experiment {experiment.short_id} has no checkpoint")
    best = None if moment == "latest" else experiment.best()
    if best is None and moment == "best":
        raise NotFound(
            f"the experiment {experiment.short_id} has no best checkpoint, for none has a primary metric: "
            f"its latest is replicate://{experiment.short_id}@latest"
        )
    return best or latest


def _directory(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _within(path: str) -> str:
    return f"{path}/" if path else ""


@contextmanager
def _as_file_not_found() -> Iterator[None]:
    """What is not found, in the words of file systems."""
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(str(error)) from error
