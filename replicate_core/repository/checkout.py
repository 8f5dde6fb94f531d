"""Checking out the files of snapshots to a local directory.

All files are fetched and verified beside their destination before any is moved into place. A later snapshot overrides
the paths of an earlier one: first comes the code of an experiment, then the files of a checkpoint.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from replicate_core.errors import InvalidInput, NotFound, StorageFailed
from replicate_core.format.digest import digest
from replicate_core.format.manifest import File, Manifest, is_forbidden, tree_problem
from replicate_core.machine.descriptors import write_all
from replicate_core.machine.files import make_directories, preallocate, temporary_beside
from replicate_core.machine.names import local_name, portable
from replicate_core.progress import Progress, silent
from replicate_core.repository.reading import Wanted, read_all
from replicate_core.repository.repository import Repository

What: TypeAlias = Literal["all", "code", "files"]
"""What to check out of a checkpoint: its code and its files, or only one of the two."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a checkout will write. Paths are relative to the output directory."""

    files: dict[str, File]
    links: dict[str, str]
    directories: tuple[str, ...]

    def existing(self, directory: Path) -> list[str]:
        """The paths that already exist in `directory`."""
        return [path for path in (*self.files, *self.links) if os.path.lexists(directory / local_name(path))]

    def replaced(self, directory: Path) -> list[str]:
        """The existing paths whose content differs from the checkout: what they hold now would be lost."""
        return [path for path in self.existing(directory) if not self._is_current(directory / local_name(path), path)]

    def _is_current(self, found: Path, path: str) -> bool:
        if found.is_symlink() or path in self.links:
            return found.is_symlink() and self.links.get(path) == portable(os.readlink(found))
        return found.is_file() and _has_content(found, self.files[path])


def _has_content(found: Path, file: File) -> bool:
    try:
        with open(found, "rb") as opened:
            return os.fstat(opened.fileno()).st_size == file.size and all(
                digest(opened.read(part.length)) == part.digest for part in file.parts
            )
    except OSError:
        return False


def lay_out(manifests: Sequence[Manifest], *, replaced: str | None = None, only: str | None = None) -> Layout:
    """Plan a checkout of snapshots; later ones override earlier ones.

    Args:
        manifests: the snapshots.
        replaced: the file or directory that the last snapshot replaces: nothing that the others have there remains.
        only: a file or directory; nothing else is written.

    Raises:
        NotFound: nothing in the snapshots has the path `only`.
    """
    files: dict[str, File] = {}
    links: dict[str, str] = {}
    directories: dict[str, None] = {}
    for manifest in manifests:
        if replaced is not None and manifest is manifests[-1]:
            for old in [path for path in (*files, *links, *directories) if is_at(path, replaced)]:
                files.pop(old, None)
                links.pop(old, None)
                directories.pop(old, None)
        new = {*manifest.files, *manifest.links, *manifest.directories}
        in_order = sorted(new)
        for path in [path for path in (*files, *links) if _makes_room(path, new, in_order)]:
            files.pop(path, None)
            links.pop(path, None)
        files |= manifest.files
        links |= manifest.links
        directories |= dict.fromkeys(manifest.directories)
    only = None if only is None else os.path.normpath(only).replace(os.sep, "/")
    leaves = {path for path in (*files, *links) if is_at(path, only)}
    layout = Layout(
        {path: file for path, file in files.items() if path in leaves},
        {path: target for path, target in links.items() if path in leaves},
        tuple(
            path
            for path in directories
            if is_at(path, only) and path not in leaves and leaves.isdisjoint(_parents(path))
        ),
    )
    if only is not None and not (layout.files or layout.links or layout.directories):
        known = ", ".join(sorted({*files, *links})[:10]) or "nothing"
        raise NotFound(f"nothing has the path {only!r}; there is: {known}")
    if problem := tree_problem(layout.files, layout.links, layout.directories):
        raise InvalidInput(f"these snapshots can't be laid out in one directory: {problem}")
    return layout


def _makes_room(path: str, new: AbstractSet[str], in_order: Sequence[str]) -> bool:
    """Tell whether a file or link must make room for new paths: it is one of them, or above one, or below one."""
    return path in new or _is_above(path, in_order) or not new.isdisjoint(_parents(path))


def _is_above(directory: str, in_order: Sequence[str]) -> bool:
    """Tell whether one of these sorted paths lies in a directory."""
    after = bisect.bisect_left(in_order, f"{directory}/")
    return after < len(in_order) and in_order[after].startswith(f"{directory}/")


def _parents(path: str) -> Iterator[str]:
    """The directories above a path, one at a time: a hostile path may have thousands."""
    return (path[:at] for at, character in enumerate(path) if character == "/")


