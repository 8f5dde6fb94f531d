"""How values, sizes and durations are shown, in terminals and notebooks: as plain text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta


def value(shown: object, *, characters: int | None) -> str:
    """A param or metric for people: floats with 5 significant digits, long values cut to `characters`."""
    if isinstance(shown, float):
        return f"{shown:.5g}"
    if shown is None or isinstance(shown, (bool, int)):
        return json.dumps(shown)
    return cut(shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False), characters)


def cut(text: str, characters: int | None) -> str:
    """The first `characters` of a string; all of it if None."""
    return text if characters is None or len(text) <= characters else text[: characters - 1] + "…"


def pairs(mapping: Mapping[str, object], *, characters: int | None) -> str:
    """Names and values, one pair per line; for the values see `value`."""
    return "\n".join(f"{name}={value(item, characters=characters)}" for name, item in mapping.items())


def elapsed(passed: timedelta) -> str:
    """A duration in hours, minutes and whole seconds: `1:02:03`."""
    return str(passed).partition(".")[0]


def size(count: int) -> str:
    """A number of bytes for people: `1.5 GB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"


NAMED = 3
"""Maximum number of files named in a warning."""


def first_few(texts: Sequence[str]) -> str:
    """The first `NAMED` of these, and how many more there are."""
    more = f", and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def count(number: int, what: str) -> str:
    """A number with its noun: `1 job`, `1,000 jobs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
