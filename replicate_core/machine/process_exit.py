"""Exit hooks that are told how this process ends, in whatever way it does.

`atexit` alone is not enough: its handlers do not learn which exception ended the process, or with which exit code; a
SIGTERM skips all of them; and a forked child inherits them, and must forget them. So `sys.exit` is wrapped, SIGTERM is
handled, and IPython is asked how the last cell ended.
"""

from __future__ import annotations

import atexit
import builtins
import dis
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import update_wrapper
from types import FrameType
from typing import Any, NamedTuple

from replicate_core.format.records import Ending
from replicate_core.redaction import redact

ERROR_CHARACTERS = 2000
"""Maximum length of the recorded message of an exception."""

PRUNED = ("optuna.exceptions", "TrialPruned")
"""Module and name of the exception that ends a trial early, which is not a failure."""


class Terminated(SystemExit):
    """A signal that ends the process, as an exception."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


AtEnd = Callable[[Ending, "str | None"], object]
_Outcome = tuple[Ending, "str | None"]


class _Exit(NamedTuple):
    """A call of `sys.exit` that asks for an exit code other than 0."""

    outcome: _Outcome
    bottom: FrameType
    """The outermost frame at that moment, usually the module that runs as `__main__`."""

    @property
    def ended_it(self) -> bool:
        """Whether the process ends by it: else it was caught, and the outermost frame has returned since."""
        instruction = self.bottom.f_code.co_code[max(0, self.bottom.f_lasti)]
        return not dis.opname[instruction].startswith("RETURN_")


class _ExitHooks:
    """Watches the end of this process from the first `register` until no callback is registered any more."""

    def __init__(self) -> None:
        self._callbacks: list[AtEnd] = []
        self._terminated: Terminated | None = None
        self._last_before: object = None
        self._process = 0
        self._has_exit_code = True
        self._exit: _Exit | None = None
        self._last_cell: _Outcome | None = None
        self._exits: list[tuple[object, str, Callable[..., Any], Callable[..., Any]]] = []
        self._mask: set[signal.Signals | int] = set()

    def register(self, callback: AtEnd) -> None:
        """Call this at the end with how the process ended; callbacks are called in reverse order of registration."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._watch()
        self._callbacks.append(callback)
        if self._has_exit_code and not self._exits:
            self._watch_exits()
        if _may_handle_signals():
            for number in _signals():
                if signal.getsignal(number) == signal.SIG_DFL:
                    signal.signal(number, self._terminate)

    def _watch(self) -> None:
        self._last_before = getattr(sys, "last_value", None)
        if runs_exit_handlers():
            atexit.register(self._at_exit)
        else:
            from multiprocessing.util import Finalize  # noqa: PLC0415  # it is in use

            Finalize(None, self._at_exit, exitpriority=0)
            self._has_exit_code = False  # the exception itself is still there
        if (shell := _ipython()) is not None:
            shell.events.register("pre_run_cell", self._before_cell)
            shell.events.register("post_run_cell", self._after_cell)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._block_signals, after_in_parent=self._unblock_signals, after_in_child=self._forget
            )

    def unregister(self, callback: AtEnd) -> None:
        """Remove a callback; does nothing if it is not registered."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)
        if not self._callbacks:
            self._restore_signals()
            self._restore_exits()

    def _at_exit(self) -> None:
        ending = self._outcome()
        with ExitStack() as stack:  # if one raises, the others are still called
            for callback in self._callbacks:
                stack.callback(callback, *ending)
            self._callbacks.clear()

    def _outcome(self) -> _Outcome:
        """How the process ends."""
        if (error := self._terminated or self._uncaught()) is not None:
            return ending_of(error)
        if self._last_cell is not None:
            return self._last_cell
        return self._exit.outcome if self._exit is not None and self._exit.ended_it else ending_of(None)

    def _uncaught(self) -> BaseException | None:
        """The exception that ends this process, if any: Python sets `sys.last_value` whatever `sys.excepthook` is."""
        if (error := sys.exc_info()[1]) is not None:  # a process of multiprocessing ends while it propagates
            return error
        last = getattr(sys, "last_value", None)
        is_prompt = hasattr(sys, "ps1") and _ipython() is None  # an error at a prompt does not end it
        if is_prompt or last is self._last_before:
            return None
        return last if isinstance(last, BaseException) else None

    def _watch_exits(self) -> None:
        """Note each call of `sys.exit`, and outside of a prompt of `exit` and `quit`."""
        places: list[tuple[object, str]] = [(sys, "exit")]
        if not (hasattr(sys, "ps1") or sys.flags.interactive):
            places += [(builtins, "exit"), (builtins, "quit")]
        for place, name in places:
            if callable(original := getattr(place, name, None)):
                watched = _watched(original, self._note_exit)
                setattr(place, name, watched)
                self._exits.append((place, name, watched, original))

    def _restore_exits(self) -> None:
        for place, name, watched, original in self._exits:
            if getattr(place, name, None) is watched:  # else somebody wrapped it, too, and calls this
                setattr(place, name, original)
        self._exits.clear()
        self._exit = None

    def _note_exit(self, error: SystemExit) -> None:
        if not self._callbacks or threading.current_thread() is not threading.main_thread():
            return
        bottom = sys._getframe()  # noqa: SLF001  # the documented way to it
        while bottom.f_back is not None:
            bottom = bottom.f_back
        self._exit = _Exit(ending_of(error), bottom) if error.code else None

    def _before_cell(self, _info: object) -> None:
        """Forget errors of earlier cells: only the last one counts."""
        self._last_before = getattr(sys, "last_value", None)
        self._last_cell = None

    def _after_cell(self, result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        self._last_cell = None if error is None else ending_of(error)

    def _terminate(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End the process with an exception, so that exit handlers and every `finally` run."""
        self._terminated = Terminated(number)
        raise self._terminated

    def _restore_signals(self) -> None:
        if _may_handle_signals():
            for number in _signals():
                if signal.getsignal(number) == self._terminate:
                    signal.signal(number, signal.SIG_DFL)

    def _forget(self) -> None:
        """In a forked child: remove all callbacks, because its end does not end an experiment."""
        self._callbacks.clear()
        self._last_cell = None
        self._restore_signals()
        self._restore_exits()
        self._unblock_signals()

    def _block_signals(self) -> None:
        """Before a fork: block signals until the child has removed its callbacks."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())

    def _unblock_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def ending_of(error: BaseException | None) -> tuple[Ending, str | None]:
    """The status that is recorded when an exception ends an experiment, and the type and message of the exception.

    An exit code only says that something failed, so the exception that was being handled at the time counts instead, if
    there was one. A trial that its study pruned, because others do better, has finished.
    """
    if error is None or _is_pruned(error) or (isinstance(error, SystemExit) and not error.code):
        return "finished", None
    if isinstance(error, Terminated):
        return "interrupted", error.signal_name
    if isinstance(error, SystemExit) and isinstance(error.code, int) and (cause := _cause(error)) is not None:
        error = cause
    is_interrupted = isinstance(error, KeyboardInterrupt) or isinstance(
        error.__cause__, KeyboardInterrupt
    )  # Abort of click
    status: Ending = "interrupted" if is_interrupted else "failed"
    try:
        text = redact(": ".join(filter(None, (type(error).__name__, str(error)))))[:ERROR_CHARACTERS]
    except Exception:  # noqa: BLE001  # the exception's own `__str__` raised
        text = type(error).__name__
    return status, text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cause(error: BaseException) -> BaseException | None:
    """The exception that led to this one, as a traceback shows it."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_pruned(error: BaseException) -> bool:
    """Whether it is the exception with which Optuna prunes a trial."""
    return any((kind.__module__, kind.__name__) == PRUNED for kind in type(error).__mro__)


def _watched(original: Callable[..., Any], note: Callable[[SystemExit], object]) -> Callable[..., Any]:
    """The same function; `note` is called with any SystemExit that it raises."""

    def watched(*args: Any, **keywords: Any) -> Any:
        try:
            return original(*args, **keywords)
        except SystemExit as error:
            note(error)
            raise

    return update_wrapper(watched, original)


def _ipython() -> Any:
    """The IPython shell that runs this, in a notebook or a terminal; None in plain Python."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _signals() -> set[signal.Signals]:
    """Signals that end a process in order: from a scheduler, or from a terminal that is closed."""
    return {signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])}


def runs_exit_handlers() -> bool:
    """Whether this process runs the handlers of `atexit` when it ends: a worker of multiprocessing does not."""
    multiprocess = sys.modules.get("multiprocessing.process")
    return multiprocess is None or multiprocess.parent_process() is None


def _may_handle_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


_exit_hooks = _ExitHooks()
register = _exit_hooks.register
unregister = _exit_hooks.unregister
