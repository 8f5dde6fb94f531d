"""Records: the small immutable documents that a repository is a log of, and what they fold to.

Pure. The state of an experiment is never stored: it is what `fold` makes of its records, in the order of their keys.
Where records are stored is in `repository`; the objects that users hold are in `experiment` and `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Literal, NamedTuple, TypeAlias, get_args

from replicate_core.documents import FORMAT, expect_count, expect_list, expect_mapping, expect_text
from replicate_core.errors import Corrupted, InvalidInput
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


Record: TypeAlias = Created | Checkpointed | Edited | Resumed | Ended | Deleted

KINDS: Mapping[str, type[Record]] = {
    "created": Created,
    "checkpoints": Checkpointed,
    "edited": Edited,
    "resumed": Resumed,
    "ended": Ended,
    "deleted": Deleted,
}
"""The word for each kind of record, in keys and in documents."""


def kind(record: Record) -> str:
    """The word for the kind of a record."""
    return next(word for word, type_ in KINDS.items() if isinstance(record, type_))


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """What the records of one experiment say together."""

    created: Created
    checkpoints: tuple[CheckpointFacts, ...] = ()
    """In the order they were made; without those deleted or set aside by resuming."""
    ended: Ended | None = None
    resumed_from: str | None = None
    """The checkpoint that the experiment last went on from."""

    @property
    def manifests(self) -> tuple[str, ...]:
        """Keys of all manifests it refers to."""
        keys = (self.created.manifest, *(checkpoint.manifest for checkpoint in self.checkpoints))
        return tuple(key for key in keys if key is not None)


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


def _fold_one(records: Sequence[Record]) -> ExperimentState | None:
    created = next((record for record in records if isinstance(record, Created)), None)
    if created is None or any(isinstance(record, Deleted) and record.checkpoints is None for record in records):
        return None
    checkpoints: dict[str, CheckpointFacts] = {}
    gone: set[str] = set()
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
            case Created():  # pragma: no branch  # there is no other kind
                pass
    kept = tuple(checkpoint for key, checkpoint in checkpoints.items() if key not in gone)
    return ExperimentState(created, kept, ended, resumed_from)


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


# How records are written as plain data, and read back.


def encode(record: Record) -> Value:
    """A record as plain data, ready to be sealed."""
    plain: dict[str, Value] = {"kind": kind(record), "experiment": record.experiment}
    match record:
        case Created():
            plain |= {
                "created": time_text(record.created),
                "name": record.name,
                "tags": list(record.tags),
                "notes": record.notes,
                "params": dict(record.params),
                "user": record.user,
                "host": record.host,
                "command": record.command,
                "config": dict(record.config),
                "path": record.path,
                "python_version": record.python_version,
                "packages": dict(record.packages),
                "system": dict(record.system),
                "git": _encode_git(record.git),
                "replicate_version": record.replicate_version,
                "format": record.format,
                "resumed_from": record.resumed_from,
                "manifest": record.manifest,
                "size_bytes": record.size_bytes,
                "stored_bytes": record.stored_bytes,
            }
        case Checkpointed():
            plain["checkpoints"] = [_encode_checkpoint(item) for item in record.checkpoints]
        case Edited():
            plain |= {
                "name": record.name,
                "tags": None if record.tags is None else list(record.tags),
                "notes": record.notes,
            }
        case Resumed():
            plain |= {"created": time_text(record.created), "checkpoint": record.checkpoint}
        case Ended():
            plain |= {
                "created": time_text(record.created),
                "status": record.status,
                "error": record.error,
                "blocked_seconds": record.blocked_seconds,
            }
        case Deleted():  # pragma: no branch  # there is no other kind
            plain["checkpoints"] = None if record.checkpoints is None else list(record.checkpoints)
    return plain


def _encode_git(git: GitState | None) -> Value:
    return None if git is None else {"commit": git.commit, "branch": git.branch, "dirty": git.dirty}


def _encode_checkpoint(item: CheckpointFacts) -> Value:
    primary = item.primary_metric
    return {
        "id": item.id,
        "created": time_text(item.created),
        "step": item.step,
        "metrics": dict(item.metrics),
        "primary_metric": None if primary is None else {"name": primary.name, "goal": primary.goal},
        "path": item.path,
        "extra": dict(item.extra),
        "manifest": item.manifest,
        "size_bytes": item.size_bytes,
        "stored_bytes": item.stored_bytes,
    }


def decode(document: Value, *, key: str) -> Record | None:
    """Read a record from plain data; None for a kind that only later versions know.

    Raises:
        Corrupted: it is no record.
    """
    try:
        plain = expect_mapping(document)
        return _DECODERS[word](plain) if (word := expect_text(plain["kind"])) in _DECODERS else None
    except Corrupted as error:
        raise Corrupted(f"the record {key} can't be used: {error}") from None
    except (KeyError, ValueError) as error:
        raise Corrupted(f"the record {key} can't be understood: {type(error).__name__} {error}") from error


def _decode_created(plain: dict[str, Value]) -> Created:
    return Created(
        experiment=expect_text(plain["experiment"]),
        created=parse_time(plain["created"]),
        name=_optional_text(plain["name"]),
        tags=_texts(plain["tags"]),
        notes=_optional_text(plain["notes"]),
        params=expect_mapping(plain["params"]),
        user=_optional_text(plain["user"]),
        host=_optional_text(plain["host"]),
        command=_optional_text(plain["command"]),
        config=expect_mapping(plain["config"]),
        path=_optional_text(plain["path"]),
        python_version=_optional_text(plain["python_version"]),
        packages={name: expect_text(version) for name, version in expect_mapping(plain["packages"]).items()},
        system=expect_mapping(plain["system"]),
        git=_decode_git(plain["git"]),
        replicate_version=_optional_text(plain["replicate_version"]),
        format=expect_count(plain["format"]),
        resumed_from=_optional_text(plain["resumed_from"]),
        manifest=_optional_text(plain["manifest"]),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
    )


def _decode_git(value: Value) -> GitState | None:
    if value is None:
        return None
    plain = expect_mapping(value)
    dirty = plain["dirty"]
    return GitState(
        expect_text(plain["commit"]), _optional_text(plain["branch"]), dirty if isinstance(dirty, bool) else None
    )


def _decode_checkpoints(plain: dict[str, Value]) -> Checkpointed:
    items = (expect_mapping(item) for item in expect_list(plain["checkpoints"]))
    return Checkpointed(expect_text(plain["experiment"]), tuple(_decode_checkpoint(item) for item in items))


def _decode_checkpoint(plain: dict[str, Value]) -> CheckpointFacts:
    return CheckpointFacts(
        id=expect_text(plain["id"]),
        created=parse_time(plain["created"]),
        step=_whole_number(plain["step"]),
        metrics=expect_mapping(plain["metrics"]),
        primary_metric=_decode_primary_metric(plain["primary_metric"]),
        path=_optional_text(plain["path"]),
        extra=expect_mapping(plain["extra"]),
        manifest=_optional_text(plain["manifest"]),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
    )


def _decode_primary_metric(value: Value) -> PrimaryMetric | None:
    if value is None:
        return None
    plain = expect_mapping(value)
    return PrimaryMetric.parse((plain["name"], plain["goal"]))


def _decode_edited(plain: dict[str, Value]) -> Edited:
    return Edited(
        experiment=expect_text(plain["experiment"]),
        name=_optional_text(plain["name"]),
        tags=None if plain["tags"] is None else _texts(plain["tags"]),
        notes=_optional_text(plain["notes"]),
    )


def _decode_resumed(plain: dict[str, Value]) -> Resumed:
    return Resumed(expect_text(plain["experiment"]), parse_time(plain["created"]), _optional_text(plain["checkpoint"]))


def _decode_ended(plain: dict[str, Value]) -> Ended:
    blocked = plain["blocked_seconds"]
    if isinstance(blocked, bool) or not isinstance(blocked, (int, float)):
        raise Corrupted(f"{blocked!r} is no number of seconds")
    return Ended(
        experiment=expect_text(plain["experiment"]),
        created=parse_time(plain["created"]),
        status=_ending(plain["status"]),
        error=_optional_text(plain["error"]),
        blocked_seconds=blocked,
    )


def _decode_deleted(plain: dict[str, Value]) -> Deleted:
    checkpoints = plain["checkpoints"]
    return Deleted(expect_text(plain["experiment"]), None if checkpoints is None else _texts(checkpoints))


_DECODERS: Mapping[str, Callable[[dict[str, Value]], Record]] = {
    "created": _decode_created,
    "checkpoints": _decode_checkpoints,
    "edited": _decode_edited,
    "resumed": _decode_resumed,
    "ended": _decode_ended,
    "deleted": _decode_deleted,
}


def time_text(moment: datetime) -> str:
    """A moment as it is stored: ISO 8601 in UTC with microseconds, `2026-11-23T06:28:00.000000Z`."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(value: Value) -> datetime:
    """Read what `time_text` wrote; the result is in UTC."""
    text = expect_text(value)
    moment = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
    if moment.utcoffset() != timedelta(0):
        raise Corrupted(f"{text!r} is no time in UTC")
    return moment


def _optional_text(value: Value) -> str | None:
    return None if value is None else expect_text(value)


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(expect_text(item) for item in expect_list(value))


def _whole_number(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Corrupted(f"{value!r} is no whole number")
    return value


def _ending(value: Value) -> Ending:
    for ending in get_args(Ending):
        if value == ending:
            return ending  # type: ignore[no-any-return]  # get_args can't tell that its strings are Endings
    raise Corrupted(f"{value!r} is no status of an experiment that ended: {', '.join(get_args(Ending))}")
