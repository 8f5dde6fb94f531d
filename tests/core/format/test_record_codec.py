"""A record comes back as it was, and what is none fails in one way only."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import KEY, MOMENT, MOMENTS, RECORDS, SAMPLES, E, checkpoint

from replicate_core.errors import Corrupted
from replicate_core.format.keys import RecordName, record_key
from replicate_core.format.record_codec import KINDS, decode, encode, kind, parse_time, read, time_text
from replicate_core.format.records import (
    Checkpointed,
    GitState,
    Record,
)
from replicate_core.format.sealed import seal, seal_under, unseal

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
        with pytest.raises(Corrupted, match=r"is not (a key of a manifest|a string)"):
            decode(changed(word, place, value), key=KEY)
    with pytest.raises(Corrupted, match=r"is not (a key of a manifest|a string)"):
        decode(changed("repacked", "manifests", {f"manifests/{'1' * 26}.json": value}), key=KEY)
