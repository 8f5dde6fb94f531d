"""Locks between processes, which the end of a process or of the machine releases by itself, whatever way it ends.

POSIX record locks: a forked child does not inherit them, so no data loader keeps the lock of a training that is gone.
They say nothing between the threads of one process, and vanish when the process closes the file by any other name for
it; both are dealt with here, by remembering what this process holds.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    AVAILABLE = False
else:
    AVAILABLE = True

ATTEMPTS = 5
ATTEMPT_SECONDS = 0.01
"""Who looks whether a lock is held, holds it for a moment itself: that must not pass for an answer."""

_BUSY = (errno.EACCES, errno.EAGAIN)

_held: dict[str, tuple[int, int]] = {}
"""Path of a lock that this process holds, to its descriptor and to the process that took it."""
_guard = threading.Lock()


def acquire(path: Path) -> bool:
    """Take a lock, and tell whether that was possible: nobody waits for long.

    Args:
        path: the file that stands for the lock; made if needed. Nobody may write to it or replace it.

    Raises:
        OSError: the file can't be made, or its file system knows no locks.
    """
    with _guard:
        if _is_mine(path):
            return False
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(ATTEMPT_SECONDS)
            if (descriptor := _take(path, os.O_CREAT)) is not None:
                _held[str(path)] = descriptor, os.getpid()
                return True
    return False


def release(path: Path) -> None:
    """Give a lock of this process back; nothing happens if it is none."""
    with _guard:
        if _is_mine(path):
            os.close(_held.pop(str(path))[0])


def is_held(path: Path) -> bool:
    """Tell whether any process, this one included, holds a lock."""
    with _guard:
        if _is_mine(path):
            return True
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(ATTEMPT_SECONDS)
            try:
                descriptor = _take(path, 0)
            except FileNotFoundError:
                return False
            if descriptor is not None:
                os.close(descriptor)
                return False
    return True


def moved(before: Path, after: Path) -> None:
    """Note that the file of a lock that this process holds has another path now."""
    with _guard:
        _held[str(after)] = _held.pop(str(before))


def _is_mine(path: Path) -> bool:
    return str(path) in _held and _held[str(path)][1] == os.getpid()  # what a parent holds, a child does not


def _take(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock; None if another process holds it."""
    if not AVAILABLE:
        raise OSError(errno.ENOSYS, "this system has no locks that a process can't leave behind", str(path))
    descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor
