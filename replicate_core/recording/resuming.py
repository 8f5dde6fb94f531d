"""Resuming an experiment: which one is meant, whether it still runs elsewhere, and from which checkpoint to resume.

Everything after that is in `recording`. Restoring a model is up to its framework.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from replicate_core import formatting, user_warnings
from replicate_core.errors import Corrupted, InvalidInput, NotFound
from replicate_core.format import ids
from replicate_core.format.records import CheckpointFacts, Created, ExperimentState, Resumed
from replicate_core.format.values import Value, dumps
from replicate_core.recording.secret_params import Redactor
from replicate_core.repository.heartbeats import INTERVAL
from replicate_core.repository.reading import open_file
from replicate_core.repository.repository import Repository
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import wait_until_stored
from replicate_core.views import metric_columns
from replicate_core.views.diff import differing
from replicate_core.views.source import ExperimentView, Source

AUTO = "auto"

SILENCE = 3 * INTERVAL
"""How long to wait for a sign of life before an experiment counts as not running any more."""

LOOK_SECONDS = 1.0
"""Seconds between looks for a sign of life."""

COPY_BYTES = 4 << 20

DIFFERENCES_SHOWN, VALUE_CHARACTERS = 5, 30
"""Maximum number of params named as changed, and of characters shown of each value."""

Say = Callable[[str], object]


class StillRuns(InvalidInput):
    """The experiment to resume has not ended."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The experiment to resume."""

    experiment: str
    checkpoint: str | None
    """The checkpoint that was named; None: the newest one that can be read."""
    reason: str
    """Why this experiment was chosen, for a message."""
    is_over: bool = True
    """Whether its end is known; if not, it may still run."""
    seen_over: ExperimentView | None = None
    """The experiment when it was found not to run; None if that was not checked."""


@dataclass(frozen=True, slots=True)
class Anew:
    """Nothing is resumed: a new experiment begins."""

    reason: str | None = None
    """Why the latest start of the same run is not resumed, for a message; None if there is no such start."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where an experiment resumes."""

    listed: ExperimentView
    checkpoint: CheckpointFacts | None
    """None: it resumes at its beginning, because none of its checkpoints has files that can be read."""
    reason: str
    adds: bool = False
    """Whether it resumes after its last checkpoint, which need not be readable, and no checkpoint is set aside."""

    def resumed(self, session: str, now: datetime) -> Resumed:
        """The record of this start."""
        state = self.listed.state
        checkpoint = None if self.checkpoint is None else self.checkpoint.id
        return Resumed(state.created.experiment, now, session, state.session, checkpoint, adds=self.adds)


def find(source: Source, wanted: str, created: Created, *, over: Collection[str] = ()) -> Candidate | Anew:
    """Find what to resume.

    Args:
        source: the experiments to search.
        wanted: `"auto"`, or a prefix of the id of an experiment or checkpoint.
        created: the experiment that would begin otherwise; see `decide`.
        over: experiments that are known not to run any more, whatever listings say.

    Raises:
        NotFound: no id, or more than one, has this prefix.
    """
    if wanted == AUTO:
        candidates = source.candidates(_strings_of_same_run(created)).values()
        same = [item for item in reversed(candidates) if is_same_run(item.state.created, created)]
        return decide(same, created, over=over)
    matches = source.matching(wanted)
    if len(matches) != 1:
        found = ", ".join(checkpoint or listed.experiment for listed, checkpoint in matches) or "nothing"
        raise NotFound(
            f"resume={wanted!r} must be the prefix of one id, and matches {found}: `replicate ls` shows what there is"
        )
    listed, checkpoint = matches[0]
    reason = "its id was given" if checkpoint is None else "its checkpoint was given"
    return Candidate(listed.experiment, checkpoint, reason, is_over=listed.state.ended is not None)


def decide(same: Iterable[ExperimentView], new: Created, *, over: Collection[str] = ()) -> Candidate | Anew:
    """Decide which earlier start of a run `"auto"` resumes: the latest one with the same params, unless it finished.

    A start without a checkpoint to resume from does not hide an older one that has one. A finished start ends the
    search.

    Args:
        same: the earlier starts of the same run, newest first.
        new: the start that is about to begin.
        over: see `find`.
    """
    empty = others = finished = None
    for item in same:
        if not _has_same_params(item.state.created, new):
            others = others or item
        elif item.status == "finished":
            finished = item
            break
        elif _may_run(item, over) or _can_be_resumed_from(item):
            return _found(item, over)
        else:
            empty = empty or item
    if empty is not None and (finished is None or _began_after(empty, finished)):
        return _found(empty, over)
    if finished is not None:
        of_params = " with these params" if others is not None else ""
        return Anew(f"{_describe_latest(finished)}{of_params}, has finished; {_resume_hint(finished)}")
    if others is not None:
        differences = _differences(others.state.created, new)
        offer = "that one still runs" if _may_run(others, over) else _resume_hint(others)
        return Anew(f"the params differ from those of {_describe_latest(others)}: {differences}; {offer}")
    return Anew()


