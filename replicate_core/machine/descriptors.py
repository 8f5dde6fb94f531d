"""Opening files so that their descriptors are none of the three that every program writes to without asking.

A process that was started without standard streams, as daemons do, gets descriptor 0, 1 or 2 for the next file that it
opens. What a C library prints then lands in that file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    _GET_PATH = None
else:
    _GET_PATH = getattr(fcntl, "F_GETPATH", None)  # macOS

STANDARD = (0, 1, 2)
"""The descriptors of the standard streams: input, output, errors."""


def open_above(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a file, as `os.open`; its descriptor is never, not even for a moment, one of a standard stream.

    Raises:
        OSError: as of `os.open`.
    """
    occupy_standard()
    return os.open(path, flags, mode)


def opener(path: str, flags: int) -> int:
    """`open_above` for `open(..., opener=opener)`."""
    return open_above(path, flags)


def read_regular(path: Path, bytes_max: int | None = None) -> bytes:
    """Read a regular file, which a link may lead to; a pipe or a device is never waited for.

    Args:
        path: the file.
        bytes_max: no more than this is read; by default all of it.

    Raises:
        OSError: it can't be read, or is not a regular file.
    """
    _check_is_regular(os.stat(path))  # opening a device may do something
    descriptor = open_above(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as opened:
        _check_is_regular(os.fstat(descriptor))
        return opened.read(-1 if bytes_max is None else bytes_max)


def _check_is_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file, but a directory, a pipe or a device, or a link to one")


def occupy_standard() -> None:
    """Open the null device for each standard stream that is closed, and leave it open, as SQLite does."""
    for descriptor in STANDARD:
        if not _is_open(descriptor):
            with suppress(OSError):  # then the file itself can't be opened either
                while (filler := os.open(os.devnull, os.O_RDWR)) in STANDARD:
                    pass
                os.close(filler)
            return


class Anchor:
    """A directory that is found again where somebody has moved it, as long as this process has it open.

    Args:
        path: where it is now.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_above(path, os.O_RDONLY)

    def follow(self) -> bool:
        """Look where it is now, and tell whether it was moved; it was not if it was deleted."""
        if self._is_at(self.path):
            return False
        found = _path_of(self._descriptor)
        if found is None or not self._is_at(found):
            return False
        self.path = found
        return True

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
        self._descriptor = -1

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except OSError:
            return False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of these bytes: the system may take fewer at once. Raises `OSError`."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def _path_of(descriptor: int) -> Path | None:
    """Where an open file is now; None where the system does not tell."""
    try:
        if _GET_PATH is not None:
            return Path(os.fsdecode(fcntl.fcntl(descriptor, _GET_PATH, bytes(1024)).rstrip(b"\0")))
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
