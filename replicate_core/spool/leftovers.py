"""What runs have left in a project: files that were saved as a checkpoint, and are not code of a later run.

A list beside the spool names them, one line for each checkpoint; nothing here touches the storage. The training process
writes paths, the uploading process writes digests. The list is a hint that may be lost: what git tracks, or
`.replicateignore` includes again, is code whatever the list says. Each line begins with a tag made with the user's key,
so that a list that came with the project, written by somebody else, can't decide what is code.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from replicate_core.format import ids
from replicate_core.format.chunks import cut
from replicate_core.format.digest import digest
from replicate_core.machine.descriptors import open_above, write_all
from replicate_core.machine.file_kinds import is_data, is_source
from replicate_core.machine.files import HOME, temporary_beside
from replicate_core.machine.names import local_name
from replicate_core.machine.ownership import sealed, tag_check

NAME = "made.jsonl"

LIST_BYTES_MAX = 8 << 20
"""Maximum size of the list in bytes. When it is longer, only its last lines, half of this, are kept."""

LARGE_BYTES = 10**6
"""Minimum size in bytes of a file that is also recognised by its content, under any name."""

DIGESTED_BYTES_MAX = 2 * 10**9
"""Maximum number of bytes read to recognise files by their content: no more than copying them would read."""

_TAGGED = re.compile(rb'\["([0-9a-f]{64})", (.+)\n', re.DOTALL)

Version: TypeAlias = "tuple[int, int, int]"
"""Modification time, size and inode of a file. If they differ, the file was written meanwhile."""


class Maker(NamedTuple):
    """The checkpoint that a file was saved with."""

    experiment: str
    checkpoint: str

    def __str__(self) -> str:
        return f"checkpoint {ids.short(self.checkpoint)} of experiment {ids.short(self.experiment)}"


@dataclass(frozen=True, slots=True)
class Made:
    """What is known about files that runs have made."""

    paths: Mapping[str, Maker] = field(default_factory=dict)
    """Path to the latest checkpoint that saved it."""
    digests: Mapping[tuple[int, str], Maker] = field(default_factory=dict)
    """Size and digest of a large file, to the checkpoint that saved it."""

    def finder(self, root: Path) -> Callable[[str], Maker | None]:
        """A function that finds the checkpoint that saved a file of a project, by its path or its content.

        Args:
            root: the project.
        """
        sizes = {size for size, _ in self.digests}
        budget = DIGESTED_BYTES_MAX

        def find(path: str) -> Maker | None:
            nonlocal budget
            if (maker := self.paths.get(path)) is not None or not sizes:
                return maker
            with suppress(OSError):  # it vanished, or can't be read: copying it will raise that
                file = root / local_name(path)
                size = os.stat(file).st_size
                if size in sizes and size <= budget:
                    budget -= size
                    return self.digests.get((size, _digest_of_file(file, size)))
            return None

        return find


def version(path: Path) -> Version | None:
    """The version of a file; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def made(
    files: Mapping[str, Path], code: Mapping[str, Version | None] | None, *, whole: bool, limit_bytes: int
) -> list[str]:
    """The files of a checkpoint that the run has made. The others are code, which a checkpoint may hold as well.

    A file is code if this run saved it as code and it has not changed since. If it has changed, it is code if people
    write such files: a script may be edited while it runs. In a directory that holds code, a new source file is code.

    Args:
        files: the files of the checkpoint.
        code: which files the run has saved as code, in which version; None if it has saved no code.
        whole: whether the checkpoint is one file, named by its path.
        limit_bytes: maximum size of all code.
    """
    saved = {} if code is None else code
    kept = {path for path in files if path in saved and _is_code(path, files[path], saved[path], whole, limit_bytes)}
    holds_code = bool(kept) or code is None
    return [path for path in files if path not in kept and not (holds_code and is_source(path))]


def _is_code(path: str, file: Path, saved: Version | None, whole: bool, limit_bytes: int) -> bool:  # noqa: FBT001
    now = version(file)
    if now is None or now == saved or is_source(path):
        return True
    return not (whole or is_data(path, now[1], limit_bytes))


