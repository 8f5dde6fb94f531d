"""The curve that `replicate show` draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replicate
from replicate.cli import plot

Cli = Callable[..., tuple[int, str, str]]


def test_a_line_goes_from_corner_to_corner() -> None:
    lines = plot.draw([(0, 0.0), (10, 1.0)], only_ascii=True)
    assert lines[0].endswith("*")
    assert lines[0].startswith("1 |")
    assert lines[plot.ROWS - 1].startswith("0 | *")
    assert lines[plot.ROWS].split() == ["0", "10"]
    assert len(lines) == plot.ROWS + 1


def test_braille_has_eight_dots_in_a_character() -> None:
    lines = plot.draw([(0, 0.0), (10, 1.0)])
    assert all(character in " |01" or 0x2800 <= ord(character) < 0x2900 for line in lines[:-1] for character in line)
    assert lines[0][-1] != " "


@pytest.mark.parametrize(
    "points",
    [[], [(0, 1.0)], [(0, 1.0), (1, math.nan)], [(0, 1.0), (1, "text")], [(0, 1.0), (1, True)], [(0, 1), (1, 10**400)]],
)
def test_less_than_two_numbers_are_no_curve(points: list[tuple[object, object]]) -> None:
    assert plot.draw(points) == []


def test_what_does_not_change_is_a_line_in_the_middle() -> None:
    lines = plot.draw([(0, 5.0), (1, 5.0)], only_ascii=True)
    assert [number for number, line in enumerate(lines) if "*" in line] == [plot.ROWS - 1 - plot.ROWS // 2]


numbers = st.floats() | st.integers()


@given(st.lists(st.tuples(numbers, numbers), max_size=30), st.booleans())
def test_any_numbers_can_be_drawn(points: list[tuple[object, object]], only_ascii: bool) -> None:
    assert len(plot.draw(points, only_ascii=only_ascii)) in (0, plot.ROWS + 1)


def test_show_draws_the_primary_metric(cli: Cli, project: Path) -> None:
    with replicate.init({}, path=None) as experiment:
        for step, loss in enumerate((3.0, math.inf, 1.0)):
            experiment.checkpoint(None, {"loss": loss, "acc": 0.5}, ("loss", "minimize"), step=step * 100)
    out = cli("show", experiment.id)[1]
    assert "loss (minimize) by step" in out
    assert "  3 |" in out
    assert "200\n" in out
    with replicate.init({}, path=None) as plain:
        plain.checkpoint(None, {"loss": 1.0})
    assert "by step" not in cli("show", plain.id)[1]
