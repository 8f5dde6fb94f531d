"""What waits to be stored of one experiment: room for it, and waiting until it is stored.

What training is held up by is here: copying its files, and waiting for room or for the end.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from typing import NamedTuple

from replicate_core.config import SpoolConfig
from replicate_core.errors import StorageFailed
from replicate_core.format import ids, records
from replicate_core.format.records import (
    CheckpointFacts,
)
from replicate_core.formatting import count
from replicate_core.machine.files import FULL, Tree, disk_advice
from replicate_core.machine.staging import SMALL_BYTES, Staged
from replicate_core.recording.launching import Launched
from replicate_core.recording.notices import UploadDisplay, Waiting
from replicate_core.recording.place import size_of
from replicate_core.spool.upload_queue import Queue
from replicate_core.user_warnings import warn_only

_GONE = "the process that stores them is gone"

LOOK_SECONDS = 1.0
"""How often, at most, `checkpoint()` looks how storing is doing."""

WAIT_SECONDS = 0.05
"""How often a wait is checked for its end, once it takes longer."""

FIRST_WAIT_SECONDS = 0.002
"""How soon it is checked first: each time is twice the one before."""

ROOM_SECONDS = 600.0
END_SECONDS = 1800.0
"""How long `checkpoint()` waits for room, and the end of an experiment for the rest, while nothing gets stored."""

STALLED_SECONDS = 10.0
"""Once nothing was stored for so long, the end of an experiment says so."""

KEEP_FREE_SHARE = 0.05
KEEP_FREE_BYTES_MAX = 2 * 10**9
"""How much of a disk is left alone unless the config says so."""


class _Unstored(NamedTuple):
    """A job with files that was not stored when somebody last looked."""

    number: int
    checkpoint: str | None
    staged: Staged
    size_bytes: int


class _Stall:
    """Notices when something has not changed for long."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.jobs = -1

    def is_over(self, jobs: int, seconds: float) -> bool:
        """Tell whether as many jobs wait as so many seconds ago."""
        if jobs != self.jobs:
            self._since, self.jobs = time.monotonic(), jobs
        return self.seconds > seconds

    @property
    def seconds(self) -> float:
        """For how many seconds nothing has changed, as of the last look."""
        return time.monotonic() - self._since


