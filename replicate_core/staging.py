"""Staged copies: the files of a snapshot, copied to where nobody changes them any more.

Training waits for this and for nothing else. What the copies are for, and who removes them, is in `spool`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from replicate_core.documents import expect_count, expect_list, expect_mapping, expect_text
from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.files import Tree, copy_steadily, read_steadily
from replicate_core.values import Value

SMALL_BYTES = 256 << 10
"""Files up to this size share one staged copy: a copy of its own costs 0.7 ms, whatever the size of the file."""

_SMALL = "small"


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of a snapshot that nobody changes any more."""

    path: str
    mode: int
    copy: Path
    """The file that holds its bytes."""
    offset: int
    """Where in the copy they begin: a large file has a copy of its own."""
    size: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A snapshot that nobody changes any more."""

    directory: Path
    """Where the copies are; whoever stores them may put files of its own there."""
    files: tuple[StagedFile, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Size of its files together."""
        return sum(file.size for file in self.files)


def stage(tree: Tree, directory: Path, *, spare: Callable[[], Path | None] = lambda: None) -> Staged:
    """Copy the files of a tree; one that vanished since the tree was scanned is left out.

    Args:
        tree: what to copy.
        directory: where to; it must exist.
        spare: gives a copy that nobody needs any more, to be written over, which takes a quarter of the time; or None.

    Raises:
        InvalidInput: a file can't be read, or never stands still.
        OSError: there is no room.
    """
    with ExitStack() as stack:
        return Staged(directory, tuple(_copies(tree, directory, spare, stack)), tree.links, tree.directories)


def _copies(tree: Tree, directory: Path, spare: Callable[[], Path | None], stack: ExitStack) -> Iterator[StagedFile]:
    small = None
    for number, (path, source) in enumerate(tree.files.items()):
        try:
            if source.stat().st_size <= SMALL_BYTES:
                data, status = read_steadily(source)
                small = small or stack.enter_context(open(directory / _SMALL, "xb"))
                offset = small.tell()
                small.write(data)
                yield StagedFile(path, status.st_mode & 0o777, directory / _SMALL, offset, len(data))
            else:
                copy = directory / str(number)
                if (old := spare()) is not None:
                    os.replace(old, copy)
                status = copy_steadily(source, copy)
                yield StagedFile(path, status.st_mode & 0o777, copy, 0, status.st_size)
        except OSError as error:
            if error.filename is None or Path(error.filename) != source:  # it is the place of the copy that fails
                raise
            if not isinstance(error, FileNotFoundError):  # else it vanished
                raise InvalidInput(
                    f"{source} can't be read ({error.strerror}), so it can't be saved. Make it so, or leave it out"
                ) from error


def encode(staged: Staged) -> Value:
    """What was staged, as plain data; where the copies are is left to who reads it."""
    return {
        "files": [[file.path, file.mode, file.copy.name, file.offset, file.size] for file in staged.files],
        "links": dict(staged.links),
        "directories": list(staged.directories),
    }


def decode(value: Value, directory: Path) -> Staged:
    """Read what `encode` made.

    Raises:
        Corrupted: it is something else.
    """
    found = expect_mapping(value)
    links = expect_mapping(found.get("links"))
    return Staged(
        directory,
        tuple(_decode_file(item, directory) for item in expect_list(found.get("files"))),
        {path: expect_text(target) for path, target in links.items()},
        tuple(expect_text(item) for item in expect_list(found.get("directories"))),
    )


def _decode_file(value: Value, directory: Path) -> StagedFile:
    fields = expect_list(value)
    if len(fields) != 5:
        raise Corrupted(f"{value!r} is no staged file")
    path, mode, copy, offset, size = fields
    name = Path(expect_text(copy)).name
    return StagedFile(expect_text(path), expect_count(mode), directory / name, expect_count(offset), expect_count(size))
