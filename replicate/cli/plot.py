"""Draws a curve with characters, to show whether a training still improves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

COLUMNS, ROWS = 60, 8
"""Size of a plot, in characters."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a Braille character, by row and column; https://en.wikipedia.org/wiki/Braille_Patterns."""
_BRAILLE = 0x2800

Point = tuple[float, float]


def draw(points: Iterable[tuple[object, object]], *, only_ascii: bool = False) -> list[str]:
    """Draw points as a line, with the smallest and largest values beside it.

    Args:
        points: pairs of x and y; points with a value that is not a finite number are left out.
        only_ascii: whether to do without Braille characters, which not every terminal has.

    Returns:
        Lines of text; an empty list if there are fewer than two points to draw.
    """
    numbers = ((_finite(x), _finite(y)) for x, y in points)
    kept = [(x, y) for x, y in numbers if x is not None and y is not None]
    if len(kept) < 2:
        return []
    wide, high = (1, 1) if only_ascii else (2, 4)
    lit = set(_lit(kept, COLUMNS * wide, ROWS * high))
    rows = [
        "".join(_character(lit, column, row, only_ascii=only_ascii) for column in range(COLUMNS)) for row in range(ROWS)
    ]
    return _labelled(rows, kept)


def _finite(value: object) -> float | None:
    """Return the value as a finite float; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float can hold
        return None


def _lit(points: Sequence[Point], width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the dots of the lines between successive points; (0, 0) is the upper left corner."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across, down = _scale(xs, width), _scale(ys, height)
    places = [(across(x), height - 1 - down(y)) for x, y in points]
    for (x, y), (to_x, to_y) in pairwise(places):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for step in range(steps + 1):
            yield x + round((to_x - x) * step / steps), y + round((to_y - y) * step / steps)


def _scale(values: Sequence[float], size: int) -> Callable[[float], int]:
    """Return a function that maps the range of the values to dots 0 to `size - 1`."""
    low, high = min(values) / 2, max(values) / 2  # halves: the difference could overflow a float
    if not high > low:
        return lambda _: size // 2
    return lambda value: round((value / 2 - low) / (high - low) * (size - 1))


def _character(lit: set[tuple[int, int]], column: int, row: int, *, only_ascii: bool) -> str:
    if only_ascii:
        return "*" if (column, row) in lit else " "
    bits = sum(
        bit
        for down, pair in enumerate(_DOTS)
        for right, bit in enumerate(pair)
        if (column * 2 + right, row * 4 + down) in lit
    )
    return chr(_BRAILLE + bits) if bits else " "


def _labelled(rows: Sequence[str], points: Sequence[Point]) -> list[str]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    labels = [f"{max(ys):.5g}", *[""] * (len(rows) - 2), f"{min(ys):.5g}"]
    margin = max(map(len, labels))
    left, right = f"{min(xs):g}", f"{max(xs):g}"
    lines = [f"{label:>{margin}} | {row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':>{margin}}   {left}{right:>{COLUMNS - len(left)}}"]
