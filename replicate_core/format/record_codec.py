"""How records are written as plain data, and read back, checked as untrusted input.

Pure. `records` says what they mean, and what they fold to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import get_args

from replicate_core.errors import Corrupted
from replicate_core.format.ids import is_id
from replicate_core.format.keys import is_manifest_key, record_name
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Deleted,
    Edited,
    Ended,
    Ending,
    GitState,
    Keep,
    PrimaryMetric,
    Record,
    Released,
    Repacked,
    Restored,
    Resumed,
)
from replicate_core.format.sealed import (
    expect_count,
    expect_list,
    expect_mapping,
    expect_text,
    unseal_under,
    what_is_wrong,
)
from replicate_core.format.values import DEPTH_READ_MAX, Value, is_deeper

_YEARS = (1970, 9000)
"""First and last year of a recorded time: times beyond can't be shown in every time zone."""

KINDS: Mapping[str, type[Record]] = {
    "created": Created,
    "checkpoints": Checkpointed,
    "edited": Edited,
    "resumed": Resumed,
    "ended": Ended,
    "deleted": Deleted,
    "released": Released,
    "repacked": Repacked,
    "restored": Restored,
}
"""The type of each kind of record, by its name in keys and documents."""


def kind(record: Record) -> str:
    """The name of a record's kind."""
    return next(word for word, type_ in KINDS.items() if isinstance(record, type_))


def encode(record: Record) -> dict[str, Value]:
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
                **_encode_lacks(record.lacks),
            }
        case Checkpointed():
            plain |= {
                "checkpoints": [_encode_checkpoint(item) for item in record.checkpoints],
                "session": record.session,
            }
        case Edited():
            plain |= {
                "name": record.name,
                "tags": None if record.tags is None else list(record.tags),
                "notes": record.notes,
            }
        case Resumed():
            plain |= {
                "created": time_text(record.created),
                "session": record.session,
                "previous": record.previous,
                "checkpoint": record.checkpoint,
                "path": record.path,
                "manifest": record.manifest,
                "size_bytes": record.size_bytes,
                "stored_bytes": record.stored_bytes,
                "adds": record.adds,
            }
        case Ended():
            plain |= {
                "created": time_text(record.created),
                "status": record.status,
                "error": record.error,
                "blocked_seconds": record.blocked_seconds,
                "session": record.session,
            }
        case Deleted():
            plain["checkpoints"] = None if record.checkpoints is None else list(record.checkpoints)
        case Released():
            plain["checkpoints"] = list(record.checkpoints)
        case Repacked():
            plain["manifests"] = dict(record.manifests)
        case Restored():  # pragma: no branch  # there is no other kind
            plain |= {
                "checkpoint": record.checkpoint,
                "manifest": record.manifest,
                "size_bytes": record.size_bytes,
                "stored_bytes": record.stored_bytes,
            }
    return plain


def _encode_lacks(why: str | None) -> dict[str, Value]:
    """The field `lacks`, which is written only for something that was imported without its files."""
    return {} if why is None else {"lacks": why}


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
        "keep": None if item.keep is None else {"best": item.keep.best, "last": item.keep.last},
        **_encode_lacks(item.lacks),
    }


def read(key: str, data: bytes) -> Record | None:
    """Read a record as it is stored; None for a kind that only later versions know.

    Raises:
        Corrupted: it is damaged, is not a record, or is not the one that its key names.
    """
    document = unseal_under(key, data)
    said = document.get("experiment"), document.get("kind")
    if (name := record_name(key)) is None or (name.experiment, name.kind) != said:
        raise Corrupted(
            f"the record {key} holds one of kind {said[1]!r} of the experiment {said[0]!r}: it was copied or moved "
            "there. Restore it from a copy of the repository"
        )
    return decode(document, key=key)


def decode(document: Value, *, key: str) -> Record | None:
    """Read a record from plain data; None for a kind that only later versions know.

    Raises:
        Corrupted: it is not a record.
    """
    try:
        plain = expect_mapping(document)
        return _DECODERS[word](plain) if (word := expect_text(plain["kind"])) in _DECODERS else None
    except Corrupted as error:
        raise Corrupted(f"the record {key} can't be used: {error}") from None
    except (KeyError, ValueError) as error:
        raise Corrupted(f"the record {key} can't be understood: {what_is_wrong(error)}") from error