class Backlog:
    """What an experiment has in the spool that is not stored yet: it grows as long as there is room, and is waited for.

    Args:
        queue: where its jobs go; owned by this process.
        launched: who uploads what is in it.
        limits: how much may wait.
    """

    def __init__(self, queue: Queue, launched: Launched, limits: SpoolConfig) -> None:
        self._queue = queue
        self._launched = launched
        self._limits = limits
        self.jobs = 0
        """How many were appended."""
        self._unstored: deque[_Unstored] = deque()
        self._unstored_bytes = 0
        self._best: CheckpointFacts | None = None
        self._told_of_waiting: set[int | None] = set()
        self._looked_at = 0.0

    def append(
        self,
        record: records.Record,
        staged: Staged | None = None,
        facts: CheckpointFacts | None = None,
        *,
        blocked_seconds: float,
    ) -> None:
        """Append a job.

        Args:
            record: what is recorded.
            staged: its files, if it has some.
            facts: the checkpoint, if it is one.
            blocked_seconds: how long training was held up so far.

        Raises:
            StorageFailed: there is no room even for that.
        """
        try:
            self._queue.append(record, staged, blocked_seconds=blocked_seconds)
        except OSError as error:
            if self._queue.follow():
                self.append(record, staged, facts, blocked_seconds=blocked_seconds)
                return
            if staged is not None:
                shutil.rmtree(staged.directory, ignore_errors=True)
            raise self._no_room(error) from error
        self.jobs += 1
        if staged is not None:
            self._launched.wake()
            item = _Unstored(self.jobs, None if facts is None else facts.id, staged, staged.total_bytes)
            self._unstored.append(item)
            self._unstored_bytes += item.size_bytes
        if facts is not None and staged is not None:  # a better one without files takes nobody's place
            self._best = records.best([facts] if self._best is None else [self._best, facts]) or self._best

    def stage(self, tree: Tree) -> Staged:
        """Copy files to the spool. Raises `StorageFailed` where there is no room."""
        try:
            staged = self._queue.stage(tree)
        except OSError as error:
            raise self._no_room(error) from error
        return staged

    def stage_with_room(self, tree: Tree) -> Staged:
        """Copy files once there is room for them.

        Raises:
            StorageFailed: there is none, and will be none.
        """
        sizes = [size_of(path) for path in tree.files.values()]
        needed, large = sum(sizes), sum(size > SMALL_BYTES for size in sizes)
        stall = _Stall()
        is_last = False
        while True:
            lack = self._lack_of_room(needed, large)
            if lack is None:
                try:
                    return self.stage(tree)
                except StorageFailed as error:  # bytes are not all that may be used up: there are quotas, and inodes
                    if error.permanent:
                        raise
                    lack = error
                if self._queue.drop_spares():
                    continue
            if is_last:
                raise lack
            is_last = not self._wait_for_room(lack, stall)

    def _wait_for_room(self, lack: StorageFailed, stall: _Stall) -> bool:
        """Wait a moment for room; False if there will be no more than now, because storing does not go on."""
        is_alive = self._launched.ensure_running()
        waiting = self.waiting()
        is_hopeless = not waiting.total_bytes or waiting.trouble is not None or not is_alive
        if is_hopeless or stall.is_over(waiting.jobs, ROOM_SECONDS):
            return False
        replaces = self._limits.when_full == "replace"
        cause = getattr(lack.__cause__, "errno", None)
        if cause not in self._told_of_waiting:
            self._told_of_waiting.add(cause)
            why = "storing is slower than training, and " if cause is None else ""
            done = "gives up the files of those that wait" if replaces else "waits for room"
            warn_only(f"{why}checkpoint() {done}: {lack}")
        if not (replaces and self._withdraw_one()):
            time.sleep(WAIT_SECONDS)
        return True

    def _lack_of_room(self, needed: int, large: int) -> StorageFailed | None:
        """What is to be said if so much can't be copied now; None if it can.

        What is written over counts as room; spare copies that would not be are removed first.

        Args:
            needed: how many bytes.
            large: how many files are large enough for a copy of their own, which may take the place of a spare one.
        """
        limits = self._limits
        waiting = self.waiting()
        if waiting.total_bytes and waiting.total_bytes + needed > limits.limit_bytes:
            return self._full(needed, waiting, f"of {megabytes(limits.limit_bytes)} that may (limit)")
        try:
            disk = shutil.disk_usage(self._queue.directory)
            keep_free = limits.keep_free_bytes
            if keep_free is None:
                keep_free = min(KEEP_FREE_BYTES_MAX, int(disk.total * KEEP_FREE_SHARE))
            if disk.free + self._queue.spare_bytes(large) - needed >= keep_free:
                return None
            self._queue.drop_spares()
            free = shutil.disk_usage(self._queue.directory).free
        except OSError as error:
            raise self._no_room(error) from error
        if free - needed >= keep_free:
            return None
        what = f"and {megabytes(free)} are free, of which {megabytes(keep_free)} are left to others (keep_free)"
        return self._full(needed, waiting, what)

    def _withdraw_one(self) -> bool:
        """Give up the files of the newest checkpoint that waits and is not the best; tells whether there was one."""
        for item in reversed(self._unstored):
            is_best = self._best is not None and item.checkpoint == self._best.id
            if item.checkpoint is not None and not is_best and self._queue.withdraw(item.staged):
                self._unstored.remove(item)
                self._unstored_bytes -= item.size_bytes
                return True
        return False

    def _full(self, needed: int, waiting: Waiting, what: str) -> StorageFailed:
        reason = "" if waiting.trouble is None else f" ({waiting.trouble})"
        return StorageFailed(
            f"there is no room for {megabytes(needed)} in {self._queue.directory}, where "
            f"{megabytes(waiting.total_bytes)} wait, {what}{reason}. Make room there, or change `spool` in "
            "replicate.yaml"
        )

    def _no_room(self, error: OSError) -> StorageFailed:
        """That something can't be written to the spool; for good, unless it is room that may be made."""
        return StorageFailed(
            f"can't copy what is to be saved to {self._queue.directory}: {error}. {disk_advice(error)}",
            permanent=error.errno not in FULL,
        )

    def waiting(self) -> Waiting:
        """How much waits, and what is in the way."""
        done = self._queue.state().done
        while self._unstored and self._unstored[0].number <= done:
            self._unstored_bytes -= self._unstored.popleft().size_bytes
        trouble = self._launched.trouble()
        reason = None if trouble is None else trouble.message
        return Waiting(max(0, self.jobs - done), self._unstored_bytes, reason)

    def what_is_left(self, left: Waiting) -> str:
        """What could not be waited for, in words."""
        what = f"{count(left.jobs, 'job')} of the experiment {ids.short(self._queue.experiment)}"
        where = f"{megabytes(left.total_bytes)} in {self._queue.directory}"
        if self._launched.is_alive():
            but = f", as far as that can be: {left.trouble}" if left.trouble else ""
            return f"{what} ({where}) are still being stored in the background{but}. If that stops: `replicate sync`"
        reason = left.trouble or self._last_trouble() or self._queue.write_problem() or _GONE
        return f"{what} could not be stored yet, and wait ({where}): {reason}. `replicate sync` stores them"

    def _last_trouble(self) -> str | None:
        """What was in the way when storing was given up, even if it was tried too seldom to be worth a word before."""
        trouble = self._queue.state().trouble
        return None if trouble is None else trouble.message

    def wait_until_stored(self, display: UploadDisplay) -> tuple[Waiting | None, BaseException | None]:
        """Wait until nothing is left to store; returns what is, once waiting is of no use, and what ended it."""
        interruption: BaseException | None = None
        stall = _Stall()
        waiting = self.waiting()
        problem = None
        pause = FIRST_WAIT_SECONDS
        try:
            while problem is None and self._launched.ensure_running() and not stall.is_over(waiting.jobs, END_SECONDS):
                if not self._queue.directory.is_dir() and not self._queue.follow():
                    break
                if stall.seconds > STALLED_SECONDS:
                    problem = self._lasting_problem()
                    why = problem or waiting.trouble or f"nothing was stored for {stall.seconds:.0f} seconds"
                    waiting = waiting._replace(trouble=why)
                display.show(waiting)
                time.sleep(pause)
                pause = min(2 * pause, WAIT_SECONDS)
                waiting = self.waiting()
        except (KeyboardInterrupt, SystemExit) as error:  # the recorder goes on, as long as the machine lets it
            interruption = error
        left = self.waiting() if self._queue.directory.is_dir() else None
        if left is not None and left.trouble is None:
            left = left._replace(trouble=problem)
        display.close(left)
        return left, interruption

    def _lasting_problem(self) -> str | None:
        """What is in the way of storing, if it is of no use to wait until it passes."""
        if (halted := self._launched.halted()) is not None:
            return halted
        trouble = self._launched.trouble()
        if trouble is not None:
            return trouble.message if trouble.permanent else None
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = time.monotonic()
        return self._queue.write_problem()  # where it is so, the recorder can't even say so


def megabytes(size: int) -> str:
    """A number of bytes in megabytes."""
    return f"{size / 1e6:.1f} MB"
