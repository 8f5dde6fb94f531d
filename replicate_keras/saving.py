"""How a Keras model becomes a file: which names can be taken, quietly, and never half-written."""

from __future__ import annotations

import logging
import os
import string
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replicate_core import InvalidInput

MODEL_ENDINGS = (".keras", ".h5", ".hdf5")
WEIGHTS_ENDINGS = (".weights.h5",)


def check_filepath(filepath: str | os.PathLike[str] | None, *, save_weights_only: bool) -> str | None:
    """Check where a model is to be saved.

    Raises:
        InvalidInput: Keras can't save to a file of that name.
    """
    if filepath is None:
        return None
    path = os.fspath(filepath)
    endings = WEIGHTS_ENDINGS if save_weights_only else MODEL_ENDINGS
    if not path.endswith(endings):
        only = " when only weights are saved" if save_weights_only else ""
        raise InvalidInput(f"filepath must end in {' or '.join(endings)}{only}, got {path!r}")
    if path.endswith(WEIGHTS_ENDINGS) and not save_weights_only:
        raise InvalidInput(f"filepath {path!r} is a name for weights: give save_weights_only=True, or another name")
    return path


def expand(filepath: str, values: Mapping[str, Any]) -> str:
    """Fill in the names of a file path template. What has no value yet becomes `nan`: that never stops training."""
    wanted = {name.partition(".")[0].partition("[")[0] for _, name, _, _ in string.Formatter().parse(filepath) if name}
    known = {name: float("nan") for name in wanted} | {name: _number(values[name]) for name in wanted & values.keys()}
    return filepath.format(**known) if wanted else filepath


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def save(model: Any, path: str, *, weights_only: bool) -> None:
    """Save a model or its weights: under another name first, then moved into place, so that no half file is seen."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    ending = next(ending for ending in (*WEIGHTS_ENDINGS, *MODEL_ENDINGS) if path.endswith(ending))
    temporary = target.with_name(f".replicate-{os.urandom(8).hex()}.tmp{ending}")
    try:
        with _quietly():
            if weights_only:
                model.save_weights(temporary)
            else:
                model.save(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


class _LegacyFormat(logging.Filter):
    """Drops the advice against HDF5 that Keras logs at every save: the name of the file was the user's choice."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "as an HDF5 file via" not in record.getMessage()


@contextmanager
def _quietly() -> Iterator[None]:
    absl, legacy = logging.getLogger("absl"), _LegacyFormat()
    absl.addFilter(legacy)
    try:
        with warnings.catch_warnings():
            # Keras 3.15 with numpy 2.4: every save warns, whoever calls it; under -W error it would not save at all.
            warnings.filterwarnings("ignore", message=r".*__array__.*copy keyword", category=DeprecationWarning)
            yield
    finally:
        absl.removeFilter(legacy)
