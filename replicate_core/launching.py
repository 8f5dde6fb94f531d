"""Getting a queue emptied: by a child process beside the training, or, where there can be none, in this process.

Both know what is in the way of storing, and neither ever raises into the training.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from replicate_core import environment, errors, heartbeats
from replicate_core.draining import Drain
from replicate_core.errors import Corrupted, ReplicateError, StorageFailed, TooNew
from replicate_core.heartbeats import Heartbeat
from replicate_core.known import Known
from replicate_core.recorder import LEFT
from replicate_core.repository import Repository
from replicate_core.spool import Queue, Spool, Trouble

READY_SECONDS = 180
"""How long a recorder may take to reach the storage: longer than any request to it."""

STARTS_MAX = 5
"""So often a recorder that died is started again."""

LEAVE_SECONDS = 2
"""How long a recorder that has nothing left to do may take to end."""

PATIENCE = 3
"""So many attempts may fail before it is worth a word, unless nothing will help but a change."""

SWITCH = "REPLICATE_RECORDER"
"""Variable of the environment: `none` stores within the training, for systems where no process may be started."""

STEADY_SECONDS = 600
"""One that lived for so long before is none of those."""

_PROGRAM = """# replicate: the recorder of a training, which stores what it saves
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from replicate_core.recorder import main
main(sys.argv[1:])"""
"""This very copy of the package; and not `python -m`, which looks for all modules in the working directory first."""


_others: list[subprocess.Popen[bytes]] = []
"""Processes that nobody asks any more: an object that is dropped would warn that its process still runs."""


class Launched(Protocol):
    """Whoever empties the queue of this process."""

    def wait_until_ready(self) -> None:
        """Wait until the storage was reached.

        Raises:
            ReplicateError: it can't be; of the class that opening it here would have raised.
        """

    def attend(self) -> bool:
        """See to it that what was appended gets stored; called after each job that has files, and now and then.

        Returns:
            Whether anybody is at work.
        """

    def trouble(self) -> Trouble | None:
        """What is in the way of storing."""

    def is_alive(self) -> bool:
        """Tell whether anybody is at work."""

    def leave(self) -> None:
        """Ask for nothing any more; who is at work goes on."""


class ChildRecorder:
    """A recorder process, started again when it dies.

    Args:
        queue: what it empties.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._starts = 0
        self._process = self._start()

    def wait_until_ready(self) -> None:
        """See `Launched.wait_until_ready`."""
        deadline = time.monotonic() + READY_SECONDS
        while not (state := self._queue.state()).ready:
            if state.trouble is not None:
                raise as_error(state.trouble)
            if not self.is_alive() and self._queue.directory.is_dir() and not self._queue.state().ready:
                raise StorageFailed(
                    f"the process that stores what is saved ended with {self._process.returncode} before it had begun: "
                    f"{_last_lines(self._queue.log)}. REPLICATE_RECORDER=none stores within the training instead"
                )
            if time.monotonic() > deadline:
                raise StorageFailed(f"the storage did not answer within {READY_SECONDS} seconds")
            time.sleep(0.01)

    def attend(self) -> bool:
        """See `Launched.attend`: start it again if it died."""
        status = self._process.poll()
        if status is None:
            if time.monotonic() - self._started_at > STEADY_SECONDS:
                self._starts = min(self._starts, 1)
            return True
        gave_up = status in (0, LEFT) and not self._queue.is_owned()
        if gave_up or not self._queue.directory.is_dir() or self._starts > STARTS_MAX:
            return False
        if self._starts == STARTS_MAX:
            self._starts += 1
            warnings.warn(
                f"the process that stores what is saved has died {STARTS_MAX} times, and is not started again. What is "
                f"saved waits in {self._queue.directory}; `replicate sync` stores it. Its last words: "
                f"{_last_lines(self._queue.log)}",
                stacklevel=5,
            )
            return False
        last_words = _last_lines(self._queue.log)
        try:
            self._process = self._start()
        except OSError:
            return False
        if self._starts == 2:
            warnings.warn(
                f"the process that stores what is saved has died ({status}) and was started again; "
                f"nothing is lost. Its last words: {last_words}",
                stacklevel=5,
            )
        return True

    def trouble(self) -> Trouble | None:
        """See `Launched.trouble`: a failure that may pass is none before it happened again and again."""
        trouble = self._queue.state().trouble
        return None if trouble is None or (not trouble.permanent and trouble.attempts < PATIENCE) else trouble

    def is_alive(self) -> bool:
        """See `Launched.is_alive`."""
        return self._process.poll() is None

    def leave(self) -> None:
        """See `Launched.leave`."""
        try:
            self._process.wait(0 if self._queue.directory.is_dir() else LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            _others.append(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        self._starts += 1
        self._started_at = time.monotonic()
        return start([str(self._queue.directory)], directory=self._queue.directory, log=self._queue.log)


class InlineRecorder:
    """Stores in this process, before `checkpoint()` returns.

    Args:
        queue: what is emptied.
        drain: stores it.
    """

    def __init__(self, queue: Queue, drain: Drain) -> None:
        self._queue = queue
        self._drain = drain
        self._trouble: Trouble | None = None
        self._beaten_at: datetime | None = None
        self._lock = threading.Lock()

    def wait_until_ready(self) -> None:
        """See `Launched.wait_until_ready`."""
        self._drain.reach()

    def attend(self) -> bool:
        """See `Launched.attend`: store what waits."""
        with self._lock:
            try:
                if self._queue.take():  # else somebody else empties it: a checkout that waits for it
                    self._store()
            except (StorageFailed, Corrupted, TooNew, OSError) as error:
                permanent = not isinstance(error, StorageFailed) or error.permanent
                self._trouble = Trouble(type(error).__name__, str(error), permanent)
        return False

    def _store(self) -> None:
        try:
            self._beat()
            self._drain.run()
            self._trouble = None
            if self._queue.state().ended:
                self._drain.close(died_at=self._drain.repository.now())
        finally:
            self._queue.give_back()

    def _beat(self) -> None:
        now = self._drain.repository.now()
        if self._beaten_at is None or now - self._beaten_at >= heartbeats.INTERVAL:
            self._beaten_at = now
            sign = Heartbeat(self._queue.experiment, self._queue.session, now, environment.host(), os.getpid(), 0)
            heartbeats.beat(self._drain.repository, sign)

    def trouble(self) -> Trouble | None:
        """See `Launched.trouble`."""
        return self._trouble

    def is_alive(self) -> bool:
        """See `Launched.is_alive`."""
        return False

    def leave(self) -> None:
        """See `Launched.leave`."""


def launch(queue: Queue, open_repository: Callable[[], Repository]) -> Launched:
    """Get a queue emptied: by a child process, unless the storage is in this process or the user wants none.

    Args:
        queue: owned by this process.
        open_repository: opens its storage, should that be done here.
    """
    origin = queue.origin()
    if not origin.storage.startswith("memory://") and os.environ.get(SWITCH) != "none":
        try:
            return ChildRecorder(queue)
        except OSError as error:
            warnings.warn(
                f"no process could be started to store what is saved ({error}): checkpoint() stores it itself, and "
                "takes as long as that takes",
                stacklevel=5,
            )
    repository = open_repository()
    return InlineRecorder(queue, Drain(queue, repository, Known(repository), origin.compression))


def start(arguments: Sequence[str], *, directory: Path, log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a recorder process, which shares neither terminal nor fate with this one.

    Args:
        arguments: those of `recorder.main`.
        directory: one without Python files: it would find them before those of the standard library.
        log: where its last words go.

    Raises:
        OSError: this system starts no processes.
    """
    if not sys.executable:
        raise OSError("this Python does not know the program that it is")
    root = str(Path(__file__).parents[1])
    with open(log or os.devnull, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, root, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            start_new_session=True,
        )


def start_for_abandoned(spool: Spool, project: Path) -> None:
    """Start a process that stores what others have left behind, if there is anything."""
    if os.environ.get(SWITCH) == "none":
        return
    if any(queue.is_abandoned() and not queue.is_taken() for queue in spool.queues()):
        with suppress(OSError):  # it does no harm where it is
            _others.append(start(["abandoned", str(project), str(spool.directory)], directory=spool.directory))


def as_error(trouble: Trouble) -> ReplicateError:
    """The error that another process met, for this one to raise."""
    kind = getattr(errors, trouble.kind, StorageFailed)  # a bare OSError is one of the spool's disk
    error: ReplicateError = kind(trouble.message)
    return error


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return " / ".join(lines[-2:]) or "it left none"
