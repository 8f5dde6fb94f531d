"""The recorder: the process that empties one queue of the spool while training goes on, and after it is gone.

It is started by `launching`, with nothing but the path of its queue, and tells how it is doing in the queue's state. It
runs no code of the user's and shares nothing with the training: no interpreter lock, no event loop, no exit.
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
from pathlib import Path

from replicate_core import environment, heartbeats
from replicate_core.compacting import compact_if_due
from replicate_core.draining import Drain, open_queue
from replicate_core.errors import ReplicateError, StorageFailed
from replicate_core.heartbeats import Heartbeat
from replicate_core.records import Checkpointed, Ended
from replicate_core.repository import utc_now
from replicate_core.spool import SYNC_AFTER_SECONDS, Queue, Spool, Trouble

POLL_SECONDS = 0.1
"""How soon a new job, or the end of the training, is noticed."""

NICENESS = 19
"""The training's processors are its own."""

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


class Recorder:
    """Empties one queue until the experiment is over. Its caller holds the queue.

    Args:
        queue: the queue.
        when_ready: called once the storage was reached.
    """

    def __init__(self, queue: Queue, *, when_ready: Callable[[], object] = lambda: None) -> None:
        self._queue = queue
        self._when_ready = when_ready
        self._drain: Drain | None = None
        self._seen = queue.state().mark
        self._waiting = 0
        self._is_urgent = False
        self._ended = queue.state().ended
        self._was_owned = False
        self._began = self._stored_at = time.monotonic()
        self._retry_at = 0.0
        self._died_at: datetime | None = None
        self._troubled_since: float | None = None
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._keeping = threading.Thread(target=self._keep, daemon=True)
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
                if self._is_due():
                    self._attempt()
                if not self._is_closed:
                    time.sleep(POLL_SECONDS)
        finally:
            self._stopped.set()
        return self._is_closed

    def _look(self) -> None:
        """See what came since the last look."""
        jobs = self._queue.jobs(after=self._seen, count_max=LOOK_MAX)
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
        """Store what waits; note what is in the way if something is."""
        try:
            drain = self._opened()
            if self._troubled_since is not None:  # it may have been emptied meanwhile
                drain.reach()
            self._waiting, self._is_urgent = 0, False
            drain.run()
            self._seen = max(self._seen, self._queue.state().mark)
            self._stored_at = time.monotonic()
            self._troubled_since = None
            if self._died_at is not None and not self._queue.waiting(count_max=1):
                self._close(drain, self._died_at)
        except (ReplicateError, OSError) as error:
            self._is_urgent = True
            if self._queue.directory.is_dir():
                self._note(error)

    def _opened(self) -> Drain:
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

    def _close(self, drain: Drain, died_at: datetime) -> None:
        self._stopped.set()
        self._beating.join(JOIN_SECONDS)  # no sign of life should come after the last word
        self._keeping.join(JOIN_SECONDS)
        drain.close(died_at=died_at)
        self._is_closed = True
        with suppress(ReplicateError, OSError):  # only listings gain from it
            compact_if_due(drain.repository)

    def _note(self, error: Exception) -> None:
        _log.warning("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, ReplicateError))
        state = self._queue.state()
        attempts = 1 if state.trouble is None else state.trouble.attempts + 1
        permanent = error.permanent if isinstance(error, StorageFailed) else isinstance(error, ReplicateError)
        trouble = Trouble(type(error).__name__, str(error), permanent, attempts)
        if self._troubled_since is None:
            self._troubled_since = time.monotonic()
        with suppress(OSError):  # the disk may be full
            self._queue.set_state(replace(state, trouble=trouble))
            self._queue.sync()
        shortest, longest = PAUSE_SECONDS
        pause = min(shortest * 2 ** min(attempts - 1, 10), longest)
        self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads machines, hides nothing

    def _gives_up(self) -> bool:
        """Tell whether going on is of no use: the training is gone, and the storage does not recover."""
        if self._died_at is None or self._troubled_since is None or self._retry_at == 0.0:
            return False
        trouble = self._queue.state().trouble
        is_permanent = trouble is not None and trouble.permanent
        return is_permanent or time.monotonic() - self._troubled_since > GIVE_UP.total_seconds()

    def _keep(self) -> None:
        """Sync what has to wait, and show that there is life here, beside whatever is being stored."""
        while not self._stopped.wait(SYNC_AFTER_SECONDS):
            with suppress(OSError):
                self._queue.give_sign()
                self._queue.sync(older_than_seconds=SYNC_AFTER_SECONDS)

    def _beat(self) -> None:
        """Give signs of life, beside whatever is being stored."""
        assert self._drain is not None, "the storage was opened"
        while not self._stopped.wait(heartbeats.INTERVAL.total_seconds()):
            with suppress(StorageFailed):
                heartbeats.beat(self._drain.repository, self._sign())

    def _sign(self) -> Heartbeat:
        origin = self._queue.origin()
        return Heartbeat(
            origin.experiment, origin.session, utc_now(), environment.host(), origin.process, self._waiting
        )


def record(queue: Queue, *, when_ready: Callable[[], object] = lambda: None) -> bool:
    """Empty a queue until its experiment is over, unless another process does. Tells whether all of it is stored."""
    try:
        if not queue.take():
            return False
        return Recorder(queue, when_ready=when_ready).run()
    except FileNotFoundError:  # somebody else has stored the last of it; or it was deleted
        if queue.directory.is_dir():
            raise
        return False
    finally:
        queue.give_back()


def record_abandoned(spool: Spool) -> None:
    """Store what processes have left that were killed, or whose storage failed until their end."""
    for queue in spool.queues():
        if queue.is_abandoned():
            with suppress(ReplicateError, OSError):  # it stays where it is; the others must not
                record(queue)


def main(arguments: Sequence[str]) -> None:
    """Run as a process of its own.

    Args:
        arguments: the directory of a queue; or the word `abandoned`, the project and the spool directory.
    """
    _ignore_signals()
    warnings.simplefilter("default")
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    if arguments[0] == "abandoned":
        _stand_back()
        record_abandoned(Spool(Path(arguments[1]), Path(arguments[2])))
    else:
        queue = Queue(Path(arguments[0]))
        while queue.is_owned() and queue.is_taken():  # somebody waits for what is in it, and stores it himself
            time.sleep(POLL_SECONDS)
        if not record(queue, when_ready=_stand_back):  # `init()` waits until it is ready
            sys.exit(LEFT)


def _ignore_signals() -> None:
    """Outlive what ends the training."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _stand_back() -> None:
    """Take processor time that nobody else wants."""
    with suppress(OSError, AttributeError):
        os.nice(NICENESS)
    with suppress(OSError):  # Linux shares the processors between sessions first, where this is on
        Path("/proc/self/autogroup").write_text(str(NICENESS), "ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
