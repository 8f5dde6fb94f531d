"""The `Experiment` that users hold: what was recorded of one execution of a training script, and how to add to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

from replicate_core import formatting
from replicate_core.checkpoint import Checkpoint, CheckpointList, checkout_directory, code_layout, table_of
from replicate_core.errors import InvalidInput, NotFound, StorageFailed
from replicate_core.format import ids, records
from replicate_core.format.records import (
    CheckpointFacts,
    Created,
    Deleted,
    Edited,
    Ending,
    GitState,
    Keep,
    PrimaryMetric,
    Status,
)
from replicate_core.format.sealed import COUNT_MAX
from replicate_core.format.values import Value
from replicate_core.machine.process_exit import ending_of
from replicate_core.progress import Progress, silent
from replicate_core.recording.inputs import labels, text, warn_of_secrets
from replicate_core.recording.null_recording import NullRecording, Recorded
from replicate_core.recording.recording import Recording
from replicate_core.recording.secret_params import Redactor
from replicate_core.repository.checkout import Layout, What, check_out
from replicate_core.spool.syncing import wait_until_stored
from replicate_core.views import dataframes, metric_columns, notebook_html, plotting
from replicate_core.views.diff import differing
from replicate_core.views.source import ExperimentView, Source

if TYPE_CHECKING:
    from replicate_core.views.dataframes import DataFrame
    from replicate_core.views.plotting import Axes

CHECKPOINTS_SHOWN = 20
"""Maximum number of the last checkpoints that a notebook shows of an experiment, beside its best one."""

EXPERIMENTS_SHOWN = 3
"""Maximum number of experiments in the `repr` of a list."""

Reopen = Callable[[], "tuple[ExperimentView, Recorded]"]
"""Begins a session that adds to an experiment that was loaded."""


class Experiment:
    """One execution of a training script. Made by `replicate.init()`, found with `replicate.experiments`.

    A copy or a pickle only reads: like an experiment that was loaded, it does not record for the original.

    Attributes:
        id: 32 hexadecimal characters.
        created: when it began, in UTC.
        name, tags, notes: as given by its author.
        params: its hyperparameters.
        user, host, command: who started it, where and how; credentials are redacted.
        config: the configuration from `replicate.yaml`.
        path: what was saved of the project, relative to its directory; None if nothing was.
        python_version, packages, system, git: the environment it ran in.
    """

    def __init__(
        self,
        listed: ExperimentView,
        source: Source,
        recorded: Recorded | None = None,
        *,
        resumed_from: CheckpointFacts | None = None,
        reopen: Reopen | None = None,
        redact: bool = True,
    ) -> None:
        self._listed = listed
        self._source = source
        self._recorded = recorded
        self._resumed_from = resumed_from
        self._reopen = reopen
        self._redact = redact
        self._is_begun_here = self._is_outdated = recorded is not None

    def __getstate__(self) -> dict[str, object]:
        """The state for copies and pickles, which only read and do not record for this object."""
        with suppress(StorageFailed):  # then the copy has the last known state
            self._current()
        recorded = self._recorded if isinstance(self._recorded, NullRecording) else None
        return vars(self) | {"_recorded": recorded}

    @property
    def id(self) -> str:  # noqa: D102  # documented with the class, as the properties below
        return self._listed.experiment

    @property
    def short_id(self) -> str:
        """The first characters of its id, as shown in listings."""
        return ids.short(self.id)

    @property
    def created(self) -> datetime:  # noqa: D102
        return self._listed.created

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
        return self._current().state.created.path

    @property
    def code_problem(self) -> str | None:
        """Why its code is missing although it was saved, in a sentence; None if nothing is missing."""
        listed = self._current()
        is_waiting = self.id in listed.waiting
        return None if is_waiting or listed.state.code is not None else records.code_problem(listed.state.created)

    @property
    def python_version(self) -> str | None:  # noqa: D102
        return self._created.python_version

    @property
    def packages(self) -> Mapping[str, str]:  # noqa: D102
        return self._created.packages

    @property
    def python_packages(self) -> Mapping[str, str]:
        """Keepsake's name for `packages`."""
        return self.packages

    @property
    def system(self) -> Mapping[str, Value]:  # noqa: D102
        return self._created.system

    @property
    def git(self) -> GitState | None:  # noqa: D102
        return self._created.git

    @property
    def size_bytes(self) -> int:
        """Total size of its code and of the files of all its checkpoints."""
        return self._current().state.created.size_bytes + sum(item.size_bytes for item in self._facts())

    @property
    def stored_bytes(self) -> int:
        """Number of bytes that the experiment added to the storage."""
        return self._current().state.created.stored_bytes + sum(item.stored_bytes for item in self._facts())

    @property
    def resumed_from(self) -> Checkpoint | None:
        """The checkpoint that it was last resumed from; None if it was not resumed from one."""
        if self._is_begun_here:
            return None if self._resumed_from is None else self._to_checkpoint(self._resumed_from, is_stored=True)
        wanted = self._current().state.resumed_from
        return next((self._to_listed(facts) for facts in self._facts() if facts.id == wanted), None)

    @property
    def status(self) -> Status:
        """`running` until it ends; then `finished`, `failed`, `interrupted` or `killed`.

        `lost` if its heartbeats stopped and no process recorded its end, for example because the machine is gone.
        """
        if self._recorded is not None and self._recorded.is_running:
            return "running"
        return self._current().status

    @property
    def error(self) -> str | None:
        """Type and message of the exception that ended it, if one did."""
        ended = self._current().state.ended
        return None if ended is None else ended.error

    @property
    def duration(self) -> timedelta | None:
        """The time from its beginning to its end; None while it runs.

        For a resumed experiment, this includes the time in which it did not run, such as between a kill and the resume.
        """
        ended = self._current().state.ended
        return None if ended is None else ended.created - self.created

    @property
    def blocked(self) -> timedelta | None:
        """The total time for which `checkpoint()` blocked the training; None until the experiment ends.

        For a resumed experiment, this is the sum over all its sessions.
        """
        state = self._current().state
        return None if state.ended is None else timedelta(seconds=state.blocked_seconds)

    @property
    def heartbeat(self) -> datetime | None:
        """When it last sent a heartbeat or made a checkpoint, by the clock of its machine; None once it has ended."""
        if self._listed.heartbeat is None:
            return None
        return max([self._listed.heartbeat.time, *(facts.created for facts in self._listed.state.checkpoints[-1:])])

    @property
    def waiting(self) -> int:
        """Number of its checkpoints that are not stored yet, as far as this machine knows."""
        listed = self._current()
        here = len(listed.waiting - {self.id})
        return here or (0 if listed.heartbeat is None else listed.heartbeat.waiting)

    @property
    def checkpoints(self) -> CheckpointList:
        """Its checkpoints, in the order they were made."""
        return CheckpointList(self._to_listed(facts) for facts in self._facts())

    @property
    def primary_metric(self) -> PrimaryMetric | None:
        """The primary metric by which its checkpoints are compared; None if no checkpoint has one."""
        return records.primary_metric_of(self._facts())

    def best(self, *, with_files: bool = True) -> Checkpoint | None:
        """Its best checkpoint by the primary metric; the first one of equals.

        If any of its checkpoints has files, only those with files are considered, because the others can't be used.
        Checkpoints without the primary metric, or with NaN, are ignored; None if no checkpoint remains.

        Args:
            with_files: False considers all checkpoints, with files or not: the best value ever recorded.
        """
        return self._to_listed_or_none(records.best(self._facts(), with_files=with_files))

    def latest(self, *, with_files: bool = True) -> Checkpoint | None:
        """Its last checkpoint; None if there is none yet.

        If any of its checkpoints has files, only those with files are considered.

        Args:
            with_files: False considers all checkpoints, with files or not: how far the training has come.
        """
        return self._to_listed_or_none(records.latest(self._facts(), with_files=with_files))

    def better_without_files(self) -> Checkpoint | None:
        """The checkpoint with the best value ever recorded, if that is not `best()` because it has no files."""
        facts = self._facts()
        recorded = records.best(facts, with_files=False)
        return None if recorded is records.best(facts) else self._to_listed_or_none(recorded)

    def later_without_files(self) -> Checkpoint | None:
        """The last checkpoint of all, if that is not `latest()` because it has no files."""
        facts = self._facts()
        recorded = records.latest(facts, with_files=False)
        return None if recorded is records.latest(facts) else self._to_listed_or_none(recorded)

    def best_or_latest(self) -> Checkpoint | None:
        """Its best checkpoint, else its latest: the one to use where a checkpoint is needed."""
        return self._to_listed_or_none(records.best_or_latest(self._facts()))

    @property
    def is_recorded_here(self) -> bool:
        """Whether this process records it now. In a distributed run, only the first process does."""
        return isinstance(self._recorded, Recording) and self._recorded.is_running

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

        If the experiment was loaded, the checkpoint is added after its existing ones, and the experiment runs until
        `stop()` or the end of a `with` block or of this process. After that, it has the status again with which its
        training ended.

        Args:
            path: a file or directory to save, relative to the working directory; it must be in the project. None
                saves no files.
            metrics: name to value. Numbers, strings, lists; scalars and arrays of numpy, torch, TensorFlow and JAX.
            primary_metric: one of the metrics and its goal, `("val_loss", "minimize")`. By default, the one that
                `replicate.yaml` marks as primary, if the metrics have it.
            step: the iteration, such as the epoch; by default, one more than the last step, starting at 0.
            **kwargs: also recorded: as metrics if `replicate.yaml` lists them as metrics, else in `extra`.

        Raises:
            InvalidInput: an argument can't be recorded; nothing was recorded. Or the experiment was loaded, and another
                process still records it.
            NotFound, StorageFailed: the experiment was loaded, and was deleted meanwhile, or its storage can't be
                reached.
        """
        if self._recorded is None:
            assert self._reopen is not None, "what this process does not record was loaded"
            self._listed, self._recorded = self._reopen()
        facts = self._recorded.checkpoint(path, metrics, primary_metric, step, kwargs)
        self._is_outdated = True
        return self._to_checkpoint(facts, is_stored=False)

    def keep(self, *, best: int = 1, last: int = 1) -> None:
        """From now on, keep only the files of the best and the last checkpoints. All metrics are kept.

        The files of other checkpoints are deleted once the checkpoint that replaces them is stored. The files of the
        best checkpoint by the primary metric and of the last one are always kept, to use and to resume from.
        Checkpoints that never had files don't count, however good they are.

        Args:
            best: number of the best checkpoints whose files to keep, at least 1.
            last: number of the last checkpoints whose files to keep, at least 1.

        Raises:
            InvalidInput: a number is invalid; or this process does not record the experiment.
        """
        check_number("keep(best=...)", best)
        check_number("keep(last=...)", last)
        if self._recorded is None:
            raise InvalidInput(
                f"the experiment {self.short_id} was loaded, and is not recorded by this process: call keep() on the "
                "experiment that replicate.init() returned"
            )
        self._recorded.keep(Keep(best, last))

    def stop(self) -> None:
        """End the experiment, and wait until everything is stored.

        Only notebooks need this: elsewhere, the experiment ends with the process. A `with` block also ends it, and
        records the exception that left the block.

        Raises:
            StorageFailed: something could not be stored, and the experiment is `strict`. If it is not, `stop` warns.
        """
        self._end("finished", None)

    def __enter__(self) -> Experiment:  # noqa: PYI034  # Self came with Python 3.11
        """Return the experiment, which ends with the `with` block."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the experiment, with the exception that left the block, if any."""
        self._end(*ending_of(error))

    def end_training(self, error: BaseException | None) -> None:
        """End the experiment as `__exit__` does, but return as soon as nothing can get lost. For adapters.

        Everything is stored at the latest when the process ends or reads what it recorded.
        """
        self._end(*ending_of(error), waits=False)

    def plot(self, metric: str | None = None, *, logy: bool = False, ax: Axes | None = None) -> Axes:
        """Draw a metric over the steps; see `ExperimentList.plot` for arguments and errors."""
        return ExperimentList([self]).plot(metric, logy=logy, ax=ax)

    def refresh(self) -> None:
        """Read the experiment again.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        listed = self._source.one(self.id)
        if listed is None:
            raise NotFound(f"the experiment {self.short_id} is no longer in {self._source.repository.store.url}")
        self._listed, self._is_outdated = listed, False

    def rename(self, name: str) -> None:
        """Change its name; an empty string removes the name.

        Raises:
            InvalidInput: the name is not a string.
            NotFound: the experiment was deleted.
            StorageFailed: the storage can't be written.
        """
        shown = self._redacted("name", _text_or_empty("name", name))
        self._edit(lambda _: Edited(self.id, name=shown))

    def note(self, notes: str) -> None:
        """Replace its notes; an empty string removes them. Raises what `rename` raises."""
        shown = self._redacted("notes", _text_or_empty("notes", notes))
        self._edit(lambda _: Edited(self.id, notes=shown))

    def tag(self, *tags: str) -> None:
        """Add tags. Raises what `rename` raises."""
        # `map`, because the stack frame of a comprehension would misplace the warning
        added = tuple(map(partial(self._redacted, "tags"), labels(tags)))
        self._edit(lambda before: Edited(self.id, tags=tuple(dict.fromkeys((*before.tags, *added)))))

    def untag(self, *tags: str) -> None:
        """Remove tags; tags that it does not have are ignored. Raises what `rename` raises."""
        removed = labels(tags)
        self._edit(lambda before: Edited(self.id, tags=tuple(tag for tag in before.tags if tag not in removed)))

    def delete(self) -> None:
        """Delete the experiment and its checkpoints: listings no longer show them.

        Data that other experiments share with it stays. `replicate prune` frees the space that only this one needed. If
        it is still running, what it records later is not shown either.

        Raises:
            StorageFailed: the storage can't be written.
        """
        self._source.repository.append(Deleted(self.id))
        self._listed = replace(self._listed, state=replace(self._listed.state, checkpoints=()))

    def checkout(
        self,
        directory: str | Path | None = None,
        *,
        path: str | None = None,
        what: What = "all",
        progress: Progress = silent,
        output_directory: str | Path | None = None,
        quiet: bool | None = None,  # noqa: ARG002  # nothing is printed
    ) -> None:
        """Write its code and the files of its best checkpoint (else its latest) to a directory.

        If the experiment has no checkpoints, only its code is written. See `Checkpoint.checkout` for arguments and
        errors.
        """
        target = checkout_directory(directory, output_directory)
        check_out(self._source.repository, self.layout(path=path, what=what), target, progress)

    def layout(self, *, path: str | None = None, what: What = "all") -> Layout:
        """What `checkout` will write. Writes nothing, but waits until the experiment is stored."""
        chosen = self.best_or_latest()
        if chosen is not None:
            return chosen.layout(path=path, what=what)
        if what == "files":
            raise NotFound(f"the experiment {self.short_id} has no checkpoint, so it has no files except its code")
        wait_until_stored(self._source.spool, self.id)
        return code_layout(self._source.repository, self._source.state(self.id), only=path)

    def to_json(self) -> dict[str, object]:
        """The experiment and its checkpoints as plain data for `json.dumps`."""
        git = self.git
        return {
            "id": self.id,
            "name": self.name,
            "created": self.created.isoformat(),
            "status": self.status,
            "error": self.error,
            "params": dict(self.params),
            "tags": list(self.tags),
            "notes": self.notes,
            "user": self.user,
            "host": self.host,
            "command": self.command,
            "path": self.path,
            "code_problem": self.code_problem,
            "config": dict(self.config),
            "python_version": self.python_version,
            "python_packages": dict(self.packages),
            "system": dict(self.system),
            "git": None if git is None else {"commit": git.commit, "branch": git.branch, "dirty": git.dirty},
            "blocked_seconds": None if self.blocked is None else self.blocked.total_seconds(),
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "replicate_version": self._created.replicate_version,
            "checkpoints": [checkpoint.to_json() for checkpoint in self.checkpoints],
        }

    @property
    def _created(self) -> Created:
        return self._listed.state.created

    def _current(self) -> ExperimentView:
        """The current state, including what this process has recorded meanwhile."""
        if self._is_outdated:
            with suppress(NotFound):
                self.refresh()
        return self._listed

    def _facts(self) -> Sequence[CheckpointFacts]:
        return self._current().state.checkpoints

    def _redacted(self, what: str, given: str) -> str:
        """A string without secrets, as it may be recorded. Warns if a secret was removed."""
        redactor = Redactor(enabled=self._redact)
        shown = redactor.text(given, what)
        warn_of_secrets(redactor.found)
        return shown

    def _edit(self, edit: Callable[[Created], Edited]) -> None:
        """Record an edit of the current state, if it changes anything."""
        if isinstance(self._recorded, NullRecording):
            return
        self.refresh()
        change = edit(self._created)
        edited = records.edited(self._created, change)
        if edited != self._created:
            self._source.repository.append(change)
            self._listed = replace(self._listed, state=replace(self._listed.state, created=edited))

    def _end(self, status: Ending, error: str | None, *, waits: bool = True) -> None:
        if self._recorded is not None and self._recorded.end(status, error, waits=waits) is not None:
            self._is_outdated = True

    def _to_checkpoint(self, facts: CheckpointFacts, *, is_stored: bool) -> Checkpoint:
        return Checkpoint(facts, self._source, experiment_id=self.id, is_stored=is_stored, on_delete=self._forget)

    def _to_listed(self, facts: CheckpointFacts) -> Checkpoint:
        return self._to_checkpoint(facts, is_stored=facts.id not in self._listed.waiting)

    def _to_listed_or_none(self, facts: CheckpointFacts | None) -> Checkpoint | None:
        return None if facts is None else self._to_listed(facts)

    def _discard(self) -> bool:
        """End and delete it if nothing but its beginning was recorded. Returns whether it was deleted."""
        recorded = self._recorded
        if not isinstance(recorded, Recording) or not recorded.is_running or not recorded.is_only_begun:
            return False
        recorded.end("interrupted")
        try:
            self.delete()
        except StorageFailed:  # `end` has already warned that the storage failed
            return False
        return True

    def _forget(self, checkpoint_id: str) -> None:
        state = self._current().state
        kept = tuple(facts for facts in state.checkpoints if facts.id != checkpoint_id)
        self._listed = replace(self._listed, state=replace(state, checkpoints=kept))

    def _last_seen(self) -> Experiment:
        """The experiment in its current state or, if the storage can't be reached, in its last known state.

        `repr` and notebooks use this, because they must never fail.
        """
        try:
            self._current()
        except StorageFailed:
            return Experiment(self._listed, self._source)
        return self

    def __repr__(self) -> str:
        seen = self._last_seen()
        name = f" {self.name!r}" if self.name else ""
        return f"<Experiment {self.short_id}{name} {seen.status} checkpoints={len(seen.checkpoints)}>"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show."""
        seen = self._last_seen()
        best, checkpoints = seen.best(), seen.checkpoints
        last = checkpoints[-CHECKPOINTS_SHOWN:]
        rest = len(checkpoints) - len(last)
        if best is not None and best.id not in {checkpoint.id for checkpoint in last}:
            last, rest = CheckpointList([best, *last]), rest - 1
        facts = {
            "id": self.id,
            "status": seen.status + (f" ({seen.error})" if seen.error else ""),
            "created": notebook_html.moment(self.created),
            "duration": None if seen.duration is None else formatting.elapsed(seen.duration),
            "tags": ", ".join(self.tags) or None,
            "notes": self.notes,
            "host": self.host,
            "user": self.user,
            "command": self.command,
            "git": None if self.git is None else f"{self.git.commit[:12]} on {self.git.branch or 'no branch'}",
        }
        return notebook_html.page(
            notebook_html.heading(f"Experiment {self.short_id}" + (f" {self.name}" if self.name else "")),
            notebook_html.facts(facts),
            notebook_html.facts(
                {name: notebook_html.value(value) for name, value in self.params.items()}, title="Params"
            ),
            notebook_html.line("Checkpoints") if last else "",
            table_of(last, best=None if best is None else best.id) if last else "",
            notebook_html.line(_recorded_line(better)) if (better := seen.better_without_files()) is not None else "",
            notebook_html.line(f"the best and the last checkpoints; {rest} more: experiment.checkpoints")
            if rest
            else "",
        )


