"""Work in a thread of the lowest priority, which can be hurried later.

Linux has a priority for each thread, and only a privileged user may raise one again. So urgent work needs a thread
whose priority was never lowered. Other systems have one priority for the process, which is left as it is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NICENESS = 19
"""Niceness of the lowest priority."""

HAS_THREAD_PRIORITIES = sys.platform == "linux"


class Background:
    """Runs a function in a thread of the lowest priority.

    Args:
        work: the function.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._normal = _niceness_of_this_thread()

    def start(self) -> bool:
        """Start the thread; False if the system starts no more threads."""
        return start_thread(self._thread)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the work is done, for at most `seconds` if given, and tell whether it is.

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
        """Give the thread the priority of the thread that made it, if the system allows this user to."""
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
    """Wakes the threads that wait for it, and counts how often it was rung."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self._count = 0

    def ring(self) -> None:
        """Wake all waiting threads; a thread that is busy now does not wait the next time."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()

    def wait(self, heard: int, seconds: float) -> int:
        """Wait until it was rung again since the count `heard`, for at most `seconds`; returns the count."""
        with self._rung:
            self._rung.wait_for(lambda: self._count != heard, seconds)
            return self._count


def start_thread(thread: threading.Thread) -> bool:
    """Start a thread; False if the system starts no more threads."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _niceness_of_this_thread() -> int:
    """The niceness of this thread: 0 is normal, more is a lower priority, as in a training started with `nice`."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if HAS_THREAD_PRIORITIES else 0


def _lower_this_thread() -> None:
    """Give this thread the lowest priority, where threads have priorities."""
    if HAS_THREAD_PRIORITIES:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def lower_this_process() -> None:
    """Give this process the lowest priority for good; on Linux, this thread and those that it starts."""
    with suppress(OSError, AttributeError):
        os.nice(NICENESS)
    set_session_niceness(NICENESS)


def set_session_niceness(niceness: int) -> None:
    """Set the priority of this session: with autogroups, Linux shares the processors between sessions first."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), "ascii")
