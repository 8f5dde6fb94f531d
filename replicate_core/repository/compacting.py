"""Compaction: records are put into segments, which readers fetch instead; the records stay, and are what counts.

Safe beside any number of writers, readers, and others that do the same: a segment has a name of its own, and only says
what stands in records that are never changed. One that another has taken the place of is deleted after that is stored.
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
from replicate_core.repository.repository import Repository
from replicate_core.storage.store import Entry

UNCOVERED_MAX = 1000
"""A recorder that has ended compacts when so many records are in no segment, or up to twice as many, by chance: of many
that end together not all begin at once."""

SEGMENTS_MAX = 8
"""When there are more, one takes the place of all."""

SETTLED_AFTER = timedelta(hours=24)
"""A day in which nothing was written for so long, by the clock of the storage, is over: the clocks of machines differ
by less, and no write is under way for longer. What `prune` relies on, too."""

LOOKED_THROUGH_AFTER = timedelta(hours=24)
"""So long after the last one, a compaction is due, whatever there is: it looks through days that are over, too, in case
that something was copied there."""

FETCHED_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did."""

    records: int = 0
    """How many records were put into the new segment that were in none before."""
    unusable: int = 0
    """How many can't be: each is read by itself, as before. `verify` says what is wrong with those that are damaged."""
    segment: str | None = None
    """The key of the new one; None: there was nothing to do."""
    replaced: int = 0
    """How many others it took the place of."""


def compact(repository: Repository, *, rebuild: bool = False) -> CompactReport:
    """Put all records that no segment holds into a new one.

    Args:
        repository: its store may be cached.
        rebuild: make one new segment of all records, and delete all others.

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
    """Compact, where many records are in no segment, or nobody has looked for a day. Errors as of `compact`."""
    held = catalogue.read_segments(repository, _ignore)
    uncovered = len(catalogue.uncovered_keys(repository, held))
    newest = max((segment.key for segment in held), default=None)
    is_old = newest is not None and repository.now() - _made(newest) > LOOKED_THROUGH_AFTER
    if uncovered < UNCOVERED_MAX * random.uniform(1, 2) and not is_old:  # noqa: S311  # spreads machines, hides nothing
        return CompactReport()
    return compact(repository)


def _ignore(_: Corrupted | TooNew) -> None:
    """Listings report it."""


def _made(segment: str) -> datetime:
    """When a segment was made, by its name; long ago where that says nothing."""
    try:
        milliseconds = ids.ulid_number(segment[len(SEGMENTS) :].partition(".")[0]) >> 80
    except InvalidInput:
        milliseconds = 0
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def _settled(entries: Iterable[Entry]) -> set[str]:
    """The days that are over: nothing was written there for long before the last thing that was written anywhere."""
    last: dict[str, datetime] = {}
    for entry in entries:
        if entry.modified is None:  # the storage does not tell
            return set()
        last[day_of(entry.key)] = max(entry.modified, last.get(day_of(entry.key), entry.modified))
    newest = max(last.values(), default=datetime.now(timezone.utc))
    over = newest - SETTLED_AFTER
    return {day for day, written in last.items() if day.isdigit() and day < f"{over:%Y%m%d}" and written < over}


def _usable(repository: Repository, keys: Sequence[str]) -> dict[str, tuple[bytes, Record]]:
    """Of these records those that can be put into a segment, as they are stored and as what they say."""
    found: dict[str, tuple[bytes, Record]] = {}
    for start in range(0, len(keys), FETCHED_AT_ONCE):
        for key, data in repository.store.get_many(keys[start : start + FETCHED_AT_ONCE]).items():
            record = _record(key, data)
            if record is not None:
                found[key] = data, record
    return found


def _rescued(held: Sequence[Segment], keys: set[str]) -> dict[str, tuple[bytes, Record]]:
    """Of records that can't be used what segments hold of them: it may be all that is left."""
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
    """What a record says; None if it can't be put into a segment, or would not be the same there."""
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
    """All that is known of the experiments that were touched, or of all, those that began first first."""
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
    """The records of a piece as they are stored; where the segment is damaged, those themselves."""
    try:
        lines = segment.lines(piece)
    except Corrupted:
        lines = {}
    damaged = [key for key in piece.keys if key not in lines or _record(key, lines[key]) is None]
    return lines | repository.store.get_many(damaged) if damaged else lines


def _replaceable(repository: Repository, found: Sequence[Segment]) -> list[str]:
    """The segments that a new one has taken the place of: those that were read, and those that are damaged."""
    read = [segment.key for segment in found]
    damaged: list[str] = []
    for key in (entry.key for entry in repository.store.list(SEGMENTS)):
        if key not in read and is_segment_key(key):
            try:
                segments.decode(repository.store.get(key), key=key)
            except Corrupted:
                damaged.append(key)
            except (NotFound, TooNew):  # another version's
                continue
    return read + damaged
