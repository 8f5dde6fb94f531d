"""What an adapter of a framework needs from the core: the contract for whoever writes another one.

An adapter is a package beside this one, `replicate_keras` say. It puts a framework's words into ours by its public
hooks, and imports from the core what the root promises and what is named here, nothing else. `__all__` is that
contract; it changes only with a fragment in `changes/`.

- The arguments that all callbacks share are checked by `check_*`: one message for all frameworks.
- An experiment begins with `prepare`, which also finds what to resume from; on other ranks with `join`.
- A file of the framework's is written beside its place by `written_ahead`, and moved there by `put_in_place`.
- What the user should know is said by `warn` where their call is at fault, else by `warn_only`, which no filter turns
  into the end of a training; `pass_over` names the packages between the user's line and ours.
"""

from __future__ import annotations

import copy
import math
import operator
import os
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from replicate_core.errors import InvalidInput
from replicate_core.experiment import Experiment, check_number
from replicate_core.format.records import PrimaryMetric
from replicate_core.format.values import is_number, plain
from replicate_core.machine.replacing import put_in_place, written_ahead
from replicate_core.recording.inputs import check_mapping
from replicate_core.starting import Prepared, join, prepare
from replicate_core.user_warnings import pass_over, warn, warn_only
from replicate_core.workspace import Workspace

__all__ = [
    "AUTO",
    "DEFAULT_OVERHEAD",
    "EPOCH",
    "Prepared",
    "check_experiment",
    "check_keep",
    "check_overhead",
    "check_params",
    "check_path",
    "check_period",
    "check_primary_metric",
    "check_resume",
    "check_template",
    "copy_for_training",
    "discard",
    "expand_template",
    "has_random_state",
    "is_number",
    "join",
    "pass_over",
    "plain",
    "prepare",
    "put_in_place",
    "warn",
    "warn_only",
    "whole_from_1",
    "written_ahead",
]

EPOCH = "epoch"
"""Of `save_freq`: at the end of epochs."""

AUTO = "auto"
"""Of `save_freq`: as often as `max_overhead` allows."""

DEFAULT_OVERHEAD = 0.05

_GENERATORS = frozenset({"Generator", "RandomState", "Random", "SeedGenerator"})
"""Classes of numpy, torch, Python and Keras."""


def check_path(path: str | os.PathLike[str]) -> None:
    """Make sure that a file at `path`, relative to the working directory, could be saved once it is there.

    Raises:
        InvalidInput: it lies outside of the project.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    Workspace().check_path(path)


def check_template(filepath: object, *, places: Sequence[str], example: str) -> str | None:
    """Check where files are to be saved, which may hold names to fill in; see `expand_template`.

    Args:
        filepath: as the user gave it; None saves none.
        places: what it may always name, whole numbers; everything else it names is a metric.
        example: of one that can be filled in, for the error.

    Raises:
        InvalidInput: it is not a path of a file of this machine, lies outside of the project, or can't be filled in.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    if filepath is None:
        return None
    if not isinstance(filepath, (str, os.PathLike)) or "://" in str(filepath):
        raise InvalidInput(f"filepath must be a path of this machine, in the project, or None, got {filepath!r}")
    path = os.fspath(filepath)
    if not path or path.endswith(("/", os.sep)):
        raise InvalidInput(f"filepath is {path!r}: give the name of a file, or None to save no files")
    check_path(path)
    try:
        expand_template(path, dict.fromkeys(places, 1))
    except (ValueError, LookupError, AttributeError) as error:
        raise InvalidInput(
            f"filepath {path!r} can't be filled in ({error}): name {' or '.join(places)} or metrics, as in {example!r}"
        ) from error
    return path


def check_params(params: object) -> dict[str, object]:
    """Check hyperparameters, of which there may be none. Raises `InvalidInput`."""
    return {} if params is None else dict(check_mapping("params", params))


def check_period(period: object, save_freq: object) -> int:
    """Check after every how many epochs to save. Raises `InvalidInput`."""
    if (number := whole_from_1(period)) is None:
        raise InvalidInput(f"period must be a number of epochs from 1, got {period!r}")
    if number != 1 and save_freq != EPOCH:
        raise InvalidInput(f'period counts epochs, for save_freq="epoch", got save_freq={save_freq!r}')
    return number


