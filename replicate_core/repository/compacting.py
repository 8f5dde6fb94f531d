"""Compaction: copy records into segments, which readers fetch instead. The records stay and are authoritative.

Compaction is safe beside any number of readers, writers and other compactions: each segment has a name of its own, and
repeats only records, which never change. A segment is deleted only after the one that replaces it is stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from replicate_core.errors import Corrupted, InvalidInput, NotFound, TooNew
from replicate_core.format import ids, record_codec, records, segments
from replicate_core.format.keys import RECORDS, SEGMENTS, is_record_key, is_segment_key, segment_key
from replicate_core.format.records import Record
from replicate_core.format.segments import Group, Segment, day_of, summarise
from replicate_core.repository import catalogue
from replicate_core.repository.repository import Repository, ignore
from replicate_core.storage.store import Entry

UNCOVERED_MAX = 1000
"""Maximum number of records that no segment holds: a recorder compacts at its end if there are more. Each recorder
multiplies this by a random factor from 1 to 2, so that recorders that end together do not all compact at once."""

SEGMENTS_MAX = 8
"""Maximum number of segments: if there are more, the next one replaces them all."""

SETTLED_AFTER = timedelta(hours=24)
"""Time without a write, by the clock of the storage, after which a day is settled: the clocks of machines differ by
less, and no write takes longer. `prune` relies on the same."""

FULL_SCAN_AFTER = timedelta(hours=24)
"""Time after the newest segment at which a compaction is due in any case: it also lists settled days, in case records
were copied there."""

FETCHED_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did."""

    records: int = 0
    """Number of records in the new segment that were in no segment before."""
    unusable: int = 0
    """Number of records that no segment can hold: each is read by itself, as before. `verify` reports damaged ones."""
    segment: str | None = None
    """The key of the new segment; None if there was nothing to do."""
    replaced: int = 0
    """Number of segments that the new one replaced."""


def compact(repository: Repository, *, rebuild: bool = False) -> CompactReport:
    """Put all records that no segment holds into a new segment.

    Args:
        repository: its store may be cached.
        rebuild: make one new segment of all records, and delete all other segments.

    Raises:
        StorageFailed: the storage can't be reached.
    """
    repository.check_format()
    damaged: list[Corrupted | TooNew] = []
    found = catalogue.read_segments(repository, damaged.append)
    held = [] if rebuild else found
    entries = [entry for entry in repository.store.list(RECORDS) if is_record_key(entry.key)]
    covered = {key for segment in held for key in segment.keys}
    fresh = _usable(repository, [entry.key for entry in entries if entry.key not in covered])
    if rebuild:
        fresh |= _rescued(found, {entry.key for entry in entries} - fresh.keys())
    merges = rebuild or len(held) >= SEGMENTS_MAX or any(isinstance(error, Corrupted) for error in damaged)
    groups = _groups(repository, held, fresh, None if merges else {record.experiment for _, record in fresh.values()})
    taken = {key for group in groups for key in group.lines}
    unusable = {entry.key for entry in entries} - taken - (set() if merges else covered)
    settled = _settled(entries)
    claimed = frozenset[str]().union(*(segment.settled for segment in held))
    if not merges and not taken and settled <= claimed:
        return CompactReport(unusable=len(unusable))
    key = segment_key(repository.new_ulid())
    others = [key for key in unusable if day_of(key) in settled]
    beside = [] if merges else [segment.key for segment in held]
    repository.store.put(key, segments.encode(key, groups, settled=settled, others=others, beside=beside))
    replaced = _replaceable(repository, found) if merges else []
    repository.store.delete(replaced)
    return CompactReport(len(taken - covered), len(unusable), key, len(replaced))


def compact_if_due(repository: Repository) -> CompactReport:
    """Compact if many records are in no segment, or the newest segment is a day old. Raises what `compact` raises."""
    held = catalogue.read_segments(repository, ignore)
    uncovered = len(catalogue.uncovered_keys(repository, held))
    newest = max((segment.key for segment in held), default=None)
    is_old = newest is not None and repository.now() - _made(newest) > FULL_SCAN_AFTER
    if uncovered < UNCOVERED_MAX * random.uniform(1, 2) and not is_old:  # noqa: S311  # spreads machines, hides nothing
        return CompactReport()
    return compact(repository)


