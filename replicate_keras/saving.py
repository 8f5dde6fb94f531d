"""How a Keras model becomes a file: which names can be taken, quietly, and never half-written."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from replicate_core import InvalidInput
from replicate_core.adapters import check_template, put_in_place, written_ahead
from replicate_keras.state import State, write

MODEL_ENDINGS = (".keras", ".h5", ".hdf5")
WEIGHTS_ENDINGS = (".weights.h5",)


def check_filepath(
    filepath: str | os.PathLike[str] | None, *, save_weights_only: bool, places: Sequence[str]
) -> str | None:
    """Check where a model is to be saved.

    Args:
        filepath: as the user gave it; may be a template.
        save_weights_only: whether the file is to hold weights only.
        places: what a template may always name, whole numbers; everything else it names is a metric.

    Raises:
        InvalidInput: Keras can't save to a file of that name, or the template can't be filled in.
    """
    path = check_template(filepath, places=places, example="m-{epoch:02d}-{val_loss:.2f}.keras")
    if path is None:
        return None
    endings = WEIGHTS_ENDINGS if save_weights_only else MODEL_ENDINGS
    if not path.endswith(endings):
        only = " when only weights are saved" if save_weights_only else ""
        raise InvalidInput(f"filepath must end in {' or '.join(endings)}{only}, got {path!r}")
    if path.endswith(WEIGHTS_ENDINGS) and not save_weights_only:
        raise InvalidInput(f"filepath {path!r} is a name for weights: give save_weights_only=True, or another name")
    return path


def say(text: str) -> None:
    """Print, where Keras itself would print: else it is logged."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    else:
        logging.getLogger("absl").info(text)


def number(value: Any) -> Any:
    """A metric as plain data, if it is a scalar of some library; anything else is left as it is."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return value


def save(model: Any, path: str, *, weights_only: bool, state: State) -> None:
    """Save a model or its weights, and the state of training: no half file is ever seen under that name."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    ending = next(ending for ending in (*WEIGHTS_ENDINGS, *MODEL_ENDINGS) if path.endswith(ending))
    temporary = target.with_name(f".replicate-{os.urandom(8).hex()}.tmp{ending}")
    try:
        with quietly(), written_ahead(temporary, target):
            if weights_only:
                model.save_weights(temporary)
            else:
                model.save(temporary)
            write(temporary, state)
        put_in_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


class _LegacyFormat(logging.Filter):
    """Drops the advice against HDF5 that Keras logs at every save: the name of the file was the user's choice."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "as an HDF5 file via" not in record.getMessage()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Keras from saying what nobody can do anything about."""
    absl, legacy = logging.getLogger("absl"), _LegacyFormat()
    absl.addFilter(legacy)
    try:
        with warnings.catch_warnings():
            # Keras 3.15 with numpy 2.4: every save warns, whoever calls it; under -W error it would not save at all.
            warnings.filterwarnings("ignore", message=r".*__array__.*copy keyword", category=DeprecationWarning)
            yield
    finally:
        absl.removeFilter(legacy)
