"""Records, the small immutable documents that make up a repository's log, and the state that they fold to.

Pure. The state of an experiment is never stored: `fold` computes it from the experiment's records, in key order.
`record_codec` says how records are written, `repository` where; users hold an `experiment` or a `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

from replicate_core.errors import InvalidInput
from replicate_core.format import ids
from replicate_core.format.sealed import FORMAT
from replicate_core.format.values import Value

Goal: TypeAlias = Literal["minimize", "maximize"]
Ending: TypeAlias = Literal["finished", "failed", "interrupted", "killed"]
Status: TypeAlias = Literal["running", "finished", "failed", "interrupted", "killed", "lost"]

_GOALS: tuple[Goal, ...] = get_args(Goal)
_NOT_A_PAIR = 'primary_metric must be a pair (name, "minimize" or "maximize")'


class PrimaryMetric(NamedTuple):
    """The metric by which checkpoints are compared, and whether lower or higher is better."""

    name: str
    goal: Goal

    @classmethod
    def parse(cls, pair: object) -> PrimaryMetric | None:
        """Check a primary metric as users give it: `(name, "minimize" | "maximize")`, in any case, or None.

        Raises:
            InvalidInput: it has another shape or goal.
        """
        if pair is None:
            return None
        if isinstance(pair, Sequence) and not isinstance(pair, (str, bytes)) and len(pair) == 2:  # OmegaConf's, too
            return cls.of(*pair)
        raise InvalidInput(f"{_NOT_A_PAIR}, got {pair!r}")

    @classmethod
    def of(cls, name: object, goal: object) -> PrimaryMetric:
        """Check the two parts of a primary metric. Raises `InvalidInput`."""
        meant = next((item for item in _GOALS if isinstance(goal, str) and goal.lower() == item), None)
        if isinstance(name, str) and name and meant is not None:
            return cls(name, meant)
        raise InvalidInput(f"{_NOT_A_PAIR}, got {(name, goal)!r}")


class Keep(NamedTuple):
    """The number of best and of last checkpoints whose files are kept."""

    best: int = 1
    last: int = 1


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of the project's git checkout when the experiment began."""

    commit: str
    branch: str | None
    """None when no branch was checked out."""
    dirty: bool | None
    """Whether tracked files differed from the commit; None where `git` could not be run."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What is recorded of a checkpoint."""

    id: str
    created: datetime
    step: int
    metrics: Mapping[str, Value]
    primary_metric: PrimaryMetric | None = None
    path: str | None = None
    """The path that was saved, relative to the project directory; None if nothing was."""
    extra: Mapping[str, Value] = field(default_factory=dict)
    """The other keyword arguments of `checkpoint()`."""
    manifest: str | None = None
    """Key of the manifest of its files."""
    size_bytes: int = 0
    stored_bytes: int = 0
    """Number of bytes that storing its files added to the storage."""
    keep: Keep | None = None
    """How many checkpoints were to keep their files when it was made; None: all of them."""
    code: str | None = None
    """Key of the manifest of the code that made it, if the experiment had been resumed. Like the flags below, it is not
    recorded with the checkpoint: `fold` sets it."""
    is_private: bool = False
    """Whether other writers must not refer to its objects, because they may be deleted at any moment."""
    is_released: bool = False
    """Whether its files are no longer kept."""
    lacks: str | None = None
    """Why its files are missing, if it was imported without them. This is recorded."""
    is_waiting: bool = False
    """Whether its files wait in the spool of this machine; `source` sets it."""

    @property
    def has_files(self) -> bool:
        """Whether it has files that can be restored: stored, or waiting on this machine to be stored."""
        return self.manifest is not None or self.is_waiting

    def value_of_primary(self, primary: PrimaryMetric) -> int | float | None:
        """Its value of a primary metric; None where it has no comparable value."""
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
    """The path that was saved, relative to the project directory; None if nothing was."""
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
    """The checkpoint that it began from, of this or another experiment."""
    manifest: str | None = None
    """Key of the manifest of the project's files."""
    size_bytes: int = 0
    stored_bytes: int = 0
    lacks: str | None = None
    """Why the project's files are missing, if the experiment was imported without them."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """One or more checkpoints of an experiment, in the order they were made."""

    experiment: str
    checkpoints: tuple[CheckpointFacts, ...]
    session: str | None = None
    """The session that made them; None for the first one of the experiment, as in `Ended`."""


@dataclass(frozen=True, slots=True)
class Edited:
    """Name, tags or notes were changed: None leaves a field as it was, and an empty string clears it."""

    experiment: str
    name: str | None = None
    tags: tuple[str, ...] | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The experiment was resumed in a new session: checkpoints after the one that it names are set aside."""

    experiment: str
    created: datetime
    session: str
    """The id of the session that begins."""
    previous: str | None
    """The session that it continues; None for the first one."""
    checkpoint: str | None
    """None: it is resumed from its beginning."""
    path: str | None = None
    """The path that was saved this time; None if nothing was."""
    manifest: str | None = None
    """Key of the manifest of the project's files."""
    size_bytes: int = 0
    stored_bytes: int = 0
    adds: bool = False
    """Whether it only adds checkpoints: nothing is set aside, and the experiment keeps the status of its training."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The experiment ended."""

    experiment: str
    created: datetime
    status: Ending
    error: str | None = None
    """Type and message of the exception that ended it."""
    blocked_seconds: float = 0.0
    """Seconds that `checkpoint()` held up the training in this session."""
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """An experiment or some of its checkpoints were deleted, and are no longer listed."""

    experiment: str
    checkpoints: tuple[str, ...] | None = None
    """None: the whole experiment."""


