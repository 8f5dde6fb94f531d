"""Heartbeats: one small document per running session of an experiment, which its recorder rewrites periodically.

Heartbeats are the only keys of a repository that are rewritten; each has one writer. A heartbeat is not a record: it is
deleted when its session ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from replicate_core.errors import Corrupted, StorageFailed
from replicate_core.format.keys import HEARTBEATS, heartbeat_key
from replicate_core.format.record_codec import parse_time, time_text
from replicate_core.format.sealed import expect_count, expect_text, seal_under, unseal_under, what_is_wrong
from replicate_core.format.values import Value
from replicate_core.repository.repository import Repository

INTERVAL = timedelta(seconds=30)
"""Time between two heartbeats."""

LOST_AFTER = timedelta(minutes=5)
"""Time without a heartbeat after which an experiment is lost: the clocks of two machines differ by less."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat of a session."""

    experiment: str
    session: str | None
    """The session of the experiment; None for the first one."""
    time: datetime
    """When it was written, by the clock of the machine that wrote it."""
    host: str
    process: int
    """The id of the process that is recorded."""
    waiting: int
    """Number of jobs that were not stored yet."""


def beat(repository: Repository, heartbeat: Heartbeat) -> None:
    """Write a heartbeat. Raises `StorageFailed`."""
    document: dict[str, Value] = {
        "experiment": heartbeat.experiment,
        "session": heartbeat.session,
        "time": time_text(heartbeat.time),
        "host": heartbeat.host,
        "process": heartbeat.process,
        "waiting": heartbeat.waiting,
    }
    key = _key(heartbeat.experiment, heartbeat.session)
    repository.store.put(key, seal_under(key, document))


def stop(repository: Repository, experiment: str, session: str | None) -> None:
    """Remove the heartbeat of a session that has ended."""
    with suppress(StorageFailed):  # a heartbeat that stays does no harm
        repository.store.delete([_key(experiment, session)])


def last(repository: Repository, sessions: Mapping[str, str | None]) -> dict[str, Heartbeat]:
    """The last heartbeat of each of these experiments that has one, by experiment.

    Args:
        repository: where the heartbeats are stored.
        sessions: experiment to the session whose heartbeat to read.
    """
    wanted = {_key(experiment, session) for experiment, session in sessions.items()}
    listed = [entry.key for entry in repository.store.list(HEARTBEATS)] if wanted else []
    found = repository.store.get_many(key for key in listed if key in wanted)
    heartbeats: dict[str, Heartbeat] = {}
    for key, data in found.items():
        with suppress(Corrupted):  # partly written, on a storage that writes in place
            heartbeat = decode(key, data)
            heartbeats[heartbeat.experiment] = heartbeat
    return heartbeats


def decode(key: str, data: bytes) -> Heartbeat:
    """Read a heartbeat. Raises `Corrupted`, also if it is that of another session."""
    try:
        fields = unseal_under(key, data)
        heartbeat = Heartbeat(
            expect_text(fields["experiment"]),
            None if (session := fields.get("session")) is None else expect_text(session),
            parse_time(fields["time"]),
            expect_text(fields["host"]),
            expect_count(fields["process"]),
            expect_count(fields["waiting"]),
        )
    except (KeyError, ValueError) as error:
        raise Corrupted(f"the heartbeat {key} can't be understood: {what_is_wrong(error)}") from error
    if _key(heartbeat.experiment, heartbeat.session) != key:
        raise Corrupted(f"the heartbeat {key} is that of another session: it was copied or moved there")
    return heartbeat


def _key(experiment: str, session: str | None) -> str:
    return heartbeat_key(session or experiment)