def is_at(path: str, only: str | None) -> bool:
    """Tell whether `path` is `only`, or lies in it; None stands for the whole project."""
    return only in (None, ".", path) or path.startswith(f"{only}/")


def check_out(repository: Repository, layout: Layout, directory: Path, progress: Progress = silent) -> None:
    """Write the files of a layout to a directory, which is made if needed; files in their place are replaced.

    Args:
        repository: holds the bytes of the files.
        layout: what to write.
        directory: where to write it.
        progress: called with the number of bytes fetched, and the total.

    Raises:
        Corrupted: a stored byte is not what was stored; nothing in the directory was changed.
        InvalidInput: a directory is where a file must go, or a link on the way leads out of `directory`.
        StorageFailed: the storage can't be read, or the directory can't be written.
    """
    try:
        make_directories(directory)
        root = directory.resolve()
        for path in (*layout.files, *layout.links, *layout.directories):
            _check_parents(root, path)
        for path in (*layout.files, *layout.links):
            _check_replaceable(root / local_name(path))
        for path in layout.directories:
            _check_directory(root / local_name(path), path)
        staging = temporary_beside(root / "checkout")
        staging.mkdir()
        try:
            _fetch(repository, list(layout.files.values()), staging, progress)
            _move_into_place(layout, staging, root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if isinstance(error, StorageFailed):
            raise
        if error.errno == errno.ENAMETOOLONG:
            raise StorageFailed(
                f"can't write to {directory}: {error.strerror}. Directories are deeper, or names longer, than this "
                "system allows there: choose a directory with a shorter path"
            ) from error
        raise StorageFailed(
            f"can't write to {directory}: {error}. Make room there, or choose another directory"
        ) from error


def _check_parents(root: Path, path: str) -> None:
    target = root / local_name(path)
    way = target.parent.resolve()
    if not way.is_relative_to(root):
        raise InvalidInput(f"{target.parent} leads out of {root}: remove the link, or check out elsewhere")
    if forbidden := next(filter(is_forbidden, way.relative_to(root).parts), None):
        raise InvalidInput(f"{target.parent} leads into {forbidden}: remove the link")
    for above in reversed(target.parents):
        if above.is_relative_to(root) and above != root:
            _check_directory(above, path)


def _check_directory(directory: Path, path: str) -> None:
    if os.path.lexists(directory) and not directory.is_dir():
        raise InvalidInput(f"{directory} is a file, and {path!r} needs a directory there: move it away")


def _check_replaceable(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        raise InvalidInput(f"{target} is a directory, and the checkout has a file of that name: move it away")


def _fetch(repository: Repository, files: Sequence[File], staging: Path, progress: Progress) -> None:
    """Fetch the files to `staging`, each under its number."""
    for number, file in enumerate(files):
        os.close(_create(file, staging / str(number)))
    done, total = 0, sum(file.size for file in files)
    for written in read_all(repository, files, lambda pieces: _write(staging, pieces)):
        done += written
        progress(done, total)


def _write(staging: Path, pieces: Sequence[tuple[Wanted, bytes]]) -> int:
    """Write what one request fetched; returns the number of bytes."""
    for number, parts in itertools.groupby(pieces, lambda piece: piece[0].file):
        descriptor = os.open(staging / str(number), os.O_WRONLY)
        try:
            for wanted, data in parts:
                os.lseek(descriptor, wanted.position, os.SEEK_SET)
                write_all(descriptor, data)
        finally:
            os.close(descriptor)
    return sum(len(data) for _, data in pieces)


def _create(file: File, path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _mode(file.mode))
    preallocate(descriptor, file.size)
    return descriptor


def _mode(saved: int) -> int:
    """The mode of a new file, before the user's umask: group and others get no access if they had none."""
    group = 0o060 if saved & 0o070 else 0
    others = 0o006 if saved & 0o007 else 0
    return 0o600 | group | others | saved & 0o111


def _move_into_place(layout: Layout, staging: Path, root: Path) -> None:
    private = sorted(path for path, file in layout.files.items() if not file.mode & 0o077)
    shared = sorted(path for path, file in layout.files.items() if file.mode & 0o077)

    def mode(directory: Path) -> int:
        """The mode of a new directory: private if all its files are, because it may have been private, too."""
        path = portable(directory.relative_to(root).as_posix())
        return 0o700 if _is_above(path, private) and not _is_above(path, shared) else 0o777

    for number, path in enumerate(layout.files):
        target = root / local_name(path)
        make_directories(target.parent, mode)
        os.replace(staging / str(number), target)
    for path in layout.directories:
        make_directories(root / local_name(path))
    for path, link_target in layout.links.items():
        target = root / local_name(path)
        make_directories(target.parent, mode)
        fresh = temporary_beside(target)
        os.symlink(local_name(link_target), fresh)
        os.replace(fresh, target)
