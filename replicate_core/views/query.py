"""Filters and sorts: which experiments are wanted and in what order, as a user types it.

Pure. A filter is `NAME OP VALUE`, such as `loss < 0.1`, `params.model.kind = mlp` or `created > 2 days ago`. A name is
looked up in this order: what every experiment has (`OWN_NAMES`); a metric of its best checkpoint, else its latest, as
`records.metrics_of` gives them; a param, with dots for nested names. The prefixes `metrics.` and `params.` say which
one is meant. Values of any types can be compared without an error: a filter leaves out experiments whose value can't be
compared, and a sort puts them last.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, get_args

from replicate_core.errors import InvalidInput
from replicate_core.format import records
from replicate_core.format.records import ExperimentState, Status
from replicate_core.format.values import Value


class Queryable(Protocol):
    """An experiment, as listings know it."""

    @property
    def state(self) -> ExperimentState:
        """What its records say."""

    @property
    def created(self) -> datetime:
        """When it began."""

    @property
    def status(self) -> Status:
        """Its status."""


Item = TypeVar("Item", bound=Queryable)
FieldValue: TypeAlias = "Value | datetime | tuple[str, ...]"
"""The value of a name for one experiment; None if it has nothing of that name. A tuple holds tags."""

Local: TypeAlias = Callable[[datetime], datetime]
"""Adds the user's time zone to a time that was typed without a zone."""

_FORM = re.compile(r"\s*(?P<name>[^<>=!]*[^<>=!\s])\s*(?P<op><=|>=|!=|==|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_SEVERAL = re.compile(r"(?:\s(?:and|or|&&|\|\|)\s|,)\s*[a-z_][\w.-]*\s*[<>=!]", re.IGNORECASE)
_OPERATOR = re.compile(r"[<>=!~]+(?:\s+[<>=!~]+)*")
_KNOWN_OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=")
_OPERATORS = "the operators are = != < <= > >="
_MEANT_OPERATORS = {"=>": ">=", "=<": "<=", "<>": "!=", "=!": "!=", "===": "=", "!==": "!="}
"""Operators of other languages, and mistyped ones, to what is meant."""
_STATUSES = get_args(Status)
_OPPOSITES = {"=": "!=", "!=": "="}
_ORDERS: dict[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS: dict[str, Value] = {
    "true": True, "false": False, "null": None, "none": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf,
}  # fmt: skip

_AGO = re.compile(r"(?P<count>\d{1,9}(\.\d{1,9})?|an?) ?(?P<unit>[a-z]+?)s?( ago)?")
_SECONDS: dict[str, float] = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86400),
    **dict.fromkeys(("w", "week"), 7 * 86400),
    **dict.fromkeys(("month",), 30 * 86400),
    **dict.fromkeys(("y", "year"), 365 * 86400),
}
_DATE = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
_CLOSE_NAMES = 3


def _last_step(known: Queryable) -> int | None:
    return known.state.checkpoints[-1].step if known.state.checkpoints else None


_OWN: dict[str, Callable[[Queryable], FieldValue]] = {
    "name": lambda known: known.state.created.name,
    "tag": lambda known: known.state.created.tags,
    "created": lambda known: known.created,
    "status": lambda known: known.status,
    "step": _last_step,
    "checkpoints": lambda known: len(known.state.checkpoints),
    "host": lambda known: known.state.created.host,
    "user": lambda known: known.state.created.user,
    "command": lambda known: known.state.created.command,
    "commit": lambda known: None if known.state.created.git is None else known.state.created.git.commit,
    "branch": lambda known: None if known.state.created.git is None else known.state.created.git.branch,
}
_OTHER_WORDS = {"started": "created", "tags": "tag"}

OWN_NAMES = tuple(_OWN)
"""What every experiment has."""


def is_own(name: str) -> bool:
    """Tell whether every experiment has something of that name."""
    return _OTHER_WORDS.get(name, name) in _OWN


def look_up(known: Queryable, name: str) -> FieldValue:
    """The value of a name for one experiment; None if it has nothing of that name."""
    own = _OWN.get(_OTHER_WORDS.get(name, name))
    if own is not None:
        return own(known)
    area, _, rest = name.partition(".")
    if area == "params" and rest and (param := _nested(known.state.created.params, rest)) is not None:
        return param
    if area == "metrics" and rest and (metric := _metric(known, rest)) is not None:
        return metric
    found = _metric(known, name)
    return _nested(known.state.created.params, name) if found is None else found


def _metric(known: Queryable, name: str) -> Value:
    found = (_nested(metrics, name) for metrics in records.metrics_of(known.state.checkpoints))
    return next((value for value in found if value is not None), None)


def _nested(mapping: Mapping[str, Value], name: str) -> Value:
    """The value of a name. If the mapping has no such name, dots in it separate the names of nested mappings."""
    if name in mapping:
        return mapping[name]
    for dot in (place for place, character in enumerate(name) if character == "."):
        inner = mapping.get(name[:dot])
        if isinstance(inner, dict) and (found := _nested(inner, name[dot + 1 :])) is not None:
            return found
    return None


