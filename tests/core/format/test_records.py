"""What an experiment is, by its records: in whatever order and however often they arrive."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import MOMENT, TEXTS, TUPLES, checkpoint, made, resumed, shown

from replicate_core.format.records import (
    Checkpointed,
    Created,
    Deleted,
    Edited,
    Ended,
    Ending,
    ExperimentState,
    Record,
    Released,
    Repacked,
    Restored,
    code_problem,
    fold,
)

# Folding: one experiment.


def test_an_experiment_is_what_its_record_says():
    created = Created("e", MOMENT, name="baseline", params={"lr": 0.1})
    assert fold([created]) == {"e": ExperimentState(created)}


def test_checkpoints_stand_in_the_order_they_were_made():
    assert shown(made("b", "a"), made("c")) == "bac"


def test_the_end_is_known_until_the_experiment_goes_on():
    ended = Ended("e", MOMENT, "killed")
    history = [Created("e", MOMENT), made("a"), ended]
    assert fold(history)["e"].ended == ended
    assert fold([*history, Edited("e", name="new")])["e"].ended == ended
    assert fold([*history, resumed("a")])["e"].ended is None
    assert fold([*history, made("b")])["e"].ended is None


def test_resuming_sets_aside_what_came_after():
    assert shown(made("a", "b"), made("c"), resumed("a")) == "a"
    assert shown(made("a", "b"), resumed("a"), made("c", session="s")) == "ac"
    assert shown(made("a", "b"), resumed("b")) == "ab"


@pytest.mark.parametrize("checkpoint", [None, "unknown"])
def test_resuming_from_the_very_beginning_sets_everything_aside(checkpoint):
    assert shown(made("a", "b"), resumed(checkpoint), made("c", session="s")) == "c"


def test_an_experiment_knows_what_it_last_went_on_from():
    history = [Created("e", MOMENT), made("a", "b")]
    assert fold(history)["e"].resumed_from is None
    history[0] = Created("e", MOMENT, resumed_from="of another experiment")
    assert fold(history)["e"].resumed_from == "of another experiment"
    history += [resumed("b", session="s"), resumed("a", session="t", previous="s")]
    assert fold(history)["e"].resumed_from == "a"


def test_what_was_set_aside_stays_so_when_its_record_arrives_again():
    assert shown(made("a", "b"), resumed("a"), made("a", "b"), made("c", session="s")) == "ac"


def test_what_was_first_recorded_of_a_checkpoint_stands():
    first, again = checkpoint("a", loss=1), checkpoint("a", loss=2)
    folded = fold([Created("e", MOMENT), Checkpointed("e", (first,)), Checkpointed("e", (again,))])
    assert folded["e"].checkpoints == (first,)


def test_edits_change_what_they_name_and_keep_the_rest():
    created = Created("e", MOMENT, name="old", tags=("t",), notes="old", params={"lr": 0.1})
    assert fold([created, Edited("e", name="new")])["e"].created == dataclasses.replace(created, name="new")
    edits = [Edited("e", tags=()), Edited("e", notes="x"), Edited("e", notes="y")]
    assert fold([created, *edits])["e"].created == dataclasses.replace(created, tags=(), notes="y")
    assert fold([created, Edited("e")])["e"].created == created


def test_deleted_checkpoints_are_not_shown():
    assert shown(made("a", "b", "c"), Deleted("e", ("b",))) == "ac"
    assert shown(made("a"), Deleted("e", ())) == "a"
    assert shown(made("a"), Deleted("e", ("a",)), made("a")) == ""


# Folding: manifests that were replaced.


def named(state: ExperimentState) -> tuple[str | None, ...]:
    return (state.created.manifest, *(item.manifest for item in state.checkpoints))


def manifests(*records: Record) -> tuple[str | None, ...]:
    """The manifests of an experiment that began with the code `m`, and with the checkpoints `ma` and `mb`."""
    items = tuple(dataclasses.replace(checkpoint(name), manifest=f"m{name}") for name in "ab")
    return named(fold([Created("e", MOMENT, manifest="m"), Checkpointed("e", items), *records])["e"])


def test_a_manifest_that_was_replaced_is_never_named_again():
    assert manifests(Repacked("e", {"ma": "new"})) == ("m", "new", "mb")
    assert manifests(Repacked("e", {"m": "code", "mb": "new"})) == ("code", "ma", "new")
    assert manifests(Repacked("e", {"other": "new"})) == ("m", "ma", "mb")
    assert manifests(Repacked("e", {})) == ("m", "ma", "mb")


def test_a_manifest_may_be_replaced_several_times():
    assert manifests(Repacked("e", {"ma": "x"}), Repacked("e", {"x": "y"}), Repacked("e", {"y": "z"})) == (
        "m",
        "z",
        "mb",
    )
    assert manifests(Repacked("e", {"ma": "x"}), Repacked("e", {"ma": "y"})) == ("m", "y", "mb")


def test_several_manifests_may_be_replaced_by_one():
    assert manifests(Repacked("e", {"m": "x", "ma": "x", "mb": "x"})) == ("x", "x", "x")


def test_manifests_of_other_experiments_are_not_replaced():
    histories = [Created("e", MOMENT, manifest="m"), Created("f", MOMENT, manifest="m"), Repacked("f", {"m": "new"})]
    assert {name: named(state) for name, state in fold(histories).items()} == {"e": ("m",), "f": ("new",)}


def test_what_has_no_files_has_none_afterwards():
    folded = fold([Created("e", MOMENT), made("a"), Repacked("e", {"m": "new"})])
    assert named(folded["e"]) == (None, None)


# Folding: files that came after an import.


def test_files_that_were_missing_are_there_once_they_were_restored():
    before = dataclasses.replace(checkpoint("a"), path="a", lacks="damaged")
    code = Created("e", MOMENT, path=".", lacks="damaged")
    folded = fold([code, Checkpointed("e", (before,)), Restored("e", None, "m", 3, 2), Restored("e", "a", "ma", 7, 5)])
    assert folded["e"].created == dataclasses.replace(code, manifest="m", size_bytes=3, stored_bytes=2, lacks=None)
    (after,) = folded["e"].checkpoints
    assert after == dataclasses.replace(before, manifest="ma", size_bytes=7, stored_bytes=5, lacks=None)
    assert code_problem(folded["e"].created) is None
    assert code_problem(code) == "the files of the code of the experiment e are missing: damaged"
    assert "are missing: they could not be saved" in str(code_problem(dataclasses.replace(code, lacks=None)))


def test_only_what_was_missing_is_restored():
    assert manifests(Restored("e", None, "x"), Restored("e", "a", "x"), Restored("e", "c", "x")) == ("m", "ma", "mb")


def test_what_was_let_go_stays_so_though_it_was_restored():
    history = [Created("e", MOMENT), made("a"), Restored("e", "a", "ma"), Released("e", ("a",))]
    for records in (history, [*history[:2], history[3], history[2]]):
        (item,) = fold(records)["e"].checkpoints
        assert (item.manifest, item.is_released) == (None, True)


def test_what_was_restored_may_be_replaced():
    folded = fold([Created("e", MOMENT), made("a"), Restored("e", "a", "ma"), Repacked("e", {"ma": "new"})])
    assert named(folded["e"]) == (None, "new")


def test_replacing_says_nothing_else_of_an_experiment():
    ended = Ended("e", MOMENT, "finished")
    history = [Created("e", MOMENT, name="n", manifest="m"), made("a", "b"), Deleted("e", ("b",)), ended]
    folded = fold([*history, Repacked("e", {"m": "new"})])["e"]
    assert folded.ended == ended
    assert folded.created == dataclasses.replace(history[0], manifest="new")
    assert [item.id for item in folded.checkpoints] == ["a"]


def test_a_manifest_that_was_replaced_before_it_was_recorded_is_replaced_all_the_same():
    item = dataclasses.replace(checkpoint("a"), manifest="ma")
    folded = fold([Created("e", MOMENT), Repacked("e", {"ma": "new"}), Checkpointed("e", (item,))])
    assert named(folded["e"]) == (None, "new")


@given(st.lists(st.dictionaries(st.sampled_from(["m", "ma", "mb", "x"]), st.sampled_from(["m", "ma", "mb", "x"]))))
def test_manifests_that_replace_each_other_in_a_circle_end_somewhere(replaced):
    assert set(manifests(*(Repacked("e", item) for item in replaced))) <= {"m", "ma", "mb", "x"}


# Folding: code.


def codes(*records: Record) -> tuple[str | None, dict[str, str | None]]:
    """The code that an experiment last went on with, and that of each checkpoint; it began with the code `m`."""
    state = fold([Created("e", MOMENT, manifest="m"), *records])["e"]
    return state.code, {item.id: item.code for item in state.checkpoints}


CODES = [
    made("a"),
    resumed("a", "n", session="s"),
    made("b", session="s"),
    resumed("b", "o", session="t", previous="s"),
    made("c", session="t"),
]
"""An experiment that went on twice, with other code each time."""


def test_a_checkpoint_has_the_code_of_its_session():
    assert codes(*CODES[:1]) == (None, {"a": None})
    assert codes(*CODES[:3]) == ("n", {"a": None, "b": "n"})
    assert codes(*CODES) == ("o", {"a": None, "b": "n", "c": "o"})


def test_a_resumption_without_code_goes_on_with_the_code_before():
    assert codes(made("a"), resumed("a"), made("b", session="s")) == (None, {"a": None, "b": None})
    again = resumed("a", session="t", previous="s")
    assert codes(made("a"), resumed("a", "n"), again, made("b", session="t")) == ("n", {"a": None, "b": "n"})


def test_a_checkpoint_that_is_recorded_again_keeps_the_code_that_made_it():
    assert codes(*CODES, made("a"), made("b", session="s")) == ("o", {"a": None, "b": "n", "c": "o"})


def test_code_that_was_repacked_is_never_named_again():
    assert codes(*CODES, Repacked("e", {"n": "x"})) == ("o", {"a": None, "b": "x", "c": "o"})
    assert codes(*CODES, Repacked("e", {"o": "x"}), Repacked("e", {"x": "y"})) == (
        "y",
        {"a": None, "b": "n", "c": "y"},
    )
    assert codes(Repacked("e", {"n": "x"}), *CODES)[1]["b"] == "x", "before it was recorded"
    assert codes(*CODES, Repacked("f", {"n": "x"}))[1]["b"] == "n", "of another experiment"


# Folding: sessions, which follow one another as their ids say.


def test_what_a_session_recorded_after_the_next_one_began_is_set_aside():
    history = [made("a"), resumed("a")]
    assert shown(*history, made("x", "y")) == "a"
    assert shown(*history, made("b", session="s"), made("x"), made("c", session="s")) == "abc"
    assert shown(*history, made("x"), resumed("a", session="t", previous="s"), made("b", session="t")) == "ab"
    assert shown(resumed(None), made("x"), made("a", session="s")) == "a"


def test_what_is_kept_stays_though_it_is_recorded_again_after_the_resumption():
    history = [made("a", "b"), resumed("b")]
    assert shown(*history, made("a"), made("c", session="s"), made("b")) == "abc"
    assert shown(made("a", "b"), resumed("a"), made("b"), made("c", session="s")) == "ac"


def test_clocks_that_go_back_change_nothing():
    earlier = MOMENT - timedelta(days=400)
    later = dataclasses.replace(resumed("a"), created=earlier)
    new = Checkpointed("e", (dataclasses.replace(checkpoint("b"), created=earlier),), "s")
    end = Ended("e", earlier, "finished", session="s")
    assert shown(made("a", "x"), later, new) == "ab"
    assert fold([Created("e", MOMENT), made("a", "x"), Ended("e", MOMENT, "killed"), later, new, end])["e"].ended == end


def test_the_end_of_an_old_session_is_not_that_of_the_new_one():
    killed, finished = Ended("e", MOMENT, "killed"), Ended("e", MOMENT, "finished", session="s")
    history = [Created("e", MOMENT), made("a"), resumed("a")]
    assert fold([*history, killed])["e"].ended is None
    assert fold([*history, finished, killed])["e"].ended == finished
    assert fold([*history, killed, finished])["e"].ended == finished
    assert fold([*history, made("b", session="s"), killed])["e"].ended is None
    assert fold([*history, finished, resumed("a", session="t", previous="s")])["e"].ended is None


def test_the_end_stays_known_when_late_checkpoints_are_set_aside():
    finished = Ended("e", MOMENT, "finished", session="s")
    history = [Created("e", MOMENT), made("a"), resumed("a"), finished]
    assert fold([*history, made("x")])["e"].ended == finished
    assert fold([*history, made("x"), Ended("e", MOMENT, "killed")])["e"].ended == finished


def test_of_two_sessions_after_the_same_one_that_counts_which_made_checkpoints():
    one, other = resumed("a", "one", session="s"), resumed("a", "other", session="t")
    assert codes(made("a"), one, other, made("b", session="s")) == ("one", {"a": None, "b": "one"})
    assert codes(made("a"), one, other, made("b", session="t")) == ("other", {"a": None, "b": "other"})
    assert codes(made("a"), one, other) == ("one", {"a": None}), "the first"
    assert codes(made("a"), one, other, Ended("e", MOMENT, "interrupted", session="s"))[0] == "other", "it gave up"
    assert fold([Created("e", MOMENT), one, other, made("b", session="s")])["e"].session == "s"
    follower, rival = (resumed("a", session=name, previous="s") for name in "uv")
    assert codes(made("a"), one, made("b", session="s"), follower, rival, made("c", session="u"))[0] == "one"
    assert shown(made("a"), one, follower, rival, made("c", session="u")) == "ac"


def test_the_time_that_training_was_held_up_is_the_sum_over_the_sessions_that_count():
    def ended(session: str | None, seconds: float) -> Ended:
        return Ended("e", MOMENT, "killed", blocked_seconds=seconds, session=session)

    first = [Created("e", MOMENT), made("a"), ended(None, 1.0)]
    second = [resumed("a", session="s"), made("b", session="s"), ended("s", 2.0)]
    rival = [resumed("a", session="t"), ended("t", 16.0)]
    third = [resumed("b", session="u", previous="s"), ended("u", 4.0)]
    added = [dataclasses.replace(resumed("b", session="v", previous="u"), adds=True), ended("v", 8.0)]
    assert fold(first)["e"].blocked_seconds == 1.0
    assert fold([*first, *second, *rival])["e"].blocked_seconds == 3.0
    assert fold([*first, *second, *rival, *third, *added])["e"].blocked_seconds == 7.0


def test_a_session_that_was_gone_on_after_counts_whatever_its_rivals_made():
    chain = [resumed(None, session="s"), resumed("a", session="u", previous="s")]
    rival = [resumed(None, session="t"), made("x", session="t")]
    assert shown(made("a", session="s"), *chain, *rival, made("b", session="u")) == "ab"
    assert shown(made("a", session="s"), *chain, rival[0]) == "a", "before it has made any itself"
    assert fold([Created("e", MOMENT), *chain, rival[0]])["e"].session == "u"


def test_sessions_that_go_in_circles_are_read_nevertheless():
    circle = [resumed("a", session="s", previous="t"), resumed("a", session="t", previous="s")]
    assert shown(made("a"), *circle) == "a"
    assert shown(made("a"), *circle, resumed("a", session="u", previous="s"), made("b", session="u")) == "ab"


def test_a_session_whose_previous_one_is_not_known_begins_from_nothing():
    assert shown(made("a"), resumed("a", session="t", previous="lost"), made("b", session="t")) == "ab"


# Folding: any history.


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], list[str]]:
    """What one experiment wrote, and the checkpoints that should be left of it."""
    records: list[Record] = [Created("e", MOMENT)]
    left: list[str] = []
    session: str | None = None
    for number in range(draw(st.integers(0, 8))):
        match draw(st.sampled_from(["checkpoint", "checkpoint", "resume", "delete", "edit", "end", "repack"])):
            case "checkpoint":
                fresh = [f"{number}.{index}" for index in range(draw(st.integers(0, 3)))]
                records.append(made(*fresh, session=session))
                left += fresh
            case "resume":
                back_to = draw(st.sampled_from([None, *left]))
                records.append(resumed(back_to, session=f"s{number}", previous=session))
                session = f"s{number}"
                left = [] if back_to is None else left[: left.index(back_to) + 1]
            case "delete":
                some = draw(st.lists(st.sampled_from(left), unique=True)) if left else []
                records.append(Deleted("e", tuple(some)))
                left = [identifier for identifier in left if identifier not in some]
            case "edit":
                records.append(Edited("e", draw(st.none() | TEXTS), draw(st.none() | TUPLES), draw(st.none() | TEXTS)))
            case "end":
                records.append(Ended("e", MOMENT, draw(st.sampled_from(get_args(Ending))), session=session))
            case "repack":
                records.append(Repacked("e", draw(st.dictionaries(TEXTS, TEXTS, max_size=3))))
    return records, left


@given(histories())
def test_what_is_left_is_what_was_made_less_what_was_set_aside_or_deleted(history):
    records, left = history
    assert [item.id for item in fold(records)["e"].checkpoints] == left


@given(histories(), st.data())
def test_a_record_that_is_delivered_twice_counts_once(history, data):
    records, _ = history
    twice = [record for record in records for _ in range(data.draw(st.integers(1, 2)))]
    assert fold(twice) == fold(records)


@given(histories(), st.data())
def test_checkpoints_that_are_delivered_again_much_later_count_once(history, data):
    records, left = history
    late = data.draw(
        st.lists(st.sampled_from([item for item in records if isinstance(item, Checkpointed)] or [made()]))
    )
    assert [item.id for item in fold([*records, *late])["e"].checkpoints] == left


@given(histories(), st.data())
def test_a_deleted_experiment_is_never_shown_again(history, data):
    records, _ = history
    place = data.draw(st.integers(0, len(records)))
    assert fold([*records[:place], Deleted("e"), *records[place:]]) == {}


@given(histories())
def test_an_experiment_whose_beginning_is_missing_is_passed_over(history):
    records, _ = history
    assert fold(records[1:]) == {}


@given(histories(), histories(), st.randoms(use_true_random=False))
def test_experiments_do_not_see_each_other(one, other, random):
    ones, others = one[0], [dataclasses.replace(record, experiment="f") for record in other[0]]
    queues, mixed = [ones[::-1], others[::-1]], []
    while any(queues):
        mixed.append(random.choice([queue for queue in queues if queue]).pop())
    assert fold(mixed) == fold(ones) | fold(others)


@st.composite
def relays(draw: st.DrawFn) -> tuple[list[list[Record]], list[str], Ended | None]:
    """What several sessions wrote, each going on from where it saw the one before; what should be left, and the end.

    The clock of each is wrong in its own way.
    """
    queues: list[list[Record]] = []
    left: list[str] = []
    ended: Ended | None = None
    session: str | None = None
    for number in range(draw(st.integers(1, 4))):
        moment = MOMENT + timedelta(minutes=draw(st.integers(-60, 60)))
        queue: list[Record] = []
        if number:
            back_to = draw(st.sampled_from([None, *left]))
            following = f"s{number}"
            queue.append(dataclasses.replace(resumed(back_to, f"m{number}"), session=following, previous=session))
            left = [] if back_to is None else left[: left.index(back_to) + 1]
            session, ended = following, None
        for index in range(draw(st.integers(0, 4))):
            fresh = [f"{number}.{index}.{part}" for part in range(draw(st.integers(1, 2)))]
            items = (dataclasses.replace(checkpoint(name), created=moment) for name in fresh)
            queue.append(Checkpointed("e", tuple(items), session))
            left += fresh
        if draw(st.booleans()):
            ended = Ended("e", moment, draw(st.sampled_from(get_args(Ending))), session=session)
            queue.append(ended)
        queues.append(queue)
    return queues, left, ended


@settings(max_examples=300)
@given(relays(), st.randoms(use_true_random=False))
def test_in_whatever_order_sessions_are_stored_they_say_the_same(relay, random):
    queues, left, ended = relay
    waiting = [list(reversed(queue)) for queue in queues if queue]
    log: list[Record] = [Created("e", MOMENT)]
    while waiting:
        queue = random.choice(waiting)
        log.append(queue.pop())
        waiting = [queue for queue in waiting if queue]
    state = fold(log)["e"]
    assert [item.id for item in state.checkpoints] == left
    assert state.ended == ended
    assert all(item.code == (f"m{item.id[0]}" if item.id[0] != "0" else None) for item in state.checkpoints)
