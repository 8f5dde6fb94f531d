"""Which checkpoint of an experiment is the best, and which the latest."""

from __future__ import annotations

import collections
import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import GOALS, checkpoint, rated

from replicate_core.errors import InvalidInput
from replicate_core.format.records import (
    Keep,
    PrimaryMetric,
    best,
    best_or_latest,
    latest,
    metrics_of,
    nearest_with_files,
    primary_metric_of,
    superseded,
)

# The best checkpoint.


def test_the_goal_says_which_way_is_better():
    assert best([rated("a", 2), rated("b", 1), rated("c", 3)]).id == "b"
    assert best([rated("a", 2, "maximize"), rated("b", 1, "maximize"), rated("c", 3, "maximize")]).id == "c"


def test_of_equals_the_first_is_the_best():
    assert best([rated("a", 1), rated("b", 1.0)]).id == "a"


def test_of_equals_one_with_files_is_the_best():
    with_files = [dataclasses.replace(rated(name, 1), path="model.pt", manifest=f"m{name}") for name in ("b", "c")]
    assert best([rated("a", 1), *with_files]).id == best([rated("a", 1), *with_files], with_files=False).id == "b"


class TestWithFiles:
    """Where any checkpoint has files, best and latest are among those that have."""

    ITEMS = (
        rated("a", 5),
        dataclasses.replace(rated("b", 4), manifest="m"),
        rated("c", 1),
        dataclasses.replace(rated("d", 3), is_waiting=True),
        rated("e", 2),
    )

    def test_the_best_is_among_those_that_have_them(self):
        assert best(self.ITEMS).id == best_or_latest(self.ITEMS).id == "d"
        assert best(self.ITEMS, with_files=False).id == "c"

    def test_so_is_the_latest(self):
        assert latest(self.ITEMS).id == "d"
        assert latest(self.ITEMS, with_files=False).id == "e"

    def test_where_none_has_any_all_count(self):
        items = [dataclasses.replace(item, manifest=None, is_waiting=False) for item in self.ITEMS]
        assert (best(items).id, latest(items).id, best_or_latest(items).id) == ("c", "e", "c")

    def test_what_was_let_go_does_not_count(self):
        gone = dataclasses.replace(rated("z", 0), path="m", is_released=True)
        assert best([*self.ITEMS, gone]).id == latest([*self.ITEMS, gone]).id == "d"

    def test_where_none_of_them_can_be_compared_the_latest_of_them_is_meant(self):
        items = [rated("a", 1), dataclasses.replace(checkpoint("b", accuracy=1), manifest="m"), rated("c", 2)]
        assert best(items) is None
        assert best_or_latest(items).id == "b"
        assert best(items, with_files=False).id == "a"

    def test_they_are_compared_by_what_they_name_themselves(self):
        accuracy = PrimaryMetric("accuracy", "maximize")
        files = [dataclasses.replace(rated(name, loss), manifest=name) for name, loss in (("a", 1), ("b", 2))]
        items = [*files, dataclasses.replace(checkpoint("c", accuracy=1), primary_metric=accuracy)]
        assert best(items).id == "a"
        assert best(items[2:]).id == "c"

    def test_a_metric_that_they_lack_is_that_of_the_others(self):
        items = [*self.ITEMS, checkpoint("f", test_loss=7)]
        assert [dict(metrics) for metrics in metrics_of(items)] == [{"loss": 3}, {"loss": 1}]
        unrated = [dataclasses.replace(checkpoint("a", loss=1), manifest="m"), checkpoint("b", test_loss=7)]
        assert [dict(metrics) for metrics in metrics_of(unrated)] == [{"loss": 1}, {"test_loss": 7}]
        assert list(metrics_of([])) == []

    def test_the_nearest_are_the_last_one_before_and_the_first_one_after(self):
        assert [item.id for item in nearest_with_files(self.ITEMS, "c")] == ["b", "d"]
        assert [item.id for item in nearest_with_files(self.ITEMS, "a")] == ["b"]
        assert [item.id for item in nearest_with_files(self.ITEMS, "e")] == ["d"]
        assert [item.id for item in nearest_with_files(self.ITEMS, "gone")] == ["d"]
        assert nearest_with_files(self.ITEMS[:1], "a") == []

    @given(
        st.lists(st.tuples(st.integers(0, 9) | st.none(), st.booleans()), max_size=9),
        st.integers(1, 3),
        st.integers(1, 3),
    )
    def test_what_keep_keeps_and_what_best_and_latest_say_agree(self, made, keep_best, keep_last):
        items = [
            dataclasses.replace(rated(str(number), loss), manifest="m" if files else None)
            for number, (loss, files) in enumerate(made)
        ]
        gone = superseded(items, Keep(keep_best, keep_last))
        left = [dataclasses.replace(item, manifest=None, is_released=True) if item in gone else item for item in items]
        for which in (best, latest, best_or_latest):
            before, after = which(items), which(left)
            assert (before and before.id) == (after and after.id)
            assert before not in gone


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("loss", [math.nan, None, True, "0", [0]])
def test_a_checkpoint_with_nothing_to_compare_is_never_the_best(loss, goal):
    assert best([rated("a", loss, goal), rated("b", 7, goal)]).id == "b"
    assert best([rated("a", loss, goal)]) is None


