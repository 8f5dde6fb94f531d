"""Metrics of checkpoints as columns: which metric is meant, its values, and nested mappings laid flat.

Pure. Drawing them is in `plotting`, making data frames of them in `frames`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from replicate_core import records
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.records import CheckpointFacts
from replicate_core.values import Value

SHOWN = 10
"""So many names are listed in an error."""


class Columns(Mapping[str, "list[Value]"]):
    """The metrics of checkpoints: each name to one value per checkpoint, None for those that do not have it.

    Args:
        checkpoints: in the order of the values.
    """

    def __init__(self, checkpoints: Sequence[CheckpointFacts]) -> None:
        self._checkpoints = checkpoints
        self._names = list(dict.fromkeys(name for item in checkpoints for name in item.metrics))

    def __getitem__(self, name: str) -> list[Value]:
        """Values of one metric.

        Raises:
            NotFound: no checkpoint has it; the message lists those there are.
        """
        if name not in self._names:
            raise NotFound(f"no checkpoint here has the metric {name!r}{_instead(name, self._names)}")
        return [item.metrics.get(name) for item in self._checkpoints]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr({name: self[name] for name in self})


def choose(wanted: str | None, histories: Iterable[Sequence[CheckpointFacts]]) -> str:
    """The metric to draw.

    Args:
        wanted: its name; None: the primary metric, of the latest experiment that has any, or the only one there is.
        histories: the checkpoints of each experiment.

    Raises:
        NotFound: nothing has it.
        InvalidInput: it has no numbers; or none was named, and there is not just one.
    """
    histories = list(histories)
    everything = [item for history in histories for item in history]
    names = list(dict.fromkeys(name for item in everything for name in item.metrics))
    drawable = [name for name in names if any(number(item.metrics.get(name)) is not None for item in everything)]
    if wanted is not None:
        if wanted not in names:
            raise NotFound(f"no checkpoint here has the metric {wanted!r}{_instead(wanted, drawable)}")
        if wanted not in drawable:
            raise InvalidInput(f"the metric {wanted!r} is never a number, so it can't be drawn{_instead('', drawable)}")
        return wanted
    primary = [found.name for history in histories if (found := records.primary_metric_of(history)) is not None]
    if primary and primary[-1] in drawable:
        return primary[-1]
    if len(drawable) != 1:
        raise InvalidInput(f"there is no primary metric: name the metric to draw{_instead('', drawable)}")
    return drawable[0]


def _instead(name: str, names: Sequence[str]) -> str:
    if not names:
        return ": there is none"
    near = difflib.get_close_matches(name, names, n=3)
    shown = ", ".join(repr(known) for known in near or names[:SHOWN])
    more = "" if near or len(names) <= SHOWN else f" and {len(names) - SHOWN} more"
    return f": {'similar is' if near else 'there is'} {shown}{more}"


def number(value: object) -> float | None:
    """A value as something to draw; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number that no float can hold
        return math.inf if value > 0 else -math.inf


def points(metric: str, checkpoints: Iterable[CheckpointFacts]) -> tuple[list[int], list[float]]:
    """The steps of the checkpoints in which a metric is a number, and those numbers."""
    found = [(item.step, value) for item in checkpoints if (value := number(item.metrics.get(metric))) is not None]
    return [step for step, _ in found], [value for _, value in found]


def flat(mapping: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """A nested mapping as one: the names on the way to a value, joined by dots."""
    found: dict[str, Value] = {}
    for name, value in mapping.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
