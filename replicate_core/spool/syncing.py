"""Emptying the spool of a project on demand: what waits there is stored, and the experiments it belongs to are ended.

What recorders do by themselves, for those that are gone: their machine was switched off, or their storage had failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from replicate_core.errors import Corrupted, InvalidInput, ReplicateError, StorageFailed
from replicate_core.format import ids
from replicate_core.progress import Progress, silent
from replicate_core.redaction import without_credentials
from replicate_core.spool.spool import Spool, Stranger
from replicate_core.spool.upload_queue import Job, Queue
from replicate_core.spool.uploading import open_queue

Outcome: TypeAlias = Literal["stored", "recording", "failed", "refused"]

STALLED_SECONDS = 600
"""How long another process may store nothing before `sync` stops waiting for it."""

PATIENCE_SECONDS = 5
"""How long another process may store nothing before `sync` says what it waits for."""

LOOK_SECONDS = 0.1
"""How often a wait for another process checks how far that is."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What became of one experiment in the spool."""

    experiment: str
    outcome: Outcome
    """All of it was stored; its process is alive and sees to it itself; storing failed; or it was left alone, because
    nobody knows that this user has saved it."""
    jobs: int
    """How many things waited."""
    error: str | None = None
    """Why it failed, or was left alone, and what to do."""


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


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be stored, and where, if a stranger were accepted. All of it is what the stranger says of itself."""

    experiment: str
    project: str
    storage: str
    """Without credentials."""
    options: tuple[str, ...]
    """What the driver of the storage is told: the names alone."""
    jobs: int
    files: tuple[str, ...]
    total_bytes: int


def offer(stranger: Stranger) -> Offer:
    """Look into a stranger.

    Raises:
        InvalidInput: it belongs to another user.
        Corrupted: it is no queue, or damaged.
    """
    if not stranger.is_own:
        raise InvalidInput(f"{stranger.why}. {stranger.todo}")
    try:
        origin = stranger.queue.origin()
    except OSError as error:
        raise Corrupted(f"{stranger.queue.directory} does not say where it is to be stored: {error}") from error
    jobs = stranger.queue.waiting()
    files = [file for job in jobs if job.staged is not None for file in job.staged.files]
    return Offer(
        origin.experiment,
        origin.project,
        without_credentials(origin.storage),
        tuple(origin.storage_options),
        len(jobs),
        tuple(dict.fromkeys(file.path for file in files)),
        sum(file.size for file in files),
    )


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


def sync(
    spool: Spool, *, anew: bool = False, progress: Progress = silent, tell: Callable[[str], object] = str
) -> list[SyncResult]:
    """Store all that waits in a spool and that no living process of its own will store.

    Args:
        spool: the spool.
        anew: also where the storage has lost what was stored there before.
        progress: called with the number of jobs that are done, and of all there are.
        tell: called with what is waited for, if that takes longer than people expect.
    """
    queues = [(queue, _count(queue)) for queue in spool.queues()]
    owned = {queue.directory for queue, _ in queues if not queue.is_abandoned()}
    total = sum(jobs for queue, jobs in queues if queue.directory not in owned)
    done = 0
    report = []
    for queue, jobs in queues:
        if queue.directory in owned:
            report.append(SyncResult(queue.experiment, "recording", jobs))
            continue

        def advance(stored: int, before: int = done) -> None:
            progress(before + stored, total)

        error = _upload(queue, advance, tell, anew=anew)
        done += jobs
        advance(0, done)
        report.append(SyncResult(queue.experiment, "failed" if error else "stored", jobs, error))
    for stranger in spool.strangers():
        if stranger.is_own:
            left = f"{stranger.queue.directory} is left alone: {stranger.why}. {stranger.todo}"
            report.append(SyncResult(stranger.queue.experiment, "refused", 0, left))
    return report


def _count(queue: Queue) -> int:
    """How many jobs wait; 0 where that can't be read, which emptying it will say."""
    try:
        return len(queue.waiting())
    except (Corrupted, OSError):
        return 0


def _upload(
    queue: Queue, progress: Callable[[int], object], tell: Callable[[str], object], *, anew: bool
) -> str | None:
    """Empty a queue, or wait for the process that does; returns why that failed, if it did."""
    done_before = done = queue.state().done
    moved_at = time.monotonic()
    has_told = False
    try:
        while queue.directory.is_dir():
            if queue.take():
                try:
                    drain = open_queue(queue)
                    if anew:
                        drain.begin_again()
                    drain.upload_all(progress=progress)
                finally:
                    queue.release()
                return None
            state = queue.state()
            if state.trouble is not None:
                return state.trouble.message
            if state.done != done:
                done, moved_at = state.done, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                return f"another process is storing it, and has stored nothing for {STALLED_SECONDS // 60} minutes"
            elif not has_told and time.monotonic() - moved_at > PATIENCE_SECONDS:
                has_told = True
                tell(_waiting_for(queue))
            progress(done - done_before)
            time.sleep(LOOK_SECONDS)
    except FileNotFoundError:  # somebody else has stored the last of it
        return None
    except (ReplicateError, OSError) as error:
        return str(error)
    return None


def _waiting_for(queue: Queue) -> str:
    return (
        f"waiting for another process, which is storing the experiment {ids.short(queue.experiment)} and has stored "
        f"nothing for {PATIENCE_SECONDS} seconds: is it stopped, or its storage slow? After {STALLED_SECONDS // 60} "
        "minutes it is left alone; nothing is lost"
    )


def wait_until_stored(spool: Spool, experiment: str) -> None:
    """Wait until all that was recorded of an experiment so far is stored; store it, where nobody does.

    Raises:
        StorageFailed: it can't be stored; the message says why.
    """
    for queue in spool.queues_of(experiment):
        jobs = queue.waiting()
        while queue.directory.is_dir() and _is_waiting(queue, jobs):
            _store_or_wait(queue)


def _store_or_wait(queue: Queue) -> None:
    try:
        taken = queue.take()
    except FileNotFoundError:  # all is stored
        return
    except OSError as error:
        raise StorageFailed(f"it is not stored yet, and can't be by this user: {error}") from error
    if taken:  # nobody else does it
        try:
            open_queue(queue).upload_all()
        except FileNotFoundError:
            return
        except OSError as error:
            if isinstance(error, StorageFailed):
                raise
            raise StorageFailed(f"it is not stored yet, because of {queue.directory}: {error}") from error
        finally:
            queue.release()
    elif (trouble := queue.state().trouble) is not None:
        raise StorageFailed(f"it is not stored yet: {trouble.message}")
    else:
        time.sleep(LOOK_SECONDS)


def _is_waiting(queue: Queue, jobs: Sequence[Job]) -> bool:
    """Tell whether these jobs are not all stored, or their process is gone and nobody has noted so yet."""
    return bool(jobs and queue.state().mark < jobs[-1].after) or queue.is_abandoned()
