"""The state of training beside the model: the position, random states, and the state of callbacks.

Keras saves none of it. This module adds it to the model file, where Keras ignores it: as a member of a `.keras`
archive or a dataset of an HDF5 file. It is plain JSON and plain bytes of arrays: nothing is unpickled.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
import random
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from replicate_core import InvalidInput
from replicate_core.adapters import warn

_NAME = "replicate_state.json"

_RAW_NAME = "replicate_state.raw"

_CALLBACK_STATE = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}
"""Class of a Keras callback to the attributes that it keeps between epochs; each is a number or None."""

_SWAPPING = "SwapEMAWeights"


@dataclass(frozen=True)
class State:
    """A moment of training.

    Attributes:
        epoch: the epoch to resume with, from 0.
        batches: number of batches since training began.
        is_whole: whether the state is from the end of an epoch; if not, `epoch` starts again.
        best: the best value of the monitored metric so far.
        backend: the Keras backend.
        build: the argument for `build_from_config` of a model that is not built yet.
        random: states of random number generators.
        callbacks: states of Keras' own callbacks, in the order of the list; None for other callbacks.
        due: number of batches when saving was last due; None in files of older versions.
        rate: the learning rate that the script compiled when the run began; None for a schedule.
        optimizers: descriptions of the optimizers, see `variables.describe_optimizers`; None if unknown.
        raw: name to value of what Keras' own file does not hold; see `variables`.
    """

    epoch: int
    batches: int
    is_whole: bool
    best: float | None = None
    backend: str = field(default_factory=keras.config.backend)
    build: dict[str, Any] | None = None
    random: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any] | None] = field(default_factory=list)
    due: int | None = None
    rate: float | None = None
    optimizers: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict)


def write(path: Path, state: State) -> None:
    """Add a state to a model file."""
    arrays = {name: np.asarray(array) for name, array in state.raw.items()}
    forms = {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}
    text = json.dumps(vars(state) | {"raw": forms}).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_NAME, text)
            if arrays:
                archive.writestr(_RAW_NAME, b"".join(array.tobytes() for array in arrays.values()))
    else:
        with h5py.File(path, "a") as file:
            file.create_dataset(_NAME, data=np.frombuffer(text, "uint8"))
            if arrays:
                data = np.concatenate([array.reshape(-1).view("uint8") for array in arrays.values()])
                file.create_dataset(_RAW_NAME, data=data)


def read(path: Path) -> State | None:
    """Read the state from a model file; None if there is none. Raises `InvalidInput` if it is unreadable."""
    text, data = _members(path)
    try:
        if text is None:
            return None
        state = State(**json.loads(text))
        return replace(state, raw=_arrays(state.raw, data))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path.name} holds a state of training that this version can't read: {error}") from error


def _members(path: Path) -> tuple[bytes | None, bytes]:
    """Return the JSON of the state, if there is one, and the bytes of its arrays."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text, data = (archive.read(name) if name in archive.namelist() else None for name in (_NAME, _RAW_NAME))
    else:
        with h5py.File(path) as file:
            text, data = (bytes(file[name][()]) if name in file else None for name in (_NAME, _RAW_NAME))
    return text, data or b""


def _arrays(forms: dict[str, Any], data: bytes) -> dict[str, Any]:
    arrays, begin = {}, 0
    for name, (kind, *shape) in forms.items():
        count = math.prod(shape)
        arrays[name] = np.frombuffer(data, np.dtype(kind), count, begin).reshape(shape)
        begin += arrays[name].nbytes
    return arrays


def build_config_of(model: Any) -> dict[str, Any] | None:
    """Return a model's build config, if it is plain data; else None."""
    try:
        found = model.get_build_config()
        return dict(json.loads(json.dumps(found))) if found else None
    except (TypeError, ValueError, NotImplementedError):
        return None


