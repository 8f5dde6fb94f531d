"""Warnings for the user, at the line of theirs that led to them.

With `python -W error`, a warning raises. What a training records must not depend on that: a checkpoint would be lost
because a process was started again, or a disk is full. What the user's own call is at fault for is warned of by `warn`,
and may be raised; what happens to the machine while a training runs, by `warn_only`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from types import FrameType

from replicate_core.safe_text import printable

_log = logging.getLogger("replicate")

_passed_over = {"replicate", "replicate_core", "contextlib", "functools"}
"""The packages whose lines are not the user's: ours, and what calls functions for others."""


def pass_over(*packages: str) -> None:
    """Look for the user's line above those of further packages: an adapter, and the framework that calls it."""
    _passed_over.update(packages)


def warn(text: str) -> None:
    """Warn at the user's line; a filter may raise it."""
    frame = _line_of_the_user()
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__", "<string>")
    warnings.warn_explicit(printable(text), UserWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


def warn_only(text: str) -> None:
    """Warn, and never raise: a filter that would raise the warning has it logged, by the logger `replicate`."""
    try:
        warn(text)
    except UserWarning:
        _log.warning("%s", printable(text))


def _line_of_the_user() -> FrameType:
    """The innermost frame outside of the packages that are passed over; the outermost one if there is none."""
    frame = sys._getframe(1)  # noqa: SLF001  # as `warnings` itself does
    while _package(frame) in _passed_over and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
