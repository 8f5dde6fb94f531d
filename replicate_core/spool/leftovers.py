"""What runs have left in a project: files that were saved as a checkpoint, which are no code of a later run.

Known from a list beside the spool, one line for each checkpoint; nothing here touches the storage. The process that
trains writes down paths, the one that stores digests. The list is a hint that may be lost: what git tracks, and what a
`.replicateignore` takes back, is code whatever it says. Each line begins with a tag made with the key of the user: what
came with the project, and was written by somebody else, must not decide what is code.
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
"""A longer list is cut to its latest half."""

LARGE_BYTES = 10**6
"""Minimum size of a file that is known by its bytes, too, under whatever name."""

DIGESTED_BYTES_MAX = 2 * 10**9
"""Maximum number of bytes that are read to find files by their bytes: no more than copying them would read."""

_TAGGED = re.compile(rb'\["([0-9a-f]{64})", (.+)\n', re.DOTALL)

Version: TypeAlias = "tuple[int, int, int]"
"""Time, size and inode of a file: another one, and it was written since."""


class Maker(NamedTuple):
    """The checkpoint that a file was saved with."""

    experiment: str
    checkpoint: str

    def __str__(self) -> str:
        return f"checkpoint {ids.short(self.checkpoint)} of experiment {ids.short(self.experiment)}"


@dataclass(frozen=True, slots=True)
class Made:
    """What is known of files that runs have made."""

    paths: Mapping[str, Maker] = field(default_factory=dict)
    """Path to the latest checkpoint that was made of it."""
    digests: Mapping[tuple[int, str], Maker] = field(default_factory=dict)
    """Size and digest, of large files."""

    def finder(self, root: Path) -> Callable[[str], Maker | None]:
        """A function that tells which checkpoint a file of a project belongs to, by its path or its bytes.

        Args:
            root: the project.
        """
        sizes = {size for size, _ in self.digests}
        budget = DIGESTED_BYTES_MAX

        def find(path: str) -> Maker | None:
            nonlocal budget
            if (maker := self.paths.get(path)) is not None or not sizes:
                return maker
            with suppress(OSError):  # it vanished, or can't be read: copying it will say so
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
    """Those files of a checkpoint that the run has made; the rest is code, which a checkpoint holds as well.

    Code is what this run has saved as code and not changed since; and of what it has changed, what people write: a
    script may be edited while it runs. In a directory that holds code, no new source is taken for made by the run.

    Args:
        files: of the checkpoint.
        code: what the run has saved as code, and which version of it; None: nothing, so that nothing can be told by it.
        whole: whether the checkpoint is one file, named by its path.
        limit_bytes: how much all code may take.
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
    """Write down which files a checkpoint was made of. That there is no room for it is no harm.

    Args:
        spool: the directory of the spool.
        project: the project directory: several may share a spool.
        maker: the checkpoint.
        paths: relative to the project.
    """
    if paths:
        _append(spool, [*maker, list(paths), [], _base(spool, project)])


def note_digests(spool: Path, maker: Maker, files: Mapping[str, tuple[int, Iterable[tuple[int, str]]]]) -> None:
    """Write down the digests of the large files of a checkpoint.

    Args:
        spool: the directory of the spool.
        maker: the checkpoint.
        files: path to size, and to length and digest of each part of it.
    """
    large = {path: [size, _digest_of(parts)] for path, (size, parts) in files.items() if size >= LARGE_BYTES}
    if large:
        _append(spool, [*maker, [], [[path, *facts] for path, facts in large.items()], ""])


def read(spool: Path, project: Path) -> Made:
    """What is known of the files of a project; lines that this user has not written, or can't be read, do not count."""
    is_own = tag_check()
    base = _base(spool, project)
    paths: dict[str, Maker] = {}
    by_maker: dict[Maker, set[str]] = {}
    digests: dict[tuple[int, str], tuple[Maker, str]] = {}
    for line in _lines(_place(spool)):
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


def _place(spool: Path) -> Path:
    """Where the list is: in the `.replicate` of the project, or in a spool that lies elsewhere."""
    return (spool.parent if spool.parent.name == HOME else spool) / NAME


def _base(spool: Path, project: Path) -> str:
    """Where a project is, seen from the list: the same once both were moved."""
    return os.path.relpath(project, _place(spool).parent)


def _append(spool: Path, line: list[object]) -> None:
    text = json.dumps(line)[1:]
    if (tag := sealed(text.encode())) is None:  # nobody could tell whose line it is
        return
    data = f'["{tag}", {text}\n'.encode()
    with suppress(OSError):
        descriptor = _open(_place(spool), os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a line that a full disk or a kill has cut off
                data = b"\n" + data
            write_all(descriptor, data)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > LIST_BYTES_MAX:
            _shorten(_place(spool))


def _shorten(path: Path) -> None:
    kept = b"".join(_lines(path, most=LIST_BYTES_MAX // 2))
    temporary = temporary_beside(path)
    temporary.write_bytes(kept)
    os.replace(temporary, path)


def _lines(path: Path, *, most: int = LIST_BYTES_MAX) -> list[bytes]:
    """The whole lines among the last bytes of the list."""
    try:
        with open(_open(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            lines = file.read(most).splitlines(keepends=True)
    except OSError:
        return []
    return lines[1:] if size > most else lines


def _open(path: Path, flags: int) -> int:
    """Open the list, which is a file of this user's and nothing else; a link leads anywhere."""
    descriptor = open_above(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        os.close(descriptor)
        raise PermissionError(f"{path} is not a file of this user")
    return descriptor


def _digest_of(parts: Iterable[tuple[int, str]]) -> str:
    return digest("\n".join(f"{length} {found}" for length, found in parts).encode())


def _digest_of_file(path: Path, size: int) -> str:
    """As `_digest_of`, of a file that is cut as it is cut when it is stored."""
    with open(path, "rb", buffering=0) as file:

        def piece(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        return _digest_of((chunk.length, digest(piece(*chunk))) for chunk in cut(piece, size))