def _found(item: ExperimentView, over: Collection[str]) -> Candidate:
    name = item.state.created.name
    reason = f"it has the same name, {name!r}" if name else "it has the same params and command"
    return Candidate(item.experiment, None, reason, is_over=item.state.ended is not None or item.experiment in over)


def _may_run(item: ExperimentView, over: Collection[str]) -> bool:
    return item.status == "running" and item.experiment not in over


def _can_be_resumed_from(item: ExperimentView) -> bool:
    """Tell whether it has a checkpoint with files, stored or waiting to be stored."""
    return any(
        facts.manifest is not None or (facts.id in item.waiting and facts.path is not None)
        for facts in item.state.checkpoints
    )


def _began_after(item: ExperimentView, finished: ExperimentView) -> bool:
    ended = finished.state.ended
    return ended is not None and item.created > ended.created


def _has_same_params(old: Created, new: Created) -> bool:
    """Tell whether the params equal the recorded ones. A start without params matches all."""
    return not new.params or not differing([_comparable(old), _comparable(new)])


def _comparable(created: Created) -> dict[str, Value]:
    """Params as they are compared and shown: without secrets, which an earlier version recorded in plain text."""
    return metric_columns.flat(Redactor().values(created.params))


def _describe_latest(item: ExperimentView) -> str:
    name = item.state.created.name
    return f"{ids.short(item.experiment)}, the latest {f'named {name!r}' if name else 'with these params and command'}"


def _resume_hint(item: ExperimentView) -> str:
    return f'resume="{ids.short(item.experiment)}" would extend that one'


def is_same_run(old: Created, new: Created) -> bool:
    """Tell whether two starts belong to one run: same project and name or, without names, same params and command."""
    if old.config.get("project") != new.config.get("project"):
        return False
    if old.name is not None or new.name is not None:
        return old.name == new.name
    return old.command == new.command and _params_as_string(old) == _params_as_string(new)


def _strings_of_same_run(new: Created) -> list[str]:
    """Strings that the record of any other start of the same run contains, for a fast search; see `is_same_run`."""
    if new.name is not None:
        return [f'"name":{dumps(new.name)}']
    plain = {name: value for name, value in new.params.items() if not isinstance(value, (dict, list))}  # order varies
    return [f'"command":{dumps(new.command)}', *(dumps({name: value})[1:-1] for name, value in plain.items())]


def _params_as_string(created: Created) -> str:
    return json.dumps(created.params, sort_keys=True)  # as a string, because NaN is not equal to itself


def find_over(source: Source, wanted: str, created: Created, say: Say) -> Candidate | Anew:
    """Find what to resume, as `find` does, and make sure that no other process still records it.

    Raises:
        StillRuns: it still runs.
        NotFound: see `find`; or it was deleted meanwhile.
        StorageFailed: the storage can't be reached.
    """
    over: dict[str, ExperimentView] = {}
    while not isinstance(found := find(source, wanted, created, over=over), Anew):
        is_own = source.spool.is_recorded_by_this_process(found.experiment)  # left open, and ended when it is resumed
        if is_own or found.experiment in over:
            return replace(found, seen_over=over.get(found.experiment))
        seen = wait_until_over(source, found.experiment, say)
        if found.is_over or wanted != AUTO:
            return replace(found, seen_over=seen)
        wait_until_stored(source.spool, found.experiment)  # its end may still wait there, and affects the choice
        over[found.experiment] = seen
    return found


