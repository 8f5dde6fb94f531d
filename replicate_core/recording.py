"""What this process records of an experiment: input is checked, copied, stored, and then made visible.

Nothing here is seen by anyone before all of it is stored: files first, their manifest, the record last.
"""

from __future__ import annotations

import atexit
import difflib
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from replicate_core.config import Config
from replicate_core.documents import COUNT_MAX
from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.files import IgnoreRules, Tree, scan
from replicate_core.known import Known
from replicate_core.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Ended,
    Ending,
    PrimaryMetric,
)
from replicate_core.redaction import redact
from replicate_core.repository import Repository
from replicate_core.spool import Spool
from replicate_core.store import local_root
from replicate_core.values import Value, plain
from replicate_core.writing import AnyRecord, Snapshot, publish

ERROR_CHARACTERS = 2000
"""Longer messages of exceptions are cut."""

_WithFiles = TypeVar("_WithFiles", Created, CheckpointFacts)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an experiment is recorded from, and to."""

    config: Config
    repository: Repository
    known: Known
    spool: Spool

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def tree(self, start: Path, *, rules: IgnoreRules) -> Tree:
        """The files at or below `start`; the storage itself is never among them."""
        storage = local_root(self.repository.store)
        return scan(self.directory, start, rules=rules, skipped=() if storage is None else (storage.resolve(),))

    def publish(self, tree: Tree, record_of: Callable[[Snapshot], AnyRecord]) -> AnyRecord:
        """Copy the files of a tree, store them, and then the record that makes them visible."""
        with self.spool.staged(tree) as staged:
            if tree.files and not staged.files:
                raise InvalidInput(f"{' and '.join(tree.files)} vanished while it was copied: nothing was saved")
            return publish(self.repository, self.known, staged, self.config.compression, record_of)


class _Uncaught:
    """The exception that ends this process, if one does: when the process exits, nothing else knows it any more."""

    def __init__(self) -> None:
        self.ending: tuple[Ending, str | None] = ("finished", None)
        self._before: Callable[[type[BaseException], BaseException, TracebackType | None], object] = sys.excepthook

    def watch(self) -> None:
        """Take the place of `sys.excepthook`, and call what stood there."""
        if sys.excepthook != self._notice:
            self._before, sys.excepthook = sys.excepthook, self._notice

    def _notice(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        status: Ending = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        text = redact(f"{kind.__name__}: {error}")[:ERROR_CHARACTERS]
        self.ending = status, text.encode("utf-8", "backslashreplace").decode("utf-8")
        self._before(kind, error, trace)


_uncaught = _Uncaught()


class Recording:
    """An experiment that this process records. Safe to use from several threads.

    Args:
        place: where from and to.
        experiment: its id.
        next_step: the step of the next checkpoint that names none.
    """

    def __init__(self, place: Place, experiment: str, *, next_step: int = 0) -> None:
        self._place = place
        self._experiment = experiment
        self._next_step = next_step
        self._lock = threading.Lock()
        self._over = False
        self._process = os.getpid()
        _uncaught.watch()
        atexit.register(self._end_at_exit)

    @classmethod
    def begin(cls, place: Place, created: Created, *, path: str | None) -> tuple[Recording, Created]:
        """Store the code of a project and make its experiment visible.

        Args:
            place: where from and to.
            created: what is known of the experiment.
            path: what to save of the project, relative to its directory; None saves nothing.

        Raises:
            InvalidInput: the path, or what lies there, can't be saved.
            StorageFailed: the storage refuses; the experiment does not exist then.
        """
        storage = local_root(place.repository.store)
        if storage is not None and place.directory.is_relative_to(storage.resolve()):
            raise InvalidInput(f"the storage {storage} holds the project {place.directory} itself: keep them apart")
        tree = None
        if path is not None:
            start = _existing_inside(place.directory, place.directory, path)
            tree = place.tree(start, rules=IgnoreRules.of(place.directory))
        place.repository.prepare()
        if tree is None:
            place.repository.append(created)
        else:
            saved = start.relative_to(place.directory).as_posix()
            created = place.publish(tree, lambda snapshot: _with_snapshot(created, snapshot, saved))
        return cls(place, created.experiment), created

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> tuple[CheckpointFacts, bool]:
        """Record a checkpoint, and tell whether it is stored; see `Experiment.checkpoint`."""
        if self._over:
            raise InvalidInput("this experiment has ended: a checkpoint can't be added to it any more")
        facts = self._facts(metrics, primary_metric, step, extra)
        start = None if path is None else _existing_inside(Path.cwd(), self._place.directory, path)
        with self._lock:
            if step is None:
                facts = replace(facts, step=self._next_step)
            stored = True
            try:
                if start is None:
                    self._place.repository.append(Checkpointed(self._experiment, (facts,)))
                else:
                    facts = self._publish(facts, start)
            except StorageFailed as error:
                warnings.warn(f"the checkpoint of step {facts.step} is not stored: {error}", stacklevel=3)
                stored = False
            self._next_step = facts.step + 1
        return facts, stored

    def end(self, status: Ending = "finished", error: str | None = None) -> Ended | None:
        """Record that the experiment is over.

        Returns:
            What was recorded; None where it is over already, where another process records it (a forked child that
            exits), or where the storage fails, which gives a warning and can be tried again.
        """
        if os.getpid() != self._process:  # before the lock: a fork may have copied it while it was held
            return None
        with self._lock:
            if self._over:
                return None
            ended = Ended(self._experiment, self._place.repository.now(), status, error)
            try:
                self._place.repository.append(ended)
            except StorageFailed as failure:
                warnings.warn(f"that the experiment ended is not stored: {failure}", stacklevel=3)
                return None
            self._over = True
            self._place.spool.close()
        atexit.unregister(self._end_at_exit)
        return ended

    def _end_at_exit(self) -> None:
        self.end(*_uncaught.ending)

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
        if primary is None and config.primary_metric is not None and config.primary_metric.name in recorded:
            primary = config.primary_metric
        _warn_of_missing(primary, recorded)
        repository = self._place.repository
        return CheckpointFacts(
            repository.new_id(), repository.now(), _checked_step(step), recorded, primary, extra=other
        )

    def _publish(self, facts: CheckpointFacts, start: Path) -> CheckpointFacts:
        saved = start.relative_to(self._place.directory).as_posix()
        record = self._place.publish(
            self._place.tree(start, rules=IgnoreRules()),
            lambda snapshot: Checkpointed(self._experiment, (_with_snapshot(facts, snapshot, saved),)),
        )
        return record.checkpoints[0]


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


def _with_snapshot(facts: _WithFiles, snapshot: Snapshot, path: str) -> _WithFiles:
    return replace(
        facts,
        path=path,
        manifest=snapshot.manifest,
        size_bytes=snapshot.size_bytes,
        stored_bytes=snapshot.stored_bytes,
    )


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
