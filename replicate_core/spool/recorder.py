"""The recorder: the process that empties the queues of a training while that goes on, and after it is gone.

It is started by `launching`, with nothing but the path of a queue, and tells how it is doing in the queue's state. It
runs no code of the user's and shares nothing with the training: no interpreter lock, no event loop, no exit. Should
the same process begin more experiments, it gets their queues through its standard input, a path a line; an empty line
there wakes it.
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
"""How soon a new job, or the end of the training, is noticed where nobody rings."""

PAUSE_SECONDS = (1.0, 60.0)
"""The first and the longest pause after the storage failed; each is twice the one before."""

GIVE_UP = timedelta(minutes=15)
"""How long a recorder goes on against a failing storage once the training is gone; the queue stays then."""

GATHER_SECONDS = (0.5, 30.0)
"""How long checkpoints without files are gathered into one record, at least and at most."""

GATHER_SHARE = 0.01
"""Between these, for this share of the experiment's age: a series has hundreds of records, however long it gets."""

JOIN_SECONDS = 60
"""How long a thread that is stopped may take, should the storage hang."""

LEFT = 3
"""The exit status of a recorder that could not store all."""

LOOK_MAX = 1000
"""How many jobs are looked at in one go."""

_log = logging.getLogger("replicate.recorder")


def _nothing() -> None:
    """Does nothing."""


