"""Parsing the documents of Keepsake 0.4 and of the first replicate (2020) into our records.

This module is pure. A document may come from anyone, so everything in it is checked. Nothing is guessed: what is
missing or can't be imported becomes a note for the user. `importer` knows where the documents and the files are.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.format.ids import is_id, short
from replicate_core.format.manifest import path_problem
from replicate_core.format.records import CheckpointFacts, Created, PrimaryMetric
from replicate_core.format.sealed import expect_list, expect_mapping, expect_text, what_is_wrong
from replicate_core.format.values import Value, plain
from replicate_core.redaction import redact, redact_command, without_credentials

VERSION = 1
"""The version in `repository.json` that Keepsake 0.4 wrote; there was no other."""

_FLOATS = {"[NaN]": math.nan, "[+Infinity]": math.inf, "[-Infinity]": -math.inf}
"""How Keepsake wrote the floats that JSON can't represent."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")

_EXPERIMENT_FIELDS = frozenset(
    {
        "id", "created", "params", "host", "user", "config", "command", "path", "python_version", "python_packages",
        "checkpoints", "keepsake_version", "replicate_version",
    }
)  # fmt: skip
_CHECKPOINT_FIELDS = frozenset(
    {"id", "created", "experiment_id", "metrics", "labels", "step", "path", "primary_metric"}
)


@dataclass(frozen=True, slots=True)
class OldExperiment:
    """An experiment as its documents describe it, without its files and those of its checkpoints."""

    created: Created
    checkpoints: tuple[CheckpointFacts, ...]
    """In the order they were made."""
    notes: tuple[str, ...]
    """What could not be imported unchanged."""
    damages: tuple[str, ...] = ()
    """The checkpoints that are missing because their own documents can't be read, one message each."""


def load(data: bytes, *, key: str) -> dict[str, Value]:
    """Read a document.

    Raises:
        Corrupted: it is not a JSON object.
    """
    try:
        return expect_mapping(_with_floats(expect_mapping(plain(json.loads(data.decode()), name=key))))
    except (Corrupted, ValueError, RecursionError) as error:
        raise Corrupted(f"{key} can't be understood: {error}") from error


def _with_floats(value: Value) -> Value:
    if isinstance(value, str):
        return _FLOATS.get(value, value)
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_floats(item) for name, item in value.items()}
    return value


def heartbeat(document: Mapping[str, Value], *, key: str) -> datetime:
    """The time of the last heartbeat of an experiment.

    Raises:
        Corrupted: the document has no valid time.
    """
    try:
        return _time(document["last_heartbeat"])
    except (Corrupted, KeyError, ValueError) as error:
        raise Corrupted(f"{key} can't be understood: {what_is_wrong(error)}") from error


def owner(document: Mapping[str, Value], *, key: str) -> str:
    """The id of the experiment of a checkpoint from 2020, when each checkpoint had a document of its own.

    Raises:
        Corrupted: the document has no valid id.
    """
    found = document.get("experiment_id")
    if not is_id(found):
        raise Corrupted(f"{key} names no experiment: its experiment_id is {found!r}")
    return expect_text(found)


def experiment(
    document: Mapping[str, Value], separate: Iterable[Mapping[str, Value]], *, key: str, url: str
) -> OldExperiment:
    """Parse the documents of an experiment.

    Args:
        document: the document of the experiment; Keepsake put the checkpoints in it, too.
        separate: the documents of its checkpoints, which had documents of their own in 2020.
        key: the key of the document, for errors.
        url: the URL of the repository, without credentials.

    Raises:
        Corrupted: the document can't be understood, for example because it lacks the id or the start time.
    """
    try:
        return _experiment(document, separate, url)
    except (Corrupted, InvalidInput, KeyError, ValueError) as error:
        raise Corrupted(f"{key} can't be understood: {what_is_wrong(error)}") from error


def _experiment(document: Mapping[str, Value], separate: Iterable[Mapping[str, Value]], url: str) -> OldExperiment:
    notes = _unknown(document, _EXPERIMENT_FIELDS, "the experiment")
    program = "replicate" if "keepsake_version" not in document else "keepsake"
    config = _redacted(document.get("config") or {})
    packages = expect_mapping(document.get("python_packages") or {})
    created = Created(
        experiment=_id(document["id"]),
        created=_time(document["created"]),
        params=expect_mapping(document.get("params") or {}),
        user=_text(document.get("user")),
        host=_text(document.get("host")),
        command=None if (command := _text(document.get("command"))) is None else _redacted_command(command),
        config={
            "imported": {"from": url, "program": program, "version": _text(document.get(f"{program}_version"))},
            **expect_mapping(config),
        },
        path=_path(document.get("path"), "the experiment", notes),
        python_version=_text(document.get("python_version")),
        packages={name: expect_text(version) for name, version in packages.items()},
    )
    inline = [expect_mapping(item) for item in expect_list(document.get("checkpoints") or [])]
    problems = [(item, _problem(item)) for item in separate]
    damages = tuple(problem for _, problem in problems if problem is not None)
    readable = [item for item, problem in problems if problem is None]
    checkpoints: dict[str, CheckpointFacts] = {}
    for number, item in enumerate(_in_order([*inline, *readable])):
        facts = _checkpoint(item, number, _goals(config), notes)
        checkpoints.setdefault(facts.id, facts)
    return OldExperiment(created, tuple(checkpoints.values()), tuple(notes), damages)


