"""Going on with an experiment: which one is meant, whether it still runs elsewhere, and from which checkpoint.

What is done from there on is `recording`'s; restoring a model is its framework's.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from replicate_core import ids, series, wording
from replicate_core.diff import differing
from replicate_core.errors import Corrupted, InvalidInput, NotFound
from replicate_core.heartbeats import INTERVAL
from replicate_core.listing import Listed, Source
from replicate_core.reading import open_file
from replicate_core.records import CheckpointFacts, Created, Resumed
from replicate_core.repository import Repository
from replicate_core.values import Value, dumps

AUTO = "auto"

SILENCE = 3 * INTERVAL
"""An experiment that gives no sign of life while it is waited for so long does not run any more."""

LOOK_SECONDS = 1.0
"""How often whoever waits for a sign of life looks for it."""

COPY_BYTES = 4 << 20

DIFFERENCES_SHOWN, VALUE_CHARACTERS = 5, 30
"""So many params are said to be others now, and so much of each value."""

Say = Callable[[str], object]


class StillRuns(InvalidInput):
    """What is to go on has not ended."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is meant by going on."""

    experiment: str
    checkpoint: str | None
    """The one that was named; None: the newest one that can be read."""
    reason: str
    """Why it is this experiment, in words."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where an experiment goes on."""

    listed: Listed
    checkpoint: CheckpointFacts | None
    """None: at its beginning, because none of its checkpoints has files that can be read."""
    reason: str
    adds: bool = False
    """Whether it goes on behind its last checkpoint, which need not be readable, and nothing is set aside."""

    def resumed(self, session: str, now: datetime) -> Resumed:
        """What is recorded of it."""
        state = self.listed.state
        checkpoint = None if self.checkpoint is None else self.checkpoint.id
        return Resumed(state.created.experiment, now, session, state.session, checkpoint, adds=self.adds)


def find(source: Source, wanted: str, created: Created) -> Found | None:
    """Find what to go on with.

    Args:
        source: what there is.
        wanted: `"auto"`, or how the id of an experiment or checkpoint begins.
        created: the experiment that would begin otherwise: with `"auto"`, the latest one of the same project is meant
            that has its name, or, where neither has a name, its params and its command.

    Returns:
        None if `"auto"` finds nothing: then it is a first start.

    Raises:
        NotFound: nothing, or more than one thing, has an id that begins so.
    """
    if wanted == AUTO:
        newest_first = reversed(source.candidates(_texts_of_same_run(created)).values())
        same = next((item for item in newest_first if is_same_run(item.state.created, created)), None)
        reason = f"it has the same name, {created.name!r}" if created.name else "it has the same params and command"
        return None if same is None else Found(same.experiment, None, reason)
    matches = source.matching(wanted)
    if len(matches) != 1:
        found = ", ".join(checkpoint or listed.experiment for listed, checkpoint in matches) or "nothing"
        raise NotFound(f"resume={wanted!r} begins the id of {found}: `replicate ls` shows what there is")
    listed, checkpoint = matches[0]
    reason = "its id was given" if checkpoint is None else "its checkpoint was given"
    return Found(listed.experiment, checkpoint, reason)


def is_same_run(old: Created, new: Created) -> bool:
    """Tell whether an experiment is another start of the same run: same project and name, else params and command."""
    if old.config.get("project") != new.config.get("project"):
        return False
    if old.name is not None or new.name is not None:
        return old.name == new.name
    return old.command == new.command and _text_of(old) == _text_of(new)


def _texts_of_same_run(new: Created) -> list[str]:
    """What stands in a record of each other start of the same run, to find it among very many; see `is_same_run`."""
    if new.name is not None:
        return [f'"name":{dumps(new.name)}']
    plain = {name: value for name, value in new.params.items() if not isinstance(value, (dict, list))}  # have an order
    return [f'"command":{dumps(new.command)}', *(dumps({name: value})[1:-1] for name, value in plain.items())]


def _text_of(created: Created) -> str:
    return json.dumps(created.params, sort_keys=True)  # as text, because NaN is not equal to itself


def wait_until_over(source: Source, experiment: str, say: Say) -> None:
    """Make sure that an experiment does not run any more.

    On this machine locks tell. Of another machine only signs of life are known, and its clock may be wrong: if the last
    sign is young or from the future, it is waited for the next one.

    Raises:
        StillRuns: it runs.
        NotFound: it was deleted.
    """
    if source.is_recorded_by_this_process(experiment):
        raise StillRuns(
            f"the experiment {ids.short(experiment)} is being recorded by this very process: use the object that "
            "replicate.init() returned, or end it first with stop()"
        )
    if source.is_recorded_here(experiment):
        raise StillRuns(
            f"the experiment {ids.short(experiment)} is still being recorded by another process of this machine: wait "
            "until that has ended, or stop it; resume=None begins another experiment"
        )
    first = one(source, experiment)
    if first.status != "running" or source.was_left_here(experiment, first.state.session):
        return
    where = "another machine" if first.heartbeat is None else first.heartbeat.host
    say(f"waiting to see whether the experiment {ids.short(experiment)} still runs on {where}")
    patience = time.monotonic() + SILENCE.total_seconds()
    while time.monotonic() < patience:
        time.sleep(LOOK_SECONDS)
        now = one(source, experiment)
        if now.state.ended is not None:
            return
        if _life(now) != _life(first):
            raise StillRuns(
                f"the experiment {ids.short(experiment)} is running on {where}: stop it there, or begin another "
                "experiment with resume=None"
            )


