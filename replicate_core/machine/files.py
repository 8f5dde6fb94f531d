"""Local files: atomic writes, and the files of a directory that belong to a snapshot.

`steady` copies files that are being written. No function here follows a symbolic link out of the directory it is given.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from replicate_core.errors import InvalidInput
from replicate_core.format.manifest import PATH_LENGTH_MAX, is_forbidden, link_problem
from replicate_core.machine.descriptors import open_above, opener
from replicate_core.machine.ignoring import IgnoreRules
from replicate_core.machine.names import local_name, portable

HOME = ".replicate"
"""replicate's own directory in a project."""

DEFAULT_STORAGE = f"{HOME}/storage"
"""Where the experiments of a project are stored, relative to it, unless a configuration names another place."""

SKIPPED_NAMES = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        HOME,
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".nox",
        ".tox",
        ".venv",
        "node_modules",
        ".DS_Store",
    }
)
"""Names that are never part of a snapshot, at any depth."""

ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
"""Names that mark a directory as a virtual environment, which is never part of a snapshot."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers for a full disk or an exhausted quota, of bytes or of files."""

LASTING = FULL | {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Error numbers for failures that repeat until somebody changes something."""

NAMED_CHARACTERS = 200
"""Number of characters that a message shows of a path that is too long."""

_NO_WAIT_NO_FOLLOW = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_FALLOCATE_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_TEMPORARY = re.compile(r"\.replicate-[0-9a-f]{16}\.tmp(\.[a-z0-9.]+)?")


@dataclass(frozen=True, slots=True)
class Tree:
    """The contents of a snapshot of a directory. Paths are relative to its root, with `/` between their names."""

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Target of each symbolic link, by the path of the link; it is relative to the link."""
    directories: tuple[str, ...] = ()
    """Empty directories."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why a directory or link could not be read, by its path: it is missing, with everything in it."""
    root: Path | None = field(default=None, compare=False)
    """The project directory, resolved; None if it is unknown where the files are."""


def _ignore(_path: str, _why: str) -> None:
    """Ignores what is left out."""


def _want_all(_path: str) -> None:
    """Gives no reason to leave out a file."""


def scan(
    root: Path,
    start: Path,
    *,
    rules: IgnoreRules,
    skipped: Sequence[Path] = (),
    left_out: Callable[[str, str], object] = _ignore,
    unwanted: Callable[[str], str | None] = _want_all,
    tracked: Callable[[], Collection[str]] = tuple,
) -> Tree:
    """Find the files of a snapshot: those at or below `start`, with paths relative to `root`.

    Symbolic links that stay inside `root` are kept as links, except `start` itself, which is followed. Files that
    vanish meanwhile, directories below `start` that can't be read, sockets, pipes and devices are left out.

    Args:
        root: the project directory, resolved.
        start: a file or directory inside it.
        rules: what to leave out, beside `SKIPPED_NAMES` and virtual environments.
        skipped: further directories to leave out, resolved (a storage inside the project).
        left_out: called with the path of each thing that is left out, and why; not called for anything below it.
        unwanted: returns a reason to leave out a file that no rule explicitly includes; None to keep it.
        tracked: returns the files that git tracks: git's own rules do not apply to them.

    Raises:
        ConfigInvalid: a file of rules can't be used.
        InvalidInput: a link leads out of the project, a name is not Unicode, or `start` can't be read.
    """
    if inside := next((directory for directory in skipped if start.is_relative_to(directory)), None):
        raise InvalidInput(f"{start} is in {inside}, where everything is stored: that can't be saved itself")
    if forbidden := next(filter(is_forbidden, start.relative_to(root).parts), None):
        raise InvalidInput(f"{start} is in {forbidden}, which is never saved")
    if start.is_file():
        return Tree({_unicode(_relative(root, start), rules): start.resolve()}, root=root)
    if not start.is_dir():
        raise InvalidInput(f"{start} is neither a file nor a directory (a pipe or a device?): it can't be saved")
    walk = _Walk(root, rules, skipped, left_out=left_out, unwanted=unwanted, tracked=tracked)
    walk.through(start)
    for path in walk.tree.links:
        if problem := link_problem(path, walk.tree.links):
            raise InvalidInput(f"{problem}. Fix it, or {rules.advice}")
    found = walk.tree
    files, links = dict(sorted(found.files.items())), dict(sorted(found.links.items()))
    return Tree(files, links, tuple(sorted(walk.empty)), found.unreadable, root)


class _Walk:
    """One walk through a project, and what it has found so far; for the arguments see `scan`."""

    def __init__(
        self,
        root: Path,
        rules: IgnoreRules,
        skipped: Sequence[Path],
        *,
        left_out: Callable[[str, str], object],
        unwanted: Callable[[str], str | None],
        tracked: Callable[[], Collection[str]],
    ) -> None:
        self.tree = Tree()
        self.empty: list[str] = []
        self._root = root
        self._rules = rules
        self._skipped = {str(directory) for directory in skipped}
        self._left_out = left_out
        self._unwanted = unwanted
        self._tracked = tracked

    def through(self, start: Path) -> None:
        """Walk through a directory and everything below it."""
        rules, directory = self._rules, self._root
        for name in start.relative_to(self._root).parts:
            rules = rules.entering(directory, _names(directory))
            directory /= name
        pending = [(start, rules)]
        while pending:
            directory, rules = pending.pop()
            try:
                entries = _entries(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                if directory == start:
                    raise InvalidInput(
                        f"{start} can't be read ({error.strerror}), so it can't be saved. Make it readable, or "
                        f"{rules.advice}"
                    ) from error
                path = _unicode(_relative(self._root, directory), rules)
                self._note_unreadable(path, error)
                continue
            rules = rules.entering(directory, {entry.name for entry in entries})
            place = "" if directory == self._root else f"{_relative(self._root, directory)}/"
            taken = 0
            for entry in entries:
                if is_temporary(entry.name):
                    continue
                path = place + portable(entry.name)
                is_directory = entry.is_dir(follow_symlinks=False)
                if (why := self._why_left_out(entry, path, rules, is_directory=is_directory)) is not None:
                    taken += self._leave_out(path, why, rules, is_directory=is_directory)
                    continue
                path = _unicode(path, rules)
                if entry.is_symlink():
                    try:
                        self.tree.links[path] = _link_target(self._root, Path(entry.path), rules)
                    except FileNotFoundError:
                        continue
                    except OSError as error:  # its path may be too long for the system
                        self._note_unreadable(path, error)
                        continue
                elif is_directory:
                    pending.append((Path(entry.path), rules))
                elif entry.is_file(follow_symlinks=False):
                    self.tree.files[path] = Path(entry.path)
                else:
                    continue
                taken += 1
            if not taken and directory != self._root:
                self.empty.append(_unicode(place[:-1], rules))

    def _note_unreadable(self, path: str, error: OSError) -> None:
        self.tree.unreadable[path] = f"can't be read ({error.strerror})"
        self._left_out(path, self.tree.unreadable[path])

    def _why_left_out(
        self, entry: os.DirEntry[str], path: str, rules: IgnoreRules, *, is_directory: bool
    ) -> str | None:
        """Why an entry is not part of the snapshot; None if it is."""
        if _is_never_saved(entry.name):
            return "never saved"
        verdict = rules.verdict(path, directory=is_directory)
        if verdict is not None and verdict.is_ignored and (verdict.is_own or path not in self._tracked()):
            return verdict.file
        if not is_directory:
            is_taken_back = verdict is not None and verdict.is_own
            return None if is_taken_back or entry.is_symlink() else self._unwanted(path)
        if entry.path in self._skipped:
            return "what is saved is kept there"
        try:
            marks = (os.path.join(entry.path, mark) for mark in ENVIRONMENT_MARKS)
            return "virtual environment" if any(map(_exists, marks)) else None
        except OSError:  # reading it will raise the same
            return None

    def _leave_out(self, path: str, why: str, rules: IgnoreRules, *, is_directory: bool) -> int:
        """Leave an entry out, except files in it that git tracks in spite of its rules; returns their number."""
        self._left_out(path, why)
        verdict = rules.verdict(path, directory=True) if is_directory else None
        if verdict is None or verdict.is_own or why != verdict.file:
            return 0
        kept = [inner for inner in self._tracked() if inner.startswith(f"{path}/") and self._is_taken(inner, rules)]
        self.tree.files.update({_unicode(inner, rules): self._root / local_name(inner) for inner in kept})
        return len(kept)

    def _is_taken(self, path: str, rules: IgnoreRules) -> bool:
        """Tell whether a file that git tracks in an ignored directory is part of the snapshot."""
        names = path.split("/")
        if any(map(_is_never_saved, names)):
            return False
        above = ["/".join(names[:count]) for count in range(1, len(names) + 1)]
        verdicts = [rules.verdict(one, directory=one != path) for one in above]
        if any(verdict is not None and verdict.is_own and verdict.is_ignored for verdict in verdicts):
            return False
        parts = [self._root / local_name(one) for one in above]
        return not any(part.is_symlink() for part in parts) and parts[-1].is_file()


def _is_never_saved(name: str) -> bool:
    """Tell whether a name is never part of a snapshot: writers must not save what readers would refuse."""
    return name in SKIPPED_NAMES or is_forbidden(name)


def _exists(path: str) -> bool:
    """Like `os.path.exists`, but raises if permission is denied."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # reading what is below will raise the same
        return []


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return sorted(found, key=lambda entry: entry.name)


def _relative(root: Path, path: Path) -> str:
    return portable(path.relative_to(root).as_posix())


def _unicode(text: str, rules: IgnoreRules, *, what: str = "the name") -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} {text!r} is not Unicode text, so it can't be saved. Rename it, or {rules.advice}"
        ) from error
    if len(text) > PATH_LENGTH_MAX:
        raise InvalidInput(
            f"{what} {text[:NAMED_CHARACTERS]!r}… is longer than {PATH_LENGTH_MAX} characters, so it can't be saved. "
            f"Move it up, or {rules.advice}"
        )
    return text


def _link_target(root: Path, link: Path, rules: IgnoreRules) -> str:
    """Where a link points, relative to itself."""
    target = Path(os.readlink(link))
    if target.is_absolute():  # several paths may lead to the project
        target = Path(os.path.relpath(target.parent.resolve() / target.name, link.parent.resolve()))
    if not Path(os.path.normpath(link.parent / target)).is_relative_to(root):
        raise InvalidInput(
            f"{link} is a link to {os.readlink(link)}, which lies outside of the project {root}, so it can't be saved. "
            f"Copy what it points to into the project, or {rules.advice}"
        )
    return _unicode(portable(target.as_posix()), rules, what=f"the target of the link {link}")


def preallocate(descriptor: int, size: int) -> None:
    """Reserve space for a file that is about to be written, where the system can: faster, and a full disk fails now."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _FALLOCATE_UNSUPPORTED:
                raise


def disk_advice(error: OSError) -> str:
    """What to do when a disk refuses a write, as a sentence without its full stop."""
    if error.errno in FULL:
        return "Make room there"
    if error.errno == errno.EFBIG:
        return "Raise the limit for the size of a file (`ulimit -f`), or save less at once"
    return "Make it writable"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, even after a power cut. Its directory must exist."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb", buffering=0, opener=opener) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk, where the system can: then a rename is durable."""
    if os.name == "posix":
        _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """A fresh name in the directory of `path`, which replicate's listings ignore."""
    return path.with_name(f".replicate-{os.urandom(8).hex()}.tmp")


def is_temporary(name: str) -> bool:
    """Tell whether a file name has the form that `temporary_beside` makes."""
    return _TEMPORARY.fullmatch(name) is not None


def regular_files(root: Path) -> Iterator[os.DirEntry[str]]:
    """All regular files below a directory except temporary ones, in no order; none if it does not exist."""
    pending = [os.fspath(root)]
    while pending:
        for entry in _entries_of(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.is_file(follow_symlinks=False) and not is_temporary(entry.name):
                yield entry


def names_below(root: Path) -> list[str]:
    """The names of files and directories in a directory, in order; directories end in `/`. Empty if it does not exist.

    Temporary files, and anything that is neither a file nor a directory, are ignored.
    """
    entries = _entries_of(os.fspath(root))
    directories = [f"{entry.name}/" for entry in entries if entry.is_dir(follow_symlinks=False)]
    files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False) and not is_temporary(entry.name)]
    return sorted(directories + files)


