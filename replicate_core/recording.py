"""What this process records of an experiment: input is checked, copied, and from then on safe.

`checkpoint()` costs one copy of its files: a job in the spool outlives this process, whatever becomes of it, and
storing it is somebody else's work (`launching`). Nothing here touches the storage.
"""

from __future__ import annotations

import difflib
import logging
import operator
import os
import shutil
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from replicate_core import endings, ids, records
from replicate_core.documents import COUNT_MAX
from replicate_core.errors import InvalidInput, ReplicateError, StorageFailed
from replicate_core.files import IgnoreRules, Tree, scan
from replicate_core.launching import Launched, as_error, launch
from replicate_core.opening import local_root
from replicate_core.preview import Preview
from replicate_core.records import Checkpointed, CheckpointFacts, Created, Ended, Ending, Keep, PrimaryMetric, Resumed
from replicate_core.repository import Repository, utc_now
from replicate_core.spool import Origin, Queue, Spool
from replicate_core.staging import Staged
from replicate_core.values import Value, plain

if TYPE_CHECKING:
    from replicate_core.config import Config

MISTYPED = 0.85
"""So much alike are a name and one that was mistyped: `val_los`; not `val_loss` and `loss`."""

LOOK_SECONDS = 1.0
"""How often, at most, `checkpoint()` looks how storing is doing."""

WAIT_SECONDS = 0.05
"""How often whoever waits looks whether that is over."""

ROOM_SECONDS = 600.0
END_SECONDS = 1800.0
"""How long `checkpoint()` waits for room, and the end of an experiment for the rest, while nothing gets stored."""

KEEP_FREE_SHARE = 0.05
KEEP_FREE_BYTES_MAX = 2 * 10**9
"""How much of a disk is left alone unless the config says so."""


class Waiting(NamedTuple):
    """What the end of an experiment waits for."""

    jobs: int
    total_bytes: int
    trouble: str | None
    """What is in the way, if something is."""


class Watcher(Protocol):
    """Shows people what the end of an experiment waits for."""

    def show(self, waiting: Waiting) -> None:
        """Called again and again."""

    def close(self, left: Waiting | None) -> None:
        """Called once, at the end, with what could not be waited for."""


class _Silent:
    """Shows nothing: this is a library."""

    def show(self, waiting: Waiting) -> None:
        """See `Watcher.show`."""

    def close(self, left: Waiting | None) -> None:
        """See `Watcher.close`."""


def _complain(text: str) -> None:
    warnings.warn(text, stacklevel=3)


complain: Callable[[str], object] = _complain
"""Says what went wrong when the process ends, where no line of the user's is at fault; as `watch`."""

watch: Callable[[], Watcher] = _Silent
"""Makes the watcher for the end of an experiment; whoever has a terminal puts another one here."""

tell: Callable[[str], object] = logging.getLogger("replicate").info
"""Says something that is neither trouble nor a result; as `watch`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an experiment is recorded from, and to."""

    config: Config
    storage: str
    """A URL or path; a relative one starts from the project directory."""
    spool: Spool
    open_repository: Callable[[], Repository]
    """Opens the storage in this process, if need be."""
    storage_options: Mapping[str, Value] = field(default_factory=dict)
    """What its driver is told; references to the environment are not resolved."""

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def say(self, text: str) -> None:
        """Say something that is neither trouble nor a result, unless nobody wants to hear it."""
        if not self.config.quiet:
            tell(text)

    def tree(
        self, start: Path, *, rules: IgnoreRules, left_out: Callable[[str, str], object] = lambda _path, _why: None
    ) -> Tree:
        """The files at or below `start`; neither the storage nor the spool is ever among them."""
        storage = local_root(self.storage, relative_to=self.directory)
        skipped = [self.spool.directory] if storage is None else [self.spool.directory, storage]
        resolved = [directory.resolve() for directory in skipped]
        return scan(self.directory, start, rules=rules, skipped=resolved, left_out=left_out)

    def code(self, path: str) -> tuple[Path, Tree, Preview]:
        """Where the code to save lies, its files, and what is to be thought of them.

        Raises:
            InvalidInput: the path, or what lies there, can't be saved.
            ConfigInvalid: `.replicateignore` can't be used.
        """
        start = _existing_inside(self.directory, self.directory, path)
        left_out: dict[str, str] = {}
        tree = self.tree(start, rules=IgnoreRules.of(self.directory), left_out=left_out.setdefault)
        sizes = {name: _size(file) for name, file in tree.files.items()}
        return start, tree, Preview.of(sizes, left_out, self.config.code_limit_bytes, self.config.plain_secrets)


