"""User input that is recorded: checked and converted, with a warning if it looks like a mistake."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from replicate_core import user_warnings
from replicate_core.errors import InvalidInput
from replicate_core.format.records import (
    CheckpointFacts,
    PrimaryMetric,
)
from replicate_core.format.sealed import COUNT_MAX
from replicate_core.format.values import Value, plain
from replicate_core.formatting import NAMED
from replicate_core.machine.names import given_name
from replicate_core.redaction import REDACTED

MISTYPED = 0.85
"""Minimum similarity of a mistyped name to the right one: `val_los` is similar enough to `val_loss`, `loss` is not."""

SHOWN_CHARACTERS = 60
"""Maximum number of characters of a value in a warning."""


def check_mapping(name: str, value: object) -> Mapping[str, object]:
    """Check that what a user gave is a dictionary: params, metrics. Raises `InvalidInput`."""
    if not isinstance(value, Mapping):
        hint = ". Did you mean vars(...)?" if hasattr(value, "__dict__") else ""
        raise InvalidInput(f"{name} must be a dictionary, got {type(value).__name__}{hint}")
    return value


def mapping(name: str, value: object) -> dict[str, Value]:
    """Check and convert a dictionary that a user gave: params, metrics.

    Raises:
        InvalidInput: it is not a dictionary, or holds something that can't be recorded.
    """
    converted = plain(check_mapping(name, value), name=name)
    assert isinstance(converted, dict), "a mapping is converted to a dictionary"
    return converted


def warn_of_secrets(found: Sequence[str]) -> None:
    """Warn about the secrets that were taken out of what is recorded, if there were any."""
    if not found:
        return
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    user_warnings.warn(
        f"secrets are not recorded: {', '.join(found[:NAMED])}{more}: {REDACTED} is recorded instead, because "
        "anyone who can read the storage could read them. If they are not secrets, write `redact: off` into "
        "replicate.yaml"
    )


def text(what: str, value: object) -> str:
    """Check a string that a user gave: a name, a tag.

    Raises:
        InvalidInput: it is not a string, or it is empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{what} must be a non-empty string, got {value!r}")
    return str(plain(value, name=what))


def labels(tags: object) -> tuple[str, ...]:
    """Check tags as a user gave them. A tag that is given twice counts once.

    Raises:
        InvalidInput: they are not a list of strings.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags must be a list of strings, got {tags!r}")
    return tuple(dict.fromkeys(text("a tag", tag) for tag in tags))


def checked_step(step: object) -> int:
    """Check a step that a user gave; 0 for None. Raises `InvalidInput`."""
    if step is None:
        return 0
    try:
        number = None if isinstance(step, bool) else operator.index(step)  # type: ignore[arg-type]  # np.int64 is one
    except TypeError:
        number = None
    if number is None:
        raise InvalidInput(f"step must be a whole number, got {step!r}")
    if abs(number) > COUNT_MAX:
        raise InvalidInput(f"step must be a whole number up to {COUNT_MAX}, got a larger one")
    return number


def warn_of_missing(primary: PrimaryMetric | None, metrics: Mapping[str, Value]) -> None:
    """Warn about a primary metric that is not among the metrics."""
    if primary is not None and primary.name not in metrics:
        near = difflib.get_close_matches(primary.name, metrics, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(metrics) or "none"
        user_warnings.warn(
            f"the primary metric {primary.name!r} is not among the metrics ({known}){hint}: the checkpoint is "
            "recorded, and best() will ignore it"
        )


def shortened(value: Value) -> str:
    """A value as a warning shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def warn_of_unranked(facts: CheckpointFacts) -> None:
    """Warn if the best checkpoints are to be kept, but no primary metric says which they are."""
    if facts.keep is not None and facts.keep.best > 1 and facts.primary_metric is None:
        user_warnings.warn(
            f"all files are kept, not those of the best {facts.keep.best} checkpoints: without a "
            "primary metric, none is better than another"
        )


def warn_of_mistyped(primary: str, metrics: Mapping[str, Value]) -> None:
    """Warn if the metrics lack the primary metric of `replicate.yaml`, but have one with a similar name.

    Not every checkpoint needs the primary metric, so there is no warning without a similar name.
    """
    near = _nearly(primary, tuple(metrics))
    if near is not None:
        user_warnings.warn(
            f"replicate.yaml marks {primary!r} as primary, which is not among the metrics: did you mean {near!r}?"
        )


@lru_cache(maxsize=64)  # the metrics of every step have the same names
def _nearly(name: str, names: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=MISTYPED)), None)


def check_inside(base: Path, root: Path, path: str | os.PathLike[str]) -> Path:
    """The absolute form of a path that must lie inside the project directory, whether it exists yet or not.

    Args:
        base: the directory that a relative path starts from.
        root: the project directory, resolved.
        path: as a user gave it.

    Raises:
        InvalidInput: it is empty, or outside of the project directory.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInput(f"path is {text!r}: give a file or directory of the project, or None to save no files")
    given = Path(os.path.normpath(base / given_name(text)))
    resolved = given.parent.resolve() / given.name
    if not resolved.is_relative_to(root):
        raise InvalidInput(
            f"path {text!r} lies outside of the project {root}: save into the project, or put a replicate.yaml into a "
            "directory above both"
        )
    return resolved


def existing_inside(base: Path, root: Path, path: str | os.PathLike[str]) -> Path:
    """Like `check_inside`, for a path that must exist."""
    inside = check_inside(base, root, path)
    try:
        if not inside.exists():
            raise InvalidInput(f"path {os.fspath(path)!r} does not exist{_similar(inside)}")
        if not inside.resolve().is_relative_to(root):
            raise InvalidInput(
                f"path {os.fspath(path)!r} is a link to {inside.resolve()}, outside of the project {root}"
            )
    except OSError as error:
        raise InvalidInput(f"path {os.fspath(path)!r} can't be looked up: {error.strerror}") from error
    return inside


def _similar(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f": there is no directory {path.parent}"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    found = ", ".join(near or names[:10]) or "nothing"
    return f" in {path.parent}; {'similar is' if near else 'there is'}: {found}"