def wait_until_over(source: Source, experiment: str, say: Say) -> ExperimentView:
    """Make sure that an experiment does not run any more, and return it.

    On this machine, locks show whether it runs. Of another machine only signs of life are known, and its clock may be
    wrong. So if the last sign is recent or in the future, this waits for another one.

    Raises:
        StillRuns: it still runs.
        NotFound: it was deleted.
    """
    if source.spool.is_recorded_by_this_process(experiment):
        raise StillRuns(
            f"the experiment {ids.short(experiment)} is being recorded by this very process: use the object that "
            "replicate.init() returned, or end it first with stop()"
        )
    if source.spool.is_recorded_here(experiment):
        raise StillRuns(
            f"the experiment {ids.short(experiment)} is still being recorded by another process of this machine: wait "
            "until that has ended, or stop it; resume=None begins another experiment"
        )
    first = now = one(source, experiment)
    if first.status != "running" or source.spool.was_left_here(experiment, first.state.session):
        return first
    where = "another machine" if first.heartbeat is None else first.heartbeat.host
    say(f"waiting to see whether the experiment {ids.short(experiment)} still runs on {where}")
    patience = time.monotonic() + SILENCE.total_seconds()
    while time.monotonic() < patience:
        time.sleep(LOOK_SECONDS)
        now = one(source, experiment)
        if now.state.ended is not None:
            return now
        if _signs_of_life(now) != _signs_of_life(first):
            raise StillRuns(
                f"the experiment {ids.short(experiment)} is running on {where}: stop it there, or begin another "
                "experiment with resume=None"
            )
    return now


def _check_not_resumed(before: ExperimentView | None, now: ExperimentView) -> None:
    """Make sure that no other process has resumed an experiment since it was found not to run.

    Raises:
        StillRuns: another process has.
    """
    if before is not None and now.status == "running" and now.state.session != before.state.session:
        raise StillRuns(_resumed_elsewhere(now.experiment))


def _signs_of_life(listed: ExperimentView) -> tuple[object, ...]:
    """What changes while an experiment runs."""
    state, sign = listed.state, listed.heartbeat
    return state.session, len(state.checkpoints), None if sign is None else sign.time


def choose(source: Source, found: Candidate) -> Start:
    """Choose the checkpoint to resume from, of an experiment that is over. All files of the checkpoint are verified.

    Raises:
        NotFound: it was deleted.
        Corrupted: the checkpoint that was named can't be read.
        StillRuns: another process has resumed it since it was found not to run.
        StorageFailed: the storage can't be reached.
    """
    wait_until_stored(source.spool, found.experiment)
    listed = one(source, found.experiment)
    _check_not_resumed(found.seen_over, listed)
    for checkpoint in reversed(listed.state.checkpoints):
        if found.checkpoint not in (None, checkpoint.id) or (checkpoint.manifest is None and found.checkpoint is None):
            continue
        try:
            check_readable(source.repository, checkpoint)
        except Corrupted as error:
            if found.checkpoint is not None:
                raise
            user_warnings.warn(
                f"the checkpoint {ids.short(checkpoint.id)} (step {checkpoint.step}) can't be resumed from, so the one "
                f"before it is tried: {error}"
            )
            continue
        return Start(listed, checkpoint, found.reason)
    if found.checkpoint is not None:
        raise NotFound(f"the checkpoint {ids.short(found.checkpoint)} was deleted or set aside meanwhile")
    return Start(listed, None, found.reason)


def behind_the_last(source: Source, experiment: str, seen_over: ExperimentView | None) -> Start:
    """The start for adding more to an experiment that is over: after everything that it has.

    Args:
        source: knows the experiment.
        experiment: its id.
        seen_over: see `Candidate`.

    Raises:
        NotFound: it was deleted.
        StillRuns: another process has resumed it since it was found not to run.
        StorageFailed: the storage can't be reached.
    """
    wait_until_stored(source.spool, experiment)
    listed = one(source, experiment)
    _check_not_resumed(seen_over, listed)
    last = listed.state.checkpoints[-1] if listed.state.checkpoints else None
    return Start(listed, last, "more is added to it", adds=True)


def follow(source: Source, wanted: str, created: Created, say: Say) -> Start | None:
    """Find where the first process of this distributed run has resumed or will resume; None if it begins anew."""
    over: set[str] = set()
    while not isinstance(found := find(source, wanted, created, over=over), Anew):
        if found.experiment in over:
            return choose(source, found)
        try:
            wait_until_over(source, found.experiment, say)
        except StillRuns:
            return _as_resumed(source, found)
        if found.is_over or wanted != AUTO:
            return choose(source, found)
        wait_until_stored(source.spool, found.experiment)
        over.add(found.experiment)
    return None


def _as_resumed(source: Source, found: Candidate) -> Start:
    """Where another process has resumed an experiment, or is about to."""
    if _begins_here(source.spool, one(source, found.experiment).state):  # it has not recorded from where
        start = choose(source, found)  # it makes the same choice as this process does now
        if _begins_here(source.spool, one(source, found.experiment).state):  # if nothing has changed meanwhile
            return start
    listed = one(source, found.experiment)
    wanted = listed.state.resumed_from
    checkpoint = next((item for item in listed.state.checkpoints if item.id == wanted), None)
    return Start(listed, checkpoint, found.reason)


