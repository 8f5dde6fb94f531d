"""Getting a queue uploaded: by a child process beside the training or, if there can be none, in this process.

Both know why storing fails, and neither ever raises into the training.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from replicate_core import errors, user_warnings
from replicate_core.errors import Corrupted, ReplicateError, StorageFailed, TooNew
from replicate_core.machine import environment
from replicate_core.machine.descriptors import occupy_standard
from replicate_core.repository import heartbeats
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import Repository
from replicate_core.spool.recorder import LEFT
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Queue, Trouble
from replicate_core.spool.uploading import Uploader
from replicate_core.user_warnings import warn_only

READY_SECONDS = 180
"""Maximum number of seconds in which a recorder must reach the storage: longer than any request to it."""

STARTS_MAX = 5
"""Maximum number of times that a recorder is started for one queue."""

YOUNG_SECONDS = 10
"""Maximum number of seconds in which a recorder must take a queue that it was given."""

LEAVE_SECONDS = 2
"""Seconds to wait for a recorder that has nothing left to do to end."""

PATIENCE = 3
"""Number of failed attempts before there is a warning, unless retrying is useless."""

SWITCH = "REPLICATE_RECORDER"
"""Environment variable: `none` stores within the training, for systems where no process may be started."""

STEADY_SECONDS = 600
"""Seconds after which a recorder that still runs counts as the first one again, for `STARTS_MAX`."""

_PROGRAM = """# replicate: the recorder of a training, which stores what it saves
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from replicate_core.spool.recorder import main
main(sys.argv[1:])"""
"""Imports this copy of the package. `python -m` would not: it searches the working directory first."""


class RecorderProcess(subprocess.Popen[bytes]):
    """A recorder, which may outlive this process: dropping the object while it runs is not a mistake."""

    def __init__(self, command: Sequence[str], *, directory: Path, output: IO[bytes]) -> None:
        occupy_standard()  # otherwise the pipe to it may take the place of a standard stream
        super().__init__(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=directory,
            start_new_session=True,
        )
        if self.stdin is not None:
            os.set_blocking(self.stdin.fileno(), False)  # so a stopped recorder does not block the training
        self._owner = os.getpid()
        self._environment = dict(os.environ)
        self.queues = 1
        """Number of queues it was given that this process has not detached from yet."""

    def __del__(self) -> None:
        """Close the pipe. `Popen.__del__` would warn about a process that still runs."""
        if self.stdin is not None:
            self.stdin.close()

    def add(self, queue: Path) -> bool:
        """Give it another queue; False if it can't take one: it has ended, or its environment differs from this one.

        Args:
            queue: the directory of the queue.
        """
        is_other = self._owner != os.getpid() or self._environment != dict(os.environ)
        if is_other or not self.queues or self.poll() is not None or self.stdin is None or b"\n" in os.fsencode(queue):
            return False
        if not self._write(os.fsencode(queue) + b"\n"):
            return False
        self.queues += 1
        return True

    def wake(self) -> None:
        """Wake it because there is a new job. Without this it finds the job a little later."""
        if self._owner == os.getpid():
            self._write(b"\n")

    def _write(self, line: bytes) -> bool:
        """Write a line to it, if it reads. A line is so short that it is written whole or not at all."""
        try:
            return self.stdin is not None and self.stdin.write(line) == len(line)
        except OSError:
            return False


_latest: RecorderProcess | None = None
"""The recorder that was started last. It also uploads for experiments that begin while it runs."""

_abandoned: list[RecorderProcess] = []
"""Processes that store abandoned queues."""

_warned_of: set[Path] = set()
"""Directories that the user was warned about."""


class Launched(Protocol):
    """What uploads from the queue of this process."""

    def wait_until_ready(self) -> None:
        """Wait until the storage has been reached.

        Raises:
            ReplicateError: it can't be reached. The class is that which opening the storage here would have raised.
        """

    def ensure_running(self) -> bool:
        """Ensure that what was appended gets stored. Called after each job that has files, and from time to time.

        Returns:
            Whether a process is uploading.
        """

    def wake(self) -> None:
        """Report that something was appended that should be stored at once."""

    def trouble(self) -> Trouble | None:
        """Why storing fails."""

    def halted(self) -> str | None:
        """Why a process that is alive will store nothing until somebody acts; None if it works."""

    def is_alive(self) -> bool:
        """Tell whether a process is uploading."""

    def detach(self) -> None:
        """Detach from the recorder, which continues with what it has."""


class ChildRecorder:
    """A recorder process, started again when it dies.

    Args:
        queue: the queue that it uploads from.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._starts = 0
        self._process = self._begin()

    def wait_until_ready(self) -> None:
        """See `Launched.wait_until_ready`."""
        deadline = time.monotonic() + READY_SECONDS
        while not (state := self._queue.state()).ready:
            if state.trouble is not None:
                raise as_error(state.trouble)
            if not self._queue.exists():
                raise _deleted(self._queue)
            if not self.is_alive() and not self._queue.state().ready:
                if self._shares_process:  # the shared recorder was about to end
                    self._process = self._begin()
                    continue
                raise StorageFailed(
                    f"the process that stores what is saved ended with {self._process.returncode} before it had begun: "
                    f"{_last_lines(self._queue.log)}. REPLICATE_RECORDER=none stores within the training instead"
                )
            if time.monotonic() > deadline:
                raise StorageFailed(f"the storage did not answer within {READY_SECONDS} seconds")
            time.sleep(0.002)

    def ensure_running(self) -> bool:
        """See `Launched.ensure_running`: start it again if it died."""
        status = self._process.poll()
        if status is None:
            if time.monotonic() - self._began_at > STEADY_SECONDS:
                self._starts = min(self._starts, 1)
            return self._is_at_work()
        gave_up = status in (0, LEFT) and not self._queue.is_owned()
        if gave_up or not self._queue.directory.is_dir() or self._starts > STARTS_MAX:
            return False
        if self._starts == STARTS_MAX:
            self._starts += 1
            warn_only(
                f"the process that stores what is saved has died {STARTS_MAX} times, and is not started again. What is "
                f"saved waits in {self._queue.directory}; `replicate sync` stores it. Its last output: "
                f"{_last_lines(self._queue.log)}"
            )
            return False
        last_output = _last_lines(self._queue.log)
        try:
            self._process = self._begin()
        except OSError:
            return False
        if self._starts == 2:
            warn_only(
                f"the process that stores what is saved has died ({status}) and was started again; "
                f"nothing is lost. Its last output: {last_output}"
            )
        return True

    def wake(self) -> None:
        """See `Launched.wake`."""
        self._process.wake()

    def trouble(self) -> Trouble | None:
        """See `Launched.trouble`. A temporary failure counts only after `PATIENCE` attempts."""
        trouble = self._queue.state().trouble
        return None if trouble is None or (not trouble.permanent and trouble.attempts < PATIENCE) else trouble

    def halted(self) -> str | None:
        """See `Launched.halted`."""
        process = self._process.pid
        if self._process.poll() is not None or not _is_stopped(process):
            return None
        return f"the process that stores it was stopped; `kill -CONT {process}` resumes it"

    def is_alive(self) -> bool:
        """See `Launched.is_alive`."""
        return self._process.poll() is None and self._is_at_work()

    def detach(self) -> None:
        """See `Launched.detach`."""
        self._process.queues -= 1
        if not self._process.queues and not self._queue.directory.is_dir():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_SECONDS)

    def _is_at_work(self) -> bool:
        """Tell whether the living process uploads this queue: it gives up queues whose storage fails for long."""
        is_young = time.monotonic() - self._began_at < YOUNG_SECONDS
        return self._process.queues < 2 or is_young or self._queue.is_owned_by_this_process() or self._queue.is_taken()

    def _begin(self) -> RecorderProcess:
        """Give the queue to the recorder of another experiment of this process if there is one, or start a recorder."""
        global _latest  # noqa: PLW0603  # a process has one
        self._starts += 1
        self._began_at = time.monotonic()
        directory = self._queue.directory
        self._shares_process = _latest is not None and _latest.add(directory)
        if _latest is None or not self._shares_process:
            _latest = start([str(directory)], directory=directory, log=self._queue.log)
        return _latest