class Recorder:
    """Empties one queue until the experiment is over. Its caller holds the queue.

    Args:
        queue: the queue.
        when_ready: called once the storage was reached.
        when_over: called once the training is over.
        bell: rung when there is something new.
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
        self._drain: Uploader | None = None
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
        self._hurried = threading.Event()
        self._beating = _Repeated(self._beat, heartbeats.INTERVAL.total_seconds)
        self._keeping = _Repeated(self._keep, lambda: SYNC_AFTER_SECONDS)
        self._is_closed = False

    def run(self) -> bool:
        """Store what comes, until there is nothing left to come. Tells whether all of it is stored.

        Raises:
            OSError: the queue is gone: the experiment was given up before it began.
        """
        try:
            while not self._gives_up():
                owned = self._queue.is_owned()  # before looking for jobs: none comes later if it is not
                if not self._queue.exists():
                    break
                self._was_owned |= owned
                self._look()
                if (not owned or self._ended) and self._died_at is None:
                    self._died_at = utc_now() if self._was_owned else self._queue.last_sign()
                    self._retry_at = 0.0
                    self._when_over()
                if self._is_due():
                    self._attempt()
                if not self._is_closed:
                    self._beating.tend()
                    self._keeping.tend()
                    self._heard = self._bell.wait(self._heard, POLL_SECONDS)
        finally:
            self._beating.stop()
            self._keeping.stop()
        return self._is_closed

    def _look(self) -> None:
        """See what came since the last look."""
        try:
            jobs = self._queue.jobs(after=self._seen, count_max=LOOK_MAX)
        except (ReplicateError, OSError):  # storing meets the same job, and notes what is wrong with it
            self._is_urgent = True
            return
        if jobs:
            self._seen = jobs[-1].after
        self._waiting += len(jobs)
        self._is_urgent |= any(job.staged is not None or not isinstance(job.record, Checkpointed) for job in jobs)
        self._ended |= any(isinstance(job.record, Ended) for job in jobs)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._drain is None or self._died_at is not None or self._is_urgent:
            return now >= self._retry_at
        gather = min(max(GATHER_SECONDS[0], GATHER_SHARE * (now - self._began)), GATHER_SECONDS[1])
        return self._waiting > 0 and now >= self._retry_at and now - self._stored_at >= gather

    def _attempt(self) -> None:
        """Store what waits: in the background while training needs the processors, and at once when it is over."""
        self._hurried.clear()
        apart = Background(self._store)
        if self._drain is None or self._died_at is not None or not apart.start():
            self._store()
            return
        while not apart.join(POLL_SECONDS):
            if not self._hurried.is_set() and not self._queue.is_owned():
                self._hurried.set()  # what is being stored now is the last thing that is stored in the background
                apart.hurry()
                self._when_over()

    def _store(self) -> None:
        """Store what waits; note what is in the way if something is."""
        try:
            drain = self._opened()
            if self._troubled_since is not None:  # it may have been emptied meanwhile
                drain.reach()
            self._waiting, self._is_urgent = 0, False
            drain.spares_memory = self._died_at is None
            drain.run(until=self._hurried.is_set)
            self._seen = max(self._seen, self._queue.state().mark)
            self._stored_at = time.monotonic()
            self._troubled_since = None
            if self._died_at is not None and not self._queue.waiting(count_max=1):
                self._close(drain, self._died_at)
        except (ReplicateError, OSError) as error:
            self._is_urgent = True
            if self._queue.directory.is_dir():
                self._note(error)
            with suppress(Corrupted, OSError):
                self._waiting = sum(job.after <= self._seen for job in self._queue.waiting())

    def _opened(self) -> Uploader:
        """Reach the storage, once."""
        if self._drain is None:
            drain = open_queue(self._queue, patient=True)
            drain.reach()
            heartbeats.beat(drain.repository, self._sign())  # and something can be written there
            self._queue.set_state(replace(self._queue.state(), ready=True, trouble=None))
            self._drain = drain
            self._when_ready()
            self._beating.start()
            self._keeping.start()
        return self._drain

    def _close(self, drain: Uploader, died_at: datetime) -> None:
        self._beating.stop(JOIN_SECONDS)  # no sign of life should come after the last word
        self._keeping.stop(JOIN_SECONDS)
        drain.close(died_at=died_at)
        self._is_closed = True
        from replicate_core.repository.compacting import compact_if_due  # noqa: PLC0415  # before it is ready, a training waits

        compaction = Background(partial(compact_if_due, drain.repository))
        with suppress(ReplicateError, OSError):  # only listings gain from it
            if compaction.start():
                compaction.join()

    def _note(self, error: ReplicateError | OSError) -> None:
        _log.warning("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, ReplicateError))
        state = self._queue.state()
        attempts = 1 if state.trouble is None else state.trouble.attempts + 1
        trouble = Trouble(type(error).__name__, _what_to_do(error), _is_permanent(error), attempts)
        self._is_hopeless = trouble.permanent and getattr(error, "errno", None) not in FULL  # room may be made
        if self._troubled_since is None:
            self._troubled_since = time.monotonic()
        self._queue.drop_spares()  # it may be room that is wanted
        with suppress(OSError):  # the disk may be broken
            self._queue.set_state(replace(state, trouble=trouble))
            self._queue.sync()
        shortest, longest = PAUSE_SECONDS
        pause = min(shortest * 2 ** min(attempts - 1, 10), longest)
        self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads machines, hides nothing

    def _gives_up(self) -> bool:
        """Tell whether going on is of no use: the training is gone, and the storage does not recover."""
        if self._died_at is None or self._troubled_since is None or self._retry_at == 0.0:
            return False
        return self._is_hopeless or time.monotonic() - self._troubled_since > GIVE_UP.total_seconds()

    def _keep(self) -> None:
        """Sync what has to wait, and give a sign of life in the queue, beside whatever is being stored."""
        with suppress(OSError):
            self._queue.give_sign()
            self._queue.sync(older_than_seconds=SYNC_AFTER_SECONDS)

    def _beat(self) -> None:
        """Give a sign of life, beside whatever is being stored."""
        assert self._drain is not None, "the storage was opened"
        with suppress(StorageFailed):
            heartbeats.beat(self._drain.repository, self._sign())

    def _sign(self) -> Heartbeat:
        origin = self._queue.origin()
        return Heartbeat(
            origin.experiment, origin.session, utc_now(), environment.host(), origin.process, self._waiting
        )


def _is_permanent(error: ReplicateError | OSError) -> bool:
    """Tell whether trying again is of no use until somebody has changed something."""
    if isinstance(error, StorageFailed):
        return error.permanent
    return isinstance(error, ReplicateError) or error.errno in LASTING


def _what_to_do(error: ReplicateError | OSError) -> str:
    """What an error says; where it is one of the spool's disk, with what to do."""
    return str(error) if isinstance(error, ReplicateError) else f"{error}. {disk_advice(error)}"


