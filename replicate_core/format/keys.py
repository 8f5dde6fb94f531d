"""The grammar of keys: what is stored under which name in a repository, and which names are ours at all.

Pure. A storage may hold other things beside a repository, even below the same prefixes: another program's files, or a
whole other repository. A key that does not match this grammar is not ours: it is neither read, reported nor deleted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

FORMAT_KEY = "replicate.json"
RECORDS = "records/"
SEGMENTS = "segments/"
MANIFESTS = "manifests/"
DATA = "data/"
TOMBSTONES = "prune/"
HEARTBEATS = "heartbeats/"

KEEPSAKE_EXPERIMENTS = "metadata/experiments/"
"""Prefix by which a repository of Keepsake or the first replicate is recognised: one document for each experiment."""

_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_ID = "[0-9a-f]{16,64}"
_RECORD = re.compile(rf"{RECORDS}(\d{{8}})/({_ULID})-({_ID})-([a-z]+)\.json", re.ASCII)
_SEGMENT = re.compile(rf"{SEGMENTS}{_ULID}\.jsonl\.gz")
_MANIFEST = re.compile(rf"{MANIFESTS}{_ULID}\.json")
_OBJECT = re.compile(rf"{DATA}[0-9a-f]{{2}}/[0-9a-f]{{64}}-[0-9a-z]+(\.[A-Za-z0-9]{{1,16}})*")
_TOMBSTONE = re.compile(rf"{TOMBSTONES}{_ULID}\.json")
_CLOCK_PROBE = re.compile(rf"{TOMBSTONES}{_ULID}\.clock")
_HEARTBEAT = re.compile(rf"{HEARTBEATS}{_ID}\.json")


class RecordName(NamedTuple):
    """The parts of a record's key."""

    day: str
    ulid: str
    experiment: str
    kind: str
    """One of `record_codec.KINDS`, or a kind that only later versions know."""


def record_key(name: RecordName) -> str:
    """The key of a record."""
    return f"{RECORDS}{name.day}/{name.ulid}-{name.experiment}-{name.kind}.json"


def record_name(key: str) -> RecordName | None:
    """Parse the key of a record; None if it is not one."""
    found = _RECORD.fullmatch(key)
    return None if found is None else RecordName(*found.groups())


def segment_key(ulid: str) -> str:
    """The key of a segment."""
    return f"{SEGMENTS}{ulid}.jsonl.gz"


def manifest_key(ulid: str) -> str:
    """The key of a manifest."""
    return f"{MANIFESTS}{ulid}.json"


def tombstone_key(ulid: str) -> str:
    """The key of a tombstone."""
    return f"{TOMBSTONES}{ulid}.json"


def clock_probe_key(ulid: str) -> str:
    """The key of an empty object that is written to learn the storage's time, and deleted at once."""
    return f"{TOMBSTONES}{ulid}.clock"


def heartbeat_key(session: str) -> str:
    """The key of a session's heartbeat; an experiment's first session has the id of the experiment."""
    return f"{HEARTBEATS}{session}.json"


def is_record_key(key: str) -> bool:
    """Tell whether a key has the form of a record's key, of any kind."""
    return _RECORD.fullmatch(key) is not None


def is_segment_key(key: str) -> bool:
    """Tell whether a key has the form of a segment's key."""
    return _SEGMENT.fullmatch(key) is not None


def is_manifest_key(key: str) -> bool:
    """Tell whether a key has the form of a manifest's key."""
    return _MANIFEST.fullmatch(key) is not None


def is_object_key(key: str) -> bool:
    """Tell whether a key has the form of an object's key."""
    return _OBJECT.fullmatch(key) is not None


def is_tombstone_key(key: str) -> bool:
    """Tell whether a key has the form of a tombstone's key."""
    return _TOMBSTONE.fullmatch(key) is not None


def is_clock_probe_key(key: str) -> bool:
    """Tell whether a key has the form that `clock_probe_key` makes."""
    return _CLOCK_PROBE.fullmatch(key) is not None


def is_heartbeat_key(key: str) -> bool:
    """Tell whether a key has the form of a heartbeat's key."""
    return _HEARTBEAT.fullmatch(key) is not None