class InlineRecorder:
    """Stores in this process, before `checkpoint()` returns.

    Args:
        queue: the queue.
        uploader: stores what is in it.
    """

    def __init__(self, queue: Queue, uploader: Uploader) -> None:
        self._queue = queue
        self._uploader = uploader
        self._trouble: Trouble | None = None
        self._beaten_at: datetime | None = None
        self._lock = threading.Lock()

    def wait_until_ready(self) -> None:
        """See `Launched.wait_until_ready`."""
        try:
            self._uploader.reach()
        except FileNotFoundError as error:
            raise _deleted(self._queue) from error

    def ensure_running(self) -> bool:
        """See `Launched.ensure_running`: store what waits."""
        with self._lock:
            try:
                if self._queue.take():  # if not, another process uploads it: a checkout that waits for it
                    self._store()
            except (StorageFailed, Corrupted, TooNew, OSError) as error:
                permanent = not isinstance(error, StorageFailed) or error.permanent
                self._trouble = Trouble(type(error).__name__, str(error), permanent)
        return False

    def _store(self) -> None:
        try:
            self._beat()
            self._uploader.run()
            self._trouble = None
            if self._queue.state().ended:
                self._uploader.close(died_at=self._uploader.repository.now())
        finally:
            self._queue.release()

    def _beat(self) -> None:
        now = self._uploader.repository.now()
        if self._beaten_at is None or now - self._beaten_at >= heartbeats.INTERVAL:
            self._beaten_at = now
            sign = Heartbeat(self._queue.experiment, self._queue.session, now, environment.host(), os.getpid(), 0)
            heartbeats.beat(self._uploader.repository, sign)

    def wake(self) -> None:
        """See `Launched.wake`: there is no process to wake."""

    def trouble(self) -> Trouble | None:
        """See `Launched.trouble`."""
        return self._trouble

    def halted(self) -> None:
        """See `Launched.halted`."""

    def is_alive(self) -> bool:
        """See `Launched.is_alive`."""
        return False

    def detach(self) -> None:
        """See `Launched.detach`."""