def check_number(what: str, number: object) -> None:
    """Check a number of checkpoints whose files to keep; `what` names the argument. Raises `InvalidInput`."""
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= COUNT_MAX:
        raise InvalidInput(f"{what} must be a number of checkpoints from 1, got {number!r}")


def _text_or_empty(what: str, value: object) -> str:
    return "" if value == "" else text(what, value)


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

    def plot(self, metric: str | None = None, *, logy: bool = False, ax: Axes | None = None) -> Axes:
        """Draw a metric over the steps, one line per experiment that has it, labelled with its name or short id.

        Args:
            metric: its name; by default the primary metric, or the only metric there is.
            logy: use a logarithmic axis for the metric.
            ax: matplotlib axes to draw into; by default the current axes if they are empty, else those of a new figure.
                pyplot keeps only the last ten of these new figures; the others can still be saved.

        Returns:
            The axes, for further changes: `axes.set_title(...)`, `axes.figure.savefig(...)`.

        Raises:
            NotFound: no experiment has the metric; the message lists the existing ones.
            InvalidInput: the metric has no numbers, or no metric is given and it is not clear which one is meant.
            MissingExtra: matplotlib is not installed.
        """
        name = metric_columns.choose(metric, [experiment._facts() for experiment in self])  # noqa: SLF001  # it is ours
        lines = (
            plotting.Curve(label, *metric_columns.points(name, experiment._facts()))  # noqa: SLF001
            for label, experiment in zip(self._labels(), self, strict=True)
        )
        return plotting.draw_lines([line for line in lines if line.values], metric=name, logy=logy, ax=ax)

    def scatter(
        self,
        param: str,
        metric: str | None = None,
        *,
        logx: bool = False,
        logy: bool = False,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw a metric over a param, one point per experiment that has both, from its best (else latest) checkpoint.

        Args:
            param: its name; nested names are joined by dots, `optimizer.learning_rate`.
            metric: as in `plot`.
            logx: use a logarithmic axis for the param.
            logy: use a logarithmic axis for the metric.
            ax: as in `plot`.

        Returns and raises what `plot` does; also raises `NotFound` if no experiment has both the param and the metric.
        """
        name = metric_columns.choose(metric, [experiment._facts() for experiment in self])  # noqa: SLF001
        points = []
        for label, experiment in zip(self._labels(), self, strict=True):
            params = {**metric_columns.flat(experiment.params), **experiment.params}
            found = (
                metric_columns.number(metric_columns.value(name, item))
                for item in records.metrics_of(experiment._facts())  # noqa: SLF001
            )
            y = next((value for value in found if value is not None), None)
            if param in params and y is not None:
                x = metric_columns.number(params[param])
                points.append(plotting.Point(label, notebook_html.value(params[param]) if x is None else x, y))
        if not points:
            known = ", ".join(dict.fromkeys(key for item in self for key in metric_columns.flat(item.params))) or "none"
            raise NotFound(
                f"no experiment here has both the param {param!r} and the metric {name!r}; params are: {known}"
            )
        return plotting.draw_points(points, param=param, metric=name, logx=logx, logy=logy, ax=ax)

    def to_dataframe(self) -> DataFrame:
        """A pandas dataframe with one row per experiment.

        Params are in columns such as `params.learning_rate`, the metrics of the best and of the latest checkpoint in
        columns such as `best.metrics.loss` and `latest.metrics.loss`. If these checkpoints have files, and a better or
        later one without files was recorded, that one is in `best_recorded.metrics.loss` and
        `latest_recorded.metrics.loss`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        columns = ("id", "name", "created", "status", "duration", "user", "host", "command", "tags", "notes")
        return dataframes.frame([_row(experiment) for experiment in self], (*columns, "checkpoints"))

    def _labels(self) -> list[str]:
        """The label of each experiment in a plot: its name if that is unique, else with its short id."""
        names = Counter(experiment.name for experiment in self)
        return [
            item.name if item.name and names[item.name] == 1 else " ".join(filter(None, [item.name, item.short_id]))
            for item in self
        ]

    def delete(self) -> None:
        """Delete them all; see `Experiment.delete`."""
        for experiment in self:
            experiment.delete()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self._items)

    def __repr__(self) -> str:
        shown = [experiment.name or experiment.short_id for experiment in self[:EXPERIMENTS_SHOWN]]
        more = ["..."] if len(self) > EXPERIMENTS_SHOWN else []
        return f"<ExperimentList of {len(self)}{': ' if self else ''}{', '.join([*map(repr, shown), *more])}>"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show."""
        shown = self[: notebook_html.ROWS_MAX]
        params = [metric_columns.flat(experiment.params) for experiment in shown]
        names = differing(params)
        rows = [
            [
                experiment.short_id,
                experiment.name or "",
                notebook_html.moment(experiment.created),
                experiment._last_seen().status,  # noqa: SLF001  # it is ours
                ", ".join(experiment.tags),
                notebook_html.pairs({name: each[name] for name in names if name in each}),
                _checkpoint_cell(experiment.best(), experiment.better_without_files()),
                _checkpoint_cell(experiment.latest(), experiment.later_without_files()),
            ]
            for experiment, each in zip(shown, params, strict=True)
        ]
        headings = ["experiment", "name", "created", "status", "tags", "params that differ", "best", "latest"]
        rest = len(self) - len(shown)
        return notebook_html.page(
            notebook_html.heading(f"{len(self)} experiments"),
            notebook_html.table(headings, rows) if rows else "",
            notebook_html.line(f"and {rest} more") if rest else "",
        )


def _row(experiment: Experiment) -> dict[str, object]:
    """An experiment as a row of a dataframe: params and metrics under their own names, nested ones with dots."""
    found: dict[str, object] = {
        "id": experiment.id,
        "name": experiment.name,
        "created": experiment.created,
        "status": experiment.status,
        "duration": experiment.duration,
        "user": experiment.user,
        "host": experiment.host,
        "command": experiment.command,
        "tags": list(experiment.tags),
        "notes": experiment.notes,
        "checkpoints": len(experiment.checkpoints),
        **metric_columns.flat(experiment.params, "params."),
    }
    which = {
        "best": experiment.best(),
        "latest": experiment.latest(),
        "best_recorded": experiment.better_without_files(),
        "latest_recorded": experiment.later_without_files(),
    }
    for name, checkpoint in which.items():
        if checkpoint is not None:
            found |= {f"{name}.id": checkpoint.id, f"{name}.step": checkpoint.step}
            found |= metric_columns.flat(checkpoint.metrics, f"{name}.metrics.")
    return found


def _checkpoint_cell(checkpoint: Checkpoint | None, recorded: Checkpoint | None) -> str:
    """A cell of the table of experiments: id and step of a checkpoint, and its primary metric, else all its metrics.

    If a better or later checkpoint without files was recorded, the cell shows that, too.
    """
    lines = []
    if checkpoint is not None:
        where = ", ".join([f"step {checkpoint.step}", *checkpoint.caveats()])
        lines = [f"{checkpoint.short_id} ({where})", _primary_or_all(checkpoint)]
    if recorded is not None:
        lines += [f"recorded without files (step {recorded.step})", _primary_or_all(recorded)]
    return "\n".join(filter(None, lines))


def _recorded_line(better: Checkpoint) -> str:
    metrics = ", ".join(_primary_or_all(better).splitlines())
    return f"the best recorded checkpoint has no files: {better.short_id} (step {better.step}), {metrics}"


def _primary_or_all(checkpoint: Checkpoint) -> str:
    primary, metrics = checkpoint.primary_metric, checkpoint.metrics
    if primary is not None and primary.name in metrics:
        return notebook_html.pairs({primary.name: metrics[primary.name]})
    return notebook_html.pairs(metrics)