def _decode_created(plain: dict[str, Value]) -> Created:
    return Created(
        experiment=_id(plain["experiment"]),
        created=parse_time(plain["created"]),
        name=_optional_text(plain["name"]),
        tags=_texts(plain["tags"]),
        notes=_optional_text(plain["notes"]),
        params=_values(plain["params"]),
        user=_optional_text(plain["user"]),
        host=_optional_text(plain["host"]),
        command=_optional_text(plain["command"]),
        config=_values(plain["config"]),
        path=_optional_text(plain["path"]),
        python_version=_optional_text(plain["python_version"]),
        packages={name: expect_text(version) for name, version in expect_mapping(plain["packages"]).items()},
        system=_values(plain["system"]),
        git=_decode_git(plain["git"]),
        replicate_version=_optional_text(plain["replicate_version"]),
        format=expect_count(plain["format"]),
        resumed_from=_optional_text(plain["resumed_from"]),
        manifest=_manifest_key(plain["manifest"]),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
        lacks=_optional_text(plain.get("lacks")),
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
    checkpoints = tuple(_decode_checkpoint(item) for item in items)
    return Checkpointed(_id(plain["experiment"]), checkpoints, _session(plain.get("session")))


def _decode_checkpoint(plain: dict[str, Value]) -> CheckpointFacts:
    return CheckpointFacts(
        id=_id(plain["id"]),
        created=parse_time(plain["created"]),
        step=_whole_number(plain["step"]),
        metrics=_values(plain["metrics"]),
        primary_metric=_decode_primary_metric(plain["primary_metric"]),
        path=_optional_text(plain["path"]),
        extra=_values(plain["extra"]),
        manifest=_manifest_key(plain["manifest"]),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
        keep=_decode_keep(plain.get("keep")),
        lacks=_optional_text(plain.get("lacks")),
    )


def _decode_keep(value: Value) -> Keep | None:
    if value is None:
        return None
    plain = expect_mapping(value)
    return Keep(expect_count(plain["best"]), expect_count(plain["last"]))


def _decode_primary_metric(value: Value) -> PrimaryMetric | None:
    if value is None:
        return None
    plain = expect_mapping(value)
    return PrimaryMetric.parse((plain["name"], plain["goal"]))


def _decode_edited(plain: dict[str, Value]) -> Edited:
    return Edited(
        experiment=_id(plain["experiment"]),
        name=_optional_text(plain["name"]),
        tags=None if plain["tags"] is None else _texts(plain["tags"]),
        notes=_optional_text(plain["notes"]),
    )


def _decode_resumed(plain: dict[str, Value]) -> Resumed:
    return Resumed(
        experiment=_id(plain["experiment"]),
        created=parse_time(plain["created"]),
        session=_id(plain["session"]),
        previous=_session(plain["previous"]),
        checkpoint=_optional_text(plain["checkpoint"]),
        path=_optional_text(plain["path"]),
        manifest=_manifest_key(plain["manifest"]),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
        adds=plain.get("adds") is True,
    )


def _decode_ended(plain: dict[str, Value]) -> Ended:
    blocked = plain["blocked_seconds"]
    if isinstance(blocked, bool) or not isinstance(blocked, (int, float)):
        raise Corrupted(f"{blocked!r} is not a number of seconds")
    return Ended(
        experiment=_id(plain["experiment"]),
        created=parse_time(plain["created"]),
        status=_ending(plain["status"]),
        error=_optional_text(plain["error"]),
        blocked_seconds=blocked,
        session=_session(plain.get("session")),
    )


def _decode_deleted(plain: dict[str, Value]) -> Deleted:
    checkpoints = plain["checkpoints"]
    return Deleted(_id(plain["experiment"]), None if checkpoints is None else _texts(checkpoints))


def _decode_released(plain: dict[str, Value]) -> Released:
    return Released(_id(plain["experiment"]), _texts(plain["checkpoints"]))


def _decode_repacked(plain: dict[str, Value]) -> Repacked:
    manifests = {old: expect_text(_manifest_key(new)) for old, new in expect_mapping(plain["manifests"]).items()}
    return Repacked(_id(plain["experiment"]), manifests)


def _decode_restored(plain: dict[str, Value]) -> Restored:
    return Restored(
        experiment=_id(plain["experiment"]),
        checkpoint=None if plain["checkpoint"] is None else _id(plain["checkpoint"]),
        manifest=expect_text(_manifest_key(plain["manifest"])),
        size_bytes=expect_count(plain["size_bytes"]),
        stored_bytes=expect_count(plain["stored_bytes"]),
    )


_DECODERS: Mapping[str, Callable[[dict[str, Value]], Record]] = {
    "created": _decode_created,
    "checkpoints": _decode_checkpoints,
    "edited": _decode_edited,
    "resumed": _decode_resumed,
    "ended": _decode_ended,
    "deleted": _decode_deleted,
    "released": _decode_released,
    "repacked": _decode_repacked,
    "restored": _decode_restored,
}


def time_text(moment: datetime) -> str:
    """A time as it is stored: ISO 8601 in UTC with microseconds, `2026-11-23T06:28:00.000000Z`."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(value: Value) -> datetime:
    """Read what `time_text` wrote; the result is in UTC."""
    text = expect_text(value)
    moment = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
    if moment.utcoffset() != timedelta(0) or not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise Corrupted(f"{text!r} is not a time in UTC between {_YEARS[0]} and {_YEARS[1]}")
    return moment


def _id(value: Value) -> str:
    if not is_id(value):
        raise Corrupted(f"{value!r} is not an id")
    return expect_text(value)


def _session(value: Value) -> str | None:
    return None if value is None else _id(value)


def _manifest_key(value: Value) -> str | None:
    if value is not None and not is_manifest_key(expect_text(value)):
        raise Corrupted(f"{value!r} is not a key of a manifest")
    return _optional_text(value)


def _values(value: Value) -> dict[str, Value]:
    """The user's own values, of any shape."""
    if is_deeper(value, DEPTH_READ_MAX):
        raise Corrupted(f"values are nested deeper than {DEPTH_READ_MAX} levels")
    return expect_mapping(value)


def _optional_text(value: Value) -> str | None:
    return None if value is None else expect_text(value)


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(expect_text(item) for item in expect_list(value))


def _whole_number(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Corrupted(f"{value!r} is not a whole number")
    return value


def _ending(value: Value) -> Ending:
    for ending in get_args(Ending):
        if value == ending:
            return ending  # type: ignore[no-any-return]  # get_args can't tell that its strings are Endings
    raise Corrupted(f"{value!r} is not a status of an experiment that ended: {', '.join(get_args(Ending))}")
