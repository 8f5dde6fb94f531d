from __future__ import annotations

import collections
import dataclasses
import math
from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.format.keys import RecordName, record_key
from replicate_core.format.record_codec import KINDS, decode, encode, kind, parse_time, read, time_text
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Deleted,
    Edited,
    Ended,
    Ending,
    ExperimentState,
    GitState,
    Keep,
    PrimaryMetric,
    Record,
    Released,
    Repacked,
    Restored,
    Resumed,
    best,
    best_or_latest,
    code_problem,
    fold,
    latest,
    metrics_of,
    nearest_with_files,
    primary_metric_of,
    superseded,
)
from replicate_core.format.sealed import seal, seal_under, unseal

KEY = "records/20261123/01J-e-created.json"
MOMENT = datetime(2026, 11, 23, 6, 28, tzinfo=timezone.utc)
GOALS = ("minimize", "maximize")

E = "e" * 32
"""The id of an experiment."""

TEXTS = st.text(max_size=6)
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
MANIFESTS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26).map("manifests/{}.json".format)
COUNTS = st.integers(0, 1 << 53)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9000, 12, 31), timezones=st.just(timezone.utc))  # noqa: DTZ001  # as hypothesis wants it
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
MAPPINGS = st.dictionaries(TEXTS, VALUES, max_size=3)
TUPLES = st.lists(TEXTS, max_size=3).map(tuple)
CHECKPOINTS = st.builds(
    CheckpointFacts,
    id=IDS,
    created=MOMENTS,
    step=st.integers(),
    metrics=MAPPINGS,
    primary_metric=st.none() | st.builds(PrimaryMetric, st.text(min_size=1, max_size=6), st.sampled_from(GOALS)),
    path=st.none() | TEXTS,
    extra=MAPPINGS,
    manifest=st.none() | MANIFESTS,
    size_bytes=COUNTS,
    stored_bytes=COUNTS,
    keep=st.none() | st.builds(Keep, COUNTS, COUNTS),
    lacks=st.none() | TEXTS,
)
RECORDS: dict[type[Record], st.SearchStrategy[Record]] = {
    Created: st.builds(
        Created,
        experiment=IDS,
        created=MOMENTS,
        name=st.none() | TEXTS,
        tags=TUPLES,
        notes=st.none() | TEXTS,
        params=MAPPINGS,
        user=st.none() | TEXTS,
        host=st.none() | TEXTS,
        command=st.none() | TEXTS,
        config=MAPPINGS,
        path=st.none() | TEXTS,
        python_version=st.none() | TEXTS,
        packages=st.dictionaries(TEXTS, TEXTS, max_size=3),
        system=MAPPINGS,
        git=st.none() | st.builds(GitState, TEXTS, st.none() | TEXTS, st.none() | st.booleans()),
        replicate_version=st.none() | TEXTS,
        format=COUNTS,
        resumed_from=st.none() | TEXTS,
        manifest=st.none() | MANIFESTS,
        size_bytes=COUNTS,
        stored_bytes=COUNTS,
        lacks=st.none() | TEXTS,
    ),
    Checkpointed: st.builds(Checkpointed, IDS, st.lists(CHECKPOINTS, max_size=3).map(tuple), st.none() | IDS),
    Edited: st.builds(Edited, IDS, st.none() | TEXTS, st.none() | TUPLES, st.none() | TEXTS),
    Resumed: st.builds(
        Resumed,
        IDS,
        MOMENTS,
        IDS,
        st.none() | IDS,
        st.none() | TEXTS,
        path=st.none() | TEXTS,
        manifest=st.none() | MANIFESTS,
        size_bytes=COUNTS,
        stored_bytes=COUNTS,
    ),
    Ended: st.builds(
        Ended,
        IDS,
        MOMENTS,
        st.sampled_from(get_args(Ending)),
        st.none() | TEXTS,
        st.floats(min_value=0, allow_infinity=False),
        st.none() | IDS,
    ),
    Deleted: st.builds(Deleted, IDS, st.none() | TUPLES),
    Released: st.builds(Released, IDS, TUPLES),
    Repacked: st.builds(Repacked, IDS, st.dictionaries(MANIFESTS, MANIFESTS, max_size=3)),
    Restored: st.builds(Restored, IDS, st.none() | IDS, MANIFESTS, COUNTS, COUNTS),
}
SAMPLES: dict[str, Record] = {
    "created": Created(E, MOMENT, git=GitState("abc", "main", dirty=True), packages={"numpy": "2.0"}),
    "checkpoints": Checkpointed(
        E, (CheckpointFacts("c" * 32, MOMENT, 1, {"loss": 0.5}, PrimaryMetric("loss", "minimize")),)
    ),
    "edited": Edited(E, "name", ("tag",), "notes"),
    "resumed": Resumed(E, MOMENT, "5" * 32, None, "c", ".", f"manifests/{'1' * 26}.json", 7, 5),
    "ended": Ended(E, MOMENT, "failed", "ValueError: no", 1.5),
    "deleted": Deleted(E, ("c",)),
    "released": Released(E, ("c",)),
    "repacked": Repacked(E, {f"manifests/{'1' * 26}.json": f"manifests/{'2' * 26}.json"}),
    "restored": Restored(E, "c" * 32, f"manifests/{'1' * 26}.json", 7, 5),
}


