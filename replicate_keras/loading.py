"""Loads saved files: as a whole model, or into a model that a script has made."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras

import replicate_core
from replicate_core import Checkpoint, InvalidInput
from replicate_core.adapters import warn
from replicate_keras import state as states
from replicate_keras import variables
from replicate_keras.saving import MODEL_ENDINGS, WEIGHTS_ENDINGS, quietly
from replicate_keras.state import State

_OPTIMIZER = "optimizer_weights"

_SHORT_NAMES = ("mse", "mae", "mape", "msle", "bce", "kld")
"""Short names of losses, which Keras 3 writes to HDF5 files in lower or upper case but can't read back."""


def load_model(checkpoint: Checkpoint | str, **options: Any) -> Any:
    """Load a model that `ReplicateCallback` has saved, to use it or to train it further.

    Args:
        checkpoint: a checkpoint, or the beginning of an id. The id of an experiment loads its best checkpoint, else its
            latest.
        options: those of `keras.models.load_model`: `custom_objects`, `compile`, `safe_mode`.

    Returns:
        The `keras.Model`, compiled as it was. The state of the optimizer is restored from `.hdf5` and `.h5` files, too,
        which Keras itself does not do.

    Raises:
        NotFound: no id begins like this.
        InvalidInput: the checkpoint holds no model, or only its weights.
        Corrupted: the stored files are damaged.
    """
    found = _checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    with local_copy(found) as path:
        if path.name.endswith(WEIGHTS_ENDINGS):
            raise InvalidInput(
                f"the checkpoint {found.short_id} holds the weights of a model, and not the model: make the model, "
                "check the file out, and give it to model.load_weights"
            )
        with quietly():
            return _load(path, options)


def _load(path: Path, options: dict[str, Any]) -> Any:
    is_legacy = not zipfile.is_zipfile(path)
    if is_legacy:
        short = {name: keras.losses.get(name) for one in _SHORT_NAMES for name in (one, one.upper())}
        options = {**options, "custom_objects": {**short, **(options.get("custom_objects") or {})}}
    model = keras.models.load_model(path, **options)
    if is_legacy and getattr(model, "optimizer", None) is not None:
        # Keras 3.3 to 3.15 builds the optimizer from such a file without any variables: `fit` would fail.
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        model.optimizer = optimizer
        _restore_optimizer(model, path)
    if (found := states.read(path)) is not None:
        values = {name: value for name, value in found.raw.items() if name.startswith("weight ")}
        if variables.fits(model, values):  # else the model has no LoRA, and holds the merged weights
            variables.restore_raw(model, values)
    return model


def restore(model: Any, path: Path, epochs: Any = None) -> State | None:
    """Load the weights and optimizers of a saved model into the model that the user's script has made and compiled.

    Args:
        model: the model.
        path: the path of the saved file.
        epochs: `data.Fit.epochs`, needed if the model is not built yet; None outside of `fit`.

    Returns:
        The state of training that was saved with the model; None if there is none.

    Raises:
        InvalidInput: the model is not the one that was saved, or is one of Keras 2.
    """
    if not isinstance(model, keras.Model):
        raise InvalidInput("a model of Keras 2 (tf_keras) can be recorded but not resumed: leave resume out")
    found = states.read(path)
    descriptions = None if found is None else found.optimizers
    with quietly():
        variables.build(model, None if found is None else found.build, epochs)
        variables.build_optimizers(model, descriptions)
        try:
            if descriptions is not None:  # without saved descriptions, Keras' warning is all the user gets
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            model.load_weights(path)
            if getattr(model, "optimizer", None) is not None and not path.name.endswith((".keras", *WEIGHTS_ENDINGS)):
                _restore_optimizer(model, path)
            variables.restore_raw(model, {} if found is None else found.raw)
        except (ValueError, KeyError) as error:
            raise InvalidInput(
                f"{path.name} does not fit into this model: {error}. If the model was changed since, start a new run: "
                "give another name, or leave resume out"
            ) from error
    variables.check_optimizers(model, descriptions)
    if descriptions is None and variables.has_lora(model):
        warn(
            f"{path.name} was saved without the weights of LoRA, which Keras merges into the others: training "
            "resumes from the merged ones, and ends with other weights than it would have without the restart"
        )
    return found


def weights_of(model: Any, path: Path) -> list[Any]:
    """Return the weights in a file, in the order of `model.get_weights()`; the model does not change."""
    weights = model.get_weights()
    kept = [variable for optimizer in variables.optimizers_of(model).values() for variable in optimizer.variables]
    values = [keras.ops.convert_to_numpy(variable) for variable in kept]
    try:
        restore(model, path)
        return list(model.get_weights())
    finally:
        model.set_weights(weights)
        for variable, value in zip(kept, values, strict=True):
            variable.assign(value)


def _restore_optimizer(model: Any, path: Path) -> None:
    """Restore the optimizer from a legacy HDF5 file."""
    with h5py.File(path) as file:
        if _OPTIMIZER not in file:
            return
        group = file[_OPTIMIZER]
        values = [group[name][()] for name in group.attrs["weight_names"]]
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    for variable, value in zip(model.optimizer.variables, values, strict=True):
        variable.assign(value)


@contextmanager
def local_copy(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield a verified local copy of a checkpoint's model file; it is deleted when the `with` block ends."""
    if checkpoint.path is None or not checkpoint.path.endswith((*MODEL_ENDINGS, *WEIGHTS_ENDINGS)):
        raise InvalidInput(
            f"the checkpoint {checkpoint.short_id} holds {checkpoint.path!r}, which is not a Keras model"
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / Path(checkpoint.path).name
        with checkpoint.open(checkpoint.path) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield path


def _checkpoint(prefix: str) -> Checkpoint:
    experiment, checkpoint = replicate_core.experiments.find(prefix)
    found = checkpoint or experiment.best_or_latest()
    if found is None:
        raise InvalidInput(f"the experiment {experiment.short_id} has no checkpoints")
    return found
