"""Work that takes only the processor time that nobody else wants, and can be hurried later.

Linux has a priority for each thread, and lets no one without privileges raise one again: so what must not wait is done
by a thread that never was lowered. Elsewhere the priority is that of the process, and stays as it is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NICENESS = 19
"""The lowest priority."""

HAS_THREAD_PRIORITIES = sys.platform == "linux"


class Background:
    """Does a piece of work in a thread of the lowest priority.

    Args:
        work: what to do.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._normal = _niceness_of_this_thread()

    def start(self) -> bool:
        """Begin; False where the system starts no more threads."""
        return start_thread(self._thread)

    def join(self, seconds: float | None = None) -> bool:
        """Wait, for so long at most if that is given, and tell whether it is done.

        Raises:
            BaseException: what the work raised.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def hurry(self) -> None:
        """Give the thread the priority of the one that made it, if the system lets this user do that."""
        if HAS_THREAD_PRIORITIES and self._thread.native_id is not None:
            with suppress(OSError):  # it needs a privilege; or the thread has just ended
                os.setpriority(os.PRIO_PROCESS, self._thread.native_id, self._normal)

    def _run(self) -> None:
        _lower_this_thread()
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # `join` raises it
            self._error = error


class Bell:
    """Wakes those that wait for it, from another thread."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self._count = 0

    def ring(self) -> None:
        """Wake all of them; who is at work now does not wait the next time."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()

    def wait(self, heard: int, seconds: float) -> int:
        """Wait until it has rung more often than `heard` says, for so long at most; returns how often it has."""
        with self._rung:
            self._rung.wait_for(lambda: self._count != heard, seconds)
            return self._count


def start_thread(thread: threading.Thread) -> bool:
    """Start a thread; False where the system starts no more of them."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _niceness_of_this_thread() -> int:
    """How low the priority of this thread is: 0 is normal; that of a training begun with `nice` is lower."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if HAS_THREAD_PRIORITIES else 0


def _lower_this_thread() -> None:
    """Give this thread the lowest priority, where threads have one."""
    if HAS_THREAD_PRIORITIES:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def lower_this_process() -> None:
    """Give this process the lowest priority, for good; on Linux this thread, and those that it starts."""
    with suppress(OSError, AttributeError):
        os.nice(NICENESS)
    set_session_niceness(NICENESS)


def set_session_niceness(niceness: int) -> None:
    """Set the priority of this session: Linux shares the processors between sessions first, where this is on."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), "ascii")
