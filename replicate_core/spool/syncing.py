"""Syncing on demand: everything that waits in the spool of a project is stored, and its experiments are ended.

Recorders do this by themselves. It is needed for recorders that are gone, because their machine was switched off or
their storage failed.
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
"""Seconds for which another process may store nothing before `sync` stops waiting for it."""

PATIENCE_SECONDS = 5
"""Seconds for which another process may store nothing before `sync` says what it waits for."""

LOOK_SECONDS = 0.1
"""Seconds between looks at the progress of another process."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What `sync` did with one experiment in the spool."""

    experiment: str
    outcome: Outcome
    """`stored`: all of it was stored. `recording`: its process is alive and stores it itself. `failed`: storing failed.
    `refused`: it was left alone, because it is not known to be saved by this user."""
    jobs: int
    """Number of jobs that waited."""
    error: str | None = None
    """Why it failed or was refused, and what to do."""


@dataclass(frozen=True, slots=True)
class Queued:
    """What one experiment has in the spool."""

    experiment: str
    jobs: int
    """Number of jobs that wait."""
    is_recorded: bool
    """Whether a process records or stores it; if not, `sync` stores it."""
    trouble: str | None = None
    """Why the last attempt to store it failed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be stored, and where, if a stranger were accepted. Everything is what the stranger itself says."""

    experiment: str
    project: str
    storage: str
    """Without credentials."""
    options: tuple[str, ...]
    """Names of the options for the storage's driver, without their values."""
    jobs: int
    files: tuple[str, ...]
    total_bytes: int


def offer(stranger: Stranger) -> Offer:
    """Look into a stranger.

    Raises:
        InvalidInput: it belongs to another user.
        Corrupted: it is not a queue, or it is damaged.
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
    """What waits in a spool, by experiment and session. This does not access the storage."""
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
    """Store everything that waits in a spool, except what a living process records and stores itself.

    Args:
        spool: the spool.
        anew: store it even if the storage has lost what was stored there before.
        progress: called with the number of finished jobs, and of all jobs.
        tell: called with a message when waiting for another process takes longer than people expect.
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
    """Number of jobs that wait; 0 if the queue can't be read: uploading will report that."""
    try:
        return len(queue.waiting())
    except (Corrupted, OSError):
        return 0


def _upload(
    queue: Queue, progress: Callable[[int], object], tell: Callable[[str], object], *, anew: bool
) -> str | None:
    """Upload from a queue, or wait for the process that does. Returns why that failed, or None."""
    done_before = done = queue.state().done
    moved_at = time.monotonic()
    has_informed = False
    try:
        while queue.directory.is_dir():
            if queue.take():
                try:
                    uploader = open_queue(queue)
                    if anew:
                        uploader.begin_again()
                    uploader.upload_all(progress=progress)
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
            elif not has_informed and time.monotonic() - moved_at > PATIENCE_SECONDS:
                has_informed = True
                tell(_waiting_for(queue))
            progress(done - done_before)
            time.sleep(LOOK_SECONDS)
    except FileNotFoundError:  # another process has stored the last job
        return None
    except (ReplicateError, OSError) as error:
        return str(error)
    return None


def _waiting_for(queue: Queue) -> str:
    return (
        f"waiting for another process, which is storing the experiment {ids.short(queue.experiment)} and has stored "
        f"nothing for {PATIENCE_SECONDS} seconds: is it stopped, or is its storage slow? After {STALLED_SECONDS // 60} "
        "minutes sync stops waiting; nothing is lost"
    )


def wait_until_stored(spool: Spool, experiment: str) -> None:
    """Wait until everything recorded of an experiment so far is stored. Store it here if no other process does.

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
        raise StorageFailed(f"it is not stored yet, and this user can't store it: {error}") from error
    if taken:  # no other process stores it
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
    """Tell whether some of these jobs are not stored, or their process died and that is not recorded yet."""
    return bool(jobs and queue.state().mark < jobs[-1].after) or queue.is_abandoned()