def description(model: Any, fit: dict[str, Any]) -> dict[str, Any]:
    """Describe the model and the call of `fit`; leaves out what can't be determined.

    Args:
        model: a built model.
        fit: the `params` of a callback: epochs and steps.
    """
    found: dict[str, Any] = {
        "backend": keras.config.backend(),
        "version": keras.__version__,
        "dtype_policy": keras.config.dtype_policy().name,
        "epochs": fit.get("epochs"),
        "steps": fit.get("steps"),
    }
    summary: list[str] = []
    attempts: dict[str, Callable[[], Any]] = {
        "parameters": model.count_params,
        "optimizer": lambda: keras.optimizers.serialize(model.optimizer),
        "loss": lambda: model.get_compile_config().get("loss"),
        "summary": lambda: model.summary(print_fn=lambda text, **_: summary.append(text)) or "\n".join(summary),
    }
    for name, attempt in attempts.items():
        with suppress(Exception):  # the model is not built, or its config is not plain data
            found[name] = json.loads(json.dumps(attempt()))
    return found


def learning_rate(model: Any) -> float | None:
    """Return the current learning rate of a model; None without an optimizer or with a schedule."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # wrapped for mixed precision
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    try:
        rate = optimizer.get_config().get("learning_rate")
    except Exception:  # noqa: BLE001  # the user's own optimizer may raise anything
        return None
    return float(rate) if isinstance(rate, (int, float)) else None


def compiled_rate(model: Any) -> float | None:
    """Return the learning rate that the script compiled; None for a schedule, or once training may have changed it."""
    rate = learning_rate(model)
    if (
        rate is None or keras.ops.convert_to_numpy(model.optimizer.iterations) > 0
    ):  # int() fails for a variable of a distribution strategy
        return None
    return rate


def random_states(model: Any) -> dict[str, Any]:
    """Return the random states of Python, NumPy, torch if it is imported, and the model's seed generators."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "seed_generators": [keras.ops.convert_to_numpy(item).tolist() for item in _seed_generators(model)],
    }
    if np.random.get_state(legacy=False)["bit_generator"] == "MT19937":  # else NumPy's global generator was replaced
        name, keys, *rest = np.random.get_state(legacy=True)
        states["numpy"] = [name, [int(key) for key in keys], *rest]
    if (torch := sys.modules.get("torch")) is not None:
        states["torch"] = [_base64_of(state) for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]
    return states


def restore_random_states(model: Any, states: dict[str, Any]) -> None:
    """Restore random states."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, "uint32"), *rest))
    if len(_seed_generators(model)) < len(states["seed_generators"]):
        keras.random.uniform(())  # creates Keras' global seed generator
    for variable, value in zip(_seed_generators(model), states["seed_generators"], strict=False):
        variable.assign(value)
    if "torch" in states and (torch := sys.modules.get("torch")) is not None:
        first, *others = (
            torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for text in states["torch"]
        )
        torch.set_rng_state(first)
        if len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)


def _base64_of(tensor: Any) -> str:
    return base64.b64encode(tensor.numpy().tobytes()).decode()


def _seed_generators(model: Any) -> list[Any]:
    found = [item for item in model.non_trainable_variables if item.path.endswith("seed_generator_state")]
    shared = _shared_seed_generator()
    return found if shared is None else [*found, shared.state]


def _shared_seed_generator() -> Any:
    """Return the generator that `keras.random` uses without a seed; None if nothing was drawn yet."""
    with suppress(ImportError, AttributeError):  # it has no public name
        from keras.src.backend.common import global_state  # noqa: PLC0415

        return global_state.get_global_attribute("global_seed_generator")
    return None


def loses_layer_states(model: Any) -> bool:
    """Tell whether a recurrent layer of the model keeps a state between batches, which Keras does not save.

    With JAX the states are variables of the training, and come back.
    """
    is_lost = keras.config.backend() != "jax"
    return is_lost and any(getattr(layer, "stateful", False) for layer in getattr(model, "layers", ()))


def call_last(callback: Any) -> list[Any]:
    """When training starts, make Keras call a callback after all others; returns these others.

    What the others decide at the end of an epoch belongs to the saved state, such as a new learning rate. Keras gives a
    callback its model but not the other callbacks, so their list is looked up in the frames above.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            others = [other for other in caller.callbacks if other is not callback]
            caller.callbacks = [*others, callback]  # a new list: Keras is iterating over the old one
            for hook in ("on_train_batch_end", "on_epoch_end"):
                setattr(caller, hook, _ensuring_call(getattr(caller, hook), callback, hook))
            return others
        frame = frame.f_back
    return []


