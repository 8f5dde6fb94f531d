"""Warnings that must not end a training: where a filter makes errors of them, they are logged instead.

With `python -W error`, `warnings.warn` raises. What a training records must not depend on that: a checkpoint would be
lost because a process was started again, or a disk is full. So what happens to the machine while a training runs is
warned of here. What the user's own call is at fault for is warned of as usual, and may be raised.
"""

from __future__ import annotations

import logging
import warnings

from replicate_core.safe_text import printable

_log = logging.getLogger("replicate")


def warn(text: str, *, stacklevel: int) -> None:
    """Warn, and never raise: a filter that would raise the warning has it logged, by the logger `replicate`.

    Args:
        text: what to say.
        stacklevel: as of `warnings.warn`.
    """
    shown = printable(text)
    try:
        warnings.warn(shown, stacklevel=stacklevel + 1)
    except UserWarning:
        _log.warning("%s", shown)