def note_paths(spool: Path, project: Path, maker: Maker, paths: Sequence[str]) -> None:
    """Write down which files a checkpoint was made of. If there is no room for that, nothing is raised.

    Args:
        spool: the directory of the spool.
        project: the project directory: several may share a spool.
        maker: the checkpoint.
        paths: relative to the project.
    """
    if paths:
        _append(spool, [*maker, list(paths), [], _project_from_list(spool, project)])


def note_digests(spool: Path, maker: Maker, files: Mapping[str, tuple[int, Iterable[tuple[int, str]]]]) -> None:
    """Write down the digests of the large files of a checkpoint.

    Args:
        spool: the directory of the spool.
        maker: the checkpoint.
        files: path to its size, and the length and digest of each of its parts.
    """
    large = {path: [size, _digest_of(parts)] for path, (size, parts) in files.items() if size >= LARGE_BYTES}
    if large:
        _append(spool, [*maker, [], [[path, *facts] for path, facts in large.items()], ""])


def read(spool: Path, project: Path) -> Made:
    """What is known about the files of a project. Unreadable lines, and lines of other users, are ignored."""
    is_own = tag_check()
    base = _project_from_list(spool, project)
    paths: dict[str, Maker] = {}
    by_maker: dict[Maker, set[str]] = {}
    digests: dict[tuple[int, str], tuple[Maker, str]] = {}
    for line in _lines(_list_path(spool)):
        tagged = _TAGGED.fullmatch(line)
        if tagged is None or not is_own(tagged[2], tagged[1].decode()):
            continue
        try:
            experiment, checkpoint, named, digested, place = json.loads(b"[" + tagged[2])
            maker = Maker(str(experiment), str(checkpoint))
            if place == base:
                paths |= {str(path): maker for path in named}
            by_maker.setdefault(maker, set()).update(map(str, named))
            digests |= {(int(size), str(found)): (maker, str(path)) for path, size, found in digested}
        except (ValueError, TypeError, RecursionError):
            continue
    made = {key: maker for key, (maker, path) in digests.items() if path in by_maker.get(maker, ())}
    return Made(paths, made)


def _list_path(spool: Path) -> Path:
    """The path of the list: in the `.replicate` of the project, or in a spool that is elsewhere."""
    return (spool.parent if spool.parent.name == HOME else spool) / NAME


def _project_from_list(spool: Path, project: Path) -> str:
    """The path of a project relative to the list: it stays the same when both are moved."""
    return os.path.relpath(project, _list_path(spool).parent)


def _append(spool: Path, line: list[object]) -> None:
    text = json.dumps(line)[1:]
    if (tag := sealed(text.encode())) is None:  # without a tag, no reader would trust the line
        return
    data = f'["{tag}", {text}\n'.encode()
    with suppress(OSError):
        descriptor = _open(_list_path(spool), os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a full disk or a kill cut off the last line
                data = b"\n" + data
            write_all(descriptor, data)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > LIST_BYTES_MAX:
            _shorten(_list_path(spool))


def _shorten(path: Path) -> None:
    kept = b"".join(_lines(path, most=LIST_BYTES_MAX // 2))
    temporary = temporary_beside(path)
    temporary.write_bytes(kept)
    os.replace(temporary, path)


def _lines(path: Path, *, most: int = LIST_BYTES_MAX) -> list[bytes]:
    """The complete lines among the last bytes of the list."""
    try:
        with open(_open(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            lines = file.read(most).splitlines(keepends=True)
    except OSError:
        return []
    return lines[1:] if size > most else lines


def _open(path: Path, flags: int) -> int:
    """Open the list if it is a regular file of this user; a link could lead anywhere."""
    descriptor = open_above(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        os.close(descriptor)
        raise PermissionError(f"{path} is not a file of this user")
    return descriptor


def _digest_of(parts: Iterable[tuple[int, str]]) -> str:
    return digest("\n".join(f"{length} {found}" for length, found in parts).encode())


def _digest_of_file(path: Path, size: int) -> str:
    """Like `_digest_of`, for a file, which is cut as it is when it is stored."""
    with open(path, "rb", buffering=0) as file:

        def piece(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        return _digest_of((chunk.length, digest(piece(*chunk))) for chunk in cut(piece, size))