@dataclass(frozen=True, slots=True)
class Released:
    """The files of some checkpoints are no longer kept; everything else that was recorded of them is."""

    experiment: str
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repacked:
    """Manifests were replaced by others that describe the same files in other objects."""

    experiment: str
    manifests: Mapping[str, str]
    """Key of each new manifest, by the key of the one that it replaces."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A later import brought the files that an earlier one could not."""

    experiment: str
    checkpoint: str | None
    """None: the code of the experiment."""
    manifest: str
    size_bytes: int = 0
    stored_bytes: int = 0


Record: TypeAlias = Created | Checkpointed | Edited | Resumed | Ended | Deleted | Released | Repacked | Restored


_Facts = TypeVar("_Facts", Created, CheckpointFacts)


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """The state of one experiment, folded from its records."""

    created: Created
    checkpoints: tuple[CheckpointFacts, ...] = ()
    """In the order they were made, without those that were deleted or set aside by resuming."""
    ended: Ended | None = None
    resumed_from: str | None = None
    """The checkpoint that the experiment was last resumed from."""
    code: str | None = None
    """Key of the manifest of the code that it was last resumed with; None if that is the code it began with."""
    session: str | None = None
    """The session that it was last resumed in; None for the first one."""
    blocked_seconds: float = 0.0
    """Seconds that `checkpoint()` held up the training, in all sessions that ended except those that only added."""


def fold(records: Iterable[Record]) -> dict[str, ExperimentState]:
    """Fold records, in the order of their keys, to the state of every experiment that is not deleted.

    A checkpoint that is in two records (a write whose answer was lost is repeated) counts once.
    Records of an experiment whose `Created` is missing are ignored.
    """
    states = ((experiment, _fold_one(group)) for experiment, group in _grouped(records).items())
    return {experiment: state for experiment, state in states if state is not None}


