"""Locks between processes, which the end of a process or of the machine releases by itself, whatever way it ends.

`flock`: such a lock belongs to an open file, so that whatever else opens and closes the file, a backup say, leaves it
alone. A forked child inherits open files, and would keep the lock of a training that is gone: it closes them at once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

from replicate_core.machine.descriptors import open_above

try:
    import fcntl
except ImportError:  # Windows
    AVAILABLE = False
else:
    AVAILABLE = True

ATTEMPTS = 5
ATTEMPT_SECONDS = 0.01
"""A process that looks whether a lock is held holds it for a moment itself; one that wants it then tries again."""

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)


class _Held:
    """The locks of this process."""

    def __init__(self) -> None:
        self.descriptors: dict[Path, int] = {}
        self.guard = threading.Lock()
        self._is_watching = False

    def add(self, path: Path, descriptor: int) -> None:
        with self.guard:
            if not self._is_watching and hasattr(os, "register_at_fork"):
                self._is_watching = True
                os.register_at_fork(after_in_child=self._forget)
            self.descriptors[path] = descriptor

    def pop(self, path: Path) -> int | None:
        with self.guard:
            return self.descriptors.pop(path, None)

    def _forget(self) -> None:
        """In a forked child: the locks are its parent's."""
        self.guard = threading.Lock()  # another thread may have held it
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


_held = _Held()


def acquire(path: Path) -> bool:
    """Take a lock, and tell whether that was possible: nobody waits for long.

    Args:
        path: the file that stands for the lock; made if needed. Nobody may replace it; its directory may be moved.

    Raises:
        OSError: the file can't be made, or its file system knows no locks.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(ATTEMPT_SECONDS)
        if (descriptor := _take(path, os.O_RDWR | os.O_CREAT)) is not None:
            _held.add(path, descriptor)
            return True
    return False


def release(path: Path) -> None:
    """Give a lock of this process back; nothing happens if it is none.

    Args:
        path: as it was when the lock was taken.
    """
    if (descriptor := _held.pop(path)) is not None:
        os.close(descriptor)


def moved(before: Path, after: Path) -> None:
    """Note that the file of a lock of this process has another path now."""
    if (descriptor := _held.pop(before)) is not None:
        _held.add(after, descriptor)


def is_own(path: Path) -> bool:
    """Tell whether this process holds a lock; `path` as of `release`."""
    return path in _held.descriptors


def is_held(path: Path) -> bool:
    """Tell whether any process, this one included, holds a lock: those who only look hinder nobody who looks."""
    try:
        descriptor = _take(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's: it can't be told
        return True
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _take(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock, or shares it if it is opened for reading; None if another one holds it."""
    if not AVAILABLE:
        raise OSError(errno.ENOSYS, "this system has no locks that a process can't leave behind", str(path))
    # Whatever else has the name of a lock, a link to elsewhere or a pipe, is neither followed nor waited for.
    descriptor = open_above(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        kind = fcntl.LOCK_EX if flags & os.O_RDWR else fcntl.LOCK_SH  # several may look at once
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor
