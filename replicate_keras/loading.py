"""How a file becomes a model again: whole, or into the model that a script has made."""

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
"""Of losses, in lower and upper case: Keras 3 writes them to HDF5 files, and does not find them when it reads those."""


def load_model(checkpoint: Checkpoint | str, **options: Any) -> Any:
    """Load a model that `ReplicateCallback` has saved: it can be used, and trained on.

    Args:
        checkpoint: a checkpoint; or how the id of one begins; or of an experiment: then its best checkpoint is loaded,
            else its latest one.
        options: those of `keras.models.load_model`: `custom_objects`, `compile`, `safe_mode`.

    Returns:
        The `keras.Model`, compiled as it was. Of `.hdf5` and `.h5` files, too, the optimizer goes on where it was,
        which Keras itself does not manage.

    Raises:
        NotFound: nothing has an id that begins so.
        InvalidInput: the checkpoint holds no model; or its weights alone.
        Corrupted: what is stored is damaged.
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
        # Keras 3.3 to 3.15 builds the optimizer of such a file for no variables at all: `fit` would fail.
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        model.optimizer = optimizer
        _restore_optimizer(model, path)
    if (found := states.read(path)) is not None:
        values = {name: value for name, value in found.raw.items() if name.startswith("weight ")}
        if variables.fits(model, values):  # else this one has no LoRA, and the merged weights
            variables.restore_raw(model, values)
    return model


def restore(model: Any, path: Path, epochs: Any = None) -> State | None:
    """Load the weights and the optimizers of a saved model into one that was made and compiled by the user's script.

    Args:
        model: the model.
        path: of the file that was saved.
        epochs: that `fit` goes through, in case the model is not built yet: see `data.Fit`.

    Returns:
        The state of training that was saved with it; None if none was.

    Raises:
        InvalidInput: this is another model than the one that was saved; or one of Keras 2.
    """
    if not isinstance(model, keras.Model):
        raise InvalidInput("a model of Keras 2 (tf_keras) can be recorded, and not gone on with: leave resume out")
    found = states.read(path)
    told = None if found is None else found.optimizers
    with quietly():
        variables.build(model, None if found is None else found.build, epochs)
        variables.build_optimizers(model, told)
        try:
            if told is not None:  # else what Keras says of an optimizer is all that there is
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            model.load_weights(path)
            if getattr(model, "optimizer", None) is not None and not path.name.endswith((".keras", *WEIGHTS_ENDINGS)):
                _restore_optimizer(model, path)
            variables.restore_raw(model, {} if found is None else found.raw)
        except (ValueError, KeyError) as error:
            raise InvalidInput(
                f"what {path.name} holds does not fit into this model: {error}. Was the model changed since? Then "
                "begin anew: another name, or no resume"
            ) from error
    variables.check_optimizers(model, told)
    if told is None and variables.has_lora(model):
        warn(
            f"{path.name} was saved without the weights of LoRA, which Keras merges into the others: training goes on "
            "from the merged ones, and ends with other weights than it would have without the restart"
        )
    return found


def weights_of(model: Any, path: Path) -> list[Any]:
    """The weights in a file, in the order of `model.get_weights()`; the model itself stays as it is."""
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
    """The verified file of the model of a checkpoint, on this machine as long as the `with` block lasts."""
    if checkpoint.path is None or not checkpoint.path.endswith((*MODEL_ENDINGS, *WEIGHTS_ENDINGS)):
        raise InvalidInput(f"the checkpoint {checkpoint.short_id} holds no model of Keras, but {checkpoint.path!r}")
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