def check_primary_metric(pair: object) -> PrimaryMetric | None:
    """Check by what checkpoints are to be compared, which may be nothing.

    Raises:
        InvalidInput: it is no pair of a name and a goal; or names the place in a training, which is no metric.
    """
    primary = PrimaryMetric.parse(pair)
    if primary is not None and primary.name in ("epoch", "step"):
        raise InvalidInput(
            f"primary_metric names {primary.name!r}, by which no checkpoint is better than another. The last one is "
            "always kept, and keep_last=3 keeps the last three; leave primary_metric out, or name a metric"
        )
    return primary


def expand_template(filepath: str, values: Mapping[str, object]) -> str:
    """Fill in names, `"m-{epoch:02d}-{loss:.2f}"`; what is not there, or no number, becomes `nan`: it stops nothing."""
    names = {name for _, name, _, _ in string.Formatter().parse(filepath) if name is not None}
    if "" in names:
        raise ValueError("a pair of braces holds no name")
    found = {name: values.get(name) for name in names}
    return filepath.format(
        **{name: value if isinstance(value, (int, float)) else math.nan for name, value in found.items()}
    )


def whole_from_1(value: object) -> int | None:
    """The value, if it is a whole number from 1 of any library, such as `np.int64`; else None."""
    with suppress(TypeError):
        if not isinstance(value, bool) and (number := operator.index(value)) > 0:  # type: ignore[arg-type]  # raises
            return number
    return None


def check_overhead(max_overhead: float | None, save_freq: object) -> float:
    """Check which share of the time saving may take. Raises `InvalidInput`."""
    if max_overhead is None:
        return DEFAULT_OVERHEAD
    if save_freq != AUTO:
        raise InvalidInput(f'max_overhead says when to save with save_freq="auto", got save_freq={save_freq!r}')
    if isinstance(max_overhead, bool) or not isinstance(max_overhead, (int, float)) or not 0 < max_overhead < 1:
        raise InvalidInput(f"max_overhead must be a share of the time between 0 and 1, got {max_overhead!r}")
    return float(max_overhead)


def check_keep(best: int | None, last: int | None, primary_metric: PrimaryMetric | None) -> dict[str, int]:
    """Check of how many checkpoints the files are to be kept; nothing stands for all.

    Raises:
        InvalidInput: a number can't be taken, or by what the best are the best is said neither here nor in the project.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    given = {name: number for name, number in (("best", best), ("last", last)) if number is not None}
    for name, number in given.items():
        check_number(f"keep_{name}", number)
    if best is not None and primary_metric is None and Workspace().config.primary_metric is None:
        raise InvalidInput(
            "keep_best needs primary_metric, here or in replicate.yaml: by what would one be better than another?"
        )
    return given


def check_experiment(experiment: object) -> None:
    """Check what is to be recorded into, if anything. Raises `InvalidInput`."""
    if experiment is not None and not isinstance(experiment, Experiment):
        raise InvalidInput(f"experiment must be one that replicate.init has returned, got {experiment!r}")


def has_random_state(thing: object) -> bool:
    """Tell whether an object holds a random generator of its own, such as `numpy.random.default_rng()`.

    What it draws depends on all that was drawn before, and no global seed says what that is.
    """
    attributes = getattr(thing, "__dict__", {})
    return any(type(value).__name__ in _GENERATORS for value in attributes.values())


def discard(experiment: Experiment) -> bool:
    """End an experiment whose training failed before it began, and leave nothing of it; tells whether that was so.

    It is left alone where something was recorded in it, where it was resumed, and in a process that does not record it.
    """
    return experiment._discard()  # noqa: SLF001  # it is ours


def copy_for_training(original: Any, memo: dict[int, Any], *, given: Experiment | None) -> Any:
    """The deep copy of a callback or logger, for another training of this process: it lacks what is not pickled.

    Args:
        original: it, with a `__getstate__`.
        memo: of `__deepcopy__`.
        given: the experiment that the user gave it to record into, which is not copied; None: the copy begins its own.
    """
    of: Any = type(original)
    copied = of.__new__(of)
    memo[id(original)] = copied
    vars(copied).update(copy.deepcopy(original.__getstate__(), memo))
    copied.experiment = given
    return copied


def check_resume(resume: object, experiment: object) -> None:
    """Check what is to be resumed, and that nothing else says so. Raises `InvalidInput`."""
    if resume is not None and (not isinstance(resume, str) or not resume):
        raise InvalidInput(f'resume must be "auto" or how the id of an experiment or checkpoint begins, got {resume!r}')
    check_experiment(experiment)
    if resume is not None and experiment is not None:
        raise InvalidInput("give resume to replicate.init, where the experiment was begun, or no experiment")
