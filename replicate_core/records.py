"""Records: the small immutable documents that a repository is a log of, and what they fold to.

Pure. The state of an experiment is never stored: it is what `fold` makes of its records, in the order of their keys.
How records are written is in `record_format`, where in `repository`; what users hold is in `experiment`, `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, get_args

from replicate_core.documents import FORMAT
from replicate_core.errors import InvalidInput
from replicate_core.values import Value

Goal: TypeAlias = Literal["minimize", "maximize"]
Ending: TypeAlias = Literal["finished", "failed", "interrupted", "killed"]
Status: TypeAlias = Literal["running", "finished", "failed", "interrupted", "killed", "lost"]


class PrimaryMetric(NamedTuple):
    """The metric by which checkpoints are compared, and which way is better: the pair that users give."""

    name: str
    goal: Goal

    @classmethod
    def parse(cls, pair: object) -> PrimaryMetric | None:
        """Check a primary metric as users give it: `(name, "minimize" | "maximize")`, or None.

        Raises:
            InvalidInput: it has another shape or goal.
        """
        if pair is None:
            return None
        if isinstance(pair, (tuple, list)) and len(pair) == 2:
            name, goal = pair
            if isinstance(name, str) and name and goal in get_args(Goal):
                return cls(name, goal)
        raise InvalidInput(f'primary_metric must be a pair (name, "minimize" or "maximize"), got {pair!r}')


class Keep(NamedTuple):
    """Of how many checkpoints the files are kept: the best ones, and the last ones."""

    best: int = 1
    last: int = 1


@dataclass(frozen=True, slots=True)
class GitState:
    """What git knew of the project when the experiment began."""

    commit: str
    branch: str | None
    """None when no branch was checked out."""
    dirty: bool | None
    """Whether tracked files differed from the commit; None where there was no `git` to ask."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A moment of an experiment, as it was recorded."""

    id: str
    created: datetime
    step: int
    metrics: Mapping[str, Value]
    primary_metric: PrimaryMetric | None = None
    path: str | None = None
    """What was saved, relative to the project directory; None if nothing was."""
    extra: Mapping[str, Value] = field(default_factory=dict)
    """What else `checkpoint()` was given by keyword."""
    manifest: str | None = None
    """Key of the manifest of its files."""
    size_bytes: int = 0
    stored_bytes: int = 0
    """What storing its files added to the storage."""
    keep: Keep | None = None
    """Of how many checkpoints the files were to be kept when it was made; None: of all."""
    code: str | None = None
    """Key of the manifest of the code that made it, where the experiment had been resumed. Not recorded with it, as
    what follows: `fold` knows it."""
    is_private: bool = False
    """Whether no other writer may refer to its objects, because they may go at any moment."""
    is_released: bool = False
    """Whether its files were let go."""

    def value_of_primary(self, primary: PrimaryMetric) -> int | float | None:
        """Its value of a primary metric; None where it has none that can be compared."""
        value = self.metrics.get(primary.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124  # NaN; math.isnan fails on huge integers
            return None
        return value


@dataclass(frozen=True, slots=True)
class Created:
    """An experiment began."""

    experiment: str
    created: datetime
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    params: Mapping[str, Value] = field(default_factory=dict)
    user: str | None = None
    host: str | None = None
    command: str | None = None
    """The command line, credentials redacted."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """What `replicate.yaml` said, credentials redacted."""
    path: str | None = None
    """What was saved of the project, relative to its directory; None if nothing was."""
    python_version: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    """Every installed package and its version."""
    system: Mapping[str, Value] = field(default_factory=dict)
    """Platform, processors, memory, accelerators."""
    git: GitState | None = None
    replicate_version: str | None = None
    format: int = FORMAT
    """The storage format that it was written in."""
    resumed_from: str | None = None
    """The checkpoint, of this or another experiment, that it began from."""
    manifest: str | None = None
    """Key of the manifest of the project's files."""
    size_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """One or more checkpoints of an experiment, in the order they were made."""

    experiment: str
    checkpoints: tuple[CheckpointFacts, ...]
    session: str | None = None
    """That of the process that made them; None for the first one of the experiment, as in `Ended`."""


@dataclass(frozen=True, slots=True)
class Edited:
    """Name, tags or notes were changed; what is None stays as it was, and an empty text takes away what was there."""

    experiment: str
    name: str | None = None
    tags: tuple[str, ...] | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The experiment goes on, in a session of its own: what came after the checkpoint it goes on from is set aside."""

    experiment: str
    created: datetime
    session: str
    """The id of the session that begins."""
    previous: str | None
    """The session that it goes on after; None for the first one."""
    checkpoint: str | None
    """None: it goes on from its very beginning."""
    path: str | None = None
    """What was saved of the project this time; None if nothing was."""
    manifest: str | None = None
    """Key of the manifest of the project's files."""
    size_bytes: int = 0
    stored_bytes: int = 0
    adds: bool = False
    """Whether it only adds: nothing is set aside, and how the training before it ended stays what counts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The experiment is over."""

    experiment: str
    created: datetime
    status: Ending
    error: str | None = None
    """Type and message of the exception that ended it."""
    blocked_seconds: float = 0.0
    """How long `checkpoint()` held up the training in total."""
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """An experiment, or some of its checkpoints, must no longer be listed."""

    experiment: str
    checkpoints: tuple[str, ...] | None = None
    """None: the whole experiment."""


@dataclass(frozen=True, slots=True)
class Released:
    """The files of some checkpoints are not kept any longer; what else was recorded of them is."""

    experiment: str
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repacked:
    """Manifests were replaced by others that say the same of the files, and name other objects."""

    experiment: str
    manifests: Mapping[str, str]
    """Key of a manifest to the key of the one that takes its place."""


Record: TypeAlias = Created | Checkpointed | Edited | Resumed | Ended | Deleted | Released | Repacked


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """What the records of one experiment say together."""

    created: Created
    checkpoints: tuple[CheckpointFacts, ...] = ()
    """In the order they were made; without those deleted or set aside by resuming."""
    ended: Ended | None = None
    resumed_from: str | None = None
    """The checkpoint that the experiment last went on from."""
    code: str | None = None
    """Key of the manifest of the code that it last went on with; None if that is what it began with."""
    session: str | None = None
    """The session that it last went on in; None for the first one."""


def fold(records: Iterable[Record]) -> dict[str, ExperimentState]:
    """Fold records, in the order of their keys, to the state of every experiment that is not deleted.

    A checkpoint that stands in two records (a write whose answer was lost is written again) counts once.
    Records of an experiment whose `Created` is missing are passed over.
    """
    states = ((experiment, _fold_one(group)) for experiment, group in _grouped(records).items())
    return {experiment: state for experiment, state in states if state is not None}


def headless(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of experiments of which that of the beginning is missing, and that were not deleted, by id.

    While an experiment is copied to another storage it is so, too: its beginning comes last.
    """
    return {
        experiment: group
        for experiment, group in _grouped(records).items()
        if not (any(isinstance(record, Created) for record in group) or _is_deleted(group))
    }


def _grouped(records: Iterable[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.experiment, []).append(record)
    return grouped


def _is_deleted(records: Sequence[Record]) -> bool:
    return any(isinstance(record, Deleted) and record.checkpoints is None for record in records)


def by_age(states: Mapping[str, ExperimentState]) -> dict[str, ExperimentState]:
    """The experiments in the order they began."""
    return dict(sorted(states.items(), key=lambda item: (item[1].created.created, item[0])))


def _fold_one(records: Sequence[Record]) -> ExperimentState | None:
    created = next((record for record in records if isinstance(record, Created)), None)
    if created is None or _is_deleted(records):
        return None
    resumed: list[Resumed] = []
    made: dict[str | None, dict[str, CheckpointFacts]] = {}
    ended: dict[str | None, Ended] = {}
    gone: set[str] = set()
    released: set[str] = set()
    replaced: dict[str, str] = {}
    for record in records:
        match record:
            case Checkpointed():
                before = made.setdefault(record.session, {})
                new = {item.id: item for item in record.checkpoints if item.id not in before}
                before |= new
                if new:
                    ended.pop(record.session, None)
            case Resumed():
                resumed.append(record)
            case Edited():
                created = edited(created, record)
            case Ended():
                ended[record.session] = record
            case Deleted():
                gone |= set(record.checkpoints or ())
            case Released():
                released |= set(record.checkpoints)
            case Repacked():
                replaced |= record.manifests
            case Created():  # pragma: no branch  # there is no other kind
                pass
    lineage = _lineage(resumed, made, ended)
    history = {key: _private(item, is_over=None in ended) for key, item in made.get(None, {}).items()}
    session, training, resumed_from, code = None, None, created.resumed_from, None
    for step in lineage:
        session, code = step.session, step.manifest or code
        if not step.adds:
            training, resumed_from = session, step.checkpoint
            history = _until(step.checkpoint, history)
        added = {key: replace(item, code=code) for key, item in made.get(session, {}).items()}
        history |= {key: _private(item, is_over=session in ended) for key, item in added.items()}
    current = {key: _release(item) if key in released else item for key, item in history.items() if key not in gone}
    kept = tuple(current.values())
    if replaced:  # else it would cost most of a listing
        kept = tuple(
            replace(item, manifest=_replacement(item.manifest, replaced), code=_replacement(item.code, replaced))
            for item in kept
        )
        created = replace(created, manifest=_replacement(created.manifest, replaced))
    ending = ended.get(training, ended[session]) if session in ended else None
    return ExperimentState(created, kept, ending, resumed_from, _replacement(code, replaced), session)


def _lineage(
    resumed: Sequence[Resumed],
    made: Mapping[str | None, Mapping[str, CheckpointFacts]],
    ended: Mapping[str | None, Ended],
) -> list[Resumed]:
    """The sessions that an experiment went on in, one after the other, without its first.

    They tell by their ids what went on after what: the clocks of two machines may disagree. Where two went on after the
    same one, because two machines did so at the same moment, the one counts that made checkpoints, or was gone on after
    itself, or has not ended; or else the first: who came later has seen it and given up, or was not heard of in time.
    """
    sessions = {record.session: record for record in resumed}
    followed = {record.previous for record in resumed}
    lineages = [_ancestry(record, sessions) for record in sessions.values() if record.session not in followed]

    def weight(lineage: list[Resumed]) -> tuple[int, int, bool]:
        made_any = sum(bool(made.get(record.session)) for record in lineage)
        return made_any, len(lineage), lineage[-1].session not in ended

    return max(lineages, key=weight, default=[])


def _ancestry(record: Resumed, sessions: Mapping[str, Resumed]) -> list[Resumed]:
    """A session and those it went on after, the first one first."""
    lineage: list[Resumed] = []
    step: Resumed | None = record
    while step is not None and step not in lineage:  # a forged one may go in circles
        lineage.append(step)
        step = sessions.get(step.previous) if step.previous is not None else None
    return lineage[::-1]


def _private(item: CheckpointFacts, *, is_over: bool) -> CheckpointFacts:
    """A checkpoint of a session that is over or not: only as long as it is not are files let go."""
    is_private = item.keep is not None and not is_over
    return item if item.is_private == is_private else replace(item, is_private=is_private)


def _release(item: CheckpointFacts) -> CheckpointFacts:
    """A checkpoint without its files."""
    return replace(item, manifest=None, size_bytes=0, is_released=True)


def _until(checkpoint: str | None, history: Mapping[str, CheckpointFacts]) -> dict[str, CheckpointFacts]:
    """The checkpoints up to one; none where it is None or unknown."""
    if checkpoint is None or checkpoint not in history:
        return {}
    return dict(islice(history.items(), list(history).index(checkpoint) + 1))


def _replacement(manifest: str | None, replaced: Mapping[str, str]) -> str | None:
    """The manifest that stands for another one now: it may have been replaced several times."""
    for _ in range(len(replaced)):
        if manifest is None or manifest not in replaced:
            break
        manifest = replaced[manifest]
    return manifest


def edited(created: Created, edit: Edited) -> Created:
    """What an experiment is known as once it was edited."""
    return replace(
        created,
        name=created.name if edit.name is None else edit.name or None,
        tags=created.tags if edit.tags is None else edit.tags,
        notes=created.notes if edit.notes is None else edit.notes or None,
    )


def primary_metric_of(checkpoints: Sequence[CheckpointFacts]) -> PrimaryMetric | None:
    """The primary metric by which these checkpoints are compared: that of the latest one that has any."""
    return next((item.primary_metric for item in reversed(checkpoints) if item.primary_metric), None)


def best(checkpoints: Sequence[CheckpointFacts]) -> CheckpointFacts | None:
    """The best checkpoint by the primary metric; of equals the first with files, else the first.

    Checkpoints without that metric, or with NaN, are passed over; None when no checkpoint is left.
    """
    return next(iter(ranked(checkpoints)), None)


def ranked(checkpoints: Sequence[CheckpointFacts], primary: PrimaryMetric | None = None) -> list[CheckpointFacts]:
    """The checkpoints that `best` does not pass over, the best one first; equals in the order they were made.

    Those without files come after their equals: their metrics were recorded by themselves a moment before.
    """
    primary = primary or primary_metric_of(checkpoints)
    if primary is None:
        return []
    sign = 1 if primary.goal == "minimize" else -1
    rated = [(sign * value, item) for item in checkpoints if (value := item.value_of_primary(primary)) is not None]
    return [item for _, item in sorted(rated, key=lambda pair: (pair[0], pair[1].path is None))]


def superseded(checkpoints: Sequence[CheckpointFacts], keep: Keep) -> list[CheckpointFacts]:
    """The checkpoints whose files are not to be kept: neither among the best ones with files nor among the last.

    None, where several of the best are to be kept, or a primary metric was named, and no checkpoint has that metric: it
    is not known which are the best.
    """
    with_files = [item for item in checkpoints if item.manifest is not None]
    primary = primary_metric_of(checkpoints)
    if keep.best > 1 if primary is None else not any(primary.name in item.metrics for item in checkpoints):
        return []
    best_first = ranked(with_files, primary)
    kept = {item.id for item in (*best_first[: keep.best], *with_files[-keep.last :])}
    return [item for item in with_files if item.id not in kept]