def _begins_here(spool: Spool, state: ExperimentState) -> bool:
    """Tell whether a process of this machine is about to resume an experiment, and has not recorded from where."""
    queues = spool.queues_of(state.created.experiment)
    owned = [queue.session for queue in queues if queue.is_owned()]
    return bool(owned) and state.session not in owned


def described(start: Start, new: Created) -> str:
    """A message: what is resumed and why, what is set aside, and which params differ from those of `new`."""
    old = start.listed.state.created
    experiment = ids.short(old.experiment)
    if start.checkpoint is None:
        where = "at its beginning: no checkpoint of it has files to resume from"
    else:
        where = f"from its checkpoint {ids.short(start.checkpoint.id)} (step {start.checkpoint.step})"
    said = f"resuming the experiment {experiment} {where}, because {start.reason}{_set_aside(start)}"
    if _has_same_params(old, new):
        return said
    return f"{said}. Its params stay as they were recorded, though this run has others: {_differences(old, new)}"


def _set_aside(start: Start) -> str:
    """A clause about the checkpoints that are set aside; empty if there are none."""
    checkpoints, chosen = start.listed.state.checkpoints, start.checkpoint
    behind = next((at for at, item in enumerate(checkpoints, 1) if chosen is not None and item.id == chosen.id), 0)
    later = checkpoints[behind:]
    if not later or start.adds:
        return ""
    has_files, when = any(item.manifest is not None for item in later), "later " if behind else ""
    if len(later) == 1:
        which = "" if has_files else ", which has no files,"
        return f"; 1 {when}checkpoint (step {later[0].step}){which} is set aside"
    which = "" if has_files else ", which have no files,"
    return f"; {len(later)} {when}checkpoints (steps {later[0].step} to {later[-1].step}){which} are set aside"


def _differences(old: Created, new: Created) -> str:
    """The params that differ, for a message."""
    before, now = _comparable(old), _comparable(new)
    names = differing([before, now])
    shown = ", ".join(f"{name} {_shown(before, name)} → {_shown(now, name)}" for name in names[:DIFFERENCES_SHOWN])
    return f"{shown} and {len(names) - DIFFERENCES_SHOWN} more" if len(names) > DIFFERENCES_SHOWN else shown


def _shown(params: Mapping[str, Value], name: str) -> str:
    return formatting.cut(dumps(params[name]), VALUE_CHARACTERS) if name in params else "nothing"


def check_alone(source: Source, start: Start) -> None:
    """Make sure that no other process has resumed an experiment since its start was chosen.

    Raises:
        StillRuns: another process has.
    """
    experiment = start.listed.state.created.experiment
    is_recorded = source.spool.is_recorded_here(experiment)
    if not start.adds and source.spool.is_recorded_by_this_process(experiment):
        is_recorded = False  # it is ended once this session has begun
    if is_recorded or one(source, experiment).state.session != start.listed.state.session:
        raise StillRuns(_resumed_elsewhere(experiment))


def check_unrivalled(source: Source, own: Resumed) -> None:
    """Make sure that no other machine resumed the experiment at the same moment. Called after `own` is stored.

    If two did, the one that checks later sees the other. So at least one of them gives up.

    Raises:
        StillRuns: another machine did.
    """
    stored = source.repository.read_records(experiment=own.experiment)
    others = [item for item in stored if isinstance(item, Resumed) and item.session != own.session]
    if any(item.previous == own.previous for item in others):
        raise StillRuns(_resumed_elsewhere(own.experiment))


def _resumed_elsewhere(experiment: str) -> str:
    return (
        f"another process resumed the experiment {ids.short(experiment)} at the same moment: let that run, or end "
        "it and start this one again"
    )


def one(source: Source, experiment: str) -> ExperimentView:
    """What is known about an experiment. Raises `NotFound` if it was deleted."""
    listed = source.one(experiment)
    if listed is None:
        raise NotFound(f"the experiment {ids.short(experiment)} was deleted")
    return listed


def check_readable(repository: Repository, checkpoint: CheckpointFacts) -> None:
    """Read and verify all files of a checkpoint. Raises `Corrupted` and `StorageFailed`."""
    if checkpoint.manifest is None:
        raise Corrupted(f"the checkpoint {ids.short(checkpoint.id)} has no files to resume from")
    for path, file in repository.manifest(checkpoint.manifest, size_bytes=checkpoint.size_bytes).files.items():
        with open_file(repository, file, name=path) as stream:
            while stream.read(COPY_BYTES):
                pass
