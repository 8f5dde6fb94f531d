"""An experiment as users hold it: what was recorded of one execution of a training script, and more to record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import overload

from replicate_core import ids, records
from replicate_core.checkout import Layout, check_out, lay_out
from replicate_core.checkpoint import Checkpoint, CheckpointList
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.recording import Recording
from replicate_core.records import CheckpointFacts, Deleted, ExperimentState, GitState, PrimaryMetric, Status
from replicate_core.repository import Repository
from replicate_core.values import Value


class Experiment:
    """One execution of a training script. Made by `replicate.init()`, found by `replicate.experiments`.

    Attributes:
        id: 32 hexadecimal characters.
        created: when it began, in UTC.
        name, tags, notes: what its author said of it.
        params: its hyperparameters.
        user, host, command: who started it, where and how; credentials are redacted.
        config: what `replicate.yaml` said.
        path: what was saved of the project, relative to its directory; None if nothing was.
        python_version, packages, system, git: what it ran with.
    """

    def __init__(self, state: ExperimentState, repository: Repository, recording: Recording | None = None) -> None:
        self._created = state.created
        self._checkpoints = list(state.checkpoints)
        self._ended = state.ended
        self._repository = repository
        self._recording = recording

    @property
    def id(self) -> str:  # noqa: D102  # documented with the class, as the properties below
        return self._created.experiment

    @property
    def short_id(self) -> str:
        """The first characters of its id, as listings show it."""
        return ids.short(self.id)

    @property
    def created(self) -> datetime:  # noqa: D102
        return self._created.created

    @property
    def name(self) -> str | None:  # noqa: D102
        return self._created.name

    @property
    def tags(self) -> tuple[str, ...]:  # noqa: D102
        return self._created.tags

    @property
    def notes(self) -> str | None:  # noqa: D102
        return self._created.notes

    @property
    def params(self) -> Mapping[str, Value]:  # noqa: D102
        return self._created.params

    @property
    def user(self) -> str | None:  # noqa: D102
        return self._created.user

    @property
    def host(self) -> str | None:  # noqa: D102
        return self._created.host

    @property
    def command(self) -> str | None:  # noqa: D102
        return self._created.command

    @property
    def config(self) -> Mapping[str, Value]:  # noqa: D102
        return self._created.config

    @property
    def path(self) -> str | None:  # noqa: D102
        return self._created.path

    @property
    def python_version(self) -> str | None:  # noqa: D102
        return self._created.python_version

    @property
    def packages(self) -> Mapping[str, str]:  # noqa: D102
        return self._created.packages

    @property
    def system(self) -> Mapping[str, Value]:  # noqa: D102
        return self._created.system

    @property
    def git(self) -> GitState | None:  # noqa: D102
        return self._created.git

    @property
    def size_bytes(self) -> int:
        """Size of its code and of the files of all its checkpoints together."""
        return self._created.size_bytes + sum(item.size_bytes for item in self._checkpoints)

    @property
    def stored_bytes(self) -> int:
        """What the experiment added to the storage."""
        return self._created.stored_bytes + sum(item.stored_bytes for item in self._checkpoints)

    @property
    def status(self) -> Status:
        """`running` until it ended; then `finished`, `failed` or `interrupted`.

        A process that is killed can't say so: its experiment stays `running`.
        """
        return "running" if self._ended is None else self._ended.status

    @property
    def error(self) -> str | None:
        """Type and message of the exception that ended it, if one did."""
        return None if self._ended is None else self._ended.error

    @property
    def duration(self) -> timedelta | None:
        """From its beginning to its end; None while it runs."""
        return None if self._ended is None else self._ended.created - self.created

    @property
    def checkpoints(self) -> CheckpointList:
        """Its checkpoints, in the order they were made."""
        return CheckpointList(self._held(facts) for facts in self._checkpoints)

    @property
    def primary_metric(self) -> PrimaryMetric | None:
        """The primary metric by which its checkpoints are compared; None if no checkpoint has any."""
        return records.primary_metric_of(self._checkpoints)

    def best(self) -> Checkpoint | None:
        """Its best checkpoint by the primary metric, of equals the first.

        Checkpoints without that metric, or with NaN, are passed over; None when none is left.
        """
        facts = records.best(self._checkpoints)
        return None if facts is None else self._held(facts)

    def latest(self) -> Checkpoint | None:
        """Its last checkpoint; None if there is none yet."""
        return self._held(self._checkpoints[-1]) if self._checkpoints else None

    def is_running(self) -> bool:
        """Tell whether the experiment has not ended yet."""
        return self.status == "running"

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None = None,
        step: int | None = None,
        **kwargs: object,
    ) -> Checkpoint:
        """Record a checkpoint of this experiment.

        Args:
            path: a file or directory to save, relative to the working directory; it must lie in the project. None
                saves no files.
            metrics: name to value. Numbers, texts, lists; scalars and arrays of numpy, torch, TensorFlow and JAX.
            primary_metric: one of the metrics and its goal, `("val_loss", "minimize")`. Left out, it is the one that
                `replicate.yaml` marks as primary, if the metrics have it.
            step: the iteration, such as the epoch; counts up from the last one (from 0) when left out.
            **kwargs: recorded, too: as metrics where `replicate.yaml` lists them as metrics, else in `extra`.

        Raises:
            InvalidInput: an argument can't be taken; nothing was recorded.
        """
        if self._recording is None:
            raise InvalidInput(f"the experiment {self.short_id} was loaded, and is not recorded by this process")
        facts, stored = self._recording.checkpoint(path, metrics, primary_metric, step, kwargs)
        self._checkpoints += [facts] if stored else []
        return self._held(facts)

    def stop(self) -> None:
        """End the experiment. Needed in notebooks only: elsewhere it ends with the process."""
        if self._recording is not None:
            self._ended = self._recording.end() or self._ended

    def refresh(self) -> None:
        """Read again what the repository knows of the experiment.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        state = self._repository.states().get(self.id)
        if state is None:
            raise NotFound(f"the experiment {self.short_id} is no longer in {self._repository.store.url}")
        self._created, self._checkpoints, self._ended = state.created, list(state.checkpoints), state.ended

    def delete(self) -> None:
        """Delete the experiment and its checkpoints: they are in no listing any more.

        What others share with it stays. `replicate prune` frees the space that only it needed. What is recorded of it
        later, should it still run, is not seen either.

        Raises:
            StorageFailed: the storage refuses.
        """
        self._repository.append(Deleted(self.id))
        self._checkpoints = []

    def checkout(self, directory: str | Path, *, path: str | None = None) -> None:
        """Write its code and the files of its best checkpoint (else its latest) to a directory.

        Arguments and errors are those of `Checkpoint.checkout`.
        """
        check_out(self._repository, self.layout(path=path), Path(directory))

    def layout(self, *, path: str | None = None) -> Layout:
        """What `checkout` will write, without writing it."""
        chosen = self.best() or self.latest()
        if chosen is not None:
            return chosen.layout(path=path)
        return lay_out(self._repository.manifests([self._created.manifest]), only=path)

    def _held(self, facts: CheckpointFacts) -> Checkpoint:
        return Checkpoint(
            facts, self._repository, experiment_id=self.id, code_manifest=self._created.manifest, on_delete=self._forget
        )

    def _forget(self, checkpoint_id: str) -> None:
        self._checkpoints = [facts for facts in self._checkpoints if facts.id != checkpoint_id]

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<Experiment {self.short_id}{name} {self.status} checkpoints={len(self._checkpoints)}>"


class ExperimentList(Sequence[Experiment]):
    """Experiments in the order they began; a slice is an `ExperimentList` again."""

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self._items = tuple(experiments)

    @overload
    def __getitem__(self, index: int) -> Experiment: ...
    @overload
    def __getitem__(self, index: slice) -> ExperimentList: ...
    def __getitem__(self, index: int | slice) -> Experiment | ExperimentList:
        return ExperimentList(self._items[index]) if isinstance(index, slice) else self._items[index]

    def delete(self) -> None:
        """Delete them all; see `Experiment.delete`."""
        for experiment in self:
            experiment.delete()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"<ExperimentList of {len(self)}>"
