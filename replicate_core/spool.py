"""The spool: the local directory of things that are still to be stored.

So far it holds the staged copies of a snapshot while it is being stored: what is copied here can't change any more,
whatever training does to its files meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.files import Tree, copy_steadily, read_steadily

SMALL_BYTES = 256 << 10
"""Files up to this size are held in memory instead of copied: a copy costs 0.7 ms, whatever its size."""

SMALL_TOTAL_BYTES = 64 << 20
"""Small files are copied after all once so much is in memory."""


SPARES_MAX = 2
"""So many staged copies are kept to be written over."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of a snapshot that nobody changes any more."""

    path: str
    mode: int
    content: bytes | Path
    """Its bytes, or its staged copy."""
    size: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A snapshot that nobody changes any more."""

    directory: Path
    """For whoever stores it: a place for files of its own, on the disk of the staged copies."""
    files: tuple[StagedFile, ...]
    links: dict[str, str]
    directories: tuple[str, ...]
    taken: set[Path] = field(default_factory=set)
    """Those of its files that have become objects: they must never be written again."""


class Spool:
    """The spool of a project directory.

    Args:
        project: the project directory; the spool is `.replicate/spool` in it.
    """

    def __init__(self, project: Path) -> None:
        self._home = project / ".replicate"
        self.directory = self._home / "spool"
        self._spares: list[Path] = []

    @contextmanager
    def staged(self, tree: Tree) -> Iterator[Staged]:
        """Copy the files of a tree; the copies are there inside the `with` block.

        A file that vanished since the tree was scanned is left out.

        Raises:
            StorageFailed: there is no room, or the project directory can't be written.
        """
        with self.scratch() as directory:
            try:
                files = tuple(self._stage(tree, directory))
            except OSError as error:
                raise self._failed(error) from error
            staged = Staged(directory, files, tree.links, tree.directories)
            yield staged
            self._keep_spares(staged)

    def close(self) -> None:
        """Remove the copies that are kept to be written over."""
        while self._spares:
            self._spares.pop().unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A fresh directory, which is removed after the `with` block.

        Raises:
            StorageFailed: the project directory can't be written.
        """
        directory = self.directory / os.urandom(8).hex()
        try:
            try:
                directory.mkdir(parents=True)
                ignore = self._home / ".gitignore"
                if not ignore.exists():
                    ignore.write_text("*\n")
            except OSError as error:
                raise self._failed(error) from error
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _stage(self, tree: Tree, directory: Path) -> Iterator[StagedFile]:
        in_memory = 0
        for number, (path, source) in enumerate(tree.files.items()):
            try:
                size = source.stat().st_size
                if size <= SMALL_BYTES and in_memory + size <= SMALL_TOTAL_BYTES:
                    data, status = read_steadily(source)
                    in_memory += len(data)
                    yield StagedFile(path, status.st_mode & 0o777, data, len(data))
                else:
                    copy = directory / str(number)
                    if self._spares:
                        os.replace(self._spares.pop(), copy)
                    status = copy_steadily(source, copy)
                    yield StagedFile(path, status.st_mode & 0o777, copy, status.st_size)
            except OSError as error:
                if error.filename is None or Path(error.filename) != source:  # it is the place of the copy that fails
                    raise
                if not isinstance(error, FileNotFoundError):  # else it vanished
                    raise InvalidInput(
                        f"{source} can't be read ({error.strerror}), so it can't be saved. Make it so, or leave it out"
                    ) from error

    def _keep_spares(self, staged: Staged) -> None:
        """Keep a few copies to be written over by the next ones, unless they have become objects."""
        copies = {file.content for file in staged.files if isinstance(file.content, Path)} - staged.taken
        for copy in sorted(copies)[: SPARES_MAX - len(self._spares)]:
            spare = self.directory / f"spare-{os.urandom(8).hex()}"
            os.replace(copy, spare)
            self._spares.append(spare)

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"can't copy the files that are to be saved to {self.directory}: {error}. Make room there, or make it "
            "writable"
        )
