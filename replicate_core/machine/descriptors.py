"""Opening files so that they never get the descriptor of a standard stream.

A process that was started without standard streams, as daemons are, gets descriptor 0, 1 or 2 for the next file that it
opens. Anything that a C library prints then ends up in that file.
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
    """Open a file, as `os.open` does; its descriptor is never that of a standard stream, not even for a moment.

    Raises:
        OSError: see `os.open`.
    """
    occupy_standard()
    return os.open(path, flags, mode)


def opener(path: str, flags: int) -> int:
    """`open_above`, as the opener of `open(..., opener=opener)`."""
    return open_above(path, flags)


def read_regular(path: Path, bytes_max: int | None = None) -> bytes:
    """Read a regular file, following links; never waits for a pipe or a device.

    Args:
        path: the file.
        bytes_max: maximum number of bytes to read; by default all.

    Raises:
        OSError: it can't be read, or is not a regular file.
    """
    _check_is_regular(os.stat(path))  # opening a device may have side effects
    descriptor = open_above(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as opened:
        _check_is_regular(os.fstat(descriptor))
        return opened.read(-1 if bytes_max is None else bytes_max)


def _check_is_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file, but a directory, a pipe or a device, or a link to one")


def occupy_standard() -> None:
    """Open the null device for each closed standard stream, and leave it open, as SQLite does."""
    for descriptor in STANDARD:
        if not _is_open(descriptor):
            with suppress(OSError):  # if this fails, the file itself can't be opened either
                while (filler := os.open(os.devnull, os.O_RDWR)) in STANDARD:
                    pass
                os.close(filler)
            return


class Anchor:
    """An open directory, which can be found again after somebody moved it.

    Args:
        path: the current path.

    Raises:
        OSError: it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_above(path, os.O_RDONLY)

    def follow(self) -> bool:
        """Update `path`, and tell whether the directory was moved; False if it was deleted."""
        if self._is_at(self.path):
            return False
        found = _path_of(self._descriptor)
        if found is None or not self._is_at(found):
            return False
        self.path = found
        return True

    def close(self) -> None:
        """Close the directory."""
        os.close(self._descriptor)
        self._descriptor = -1

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except OSError:
            return False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of these bytes: the system may write fewer at once. Raises `OSError`."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def _path_of(descriptor: int) -> Path | None:
    """The current path of an open file; None where the system does not tell."""
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
