"""Local files: whole-or-nothing writes, copies that do not tear, and what of a directory belongs to a snapshot.

What is stored of them, and where, is not here. Nothing follows a symbolic link out of the directory it is given.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicate_core.errors import ConfigInvalid, InvalidInput
from replicate_core.manifest import FORBIDDEN_NAMES, link_problem

IGNORE_FILE = ".replicateignore"

SKIPPED_NAMES = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".replicate",
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

COPY_BYTES = 1 << 20
COPY_ATTEMPTS = 5

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


class IgnoreRules:
    """The rules of a `.replicateignore`: the syntax of `.gitignore`.

    Args:
        lines: the rules.
        advice: how to leave something out, for errors.
    """

    def __init__(self, lines: Sequence[str] = (), *, advice: str = "save another path") -> None:
        import pathspec  # noqa: PLC0415  # 0.01 s, which `import replicate` need not pay

        self.advice = advice
        self._spec = pathspec.GitIgnoreSpec.from_lines(lines)

    @classmethod
    def of(cls, root: Path) -> IgnoreRules:
        """The rules of the project at `root`; none where it has no such file.

        Raises:
            ConfigInvalid: the file is no UTF-8 text, or can't be read.
        """
        path = root / IGNORE_FILE
        advice = f"name it in {path}"
        try:
            return cls(path.read_text("utf-8").splitlines(), advice=advice)
        except FileNotFoundError:
            return cls(advice=advice)
        except (OSError, ValueError) as error:
            raise ConfigInvalid(f"{path} can't be used: {error}. Its syntax is that of .gitignore") from error

    def match(self, path: str, *, directory: bool) -> bool:
        """Tell whether a path relative to the root is ignored."""
        return self._spec.match_file(path + "/" if directory else path)


def _forget(_path: str, _why: str) -> None:
    """Takes no notice of what is left out."""


def scan(
    root: Path,
    start: Path,
    *,
    rules: IgnoreRules,
    skipped: Sequence[Path] = (),
    left_out: Callable[[str, str], object] = _forget,
) -> Tree:
    """Find the files of a snapshot: those at or below `start`, with paths relative to `root`.

    Symbolic links that stay inside `root` are kept as links, except `start` itself, which is followed. What vanishes
    meanwhile is left out; sockets, pipes and devices are passed over.

    Args:
        root: the project directory, resolved.
        start: a file or directory inside it.
        rules: what to leave out; `SKIPPED_NAMES` and virtual environments always are.
        skipped: further directories to leave out, resolved (a storage inside the project).
        left_out: called with the path of what is left out, and why; nothing is said of what is below it.

    Raises:
        InvalidInput: a link leads out of the project, a name is no Unicode, or a directory can't be read.
    """
    tree = Tree()
    if inside := next((directory for directory in skipped if start.is_relative_to(directory)), None):
        raise InvalidInput(f"{start} lies in {inside}, which is where everything is stored: it can't be saved itself")
    if forbidden := FORBIDDEN_NAMES & set(start.relative_to(root).parts):
        raise InvalidInput(f"{start} lies in {' and '.join(forbidden)}, which is never saved")
    if start.is_file():
        return Tree({_unicode(_relative(root, start), rules): start.resolve()})
    if not start.is_dir():
        raise InvalidInput(f"{start} is neither a file nor a directory (a pipe or a device?): it can't be saved")
    empty: list[str] = []
    pending = [start]
    while pending:
        directory = pending.pop()
        entries = _entries(directory, rules)
        if entries is None:
            continue
        kept = 0
        for entry in entries:
            path = _relative(root, Path(entry.path))
            is_directory = entry.is_dir(follow_symlinks=False)
            if is_temporary(entry.name):
                continue
            if (why := _why_left_out(entry, path, rules, skipped, is_directory=is_directory)) is not None:
                left_out(path, why)
                continue
            path = _unicode(path, rules)
            if entry.is_symlink():
                tree.links[path] = _link_target(root, Path(entry.path), rules)
            elif is_directory:
                pending.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                tree.files[path] = Path(entry.path)
            else:
                continue
            kept += 1
        if not kept and directory != root:
            empty.append(_unicode(_relative(root, directory), rules))
    for path in tree.links:
        if problem := link_problem(path, tree.links):
            raise InvalidInput(f"{problem}. Mend it, or {rules.advice}")
    return Tree(dict(sorted(tree.files.items())), dict(sorted(tree.links.items())), tuple(sorted(empty)))


def _entries(directory: Path, rules: IgnoreRules) -> list[os.DirEntry[str]] | None:
    """What stands in a directory; None if it vanished."""
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(
            f"{directory} can't be read ({error.strerror}), so it can't be saved. Make it readable, or {rules.advice}"
        ) from error


def _why_left_out(
    entry: os.DirEntry[str], path: str, rules: IgnoreRules, skipped: Sequence[Path], *, is_directory: bool
) -> str | None:
    """Why something is not part of a snapshot; None if it is."""
    if entry.name in SKIPPED_NAMES:
        return "never saved"
    if rules.match(path, directory=is_directory):
        return IGNORE_FILE
    if not is_directory:
        return None
    directory = Path(entry.path)
    if directory in skipped:
        return "what is saved is kept there"
    try:
        return "virtual environment" if any((directory / mark).exists() for mark in ENVIRONMENT_MARKS) else None
    except PermissionError:  # reading it will say so
        return None


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _unicode(text: str, rules: IgnoreRules, *, what: str = "the name") -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} {text!r} is no Unicode text, so it can't be saved. Rename it, or {rules.advice}"
        ) from error
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
    return _unicode(target.as_posix(), rules, what=f"the target of the link {link}")


def copy_steadily(source: Path, target: Path) -> os.stat_result:
    """Copy a file that somebody may be writing: copied again until it stood still meanwhile.

    Plain reads and writes into space that was set aside first: measured, no reflink, hard link or mapping is both
    cheaper and safe for a file that was just written. A `target` that exists is written over: that takes a fraction of
    the time, because its pages need not be found first.

    What is seen is a new size, time or inode. A file that is written over in place by one single `write` that had begun
    before the copy, or through a mapping, changes none of them: nothing tells that such a copy is torn.

    Raises:
        InvalidInput: the file kept changing through `COPY_ATTEMPTS` copies.
        OSError: it can't be read, or the copy can't be written.
    """
    for _ in range(COPY_ATTEMPTS):
        before = os.stat(source)
        _copy(source, target, before.st_size)
        after = os.stat(source)
        if _version(before) == _version(after) and os.stat(target).st_size == after.st_size:
            return after
    raise InvalidInput(f"{source} is being written all the time: it changed during {COPY_ATTEMPTS} copies in a row")


def read_steadily(source: Path) -> tuple[bytes, os.stat_result]:
    """Read a small file that somebody may be writing; as `copy_steadily`, into memory."""
    for _ in range(COPY_ATTEMPTS):
        before = os.stat(source)
        data = source.read_bytes()
        after = os.stat(source)
        if _version(before) == _version(after) and len(data) == after.st_size:
            return data, after
    raise InvalidInput(f"{source} is being written all the time: it changed during {COPY_ATTEMPTS} readings in a row")


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _copy(source: Path, target: Path, size: int) -> None:
    buffer = memoryview(bytearray(COPY_BYTES))
    with (
        open(source, "rb", buffering=0) as reader,
        open(os.open(target, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as writer,
    ):
        set_aside(writer.fileno(), size)
        while count := reader.readinto(buffer):
            view = buffer[:count]
            while view:
                view = view[writer.write(view) :]
        writer.truncate()


def set_aside(descriptor: int, size: int) -> None:
    """Reserve space for a file that is about to be written, where the system can: faster, and a full disk shows now."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _FALLOCATE_UNSUPPORTED:
                raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut. Its directory must exist."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb", buffering=0) as file:
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
    """All regular files below a directory, temporary ones left out; nothing if it does not exist."""
    try:
        with os.scandir(root) as found:
            entries = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from regular_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False) and not is_temporary(entry.name):
            yield entry


def names_below(root: Path) -> list[str]:
    """The names in a directory but temporary ones, in order; directories end in `/`. Empty if it does not exist."""
    try:
        with os.scandir(root) as found:
            names = [f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if not is_temporary(name))
