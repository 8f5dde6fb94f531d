"""The contract between the core and the adapters of frameworks.

An adapter is a package beside this one, such as `replicate_keras`. It translates a framework's terms into ours, using
the framework's public hooks. From the core, it imports only the names in `replicate_core.__all__` and the names here.
`__all__` is the contract; it changes only with a fragment in `changes/`.

- The `check_*` functions check the arguments that all callbacks share, so that all frameworks have the same messages.
- An experiment begins with `prepare`, which also finds what to resume from; on other ranks with `join`.
- `written_ahead` writes a file of the framework beside its destination, and `put_in_place` moves it there.
- `warn` is for mistakes in the user's call, and `warn_only` for other warnings: no filter makes it end a training.
  `pass_over` names the packages between the user's line and ours.
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
"""Value of `save_freq`: save at the end of epochs."""

AUTO = "auto"
"""Value of `save_freq`: save as often as `max_overhead` allows."""

DEFAULT_OVERHEAD = 0.05
"""Default of `max_overhead`: maximum share of the training time that saving may take."""

_GENERATORS = frozenset({"Generator", "RandomState", "Random", "SeedGenerator"})
"""Names of the random generator classes of numpy, torch, Python and Keras."""


def check_path(path: str | os.PathLike[str]) -> None:
    """Make sure that a file at `path`, relative to the working directory, can be saved once it exists.

    Raises:
        InvalidInput: the path is outside the project.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    Workspace().check_path(path)


def check_template(filepath: object, *, places: Sequence[str], example: str) -> str | None:
    """Check a path template for the files to save; see `expand_template`.

    Args:
        filepath: the template as the user gave it; None saves no files.
        places: the names of whole numbers that it may always contain; every other name is a metric.
        example: a valid template, for the error message.

    Raises:
        InvalidInput: it is not the path of a local file, is outside the project, or can't be expanded.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    if filepath is None:
        return None
    if not isinstance(filepath, (str, os.PathLike)) or "://" in str(filepath):
        raise InvalidInput(f"filepath must be a local path in the project, or None, got {filepath!r}")
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
    """Check hyperparameters; None stands for no hyperparameters. Raises `InvalidInput`."""
    return {} if params is None else dict(check_mapping("params", params))


def check_period(period: object, save_freq: object) -> int:
    """Check the number of epochs between saves. Raises `InvalidInput`."""
    if (number := whole_from_1(period)) is None:
        raise InvalidInput(f"period must be a number of epochs from 1, got {period!r}")
    if number != 1 and save_freq != EPOCH:
        raise InvalidInput(f'period needs save_freq="epoch", because it counts epochs, got save_freq={save_freq!r}')
    return number


def check_primary_metric(pair: object) -> PrimaryMetric | None:
    """Check the primary metric; None stands for none.

    Raises:
        InvalidInput: it is not a pair of a name and a goal; or it names the epoch or step, which is not a metric.
    """
    primary = PrimaryMetric.parse(pair)
    if primary is not None and primary.name in ("epoch", "step"):
        raise InvalidInput(
            f"primary_metric names {primary.name!r}, which does not say which checkpoint is better. The last one is "
            "always kept, and keep_last=3 keeps the last three: leave primary_metric out, or name a metric"
        )
    return primary


def expand_template(filepath: str, values: Mapping[str, object]) -> str:
    """Expand a path template, `"m-{epoch:02d}-{loss:.2f}"`. A value that is missing or not a number becomes `nan`."""
    names = {name for _, name, _, _ in string.Formatter().parse(filepath) if name is not None}
    if "" in names:
        raise ValueError("a pair of braces holds no name")
    found = {name: values.get(name) for name in names}
    return filepath.format(
        **{name: value if isinstance(value, (int, float)) else math.nan for name, value in found.items()}
    )


def whole_from_1(value: object) -> int | None:
    """The value as an int, if it is a whole number from 1, also one such as `np.int64`; else None."""
    with suppress(TypeError):
        if not isinstance(value, bool) and (number := operator.index(value)) > 0:  # type: ignore[arg-type]  # raises
            return number
    return None


def check_overhead(max_overhead: float | None, save_freq: object) -> float:
    """Check the maximum share of the training time that saving may take. Raises `InvalidInput`."""
    if max_overhead is None:
        return DEFAULT_OVERHEAD
    if save_freq != AUTO:
        raise InvalidInput(f'max_overhead needs save_freq="auto", got save_freq={save_freq!r}')
    if isinstance(max_overhead, bool) or not isinstance(max_overhead, (int, float)) or not 0 < max_overhead < 1:
        raise InvalidInput(f"max_overhead must be a share of the time between 0 and 1, got {max_overhead!r}")
    return float(max_overhead)


def check_keep(best: int | None, last: int | None, primary_metric: PrimaryMetric | None) -> dict[str, int]:
    """Check the numbers of checkpoints whose files to keep. Returns those that were given; without any, all are kept.

    Raises:
        InvalidInput: a number is invalid; or `best` is given without a primary metric in the call or the project.
        ConfigInvalid: `replicate.yaml` can't be used.
    """
    given = {name: number for name, number in (("best", best), ("last", last)) if number is not None}
    for name, number in given.items():
        check_number(f"keep_{name}", number)
    if best is not None and primary_metric is None and Workspace().config.primary_metric is None:
        raise InvalidInput(
            "keep_best needs primary_metric, here or in replicate.yaml, to tell which checkpoints are the best"
        )
    return given


def check_experiment(experiment: object) -> None:
    """Check the experiment to record into, if one is given. Raises `InvalidInput`."""
    if experiment is not None and not isinstance(experiment, Experiment):
        raise InvalidInput(f"experiment must be one that replicate.init returned, got {experiment!r}")


def has_random_state(thing: object) -> bool:
    """Tell whether an object has a random generator as an attribute, such as `numpy.random.default_rng()`.

    No global seed determines what such a generator draws next: that depends on everything it drew before.
    """
    attributes = getattr(thing, "__dict__", {})
    return any(type(value).__name__ in _GENERATORS for value in attributes.values())


def discard(experiment: Experiment) -> bool:
    """End and delete an experiment whose training failed before it began. Returns whether it was deleted.

    It is not deleted if a checkpoint was recorded, if it was resumed, or if this process does not record it.
    """
    return experiment._discard()  # noqa: SLF001  # it is ours


def copy_for_training(original: Any, memo: dict[int, Any], *, given: Experiment | None) -> Any:
    """Deep-copy a callback or logger, for another training of this process, without what is not pickled.

    Args:
        original: the callback or logger; it has a `__getstate__`.
        memo: the memo of `__deepcopy__`.
        given: the experiment that the user gave it to record into, which is shared; None: the copy begins its own.
    """
    kind: Any = type(original)
    copied = kind.__new__(kind)
    memo[id(original)] = copied
    vars(copied).update(copy.deepcopy(original.__getstate__(), memo))
    copied.experiment = given
    return copied


def check_resume(resume: object, experiment: object) -> None:
    """Check what to resume, and that no experiment is given as well. Raises `InvalidInput`."""
    if resume is not None and (not isinstance(resume, str) or not resume):
        raise InvalidInput(
            f'resume must be "auto" or the first characters of the id of an experiment or checkpoint, got {resume!r}'
        )
    check_experiment(experiment)
    if resume is not None and experiment is not None:
        raise InvalidInput(
            "resume and experiment can't be given together: give resume to replicate.init, which begins the "
            "experiment, or leave experiment out"
        )
