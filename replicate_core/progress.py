"""Progress reports. Pure: the command line and the notebook decide how they look."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called with how much is done and how much there is in total; the function that accepts it says in which unit."""


def silent(_done: int, _all: int) -> None:
    """Ignores all progress."""