class Span(NamedTuple):
    """A time as precise as it was typed: a day lasts from midnight to midnight, a moment has no length."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition, as it was typed."""

    name: str
    op: str
    text: str
    """The value as it was typed, without quotes around it."""
    value: Value
    """The parsed value: `0.1` is a number, `"0.1"` in quotes is a string."""
    span: Span | None = None
    """The value as a time, if times are compared."""

    def accepts(self, known: Queryable) -> bool:
        """Tell whether an experiment fulfils the condition."""
        found = look_up(known, self.name)
        if isinstance(found, datetime):
            assert self.span is not None, "parse_filter read it"
            return _compare_times(found, self.op, self.span)
        if self.op in _ORDERS:
            pair = _comparable(found, self)
            return pair is not None and _ORDERS[self.op](*pair)
        return self._equals(found) == (self.op == "=")

    def _equals(self, found: FieldValue) -> bool:
        if isinstance(found, tuple):
            return self.text in found if found or self.value is not None else True
        if isinstance(found, str) and found == self.text:
            return True
        pair = _comparable(found, self)
        if pair is not None:
            return bool(pair[0] == pair[1] or (pair[0] != pair[0] and pair[1] != pair[1]))  # NaN
        return type(found) is type(self.value) and found == self.value


def parse_filter(text: str, *, now: datetime, local: Local = datetime.astimezone) -> Filter:
    """Read a filter.

    Args:
        text: `NAME OP VALUE`; the operators are `=`, `!=`, `<`, `<=`, `>` and `>=`.
        now: the time that "2 days ago" is counted from, with a zone.
        local: see `Local`.

    Raises:
        InvalidInput: it has another form, or compares a time with something that is not a time.
    """
    form = _FORM.fullmatch(text)
    if form is None or form["value"].startswith(("<", "=", ">")) or not form["value"]:
        raise InvalidInput(f"the filter {text!r} {_explain_invalid(text)}")
    name, op, typed = form["name"], form["op"].replace("==", "="), form["value"]
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "\"'"
    plain = typed[1:-1] if quoted else typed
    if not quoted and name != "command" and _SEVERAL.search(plain):
        raise InvalidInput(
            f"the filter {text!r} holds more than one condition: give each one as a filter of its own, or put the "
            "value into quotes"
        )
    if (name, plain) == ("status", "stopped") and op in _OPPOSITES:  # Keepsake's word for everything that does not run
        op, plain = _OPPOSITES[op], "running"
    if name == "status" and op in ("=", "!=") and plain not in _STATUSES and _value(plain) is not None:
        near = difflib.get_close_matches(plain, _STATUSES, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(_STATUSES)}"
        raise InvalidInput(f"the filter {text!r} names an unknown status: {meant}")
    span = _span(plain, now, local) if _OTHER_WORDS.get(name, name) == "created" else None
    return Filter(name, op, plain, plain if quoted else _value(plain), span)


def _explain_invalid(text: str) -> str:
    """What is wrong with a filter that is not of the form NAME OP VALUE, and how to correct it."""
    found = _OPERATOR.search(text)
    if found is None:
        return f"is not of the form NAME OP VALUE, such as 'loss < 0.1' or 'status = running'; {_OPERATORS}"
    name, op, value = text[: found.start()].strip(), found[0], text[found.end() :].strip()
    if not name:
        return f"has no name before its {op!r}: write NAME OP VALUE, such as 'loss < 0.1'"
    if op not in _KNOWN_OPERATORS:
        meant = "".join(op.split())
        meant = _MEANT_OPERATORS.get(meant, meant)
        hint = f"did you mean '{name} {meant} {value}'?" if meant in _KNOWN_OPERATORS else _OPERATORS
        return f"has the unknown operator {op!r}: {hint}"
    return (
        f"has no value after its {op!r}: write NAME OP VALUE; '{name} {op} \"\"' compares with an empty string, "
        f"'{name} {op} null' with nothing at all"
    )


def _value(text: str) -> Value:
    """Parse a value: a number, a boolean, null or a list; else it is a string."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        read: Value = json.loads(text)
    except (ValueError, RecursionError):
        return _number(text) if _number(text) is not None else text
    return read


def _number(text: str) -> int | float | None:
    """The number that a string stands for, including `1e-3`, `.5` and `inf`; None if it is not a number."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return None


def _comparable(found: FieldValue, wanted: Filter) -> tuple[object, object] | None:
    """The two values to compare, as numbers, booleans or strings; None if they can't be compared."""
    value = wanted.value
    if isinstance(found, bool) or isinstance(value, bool):
        return (found, value) if isinstance(found, bool) and isinstance(value, bool) else None
    if isinstance(found, str):
        if not isinstance(value, (int, float)):
            return found, wanted.text
        found = _number(found)  # many scripts record numbers of their command line as strings
    if isinstance(found, (int, float)) and isinstance(value, (int, float)):
        return found, value
    return None


def _compare_times(found: datetime, op: str, span: Span) -> bool:
    within = span.start <= found < span.end or found == span.start
    if op in ("=", "!="):
        return within == (op == "=")
    if within:
        return op in ("<=", ">=")
    return (found < span.start) == (op in ("<", "<="))