def headless(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of experiments that lack a `Created` and were not deleted, by id.

    An experiment that is still being copied to another storage is one of them: its `Created` is copied last.
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
    """The experiments, sorted by when they began."""
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
    restored: dict[str | None, Restored] = {}
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
            case Restored():
                restored[record.checkpoint] = record
            case Created():  # pragma: no branch  # there is no other kind
                pass
    lineage = _lineage(resumed, made, ended)
    history = {key: _mark_private(item, is_over=None in ended) for key, item in made.get(None, {}).items()}
    session, training, resumed_from, code = None, None, created.resumed_from, None
    for step in lineage:
        session, code = step.session, step.manifest or code
        if not step.adds:
            training, resumed_from = session, step.checkpoint
            history = _up_to(step.checkpoint, history)
        added = {key: replace(item, code=code) for key, item in made.get(session, {}).items()}
        history |= {key: _mark_private(item, is_over=session in ended) for key, item in added.items()}
    current = {key: _release(item) if key in released else item for key, item in history.items() if key not in gone}
    kept = tuple(current.values())
    if restored:
        kept = tuple(item if item.is_released else _restore(item, restored.get(item.id)) for item in kept)
        created = _restore(created, restored.get(None))
    if replaced:  # without this check, it would take most of the time of a listing
        kept = tuple(
            replace(item, manifest=_replacement(item.manifest, replaced), code=_replacement(item.code, replaced))
            for item in kept
        )
        created = replace(created, manifest=_replacement(created.manifest, replaced))
    ending = ended.get(training, ended[session]) if session in ended else None
    trainings = (None, *(step.session for step in lineage if not step.adds))
    blocked = sum(ended[name].blocked_seconds for name in trainings if name in ended)
    return ExperimentState(created, kept, ending, resumed_from, _replacement(code, replaced), session, blocked)


def _lineage(
    resumed: Sequence[Resumed],
    made: Mapping[str | None, Mapping[str, CheckpointFacts]],
    ended: Mapping[str | None, Ended],
) -> list[Resumed]:
    """The sessions that an experiment was resumed in, in order, without its first.

    Each session names the one that it continues, because the clocks of two machines may disagree. If two machines
    resumed the same session at the same moment, the branch counts that has more sessions with checkpoints, then the
    longer one, then the one that has not ended, and else the first: the later machine saw the first and gave up, or its
    record arrived too late.
    """
    sessions = {record.session: record for record in resumed}
    followed = {record.previous for record in resumed}
    lineages = [_ancestry(record, sessions) for record in sessions.values() if record.session not in followed]

    def weight(lineage: list[Resumed]) -> tuple[int, int, bool]:
        made_any = sum(bool(made.get(record.session)) for record in lineage)
        return made_any, len(lineage), lineage[-1].session not in ended

    return max(lineages, key=weight, default=[])


def _ancestry(record: Resumed, sessions: Mapping[str, Resumed]) -> list[Resumed]:
    """A session and those that it continues, the first one first."""
    lineage: list[Resumed] = []
    step: Resumed | None = record
    while step is not None and step not in lineage:  # a forged one may go in circles
        lineage.append(step)
        step = sessions.get(step.previous) if step.previous is not None else None
    return lineage[::-1]


def _mark_private(item: CheckpointFacts, *, is_over: bool) -> CheckpointFacts:
    """The checkpoint with `is_private` set: its files may be released only while its session is not over."""
    is_private = item.keep is not None and not is_over
    return item if item.is_private == is_private else replace(item, is_private=is_private)


def _release(item: CheckpointFacts) -> CheckpointFacts:
    """A checkpoint without its files."""
    return replace(item, manifest=None, size_bytes=0, is_released=True, is_waiting=False)


def _restore(item: _Facts, record: Restored | None) -> _Facts:
    """The item with the files that a later import brought."""
    if record is None or item.manifest is not None:
        return item
    size, added = record.size_bytes, record.stored_bytes
    return replace(item, manifest=record.manifest, size_bytes=size, stored_bytes=added, lacks=None)


def _up_to(checkpoint: str | None, history: Mapping[str, CheckpointFacts]) -> dict[str, CheckpointFacts]:
    """The checkpoints up to and including one; none where it is None or unknown."""
    if checkpoint is None or checkpoint not in history:
        return {}
    return dict(islice(history.items(), list(history).index(checkpoint) + 1))


def _replacement(manifest: str | None, replaced: Mapping[str, str]) -> str | None:
    """The manifest that replaces another one now: it may have been replaced several times."""
    for _ in range(len(replaced)):
        if manifest is None or manifest not in replaced:
            break
        manifest = replaced[manifest]
    return manifest


def code_problem(created: Created) -> str | None:
    """Say that the saved code of an experiment is missing, and why; None if it is not missing."""
    if created.path is None or created.manifest is not None:
        return None
    short, why = ids.short(created.experiment), created.lacks or "they could not be saved"
    return f"the files of the code of the experiment {short} are missing: {why}"


def edited(created: Created, edit: Edited) -> Created:
    """The beginning of an experiment, with an edit of its name, tags and notes applied."""
    return replace(
        created,
        name=created.name if edit.name is None else edit.name or None,
        tags=created.tags if edit.tags is None else edit.tags,
        notes=created.notes if edit.notes is None else edit.notes or None,
    )


def usable(checkpoints: Sequence[CheckpointFacts]) -> Sequence[CheckpointFacts]:
    """The checkpoints that `best` and `latest` choose from: those with files, or all where none has any."""
    return [item for item in checkpoints if item.has_files] or checkpoints


def primary_metric_of(checkpoints: Sequence[CheckpointFacts]) -> PrimaryMetric | None:
    """The primary metric by which these checkpoints are compared: that of the latest usable one that has one.

    If no usable one has one, that of the latest checkpoint that does.
    """
    latest_first = (*reversed(usable(checkpoints)), *reversed(checkpoints))
    return next((item.primary_metric for item in latest_first if item.primary_metric), None)


def best(checkpoints: Sequence[CheckpointFacts], *, with_files: bool = True) -> CheckpointFacts | None:
    """The best checkpoint by the primary metric; the first of equals.

    Args:
        checkpoints: all of an experiment. Those without the primary metric, or with NaN, are ignored.
        with_files: whether only those with files count, if there are any. Otherwise all count. Of equals, those with
            files come first: a checkpoint without files often recorded the same metrics a moment before.

    Returns:
        None when no checkpoint is left.
    """
    chosen = usable(checkpoints) if with_files else checkpoints
    return next(iter(_ranked(chosen, primary_metric_of(checkpoints))), None)


def latest(checkpoints: Sequence[CheckpointFacts], *, with_files: bool = True) -> CheckpointFacts | None:
    """The last checkpoint of those with files, if there are any, or of all; None when there is none."""
    return next(reversed(usable(checkpoints) if with_files else checkpoints), None)


def best_or_latest(checkpoints: Sequence[CheckpointFacts], *, with_files: bool = True) -> CheckpointFacts | None:
    """The checkpoint that represents an experiment: its best, else its latest."""
    return best(checkpoints, with_files=with_files) or latest(checkpoints, with_files=with_files)


def metrics_of(checkpoints: Sequence[CheckpointFacts]) -> Iterator[Mapping[str, Value]]:
    """The metrics of an experiment, for a filter, a sort or a plot.

    First those of the checkpoint that represents it. Then, for metrics which that one lacks, those of the checkpoint
    that would represent it if files did not count.
    """
    for with_files in (True, False):
        if (chosen := best_or_latest(checkpoints, with_files=with_files)) is not None:
            yield chosen.metrics


def saved_paths(checkpoints: Iterable[CheckpointFacts]) -> frozenset[str]:
    """The files and directories that checkpoints saved, without those that could not be saved."""
    saved = (item for item in checkpoints if item.has_files or item.is_released or item.lacks is not None)
    return frozenset(item.path for item in saved if item.path is not None)


def nearest_with_files(checkpoints: Sequence[CheckpointFacts], checkpoint: str) -> list[CheckpointFacts]:
    """The last checkpoint with files before another one, and the first one after it, if there are any."""
    at = next((number for number, item in enumerate(checkpoints) if item.id == checkpoint), len(checkpoints))
    before = [item for item in checkpoints[:at] if item.has_files]
    after = [item for item in checkpoints[at + 1 :] if item.has_files]
    return [*before[-1:], *after[:1]]


def _ranked(checkpoints: Sequence[CheckpointFacts], primary: PrimaryMetric | None) -> list[CheckpointFacts]:
    """The checkpoints that have a comparable value of a primary metric, the best one first; see `best`."""
    if primary is None:
        return []
    sign = 1 if primary.goal == "minimize" else -1
    rated = [(sign * value, item) for item in checkpoints if (value := item.value_of_primary(primary)) is not None]
    return [item for _, item in sorted(rated, key=lambda pair: (pair[0], not pair[1].has_files))]


def _has_number(checkpoint: CheckpointFacts, metric: str) -> bool:
    """Tell whether a metric of a checkpoint is a single number, NaN or not."""
    return metric in checkpoint.metrics and isinstance(checkpoint.metrics[metric], (int, float, type(None)))


def superseded(checkpoints: Sequence[CheckpointFacts], keep: Keep) -> list[CheckpointFacts]:
    """The checkpoints whose files need not be kept: those neither among the best ones with files nor among the last.

    Empty where it is unknown which are the best: several best ones are to be kept but no primary metric was named, or
    no checkpoint with files has the primary metric as a number.
    """
    with_files = [item for item in checkpoints if item.manifest is not None]
    primary = primary_metric_of(checkpoints)
    if keep.best > 1 if primary is None else not any(_has_number(item, primary.name) for item in with_files):
        return []
    kept = {item.id for item in (*_ranked(with_files, primary)[: keep.best], *with_files[-keep.last :])}
    return [item for item in with_files if item.id not in kept]
