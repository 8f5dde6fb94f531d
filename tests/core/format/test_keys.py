"""Every key that replicate makes is ours by the grammar, and nothing else is."""

from __future__ import annotations

import pytest

from replicate_core.format import keys
from replicate_core.format.keys import RecordName

ULID = "01KATEST00000000000000000Z"
ID = "3f" * 16
DIGITS = "0c" * 32

MADE = {
    keys.is_record_key: keys.record_key(RecordName("20261125", ULID, ID, "created")),
    keys.is_segment_key: keys.segment_key(ULID),
    keys.is_manifest_key: keys.manifest_key(ULID),
    keys.is_object_key: f"data/0c/{DIGITS}-0123456789abcdef.tar.gz",
    keys.is_tombstone_key: keys.tombstone_key(ULID),
    keys.is_clock_probe_key: keys.clock_probe_key(ULID),
    keys.is_heartbeat_key: keys.heartbeat_key(ID),
}

FOREIGN = [
    "replicate.json",
    "data/train.csv",
    "data/0c/train.csv",
    "prune/my_model.pt",
    "prune/my_model.json",
    "manifests/deploy.json",
    "records/2026.json",
    "segments/one.jsonl.gz",
    "heartbeats/mine.json",
    *(f"{prefix}{key}" for prefix in ("data/", "manifests/", "prune/", "records/", "a/") for key in MADE.values()),
    *(key + ending for key in MADE.values() for ending in (" (1)", "\n", "/", "~")),
    *(key.replace("/", "/../", 1) for key in MADE.values()),
]


@pytest.mark.parametrize("is_one", MADE, ids=lambda is_one: is_one.__name__)
def test_each_key_is_of_one_kind(is_one) -> None:
    assert [key for key in MADE.values() if is_one(key)] == [MADE[is_one]]


@pytest.mark.parametrize("key", FOREIGN)
def test_what_replicate_does_not_write_is_not_ours(key: str) -> None:
    assert [is_one.__name__ for is_one in MADE if is_one(key)] == []


class TestRecordName:
    NAME = RecordName("20261125", ULID, ID, "ended")

    def test_says_what_the_key_says(self) -> None:
        assert keys.record_name(keys.record_key(self.NAME)) == self.NAME

    def test_of_a_kind_that_only_later_versions_know_is_one(self) -> None:
        starred = self.NAME._replace(kind="starred")
        assert keys.record_name(keys.record_key(starred)) == starred

    @pytest.mark.parametrize(
        "strange",
        [
            {"day": "today"},
            {"day": "\u0662026112\u0665"},
            {"ulid": "short"},
            {"experiment": "short"},
            {"experiment": "g" * 32},
            {"kind": ""},
            {"kind": "../x"},
        ],
        ids=str,
    )
    def test_of_anything_else_is_none(self, strange: dict[str, str]) -> None:
        assert keys.record_name(keys.record_key(self.NAME._replace(**strange))) is None
