"""Locks between processes, which the end of a process or of the machine releases by itself, whatever way it ends.

POSIX record locks: a forked child does not inherit them, so no data loader keeps the lock of a training that is gone.
They say nothing between the threads of one process, and vanish when the process opens and closes the file once more,
by whatever name; both are dealt with here, by remembering what this process holds.
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

_held: dict[tuple[int, int], tuple[int, int, Path]] = {}
"""The locks of this process: device and number of the file, to its descriptor, the process that took it, and its path.
"""
_guard = threading.Lock()
_process = os.getpid()


def acquire(path: Path) -> bool:
    """Take a lock, and tell whether that was possible: nobody waits for long.

    Args:
        path: the file that stands for the lock; made if needed. Nobody may write to it or replace it; it may be moved.

    Raises:
        OSError: the file can't be made, or its file system knows no locks.
    """
    with _guarded():
        if _is_mine(path):
            return False
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(ATTEMPT_SECONDS)
            if (descriptor := _take(path, os.O_RDWR | os.O_CREAT)) is not None:
                _held[_identity(os.fstat(descriptor))] = descriptor, os.getpid(), path
                return True
    return False


def release(path: Path) -> None:
    """Give a lock of this process back; nothing happens if it is none.

    Args:
        path: the file, or where it was when the lock was taken.
    """
    with _guarded():
        mine = [identity for identity, held in _held.items() if held[1] == os.getpid() and held[2] == path]
        if _is_mine(path):
            mine = [_identity(os.stat(path))]
        for identity in mine:
            os.close(_held.pop(identity)[0])


def is_held(path: Path) -> bool:
    """Tell whether any process, this one included, holds a lock."""
    with _guarded():
        if _is_mine(path):
            return True
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(ATTEMPT_SECONDS)
            try:
                descriptor = _take(path, os.O_RDONLY)
            except FileNotFoundError:
                return False
            except PermissionError:  # another user's: it can't be told
                return True
            if descriptor is not None:
                os.close(descriptor)
                return False
    return True


def _guarded() -> threading.Lock:
    """What keeps the threads of this process apart. It may have been held when the process was forked."""
    global _guard, _process  # made anew where no other thread can be
    if _process != os.getpid():
        _guard, _process = threading.Lock(), os.getpid()
    return _guard


def _is_mine(path: Path) -> bool:
    """Tell whether this process holds a lock. What its parent held when it was forked, it does not."""
    try:
        held = _held.get(_identity(os.stat(path)))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return held is not None and held[1] == os.getpid()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _take(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock, or shares it if it is opened for reading; None if another process holds it."""
    if not AVAILABLE:
        raise OSError(errno.ENOSYS, "this system has no locks that a process can't leave behind", str(path))
    descriptor = os.open(path, flags, 0o600)
    try:
        kind = fcntl.LOCK_EX if flags & os.O_RDWR else fcntl.LOCK_SH  # several may look at once
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor
