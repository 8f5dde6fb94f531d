"""Replacing a file by another one without making the writer wait for the file system.

Renaming over an existing file is not free. So that a crash does not leave an empty file, ext4 (`auto_da_alloc`), XFS
and btrfs first allocate disk space for the new data, and then they free the space of the old file. For a model of 410
MB, training stands still for 0.2 s. Here the first happens while the file is written, the second afterwards.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replicate_core.machine.background import start_thread
from replicate_core.machine.descriptors import open_above

_PAUSE_SECONDS = 0.5
"""Seconds between flushes to the disk."""

LARGE_BYTES = 16 << 20
"""Minimum size of a replaced file for which this is done: for smaller ones, threads cost more than they save."""


@contextmanager
def written_ahead(path: Path, target: Path) -> Iterator[None]:
    """While a file is written, keep flushing it to the disk, so that renaming it has nothing left to do.

    Args:
        path: the file that the body of the `with` writes; nothing happens if it writes none, or a directory.
        target: the file that it will replace, whose size predicts the size of the new one.
    """
    if sys.platform != "linux" or not _is_large(target):
        yield
        return
    is_over = threading.Event()
    start_thread(threading.Thread(target=_write_ahead, args=(path, is_over), daemon=True))
    try:
        yield
    finally:
        is_over.set()  # the thread is not joined: a slow disk must not hold up the training


def _write_ahead(path: Path, is_over: threading.Event) -> None:
    while not is_over.wait(_PAUSE_SECONDS):
        with suppress(OSError):  # it does not exist yet; or the disk fails, and the writer gets the same error
            descriptor = open_above(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def put_in_place(source: Path, target: Path) -> None:
    """Rename a file; if it replaces another one, the space of that one is freed in the background.

    Args:
        source: the file, on the same file system.
        target: its new name.

    Raises:
        OSError: it can't be renamed.
    """
    old = None
    if _is_large(target):
        with suppress(OSError):
            old = open_above(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.replace(source, target)
    finally:
        if old is not None and not start_thread(threading.Thread(target=os.close, args=(old,), daemon=True)):
            os.close(old)


def _is_large(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size >= LARGE_BYTES