def launch(queue: Queue, open_repository: Callable[[], Repository]) -> Launched:
    """Get a queue uploaded: by a child process, unless the storage is in this process or the user wants none.

    Args:
        queue: owned by this process.
        open_repository: opens its storage, if this process uploads.
    """
    origin = queue.origin()
    if not origin.storage.startswith("memory://") and os.environ.get(SWITCH) != "none":
        try:
            return ChildRecorder(queue)
        except OSError as error:
            warn_only(
                f"no process could be started to store what is saved ({error}): checkpoint() stores it itself, and "
                "takes as long as that takes"
            )
    repository = open_repository()
    return InlineRecorder(queue, Uploader(queue, repository, ChunkIndex(repository), origin.compression))


def start(arguments: Sequence[str], *, directory: Path, log: Path | None = None) -> RecorderProcess:
    """Start a recorder process. It has no terminal, and survives the end of this process.

    Args:
        arguments: those of `recorder.main`.
        directory: its working directory. It must hold no Python files: they would hide the standard library.
        log: the file for its output.

    Raises:
        OSError: this system starts no processes.
    """
    if not sys.executable:
        raise OSError("sys.executable is empty, so this Python can't start another one")
    root = str(Path(__file__).parents[2])
    with open(log or os.devnull, "ab") as output:
        return RecorderProcess([sys.executable, "-c", _PROGRAM, root, *arguments], directory=directory, output=output)


def start_for_abandoned(spool: Spool, project: Path) -> None:
    """Start a process that stores abandoned queues, if there are any. Warn about strangers, which are left alone."""
    _warn_of_strangers(spool)
    if os.environ.get(SWITCH) == "none":
        return
    if any(queue.is_abandoned() and not queue.is_taken() for queue in spool.queues()):
        with suppress(OSError):  # what waits is safe where it is
            _abandoned.append(start(["abandoned", str(project), str(spool.named)], directory=spool.directory))


def _warn_of_strangers(spool: Spool) -> None:
    """Warn about what looks like a queue of this user but is not known to be one, once in a process."""
    strangers = [one for one in spool.strangers() if one.is_own and one.queue.directory not in _warned_of]
    for stranger in strangers:
        _warned_of.add(stranger.queue.directory)
    if strangers:
        first = strangers[0]
        more = f" ({len(strangers) - 1} more are like it: `replicate status`)" if len(strangers) > 1 else ""
        user_warnings.warn(f"{first.queue.directory} is left alone{more}: {first.why}. {first.todo}")


def _is_stopped(process: int) -> bool:
    """Tell whether a process was stopped by a signal or from a terminal; False if the system does not say."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[:1] == [b"T"]


def as_error(trouble: Trouble) -> ReplicateError:
    """The error of another process, for this one to raise."""
    named = getattr(errors, trouble.kind, None)
    if isinstance(named, type) and issubclass(named, ReplicateError):
        return named(trouble.message)
    return StorageFailed(trouble.message)  # a plain OSError is an error of the spool's disk


def _deleted(queue: Queue) -> StorageFailed:
    return StorageFailed(
        f"{queue.directory}, where what is saved waits to be stored, was deleted by somebody while the experiment "
        "began. Begin it again, and leave that directory alone until it has ended"
    )


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return " / ".join(lines[-2:]) or "none"
