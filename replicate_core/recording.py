"""What this process records of an experiment: input is checked, copied, stored, and then made visible.

Nothing here is seen by anyone before all of it is stored: files first, their manifest, the record last.
"""

from __future__ import annotations

import atexit
import difflib
import operator
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from replicate_core.config import Config
from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.files import IgnoreRules, Tree, scan
from replicate_core.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Ended,
    Ending,
    PrimaryMetric,
)
from replicate_core.repository import Repository
from replicate_core.spool import Spool
from replicate_core.store import local_root
from replicate_core.values import Value, plain
from replicate_core.writing import Snapshot, store_snapshot

_WithFiles = TypeVar("_WithFiles", Created, CheckpointFacts)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an experiment is recorded from, and to."""

    config: Config
    repository: Repository

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def tree(self, start: Path, *, rules: IgnoreRules) -> Tree:
        """The files at or below `start`; the storage itself is never among them."""
        storage = local_root(self.repository.store)
        return scan(self.directory, start, rules=rules, skipped=() if storage is None else (storage.resolve(),))

    def store(self, tree: Tree) -> Snapshot:
        """Copy the files of a tree and store them."""
        with Spool(self.directory).staged(tree) as staged:
            if tree.files and not staged.files:
                raise InvalidInput(f"{' and '.join(tree.files)} vanished while it was copied: nothing was saved")
            return store_snapshot(self.repository, staged)


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
        if local_root(place.repository.store) == place.directory:
            raise InvalidInput(
                f"the storage is the project {place.directory} itself: name a directory in it, or another"
            )
        tree = None
        if path is not None:
            start = _inside(place.directory, place.directory, path)
            tree = place.tree(start, rules=IgnoreRules.of(place.directory))
        place.repository.prepare()
        if tree is not None:
            created = _with_snapshot(created, place.store(tree), start.relative_to(place.directory).as_posix())
        place.repository.append(created)
        return cls(place, created.experiment), created

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> CheckpointFacts:
        """Record a checkpoint; see `Experiment.checkpoint`."""
        if self._over:
            raise InvalidInput("this experiment has ended: a checkpoint can't be added to it any more")
        facts = self._facts(metrics, primary_metric, step, extra)
        start = None if path is None else _inside(Path.cwd(), self._place.directory, path)
        with self._lock:
            if step is None:
                facts = replace(facts, step=self._next_step)
            try:
                if start is not None:
                    facts = self._with_files(facts, start)
                self._place.repository.append(Checkpointed(self._experiment, (facts,)))
            except StorageFailed as error:
                warnings.warn(f"the checkpoint of step {facts.step} is not stored: {error}", stacklevel=3)
            self._next_step = facts.step + 1
        return facts

    def end(self, status: Ending = "finished", error: str | None = None) -> None:
        """Record that the experiment is over; once it is, further calls do nothing."""
        with self._lock:
            if self._over:
                return
            self._place.repository.append(Ended(self._experiment, self._place.repository.now(), status, error))
            self._over = True
        atexit.unregister(self._end_at_exit)

    def _end_at_exit(self) -> None:
        try:
            self.end()
        except StorageFailed as error:
            warnings.warn(f"that the experiment {self._experiment} ended is not stored: {error}", stacklevel=1)

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

    def _with_files(self, facts: CheckpointFacts, start: Path) -> CheckpointFacts:
        place = self._place
        snapshot = place.store(place.tree(start, rules=IgnoreRules()))
        return _with_snapshot(facts, snapshot, start.relative_to(place.directory).as_posix())


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
        if not isinstance(step, bool):
            return operator.index(step)  # type: ignore[arg-type]  # numpy's integers pass, and what else is one
    except TypeError:
        pass
    raise InvalidInput(f"step must be a whole number, got {step!r}")


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


def _inside(base: Path, root: Path, path: str | os.PathLike[str]) -> Path:
    """The absolute form of a path that must exist inside the project directory.

    Raises:
        InvalidInput: it is empty, outside, or not there.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInput(f"path is {text!r}: give a file or directory of the project, or None to save no files")
    try:
        return _resolved_inside(Path(os.path.normpath(base / text)), root, text)
    except OSError as error:
        raise InvalidInput(f"path {text!r} can't be looked up: {error.strerror}") from error


def _resolved_inside(given: Path, root: Path, text: str) -> Path:
    resolved = given.parent.resolve() / given.name
    if not resolved.is_relative_to(root):
        raise InvalidInput(
            f"path {text!r} lies outside of the project {root}: save into the project, or put a replicate.yaml into a "
            "directory above both"
        )
    if not resolved.exists():
        raise InvalidInput(f"path {text!r} does not exist{_similar(resolved)}")
    if not resolved.resolve().is_relative_to(root):
        raise InvalidInput(f"path {text!r} is a link to {resolved.resolve()}, outside of the project {root}")
    return resolved


def _similar(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f": there is no directory {path.parent}"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    found = ", ".join(near or names[:10]) or "nothing"
    return f" in {path.parent}; {'similar is' if near else 'there is'}: {found}"
