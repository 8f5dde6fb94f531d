"""Records: the small immutable documents that a repository is a log of, and what they fold to.

Pure. The state of an experiment is never stored: it is what `fold` makes of its records, in the order of their keys.
How records are written is in `record_format`, where in `repository`; what users hold is in `experiment`, `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class Edited:
    """Name, tags or notes were changed; what is None stays as it was."""

    experiment: str
    name: str | None = None
    tags: tuple[str, ...] | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The experiment goes on from a checkpoint: what came after it is set aside."""

    experiment: str
    created: datetime
    checkpoint: str | None
    """None: it goes on from its very beginning."""


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


@dataclass(frozen=True, slots=True)
class Deleted:
    """An experiment, or some of its checkpoints, must no longer be listed."""

    experiment: str
    checkpoints: tuple[str, ...] | None = None
    """None: the whole experiment."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """Manifests were replaced by others that say the same of the files, and name other objects."""

    experiment: str
    manifests: Mapping[str, str]
    """Key of a manifest to the key of the one that takes its place."""


Record: TypeAlias = Created | Checkpointed | Edited | Resumed | Ended | Deleted | Repacked


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """What the records of one experiment say together."""

    created: Created
    checkpoints: tuple[CheckpointFacts, ...] = ()
    """In the order they were made; without those deleted or set aside by resuming."""
    ended: Ended | None = None
    resumed_from: str | None = None
    """The checkpoint that the experiment last went on from."""


def fold(records: Iterable[Record]) -> dict[str, ExperimentState]:
    """Fold records, in the order of their keys, to the state of every experiment that is not deleted.

    A checkpoint that stands in two records (a write whose answer was lost is written again) counts once.
    Records of an experiment whose `Created` is missing are passed over.
    """
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.experiment, []).append(record)
    states = ((experiment, _fold_one(group)) for experiment, group in grouped.items())
    return {experiment: state for experiment, state in states if state is not None}


def by_age(states: Mapping[str, ExperimentState]) -> dict[str, ExperimentState]:
    """The experiments in the order they began."""
    return dict(sorted(states.items(), key=lambda item: (item[1].created.created, item[0])))


def _fold_one(records: Sequence[Record]) -> ExperimentState | None:
    created = next((record for record in records if isinstance(record, Created)), None)
    if created is None or any(isinstance(record, Deleted) and record.checkpoints is None for record in records):
        return None
    checkpoints: dict[str, CheckpointFacts] = {}
    gone: set[str] = set()
    replaced: dict[str, str] = {}
    ended: Ended | None = None
    resumed_from = created.resumed_from
    for record in records:
        match record:
            case Checkpointed():
                for checkpoint in record.checkpoints:
                    checkpoints.setdefault(checkpoint.id, checkpoint)
                ended = None
            case Resumed():
                later = _after(record.checkpoint, checkpoints)
                gone |= later
                checkpoints = {key: item for key, item in checkpoints.items() if key not in later}
                ended, resumed_from = None, record.checkpoint
            case Edited():
                created = _edit(created, record)
            case Ended():
                ended = record
            case Deleted():
                gone |= set(record.checkpoints or ())
            case Repacked():
                replaced |= record.manifests
            case Created():  # pragma: no branch  # there is no other kind
                pass
    kept = tuple(checkpoint for key, checkpoint in checkpoints.items() if key not in gone)
    if replaced:
        kept = tuple(replace(item, manifest=_replacement(item.manifest, replaced)) for item in kept)
        created = replace(created, manifest=_replacement(created.manifest, replaced))
    return ExperimentState(created, kept, ended, resumed_from)


def _replacement(manifest: str | None, replaced: Mapping[str, str]) -> str | None:
    """The manifest that stands for another one now: it may have been replaced several times."""
    for _ in range(len(replaced)):
        if manifest is None or manifest not in replaced:
            break
        manifest = replaced[manifest]
    return manifest


def _after(checkpoint: str | None, checkpoints: Mapping[str, CheckpointFacts]) -> set[str]:
    """The ids after `checkpoint`; all of them when it is None or unknown."""
    order = list(checkpoints)
    return set(order if checkpoint is None or checkpoint not in checkpoints else order[order.index(checkpoint) + 1 :])


def _edit(created: Created, edit: Edited) -> Created:
    changes = {"name": edit.name, "tags": edit.tags, "notes": edit.notes}
    return replace(created, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]  # each value comes from the field of the same name


def primary_metric_of(checkpoints: Sequence[CheckpointFacts]) -> PrimaryMetric | None:
    """The primary metric by which these checkpoints are compared: that of the latest one that has any."""
    return next((item.primary_metric for item in reversed(checkpoints) if item.primary_metric), None)


def best(checkpoints: Sequence[CheckpointFacts]) -> CheckpointFacts | None:
    """The best checkpoint by the primary metric; of equals the first.

    Checkpoints without that metric, or with NaN, are passed over; None when no checkpoint is left.
    """
    primary = primary_metric_of(checkpoints)
    if primary is None:
        return None
    sign = 1 if primary.goal == "minimize" else -1
    rated = [(sign * value, item) for item in checkpoints if (value := item.value_of_primary(primary)) is not None]
    return min(rated, key=lambda pair: pair[0])[1] if rated else None