def checkpoint(identifier: str, **metrics: object) -> CheckpointFacts:
    return CheckpointFacts(identifier, MOMENT, 0, metrics)


def rated(identifier: str, loss: object, goal: str = "minimize") -> CheckpointFacts:
    return dataclasses.replace(checkpoint(identifier, loss=loss), primary_metric=PrimaryMetric("loss", goal))


def made(*identifiers: str, session: str | None = None) -> Checkpointed:
    return Checkpointed("e", tuple(checkpoint(identifier) for identifier in identifiers), session)


def resumed(
    checkpoint: str | None, code: str | None = None, *, session: str = "s", previous: str | None = None
) -> Resumed:
    return Resumed("e", MOMENT, session, previous, checkpoint, manifest=code)


def shown(*records: Record, experiment: str = "e") -> str:
    """The ids of the checkpoints that an experiment is left with, one letter each."""
    return "".join(item.id for item in fold([Created(experiment, MOMENT), *records])[experiment].checkpoints)


# Writing and reading.


@pytest.mark.parametrize("type_", RECORDS, ids=lambda type_: type_.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_a_record_comes_back_as_it_was(type_, data):
    record = data.draw(RECORDS[type_])
    assert decode(unseal(seal(encode(record)), key=KEY), key=KEY) == record


def test_there_is_a_word_for_every_kind_of_record():
    assert set(KINDS.values()) == set(get_args(Record)) == set(RECORDS)
    assert {word: kind(record) for word, record in SAMPLES.items()} == {word: word for word in KINDS}


def under(experiment: str, word: str) -> str:
    return record_key(RecordName("20261123", "0" * 26, experiment, word))


@pytest.mark.parametrize("seals", [seal_under, lambda _key, document: seal(document)], ids=["new", "without its key"])
@pytest.mark.parametrize("record", SAMPLES.values(), ids=SAMPLES)
def test_a_record_is_only_read_under_a_key_of_its_experiment_and_kind(record, seals):
    key = under(record.experiment, kind(record))
    data = seals(key, encode(record))
    assert read(key, data) == record
    others = [under("0" * 32, kind(record)), "records/x.json"]
    others += [under(record.experiment, word) for word in [*KINDS, "starred"] if word != kind(record)]
    for other in others:
        with pytest.raises(Corrupted, match=f"{other}.*copied or moved"):
            read(other, data)


def test_a_record_of_a_later_kind_is_passed_over_under_its_own_key_only():
    document = {"kind": "starred", "experiment": E}
    assert read(under(E, "starred"), seal_under(under(E, "starred"), document)) is None
    with pytest.raises(Corrupted, match="copied or moved"):
        read(under(E, "created"), seal(document))


@pytest.mark.parametrize("field", ["params", "config", "system", "metrics", "extra"])
def test_values_nested_by_the_hundreds_are_corrupted(field):
    value = 1
    for _ in range(600):
        value = {"a": value}
    document = encode(SAMPLES["created"] if field in ("params", "config", "system") else SAMPLES["checkpoints"])
    (document if field in document else document["checkpoints"][0])[field] = {"deep": value}
    with pytest.raises(Corrupted, match="nested deeper than"):
        decode(document, key=KEY)


def test_nan_in_metrics_comes_back():
    (item,) = decode(
        unseal(seal(encode(Checkpointed(E, (checkpoint("a" * 32, loss=math.nan),)))), key=KEY), key=KEY
    ).checkpoints
    assert math.isnan(item.metrics["loss"])


def test_a_kind_that_only_later_versions_know_is_passed_over():
    assert decode({"kind": "archived", "by": "someone"}, key=KEY) is None


def test_fields_that_only_later_versions_know_are_passed_over():
    assert decode(encode(SAMPLES["ended"]) | {"signal": 9}, key=KEY) == SAMPLES["ended"]


@given(data=st.data())
def test_reading_anything_at_all_fails_in_one_way_only(anything, data):
    with pytest.raises(Corrupted, match=KEY):
        decode(data.draw(anything), key=KEY)


@pytest.mark.parametrize("word", SAMPLES)
@settings(max_examples=100)
@given(data=st.data())
def test_a_record_that_is_wrong_somewhere_fails_in_one_way_only(damaged, word, data):
    try:
        record = decode(data.draw(damaged(encode(SAMPLES[word]))), key=KEY)
    except Corrupted:
        return
    assert record is None or repr(decode(encode(record), key=KEY)) == repr(record)


@pytest.mark.parametrize(
    ("word", "field"),
    sorted(
        {(word, field) for word, record in SAMPLES.items() for field in encode(record)}
        - {("checkpoints", "session"), ("ended", "session"), ("resumed", "adds")}
    ),
)
def test_every_field_must_be_there(word, field):
    plain = encode(SAMPLES[word])
    del plain[field]
    with pytest.raises(Corrupted, match=field):
        decode(plain, key=KEY)


def test_what_does_not_say_that_it_only_adds_sets_aside():
    plain = encode(SAMPLES["resumed"])
    del plain["adds"]
    assert decode(plain, key=KEY) == dataclasses.replace(SAMPLES["resumed"], adds=False)


@pytest.mark.parametrize("word", ["checkpoints", "ended"])
def test_where_no_session_is_named_it_is_the_first_one(word):
    plain = encode(SAMPLES[word])
    del plain["session"]
    assert decode(plain, key=KEY) == dataclasses.replace(SAMPLES[word], session=None)


def test_where_it_does_not_say_what_to_keep_all_is_kept():
    plain = encode(SAMPLES["checkpoints"])
    del plain["checkpoints"][0]["keep"]
    assert decode(plain, key=KEY).checkpoints[0].keep is None


def test_what_fold_knows_of_a_checkpoint_is_not_written_with_it():
    """One truth is enough."""
    item = dataclasses.replace(
        checkpoint("c" * 32), code=f"manifests/{'1' * 26}.json", is_private=True, is_released=True
    )
    plain = encode(Checkpointed(E, (item,)))
    assert plain == encode(Checkpointed(E, (checkpoint("c" * 32),)))


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("created", "experiment", None),
        ("created", "experiment", "e"),
        ("created", "experiment", "../" + "e" * 29),
        ("created", "created", "1969-12-31T23:59:59Z"),
        ("created", "created", "9999-12-31T23:59:59Z"),
        ("created", "manifest", "manifests/../x.json"),
        ("created", "created", None),
        ("created", "created", "yesterday"),
        ("created", "created", "2026-11-23T06:28:00"),
        ("created", "created", "2026-11-23T06:28:00+01:00"),
        ("created", "name", 7),
        ("created", "tags", "tag"),
        ("created", "tags", [7]),
        ("created", "params", []),
        ("created", "packages", {"numpy": 2}),
        ("created", "git", "main"),
        ("created", "git", {}),
        ("created", "git", {"commit": None, "branch": None, "dirty": None}),
        ("created", "size_bytes", -1),
        ("created", "stored_bytes", 1.5),
        ("checkpoints", "checkpoints", None),
        ("checkpoints", "checkpoints", ["c"]),
        ("checkpoints", "checkpoints", [{}]),
        ("edited", "tags", "tag"),
        ("checkpoints", "session", "s"),
        ("checkpoints", "session", 7),
        ("resumed", "session", None),
        ("resumed", "session", "s"),
        ("resumed", "previous", "s"),
        ("resumed", "checkpoint", 7),
        ("resumed", "path", 7),
        ("resumed", "manifest", 7),
        ("resumed", "manifest", "manifests/../x.json"),
        ("resumed", "size_bytes", -1),
        ("resumed", "stored_bytes", None),
        ("ended", "status", "running"),
        ("ended", "status", None),
        ("ended", "blocked_seconds", "1"),
        ("ended", "blocked_seconds", None),
        ("ended", "blocked_seconds", True),
        ("ended", "session", "s"),
        ("released", "checkpoints", None),
        ("released", "checkpoints", [7]),
        ("deleted", "checkpoints", "c"),
        ("deleted", "checkpoints", [7]),
        ("deleted", "kind", 7),
        ("repacked", "manifests", None),
        ("repacked", "manifests", ["m"]),
        ("repacked", "manifests", {"old": None}),
        ("repacked", "manifests", {"old": ["new"]}),
        ("repacked", "manifests", {"old": "data/x"}),
    ],
)
def test_every_field_must_have_its_type(word, field, value):
    with pytest.raises(Corrupted, match=KEY):
        decode(encode(SAMPLES[word]) | {field: value}, key=KEY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", None),
        ("id", "c"),
        ("step", 1.5),
        ("step", True),
        ("step", "1"),
        ("metrics", []),
        ("primary_metric", ["loss", "minimize"]),
        ("primary_metric", {"name": "loss"}),
        ("primary_metric", {"name": "loss", "goal": "lower"}),
        ("primary_metric", {"name": "loss", "goal": []}),
        ("primary_metric", {"name": "", "goal": "minimize"}),
        ("primary_metric", {"name": 7, "goal": "minimize"}),
        ("extra", None),
        ("manifest", 7),
        ("manifest", "manifests/x.json"),
        ("size_bytes", "1"),
        ("keep", 3),
        ("keep", {"best": 1}),
        ("keep", {"best": 1, "last": -1}),
    ],
)
def test_every_field_of_a_checkpoint_must_have_its_type(field, value):
    plain = encode(SAMPLES["checkpoints"])
    plain["checkpoints"][0][field] = value
    with pytest.raises(Corrupted, match=KEY):
        decode(plain, key=KEY)


