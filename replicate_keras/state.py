"""What training depends on beside the model: where it is, random states, and what callbacks remember.

Keras saves none of it. It is put into the file of the model itself, where Keras passes over it: as a member of a
`.keras` archive, as a dataset of an HDF5 file. Plain JSON, and plain bytes of arrays: nothing is unpickled.
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

_REMEMBERED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}
"""Of Keras' own callbacks: what they remember from epoch to epoch, all of it numbers or None."""

_SWAPPING = "SwapEMAWeights"


@dataclass(frozen=True)
class State:
    """A moment of training.

    Attributes:
        epoch: the epoch to resume with, from 0.
        batches: how many were seen since training began.
        is_whole: whether the epoch before it was trained to its end; if not, `epoch` is begun again.
        best: the best value of what is monitored, so far.
        backend: the Keras backend.
        build: how a model is built that is not yet: `build_from_config` takes it.
        random: states of random number generators.
        callbacks: what Keras' own callbacks remember, in the order of the list; None for the others.
        due: how many batches had been seen when saving was due the last time; None of those saved by older versions.
        rate: the learning rate that the script had compiled when the run began; None where that was a schedule.
        optimizers: how those of the model are built, as `variables` tells it; None where nothing is known of it.
        raw: values that Keras' own file does not hold, by name: see `variables`.
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
    """Put a state into the file of a model."""
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
    """The state in the file of a model; None if there is none."""
    text, data = _members(path)
    try:
        if text is None:
            return None
        state = State(**json.loads(text))
        return replace(state, raw=_arrays(state.raw, data))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path.name} holds a state of training that this version can't read: {error}") from error


def _members(path: Path) -> tuple[bytes | None, bytes]:
    """The text of the state, if there is one; and the bytes of its arrays."""
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
    """How a model was built, if that is plain data."""
    try:
        found = model.get_build_config()
        return dict(json.loads(json.dumps(found))) if found else None
    except (TypeError, ValueError, NotImplementedError):
        return None


def description(model: Any, fit: dict[str, Any]) -> dict[str, Any]:
    """What is trained, and how: of the model, and of the call of `fit`; what can't be told is left out.

    Args:
        model: built by now.
        fit: the `params` of a callback: epochs and steps.
    """
    told: dict[str, Any] = {
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
        with suppress(Exception):  # of a model that is not built, or not made of plain data
            told[name] = json.loads(json.dumps(attempt()))
    return told


def learning_rate(model: Any) -> float | None:
    """The current learning rate of a model; None if it has no optimizer, or follows a schedule."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of mixed precision
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    try:
        rate = optimizer.get_config().get("learning_rate")
    except Exception:  # noqa: BLE001  # of an optimizer of the user's own
        return None
    return float(rate) if isinstance(rate, (int, float)) else None


def compiled_rate(model: Any) -> float | None:
    """The learning rate that the script compiled; None for a schedule, or if training may have changed it since."""
    rate = learning_rate(model)
    if rate is None or keras.ops.convert_to_numpy(model.optimizer.iterations) > 0:  # int() takes none of a strategy's
        return None
    return rate


def random_states(model: Any) -> dict[str, Any]:
    """The states of Python, NumPy, torch if it is in use, and the seed generators of the model."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "seed_generators": [keras.ops.convert_to_numpy(item).tolist() for item in _seed_generators(model)],
    }
    if np.random.get_state(legacy=False)["bit_generator"] == "MT19937":  # else somebody has put in another one
        name, keys, *rest = np.random.get_state(legacy=True)
        states["numpy"] = [name, [int(key) for key in keys], *rest]
    if (torch := sys.modules.get("torch")) is not None:
        states["torch"] = [_text_of(state) for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]
    return states


def restore_random_states(model: Any, states: dict[str, Any]) -> None:
    """Go on with random states as they were."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, "uint32"), *rest))
    if len(_seed_generators(model)) < len(states["seed_generators"]):
        keras.random.uniform(())  # makes the seed generator that all of Keras shares
    for variable, value in zip(_seed_generators(model), states["seed_generators"], strict=False):
        variable.assign(value)
    if "torch" in states and (torch := sys.modules.get("torch")) is not None:
        first, *others = (
            torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for text in states["torch"]
        )
        torch.set_rng_state(first)
        if len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)


def _text_of(tensor: Any) -> str:
    return base64.b64encode(tensor.numpy().tobytes()).decode()


def _seed_generators(model: Any) -> list[Any]:
    found = [item for item in model.non_trainable_variables if item.path.endswith("seed_generator_state")]
    shared = _shared_seed_generator()
    return found if shared is None else [*found, shared.state]


def _shared_seed_generator() -> Any:
    """The one that `keras.random` draws from where it is given no seed; None if nothing was drawn yet."""
    with suppress(ImportError, AttributeError):  # there is no public way to it
        from keras.src.backend.common import global_state  # noqa: PLC0415

        return global_state.get_global_attribute("global_seed_generator")
    return None


