"""An experiment as users hold it: what was recorded of one execution of a training script, and more to record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import overload

from replicate_core import ids, records
from replicate_core.checkout import Layout, Progress, What, check_out, lay_out, silent
from replicate_core.checkpoint import Checkpoint, CheckpointList
from replicate_core.documents import COUNT_MAX
from replicate_core.endings import ending_of
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.listing import Listed, Source
from replicate_core.recording import Recorded, Recording
from replicate_core.records import CheckpointFacts, Created, Deleted, Ending, GitState, Keep, PrimaryMetric, Status
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

    def __init__(
        self,
        listed: Listed,
        source: Source,
        recorded: Recorded | None = None,
        *,
        resumed_from: CheckpointFacts | None = None,
    ) -> None:
        self._listed = listed
        self._source = source
        self._recorded = recorded
        self._resumed_from = resumed_from
        self._is_outdated = recorded is not None

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
        return self._now().state.created.path

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
        return self._now().state.created.size_bytes + sum(item.size_bytes for item in self._facts())

    @property
    def stored_bytes(self) -> int:
        """What the experiment added to the storage."""
        return self._now().state.created.stored_bytes + sum(item.stored_bytes for item in self._facts())

    @property
    def resumed_from(self) -> Checkpoint | None:
        """The checkpoint that it last went on from; None if it began at its beginning."""
        if self._recorded is not None:
            return None if self._resumed_from is None else self._held(self._resumed_from, is_stored=True)
        wanted = self._now().state.resumed_from
        return next((self._listed_one(facts) for facts in self._facts() if facts.id == wanted), None)

    @property
    def status(self) -> Status:
        """`running` until it ended; then `finished`, `failed`, `interrupted` or `killed`.

        `lost` where nothing is heard of it any more, and nobody was there to see its end: the machine is gone, say.
        """
        if self._recorded is not None and self._recorded.is_running:
            return "running"
        return self._now().status

    @property
    def error(self) -> str | None:
        """Type and message of the exception that ended it, if one did."""
        ended = self._now().state.ended
        return None if ended is None else ended.error

    @property
    def duration(self) -> timedelta | None:
        """From its beginning to its end; None while it runs."""
        ended = self._now().state.ended
        return None if ended is None else ended.created - self.created

    @property
    def blocked(self) -> timedelta | None:
        """How long `checkpoint()` held up the training in total; None until it ended."""
        ended = self._now().state.ended
        return None if ended is None else timedelta(seconds=ended.blocked_seconds)

    @property
    def heartbeat(self) -> datetime | None:
        """When it last gave a sign of life, by the clock of its machine; None once it has ended."""
        if self._listed.heartbeat is None:
            return None
        return max([self._listed.heartbeat.time, *(facts.created for facts in self._listed.state.checkpoints[-1:])])

    @property
    def waiting(self) -> int:
        """How many of its checkpoints are made and not stored yet, as far as this machine knows."""
        listed = self._now()
        here = len(listed.waiting - {self.id})
        return here or (0 if listed.heartbeat is None else listed.heartbeat.waiting)

    @property
    def checkpoints(self) -> CheckpointList:
        """Its checkpoints, in the order they were made."""
        return CheckpointList(self._listed_one(facts) for facts in self._facts())

    @property
    def primary_metric(self) -> PrimaryMetric | None:
        """The primary metric by which its checkpoints are compared; None if no checkpoint has any."""
        return records.primary_metric_of(self._facts())

    def best(self) -> Checkpoint | None:
        """Its best checkpoint by the primary metric, of equals the first.

        Checkpoints without that metric, or with NaN, are passed over; None when none is left.
        """
        facts = records.best(self._facts())
        return None if facts is None else self._listed_one(facts)

    def latest(self) -> Checkpoint | None:
        """Its last checkpoint; None if there is none yet."""
        facts = self._facts()
        return self._listed_one(facts[-1]) if facts else None

    @property
    def is_recorded_here(self) -> bool:
        """Whether this process records it: false in a distributed run for all processes but the first."""
        return isinstance(self._recorded, Recording)

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
        if self._recorded is None:
            raise InvalidInput(f"the experiment {self.short_id} was loaded, and is not recorded by this process")
        facts = self._recorded.checkpoint(path, metrics, primary_metric, step, kwargs)
        self._is_outdated = True
        return self._held(facts, is_stored=False)

    def keep(self, *, best: int = 1, last: int = 1) -> None:
        """Keep files of so many checkpoints only, from now on; their metrics are always kept.

        The files of the others are deleted once the checkpoint that takes their place is stored. Those of the best
        checkpoint by the primary metric and of the last one are kept in any case: to be used, and to be gone on from.

        Args:
            best: how many of the best checkpoints keep their files, from 1.
            last: how many of the last ones do, from 1.

        Raises:
            InvalidInput: a number can't be taken; or this process does not record the experiment.
        """
        for name, value in (("best", best), ("last", last)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT_MAX:
                raise InvalidInput(f"keep({name}=...) must be a number of checkpoints from 1, got {value!r}")
        if self._recorded is None:
            raise InvalidInput(f"the experiment {self.short_id} was loaded, and is not recorded by this process")
        self._recorded.keep(Keep(best, last))

    def stop(self) -> None:
        """End the experiment, and wait until all of it is stored.

        Needed in notebooks only: elsewhere it ends with the process. A `with` block ends it, too, and notes the
        exception that left it.

        Raises:
            StorageFailed: with `strict`, when something could not be stored. Without, that is a warning.
        """
        self._end("finished", None)

    def __enter__(self) -> Experiment:  # noqa: PYI034  # Self came with Python 3.11
        """Return itself; the experiment ends with the `with` block."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the experiment as the block ended."""
        self._end(*ending_of(error))

    def refresh(self) -> None:
        """Look again at what is known of the experiment.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        listed = self._source.one(self.id)
        if listed is None:
            raise NotFound(f"the experiment {self.short_id} is no longer in {self._source.repository.store.url}")
        self._listed, self._is_outdated = listed, False

    def delete(self) -> None:
        """Delete the experiment and its checkpoints: they are in no listing any more.

        What others share with it stays. `replicate prune` frees the space that only it needed. What is recorded of it
        later, should it still run, is not seen either.

        Raises:
            StorageFailed: the storage refuses.
        """
        self._source.repository.append(Deleted(self.id))
        self._listed = replace(self._listed, state=replace(self._listed.state, checkpoints=()))

    def checkout(
        self, directory: str | Path, *, path: str | None = None, what: What = "all", progress: Progress = silent
    ) -> None:
        """Write its code and the files of its best checkpoint (else its latest) to a directory.

        Arguments and errors are those of `Checkpoint.checkout`.
        """
        check_out(self._source.repository, self.layout(path=path, what=what), Path(directory), progress)

    def layout(self, *, path: str | None = None, what: What = "all") -> Layout:
        """What `checkout` will write, without writing it. What is not stored yet is waited for."""
        chosen = self.best() or self.latest()
        if chosen is not None:
            return chosen.layout(path=path, what=what)
        if what == "files":
            raise NotFound(f"the experiment {self.short_id} has no checkpoint, so there are no files but its code")
        state = self._source.settled(self.id)
        return lay_out(self._source.repository.manifests([state.code or state.created.manifest]), only=path)

    @property
    def _created(self) -> Created:
        return self._listed.state.created

    def _now(self) -> Listed:
        """What is known, with what this process has recorded meanwhile."""
        if self._is_outdated:
            with suppress(NotFound):
                self.refresh()
        return self._listed

    def _facts(self) -> Sequence[CheckpointFacts]:
        return self._now().state.checkpoints

    def _end(self, status: Ending, error: str | None) -> None:
        if self._recorded is not None and self._recorded.end(status, error) is not None:
            self._is_outdated = True

    def _held(self, facts: CheckpointFacts, *, is_stored: bool) -> Checkpoint:
        return Checkpoint(facts, self._source, experiment_id=self.id, is_stored=is_stored, on_delete=self._forget)

    def _listed_one(self, facts: CheckpointFacts) -> Checkpoint:
        return self._held(facts, is_stored=facts.id not in self._listed.waiting)

    def _forget(self, checkpoint_id: str) -> None:
        state = self._now().state
        kept = tuple(facts for facts in state.checkpoints if facts.id != checkpoint_id)
        self._listed = replace(self._listed, state=replace(state, checkpoints=kept))

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<Experiment {self.short_id}{name} {self.status} checkpoints={len(self._facts())}>"


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