class _Repeated:
    """Does something again and again, in a thread; where the system starts no more of them, whenever it is tended.

    Args:
        action: what to do.
        interval_seconds: how long to wait before each time.
    """

    def __init__(self, action: Callable[[], object], interval_seconds: Callable[[], float]) -> None:
        self._action = action
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._due_at: float | None = None
        """When it is to be done next; None while a thread sees to that."""

    def start(self) -> None:
        if not start_thread(self._thread):
            self._due_at = time.monotonic() + self._interval_seconds()

    def tend(self) -> None:
        """Do it now if it is due, and no thread does."""
        if self._due_at is not None and time.monotonic() >= self._due_at:
            self._action()
            self._due_at = time.monotonic() + self._interval_seconds()

    def stop(self, seconds: float = 0.0) -> None:
        """Do it no more; what is under way is waited for, for so long at most."""
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
    """Empty a queue until its experiment is over, unless another process does. Tells whether all of it is stored.

    Arguments are those of `Recorder`.
    """
    try:
        if not queue.take():
            return False
        return Recorder(queue, when_ready=when_ready, when_over=when_over, bell=bell).run()
    except FileNotFoundError:  # somebody else has stored the last of it; or it was deleted
        if queue.directory.is_dir():
            raise
        return False
    finally:
        queue.release()


def record_abandoned(spool: Spool) -> None:
    """Store what processes have left that were killed, or whose storage failed until their end."""
    for queue in spool.queues():
        if queue.is_abandoned():
            with suppress(ReplicateError, OSError):  # it stays where it is; the others must not
                record(queue)


class Team:
    """The queues that this process empties, all of one training: the first one in this thread, others beside it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._bell = Bell()
        self._is_over = False
        self._all_stored = True

    def run(self, first: Path) -> bool:
        """Empty a queue, and those that come meanwhile. Tells whether all of it is stored."""
        if not start_thread(threading.Thread(target=self._listen, daemon=True)):
            os.close(sys.stdin.fileno())  # then the training starts another process for its next experiment
        self._record(Queue(first))
        while (thread := self._next()) is not None:
            thread.join()
        return self._all_stored

    def _next(self) -> threading.Thread | None:
        with self._lock:
            self._is_over = not self._threads
            return self._threads.pop() if self._threads else None

    def _listen(self) -> None:
        """Take the queues that the training names, until it is gone; an empty line says that there is something new."""
        rest = b""
        while data := os.read(sys.stdin.fileno(), 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                self._add(Queue(Path(os.fsdecode(line))))
            self._bell.ring()
        self._bell.ring()

    def _add(self, queue: Queue) -> None:
        thread = threading.Thread(target=self._record_or_die, args=(queue,), daemon=True)
        with self._lock:
            if self._is_over:
                return
            if start_thread(thread):
                self._threads.append(thread)
                return
        with suppress(OSError):
            trouble = Trouble(
                "StorageFailed", "the system starts no more threads to store it", permanent=True, attempts=1
            )
            queue.set_state(replace(queue.state(), trouble=trouble))

    def _record_or_die(self, queue: Queue) -> None:
        try:
            self._record(queue)
        except BaseException:  # a fault of ours: the training starts another process, as after any other death
            logging.getLogger("replicate.recorder").exception("storing %s failed", queue.directory)
            os._exit(1)

    def _record(self, queue: Queue) -> None:
        while queue.is_owned() and queue.is_taken():  # somebody waits for what is in it, and stores it himself
            time.sleep(POLL_SECONDS)
        with suppress(FileNotFoundError):  # all of it was stored meanwhile
            queue.watch()
        # `init()` waits until it is ready
        while not record(queue, when_ready=_stand_back, when_over=_step_forward, bell=self._bell):
            if not queue.follow():
                self._all_stored = False
                return


def main(arguments: Sequence[str]) -> None:
    """Run as a process of its own.

    Args:
        arguments: the directory of a queue; or the word `abandoned`, the project and the spool directory.
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
    """Outlive what ends the training."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _stand_back() -> None:
    """Leave the processors to the training."""
    if background.HAS_THREAD_PRIORITIES:
        background.set_session_niceness(background.NICENESS)
    else:
        background.lower_this_process()


def _step_forward() -> None:
    """Take part in the processors like everybody else: no training needs them any more, and a person may wait."""
    background.set_session_niceness(0)


if __name__ == "__main__":
    main(sys.argv[1:])
