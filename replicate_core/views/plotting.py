"""Drawing with matplotlib: lines over steps, and points over a param. matplotlib is imported when something is drawn.

This is in the core because its classes have `plot()`. It is a module of its own because no other may know matplotlib.
It takes plain numbers and labels. Names from a repository are not trusted: they are drawn literally, never as formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from replicate_core.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes  # noqa: PLC0414  # also for modules that only name the type

LABEL_POINTS = 8
"""Font size of labels, in points."""

LABEL_CHARACTERS = 30
"""Maximum number of characters of a label."""

DIRECT_LABELS_MAX = 10
"""Maximum number of lines that have a label at their end, beside the legend."""

POINT_LABELS_MAX = 40
"""Maximum number of points that are labelled; more labels would overlap."""

LEGEND_MAX = 20
"""Maximum number of lines in a legend. With more lines, the title gives their number instead."""

FIGURES_MAX = 10
"""Maximum number of our figures that pyplot keeps: it never frees any, and warns at 20."""

OURS = "replicate"
"""Group id that marks a figure made here."""

MARKED_MAX = 30
"""Maximum number of points of a line whose points are marked."""

STYLES = ("-", "--", ":", "-.")
COLORS = 10
"""Number of colours. When all are used, lines take the next style."""

GAP = 1.15
"""Minimum distance from a label to the next one above it, in font heights."""

WIDTH = 0.6
"""Width of a character, in font heights."""


class Curve(NamedTuple):
    """One experiment over its steps."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


class Point(NamedTuple):
    """One experiment: one of its params, and one of its metrics."""

    label: str
    x: float | str
    y: float


def draw_lines(lines: Sequence[Curve], *, metric: str, logy: bool = False, ax: Axes | None = None) -> Axes:
    """Draw a metric over steps.

    Args:
        lines: one for each experiment.
        metric: the name of the metric, for the axis.
        logy: whether to draw it on a logarithmic axis.
        ax: where to draw; None: the current axes of pyplot if they are empty, else a new figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    axes = _axes(ax)
    before = len(axes.get_lines())
    for index, line in enumerate(lines, before):
        axes.plot(
            line.steps,
            line.values,
            label=_label(line.label),
            color=f"C{index % COLORS}",
            linestyle=STYLES[index // COLORS % len(STYLES)],
            marker="o" if len(line.steps) <= MARKED_MAX else None,
            markersize=4,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(_literal(metric))
    if ax is None:
        axes.locator_params(axis="x", integer=True)
    if logy:
        axes.set_yscale("log")
    ends = [(line, end, index) for index, line in enumerate(lines, before) if (end := _end(line)) is not None]
    if ax is None and len(lines) <= DIRECT_LABELS_MAX:  # beside axes that were given there may be no room
        _annotate(axes, [_Text(line.label, *end, f"C{index % COLORS}") for line, end, index in ends])
    _legend(axes, fewest=2 if ax is None else 1)
    return axes


def draw_points(
    points: Sequence[Point], *, param: str, metric: str, logx: bool = False, logy: bool = False, ax: Axes | None = None
) -> Axes:
    """Draw a metric over a param, a point for each experiment. Params that are not numbers are named on the axis.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    axes = _axes(ax)
    named = any(isinstance(point.x, str) for point in points)
    names = list(dict.fromkeys(_name(point.x) for point in points)) if named else []
    across = [names.index(_name(point.x)) if named else float(point.x) for point in points]
    axes.scatter(across, [point.y for point in points])
    if named:
        axes.set_xticks(range(len(names)), [_label(name) for name in names])
    axes.set_xlabel(_literal(param))
    axes.set_ylabel(_literal(metric))
    if logx and not named:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    axes.margins(0.1)
    if len(points) <= POINT_LABELS_MAX:
        seen = ((x, point) for x, point in zip(across, points, strict=True) if math.isfinite(point.y))
        _annotate(axes, [_Text(point.label, x, point.y, "black") for x, point in seen])
    return axes


def _axes(given: Axes | None) -> Axes:
    if given is not None:
        return given
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415  # 0.3 s, and an extra
    except ImportError as error:
        raise MissingExtra(
            "plots need matplotlib, which is not installed: pip install matplotlib (the extra "
            '"replicate[notebook]" of this package)'
        ) from error
    if plt.get_fignums() and not plt.gca().has_data():
        return plt.gca()
    _close_the_oldest(plt)
    figure, axes = plt.subplots(layout="constrained")
    figure.set_gid(OURS)
    return axes


def _close_the_oldest(plt: Any) -> None:
    """Make sure that pyplot keeps no more than `FIGURES_MAX` of our figures. A closed figure can still be saved.

    A notebook shows figures at the end of a cell, so there they are shown before they are closed.
    """
    ours = [number for number in plt.get_fignums() if plt.figure(number).get_gid() == OURS]
    oldest = ours[: max(0, len(ours) - FIGURES_MAX + 1)]
    if oldest and "inline" in plt.get_backend():
        plt.show()
    for number in oldest:
        plt.close(number)


def _literal(text: str) -> str:
    """A string that is drawn literally: without formulas, line breaks and control characters."""
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return printable.replace("$", r"\$")


def _name(param: float | str) -> str:
    return param if isinstance(param, str) else f"{param:g}"


def _label(text: str) -> str:
    cut = text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"
    return _literal(f" {cut}" if cut.startswith("_") else cut)  # legends leave out labels that begin with an underscore


class _Text(NamedTuple):
    """A label beside a point."""

    label: str
    x: float
    y: float
    color: str


def _end(line: Curve) -> tuple[float, float] | None:
    """The last finite point of a line."""
    seen = (point for point in zip(reversed(line.steps), reversed(line.values), strict=True) if math.isfinite(point[1]))
    return next(seen, None)


def _annotate(axes: Axes, texts: Sequence[_Text]) -> None:
    """Write labels to the right of their points. Labels that would overlap are moved up."""
    axes.get_xlim(), axes.get_ylim()  # the axes compute their limits only when they are read
    scale = 72 / axes.figure.dpi
    places = (tuple(scale * axes.transData.transform((text.x, text.y))) for text in texts)
    placed: list[tuple[float, float, float]] = []  # left, right and middle, in points of print
    for (x, y), text in sorted(zip(places, texts, strict=True), key=lambda pair: pair[0][1]):
        if not (math.isfinite(x) and math.isfinite(y)):  # zero or less on a logarithmic axis
            continue
        label = _label(text.label)
        right, middle = x + len(label) * LABEL_POINTS * WIDTH, y
        for other_left, other_right, other_middle in placed:  # from the lowest up, so that one pass is enough
            if other_left < right and x < other_right and middle < other_middle + GAP * LABEL_POINTS:
                middle = other_middle + GAP * LABEL_POINTS
        placed = sorted([*placed, (x, right, middle)], key=lambda place: place[2])
        axes.annotate(
            label,
            (text.x, text.y),
            xytext=(6, middle - y),
            textcoords="offset points",
            verticalalignment="center",
            color=text.color,
            fontsize=LABEL_POINTS,
        )


def _legend(axes: Axes, *, fewest: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > LEGEND_MAX:
        axes.set_title(f"{len(handles)} experiments", fontsize="medium")
    elif len(handles) >= fewest:
        axes.legend(handles, labels, fontsize=LABEL_POINTS)
