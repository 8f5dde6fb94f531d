"""The spool: the local directory of things that are still to be stored.

So far it holds the staged copies of a snapshot while it is being stored: what is copied here can't change any more,
whatever training does to its files meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.files import IGNORE_FILE, Tree, copy_steadily, read_steadily

SMALL_BYTES = 256 << 10
"""Files up to this size are held in memory instead of copied: a copy costs 0.7 ms, whatever its size."""

SMALL_TOTAL_BYTES = 64 << 20
"""Small files are copied after all once so much is in memory."""


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


class Spool:
    """The spool of a project directory.

    Args:
        project: the project directory; the spool is `.replicate/spool` in it.
    """

    def __init__(self, project: Path) -> None:
        self._home = project / ".replicate"
        self.directory = self._home / "spool"

    @contextmanager
    def staged(self, tree: Tree) -> Iterator[Staged]:
        """Copy the files of a tree; the copies are there inside the `with` block.

        A file that vanished since the tree was scanned is left out.

        Raises:
            StorageFailed: there is no room, or the project directory can't be written.
        """
        directory = self.directory / os.urandom(8).hex()
        try:
            try:
                self._prepare(directory)
                files = tuple(_stage(tree, directory))
            except OSError as error:
                raise StorageFailed(
                    f"can't copy the files that are to be saved to {self.directory}: {error}. Make room there, or make "
                    "it writable"
                ) from error
            yield Staged(directory, files, tree.links, tree.directories)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _prepare(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        ignore = self._home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")


def _stage(tree: Tree, directory: Path) -> Iterator[StagedFile]:
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
                status = copy_steadily(source, copy)
                yield StagedFile(path, status.st_mode & 0o777, copy, status.st_size)
        except OSError as error:
            if error.filename is None or Path(error.filename) != source:  # it is the place of the copy that fails
                raise
            if not isinstance(error, FileNotFoundError):  # else it vanished
                raise InvalidInput(
                    f"{source} can't be read ({error.strerror}), so it can't be saved. Make it readable, or name it in "
                    f"{IGNORE_FILE}"
                ) from error