def test_what_git_could_not_tell_is_not_made_up():
    plain = encode(SAMPLES["created"])
    plain["git"]["dirty"] = "perhaps"
    assert decode(plain, key=KEY).git == GitState("abc", "main", dirty=None)


# Times.


def test_a_time_is_stored_in_utc_with_microseconds():
    assert time_text(MOMENT) == "2026-11-23T06:28:00.000000Z"
    assert time_text(MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))) == time_text(MOMENT)


@given(MOMENTS)
def test_a_time_comes_back_as_it_was(moment):
    assert parse_time(time_text(moment)) == moment
    assert parse_time(time_text(moment)).utcoffset() == timedelta(0)


@given(MOMENTS, MOMENTS)
def test_stored_times_sort_as_times_do(one, other):
    assert (time_text(one) < time_text(other)) == (one < other)


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


# What a stranger may have written.

NO_IDS = ["../../x", "", "E" * 32, "e" * 15, "e" * 65, "e" * 32 + "\n", "eeee/eeee/eeee/eeee", None, 7]
NO_MANIFESTS = ["/etc/passwd", "manifests/../x.json", f"manifests/{'1' * 26}", f"data/{'1' * 26}.json", "", 7]


def changed(word: str, place: str, value: object) -> dict:
    plain = encode(SAMPLES[word])
    holder = plain["checkpoints"][0] if place.startswith("checkpoint.") else plain
    holder[place.rpartition(".")[2]] = value
    return plain


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
@pytest.mark.parametrize("word", SAMPLES)
def test_an_id_that_is_none_is_corrupted(word, value):
    with pytest.raises(Corrupted, match="is not an id"):
        decode(changed(word, "experiment", value), key=KEY)


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_an_id_of_a_checkpoint_that_is_none_is_corrupted(value):
    with pytest.raises(Corrupted, match="is not an id"):
        decode(changed("checkpoints", "checkpoint.id", value), key=KEY)


@pytest.mark.parametrize("value", NO_MANIFESTS, ids=repr)
def test_a_manifest_key_that_is_none_is_corrupted(value):
    for word, place in (("created", "manifest"), ("resumed", "manifest"), ("checkpoints", "checkpoint.manifest")):
        with pytest.raises(Corrupted, match=r"is not (a key of a manifest|text)"):
            decode(changed(word, place, value), key=KEY)
    with pytest.raises(Corrupted, match=r"is not (a key of a manifest|text)"):
        decode(changed("repacked", "manifests", {f"manifests/{'1' * 26}.json": value}), key=KEY)


def test_any_sequence_of_two_is_a_primary_metric():
    assert PrimaryMetric.parse(collections.UserList(["loss", "Minimize"])) == PrimaryMetric("loss", "minimize")


@pytest.mark.parametrize("pair", ["ab", b"ab", ["loss"], {"loss": "minimize"}, {"loss", "minimize"}])
def test_what_is_no_sequence_of_two_is_no_primary_metric(pair):
    with pytest.raises(InvalidInput, match="primary_metric must be a pair"):
        PrimaryMetric.parse(pair)
