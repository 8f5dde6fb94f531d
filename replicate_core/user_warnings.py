"""Warnings for the user, which point to the line of the user's code that caused them.

With `python -W error`, a warning is raised. Recording must not depend on that: a checkpoint would be lost because a
process was restarted, or a disk is full. Use `warn` for mistakes in the user's own call, which may be raised, and
`warn_only` for what happens on the machine during a training.
"""

from __future__ import annotations

import logging
import sys
import warnings
from types import FrameType

from replicate_core.safe_text import printable

_log = logging.getLogger("replicate")

_skipped_packages = {"replicate", "replicate_core", "contextlib", "functools"}
"""Packages whose code is not the user's: ours, and those that call functions for others."""


def pass_over(*packages: str) -> None:
    """Skip further packages when looking for the user's line: an adapter, and the framework that calls it."""
    _skipped_packages.update(packages)


def warn(text: str) -> None:
    """Warn at the user's line; a filter may raise the warning."""
    frame = _user_frame()
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__", "<string>")
    warnings.warn_explicit(printable(text), UserWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


def warn_only(text: str) -> None:
    """Warn, and never raise: if a filter would raise the warning, it is logged by the logger `replicate`."""
    try:
        warn(text)
    except UserWarning:
        _log.warning("%s", printable(text))


def _user_frame() -> FrameType:
    """The innermost frame outside of the skipped packages; the outermost one if there is none."""
    frame = sys._getframe(1)  # noqa: SLF001  # as `warnings` itself does
    while _package(frame) in _skipped_packages and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