def _made(segment: str) -> datetime:
    """When a segment was made, by its name; 1970 if the name does not tell."""
    try:
        milliseconds = ids.ulid_number(segment[len(SEGMENTS) :].partition(".")[0]) >> 80
    except InvalidInput:
        milliseconds = 0
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def _settled(entries: Iterable[Entry]) -> set[str]:
    """The settled days: their last write is older than the newest record by `SETTLED_AFTER`."""
    last: dict[str, datetime] = {}
    for entry in entries:
        if entry.modified is None:  # the storage does not tell times
            return set()
        last[day_of(entry.key)] = max(entry.modified, last.get(day_of(entry.key), entry.modified))
    newest = max(last.values(), default=datetime.now(timezone.utc))
    over = newest - SETTLED_AFTER
    return {day for day, written in last.items() if day.isdigit() and day < f"{over:%Y%m%d}" and written < over}


def _usable(repository: Repository, keys: Sequence[str]) -> dict[str, tuple[bytes, Record]]:
    """The records that a segment can hold, by key: their stored bytes, and the decoded record."""
    found: dict[str, tuple[bytes, Record]] = {}
    for start in range(0, len(keys), FETCHED_AT_ONCE):
        for key, data in repository.store.get_many(keys[start : start + FETCHED_AT_ONCE]).items():
            record = _record(key, data)
            if record is not None:
                found[key] = data, record
    return found


def _rescued(held: Sequence[Segment], keys: set[str]) -> dict[str, tuple[bytes, Record]]:
    """What segments hold of records that can't be used: it may be the only copy left."""
    found: dict[str, tuple[bytes, Record]] = {}
    for segment in held:
        for piece in segment.pieces.values():
            if keys.isdisjoint(piece.keys):
                continue
            with suppress(Corrupted):
                for key, line in segment.lines(piece).items():
                    if key in keys and (record := _record(key, line)) is not None:
                        found[key] = line, record
    return found


def _record(key: str, data: bytes) -> Record | None:
    """Decode a record; None if a segment can't hold it, or would not hold the same bytes."""
    if data.count(b"\n") != 1 or not data.endswith(b"\n"):
        return None
    try:
        return record_codec.read(key, data)
    except Corrupted:
        return None


def _groups(
    repository: Repository,
    held: Sequence[Segment],
    fresh: Mapping[str, tuple[bytes, Record]],
    touched: set[str] | None,
) -> list[Group]:
    """The groups of the experiments that were touched, or of all (None), in the order they began."""
    lines: dict[str, dict[str, bytes]] = {}
    decoded: dict[str, Record] = {}
    for key, (line, record) in fresh.items():
        lines.setdefault(record.experiment, {})[key] = line
        decoded[key] = record
    for segment in held:
        for experiment, piece in segment.pieces.items():
            if touched is None or experiment in touched:
                lines.setdefault(experiment, {}).update(_lines(repository, segment, piece))
    groups: list[Group] = []
    for experiment, own in lines.items():
        if sum(map(len, own.values())) > segments.GROUP_BYTES_MAX:
            continue
        known = {key: decoded.get(key) or _record(key, own[key]) for key in sorted(own)}
        usable = {key: record for key, record in known.items() if record is not None}
        state = records.fold(usable.values()).get(experiment)
        groups.append(Group(experiment, None if state is None else summarise(state), {key: own[key] for key in usable}))
    never = datetime.fromtimestamp(0, timezone.utc)
    return sorted(groups, key=lambda group: group.summary.created if group.summary else never)


def _lines(repository: Repository, segment: Segment, piece: segments.Piece) -> dict[str, bytes]:
    """The stored bytes of the records of a piece; where the segment is damaged, the records themselves are read."""
    try:
        lines = segment.lines(piece)
    except Corrupted:
        lines = {}
    damaged = [key for key in piece.keys if key not in lines or _record(key, lines[key]) is None]
    return lines | repository.store.get_many(damaged) if damaged else lines


def _replaceable(repository: Repository, found: Sequence[Segment]) -> list[str]:
    """The segments that a new one replaces: those that were read, and those that are damaged."""
    read = [segment.key for segment in found]
    damaged: list[str] = []
    for key in (entry.key for entry in repository.store.list(SEGMENTS)):
        if key not in read and is_segment_key(key):
            try:
                segments.decode(repository.store.get(key), key=key)
            except Corrupted:
                damaged.append(key)
            except (NotFound, TooNew):  # already deleted, or written by a newer version
                continue
    return read + damaged