def _span(text: str, now: datetime, local: Local) -> Span:
    """Parse a time.

    Raises:
        InvalidInput: the string is not a time.
    """
    try:
        found = _day(text.strip().lower(), now, local) or _moment(text.strip(), local)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise InvalidInput(
            f"{text!r} is not a time: write '2 days ago', 'today', 'yesterday', '2026-11-24', '2026-11' or "
            "'2026-11-24 09:30'"
        )
    return found


def _day(text: str, now: datetime, local: Local) -> Span | None:
    """Parse `now`, `today`, `2 days ago`, and whole days, months and years; None if it is something else."""
    if text == "now":
        return Span(now, now)
    if text in ("today", "yesterday"):
        here = local(now).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
        start = here - timedelta(days=text == "yesterday")
        return Span(local(start), local(start + timedelta(days=1)))
    if (ago := _AGO.fullmatch(text)) and ago["unit"] in _SECONDS:
        count = 1.0 if ago["count"].startswith("a") else float(ago["count"])
        moment = now - timedelta(seconds=count * _SECONDS[ago["unit"]])
        return Span(moment, moment)
    if date := _DATE.fullmatch(text):
        year, month, day = (None if part is None else int(part) for part in date.groups())
        start = datetime(year or 0, month or 1, day or 1)  # noqa: DTZ001  # `local` gives it its zone
        if day is not None:
            end = start + timedelta(days=1)
        elif month is not None:
            end = (start + timedelta(days=31)).replace(day=1)
        else:
            end = start.replace(year=start.year + 1)
        return Span(local(start), local(end))
    return None


def _moment(text: str, local: Local) -> Span:
    """Parse a date with a time, to the minute or to the second."""
    read = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    start = local(read) if read.tzinfo is None else read
    to_the_second = read.second or read.microsecond or text.count(":") - (read.tzinfo is not None) > 1
    return Span(start, start + timedelta(seconds=1 if to_the_second else 60))


@dataclass(frozen=True, slots=True)
class Order:
    """What experiments are sorted by."""

    name: str
    descending: bool = False


def parse_order(text: str) -> Order:
    """Read an order: `NAME`, or `NAME-desc` for the largest first.

    Raises:
        InvalidInput: there is no name.
    """
    name, _, way = text.strip().rpartition("-")
    order = Order(name, way == "desc") if name and way in ("asc", "desc") else Order(text.strip())
    if not order.name:
        raise InvalidInput("a sort needs the name of what to sort by, such as 'created', 'loss' or 'loss-desc'")
    return order


def arrange(items: Iterable[Item], order: Order) -> list[Item]:
    """Sort by type and value: numbers, booleans, strings, times, others. Missing values and NaN are always last."""
    found = [(_rank(look_up(item, order.name)), item) for item in items]
    ranked = [(rank, item) for rank, item in found if rank is not None]
    ranked.sort(key=operator.itemgetter(0), reverse=order.descending)
    return [item for _, item in ranked] + [item for rank, item in found if rank is None]


def _rank(found: FieldValue) -> tuple[int, object] | None:
    if found is None or found != found or found == ():  # noqa: PLR0124  # NaN
        return None
    if isinstance(found, bool):
        return 1, found
    if isinstance(found, (int, float)):
        return 0, found
    if isinstance(found, str):
        return 2, (found.casefold(), found)
    if isinstance(found, datetime):
        return 3, found
    return (4, found) if isinstance(found, tuple) else (5, json.dumps(found, sort_keys=True))


def select(
    items: Iterable[Item], filters: Iterable[str] = (), order: str | None = None, *, now: datetime
) -> list[Item]:
    """The experiments that fulfil every filter, sorted; without an order, as they came.

    Raises:
        InvalidInput: a filter or the order can't be read.
    """
    conditions = [parse_filter(text, now=now) for text in filters]
    chosen = [item for item in items if all(condition.accepts(item) for condition in conditions)]
    return chosen if order is None else arrange(chosen, parse_order(order))


def misnamed(items: Iterable[Queryable], filters: Iterable[str], order: str | None, *, now: datetime) -> list[str]:
    """Sentences about names in valid filters and a valid order that no experiment has."""
    items = list(items)
    names = [parse_filter(text, now=now).name for text in filters]
    names += [] if order is None else [parse_order(order).name]
    unknown = [
        name for name in dict.fromkeys(names) if not is_own(name) and all(look_up(item, name) is None for item in items)
    ]
    known = sorted({*OWN_NAMES, *(name for item in items for name in _names(item))}) if unknown else []
    close = {name: difflib.get_close_matches(name, known, _CLOSE_NAMES) for name in unknown}
    return [
        f"no experiment has {name!r}" + (f": did you mean {' or '.join(map(repr, near))}?" if near else "")
        for name, near in close.items()
    ]


def _names(known: Queryable) -> Iterable[str]:
    for metrics in records.metrics_of(known.state.checkpoints):
        yield from metrics
    yield from _paths(known.state.created.params)


def _paths(mapping: Mapping[str, Value]) -> Iterable[str]:
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _paths(value))
        else:
            yield name