def _ensuring_call(call_all: Callable[..., None], callback: Any, hook: str) -> Callable[..., None]:
    """Wrap `call_all` so that `callback` is called even if another callback raises."""

    def call(index: int, logs: dict[str, Any] | None = None) -> None:
        with callback.ensure_called(hook, index, logs):
            call_all(index, logs)

    return call


def callback_states(callbacks: list[Any]) -> list[dict[str, Any] | None]:
    """Return the state of each callback; None for those that are not Keras' own."""
    return [_state_of(callback) for callback in callbacks]


def _state_of(callback: Any) -> dict[str, Any] | None:
    for base in type(callback).__mro__:
        if base.__name__ in _CALLBACK_STATE:
            values = {name: getattr(callback, name, None) for name in _CALLBACK_STATE[base.__name__]}
            plain = {name: None if value is None else float(value) for name, value in values.items()}
            return {"class": base.__name__, "monitor": callback.monitor, **plain}
        if base.__name__ == _SWAPPING:
            is_swapped = callback._ema_weights_in_model  # noqa: SLF001
            return {"class": _SWAPPING, "monitor": None, "swapped": is_swapped, "epochs": _epochs(callback)}
    return None


def _epochs(callback: Any) -> int | None:
    return (callback.params or {}).get("epochs")


def was_stopped(callbacks: list[Any], saved_states: list[dict[str, Any] | None]) -> bool:
    """Tell whether `EarlyStopping` had stopped the saved training, and would stop it again."""
    stopped = {saved["monitor"]: saved["wait"] for saved in saved_states if saved and saved.get("stopped_epoch")}
    found = (item for item in callbacks if isinstance(item, keras.callbacks.EarlyStopping))
    return any(stopped.get(item.monitor, -1) >= item.patience for item in found)


def restore_callback_states(callbacks: list[Any], saved_states: list[dict[str, Any] | None]) -> list[Any]:
    """Restore the states of callbacks; returns the callbacks that were restored.

    Args:
        callbacks: the callbacks of this `fit`, after their `on_train_begin`.
        saved_states: the result of `callback_states`. Callbacks are matched by class and monitored metric.
    """
    remaining = [saved for saved in saved_states if saved is not None and saved["class"] in _CALLBACK_STATE]
    restored = []
    for callback in callbacks:
        now = _state_of(callback)
        fits = (
            item for item in remaining if now and (item["class"], item["monitor"]) == (now["class"], now["monitor"])
        )
        if (saved := next(fits, None)) is None:
            continue
        remaining.remove(saved)
        restored.append(callback)
        for name in _CALLBACK_STATE[saved["class"]]:
            value = saved[name]
            setattr(callback, name, value if name == "best" or value is None else int(value))
    return restored


def prepare_swapping(callbacks: list[Any], restored: State) -> None:
    """Before training starts, tell `SwapEMAWeights` if the restored weights are the averaged ones.

    It swaps the trained weights back when the next epoch begins.
    """
    swapped = [saved for saved in restored.callbacks if saved and saved.get("swapped")]
    if not swapped:
        return
    swapping = [item for item in callbacks if isinstance(item, keras.callbacks.SwapEMAWeights)]
    for callback in swapping:
        callback._ema_weights_in_model = True  # noqa: SLF001
        if not callback.swap_on_epoch:  # saved during an evaluation
            callback.on_test_end()
        if restored.is_whole and swapped[0]["epochs"] == restored.epoch < (_epochs(callback) or 0):
            warn(
                "SwapEMAWeights has kept only the averaged weights at the end of that training: training resumes from "
                "them, while a longer training would have continued from the weights before averaging"
            )
    if not swapping:
        warn(
            "the checkpoint holds the averaged weights of SwapEMAWeights, which is not among the callbacks now: "
            "training resumes from them instead of the weights before averaging. Give SwapEMAWeights to fit again"
        )