def loses_layer_states(model: Any) -> bool:
    """Tell whether a recurrent layer of the model goes on with a state from batch to batch that no file of Keras holds.

    With JAX the states are variables of the training, and come back.
    """
    is_lost = keras.config.backend() != "jax"
    return is_lost and any(getattr(layer, "stateful", False) for layer in getattr(model, "layers", ()))


def come_last(callback: Any) -> list[Any]:
    """Let a callback that is just beginning be called last from now on; returns the others of its `fit`.

    What the others decide at the end of an epoch is part of that moment: a learning rate, how long to be patient. Keras
    tells a callback its model and not its siblings. The list that calls them all stands in a frame above.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            others = [other for other in caller.callbacks if other is not callback]
            caller.callbacks = [*others, callback]  # a new list: the old one is being gone through
            for hook in ("on_train_batch_end", "on_epoch_end"):
                setattr(caller, hook, _in_any_case(getattr(caller, hook), callback, hook))
            return others
        frame = frame.f_back
    return []


def _in_any_case(call_all: Callable[..., None], callback: Any, hook: str) -> Callable[..., None]:
    """What calls all callbacks, so that the last one is called although one before it raises."""

    def call(index: int, logs: dict[str, Any] | None = None) -> None:
        with callback.told_in_any_case(hook, index, logs):
            call_all(index, logs)

    return call


def remembered(callbacks: list[Any]) -> list[dict[str, Any] | None]:
    """What callbacks remember."""
    return [_remembered(callback) for callback in callbacks]


def _remembered(callback: Any) -> dict[str, Any] | None:
    for base in type(callback).__mro__:
        if base.__name__ in _REMEMBERED:
            values = {name: getattr(callback, name, None) for name in _REMEMBERED[base.__name__]}
            plain = {name: None if value is None else float(value) for name, value in values.items()}
            return {"class": base.__name__, "monitor": callback.monitor, **plain}
        if base.__name__ == _SWAPPING:
            is_swapped = callback._ema_weights_in_model  # noqa: SLF001
            return {"class": _SWAPPING, "monitor": None, "swapped": is_swapped, "epochs": _epochs(callback)}
    return None


def _epochs(callback: Any) -> int | None:
    return (callback.params or {}).get("epochs")


def was_stopped(callbacks: list[Any], memories: list[dict[str, Any] | None]) -> bool:
    """Tell whether `EarlyStopping` had ended that training, and would again."""
    stopped = {memory["monitor"]: memory["wait"] for memory in memories if memory and memory.get("stopped_epoch")}
    found = (item for item in callbacks if isinstance(item, keras.callbacks.EarlyStopping))
    return any(stopped.get(item.monitor, -1) >= item.patience for item in found)


def remind(callbacks: list[Any], memories: list[dict[str, Any] | None]) -> list[Any]:
    """Give callbacks back what they remembered; returns those that there was something for.

    Args:
        callbacks: those of this `fit`, after their `on_train_begin`.
        memories: as `remembered` gave them. A callback is known by its class and by what it monitors.
    """
    left = [memory for memory in memories if memory is not None and memory["class"] in _REMEMBERED]
    reminded = []
    for callback in callbacks:
        now = _remembered(callback)
        fits = (item for item in left if now and (item["class"], item["monitor"]) == (now["class"], now["monitor"]))
        if (memory := next(fits, None)) is None:
            continue
        left.remove(memory)
        reminded.append(callback)
        for name in _REMEMBERED[memory["class"]]:
            value = memory[name]
            setattr(callback, name, value if name == "best" or value is None else int(value))
    return reminded


def swap(callbacks: list[Any], restored: State) -> None:
    """Tell `SwapEMAWeights` before training begins that the weights in the model are the averaged ones, if they are.

    It puts back those that are trained when the next epoch begins.
    """
    swapped = [memory for memory in restored.callbacks if memory and memory.get("swapped")]
    if not swapped:
        return
    swapping = [item for item in callbacks if isinstance(item, keras.callbacks.SwapEMAWeights)]
    for callback in swapping:
        callback._ema_weights_in_model = True  # noqa: SLF001
        if not callback.swap_on_epoch:  # saved in the midst of an evaluation
            callback.on_test_end()
        if restored.is_whole and swapped[0]["epochs"] == restored.epoch < (_epochs(callback) or 0):
            warn(
                "SwapEMAWeights has kept the averaged weights alone when that training came to its end: they are "
                "trained on, where a longer training would have gone on from those that were averaged"
            )
    if not swapping:
        warn(
            "the averaged weights that SwapEMAWeights had put into the model were saved, and it is not among the "
            "callbacks now: they are trained on, and not those that were averaged; give it to fit again"
        )
