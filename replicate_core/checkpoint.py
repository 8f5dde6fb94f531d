"""A checkpoint as users hold it: what was recorded at one moment of an experiment, and its files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import overload

from replicate_core import ids
from replicate_core.checkout import Layout, check_out, lay_out
from replicate_core.errors import NotFound
from replicate_core.manifest import Manifest
from replicate_core.reading import open_file
from replicate_core.records import CheckpointFacts, Deleted, PrimaryMetric
from replicate_core.repository import Repository
from replicate_core.values import Value


class Checkpoint:
    """A moment of an experiment: step, metrics, and maybe files. Made by `experiment.checkpoint()`.

    Attributes:
        id: 32 hexadecimal characters.
        created: when it was made, in UTC.
        step: the iteration it belongs to.
        metrics: name to number (or list, or text), as recorded.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`), or None.
        path: what was saved, relative to the project directory; None if nothing was.
        extra: what else `checkpoint()` was given by keyword.
        size_bytes: size of its files together.
        experiment_id: the experiment it belongs to.
    """

    def __init__(
        self,
        facts: CheckpointFacts,
        repository: Repository,
        *,
        experiment_id: str,
        code_manifest: str | None,
        on_delete: Callable[[str], None],
    ) -> None:
        self.experiment_id = experiment_id
        self._on_delete = on_delete
        self._facts = facts
        self._repository = repository
        self._code_manifest = code_manifest

    @property
    def id(self) -> str:  # noqa: D102  # documented with the class, as the properties below
        return self._facts.id

    @property
    def short_id(self) -> str:
        """The first characters of its id, as listings show it."""
        return ids.short(self.id)

    @property
    def created(self) -> datetime:  # noqa: D102
        return self._facts.created

    @property
    def step(self) -> int:  # noqa: D102
        return self._facts.step

    @property
    def metrics(self) -> Mapping[str, Value]:  # noqa: D102
        return self._facts.metrics

    @property
    def primary_metric(self) -> PrimaryMetric | None:  # noqa: D102
        return self._facts.primary_metric

    @property
    def path(self) -> str | None:  # noqa: D102
        return self._facts.path

    @property
    def extra(self) -> Mapping[str, Value]:  # noqa: D102
        return self._facts.extra

    @property
    def size_bytes(self) -> int:  # noqa: D102
        return self._facts.size_bytes

    @property
    def files(self) -> Mapping[str, int]:
        """Path of every file of the checkpoint to its size in bytes; paths are relative to the project directory."""
        return {path: file.size for path, file in self._manifest().files.items()}

    def open(self, path: str | None = None) -> io.BufferedReader:
        """Open one of its files for reading: a seekable stream that fetches and verifies only what is read.

        Args:
            path: relative to the project directory. May be left out when the checkpoint has a single file.

        Raises:
            NotFound: it has no such file; the message lists those it has.
            Corrupted: while reading, when a stored byte is not what was stored.
        """
        files = self._manifest().files
        if self.path is not None and self._facts.manifest is None:
            raise NotFound(f"the files of the checkpoint {self.short_id} were not stored, as a warning said")
        if path is None:
            if len(files) != 1:
                raise NotFound(f"the checkpoint {self.short_id} has {len(files)} files: say which of {_listed(files)}")
            path = next(iter(files))
        if path not in files:
            raise NotFound(f"the checkpoint {self.short_id} has no file {path!r}; it has {_listed(files)}")
        return open_file(self._repository, files[path], name=path)

    def checkout(self, directory: str | Path, *, path: str | None = None) -> None:
        """Write the project's code and the files of the checkpoint to a directory; what is in their place is replaced.

        Args:
            directory: made if needed.
            path: only this file or directory.

        Raises:
            NotFound: nothing has that path.
            Corrupted: a stored byte is not what was stored; then nothing was changed.
            StorageFailed: the storage can't be read, or the directory can't be written.
        """
        check_out(self._repository, self.layout(path=path), Path(directory))

    def delete(self) -> None:
        """Delete the checkpoint: it is in no listing any more. `replicate prune` frees the space that only it needed.

        Raises:
            StorageFailed: the storage refuses.
        """
        self._repository.append(Deleted(self.experiment_id, (self.id,)))
        self._on_delete(self.id)

    def layout(self, *, path: str | None = None) -> Layout:
        """What `checkout` will write, without writing it."""
        manifests = self._repository.manifests([self._code_manifest, self._facts.manifest])
        return lay_out(manifests, replaced=self.path if self._facts.manifest else None, only=path)

    def _manifest(self) -> Manifest:
        return self._repository.manifest(self._facts.manifest) if self._facts.manifest else Manifest()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.short_id} step={self.step} {dict(self.metrics)!r}>"


def _listed(files: Mapping[str, object]) -> str:
    shown = ", ".join(repr(path) for path in list(files)[:10])
    return (shown or "none") + (f" and {len(files) - 10} more" if len(files) > 10 else "")


class CheckpointList(Sequence[Checkpoint]):
    """Checkpoints in the order they were made; a slice is a `CheckpointList` again."""

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._items = tuple(checkpoints)

    @overload
    def __getitem__(self, index: int) -> Checkpoint: ...
    @overload
    def __getitem__(self, index: slice) -> CheckpointList: ...
    def __getitem__(self, index: int | slice) -> Checkpoint | CheckpointList:
        return CheckpointList(self._items[index]) if isinstance(index, slice) else self._items[index]

    def delete(self) -> None:
        """Delete them all; see `Checkpoint.delete`."""
        for checkpoint in self:
            checkpoint.delete()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"<CheckpointList of {len(self)}>"
