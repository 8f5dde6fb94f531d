"""The recorder: the process that uploads the queues of a training, while it runs and after it has ended.

`launching` starts it with the path of a queue. It reports its progress in the queue's state. It runs no user code and
shares nothing with the training: no interpreter lock, no event loop, no exit. If the training begins more experiments,
the recorder reads the paths of their queues from its standard input, one a line; an empty line wakes it.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from replicate_core.errors import Corrupted, ReplicateError, StorageFailed
from replicate_core.format.records import Checkpointed, Ended
from replicate_core.machine import background, environment
from replicate_core.machine.background import Background, Bell, start_thread
from replicate_core.machine.files import FULL, LASTING, disk_advice
from replicate_core.repository import heartbeats
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import utc_now
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import SYNC_AFTER_SECONDS, Queue, Trouble
from replicate_core.spool.uploading import Uploader, open_queue

POLL_SECONDS = 0.1
"""Seconds between looks for new jobs and for the end of the training, while nothing rings the bell."""

PAUSE_SECONDS = (1.0, 60.0)
"""Seconds of the first and of the longest pause after the storage failed; each pause is twice the one before."""

GIVE_UP = timedelta(minutes=15)
"""How long a recorder retries a failing storage after the training has ended. The queue stays when it gives up."""

GATHER_SECONDS = (0.5, 30.0)
"""Minimum and maximum seconds for which checkpoints without files are gathered into one record."""

GATHER_SHARE = 0.01
"""Share of the experiment's age to gather for, within `GATHER_SECONDS`: a long series has only hundreds of records."""

JOIN_SECONDS = 60
"""Maximum number of seconds to wait for a thread that was stopped: the storage may hang."""

LEFT = 3
"""Exit status of a recorder that could not store everything."""

LOOK_MAX = 1000
"""Maximum number of jobs read at once."""

_log = logging.getLogger("replicate.recorder")


def _nothing() -> None:
    """Do nothing."""


