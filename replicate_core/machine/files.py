"""Local files: whole-or-nothing writes, and what of a directory belongs to a snapshot.

Copies of files that are being written are in `steady`; what is stored of them, and where, is not here. Nothing follows
a symbolic link out of the directory it is given.
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
"""The directory in a project that is replicate's own."""

DEFAULT_STORAGE = f"{HOME}/storage"
"""Where in a project its experiments are stored, unless a configuration names another place."""

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
"""Never part of a snapshot, wherever they stand."""

ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
"""A directory that holds one of these is a virtual environment, and never part of a snapshot."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says when a disk has no more room, or no more for this user: bytes, or names of files."""

LASTING = FULL | {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""What the system says when it will refuse again until somebody has changed something."""

NAMED_CHARACTERS = 200
"""How many characters of a path that is too long are shown."""

_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_FALLOCATE_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_TEMPORARY = re.compile(r"\.replicate-[0-9a-f]{16}\.tmp(\.[a-z0-9.]+)?")


@dataclass(frozen=True, slots=True)
class Tree:
    """What a snapshot of a directory holds. Paths are relative to its root, with `/` between their names."""

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Path of a link to its target, which is relative to the link."""
    directories: tuple[str, ...] = ()
    """Directories that hold nothing."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Path of a directory or link that could not be read to why not: it is missing, with what is in it."""
    root: Path | None = field(default=None, compare=False)
    """The project directory, resolved; None: nothing is known of where the files lie."""


def _forget(_path: str, _why: str) -> None:
    """Takes no notice of what is left out."""


def _wanted(_path: str) -> None:
    """Finds no reason to leave out a file."""


def scan(
    root: Path,
    start: Path,
    *,
    rules: IgnoreRules,
    skipped: Sequence[Path] = (),
    left_out: Callable[[str, str], object] = _forget,
    unwanted: Callable[[str], str | None] = _wanted,
    tracked: Callable[[], Collection[str]] = tuple,
) -> Tree:
    """Find the files of a snapshot: those at or below `start`, with paths relative to `root`.

    Symbolic links that stay inside `root` are kept as links, except `start` itself, which is followed. What vanishes
    meanwhile is left out, and so is a directory below `start` that can't be read; sockets, pipes and devices are passed
    over.

    Args:
        root: the project directory, resolved.
        start: a file or directory inside it.
        rules: what to leave out; `SKIPPED_NAMES` and virtual environments always are.
        skipped: further directories to leave out, resolved (a storage inside the project).
        left_out: called with the path of what is left out, and why; nothing is said of what is below it.
        unwanted: gives the reason why a file is left out that no rule takes back; None: it is not.
        tracked: gives the files that git tracks: its own rules do not hold for them.

    Raises:
        ConfigInvalid: a file of rules can't be used.
        InvalidInput: a link leads out of the project, a name is not Unicode, or `start` can't be read.
    """
    if inside := next((directory for directory in skipped if start.is_relative_to(directory)), None):
        raise InvalidInput(f"{start} lies in {inside}, which is where everything is stored: it can't be saved itself")
    if forbidden := next(filter(is_forbidden, start.relative_to(root).parts), None):
        raise InvalidInput(f"{start} lies in {forbidden}, which is never saved")
    if start.is_file():
        return Tree({_unicode(_relative(root, start), rules): start.resolve()}, root=root)
    if not start.is_dir():
        raise InvalidInput(f"{start} is neither a file nor a directory (a pipe or a device?): it can't be saved")
    walk = _Walk(root, rules, skipped, left_out=left_out, unwanted=unwanted, tracked=tracked)
    walk.through(start)
    for path in walk.tree.links:
        if problem := link_problem(path, walk.tree.links):
            raise InvalidInput(f"{problem}. Mend it, or {rules.advice}")
    found = walk.tree
    files, links = dict(sorted(found.files.items())), dict(sorted(found.links.items()))
    return Tree(files, links, tuple(sorted(walk.empty)), found.unreadable, root)


class _Walk:
    """One walk through a project, and what it has found so far; arguments are those of `scan`."""

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
        """Walk through a directory and all below it."""
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
                    raise InvalidInput(_unreadable(start, error, rules)) from error
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
                    except OSError as error:  # its path may be longer than the system takes
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
        """Why something is not part of a snapshot; None if it is."""
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
        except OSError:  # reading it will say so
            return None

    def _leave_out(self, path: str, why: str, rules: IgnoreRules, *, is_directory: bool) -> int:
        """Leave something out, but what git tracks of it though a rule of git ignores it; tells how many files."""
        self._left_out(path, why)
        verdict = rules.verdict(path, directory=True) if is_directory else None
        if verdict is None or verdict.is_own or why != verdict.file:
            return 0
        kept = [inner for inner in self._tracked() if inner.startswith(f"{path}/") and self._is_taken(inner, rules)]
        self.tree.files.update({_unicode(inner, rules): self._root / local_name(inner) for inner in kept})
        return len(kept)

    def _is_taken(self, path: str, rules: IgnoreRules) -> bool:
        """Tell whether a file that git tracks is part of a snapshot, though it lies in a directory that is ignored."""
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
    """Tell whether a name is never part of a snapshot: no writer saves what readers would refuse."""
    return name in SKIPPED_NAMES or is_forbidden(name)


def _exists(path: str) -> bool:
    """As `os.path.exists`, but what may not be looked into raises."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # looking for what is below will say so
        return []


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return sorted(found, key=lambda entry: entry.name)


def _unreadable(path: Path, error: OSError, rules: IgnoreRules) -> str:
    return f"{path} can't be read ({error.strerror}), so it can't be saved. Make it readable, or {rules.advice}"


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
    if target.is_absolute():  # the project may be reached by several paths
        target = Path(os.path.relpath(target.parent.resolve() / target.name, link.parent.resolve()))
    if not Path(os.path.normpath(link.parent / target)).is_relative_to(root):
        raise InvalidInput(
            f"{link} is a link to {os.readlink(link)}, which lies outside of the project {root}, so it can't be saved. "
            f"Copy what it points to into the project, or {rules.advice}"
        )
    return _unicode(portable(target.as_posix()), rules, what=f"the target of the link {link}")


def set_aside(descriptor: int, size: int) -> None:
    """Reserve space for a file that is about to be written, where the system can: faster, and a full disk shows now."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _FALLOCATE_UNSUPPORTED:
                raise


def disk_advice(error: OSError) -> str:
    """What to do where a disk refuses something, as a sentence without its end."""
    if error.errno in FULL:
        return "Make room there"
    if error.errno == errno.EFBIG:
        return "Raise the limit for the size of a file (`ulimit -f`), or save less at once"
    return "Make it writable"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut. Its directory must exist."""
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
    """Wait until the names in a directory are on the disk, where the system can: a rename is durable then."""
    if os.name == "posix":
        _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """A fresh name in the directory of `path`, which listings of replicate pass over."""
    return path.with_name(f".replicate-{os.urandom(8).hex()}.tmp")


def is_temporary(name: str) -> bool:
    """Tell whether a file name is one of `temporary_beside`."""
    return _TEMPORARY.fullmatch(name) is not None


def regular_files(root: Path) -> Iterator[os.DirEntry[str]]:
    """All regular files below a directory, in no order, temporary ones left out; nothing if it does not exist."""
    pending = [os.fspath(root)]
    while pending:
        for entry in _entries_of(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.is_file(follow_symlinks=False) and not is_temporary(entry.name):
                yield entry


def names_below(root: Path) -> list[str]:
    """The names of files and directories in a directory, in order; directories end in `/`. Empty if it does not exist.

    Temporary files are passed over, as is what is neither a file nor a directory.
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
    """Open a regular file for reading, and nothing else: a pipe or a device would make the reader wait for ever.

    Raises:
        FileNotFoundError: there is none, or a link, a directory, a pipe, a socket or a device in its place.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    try:
        descriptor = open_above(path, flags | _NEVER_WAIT)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise FileNotFoundError(errno.ENOENT, "it is not a regular file", path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file", path)
    return descriptor


def working_directory(path: object = "") -> Path:
    """The working directory, where a relative path starts from; should it be gone, a path that needs none is fine.

    Args:
        path: as a user gave it, or a URL; empty: the working directory itself is meant.

    Raises:
        InvalidInput: it is gone.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        if not path:
            raise InvalidInput(
                "the working directory is gone: change to another one, or name the project: "
                "`replicate -D DIRECTORY ...`, Project(directory=...)"
            ) from error
        if isinstance(path, (str, os.PathLike)) and (_is_whole(path) or "://" in os.fspath(path)):
            return Path("/")
        raise InvalidInput(f"path {path!r} starts from the working directory, which is gone: give it whole") from error


def _is_whole(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).expanduser().is_absolute()
    except RuntimeError:  # there is no home directory
        return False


def make_directories(directory: Path, mode: Callable[[Path], int] = lambda _: 0o777) -> None:
    """Make a directory, and those above it. Unlike `mkdir` of `pathlib`, it takes any number of them.

    Args:
        directory: the directory.
        mode: gives the mode of each that is made, less what the user's umask says.
    """
    missing: list[Path] = []
    while not directory.is_dir() and directory != directory.parent:
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(mode(one), exist_ok=True)
