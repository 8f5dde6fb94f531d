"""Columns of metrics, which metric is meant, and nested params laid flat."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.errors import InvalidInput, NotFound
from replicate_core.format.records import CheckpointFacts, PrimaryMetric
from replicate_core.views.metric_columns import Columns, choose, flat, number, points

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def made(step: int = 0, *, primary: str | None = None, **metrics: object) -> CheckpointFacts:
    goal = None if primary is None else PrimaryMetric(primary, "minimize")
    return CheckpointFacts(f"{step:032x}", NOW, step, metrics, goal)


class TestColumns:
    def test_a_column_has_one_value_for_each_checkpoint(self) -> None:
        columns = Columns([made(loss=3), made(loss=2, accuracy=0.5), made()])
        assert columns["loss"] == [3, 2, None]
        assert dict(columns) == {"loss": [3, 2, None], "accuracy": [None, 0.5, None]}
        assert repr(columns) == "{'loss': [3, 2, None], 'accuracy': [None, 0.5, None]}"
        assert (len(columns), "loss" in columns, columns.get("nothing")) == (2, True, None)

    def test_names_of_nested_ones_are_joined_by_dots(self) -> None:
        columns = Columns([made(val={"loss": 3, "by": {"day": 1}}), made(loss=1), made(**{"val.loss": 2})])
        assert dict(columns) == {"val.loss": [3, None, 2], "val.by.day": [1, None, None], "loss": [None, 1, None]}

    def test_what_no_checkpoint_has_is_not_found_and_the_message_names_what_is_similar(self) -> None:
        with pytest.raises(NotFound, match=r"has the metric 'los': similar is 'loss'$"):
            Columns([made(loss=3, accuracy=1)])["los"]
        with pytest.raises(NotFound, match=r"has the metric 'x': there is 'm0', .*'m9' and 2 more$"):
            Columns([made(**{f"m{index}": 1 for index in range(12)})])["x"]
        with pytest.raises(NotFound, match=r"there is none$"):
            Columns([])["loss"]


class TestTheMetricThatIsMeant:
    def test_is_the_one_that_was_named(self) -> None:
        assert choose("accuracy", [[made(loss=1, primary="loss")], [made(accuracy=1)]]) == "accuracy"

    def test_else_the_primary_one_of_the_latest_experiment_that_has_any(self) -> None:
        histories = [[made(a=1, primary="a")], [made(a=1, b=2, primary="b")], [made(a=1)]]
        assert choose(None, histories) == "b"

    def test_else_the_only_number_there_is(self) -> None:
        assert choose(None, [[made(note="good", loss=1, primary="note")], []]) == "loss"

    @pytest.mark.parametrize(
        "histories",
        [[], [[]], [[made(a=1, b=2)]], [[made(a="text")]]],
        ids=["no list", "no checkpoint", "two", "no number"],
    )
    def test_else_it_is_not_clear(self, histories: list[list[CheckpointFacts]]) -> None:
        with pytest.raises(InvalidInput, match="name the metric to draw: there is "):
            choose(None, histories)

    def test_may_be_a_nested_one(self) -> None:
        history = [made(0, val={"loss": 3}), made(1, val={"loss": 2})]
        assert choose("val.loss", [history]) == choose(None, [history]) == "val.loss"
        assert points("val.loss", history) == ([0, 1], [3.0, 2.0])
        with pytest.raises(NotFound, match="has the metric 'val': "):
            choose("val", [history])

    def test_what_is_not_there_is_not_found(self) -> None:
        with pytest.raises(NotFound, match="'acuracy': similar is 'accuracy'"):
            choose("acuracy", [[made(accuracy=1)]])

    def test_texts_can_not_be_drawn(self) -> None:
        with pytest.raises(InvalidInput, match="'note' is never a number, so it can't be drawn: there is 'loss'"):
            choose("note", [[made(note="good", loss=1)]])


def test_points_are_where_a_metric_is_a_number() -> None:
    history = [made(0, loss=3), made(1), made(2, loss="none"), made(3, loss=True), made(4, loss=0.5)]
    assert points("loss", history) == ([0, 4], [3.0, 0.5])


def test_numbers_that_no_float_holds_are_infinite() -> None:
    assert (number(10**400), number(-(10**400)), number(7)) == (math.inf, -math.inf, 7.0)
    assert [number(value) for value in (None, True, "7", [7])] == [None] * 4


def test_nested_mappings_are_laid_flat() -> None:
    nested = {"lr": 0.1, "optimizer": {"name": "adam", "betas": [0.9, 0.99], "empty": {}, "more": {"eps": 1e-8}}}
    assert flat(nested) == {
        "lr": 0.1,
        "optimizer.name": "adam",
        "optimizer.betas": [0.9, 0.99],
        "optimizer.empty": {},
        "optimizer.more.eps": 1e-8,
    }


@given(st.dictionaries(st.text("ab", min_size=1), st.integers()))
def test_what_is_flat_stays_as_it_is(mapping: dict[str, int]) -> None:
    assert flat(mapping) == mapping
    assert flat({"all": mapping}) == ({f"all.{name}": value for name, value in mapping.items()} or {"all": {}})