class Recorder:
    """Uploads from one queue until the experiment is over. Its caller has taken the queue.

    Args:
        queue: the queue.
        when_ready: called when the storage has been reached.
        when_over: called when the training is over.
        bell: rung when there is a new job.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        when_ready: Callable[[], object] = _nothing,
        when_over: Callable[[], object] = _nothing,
        bell: Bell | None = None,
    ) -> None:
        self._queue = queue
        self._bell = bell or Bell()
        self._heard = 0
        self._when_ready = when_ready
        self._when_over = when_over
        self._uploader: Uploader | None = None
        self._seen = queue.state().mark
        self._waiting = 0
        self._is_urgent = False
        self._ended = queue.state().ended
        self._was_owned = False
        self._began = self._stored_at = time.monotonic()
        self._retry_at = 0.0
        self._died_at: datetime | None = None
        self._troubled_since: float | None = None
        self._is_hopeless = False
        self._leaves_background = threading.Event()
        self._heartbeats = _Periodic(self._beat, heartbeats.INTERVAL.total_seconds)
        self._syncs = _Periodic(self._sync, lambda: SYNC_AFTER_SECONDS)
        self._is_closed = False

    def run(self) -> bool:
        """Store the jobs of the queue until no more can come. Returns whether all are stored.

        Raises:
            OSError: the queue is gone, because the experiment was abandoned before it began.
        """
        try:
            while not self._gives_up():
                owned = self._queue.is_owned()  # before reading jobs: if it is not owned, no more can come
                if not self._queue.exists():
                    break
                self._was_owned |= owned
                self._read_jobs()
                if (not owned or self._ended) and self._died_at is None:
                    self._died_at = utc_now() if self._was_owned else self._queue.last_sign()
                    self._retry_at = 0.0
                    self._when_over()
                if self._is_due():
                    self._attempt()
                if not self._is_closed:
                    self._heartbeats.run_if_due()
                    self._syncs.run_if_due()
                    self._heard = self._bell.wait(self._heard, POLL_SECONDS)
        finally:
            self._heartbeats.stop()
            self._syncs.stop()
        return self._is_closed

    def _read_jobs(self) -> None:
        """Read the jobs that were appended since the last call."""
        try:
            jobs = self._queue.jobs(after=self._seen, count_max=LOOK_MAX)
        except (ReplicateError, OSError):  # storing the job will fail as well, and record why
            self._is_urgent = True
            return
        if jobs:
            self._seen = jobs[-1].after
        self._waiting += len(jobs)
        self._is_urgent |= any(job.staged is not None or not isinstance(job.record, Checkpointed) for job in jobs)
        self._ended |= any(isinstance(job.record, Ended) for job in jobs)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._uploader is None or self._died_at is not None or self._is_urgent:
            return now >= self._retry_at
        gather = min(max(GATHER_SECONDS[0], GATHER_SHARE * (now - self._began)), GATHER_SECONDS[1])
        return self._waiting > 0 and now >= self._retry_at and now - self._stored_at >= gather

    def _attempt(self) -> None:
        """Store what waits: at low priority while training needs the processors, at normal priority afterwards."""
        self._leaves_background.clear()
        worker = Background(self._store)
        if self._uploader is None or self._died_at is not None or not worker.start():
            self._store()
            return
        while not worker.join(POLL_SECONDS):
            if not self._leaves_background.is_set() and not self._queue.is_owned():
                self._leaves_background.set()  # what is being stored now is the last job stored in the background
                worker.hurry()
                self._when_over()

    def _store(self) -> None:
        """Store what waits; record the failure if there is one."""
        try:
            uploader = self._opened()
            if self._troubled_since is not None:  # the storage may have lost its content meanwhile
                uploader.reach()
            self._waiting, self._is_urgent = 0, False
            uploader.spares_memory = self._died_at is None
            uploader.run(until=self._leaves_background.is_set)
            self._seen = max(self._seen, self._queue.state().mark)
            self._stored_at = time.monotonic()
            self._troubled_since = None
            if self._died_at is not None and not self._queue.waiting(count_max=1):
                self._close(uploader, self._died_at)
        except (ReplicateError, OSError) as error:
            self._is_urgent = True
            if self._queue.directory.is_dir():
                self._record_failure(error)
            with suppress(Corrupted, OSError):
                self._waiting = sum(job.after <= self._seen for job in self._queue.waiting())

    def _opened(self) -> Uploader:
        """Open the storage, on the first call."""
        if self._uploader is None:
            uploader = open_queue(self._queue, patient=True)
            uploader.reach()
            heartbeats.beat(uploader.repository, self._sign())  # shows that the storage is writable
            self._queue.set_state(replace(self._queue.state(), ready=True, trouble=None))
            self._uploader = uploader
            self._when_ready()
            self._heartbeats.start()
            self._syncs.start()
        return self._uploader

    def _close(self, uploader: Uploader, died_at: datetime) -> None:
        self._heartbeats.stop(JOIN_SECONDS)  # no heartbeat should come after the end
        self._syncs.stop(JOIN_SECONDS)
        uploader.close(died_at=died_at)
        self._is_closed = True
        from replicate_core.repository.compacting import compact_if_due  # noqa: PLC0415  # a training waits for start-up

        compaction = Background(partial(compact_if_due, uploader.repository))
        with suppress(ReplicateError, OSError):  # it only makes listings faster
            if compaction.start():
                compaction.join()

    def _record_failure(self, error: ReplicateError | OSError) -> None:
        _log.warning("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, ReplicateError))
        state = self._queue.state()
        attempts = 1 if state.trouble is None else state.trouble.attempts + 1
        trouble = Trouble(type(error).__name__, _message(error), _is_permanent(error), attempts)
        self._is_hopeless = trouble.permanent and getattr(error, "errno", None) not in FULL  # somebody may make room
        if self._troubled_since is None:
            self._troubled_since = time.monotonic()
        self._queue.drop_spares()  # the disk may be full
        with suppress(OSError):  # the disk may be broken
            self._queue.set_state(replace(state, trouble=trouble))
            self._queue.sync()
        shortest, longest = PAUSE_SECONDS
        pause = min(shortest * 2 ** min(attempts - 1, 10), longest)
        self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311  # so machines retry apart

    def _gives_up(self) -> bool:
        """Tell whether to stop retrying: the training has ended, and the storage does not recover."""
        if self._died_at is None or self._troubled_since is None or self._retry_at == 0.0:
            return False
        return self._is_hopeless or time.monotonic() - self._troubled_since > GIVE_UP.total_seconds()

    def _sync(self) -> None:
        """Sync what has waited long enough, and give a sign of life in the queue. Runs beside uploads."""
        with suppress(OSError):
            self._queue.give_sign()
            self._queue.sync(older_than_seconds=SYNC_AFTER_SECONDS)

    def _beat(self) -> None:
        """Write a heartbeat. Runs beside uploads."""
        assert self._uploader is not None, "the storage was opened"
        with suppress(StorageFailed):
            heartbeats.beat(self._uploader.repository, self._sign())

    def _sign(self) -> Heartbeat:
        origin = self._queue.origin()
        return Heartbeat(
            origin.experiment, origin.session, utc_now(), environment.host(), origin.process, self._waiting
        )


def _is_permanent(error: ReplicateError | OSError) -> bool:
    """Tell whether retrying is useless until somebody changes something."""
    if isinstance(error, StorageFailed):
        return error.permanent
    return isinstance(error, ReplicateError) or error.errno in LASTING


def _message(error: ReplicateError | OSError) -> str:
    """The message of an error; for an error of the spool's disk, what to do as well."""
    return str(error) if isinstance(error, ReplicateError) else f"{error}. {disk_advice(error)}"