class Recorded(Protocol):
    """What an experiment calls to be recorded."""

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> CheckpointFacts:
        """Record a checkpoint; see `Experiment.checkpoint`."""

    def keep(self, rule: Keep) -> None:
        """Keep the files of so many checkpoints; see `Experiment.keep`."""

    def end(self, status: Ending = "finished", error: str | None = None) -> Ended | None:
        """Record that the experiment is over; None if that is known already."""

    @property
    def is_running(self) -> bool:
        """Whether it is not over yet."""


class Bystander:
    """Stands where a process that must not record would record: one of a distributed run that is not its first."""

    def __init__(self) -> None:
        self.is_running = True
        self._next_step = 0

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,  # noqa: ARG002
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],  # noqa: ARG002
    ) -> CheckpointFacts:
        """See `Recorded.checkpoint`: nothing is recorded, and metrics are not even looked at."""
        counted = self._next_step if step is None else _checked_step(step)
        self._next_step = counted + 1
        saved = None if path is None else os.fspath(path)
        return CheckpointFacts(_new_id(), utc_now(), counted, {}, PrimaryMetric.parse(primary_metric), saved)

    def keep(self, rule: Keep) -> None:
        """See `Recorded.keep`."""

    def end(self, status: Ending = "finished", error: str | None = None) -> None:  # noqa: ARG002
        """See `Recorded.end`."""
        self.is_running = False


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
        return time.monotonic() - self._since > seconds


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
        self._told_of_waiting = False
        self._is_losing = False
        self._keep: Keep | None = None

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
        tree = None
        if path is not None:
            start, tree, preview = place.code(path)
            first = replace(first, path=start.relative_to(place.directory).as_posix())
            if concerns := preview.concerns():
                warnings.warn(f"{'. And '.join(concerns)}. `replicate status` shows all of it", stacklevel=4)
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
            queue = place.spool.begin(origin, _new_ulid())
        else:
            with place.spool.alone():
                check()
                queue = place.spool.begin(origin, _new_ulid())
        launched = None
        try:
            queue.watch()
            launched = launch(queue, place.open_repository)
            recording = cls(place, queue, launched, strict=strict, next_step=next_step)
            recording._begin(first, tree)  # its own
        except BaseException:
            queue.leave()
            queue.remove()
            if launched is not None:
                launched.leave()
            place.spool.tidy()
            raise
        return recording

    def _begin(self, first: Created | Resumed, tree: Tree | None) -> None:
        staged = None
        if tree is not None:
            staged = self._stage(tree)
            first = replace(first, size_bytes=staged.total_bytes)
        self._launched.wait_until_ready()
        self._append(first, staged)
        self._launched.attend()
        if (trouble := self._launched.trouble()) is not None:
            raise as_error(trouble)
        endings.register(self.end_with_process)

    @property
    def is_running(self) -> bool:
        """See `Recorded.is_running`."""
        return not self._over

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
        start = None if path is None else _existing_inside(Path.cwd(), self._place.directory, path)
        with self._lock:
            if self._over:
                raise InvalidInput("this experiment has ended: a checkpoint can't be added to it any more")
            if step is None:
                facts = replace(facts, step=self._next_step)
            staged = None
            if start is not None:
                saved = start.relative_to(self._place.directory).as_posix()
                facts = replace(facts, path=saved, keep=self._keep)
                _warn_of_unranked(facts)
                if (staged := self._stage_checkpoint(facts, start)) is not None:
                    facts = replace(facts, size_bytes=staged.total_bytes)
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

    def end(self, status: Ending = "finished", error: str | None = None) -> Ended | None:
        """See `Recorded.end`: waits until all is stored, or can't be.

        Raises:
            StorageFailed: with `strict`, when something is left behind.
        """
        ended, left, interruption = self._end(status, error)
        if left is not None:
            if self._strict and interruption is None:
                raise StorageFailed(left)
            warnings.warn(left, stacklevel=4)
        if interruption is not None:
            raise interruption
        return ended

    def end_with_process(self, status: Ending, error: str | None) -> None:
        """End it because the process does: nobody is left to catch anything."""
        _, left, _ = self._end(status, error)
        if left is not None:
            complain(left)

    def _end(self, status: Ending, error: str | None) -> tuple[Ended | None, str | None, BaseException | None]:
        """End it: what is recorded, what is left to store, in words, and what interrupted the waiting."""
        if os.getpid() != self._process:  # before the lock: a fork may have copied it while it was held
            return None, None, None
        with self._lock:
            if self._over:
                return None, None, None
            ended = Ended(self._experiment, utc_now(), status, error, self._blocked_seconds, self._queue.session)
            self._over = True
            with suppress(StorageFailed):  # there is no room even for this: then it counts as killed
                self._append(ended)
            self._queue.leave()
        endings.unregister(self.end_with_process)
        left, interruption = self._wait_until_stored()
        text = None if left is None else self._what_is_left(left)
        self._launched.leave()
        if not self._queue.was_closed() and left is None:
            text = f"{self._gone()}: what was not stored by then is lost"
        return ended, text, interruption

    # Storing: how it is doing.

    def _look(self) -> None:
        """See to it that somebody is storing, and tell once what is in the way."""
        self._looked_at = time.monotonic()
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
            warnings.warn(f"{where}{error}", stacklevel=5)

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
        what = f"{_count(left.jobs, 'job')} of the experiment {ids.short(self._experiment)}"
        where = f"{left.total_bytes / 1e6:.1f} MB in {self._queue.directory}"
        if self._launched.is_alive():
            return f"{what} ({where}) are still being stored in the background. If that stops: `replicate sync`"
        reason = left.trouble or "the process that stores them is gone"
        return f"{what} could not be stored yet, and wait ({where}): {reason}. `replicate sync` stores them"

    def _wait_until_stored(self) -> tuple[Waiting | None, BaseException | None]:
        """Wait until nothing is left to store; returns what is, once waiting is of no use, and what ended it."""
        watcher = _Silent() if self._place.config.quiet else watch()
        interruption: BaseException | None = None
        stall = _Stall()
        waiting = self._waiting()
        try:
            while self._launched.attend() and not stall.is_over(waiting.jobs, END_SECONDS):
                if not self._queue.directory.is_dir():
                    break
                watcher.show(waiting)
                time.sleep(WAIT_SECONDS)
                waiting = self._waiting()
        except (KeyboardInterrupt, SystemExit) as error:  # the recorder goes on, as long as the machine lets it
            interruption = error
        left = self._waiting() if self._queue.directory.is_dir() else None
        watcher.close(left)
        return left, interruption

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
                warnings.warn(
                    f"the checkpoint of step {facts.step} is lost, and so are those that follow until there is room: "
                    f"{error}",
                    stacklevel=4,
                )

    def _append(
        self, record: records.Record, staged: Staged | None = None, facts: CheckpointFacts | None = None
    ) -> None:
        try:
            self._queue.append(record, staged, blocked_seconds=self._blocked_seconds)
        except OSError as error:
            if staged is not None:
                shutil.rmtree(staged.directory, ignore_errors=True)
            raise self._no_room(error) from error
        self._jobs += 1
        if staged is not None:
            item = _Unstored(self._jobs, None if facts is None else facts.id, staged, staged.total_bytes)
            self._unstored.append(item)
            self._unstored_bytes += item.size_bytes
        if facts is not None and facts.primary_metric is not None:
            self._best = records.best([facts] if self._best is None else [self._best, facts]) or self._best

    def _stage(self, tree: Tree) -> Staged:
        try:
            staged = self._queue.stage(tree)
        except OSError as error:
            raise self._no_room(error) from error
        if tree.files and not staged.files:
            shutil.rmtree(staged.directory, ignore_errors=True)
            raise InvalidInput(f"{' and '.join(tree.files)} vanished while it was copied: nothing was saved")
        return staged

    def _stage_checkpoint(self, facts: CheckpointFacts, start: Path) -> Staged | None:
        """The copies of a checkpoint's files; None where there is no room, and there will be none."""
        tree = self._place.tree(start, rules=IgnoreRules())
        needed = sum(_size(path) for path in tree.files.values())
        try:
            while self._wait_for_room(needed):
                try:
                    return self._stage(tree)
                except StorageFailed:
                    if not self._waiting().total_bytes:
                        raise
                    time.sleep(WAIT_SECONDS)
            raise StorageFailed(self._full(needed))
        except StorageFailed as error:
            if self._strict:
                raise
            if not self._queue.directory.is_dir():  # that is told by `_look`
                return None
            warnings.warn(
                f"the files of the checkpoint of step {facts.step} are not saved, only its metrics: {error}",
                stacklevel=4,
            )
            return None

    def _wait_for_room(self, needed: int) -> bool:
        """Wait until so much may be copied; False if that will not be, because storing does not go on."""
        since = _Stall()
        while not self._has_room(needed):
            is_alive = self._launched.attend()
            waiting = self._waiting()
            if since.is_over(waiting.jobs, ROOM_SECONDS):
                return False
            if not waiting.total_bytes or waiting.trouble is not None or not is_alive:
                return self._has_room(needed)
            replaces = self._place.config.spool.when_full == "replace"
            if not self._told_of_waiting:
                self._told_of_waiting = True
                done = "gives up the files of those that wait" if replaces else "waits for room"
                warnings.warn(
                    f"storing is slower than training: {waiting.total_bytes / 1e6:.0f} MB wait in "
                    f"{self._queue.directory}, and checkpoint() {done}. `spool: {{limit: ..., when_full: ...}}` in "
                    "replicate.yaml changes that",
                    stacklevel=5,
                )
            if replaces and self._withdraw_one():
                continue
            time.sleep(WAIT_SECONDS)
        return True

    def _has_room(self, needed: int) -> bool:
        limits = self._place.config.spool
        waiting = self._waiting().total_bytes
        if waiting and waiting + needed > limits.limit_bytes:
            return False
        try:
            disk = shutil.disk_usage(self._queue.directory)
        except OSError as error:
            raise self._no_room(error) from error
        keep_free = limits.keep_free_bytes
        if keep_free is None:
            keep_free = min(KEEP_FREE_BYTES_MAX, int(disk.total * KEEP_FREE_SHARE))
        return disk.free - needed >= keep_free

    def _withdraw_one(self) -> bool:
        """Give up the files of the newest checkpoint that waits and is not the best; tells whether there was one."""
        for item in reversed(self._unstored):
            is_best = self._best is not None and item.checkpoint == self._best.id
            if item.checkpoint is not None and not is_best and self._queue.withdraw(item.staged):
                self._unstored.remove(item)
                self._unstored_bytes -= item.size_bytes
                return True
        return False

    def _full(self, needed: int) -> str:
        waiting = self._waiting()
        reason = "" if waiting.trouble is None else f" ({waiting.trouble})"
        return (
            f"there is no room for {needed / 1e6:.1f} MB in {self._queue.directory}, where "
            f"{waiting.total_bytes / 1e6:.1f} MB wait{reason}. Make room there, or change `spool` in replicate.yaml"
        )

    def _no_room(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"can't copy what is to be saved to {self._queue.directory}: {error}. Make room there, or make it writable"
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
        _warn_of_missing(primary, recorded)
        if primary is None and config.primary_metric is not None:
            if config.primary_metric.name in recorded:
                primary = config.primary_metric
            else:
                _warn_of_mistyped(config.primary_metric.name, recorded)
        return CheckpointFacts(_new_id(), utc_now(), _checked_step(step), recorded, primary, extra=other)


def _new_id() -> str:
    return ids.random_id(os.urandom(ids.ID_BYTES))


def _new_ulid() -> str:
    return ids.ulid(int(time.time() * 1000), os.urandom(ids.ULID_BYTES))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # copying it will say so
        return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def mapping(name: str, value: object) -> dict[str, Value]:
    """Check and convert a dictionary that a user gave: params, metrics.

    Raises:
        InvalidInput: it is no dictionary, or holds something that can't be recorded.
    """
    if not isinstance(value, Mapping):
        hint = ". Did you mean vars(...)?" if hasattr(value, "__dict__") else ""
        raise InvalidInput(f"{name} must be a dictionary, got {type(value).__name__}{hint}")
    converted = plain(value, name=name)
    assert isinstance(converted, dict), "a mapping is converted to a dictionary"
    return converted


def text(what: str, value: object) -> str:
    """Check a text that a user gave: a name, a tag.

    Raises:
        InvalidInput: it is none, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{what} must be a text that is not empty, got {value!r}")
    return str(plain(value, name=what))


def labels(tags: object) -> tuple[str, ...]:
    """Check tags as a user gave them; one that is given twice counts once.

    Raises:
        InvalidInput: they are no list of texts.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags must be a list of texts, got {tags!r}")
    return tuple(dict.fromkeys(text("a tag", tag) for tag in tags))


def _checked_step(step: object) -> int:
    if step is None:
        return 0
    try:
        number = None if isinstance(step, bool) else operator.index(step)  # type: ignore[arg-type]  # np.int64 is one
    except TypeError:
        number = None
    if number is None:
        raise InvalidInput(f"step must be a whole number, got {step!r}")
    if abs(number) > COUNT_MAX:
        raise InvalidInput(f"step must be a whole number up to {COUNT_MAX}, got a larger one")
    return number


def _warn_of_missing(primary: PrimaryMetric | None, metrics: Mapping[str, Value]) -> None:
    if primary is not None and primary.name not in metrics:
        near = difflib.get_close_matches(primary.name, metrics, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(metrics) or "none"
        warnings.warn(
            f"the primary metric {primary.name!r} is not among the metrics ({known}){hint}: the checkpoint is "
            "recorded, and best() will pass over it",
            stacklevel=5,
        )


def _warn_of_unranked(facts: CheckpointFacts) -> None:
    if facts.keep is not None and facts.keep.best > 1 and facts.primary_metric is None:
        warnings.warn(
            f"all files are kept, not those of the best {facts.keep.best} checkpoints: they have no primary metric by "
            "which one would be better than another",
            stacklevel=4,
        )


def _warn_of_mistyped(primary: str, metrics: Mapping[str, Value]) -> None:
    """Warn of a primary metric of `replicate.yaml` that is nearly there: not every checkpoint need have it."""
    near = _nearly(primary, tuple(metrics))
    if near is not None:
        warnings.warn(
            f"replicate.yaml marks {primary!r} as primary, which is not among the metrics: did you mean {near!r}?",
            stacklevel=5,
        )


@lru_cache(maxsize=64)  # metrics of every step have the same names
def _nearly(name: str, names: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=MISTYPED)), None)