def _life(listed: Listed) -> tuple[object, ...]:
    """What changes while an experiment runs."""
    state, sign = listed.state, listed.heartbeat
    return state.session, len(state.checkpoints), None if sign is None else sign.time


def choose(source: Source, found: Found) -> Start:
    """Choose the checkpoint to go on from, of an experiment that is over. All of its files are read and verified.

    Raises:
        NotFound: it was deleted.
        Corrupted: the checkpoint that was named can't be read.
        StorageFailed: the storage can't be reached.
    """
    source.settle(found.experiment)
    listed = one(source, found.experiment)
    for checkpoint in reversed(listed.state.checkpoints):
        if found.checkpoint not in (None, checkpoint.id) or (checkpoint.manifest is None and found.checkpoint is None):
            continue
        try:
            check_readable(source.repository, checkpoint)
        except Corrupted as error:
            if found.checkpoint is not None:
                raise
            warnings.warn(
                f"the checkpoint {ids.short(checkpoint.id)} (step {checkpoint.step}) can't be gone on from, so the one "
                f"before it is tried: {error}",
                stacklevel=4,
            )
            continue
        return Start(listed, checkpoint, found.reason)
    if found.checkpoint is not None:
        raise NotFound(f"the checkpoint {ids.short(found.checkpoint)} was deleted or set aside meanwhile")
    return Start(listed, None, found.reason)


def behind_the_last(source: Source, experiment: str) -> Start:
    """Where more is added to an experiment that is over: behind all that it has.

    Raises:
        NotFound: it was deleted.
        StorageFailed: the storage can't be reached.
    """
    source.settle(experiment)
    listed = one(source, experiment)
    last = listed.state.checkpoints[-1] if listed.state.checkpoints else None
    return Start(listed, last, "more is added to it", adds=True)


def follow(source: Source, found: Found, say: Say) -> Start:
    """Find where another process of the same distributed run goes on, or will go on."""
    try:
        wait_until_over(source, found.experiment, say)
    except StillRuns:  # it has begun to
        if source.begins_here(one(source, found.experiment).state):  # and has not said from where:
            start = choose(source, found)  # it chooses as anybody does who looks now
            if source.begins_here(one(source, found.experiment).state):  # so nothing has changed meanwhile
                return start
        listed = one(source, found.experiment)
        wanted = listed.state.resumed_from
        checkpoint = next((item for item in listed.state.checkpoints if item.id == wanted), None)
        return Start(listed, checkpoint, found.reason)
    return choose(source, found)


def described(start: Start, new: Created) -> str:
    """What is gone on with, and why, in words; and which params differ from those of the experiment `new`."""
    experiment = ids.short(start.listed.state.created.experiment)
    if start.checkpoint is None:
        where = "at its beginning: no checkpoint of it has files to go on from"
    else:
        where = f"from its checkpoint {ids.short(start.checkpoint.id)} (step {start.checkpoint.step})"
    return f"going on with the experiment {experiment} {where}, because {start.reason}{_differences(start, new)}"


def _differences(start: Start, new: Created) -> str:
    before, now = series.flat(start.listed.state.created.params), series.flat(new.params)
    names = differing([before, now]) if now else []
    if not names:
        return ""
    shown = ", ".join(f"{name} {_shown(before, name)} → {_shown(now, name)}" for name in names[:DIFFERENCES_SHOWN])
    more = f" and {len(names) - DIFFERENCES_SHOWN} more" if len(names) > DIFFERENCES_SHOWN else ""
    return f". Its params stay as they were recorded; now they are others: {shown}{more}"


def _shown(params: Mapping[str, Value], name: str) -> str:
    return wording.cut(dumps(params[name]), VALUE_CHARACTERS) if name in params else "nothing"


def check_alone(source: Source, start: Start) -> None:
    """Make sure that no other process has gone on with an experiment since it was looked at.

    Raises:
        StillRuns: one has.
    """
    experiment = start.listed.state.created.experiment
    if source.is_recorded_here(experiment) or one(source, experiment).state.session != start.listed.state.session:
        raise StillRuns(_rivals(experiment))


def check_unrivalled(source: Source, own: Resumed) -> None:
    """Make sure that no other machine went on with the experiment at the same moment; called once ours is stored.

    Of two that do, the one that looks later sees the other: one of them, or each, gives up.

    Raises:
        StillRuns: one did.
    """
    stored = source.repository.read_records(experiment=own.experiment)
    others = [item for item in stored if isinstance(item, Resumed) and item.session != own.session]
    if any(item.previous == own.previous for item in others):
        raise StillRuns(_rivals(own.experiment))


def _rivals(experiment: str) -> str:
    return (
        f"another process went on with the experiment {ids.short(experiment)} at the same moment: let that run, or end "
        "it and start this one again"
    )


def one(source: Source, experiment: str) -> Listed:
    """What is known of an experiment. Raises `NotFound`: it was deleted."""
    listed = source.one(experiment)
    if listed is None:
        raise NotFound(f"the experiment {ids.short(experiment)} was deleted")
    return listed


def check_readable(repository: Repository, checkpoint: CheckpointFacts) -> None:
    """Read and verify all files of a checkpoint. Raises `Corrupted`, and `StorageFailed`."""
    if checkpoint.manifest is None:
        raise Corrupted(f"the checkpoint {ids.short(checkpoint.id)} has no files to go on from")
    for path, file in repository.manifest(checkpoint.manifest).files.items():
        with open_file(repository, file, name=path) as stream:
            while stream.read(COPY_BYTES):
                pass