def _problem(document: Mapping[str, Value]) -> str | None:
    """Why a checkpoint that has a document of its own can't be imported; None if it can."""
    try:
        _checkpoint(document, 0, {}, [])
    except (Corrupted, InvalidInput, KeyError, ValueError) as error:
        return (
            f"the document of the checkpoint {document.get('id')!r} can't be understood, so it is missing here: "
            f"{what_is_wrong(error)}"
        )
    return None


def _in_order(documents: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
    """Sort checkpoints by time: those of 2020 are listed by their random names. The sort is stable."""
    return sorted(documents, key=lambda document: _time(document["created"]))


def _checkpoint(
    document: Mapping[str, Value], number: int, goals: Mapping[str, PrimaryMetric], notes: list[str]
) -> CheckpointFacts:
    identifier = _id(document["id"])
    what = f"the checkpoint {short(identifier)}"
    notes += _unknown(document, _CHECKPOINT_FIELDS, what)
    metrics = expect_mapping(document.get("metrics") or document.get("labels") or {})
    step = document.get("step")
    return CheckpointFacts(
        id=identifier,
        created=_time(document["created"]),
        step=step if isinstance(step, int) and not isinstance(step, bool) else number,
        metrics=metrics,
        primary_metric=_primary_metric(document.get("primary_metric"), goals, metrics, what, notes),
        path=_path(document.get("path"), what, notes),
    )


def _goals(config: Value) -> dict[str, PrimaryMetric]:
    """The metrics that a config of 2020 marks as primary, by name: its checkpoints did not name theirs."""
    listed = expect_mapping(config).get("metrics")
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    marked = [(item.get("name"), item.get("goal")) for item in items if item.get("primary") is True]
    goals: dict[str, PrimaryMetric] = {}
    for name, goal in marked:
        with suppress(InvalidInput):
            goals[str(name)] = PrimaryMetric.of(str(name), goal)
    return goals


def _primary_metric(
    value: Value, goals: Mapping[str, PrimaryMetric], metrics: Mapping[str, Value], what: str, notes: list[str]
) -> PrimaryMetric | None:
    if value is None:
        return next((goals[name] for name in metrics if name in goals), None)
    pair = expect_mapping(value)
    try:
        return PrimaryMetric.of(pair.get("name"), pair.get("goal"))
    except InvalidInput:
        notes.append(f"the primary metric of {what} is left out: {dict(pair)} is not a metric and a goal")
        return None


def _path(value: Value, what: str, notes: list[str]) -> str | None:
    text = _text(value)
    if text is None:
        return None
    path = posixpath.normpath(text)
    if path != "." and (problem := path_problem(path)):
        notes.append(f"the path of {what} is recorded as '.': {text!r} {problem}")
        return "."
    return path


def _unknown(document: Mapping[str, Value], known: frozenset[str], what: str) -> list[str]:
    return [
        f"the field {name!r} of {what} is left out: its meaning is not known" for name in document if name not in known
    ]


def _redacted(value: Value) -> Value:
    """A config, without credentials."""
    if isinstance(value, str):
        return without_credentials(value) if "://" in value else redact(value)
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    return value


def _redacted_command(line: str) -> str:
    try:
        return redact_command(shlex.split(line))
    except ValueError:  # an unclosed quote
        return redact(line)


def _time(value: Value) -> datetime:
    """Parse a time in UTC; Keepsake wrote nanoseconds."""
    found = _TIME.fullmatch(expect_text(value))
    if found is None:
        raise Corrupted(f"{value!r} is not a time in UTC")
    microseconds = int((found[2] or "")[:6].ljust(6, "0"))
    return datetime.fromisoformat(found[1]).replace(microsecond=microseconds, tzinfo=timezone.utc)


def _id(value: Value) -> str:
    if not is_id(value):
        raise Corrupted(f"{value!r} is not an id")
    return expect_text(value)


def _text(value: Value) -> str | None:
    """A string, or None if it is missing or empty."""
    return expect_text(value) or None if value is not None else None
