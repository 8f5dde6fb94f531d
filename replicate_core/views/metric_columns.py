"""Metrics of checkpoints as columns: which metric is meant, its values, and nested mappings flattened.

Pure. `plotting` draws them, `dataframes` makes dataframes of them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from replicate_core.errors import InvalidInput, NotFound
from replicate_core.format import records
from replicate_core.format.records import CheckpointFacts
from replicate_core.format.values import Value

SHOWN = 10
"""Maximum number of names listed in an error."""


class Columns(Mapping[str, "list[Value]"]):
    """The metrics of checkpoints: name to one value per checkpoint, None for checkpoints without that metric.

    Names of nested metrics are joined by dots.

    Args:
        checkpoints: in the order of the values.
    """

    def __init__(self, checkpoints: Sequence[CheckpointFacts]) -> None:
        self._checkpoints = checkpoints
        self._names = _names_in(checkpoints)

    def __getitem__(self, name: str) -> list[Value]:
        """Values of one metric.

        Raises:
            NotFound: no checkpoint has it; the message lists those that exist.
        """
        if name not in self._names:
            raise NotFound(f"no checkpoint here has the metric {name!r}{_instead(name, self._names)}")
        return [value(name, item.metrics) for item in self._checkpoints]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr({name: self[name] for name in self})


def choose(wanted: str | None, histories: Iterable[Sequence[CheckpointFacts]]) -> str:
    """The metric to draw.

    Args:
        wanted: its name; None: the primary metric of the latest experiment that has one, else the only metric.
        histories: the checkpoints of each experiment.

    Raises:
        NotFound: no checkpoint has it.
        InvalidInput: it is never a number; or none was named, and there is no primary metric and not just one metric.
    """
    histories = list(histories)
    everything = [item for history in histories for item in history]
    names = _names_in(everything)
    drawable = [name for name in names if any(number(value(name, item.metrics)) is not None for item in everything)]
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


def _names_in(checkpoints: Iterable[CheckpointFacts]) -> list[str]:
    return list(dict.fromkeys(name for item in checkpoints for name in flat(item.metrics)))


def value(metric: str, metrics: Mapping[str, Value]) -> Value:
    """The value of a metric of a checkpoint; None if it has none. Names of nested metrics are joined by dots."""
    if metric in metrics or "." not in metric:
        return metrics.get(metric)
    return flat(metrics).get(metric)


def number(given: object) -> float | None:
    """A value as a float to draw; None if it is not a number."""
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return None
    try:
        return float(given)
    except OverflowError:  # a whole number that no float can hold
        return math.inf if given > 0 else -math.inf


def points(metric: str, checkpoints: Iterable[CheckpointFacts]) -> tuple[list[int], list[float]]:
    """The steps of the checkpoints where a metric is a number, and those numbers."""
    found = [(item.step, number(value(metric, item.metrics))) for item in checkpoints]
    drawn = [(step, height) for step, height in found if height is not None]
    return [step for step, _ in drawn], [height for _, height in drawn]


def flat(mapping: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """A nested mapping, flattened: the names that lead to a value are joined by dots."""
    found: dict[str, Value] = {}
    for name, inner in mapping.items():
        if isinstance(inner, dict) and inner:
            found |= flat(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = inner
    return found
