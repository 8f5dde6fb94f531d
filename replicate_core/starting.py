"""Starting an experiment in this process: what to record, what to resume from, and which process records it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from replicate_core import user_warnings
from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import NotFound, StorageFailed
from replicate_core.experiment import Experiment
from replicate_core.format import ids
from replicate_core.format.records import Created, ExperimentState
from replicate_core.format.values import Value
from replicate_core.machine import environment
from replicate_core.machine.fresh_ids import new_id
from replicate_core.machine.names import portable
from replicate_core.machine.ranks import (
    IMPORTING,
    LAUNCHERS,
    OVERRIDE,
    Rank,
    is_first_worker,
    know_id,
    tell_id,
    this_rank,
    told_id,
)
from replicate_core.recording import resuming
from replicate_core.recording.inputs import labels, mapping, text, warn_of_secrets
from replicate_core.recording.launching import start_for_abandoned
from replicate_core.recording.null_recording import NullRecording, Recorded
from replicate_core.recording.place import Place
from replicate_core.recording.recording import Recording, open_here
from replicate_core.recording.secret_params import Redactor
from replicate_core.redaction import without_credentials
from replicate_core.repository.repository import utc_now
from replicate_core.version import __version__
from replicate_core.views.source import ExperimentView
from replicate_core.workspace import Workspace

KNOWN_SECONDS = 30.0
"""Maximum number of seconds that a resuming process waits until other machines can see that it resumes."""


class Prepared:
    """An experiment that is about to begin or to be resumed: nothing is recorded yet.

    A caller can restore its model before anything is recorded, so that a failed resume changes nothing.
    """

    def __init__(
        self, workspace: Workspace, created: Created, start: resuming.Start | None, why_new: str | None
    ) -> None:
        self._workspace = workspace
        self._created = created
        self._start = start
        self._why_new = why_new

    @property
    def id(self) -> str:
        """The id of the experiment."""
        return self._created.experiment if self._start is None else self._start.listed.experiment

    @property
    def short_id(self) -> str:
        """The first characters of its id, as shown in listings."""
        return ids.short(self.id)

    @property
    def resumed_from(self) -> Checkpoint | None:
        """The checkpoint to restore from, whose files all verify; None if training starts from scratch."""
        if self._start is None or self._start.checkpoint is None:
            return None
        return _experiment(self._workspace, self._created, self._start, NullRecording()).resumed_from

    def begin(self, *, path: str | None = ".", strict: bool = False) -> Experiment:
        """Record that the experiment begins or is resumed; see `init` for arguments and errors."""
        workspace, start = self._workspace, self._start
        rank = this_rank()
        if rank.number != 0:
            _warn_of_rank(rank)
            told = told_id()
            created = self._created if told is None else replace(self._created, experiment=told)
            return _experiment(workspace, created, start, NullRecording())
        place = workspace.place()
        if workspace.above is not None:
            place.say(
                f"there is no replicate.yaml here, so this is stored with the experiments of the project above, "
                f"{workspace.above}. A replicate.yaml there makes both one project; one here makes this a project of "
                "its own"
            )
        if start is None:
            if self._why_new is not None:
                place.say(f"a new experiment begins, because {self._why_new}")
            recording = Recording.begin(place, self._created, path=path, strict=strict)
        else:
            place.say(resuming.described(start, self._created))
            recording = _record_resumed(workspace, place, start, path=path, strict=strict)
        start_for_abandoned(workspace.spool, workspace.directory)
        begun = _experiment(workspace, self._created, start, recording)
        tell_id(begun.id)
        return begun


def prepare(
    params: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
    resume: str | None = None,
) -> Prepared:
    """Find what `init` would resume, without recording anything: adapters restore a model first.

    See `init` for arguments and errors.
    """
    return prepare_in(Workspace(), params, name=name, tags=tags, notes=notes, resume=resume)


def join(
    experiment: str,
    resumed_from: str | None,
    params: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
) -> Experiment:
    """The experiment of a distributed run, for the processes that record nothing because the first one does.

    Args:
        experiment: its id.
        resumed_from: the id of the checkpoint that it resumes from, if any.
        params: as in `init`; like `name`, `tags` and `notes`, only used if the experiment is new.
        name: as in `init`.
        tags: as in `init`.
        notes: as in `init`.

    Raises:
        NotFound: this process does not find the checkpoint in its storage.
        InvalidInput: an argument can't be recorded.
        StorageFailed: the storage can't be reached.
    """
    workspace = Workspace()
    redactor = Redactor(enabled=workspace.config.redact)  # only the first process warns of secrets
    created = replace(_created(workspace, redactor, params, name=name, tags=tags, notes=notes), experiment=experiment)
    know_id(experiment)
    if resumed_from is None:
        return _experiment(workspace, created, None, NullRecording())
    listed = workspace.source.one(experiment)
    found = () if listed is None else listed.state.checkpoints
    checkpoint = next((item for item in found if item.id == resumed_from), None)
    if listed is None or checkpoint is None:
        raise NotFound(
            f"the first process of this run resumes from the checkpoint {ids.short(resumed_from)}, which this process "
            f"does not find in {workspace.shown_storage}: give all processes the same storage"
        )
    start = resuming.Start(listed, checkpoint, "the first process does")
    return _experiment(workspace, created, start, NullRecording())


def prepare_in(
    workspace: Workspace,
    params: Mapping[str, object] | None,
    *,
    name: str | None,
    tags: Iterable[str],
    notes: str | None,
    resume: str | None,
) -> Prepared:
    """Do what `prepare` does, in a workspace."""
    redactor = Redactor(enabled=workspace.config.redact)
    created = _created(workspace, redactor, params, name=name, tags=tags, notes=notes)
    warn_of_secrets(redactor.found)
    rank = this_rank()
    if resume is None or rank.source == IMPORTING:  # neither needs the storage
        return Prepared(workspace, created, None, None)
    wanted, say = text("resume", resume), workspace.place().say
    source = workspace.source_to_record
    if rank.number != 0:
        return Prepared(workspace, created, resuming.follow(source, wanted, created, say), None)
    found = resuming.find_over(source, wanted, created, say)
    if isinstance(found, resuming.Anew):
        return Prepared(workspace, created, None, found.reason)
    return Prepared(workspace, created, resuming.choose(source, found), None)


def _created(
    workspace: Workspace,
    redactor: Redactor,
    params: Mapping[str, object] | None,
    *,
    name: str | None,
    tags: Iterable[str],
    notes: str | None,
) -> Created:
    """The first record of an experiment that is about to begin."""
    return Created(
        experiment=new_id(),
        created=utc_now(),
        name=None if name is None else redactor.text(text("name", name), "name"),
        tags=tuple(redactor.text(tag, "tags") for tag in labels(tags)),
        notes=None if notes is None else redactor.text(text("notes", notes), "notes"),
        params=redactor.values(mapping("params", {} if params is None else params), "params."),
        user=environment.user(),
        host=environment.host(),
        command=environment.command_line(),
        config=_config_record(workspace),
        python_version=platform.python_version(),
        packages=environment.packages(),
        system=environment.system(),
        git=environment.git_state(workspace.directory),
        replicate_version=__version__,
    )


def _record_resumed(
    workspace: Workspace, place: Place, start: resuming.Start, *, path: str | None, strict: bool
) -> Recording:
    """Record a session that resumes an experiment, unless another process records it.

    A session that this process left open is ended only after the new session has begun, so that a failure changes
    nothing.
    """
    resumed = start.resumed(new_id(), utc_now())
    is_open = workspace.spool.is_recorded_by_this_process(resumed.experiment)
    left_open = open_here(resumed.experiment) if is_open else None
    recording = Recording.begin(
        place,
        resumed,
        path=path,
        strict=strict,
        next_step=0 if start.checkpoint is None else start.checkpoint.step + 1,
        check=lambda: resuming.check_alone(workspace.source, start),
    )
    if left_open is not None:
        left_open.supersede()
    if recording.wait_until_known(KNOWN_SECONDS):
        try:
            resuming.check_unrivalled(workspace.source, resumed)
        except BaseException as error:
            with suppress(StorageFailed):  # the first error is the one to report
                recording.end("interrupted", str(error))
            raise
    return recording


def loaded(workspace: Workspace, listed: ExperimentView) -> Experiment:
    """The `Experiment` that users hold, from its state in the repository."""
    reopen = partial(_add_to, workspace, listed.experiment)
    return Experiment(listed, workspace.source, reopen=reopen, redact=workspace.config.redact)


def _add_to(workspace: Workspace, experiment: str) -> tuple[ExperimentView, Recorded]:
    """Begin a session that adds to an experiment that no process records any more."""
    rank = this_rank()
    if rank.number != 0:
        _warn_of_rank(rank)
        return resuming.one(workspace.source, experiment), NullRecording()
    place = workspace.place()
    seen_over = resuming.wait_until_over(workspace.source, experiment, place.say)
    start = resuming.behind_the_last(workspace.source, experiment, seen_over)
    recording = _record_resumed(workspace, place, start, path=None, strict=False)
    start_for_abandoned(workspace.spool, workspace.directory)
    return start.listed, recording


def _experiment(workspace: Workspace, created: Created, start: resuming.Start | None, recorded: Recorded) -> Experiment:
    """The `Experiment` that this process begins or resumes, or that another process of the run records."""
    listed = ExperimentView(ExperimentState(created), "running") if start is None else start.listed
    reopen = partial(_add_to, workspace, listed.experiment)
    checkpoint = None if start is None else start.checkpoint
    redact = workspace.config.redact
    return Experiment(listed, workspace.source, recorded, resumed_from=checkpoint, reopen=reopen, redact=redact)


def _warn_of_rank(rank: Rank) -> None:
    """Warn that this process does not record, if it is not certain that it belongs to a distributed run."""
    if rank.source == IMPORTING and is_first_worker():
        user_warnings.warn(
            "this script calls replicate.init() again while a worker of it (multiprocessing: spawn or forkserver) "
            "imports it: nothing is recorded there. Put what only the main process should do below `if __name__ == "
            '"__main__":`'
        )
    if rank.source in LAUNCHERS or (rank.source == "RANK" and "WORLD_SIZE" not in os.environ):
        user_warnings.warn(
            f"this process is number {rank.number} of its job ({rank.source}), and only number 0 records. If these are "
            f"separate runs, set {OVERRIDE}=0"
        )


def _config_record(workspace: Workspace) -> dict[str, Value]:
    metrics: dict[str, Value] = {
        name: {"goal": metric.goal, "primary": metric == workspace.config.primary_metric}
        for name, metric in workspace.config.metrics.items()
    }
    name = portable(workspace.directory.name).encode("utf-8", "backslashreplace").decode()
    return {"project": name, "storage": without_credentials(workspace.storage), "metrics": metrics}