def _entries_of(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading if it is a regular one: a pipe or a device could make the reader wait forever.

    Raises:
        FileNotFoundError: it does not exist, or is a link, a directory, a pipe, a socket or a device.
    """
    return open(path, "rb", opener=_regular_opener)


def _regular_opener(path: str, flags: int) -> int:
    try:
        descriptor = open_above(path, flags | _NO_WAIT_NO_FOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise FileNotFoundError(errno.ENOENT, "it is not a regular file", path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file", path)
    return descriptor


def working_directory(path: object = "") -> Path:
    """The working directory, from which a relative path starts. It may be gone if the path is absolute or a URL.

    Args:
        path: a path as a user gave it, or a URL; empty for the working directory itself.

    Raises:
        InvalidInput: the working directory is needed and gone.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        if not path:
            raise InvalidInput(
                "the working directory is gone: change to another one, or name the project: "
                "`replicate -D DIRECTORY ...`, Project(directory=...)"
            ) from error
        if isinstance(path, (str, os.PathLike)) and (_is_absolute(path) or "://" in os.fspath(path)):
            return Path("/")
        raise InvalidInput(
            f"path {path!r} is relative to the working directory, which is gone: give an absolute one"
        ) from error


def _is_absolute(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).expanduser().is_absolute()
    except RuntimeError:  # there is no home directory
        return False


def make_directories(directory: Path, mode: Callable[[Path], int] = lambda _: 0o777) -> None:
    """Make a directory and those above it. Unlike `Path.mkdir`, it can make any number of them.

    Args:
        directory: the directory.
        mode: returns the mode of each directory that is made, before the user's umask is applied.
    """
    missing: list[Path] = []
    while not directory.is_dir() and directory != directory.parent:
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(mode(one), exist_ok=True)
