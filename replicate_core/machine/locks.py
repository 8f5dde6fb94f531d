"""Locks between processes, which the system releases when a process or the machine ends in any way.

They use `flock`: its locks belong to an open file, so other programs that open and close the file, such as a backup, do
not release them. A forked child inherits open files and would keep the lock of a training that has ended, so it closes
them at once.
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
"""Seconds between attempts: a process that checks whether a lock is held holds it for a moment itself."""

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
        """In a forked child: drop the locks, which are its parent's."""
        self.guard = threading.Lock()  # another thread may have held it
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


_held = _Held()


def acquire(path: Path) -> bool:
    """Take a lock, and tell whether that was possible. It never waits for long.

    Args:
        path: the file of the lock, made if needed. It must not be replaced; its directory may be moved.

    Raises:
        OSError: the file can't be made, or its file system does not support locks.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(ATTEMPT_SECONDS)
        if (descriptor := _take(path, os.O_RDWR | os.O_CREAT)) is not None:
            _held.add(path, descriptor)
            return True
    return False


def release(path: Path) -> None:
    """Release a lock of this process; does nothing if this process does not hold it.

    Args:
        path: the path with which the lock was taken.
    """
    if (descriptor := _held.pop(path)) is not None:
        os.close(descriptor)


def moved(before: Path, after: Path) -> None:
    """Note that the file of a lock of this process has a new path."""
    if (descriptor := _held.pop(before)) is not None:
        _held.add(after, descriptor)


def is_own(path: Path) -> bool:
    """Tell whether this process holds a lock; for `path` see `release`."""
    return path in _held.descriptors


def is_held(path: Path) -> bool:
    """Tell whether any process, including this one, holds a lock. Several processes may check at once."""
    try:
        descriptor = _take(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # it belongs to another user, so this can't be known
        return True
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _take(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock, or shares it if it is opened for reading; None if somebody else holds it."""
    if not AVAILABLE:
        raise OSError(errno.ENOSYS, "this system has no locks that are released when a process ends", str(path))
    # If a link or a pipe is in the place of the lock, it is neither followed nor waited for.
    descriptor = open_above(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        kind = fcntl.LOCK_EX if flags & os.O_RDWR else fcntl.LOCK_SH  # several may check at once
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor
