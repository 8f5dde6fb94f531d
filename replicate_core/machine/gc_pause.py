"""Python's collection of cyclic garbage, which is in the way where very many objects are made at once, to be kept."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_pauses = 0


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the collection of garbage, unless it is paused already: for a moment, not while anything is waited for.

    Each time so many objects were made, Python looks whether any is garbage: of the 10,000 experiments of a listing,
    which all stay, it would look at each again and again. Measured: 40 % of the time that a listing takes.
    """
    global _pauses  # noqa: PLW0603  # what is paused is the process's, too
    if not gc.isenabled():  # whoever paused it goes on with it
        yield
        return
    gc.disable()
    _pauses += 1
    try:
        yield
    finally:
        _pauses -= 1
        gc.enable()


def _record_resumed() -> None:
    """In a child that another thread has forked meanwhile: nobody would go on there."""
    global _pauses  # noqa: PLW0603
    if _pauses:
        _pauses = 0
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_record_resumed)
