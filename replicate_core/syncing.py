"""Emptying the spool of a project on demand: what waits there is stored, and the experiments it belongs to are ended.

What recorders do by themselves, for those that are gone: their machine was switched off, or their storage had failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from replicate_core.draining import open_queue
from replicate_core.errors import Corrupted, ReplicateError
from replicate_core.progress import Progress, silent
from replicate_core.spool import Queue, Spool

Outcome: TypeAlias = Literal["stored", "recording", "failed"]

STALLED_SECONDS = 600
"""Another process that stores nothing for so long is not waited for any more."""

LOOK_SECONDS = 0.1
"""How often whoever waits for another process looks how far it is."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one experiment in the spool."""

    experiment: str
    outcome: Outcome
    """All of it was stored; its process is alive and sees to it itself; or storing failed."""
    jobs: int
    """How many things waited."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class Queued:
    """What one experiment has in the spool."""

    experiment: str
    jobs: int
    """How many things wait."""
    is_recorded: bool
    """Whether a process is at it, and stores it itself; else `sync` does."""
    trouble: str | None = None
    """What was in the way, when it was last tried."""


def queued(spool: Spool) -> list[Queued]:
    """What is in a spool, by experiment and session. The storage is not asked."""
    return [
        Queued(
            queue.experiment,
            _count(queue),
            queue.is_owned() or queue.is_taken(),
            None if (trouble := queue.state().trouble) is None else trouble.message,
        )
        for queue in spool.queues()
    ]


def sync(spool: Spool, *, anew: bool = False, progress: Progress = silent) -> list[Synced]:
    """Store all that waits in a spool and that no living process of its own will store.

    Args:
        spool: the spool.
        anew: also where the storage has lost what was stored there before.
        progress: called with the number of jobs that are done, and of all there are.
    """
    queues = [(queue, _count(queue)) for queue in spool.queues()]
    owned = {queue.directory for queue, _ in queues if not queue.is_abandoned()}
    total = sum(jobs for queue, jobs in queues if queue.directory not in owned)
    done = 0
    report = []
    for queue, jobs in queues:
        if queue.directory in owned:
            report.append(Synced(queue.experiment, "recording", jobs))
            continue

        def advance(stored: int, before: int = done) -> None:
            progress(before + stored, total)

        error = _empty(queue, advance, anew=anew)
        done += jobs
        advance(0, done)
        report.append(Synced(queue.experiment, "failed" if error else "stored", jobs, error))
    return report


def _count(queue: Queue) -> int:
    """How many jobs wait; 0 where that can't be read, which emptying it will say."""
    try:
        return len(queue.waiting())
    except Corrupted:
        return 0


def _empty(queue: Queue, progress: Callable[[int], object], *, anew: bool) -> str | None:
    """Empty a queue, or wait for who is at it; returns why that failed, if it did."""
    done_before = done = queue.state().done
    moved_at = time.monotonic()
    try:
        while queue.directory.is_dir():
            if queue.take():
                try:
                    drain = open_queue(queue)
                    if anew:
                        drain.begin_again()
                    drain.empty(progress=progress)
                finally:
                    queue.give_back()
                return None
            state = queue.state()
            if state.trouble is not None:
                return state.trouble.message
            if state.done != done:
                done, moved_at = state.done, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                return f"another process is storing it, and has not got on for {STALLED_SECONDS // 60} minutes"
            progress(done - done_before)
            time.sleep(LOOK_SECONDS)
    except FileNotFoundError:  # somebody else has stored the last of it
        return None
    except (ReplicateError, OSError) as error:
        return str(error)
    return None
