"""How this process ends: what is told so at its end, whichever way that comes.

Nothing else knows at exit which exception is the last; a SIGTERM would skip every exit handler; and a forked child
inherits all of it, and must forget it.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from replicate_core.records import Ending
from replicate_core.redaction import redact

ERROR_CHARACTERS = 2000
"""Longer messages of exceptions are cut."""


class Terminated(SystemExit):
    """A signal that ends the process, as an exception."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


AtEnd = Callable[[Ending, "str | None"], object]


class _Endings:
    """Watches the end of this process from the first `register` on, until nobody waits for it any more."""

    def __init__(self) -> None:
        self._callbacks: list[AtEnd] = []
        self._terminated: Terminated | None = None
        self._last_before: object = None
        self._process = 0
        self._mask: set[signal.Signals | int] = set()

    def register(self, callback: AtEnd) -> None:
        """Have this called with how the process ends; the last one registered is the first one called."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._watch()
        self._callbacks.append(callback)
        if _may_handle_signals():
            for number in _signals():
                if signal.getsignal(number) == signal.SIG_DFL:
                    signal.signal(number, self._terminate)

    def _watch(self) -> None:
        self._last_before = getattr(sys, "last_value", None)
        multiprocess = sys.modules.get("multiprocessing.process")
        if multiprocess is not None and multiprocess.parent_process() is not None:
            from multiprocessing.util import Finalize  # noqa: PLC0415  # such a process runs no exit handlers

            Finalize(None, self._at_exit, exitpriority=0)
        else:
            atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._hold_signal, after_in_parent=self._let_signal, after_in_child=self._forget)

    def unregister(self, callback: AtEnd) -> None:
        """Forget it; nothing happens if it is not registered."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)
        if not self._callbacks:
            self._restore_signal()

    def _at_exit(self) -> None:
        ending = ending_of(self._terminated or self._uncaught())
        with ExitStack() as stack:  # one that raises keeps no other from being told
            for callback in self._callbacks:
                stack.callback(callback, *ending)
            self._callbacks.clear()

    def _uncaught(self) -> BaseException | None:
        """The exception that ends this process, if one does: Python keeps it there, whatever `sys.excepthook` is."""
        if (error := sys.exc_info()[1]) is not None:  # a process of multiprocessing ends while it is on its way
            return error
        last = getattr(sys, "last_value", None)
        if hasattr(sys, "ps1") or last is self._last_before:  # it is only the last one of an interactive session
            return None
        return last if isinstance(last, BaseException) else None

    def _terminate(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End in order: exit handlers run, and so does every `finally` on the way."""
        self._terminated = Terminated(number)
        raise self._terminated

    def _restore_signal(self) -> None:
        if _may_handle_signals():
            for number in _signals():
                if signal.getsignal(number) == self._terminate:
                    signal.signal(number, signal.SIG_DFL)

    def _forget(self) -> None:
        """In a forked child: what happens to it is no end of anything."""
        self._callbacks.clear()
        self._restore_signal()
        self._let_signal()

    def _hold_signal(self) -> None:
        """Before a fork: a signal to the child waits until that has forgotten."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())

    def _let_signal(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def ending_of(error: BaseException | None) -> tuple[Ending, str | None]:
    """What an exception that ends an experiment is recorded as: its status, its type and message."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished", None
    if isinstance(error, Terminated):
        return "interrupted", error.signal_name
    status: Ending = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    try:
        text = redact(": ".join(filter(None, (type(error).__name__, str(error)))))[:ERROR_CHARACTERS]
    except Exception:  # noqa: BLE001  # an exception that can't even say what it is
        text = type(error).__name__
    return status, text.encode("utf-8", "backslashreplace").decode("utf-8")


def _signals() -> set[signal.Signals]:
    """Those that end a process in order: of a scheduler, and of a terminal that is closed."""
    return {signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])}


def _may_handle_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


_endings = _Endings()
register = _endings.register
unregister = _endings.unregister
