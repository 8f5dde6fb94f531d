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
from datetime import timedelta
from pathlib import Path

from replicate_core import environment, heartbeats
from replicate_core.draining import Drain, open_queue
from replicate_core.errors import ReplicateError, StorageFailed
from replicate_core.heartbeats import Heartbeat
from replicate_core.records import Checkpointed, Ended
from replicate_core.repository import utc_now
from replicate_core.spool import Queue, Spool, Trouble

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
        self._over_since: float | None = None
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def run(self) -> bool:
        """Store what comes, until there is nothing left to come. Tells whether all of it is stored.

        Raises:
            OSError: the queue is gone: the experiment was given up before it began.
        """
        try:
            while self._queue.directory.is_dir() and not self._gives_up():
                owned = self._queue.is_owned()  # before looking for jobs: none comes later if it is not
                self._was_owned |= owned
                self._look()
                over = not owned or self._ended
                if over and self._over_since is None:
                    self._over_since, self._retry_at = time.monotonic(), 0.0
                if self._is_due(over=over):
                    self._attempt(over=over)
                if self._queue.directory.is_dir():
                    time.sleep(POLL_SECONDS)
        finally:
            self._stopped.set()
        return not self._queue.directory.is_dir()

    def _look(self) -> None:
        """See what came since the last look."""
        jobs = self._queue.jobs(after=self._seen, count_max=LOOK_MAX)
        if jobs:
            self._seen = jobs[-1].after
        self._waiting += len(jobs)
        self._is_urgent |= any(job.staged is not None or not isinstance(job.record, Checkpointed) for job in jobs)
        self._ended |= any(isinstance(job.record, Ended) for job in jobs)

    def _is_due(self, *, over: bool) -> bool:
        now = time.monotonic()
        if self._drain is None or over or self._is_urgent:
            return now >= self._retry_at and (self._drain is None or over or self._waiting > 0)
        gather = min(max(GATHER_SECONDS[0], GATHER_SHARE * (now - self._began)), GATHER_SECONDS[1])
        return self._waiting > 0 and now >= self._retry_at and now - self._stored_at >= gather

    def _attempt(self, *, over: bool) -> None:
        """Store what waits; note what is in the way if something is."""
        try:
            drain = self._opened()
            drain.run()
            self._seen, self._waiting, self._is_urgent = max(self._seen, self._queue.state().mark), 0, False
            self._stored_at = time.monotonic()
            if over:
                self._close(drain)
        except (ReplicateError, OSError) as error:
            if self._queue.directory.is_dir():
                self._note(error)

    def _opened(self) -> Drain:
        """Reach the storage, once."""
        if self._drain is None:
            drain = open_queue(self._queue)
            drain.reach()
            self._drain = drain
            self._queue.set_state(replace(self._queue.state(), ready=True, trouble=None))
            self._when_ready()
            self._beating.start()
        return self._drain

    def _close(self, drain: Drain) -> None:
        self._stopped.set()
        self._beating.join()  # no sign of life comes after the last word
        drain.close(died_at=utc_now() if self._was_owned else self._queue.last_append())

    def _note(self, error: Exception) -> None:
        _log.warning("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, ReplicateError))
        state = self._queue.state()
        attempts = 1 if state.trouble is None else state.trouble.attempts + 1
        permanent = error.permanent if isinstance(error, StorageFailed) else isinstance(error, ReplicateError)
        trouble = Trouble(type(error).__name__, str(error), permanent, attempts)
        with suppress(OSError):  # the disk may be full
            self._queue.set_state(replace(state, trouble=trouble))
            self._queue.sync()
        shortest, longest = PAUSE_SECONDS
        pause = min(shortest * 2 ** min(attempts - 1, 10), longest)
        self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads machines, hides nothing

    def _gives_up(self) -> bool:
        """Tell whether going on is of no use: the training is gone, and the storage does not recover."""
        trouble = self._queue.state().trouble
        if trouble is None or self._over_since is None:
            return False
        return trouble.permanent or time.monotonic() - self._over_since > GIVE_UP.total_seconds()

    def _beat(self) -> None:
        """Give signs of life, beside whatever is being stored."""
        origin = self._queue.origin()
        assert self._drain is not None, "the storage was opened"
        while True:
            sign = Heartbeat(origin.experiment, utc_now(), environment.host(), origin.process, self._waiting)
            with suppress(StorageFailed):
                heartbeats.beat(self._drain.repository, sign)
            if self._stopped.wait(heartbeats.INTERVAL.total_seconds()):
                return


def record(queue: Queue, *, when_ready: Callable[[], object] = lambda: None) -> bool:
    """Empty a queue until its experiment is over, unless another process does. Tells whether all of it is stored."""
    try:
        if not queue.take():
            return False
    except OSError:  # it is gone: all of it is stored
        return True
    try:
        return Recorder(queue, when_ready=when_ready).run()
    except OSError:
        if queue.directory.is_dir():
            raise
        return True
    finally:
        queue.give_back()


def record_abandoned(spool: Spool) -> None:
    """Store what processes have left that were killed, or whose storage failed until their end."""
    for queue in spool.queues():
        if not queue.is_owned():
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
        record(queue, when_ready=_stand_back)  # `init()` waits until then


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
