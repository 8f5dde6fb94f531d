"""What this process records of an experiment: input is checked, copied, and from then on safe.

`checkpoint()` costs one copy of its files: a job in the spool outlives this process, whatever becomes of it, and
storing it is somebody else's work (`launching`). Nothing here touches the storage.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replicate_core import user_warnings
from replicate_core.errors import InvalidInput, ReplicateError, StorageFailed
from replicate_core.format import ids, records
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Ended,
    Ending,
    Keep,
    PrimaryMetric,
    Resumed,
)
from replicate_core.format.values import Value, is_number
from replicate_core.formatting import count, first_few
from replicate_core.machine import process_exit
from replicate_core.machine.descriptors import Anchor
from replicate_core.machine.files import FULL, Tree, disk_advice, working_directory
from replicate_core.machine.fresh_ids import new_id, new_ulid
from replicate_core.machine.ignoring import IgnoreRules
from replicate_core.machine.names import portable
from replicate_core.machine.staging import SMALL_BYTES, Staged
from replicate_core.recording.inputs import (
    checked_step,
    existing_inside,
    mapping,
    shortened,
    warn_of_missing,
    warn_of_mistyped,
    warn_of_secrets,
    warn_of_unranked,
)
from replicate_core.recording.launching import Launched, as_error, launch
from replicate_core.recording.notices import NoDisplay, Waiting, notifier
from replicate_core.recording.place import Place, size_of
from replicate_core.recording.secret_params import Redactor
from replicate_core.repository.repository import utc_now
from replicate_core.spool import leftovers
from replicate_core.spool.spool import Origin, Queue, Spool
from replicate_core.storage.opening import local_root
from replicate_core.user_warnings import warn_only

if TYPE_CHECKING:
    pass


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


_open: dict[str, Recording] = {}
"""What this process records at this moment, by experiment."""


def open_here(experiment: str) -> Recording | None:
    """What records an experiment in this process at this moment, if anything does."""
    found = _open.get(experiment)
    return found if found is not None and found.is_owner else None


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
        self._jobs = -1

    def is_over(self, jobs: int, seconds: float) -> bool:
        """Tell whether as many jobs wait as so many seconds ago."""
        if jobs != self._jobs:
            self._since, self._jobs = time.monotonic(), jobs
        return self.seconds > seconds

    @property
    def seconds(self) -> float:
        """For how many seconds nothing has changed, as of the last look."""
        return time.monotonic() - self._since


class Recording:
    """An experiment that this process records. Safe to use from several threads.

    Args:
        place: where from and to.
        queue: where its jobs go; owned by this process.
        launched: who empties that.
        strict: whether trouble with the storage is raised.
        next_step: the step of the next checkpoint that names none.
    """

    def __init__(
        self, place: Place, queue: Queue, launched: Launched, *, strict: bool = False, next_step: int = 0
    ) -> None:
        self._place = place
        self._queue = queue
        self._launched = launched
        self._strict = strict
        self._next_step = next_step
        self._experiment = queue.experiment
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._over = False
        self._jobs = 0
        self._unstored: deque[_Unstored] = deque()
        self._unstored_bytes = 0
        self._best: CheckpointFacts | None = None
        self._blocked_seconds = 0.0
        self._looked_at = 0.0
        self._told: str | None = None
        self._told_of_secrets = False
        self._told_of_unranked = False
        self._told_of_waiting: set[int | None] = set()
        self._told_of_files: set[str] = set()
        self._project = Anchor(place.directory)
        self._is_losing = False
        self._code: Mapping[str, leftovers.Version | None] | None = None
        """What was saved as code, and which version of it."""
        self._keep: Keep | None = None
        self._is_superseded = False
        self._is_new = False
        self._puts_off = False
        """Whether it has ended, and what is left to store was not waited for yet."""

    @classmethod
    def begin(
        cls,
        place: Place,
        first: Created | Resumed,
        *,
        path: str | None,
        strict: bool = False,
        next_step: int = 0,
        check: Callable[[], object] | None = None,
    ) -> Recording:
        """Begin an experiment, or go on with one: its code is copied, and the storage was reached.

        Args:
            place: where from and to.
            first: what is known of the experiment, or from where it goes on.
            path: what to save of the project, relative to its directory; None saves nothing.
            strict: whether trouble with the storage is raised from `checkpoint` and `end`.
            next_step: the step of the next checkpoint that names none.
            check: called while no other process of this machine can begin that names a check, too; it raises what
                speaks against beginning.

        Raises:
            InvalidInput: the path, or what lies there, can't be saved.
            StorageFailed, and what else opening a storage raises: the experiment does not exist then.
        """
        storage = local_root(place.storage, relative_to=place.directory)
        if storage is not None and place.directory.is_relative_to(storage.resolve()):
            raise InvalidInput(f"the storage {storage} holds the project {place.directory} itself: keep them apart")
        origin = Origin(
            first.experiment,
            place.storage,
            str(place.directory),
            place.config.compression,
            os.getpid(),
            socket.gethostname(),
            first.session if isinstance(first, Resumed) else None,
            place.storage_options,
        )
        if check is None:
            queue = place.spool.begin(origin, new_ulid())
        else:
            with place.spool.alone():
                check()
                queue = place.spool.begin(origin, new_ulid())
        launched, recording = None, None
        try:
            queue.watch()
            launched = launch(queue, place.open_repository)  # first of all: it takes a while until it is ready
            tree = None
            if path is not None:
                start, tree, preview, made = place.code(path)
                first = replace(first, path=portable(start.relative_to(place.directory).as_posix()))
                if concerns := preview.concerns():
                    user_warnings.warn(f"{'. And '.join(concerns)}. `replicate status` shows all of it")
                if made:
                    files = "1 file is" if len(made) == 1 else f"{len(made)} files are"
                    place.say(
                        f"{files} not saved as code, because earlier runs have saved checkpoints there: "
                        f"{first_few(made)}; `replicate status` shows which"
                    )
            recording = cls(place, queue, launched, strict=strict, next_step=next_step)
            recording._begin(first, tree)  # its own
        except BaseException:
            queue.leave()
            queue.remove()
            queue.unwatch()
            if recording is not None:
                recording._project.close()  # its own
            if launched is not None:
                launched.leave()
            place.spool.tidy()
            raise
        return recording

    def _begin(self, first: Created | Resumed, tree: Tree | None) -> None:
        self._is_new = isinstance(first, Created)
        staged = None
        if tree is not None:
            self._code = {path: leftovers.version(file) for path, file in tree.files.items()}
            staged = self._stage(tree)
            if tree.files and not staged.files:
                raise InvalidInput(f"{_why_nothing(tree, staged)}: none of the code can be saved")
            if news := self._news_of_files(staged):
                user_warnings.warn(f"{news}. Name in .replicateignore what is no code")
            first = replace(first, size_bytes=staged.total_bytes)
        self._launched.wait_until_ready()
        self._append(first, staged)
        self._launched.attend()
        if (trouble := self._launched.trouble()) is not None:
            raise as_error(trouble)
        process_exit.register(self.end_with_process)
        _open[self._experiment] = self

    @property
    def is_running(self) -> bool:
        """See `Recorded.is_running`."""
        return not self._over

    @property
    def is_only_begun(self) -> bool:
        """Whether it is new, and nothing but its beginning was recorded of it."""
        return self._is_new and self._jobs == 1

    @property
    def is_owner(self) -> bool:
        """Whether this process still appends to its queue, and is no fork of the one that does."""
        return self.is_running and os.getpid() == self._process and self._queue.is_owned_by_this_process()

    def supersede(self) -> None:
        """End it because this process has resumed the experiment: what is recorded from now on is recorded there."""
        self._is_superseded = True
        if self._note_end("interrupted", "the same process resumed the experiment") is None:
            return
        left, interruption = self._wait_for_the_rest()
        if left is not None:
            warn_only(left)
        if interruption is not None:
            raise interruption

    def wait_until_known(self, seconds: float) -> bool:
        """Wait until others can see that it has begun; tells whether they can, so many seconds later."""
        patience = time.monotonic() + seconds
        while self._queue.state().done == 0 and self._launched.attend() and time.monotonic() < patience:
            time.sleep(WAIT_SECONDS)
        return self._queue.state().done > 0

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> CheckpointFacts:
        """See `Recorded.checkpoint`."""
        began = time.perf_counter()
        if os.getpid() != self._process:
            raise InvalidInput(
                "this process was forked from the one that records the experiment: record there, or call "
                "replicate.init() here for an experiment of its own"
            )
        facts = self._facts(metrics, primary_metric, step, extra)
        with self._lock:
            if self._over:
                raise InvalidInput(self._why_over())
            start = None if path is None else self._existing(path)
            if step is None:
                facts = replace(facts, step=self._next_step)
            staged = None
            if start is not None:
                saved = portable(start.relative_to(self._place.directory).as_posix())
                facts = replace(facts, path=saved, keep=self._keep)
                warn_of_unranked(facts)
                if (staged := self._stage_checkpoint(facts, start)) is not None:
                    facts = replace(facts, size_bytes=staged.total_bytes, is_waiting=True)
            self._append_checkpoint(facts, staged)
            self._next_step = facts.step + 1
            if start is not None or time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._look()
            self._blocked_seconds += time.perf_counter() - began
        return facts

    def keep(self, rule: Keep) -> None:
        """See `Recorded.keep`."""
        if self._over:
            raise InvalidInput("this experiment has ended: nothing more is saved of it that could be kept or let go")
        self._keep = rule

    def end(self, status: Ending = "finished", error: str | None = None, *, waits: bool = True) -> Ended | None:
        """See `Recorded.end`: waits until all is stored, or can't be.

        Without `waits` it returns at once where the spool is as safe a place as the storage. What is left to wait for
        is waited for by whatever needs it first: reading in this process, another `end`, or the end of the process.

        Raises:
            StorageFailed: with `strict`, when something is left behind.
        """
        ended = self._note_end(status, error)
        if ended is not None and not waits and self._may_wait_later():
            self._puts_off = True
            self._queue.put_off(self.end)
            atexit.register(self._wait_at_exit)
        elif ended is not None or self._puts_off:
            left, interruption = self._wait_for_the_rest()
            if left is not None:
                if self._strict and interruption is None:
                    raise StorageFailed(left)
                warn_only(left)
            if interruption is not None:
                raise interruption
        return ended

    def _wait_at_exit(self) -> None:
        """Wait for the rest where nobody is left to catch anything."""
        left, _ = self._wait_for_the_rest()
        if left is not None:
            notifier().report_problem(left)

    def _may_wait_later(self) -> bool:
        """Tell whether the storage is on the disk of the spool, and an exit handler will see to the rest."""
        storage = local_root(self._place.storage, relative_to=self._place.directory)
        if self._strict or storage is None or not process_exit.runs_exit_handlers():
            return False
        if not self._launched.is_alive() or self._launched.trouble() is not None:
            return False
        try:
            return storage.stat().st_dev == self._queue.directory.stat().st_dev
        except OSError:
            return False

    def end_with_process(self, status: Ending, error: str | None) -> None:
        """End it because the process does: nobody is left to catch anything."""
        if self._note_end(status, error) is not None:
            self._wait_at_exit()

    def _note_end(self, status: Ending, error: str | None) -> Ended | None:
        """Append how it ended; None if that is known already. From now on it is safe, whatever becomes of us."""
        if os.getpid() != self._process:  # before the lock: a fork may have copied it while it was held
            return None
        with self._lock:
            if self._over:
                return None
            ended = Ended(self._experiment, utc_now(), status, error, self._blocked_seconds, self._queue.session)
            self._over = True
            with suppress(StorageFailed):  # there is no room even for this: then it counts as killed
                self._append(ended)
            self._queue.leave()
            self._launched.wake()
        if _open.get(self._experiment) is self:
            del _open[self._experiment]
        process_exit.unregister(self.end_with_process)
        return ended

    def _wait_for_the_rest(self) -> tuple[str | None, BaseException | None]:
        """Wait until all is stored: what is left, in words, and what interrupted the waiting."""
        if os.getpid() != self._process:
            return None, None
        if self._puts_off:
            self._puts_off = False
            self._queue.put_off(None)
            atexit.unregister(self._wait_at_exit)
        self._follow()
        left, interruption = self._wait_until_stored()
        text = None if left is None else self._what_is_left(left)
        self._launched.leave()
        self._project.close()
        if not self._queue.was_closed() and left is None:
            text = f"{self._gone()}: what was not stored by then is lost"
        elif kept := self._queue.kept_aside():
            paths = ", ".join(str(path) for path in kept)
            lost = f"some of what the experiment {ids.short(self._experiment)} saved was damaged before it was stored"
            text = f"{'' if text is None else f'{text}. And '}{lost}, and is kept in {paths}; all the rest is stored"
        return text, interruption

    def _why_over(self) -> str:
        if self._is_superseded:
            return (
                f"the experiment {ids.short(self._experiment)} was resumed by this process: use the object that "
                "replicate.init() returned then"
            )
        return "this experiment has ended: a checkpoint can't be added to it any more"

    def _existing(self, path: str | os.PathLike[str]) -> Path:
        """The absolute form of a path of the user's in the project, wherever that is now."""
        self._follow()
        return existing_inside(working_directory(path), self._place.directory, path)

    def _follow(self) -> None:
        """Find the project and the spool again, should they have been moved."""
        self._queue.follow()
        if self._project.follow():
            config = replace(self._place.config, directory=self._project.path)
            spool = Spool(config.directory, self._queue.directory.parent)
            self._place = replace(self._place, config=config, spool=spool)

    # Storing: how it is doing.

    def _look(self) -> None:
        """See to it that somebody is storing, and tell once what is in the way."""
        self._looked_at = time.monotonic()
        self._follow()
        self._launched.attend()
        trouble = self._launched.trouble()
        if not self._queue.directory.is_dir():
            self._tell("gone", StorageFailed(f"{self._gone()}: nothing more of this experiment can be saved"))
        elif trouble is None:
            self._told = None
        else:
            where = f"what is saved can't be stored for now, and waits in {self._queue.directory}; training goes on. "
            self._tell(trouble.kind, as_error(trouble), where)

    def _tell(self, what: str, error: ReplicateError, where: str = "") -> None:
        """Warn of trouble once, or raise it if the user wants that."""
        if self._strict:
            raise error
        if self._told != what:
            self._told = what
            warn_only(f"{where}{error}")

    def _gone(self) -> str:
        return f"{self._queue.directory}, where what is saved waits to be stored, was deleted by somebody"

    def _waiting(self) -> Waiting:
        done = self._queue.state().done
        while self._unstored and self._unstored[0].number <= done:
            self._unstored_bytes -= self._unstored.popleft().size_bytes
        trouble = self._launched.trouble()
        reason = None if trouble is None else trouble.message
        return Waiting(max(0, self._jobs - done), self._unstored_bytes, reason)

    def _what_is_left(self, left: Waiting) -> str:
        what = f"{count(left.jobs, 'job')} of the experiment {ids.short(self._experiment)}"
        where = f"{left.total_bytes / 1e6:.1f} MB in {self._queue.directory}"
        if self._launched.is_alive():
            but = f", as far as that can be: {left.trouble}" if left.trouble else ""
            return f"{what} ({where}) are still being stored in the background{but}. If that stops: `replicate sync`"
        reason = left.trouble or self._last_trouble() or self._queue.write_problem() or _GONE
        return f"{what} could not be stored yet, and wait ({where}): {reason}. `replicate sync` stores them"

    def _last_trouble(self) -> str | None:
        """What was in the way when storing was given up, even if it was tried too seldom to be worth a word before."""
        trouble = self._queue.state().trouble
        return None if trouble is None else trouble.message

    def _wait_until_stored(self) -> tuple[Waiting | None, BaseException | None]:
        """Wait until nothing is left to store; returns what is, once waiting is of no use, and what ended it."""
        display = NoDisplay() if self._place.config.quiet else notifier().upload_display()
        interruption: BaseException | None = None
        stall = _Stall()
        waiting = self._waiting()
        problem = None
        pause = FIRST_WAIT_SECONDS
        try:
            while problem is None and self._launched.attend() and not stall.is_over(waiting.jobs, END_SECONDS):
                if not self._queue.directory.is_dir() and not self._queue.follow():
                    break
                if stall.seconds > STALLED_SECONDS:
                    problem = self._lasting_problem()
                    why = problem or waiting.trouble or f"nothing was stored for {stall.seconds:.0f} seconds"
                    waiting = waiting._replace(trouble=why)
                display.show(waiting)
                time.sleep(pause)
                pause = min(2 * pause, WAIT_SECONDS)
                waiting = self._waiting()
        except (KeyboardInterrupt, SystemExit) as error:  # the recorder goes on, as long as the machine lets it
            interruption = error
        left = self._waiting() if self._queue.directory.is_dir() else None
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

    # The spool: copies and jobs, as long as there is room.

    def _append_checkpoint(self, facts: CheckpointFacts, staged: Staged | None) -> None:
        """Append the job of a checkpoint. Where there is no room even for that, it is lost, and training goes on."""
        try:
            self._append(Checkpointed(self._experiment, (facts,), self._queue.session), staged, facts)
            self._is_losing = False
        except StorageFailed as error:
            if self._strict:
                raise
            if not self._is_losing:
                self._is_losing = True
                warn_only(
                    f"the checkpoint of step {facts.step} is lost, and so are those that follow until there is room: "
                    f"{error}"
                )

    def _append(
        self, record: records.Record, staged: Staged | None = None, facts: CheckpointFacts | None = None
    ) -> None:
        try:
            self._queue.append(record, staged, blocked_seconds=self._blocked_seconds)
        except OSError as error:
            if self._queue.follow():
                self._append(record, staged, facts)
                return
            if staged is not None:
                shutil.rmtree(staged.directory, ignore_errors=True)
            raise self._no_room(error) from error
        self._jobs += 1
        if staged is not None:
            self._launched.wake()
            item = _Unstored(self._jobs, None if facts is None else facts.id, staged, staged.total_bytes)
            self._unstored.append(item)
            self._unstored_bytes += item.size_bytes
        if facts is not None and staged is not None:  # a better one without files takes nobody's place
            self._best = records.best([facts] if self._best is None else [self._best, facts]) or self._best

    def _stage(self, tree: Tree) -> Staged:
        try:
            staged = self._queue.stage(tree)
        except OSError as error:
            raise self._no_room(error) from error
        return staged

    def _news_of_files(self, staged: Staged) -> str:
        """What there is to say of files that are not copied, or not to their ends, and was not said before."""
        left_out = [f"{path} {why}" for path, why in staged.left_out.items() if path not in self._told_of_files]
        growing = [path for path in staged.growing if path not in self._told_of_files]
        self._told_of_files.update(staged.left_out, staged.growing)
        texts = []
        if left_out:
            texts.append(f"left out of what is saved: {first_few(left_out)}")
        if growing:
            texts.append(
                f"saved as far as it was written, because it kept growing while it was copied: {first_few(growing)}"
            )
        return ". And ".join(texts)

    def _stage_checkpoint(self, facts: CheckpointFacts, start: Path) -> Staged | None:
        """The copies of a checkpoint's files; None where there can be none, with a warning."""
        tree = self._place.tree(start, rules=IgnoreRules())
        try:
            staged = self._stage_with_room(tree)
        except StorageFailed as error:
            if self._strict:
                raise
            if self._queue.directory.is_dir():  # else `_look` warns of that
                _warn_of_unsaved(facts, str(error))
            return None
        is_empty = bool(tree.files) and not staged.files
        if (is_empty and not start.exists()) or (self._strict and staged.left_out):
            shutil.rmtree(staged.directory, ignore_errors=True)
            raise InvalidInput(f"{_why_nothing(tree, staged)}: nothing was saved")
        if is_empty:
            shutil.rmtree(staged.directory, ignore_errors=True)
            _warn_of_unsaved(facts, _why_nothing(tree, staged))
            return None
        if news := self._news_of_files(staged):
            warn_only(f"{news}. This is said once")
        limit = self._place.config.code_limit_bytes
        made = leftovers.made(tree.files, self._code, whole=start.is_file(), limit_bytes=limit)
        maker = leftovers.Maker(self._experiment, facts.id)
        leftovers.note_paths(self._place.spool.directory, self._place.directory, maker, made)
        return staged

    def _stage_with_room(self, tree: Tree) -> Staged:
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
                    return self._stage(tree)
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
        is_alive = self._launched.attend()
        waiting = self._waiting()
        is_hopeless = not waiting.total_bytes or waiting.trouble is not None or not is_alive
        if is_hopeless or stall.is_over(waiting.jobs, ROOM_SECONDS):
            return False
        replaces = self._place.config.spool.when_full == "replace"
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
        limits = self._place.config.spool
        waiting = self._waiting()
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

    def _facts(
        self,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> CheckpointFacts:
        config = self._place.config
        recorded = mapping("metrics", {} if metrics is None else metrics)
        other = mapping("keyword arguments", extra)
        for name in [name for name in other if name in config.metrics]:
            if name in recorded:
                raise InvalidInput(f"{name!r} is given twice: among the metrics, and as a keyword argument")
            recorded[name] = other.pop(name)
        primary = PrimaryMetric.parse(primary_metric)
        warn_of_missing(primary, recorded)
        if primary is None and config.primary_metric is not None:
            if config.primary_metric.name in recorded:
                primary = config.primary_metric
            else:
                warn_of_mistyped(config.primary_metric.name, recorded)
        self._warn_of_vector(primary, recorded)
        redactor = Redactor(enabled=config.redact)
        other = redactor.values(other)
        if not self._told_of_secrets:
            self._told_of_secrets = bool(redactor.found)
            warn_of_secrets(redactor.found)
        return CheckpointFacts(new_id(), utc_now(), checked_step(step), recorded, primary, extra=other)

    def _warn_of_vector(self, primary: PrimaryMetric | None, metrics: Mapping[str, Value]) -> None:
        """Warn once of a primary metric by which nothing can be compared."""
        value = None if primary is None else metrics.get(primary.name)
        if primary is None or value is None or is_number(value) or self._told_of_unranked:
            return
        self._told_of_unranked = True
        warn_only(
            f"the primary metric {primary.name!r} is no single number but {shortened(value)}: it is recorded, and "
            "best() will pass over it. Name a metric that is one, such as the mean"
        )


def _why_nothing(tree: Tree, staged: Staged) -> str:
    """Why files were not copied, with their names."""
    vanished = (f"{path} vanished while it was copied" for path in tree.files)
    return first_few([f"{path} {why}" for path, why in staged.left_out.items()] or list(vanished))


def _warn_of_unsaved(facts: CheckpointFacts, why: str) -> None:
    warn_only(f"the files of the checkpoint of step {facts.step} are not saved, only its metrics: {why}")


def megabytes(size: int) -> str:
    """A number of bytes in megabytes."""
    return f"{size / 1e6:.1f} MB"