def check_inside(base: Path, root: Path, path: str | os.PathLike[str]) -> Path:
    """The absolute form of a path that must lie inside the project directory, whether it exists yet or not.

    Args:
        base: the directory that a relative path starts from.
        root: the project directory, resolved.
        path: as a user gave it.

    Raises:
        InvalidInput: it is empty, or outside.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInput(f"path is {text!r}: give a file or directory of the project, or None to save no files")
    given = Path(os.path.normpath(base / text))
    resolved = given.parent.resolve() / given.name
    if not resolved.is_relative_to(root):
        raise InvalidInput(
            f"path {text!r} lies outside of the project {root}: save into the project, or put a replicate.yaml into a "
            "directory above both"
        )
    return resolved


def _existing_inside(base: Path, root: Path, path: str | os.PathLike[str]) -> Path:
    """As `check_inside`, for a path that must exist."""
    inside = check_inside(base, root, path)
    try:
        if not inside.exists():
            raise InvalidInput(f"path {os.fspath(path)!r} does not exist{_similar(inside)}")
        if not inside.resolve().is_relative_to(root):
            raise InvalidInput(
                f"path {os.fspath(path)!r} is a link to {inside.resolve()}, outside of the project {root}"
            )
    except OSError as error:
        raise InvalidInput(f"path {os.fspath(path)!r} can't be looked up: {error.strerror}") from error
    return inside


def _similar(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f": there is no directory {path.parent}"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    found = ", ".join(near or names[:10]) or "nothing"
    return f" in {path.parent}; {'similar is' if near else 'there is'}: {found}"
