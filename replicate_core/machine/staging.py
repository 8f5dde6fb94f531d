"""Staged copies: the files of a snapshot, copied to a place where nobody changes them.

Training waits for this and for nothing else. `spool` uses the copies and removes them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from replicate_core.errors import Corrupted
from replicate_core.format.sealed import expect_count, expect_list, expect_mapping, expect_text
from replicate_core.format.values import Value
from replicate_core.machine.descriptors import open_above, opener
from replicate_core.machine.files import Tree
from replicate_core.machine.steady import Copied, Unreadable, copy_steadily, read_steadily

SMALL_BYTES = 256 << 10
"""Maximum size of a file that shares a staged copy with others: a copy of its own costs 0.7 ms whatever its size."""

_SMALL = "small"
_COPY = re.compile(r"[0-9]+|small")


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of a staged snapshot."""

    path: str
    mode: int
    copy: Path
    """The file that holds its bytes."""
    offset: int
    """Where its bytes begin in the copy: a large file has a copy of its own."""
    size: int

    def has_copy_of_its_own(self) -> bool:
        """Tell by its size whether the copy holds this file and nothing else."""
        return self.offset == 0 and self.copy.lstat().st_size == self.size


@dataclass(frozen=True, slots=True)
class Staged:
    """A snapshot whose files were copied to where nobody changes them."""

    directory: Path
    """The directory of the copies; the process that stores them may put its own files there."""
    files: tuple[StagedFile, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a file could not be copied, by its path. Like `growing`, it is known after staging but not written down."""
    growing: tuple[str, ...] = ()
    """Files that were being appended to: the copies hold what was there at one moment."""

    @property
    def total_bytes(self) -> int:
        """Total size of its files."""
        return sum(file.size for file in self.files)


def stage(tree: Tree, directory: Path, *, spare: Callable[[], Path | None] = lambda: None) -> Staged:
    """Copy the files of a tree. Files that vanished since the tree was scanned, or can't be copied, are left out.

    Args:
        tree: the files.
        directory: where the copies go; it must exist.
        spare: returns a copy that is no longer needed, to be overwritten, which takes a quarter of the time; or None.

    Raises:
        OSError: the copies can't be written, for example because the disk is full.
    """
    files: list[StagedFile] = []
    left_out, growing = dict(tree.unreadable), []
    reach = _Reach(tree.root)
    with ExitStack() as stack:
        shared = _SharedCopy(directory / _SMALL, stack)
        for number, (path, source) in enumerate(tree.files.items()):
            own = directory / str(number)
            try:
                copied, file = shared.add(path, source) or _copy(path, source, own, spare)
            except FileNotFoundError as error:
                if error.filename is None or Path(error.filename) != source:  # the directory of the copies is gone
                    raise
                continue
            except Unreadable as error:
                own.unlink(missing_ok=True)
                left_out[path] = error.why
                continue
            files.append(replace(file, mode=file.mode & reach.of(source)))
            if copied.is_growing:
                growing.append(path)
    return Staged(directory, tuple(files), tree.links, tree.directories, left_out, tuple(growing))


class _Reach:
    """Who may reach files through the directories of a project: others can't read a file in a directory closed to them.

    Args:
        root: the project directory, resolved. It and those above it don't count. None: everybody may.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._known: dict[Path, int] = {} if root is None else {root: 0o777}

    def of(self, source: Path) -> int:
        """A mask for the mode of a file: the permissions that its directories leave effective."""
        return 0o777 if self._root is None else self._through(source.parent)

    def _through(self, directory: Path) -> int:
        if directory not in self._known:
            resolved = directory.resolve()
            if resolved != directory:
                self._known[directory] = self._through(resolved)
            elif self._root not in directory.parents:
                self._known[directory] = 0o777
            else:
                self._known[directory] = self._mask(directory) & self._through(directory.parent)
        return self._known[directory]

    @staticmethod
    def _mask(directory: Path) -> int:
        try:
            mode = directory.stat().st_mode
        except OSError:  # it has been removed
            return 0o777
        group, others = (0o070 if mode & 0o010 else 0), (0o007 if mode & 0o001 else 0)
        return 0o700 | group | others


class _SharedCopy:
    """The copy that small files share; made when the first one is added."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._file: BinaryIO | None = None

    def add(self, path: str, source: Path) -> tuple[Copied, StagedFile] | None:
        """Append a file; None if it is not small, by the size that was read, not by one from an earlier look."""
        found = read_steadily(source, size_max=SMALL_BYTES)
        if found is None:
            return None
        data, copied = found
        if self._file is None:
            self._file = self._stack.enter_context(open(self._path, "xb", opener=opener))
        offset = self._file.tell()
        self._file.write(data)
        return copied, StagedFile(path, copied.mode, self._path, offset, len(data))


def _copy(path: str, source: Path, copy: Path, spare: Callable[[], Path | None]) -> tuple[Copied, StagedFile]:
    """Make a separate copy of a file."""
    if (old := spare()) is not None:
        with suppress(FileNotFoundError):  # it was removed meanwhile, because space was needed
            os.replace(old, copy)
    copied = copy_steadily(source, copy)
    return copied, StagedFile(path, copied.mode, copy, 0, copied.size)


def open_copy(file: StagedFile) -> int:
    """Open the file that holds a staged copy, for reading; returns its descriptor.

    Raises:
        OSError: it is gone, or something that this user did not copy there is in its place, such as a link.
    """
    descriptor = open_above(file.copy, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if is_own_file(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "not a regular file of this user", str(file.copy))


def is_own_file(status: os.stat_result) -> bool:
    """Tell whether something is a regular file that belongs to the effective user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def encode(staged: Staged) -> Value:
    """A staged snapshot as plain data, without the directory of the copies."""
    return {
        "files": [[file.path, file.mode, file.copy.name, file.offset, file.size] for file in staged.files],
        "links": dict(staged.links),
        "directories": list(staged.directories),
    }


def decode(value: Value, directory: Path) -> Staged:
    """Read what `encode` made.

    Raises:
        Corrupted: it is not a staged snapshot.
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
        raise Corrupted(f"{value!r} is not a staged file")
    path, mode, copy, offset, size = fields
    name = expect_text(copy)
    if not _COPY.fullmatch(name):
        raise Corrupted(f"{name!r} is not the name of a staged copy: it would lead out of {directory}")
    return StagedFile(expect_text(path), expect_count(mode), directory / name, expect_count(offset), expect_count(size))
