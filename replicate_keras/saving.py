"""Saves Keras models to files: checks file names, silences Keras, and never leaves a file half-written."""

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
    """Check the path to save a model to.

    Args:
        filepath: the user's argument; may be a template.
        save_weights_only: whether the file is to hold weights only.
        places: names of whole numbers that a template may always use; any other name is a metric.

    Raises:
        InvalidInput: Keras can't save under that name, or the template is invalid.
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
    """Print if Keras' interactive logging is on; else log, as Keras does."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    else:
        logging.getLogger("absl").info(text)


def number(value: Any) -> Any:
    """Convert a scalar of any library to a plain number; return anything else unchanged."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return value


def save(model: Any, path: str, *, weights_only: bool, state: State) -> None:
    """Save a model or its weights, with the state of training, atomically."""
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
    """Drops the advice against HDF5 that Keras logs at every save: the user chose that format."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "as an HDF5 file via" not in record.getMessage()


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress messages of Keras that the user can do nothing about."""
    absl, legacy = logging.getLogger("absl"), _LegacyFormat()
    absl.addFilter(legacy)
    try:
        with warnings.catch_warnings():
            # Keras 3.15 warns at every save with numpy 2.4; under -W error it would not save at all.
            warnings.filterwarnings("ignore", message=r".*__array__.*copy keyword", category=DeprecationWarning)
            yield
    finally:
        absl.removeFilter(legacy)
