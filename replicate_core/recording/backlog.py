"""What waits to be stored of one experiment: making room for it, and waiting until it is stored.

Everything that holds up training is here: copying its files, waiting for room, and waiting at the end.
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
"""Minimum number of seconds between checks of `checkpoint()` that storing works."""

WAIT_SECONDS = 0.05
"""Maximum number of seconds between two checks of a wait."""

FIRST_WAIT_SECONDS = 0.002
"""Seconds before the first check of a wait; each pause is twice the one before, up to `WAIT_SECONDS`."""

ROOM_SECONDS = 600.0
"""Seconds without progress after which `checkpoint()` stops waiting for room."""

END_SECONDS = 1800.0
"""Seconds without progress after which the end of an experiment stops waiting."""

STALLED_SECONDS = 10.0
"""Seconds without progress after which the end of an experiment reports that nothing is stored."""

KEEP_FREE_SHARE = 0.05
"""Share of a disk that is kept free unless the configuration says how much."""

KEEP_FREE_BYTES_MAX = 2 * 10**9
"""Maximum number of bytes that are kept free by `KEEP_FREE_SHARE`."""


class _Unstored(NamedTuple):
    """A job with files that was not stored at the last check."""

    number: int
    checkpoint: str | None
    staged: Staged
    size_bytes: int


class _Stall:
    """Notices when the number of waiting jobs has not changed for long."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.jobs = -1

    def is_over(self, jobs: int, seconds: float) -> bool:
        """Tell whether the number of waiting jobs has been the same for more than `seconds`."""
        if jobs != self.jobs:
            self._since, self.jobs = time.monotonic(), jobs
        return self.seconds > seconds

    @property
    def seconds(self) -> float:
        """Seconds since the number last changed."""
        return time.monotonic() - self._since


class Backlog:
    """What an experiment has in the spool that is not stored yet.

    Args:
        queue: the queue for its jobs; owned by this process.
        launched: what uploads from the queue.
        limits: how much may wait.
    """

    def __init__(self, queue: Queue, launched: Launched, limits: SpoolConfig) -> None:
        self._queue = queue
        self._launched = launched
        self._limits = limits
        self.jobs = 0
        """Number of jobs that were appended."""
        self._unstored: deque[_Unstored] = deque()
        self._unstored_bytes = 0
        self._best: CheckpointFacts | None = None
        self._warned_of_waiting: set[int | None] = set()
        self._checked_at = 0.0

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
            blocked_seconds: how long training has been held up so far.

        Raises:
            StorageFailed: there is no room for the job itself.
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
        if facts is not None and staged is not None:  # a better checkpoint without files does not replace the best
            self._best = records.best([facts] if self._best is None else [self._best, facts]) or self._best

    def stage(self, tree: Tree) -> Staged:
        """Copy files to the spool. Raises `StorageFailed` if there is no room."""
        try:
            return self._queue.stage(tree)
        except OSError as error:
            raise self._no_room(error) from error

    def stage_with_room(self, tree: Tree) -> Staged:
        """Copy files once there is room for them.

        Raises:
            StorageFailed: there is no room, and there will be none.
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
                except StorageFailed as error:  # the disk has bytes left, but a quota or the inodes may be used up
                    if error.permanent:
                        raise
                    lack = error
                if self._queue.drop_spares():
                    continue
            if is_last:
                raise lack
            is_last = not self._wait_for_room(lack, stall)

    def _wait_for_room(self, lack: StorageFailed, stall: _Stall) -> bool:
        """Wait a moment for room; False if storing makes no progress, so that there will be no more room."""
        is_alive = self._launched.ensure_running()
        waiting = self.waiting()
        is_hopeless = not waiting.total_bytes or waiting.trouble is not None or not is_alive
        if is_hopeless or stall.is_over(waiting.jobs, ROOM_SECONDS):
            return False
        replaces = self._limits.when_full == "replace"
        cause = getattr(lack.__cause__, "errno", None)
        if cause not in self._warned_of_waiting:
            self._warned_of_waiting.add(cause)
            why = "storing is slower than training, and " if cause is None else ""
            done = "drops the files of checkpoints that wait" if replaces else "waits for room"
            warn_only(f"{why}checkpoint() {done}: {lack}")
        if not (replaces and self._withdraw_one()):
            time.sleep(WAIT_SECONDS)
        return True

    def _lack_of_room(self, needed: int, large: int) -> StorageFailed | None:
        """The error to raise if so much can't be copied now; None if it can.

        Spare copies that will be overwritten count as room. If there is too little room, all spare copies are removed.

        Args:
            needed: number of bytes.
            large: number of files that are large enough to get a copy of their own, which may overwrite a spare copy.
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
        what = f"and {megabytes(free)} are free, of which {megabytes(keep_free)} must stay free (keep_free)"
        return self._full(needed, waiting, what)

    def _withdraw_one(self) -> bool:
        """Withdraw the files of the newest waiting checkpoint that is not the best. Returns whether there was one."""
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
        """The error if the spool can't be written. It is permanent, unless somebody can make room."""
        return StorageFailed(
            f"can't copy what is to be saved to {self._queue.directory}: {error}. {disk_advice(error)}",
            permanent=error.errno not in FULL,
        )

    def waiting(self) -> Waiting:
        """How much waits, and why storing fails."""
        done = self._queue.state().done
        while self._unstored and self._unstored[0].number <= done:
            self._unstored_bytes -= self._unstored.popleft().size_bytes
        trouble = self._launched.trouble()
        reason = None if trouble is None else trouble.message
        return Waiting(max(0, self.jobs - done), self._unstored_bytes, reason)

    def what_is_left(self, left: Waiting) -> str:
        """A sentence about what is not stored yet, and what to do."""
        what = f"{count(left.jobs, 'job')} of the experiment {ids.short(self._queue.experiment)}"
        where = f"{megabytes(left.total_bytes)} in {self._queue.directory}"
        if self._launched.is_alive():
            but = f", as far as possible: {left.trouble}" if left.trouble else ""
            return f"{what} ({where}) are still being stored in the background{but}. If that stops: `replicate sync`"
        reason = left.trouble or self._last_trouble() or self._queue.write_problem() or _GONE
        return f"{what} could not be stored yet, and wait ({where}): {reason}. `replicate sync` stores them"

    def _last_trouble(self) -> str | None:
        """Why storing failed at last, even if it was not retried often enough to be reported before."""
        trouble = self._queue.state().trouble
        return None if trouble is None else trouble.message

    def wait_until_stored(self, display: UploadDisplay) -> tuple[Waiting | None, BaseException | None]:
        """Wait until everything is stored. Returns what still waits, if anything, and what interrupted the wait."""
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
        except (KeyboardInterrupt, SystemExit) as error:  # the recorder continues in the background
            interruption = error
        left = self.waiting() if self._queue.directory.is_dir() else None
        if left is not None and left.trouble is None:
            left = left._replace(trouble=problem)
        display.close(left)
        return left, interruption

    def _lasting_problem(self) -> str | None:
        """Why storing fails, if waiting does not help."""
        if (halted := self._launched.halted()) is not None:
            return halted
        trouble = self._launched.trouble()
        if trouble is not None:
            return trouble.message if trouble.permanent else None
        if time.monotonic() - self._checked_at < LOOK_SECONDS:
            return None
        self._checked_at = time.monotonic()
        return self._queue.write_problem()  # the recorder could not even report this


def megabytes(size: int) -> str:
    """A number of bytes in megabytes."""
    return f"{size / 1e6:.1f} MB"
