"""Filters and sorts: what a person types finds what a person means, whatever the types, and never fails for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replicate_core as replicate
from replicate_core.errors import InvalidInput
from replicate_core.format.records import CheckpointFacts, Created, ExperimentState, GitState, PrimaryMetric, Status
from replicate_core.format.values import Value
from replicate_core.views.query import arrange, look_up, misnamed, parse_filter, parse_order, select

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
MORNING = NOW.replace(hour=10, minute=30, second=15)
LOSS = PrimaryMetric("loss", "minimize")


@dataclass(frozen=True)
class One:
    state: ExperimentState
    status: Status = "finished"

    @property
    def created(self) -> datetime:
        return self.state.created.created


def one(
    *metrics: dict[str, Value],
    params: dict[str, Value] | None = None,
    created: datetime = NOW,
    status: Status = "finished",
    primary: PrimaryMetric | None = LOSS,
    **facts: object,
) -> One:
    made = Created("e" * 32, created, params=params or {}, **facts)  # type: ignore[arg-type]
    checkpoints = tuple(
        CheckpointFacts(f"{step:032x}", created, step, values, primary) for step, values in enumerate(metrics)
    )
    return One(ExperimentState(made, checkpoints), status)


def utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def accepts(text: str, item: One) -> bool:
    return parse_filter(text, now=NOW, local=utc).accepts(item)


# What a name means.


def test_a_metric_is_that_of_the_best_checkpoint() -> None:
    assert look_up(one({"loss": 3}, {"loss": 1}, {"loss": 2}), "loss") == 1


def test_without_a_best_checkpoint_it_is_that_of_the_latest() -> None:
    assert look_up(one({"loss": 3}, {"loss": 2}, primary=None), "loss") == 2


def test_the_step_is_that_of_the_latest_checkpoint() -> None:
    assert look_up(one({"loss": 1}, {"loss": 2}), "step") == 1
    assert look_up(one(), "step") is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("name", "first"),
        ("tag", ("a", "b")),
        ("tags", ("a", "b")),
        ("created", NOW),
        ("started", NOW),
        ("status", "finished"),
        ("checkpoints", 1),
        ("host", "h"),
        ("user", "u"),
        ("command", "python train.py"),
        ("commit", "abc"),
        ("branch", "main"),
    ],
)
def test_every_experiment_has_names_of_its_own(name: str, found: object) -> None:
    git = GitState("abc", "main", None)
    item = one({"loss": 1}, name="first", tags=("a", "b"), host="h", user="u", command="python train.py", git=git)
    assert look_up(item, name) == found


def test_without_git_there_is_no_commit() -> None:
    assert look_up(one(), "commit") is None
    assert look_up(one(), "branch") is None


def test_dots_lead_to_what_is_nested() -> None:
    item = one({"val": {"loss": 0.5}}, params={"model": {"kind": "mlp", "a.b": {"c": 1}}, "x.y": 2, "x": {"y": 3}})
    assert look_up(item, "model.kind") == "mlp"
    assert look_up(item, "model.a.b.c") == 1
    assert look_up(item, "x.y") == 2, "the very name comes first"
    assert look_up(item, "val.loss") == 0.5
    assert look_up(item, "model.size") is None
    assert look_up(item, "model.kind.deeper") is None


def test_an_area_before_the_name_says_which_one_is_meant() -> None:
    item = one({"loss": 1, "step": 7}, params={"loss": "huber", "step": 10, "status": "mine"})
    assert look_up(item, "loss") == 1
    assert look_up(item, "params.loss") == "huber"
    assert look_up(item, "metrics.loss") == 1
    assert look_up(item, "params.step") == 10
    assert look_up(item, "metrics.step") == 7
    assert look_up(item, "params.nothing") is None
    assert look_up(item, "metrics.nothing") is None
    assert look_up(one(), "metrics.loss") is None


def test_params_that_are_called_params_are_found() -> None:
    assert look_up(one(params={"params": {"lr": 1}, "metrics": {"k": 2}}), "params.lr") == 1
    assert look_up(one(params={"metrics": {"k": 2}}), "metrics.k") == 2


# What fulfils a filter.


PARAMS: dict[str, Value] = {
    "lr": 0.1, "layers": 3, "rate": "0.50", "optimizer": "adam", "amp": True, "none": None, "sizes": [1, 2],
    "broken": math.nan, "with": "a=b", "empty": "", "word": "null", "quote": "'", "two words": 7, "huge": 10**400,
}  # fmt: skip
HOLDS = [
    "lr = 0.1", "lr=0.1", "lr == 0.1", "lr < 1", "lr <= 0.1", "lr >= 0.1", "lr = 1e-1", "lr < .5", "lr < inf",
    "lr > -inf", "lr != null", "lr != text", "layers = 3", "layers = 3.0", "layers < 3.5", "rate = 0.5", "rate < 5",
    "rate = '0.50'", "rate = 0.50", "optimizer = adam", "optimizer = 'adam'", 'optimizer = "adam"', "optimizer < b",
    "optimizer != 5", "amp = true", "amp = True", "amp != false", "amp > false", "nothing = null", "nothing = None",
    "nothing != 1", "none = null", "sizes = [1, 2]", "sizes != 3", "broken = nan", "with = a=b",
    "empty = ''", "word = null", "quote = '", "two words = 7", "huge > 1.5", "huge < inf",
]  # fmt: skip
FAILS = [
    "lr != 0.1", "lr > 1", "lr = '0.1'", "lr = text", "lr < text", "lr = null", "layers >= 4", "layers = true",
    "rate > 10", "optimizer = Adam", "optimizer > 5", "optimizer < 5", "optimizer = 5", "optimizer != adam",
    "amp = 1", "amp < 2", "layers > true", "optimizer = true", "nothing != null", "nothing = 1", "nothing < 1",
    "nothing >= 1", "sizes = [1]", "sizes < 3", "broken != nan", "broken < 1", "broken > 1", "broken = 1", "word = '",
]  # fmt: skip


@pytest.mark.parametrize("text", HOLDS)
def test_values_compare_as_people_expect(text: str) -> None:
    assert accepts(text, one(params=PARAMS))


@pytest.mark.parametrize("text", FAILS)
def test_what_does_not_hold_or_can_not_be_compared_is_left_out(text: str) -> None:
    assert not accepts(text, one(params=PARAMS))


TAGGED = [
    "tag = a", "tags = b", "tag != c", "tag != null",
]  # fmt: skip
NOT_TAGGED = [
    "tag = c", "tag != a", "tag < z", "tag = null",
]  # fmt: skip


@pytest.mark.parametrize("text", TAGGED)
def test_a_tag_is_one_of_several(text: str) -> None:
    assert accepts(text, one(tags=("a", "b")))


@pytest.mark.parametrize("text", NOT_TAGGED)
def test_a_tag_that_is_not_there_is_none_of_them(text: str) -> None:
    assert not accepts(text, one(tags=("a", "b")))


def test_no_tags_are_null() -> None:
    assert accepts("tag = null", one())
    assert not accepts("tag = a", one())
    assert accepts("tag != a", one())


THEN = [
    "created > 2 days ago", "created > '90 minutes ago'", "created > 3h", "created < an hour ago",
    "created >= a week ago", "created > 1.5 hours ago", "created != 2 days ago", "created > 1 month ago",
    "created > 2y", "created = today", "created = Today", "created > yesterday", "created < now",
    "created = 2026-11-24", "created >= 2026-11-24", "created <= 2026-11-24", "created > 2026-11-23",
    "created < 2026-11-25", "created = 2026-11", "created = 2026", "created = 2026-11-24 10:30",
    "created = 2026-11-24T10:30:15", "created = 2026-11-24T10:30:15Z", "created = 2026-11-24 10:30+00:00",
    "started > 2026-11-24 12:00+02:00",
]  # fmt: skip
NOT_THEN = [
    "created < 2 days ago", "created > 90 s ago", "created != today", "created < today", "created = yesterday",
    "created = now", "created > 2026-11-24", "created < 2026", "created = 2026-12", "created = 2026-11-24 10:31",
    "created = 2026-11-24T10:30:00",
]  # fmt: skip


@pytest.mark.parametrize("text", THEN)
def test_times_are_as_exact_as_they_are_typed(text: str) -> None:
    assert accepts(text, one(created=MORNING))


@pytest.mark.parametrize("text", NOT_THEN)
def test_other_times_are_left_out(text: str) -> None:
    assert not accepts(text, one(created=MORNING))


def test_a_time_without_a_zone_is_that_of_whoever_typed_it() -> None:
    east = timezone(timedelta(hours=5))
    item = one(created=datetime(2026, 11, 23, 20, 0, tzinfo=timezone.utc))

    def here(moment: datetime) -> datetime:
        return moment.replace(tzinfo=east) if moment.tzinfo is None else moment.astimezone(east)

    assert parse_filter("created = 2026-11-24", now=NOW, local=here).accepts(item), "there it is one in the morning"
    assert parse_filter("created = today", now=NOW, local=here).accepts(item)
    assert accepts("created = 2026-11-23", item)


def test_a_moment_is_equal_to_itself() -> None:
    assert accepts("created = 2 days ago", one(created=NOW - timedelta(days=2)))
    assert accepts("created >= 2 days ago", one(created=NOW - timedelta(days=2)))


@pytest.mark.parametrize("text", ["", "loss", "< 3", "loss 3", "= 3", " = 3", "=", "loss in (1, 2)"])
def test_what_has_not_the_form_of_a_filter_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInput, match="NAME OP VALUE"):
        parse_filter(text, now=NOW)


@pytest.mark.parametrize("op", ["=", "==", "!=", "<", ">=", "  ="])
@pytest.mark.parametrize("name", ["loss", "status", "created", "name"])
def test_a_filter_without_a_value_is_refused_with_how_to_ask_for_nothing(name: str, op: str) -> None:
    with pytest.raises(InvalidInput, match=rf"no value after its .*'{name} {op.strip()} null' with nothing at all"):
        parse_filter(f"{name} {op} ", now=NOW)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("loss => 3", "loss >= 3"),
        ("loss =< 3", "loss <= 3"),
        ("loss <> 3", "loss != 3"),
        ("loss < > 3", "loss != 3"),
        ("loss < = 3", "loss <= 3"),
        ("name === x", "name = x"),
    ],
)
def test_an_operator_of_another_language_is_refused_with_ours(text: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=rf"did you mean '{meant}'\?"):
        parse_filter(text, now=NOW)


def test_an_operator_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="has the unknown operator '~': the operators are = != < <= > >="):
        parse_filter("name ~ sweep", now=NOW)


@pytest.mark.parametrize(
    "text", ["soon", "2026-13", "2026-02-30", "0000", "9999", "999999999 years ago", "3 fortnights ago", "null"]
)
def test_what_is_no_time_is_refused_with_some_that_are(text: str) -> None:
    with pytest.raises(InvalidInput, match="2 days ago"):
        parse_filter(f"created > {text}", now=NOW)


@pytest.mark.parametrize("text", ["lr < 0.3 and epochs = 14", "lr < 0.3, epochs > 14", "name = a && lr != 1"])
def test_two_conditions_are_no_value(text: str) -> None:
    with pytest.raises(InvalidInput, match="more than one condition: give each one as a filter of its own"):
        parse_filter(text, now=NOW)


@pytest.mark.parametrize("text", ["name = salt and pepper", 'name = "a and b = c"', "command = train.py --a and --b=2"])
def test_a_text_may_hold_such_words(text: str) -> None:
    assert parse_filter(text, now=NOW).op == "="


def test_stopped_is_every_status_but_running() -> None:
    for status in get_args(Status):
        item = One(ExperimentState(Created("e", NOW)), status)
        assert parse_filter("status = stopped", now=NOW).accepts(item) == (status != "running")
        assert parse_filter("status != 'stopped'", now=NOW).accepts(item) == (status == "running")


def test_a_status_that_there_is_not_is_told_of() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean running\?"):
        parse_filter("status = runing", now=NOW)
    with pytest.raises(InvalidInput, match="there are running, finished, failed, interrupted, killed, lost"):
        parse_filter("status != 5", now=NOW)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(found=values, typed=st.text() | values.map(str))
def test_no_value_fails_whatever_it_is_compared_with(found: Value, typed: str) -> None:
    item = one(params={"x": found})
    value = f"'{typed}'" if not typed.strip() or any(operator in typed for operator in "<=>!") else typed
    told = {op: parse_filter(f"x {op} {value}", now=NOW).accepts(item) for op in ("=", "!=", "<", "<=", ">", ">=")}
    assert told["="] != told["!="]
    assert not (told["<"] and told[">"])


# Sorting.


@given(st.lists(values, max_size=8), st.booleans())
def test_anything_can_be_sorted_and_nothing_is_lost(found: list[Value], descending: bool) -> None:
    items = [one(params={"x": value}) for value in found]
    arranged = arrange(items, parse_order("x-desc" if descending else "x"))
    assert sorted(map(id, arranged)) == sorted(map(id, items))


def found_in_order(order: str, found: list[Value]) -> list[Value]:
    items = [one(params={} if value is None else {"x": value}) for value in found]
    return [item.state.created.params.get("x") for item in arrange(items, parse_order(order))]


def test_kinds_do_not_mix_and_what_is_unset_comes_last_either_way() -> None:
    found: list[Value] = [None, "b", 2, [1], True, 1.5, "A", 10]
    assert found_in_order("x", found) == [1.5, 2, 10, True, "A", "b", [1], None]
    assert found_in_order("x-asc", found) == found_in_order("x", found)
    assert found_in_order("x-desc", found) == [[1], "b", "A", True, 10, 2, 1.5, None]


def test_nan_is_neither_large_nor_small() -> None:
    assert found_in_order("x", [math.nan, 1, math.inf])[:2] == [1, math.inf]
    assert found_in_order("x-desc", [math.nan, 1, math.inf])[:2] == [math.inf, 1]


def test_equals_stay_in_the_order_they_came() -> None:
    items = [one(name=name, params={"x": 1}) for name in "abc"]
    for order in ("x", "x-desc"):
        assert "".join(item.state.created.name or "" for item in arrange(items, parse_order(order))) == "abc"


def test_times_and_tags_can_be_sorted_by() -> None:
    items = [one(created=NOW + timedelta(hours=hours), tags=("t",) * hours) for hours in (2, 0, 1)]
    assert [item.state.created.created.hour for item in arrange(items, parse_order("created-desc"))] == [14, 13, 12]
    assert [len(item.state.created.tags) for item in arrange(items, parse_order("tag"))] == [1, 2, 0]


def test_a_name_may_end_in_a_dash_and_a_word() -> None:
    assert parse_order("a-b").name == "a-b"
    assert parse_order("a-b-desc").name == "a-b"
    assert parse_order("-desc").name == "-desc"
    with pytest.raises(InvalidInput, match="needs the name"):
        parse_order(" ")


# Both together.


def test_select_keeps_what_fulfils_every_filter_in_the_order_wished_for() -> None:
    items = [one({"loss": loss}, params={"lr": lr}) for loss, lr in ((3, 0.1), (1, 0.1), (2, 0.2))]
    assert select(items, now=NOW) == items
    assert select(items, ["lr = 0.1"], "loss", now=NOW) == [items[1], items[0]]
    assert select(items, ["lr = 0.1", "loss > 1"], now=NOW) == [items[0]]


def test_a_name_that_nothing_has_is_told_with_names_like_it() -> None:
    items = [one({"loss": 1}, params={"model": {"kind": "mlp"}}), one(params={"learning_rate": 1})]
    filters = ["learning_rte = 1", "loss < 1", "model.kind = mlp", "tags = a", "zzz = 1"]
    assert misnamed(items, filters, None, now=NOW) == [
        "no experiment has 'learning_rte': did you mean 'learning_rate'?",
        "no experiment has 'zzz'",
    ]
    assert misnamed(items, [], "loss", now=NOW) == []
    assert misnamed(items, ["staus = x"], "model.kin-desc", now=NOW) == [
        "no experiment has 'staus': did you mean 'status'?",
        "no experiment has 'model.kin': did you mean 'model.kind'?",
    ]


def test_python_takes_the_same_filters(project, no_recorder) -> None:
    for loss in (3.0, 1.0, 2.0):
        with replicate.init({"lr": loss / 10}, path=None) as experiment:
            experiment.checkpoint(None, {"loss": loss}, ("loss", "minimize"))
    listing = replicate.experiments.list
    assert [item.best().metrics["loss"] for item in listing("metrics.loss < 2.5")] == [1.0, 2.0]
    assert [item.best().metrics["loss"] for item in listing(["loss > 1", "lr < 0.3"])] == [2.0]
    assert [item.best().metrics["loss"] for item in listing(sort="loss-desc")] == [3.0, 2.0, 1.0]
    assert len(listing(lambda item: item.params["lr"] > 0.15, sort="loss")) == 2
    with pytest.warns(UserWarning, match="no experiment has 'los': did you mean 'loss'"):
        assert len(listing(sort="los")) == 3
    with pytest.warns(UserWarning, match="no experiment has 'rl'"):
        assert len(listing("rl > 0")) == 0
    with pytest.raises(InvalidInput):
        listing("loss")