class _Periodic:
    """Calls a function at intervals, in a thread. If the system can't start one, `run_if_due` calls it instead.

    Args:
        action: the function.
        interval_seconds: returns the seconds to wait before each call.
    """

    def __init__(self, action: Callable[[], object], interval_seconds: Callable[[], float]) -> None:
        self._action = action
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._due_at: float | None = None
        """When to call it next; None if a thread does."""

    def start(self) -> None:
        if not start_thread(self._thread):
            self._due_at = time.monotonic() + self._interval_seconds()

    def run_if_due(self) -> None:
        """Call the function now if it is due and no thread calls it."""
        if self._due_at is not None and time.monotonic() >= self._due_at:
            self._action()
            self._due_at = time.monotonic() + self._interval_seconds()

    def stop(self, seconds: float = 0.0) -> None:
        """Stop calling the function. Wait at most `seconds` for a call that is running."""
        self._stopped.set()
        self._due_at = None
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds()):
            self._action()


def record(
    queue: Queue,
    *,
    when_ready: Callable[[], object] = _nothing,
    when_over: Callable[[], object] = _nothing,
    bell: Bell | None = None,
) -> bool:
    """Upload from a queue until its experiment is over, unless another process does. Returns whether all is stored.

    The arguments are those of `Recorder`.
    """
    try:
        if not queue.take():
            return False
        return Recorder(queue, when_ready=when_ready, when_over=when_over, bell=bell).run()
    except FileNotFoundError:  # another process has stored the last job, or the queue was deleted
        if queue.directory.is_dir():
            raise
        return False
    finally:
        queue.release()


def record_abandoned(spool: Spool) -> None:
    """Store what is left of processes that were killed, or whose storage failed until their end."""
    for queue in spool.queues():
        if queue.is_abandoned():
            with suppress(ReplicateError, OSError):  # this queue stays; the others must still be stored
                record(queue)


class Team:
    """The queues that this process uploads, all of one training: the first in this thread, each other in its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._bell = Bell()
        self._is_over = False
        self._all_stored = True

    def run(self, first: Path) -> bool:
        """Upload from a queue, and from those that are added meanwhile. Returns whether all is stored."""
        if not start_thread(threading.Thread(target=self._listen, daemon=True)):
            os.close(sys.stdin.fileno())  # so the training starts another process for its next experiment
        self._record(Queue(first))
        while (thread := self._next()) is not None:
            thread.join()
        return self._all_stored

    def _next(self) -> threading.Thread | None:
        with self._lock:
            self._is_over = not self._threads
            return self._threads.pop() if self._threads else None

    def _listen(self) -> None:
        """Add the queues that the training names, until it ends. An empty line says that there is a new job."""
        rest = b""
        while data := os.read(sys.stdin.fileno(), 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                self._add(Queue(Path(os.fsdecode(line))))
            self._bell.ring()
        self._bell.ring()

    def _add(self, queue: Queue) -> None:
        thread = threading.Thread(target=self._record_or_exit, args=(queue,), daemon=True)
        with self._lock:
            if self._is_over:
                return
            if start_thread(thread):
                self._threads.append(thread)
                return
        with suppress(OSError):
            trouble = Trouble(
                "StorageFailed", "the system can't start another thread to store it", permanent=True, attempts=1
            )
            queue.set_state(replace(queue.state(), trouble=trouble))

    def _record_or_exit(self, queue: Queue) -> None:
        try:
            self._record(queue)
        except BaseException:  # a bug of ours: the training starts another process, as after any other crash
            logging.getLogger("replicate.recorder").exception("storing %s failed", queue.directory)
            os._exit(1)

    def _record(self, queue: Queue) -> None:
        while queue.is_owned() and queue.is_taken():  # a process that waits for these jobs is storing them itself
            time.sleep(POLL_SECONDS)
        with suppress(FileNotFoundError):  # all of it was stored meanwhile
            queue.watch()
        # normal priority until ready: `init()` waits for that
        while not record(queue, when_ready=_lower_priority, when_over=_restore_priority, bell=self._bell):
            if not queue.follow():
                self._all_stored = False
                return


def main(arguments: Sequence[str]) -> None:
    """Run as a process of its own.

    Args:
        arguments: the directory of a queue; or the word `abandoned`, the project directory and the spool directory.
    """
    _ignore_signals()
    warnings.simplefilter("default")
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    if arguments[0] == "abandoned":
        background.lower_this_process()
        record_abandoned(Spool(Path(arguments[1]), Path(arguments[2])))
    elif not Team().run(Path(arguments[0])):
        sys.exit(LEFT)


def _ignore_signals() -> None:
    """Ignore the signals that end the training: the recorder outlives it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _lower_priority() -> None:
    """Run at low priority, so that the training gets the processors."""
    if background.HAS_THREAD_PRIORITIES:
        background.set_session_niceness(background.NICENESS)
    else:
        background.lower_this_process()


def _restore_priority() -> None:
    """Run at normal priority: the training is over, and a person may be waiting."""
    background.set_session_niceness(0)


if __name__ == "__main__":
    main(sys.argv[1:])