def test_a_checkpoint_without_the_primary_metric_is_never_the_best():
    assert best([checkpoint("a", accuracy=1), rated("b", 7)]).id == "b"
    assert rated("b", 7).value_of_primary(PrimaryMetric("accuracy", "maximize")) is None


@pytest.mark.parametrize(("goal", "wanted"), [("minimize", "b"), ("maximize", "a")])
def test_infinities_compare_as_numbers_do(goal, wanted):
    assert best([rated("a", math.inf, goal), rated("b", -math.inf, goal), rated("c", 0, goal)]).id == wanted


@pytest.mark.parametrize(("goal", "wanted"), [("minimize", "b"), ("maximize", "a")])
def test_numbers_beyond_the_largest_float_compare_too(goal, wanted):
    assert best([rated("a", 10**400, goal), rated("b", 1, goal)]).id == wanted


def test_nothing_is_the_best_without_a_primary_metric():
    assert best([]) is None
    assert best([checkpoint("a", loss=1)]) is None


def test_the_latest_primary_metric_counts():
    one, other = PrimaryMetric("loss", "minimize"), PrimaryMetric("accuracy", "maximize")
    items = [dataclasses.replace(checkpoint("a"), primary_metric=metric) for metric in (one, other, None)]
    assert primary_metric_of(items) == other
    assert primary_metric_of(items[:1]) == one
    assert primary_metric_of(items[2:]) is None


@given(st.lists(st.floats() | st.integers(-3, 3), max_size=6), st.sampled_from(GOALS))
def test_no_checkpoint_is_better_than_the_best(losses, goal):
    items = [rated(str(number), loss, goal) for number, loss in enumerate(losses)]
    found = best(items)
    numbers = [loss for loss in losses if not math.isnan(loss)]
    if found is None:
        assert not numbers
    else:
        wanted = (min if goal == "minimize" else max)(numbers)
        assert found is next(item for item in items if item.metrics["loss"] == wanted)


# A primary metric as users give it.


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("pair", [tuple, list])
def test_a_primary_metric_is_a_name_and_a_goal(pair, goal):
    for said in (goal, goal.upper(), goal.capitalize()):
        assert PrimaryMetric.parse(pair(["loss", said])) == PrimaryMetric("loss", goal)


def test_there_need_not_be_a_primary_metric():
    assert PrimaryMetric.parse(None) is None


@pytest.mark.parametrize(
    "value",
    [
        "loss",
        7,
        {},
        {"loss": "minimize"},
        (),
        ("loss",),
        ("loss", "min"),
        ("loss", None),
        ("loss", []),
        ("loss", "minimize", "maximize"),
        ("", "minimize"),
        (7, "minimize"),
    ],
)
def test_a_primary_metric_of_another_shape_is_refused(value):
    with pytest.raises(InvalidInput, match='must be a pair \\(name, "minimize" or "maximize"\\)'):
        PrimaryMetric.parse(value)


def test_any_sequence_of_two_is_a_primary_metric():
    assert PrimaryMetric.parse(collections.UserList(["loss", "Minimize"])) == PrimaryMetric("loss", "minimize")


@pytest.mark.parametrize("pair", ["ab", b"ab", ["loss"], {"loss": "minimize"}, {"loss", "minimize"}])
def test_what_is_no_sequence_of_two_is_no_primary_metric(pair):
    with pytest.raises(InvalidInput, match="primary_metric must be a pair"):
        PrimaryMetric.parse(pair)
