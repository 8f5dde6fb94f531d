"""What this process records of an experiment: input is checked and copied, and is safe from then on.

`checkpoint()` costs one copy of its files. A job in the spool outlives this process, however that ends; `launching`
gets it stored. Nothing here touches the storage.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from replicate_core import user_warnings
from replicate_core.errors import InvalidInput, ReplicateError, StorageFailed
from replicate_core.format import ids
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Ended,
    Ending,
    Keep,
    PrimaryMetric,
    Record,
    Resumed,
)
from replicate_core.format.values import Value, is_number
from replicate_core.formatting import first_few
from replicate_core.machine import process_exit
from replicate_core.machine.descriptors import Anchor
from replicate_core.machine.files import Tree, working_directory
from replicate_core.machine.fresh_ids import new_id, new_ulid
from replicate_core.machine.ignoring import IgnoreRules
from replicate_core.machine.names import portable
from replicate_core.machine.staging import Staged
from replicate_core.recording.backlog import LOOK_SECONDS, WAIT_SECONDS, Backlog
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
from replicate_core.recording.place import Place
from replicate_core.recording.secret_params import Redactor
from replicate_core.repository.repository import utc_now
from replicate_core.spool import leftovers
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Origin, Queue
from replicate_core.storage.opening import local_root
from replicate_core.user_warnings import warn_only

_open: dict[str, Recording] = {}
"""The recordings that are open in this process, by experiment."""


def open_here(experiment: str) -> Recording | None:
    """The open recording of an experiment in this process, if there is one."""
    found = _open.get(experiment)
    return found if found is not None and found.is_owner else None


class Recording:
    """An experiment that this process records. Safe to use from several threads.

    Args:
        place: where it is recorded from and to.
        queue: the queue for its jobs; owned by this process.
        launched: what uploads from the queue.
        strict: whether failures of the storage are raised.
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
        self._backlog = Backlog(queue, launched, place.config.spool)
        self._blocked_seconds = 0.0
        self._checked_at = 0.0
        self._reported: str | None = None
        self._warned_of_secrets = False
        self._warned_of_unranked = False
        self._warned_of_files: set[str] = set()
        self._project = Anchor(place.directory)
        self._is_losing = False
        self._code: Mapping[str, leftovers.Version | None] | None = None
        """Which files were saved as code, in which version."""
        self._keep: Keep | None = None
        self._is_superseded = False
        self._is_new = False
        self._wait_is_deferred = False
        """Whether it has ended, but the wait until everything is stored is deferred."""

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
        """Begin an experiment, or resume one. When this returns, its code is copied and the storage has been reached.

        Args:
            place: where it is recorded from and to.
            first: what is known about the experiment, or from where it resumes.
            path: what to save of the project, relative to its directory; None saves nothing.
            strict: whether `checkpoint` and `end` raise failures of the storage.
            next_step: the step of the next checkpoint that names none.
            check: raises if the experiment must not begin. Of all processes of this machine that pass a check, one at
                a time checks and begins.

        Raises:
            InvalidInput: the path, or what lies there, can't be saved.
            StorageFailed, and what else opening a storage raises: the experiment was not begun.
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
            launched = launch(queue, place.open_repository)  # before copying code: it takes a while to get ready
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
            recording._begin(first, tree)
        except BaseException:
            queue.finish_appending()
            queue.remove()
            queue.unwatch()
            if recording is not None:
                recording._project.close()
            if launched is not None:
                launched.detach()
            place.spool.tidy()
            raise
        return recording

    def _begin(self, first: Created | Resumed, tree: Tree | None) -> None:
        self._is_new = isinstance(first, Created)
        staged = None
        if tree is not None:
            self._code = {path: leftovers.version(file) for path, file in tree.files.items()}
            staged = self._backlog.stage(tree)
            if tree.files and not staged.files:
                raise InvalidInput(f"{_why_not_copied(tree, staged)}: none of the code can be saved")
            if news := self._file_warning(staged):
                user_warnings.warn(f"{news}. Name in .replicateignore what is not code")
            first = replace(first, size_bytes=staged.total_bytes)
        self._launched.wait_until_ready()
        self._append(first, staged)
        self._launched.ensure_running()
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
        """Whether the experiment is new, and nothing but its beginning was recorded."""
        return self._is_new and self._backlog.jobs == 1

    @property
    def is_owner(self) -> bool:
        """Whether this process still appends to the queue, and is not a fork of the process that does."""
        return self.is_running and os.getpid() == self._process and self._queue.is_owned_by_this_process()

    def supersede(self) -> None:
        """End this recording because the process has resumed the experiment in another one."""
        self._is_superseded = True
        if self._note_end("interrupted", "the same process resumed the experiment") is None:
            return
        left, interruption = self._wait_and_detach()
        if left is not None:
            warn_only(left)
        if interruption is not None:
            raise interruption

    def wait_until_known(self, seconds: float) -> bool:
        """Wait until others can see that it has begun, for at most `seconds`. Returns whether they can."""
        patience = time.monotonic() + seconds
        while self._queue.state().done == 0 and self._launched.ensure_running() and time.monotonic() < patience:
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
            if start is not None or time.monotonic() - self._checked_at > LOOK_SECONDS:
                self._check_storing()
            self._blocked_seconds += time.perf_counter() - began
        return facts

    def keep(self, rule: Keep) -> None:
        """See `Recorded.keep`."""
        if self._over:
            raise InvalidInput("this experiment has ended: it saves no more checkpoints that keep() could apply to")
        self._keep = rule

    def end(self, status: Ending = "finished", error: str | None = None, *, waits: bool = True) -> Ended | None:
        """See `Recorded.end`. Waits until everything is stored, or can't be.

        Without `waits` it returns at once if the spool is as safe as the storage. The wait is then deferred to whatever
        needs it first: reading in this process, another `end`, or the end of the process.

        Raises:
            StorageFailed: with `strict`, if something could not be stored.
        """
        ended = self._note_end(status, error)
        if ended is not None and not waits and self._may_defer_wait():
            self._wait_is_deferred = True
            self._queue.defer_wait(self.end)
            atexit.register(self._wait_at_exit)
        elif ended is not None or self._wait_is_deferred:
            left, interruption = self._wait_and_detach()
            if left is not None:
                if self._strict and interruption is None:
                    raise StorageFailed(left)
                warn_only(left)
            if interruption is not None:
                raise interruption
        return ended

    def _wait_at_exit(self) -> None:
        """Wait until everything is stored, at the end of the process: raise nothing, because nobody would catch it."""
        left, _ = self._wait_and_detach()
        if left is not None:
            notifier().report_problem(left)

    def _may_defer_wait(self) -> bool:
        """Tell whether the storage is on the disk of the spool, and an exit hook can wait for the uploads."""
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
        """End it because the process ends: raise nothing, because nobody would catch it."""
        if self._note_end(status, error) is not None:
            self._wait_at_exit()

    def _note_end(self, status: Ending, error: str | None) -> Ended | None:
        """Append how it ended; None if that is already recorded. Then the end survives a crash of the process."""
        if os.getpid() != self._process:  # before taking the lock: a fork may have copied it while it was held
            return None
        with self._lock:
            if self._over:
                return None
            ended = Ended(self._experiment, utc_now(), status, error, self._blocked_seconds, self._queue.session)
            self._over = True
            with suppress(StorageFailed):  # if there is no room even for this, it counts as killed
                self._append(ended)
            self._queue.finish_appending()
            self._launched.wake()
        if _open.get(self._experiment) is self:
            del _open[self._experiment]
        process_exit.unregister(self.end_with_process)
        return ended

    def _wait_and_detach(self) -> tuple[str | None, BaseException | None]:
        """Wait until everything is stored. Returns a sentence about what is not, and what interrupted the wait."""
        if os.getpid() != self._process:
            return None, None
        if self._wait_is_deferred:
            self._wait_is_deferred = False
            self._queue.defer_wait(None)
            atexit.unregister(self._wait_at_exit)
        self._follow()
        left, interruption = self._wait_until_stored()
        text = None if left is None else self._backlog.what_is_left(left)
        self._launched.detach()
        self._project.close()
        if not self._queue.was_closed() and left is None:
            text = f"{self._deleted_message()}: what was not stored by then is lost"
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
        """The absolute form of a user's path in the project, even if the project was moved."""
        self._follow()
        return existing_inside(working_directory(path), self._place.directory, path)

    def _follow(self) -> None:
        """Find the project and the spool again if they were moved."""
        self._queue.follow()
        if self._project.follow():
            config = replace(self._place.config, directory=self._project.path)
            spool = Spool(config.directory, self._queue.directory.parent)
            self._place = replace(self._place, config=config, spool=spool)

    # Whether storing works.

    def _check_storing(self) -> None:
        """Ensure that a recorder is running, and report once why storing fails."""
        self._checked_at = time.monotonic()
        self._follow()
        self._launched.ensure_running()
        trouble = self._launched.trouble()
        if not self._queue.directory.is_dir():
            self._report(
                "gone", StorageFailed(f"{self._deleted_message()}: nothing more of this experiment can be saved")
            )
        elif trouble is None:
            self._reported = None
        else:
            where = f"what is saved can't be stored for now, and waits in {self._queue.directory}; training continues. "
            self._report(trouble.kind, as_error(trouble), where)

    def _report(self, what: str, error: ReplicateError, where: str = "") -> None:
        """Warn of a failure once, or raise it if the recording is strict."""
        if self._strict:
            raise error
        if self._reported != what:
            self._reported = what
            warn_only(f"{where}{error}")

    def _deleted_message(self) -> str:
        return f"{self._queue.directory}, where what is saved waits to be stored, was deleted by somebody"

    def _wait_until_stored(self) -> tuple[Waiting | None, BaseException | None]:
        display = NoDisplay() if self._place.config.quiet else notifier().upload_display()
        return self._backlog.wait_until_stored(display)

    # What waits.

    def _append(self, record: Record, staged: Staged | None = None, facts: CheckpointFacts | None = None) -> None:
        self._backlog.append(record, staged, facts, blocked_seconds=self._blocked_seconds)

    def _append_checkpoint(self, facts: CheckpointFacts, staged: Staged | None) -> None:
        """Append the job of a checkpoint. If there is no room even for that, it is lost, and training continues."""
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

    def _file_warning(self, staged: Staged) -> str:
        """A warning about files that were not copied, or not completely, and were not warned about before."""
        left_out = [f"{path} {why}" for path, why in staged.left_out.items() if path not in self._warned_of_files]
        growing = [path for path in staged.growing if path not in self._warned_of_files]
        self._warned_of_files.update(staged.left_out, staged.growing)
        texts = []
        if left_out:
            texts.append(f"left out of what is saved: {first_few(left_out)}")
        if growing:
            texts.append(
                f"saved as far as it was written, because it kept growing while it was copied: {first_few(growing)}"
            )
        return ". And ".join(texts)

    def _stage_checkpoint(self, facts: CheckpointFacts, start: Path) -> Staged | None:
        """Copy the files of a checkpoint. Warns and returns None if they can't be copied."""
        tree = self._place.tree(start, rules=IgnoreRules())
        try:
            staged = self._backlog.stage_with_room(tree)
        except StorageFailed as error:
            if self._strict:
                raise
            if self._queue.directory.is_dir():  # if not, `_check_storing` warns about that
                _warn_of_unsaved(facts, str(error))
            return None
        is_empty = bool(tree.files) and not staged.files
        if (is_empty and not start.exists()) or (self._strict and staged.left_out):
            shutil.rmtree(staged.directory, ignore_errors=True)
            raise InvalidInput(f"{_why_not_copied(tree, staged)}: nothing was saved")
        if is_empty:
            shutil.rmtree(staged.directory, ignore_errors=True)
            _warn_of_unsaved(facts, _why_not_copied(tree, staged))
            return None
        if news := self._file_warning(staged):
            warn_only(f"{news}. This is said once")
        limit = self._place.config.code_limit_bytes
        made = leftovers.made(tree.files, self._code, whole=start.is_file(), limit_bytes=limit)
        maker = leftovers.Maker(self._experiment, facts.id)
        leftovers.note_paths(self._place.spool.directory, self._place.directory, maker, made)
        return staged

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
        if not self._warned_of_secrets:
            self._warned_of_secrets = bool(redactor.found)
            warn_of_secrets(redactor.found)
        return CheckpointFacts(new_id(), utc_now(), checked_step(step), recorded, primary, extra=other)

    def _warn_of_vector(self, primary: PrimaryMetric | None, metrics: Mapping[str, Value]) -> None:
        """Warn once about a primary metric that is not a number, so that checkpoints can't be compared by it."""
        value = None if primary is None else metrics.get(primary.name)
        if primary is None or value is None or is_number(value) or self._warned_of_unranked:
            return
        self._warned_of_unranked = True
        warn_only(
            f"the primary metric {primary.name!r} is not a single number but {shortened(value)}: it is recorded, and "
            "best() will ignore it. Name a metric that is a single number, such as the mean"
        )


def _why_not_copied(tree: Tree, staged: Staged) -> str:
    """The names of files that were not copied, and why."""
    vanished = (f"{path} vanished while it was copied" for path in tree.files)
    return first_few([f"{path} {why}" for path, why in staged.left_out.items()] or list(vanished))


def _warn_of_unsaved(facts: CheckpointFacts, why: str) -> None:
    warn_only(f"the files of the checkpoint of step {facts.step} are not saved, only its metrics: {why}")
