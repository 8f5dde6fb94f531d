"""How far something is, for people who watch. Pure: what it looks like is for faces."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called with how much is done and how much there is: bytes or things, as the function says that takes it."""


def silent(_done: int, _all: int) -> None:
    """Progress that nobody looks at."""
