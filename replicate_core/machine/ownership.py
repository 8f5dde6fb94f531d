"""Proof that this user made a file, and that nobody else put it there.

A directory that was cloned, unpacked or copied belongs to the user who did that, but any of its bytes may come from
somebody else. Two things can't be copied: the inode and change time that the file system gave a file, and a signature
with a key that never leaves the user's home directory. Either is sufficient proof.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from replicate_core.machine.descriptors import open_above
from replicate_core.machine.files import temporary_beside

KEY_BYTES = 32
"""Size of a user's key."""

READ_BYTES_MAX = 1 << 20
"""Maximum size of a file that is read before its owner is known."""

VARIABLE = "REPLICATE_STATE"
"""Environment variable for the directory that `state_directory` returns."""

_KEY = "spool.key"
_PURPOSE = b"replicate queue"
_LINE_PURPOSE = b"replicate line"
_PROOF = re.compile(r"([^ \n]+) ([0-9]+) ([0-9]+) ([0-9a-f]{64}|-)\n")


def state_directory() -> Path:
    """The directory where this user's programs keep persistent state.

    Raises:
        RuntimeError: the user has no home directory.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "replicate"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "replicate" / "state"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "replicate"


def user() -> int:
    """The number of the effective user; 0 on systems without user numbers, where files have no owner numbers either."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def user_name(number: int) -> str:
    """The name of a user, or the number where it has none."""
    try:
        import pwd  # noqa: PLC0415  # not on Windows

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return str(number)


def problem(directory: Path, *, follow: bool = False) -> str | None:
    """Why other users may have written into a directory; None if only this user can.

    Args:
        directory: the directory.
        follow: whether it may be a symbolic link to a directory.

    Raises:
        OSError: it does not exist, or can't be read.
    """
    status = os.stat(directory, follow_symlinks=follow)
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is not a directory"
    if status.st_uid != user():
        return f"{directory} belongs to the user {user_name(status.st_uid)}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write to {directory}"
    return None


def strange_below(directory: Path) -> Path | None:
    """An entry below a directory that is not a regular file or directory of this user; None if there is none.

    Raises:
        OSError: it can't be read.
    """
    with os.scandir(directory) as found:
        entries = list(found)
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        if status.st_uid != user() or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return Path(entry.path)
        if stat.S_ISDIR(status.st_mode) and (strange := strange_below(Path(entry.path))) is not None:
            return strange
    return None


def read_own(path: Path) -> bytes | None:
    """The bytes of a small regular file of this user; None if it is something else. Links are not followed."""
    try:
        descriptor = open_above(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != user() or status.st_size > READ_BYTES_MAX:
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        return file.read(READ_BYTES_MAX)


def prove(path: Path, name: str) -> str:
    """Proof for `is_proven` that this user made a file.

    Args:
        path: the file. It must not change afterwards.
        name: the name that the file is proven for.
    """
    status = path.stat()
    key = _key() or _make_key()
    signature = "-" if key is None else _signature(key, name, path.read_bytes())
    return f"{name} {status.st_ino} {status.st_ctime_ns} {signature}\n"


def is_proven(path: Path, name: str, proof: bytes) -> bool:
    """Tell whether this user made a file: here, by its inode and change time, or elsewhere, by the signature.

    Args:
        path: the file.
        name: the name that it claims.
        proof: what `prove` returned when it was made.
    """
    found = _PROOF.fullmatch(proof.decode("utf-8", "replace"))
    data = read_own(path)
    if found is None or found[1] != name or data is None:
        return False
    status = path.stat()
    if (status.st_ino, status.st_ctime_ns) == (int(found[2]), int(found[3])):
        return True
    key = _key()
    return key is not None and hmac.compare_digest(found[4], _signature(key, name, data))


def sealed(line: bytes) -> str | None:
    """The tag that proves that this user wrote a line; None where the user has no key."""
    key = _key() or _make_key()
    return None if key is None else _tag(key, line)


def tag_check() -> Callable[[bytes, str], bool]:
    """A function that tells by its tag whether this user wrote a line. It reads the key once."""
    key = _key()

    def is_own(line: bytes, tag: str) -> bool:
        return key is not None and hmac.compare_digest(tag, _tag(key, line))

    return is_own


def _tag(key: bytes, line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=32, key=key, person=_LINE_PURPOSE).hexdigest()


def _signature(key: bytes, name: str, data: bytes) -> str:
    text = name.encode("utf-8", "surrogateescape") + b"\0" + data
    return hashlib.blake2b(text, digest_size=32, key=key, person=_PURPOSE).hexdigest()


def _key() -> bytes | None:
    """The key of this user; None if there is no key, or its file lets other users read it."""
    try:
        path = state_directory() / _KEY
        if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None
    except (OSError, RuntimeError):
        return None
    key = read_own(path)
    return key if key is not None and len(key) == KEY_BYTES else None


def _make_key() -> bytes | None:
    """Make a key for this user unless its file exists, and return it; None if that is not possible."""
    try:
        path = state_directory() / _KEY
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        with open(open_above(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError):
        return None
    try:
        with suppress(OSError):  # another process was first; or there are no hard links here, and so no key
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return _key()
