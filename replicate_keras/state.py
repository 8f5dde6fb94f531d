"""What training depends on beside the model: where it is, random states, and what callbacks remember.

Keras saves none of it. It is put into the file of the model itself, where Keras passes over it: as a member of a
`.keras` archive, as a dataset of an HDF5 file. Plain JSON: nothing is unpickled.
"""

from __future__ import annotations

import base64
import inspect
import json
import random
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from replicate_core import InvalidInput

_NAME = "replicate_state.json"

_REMEMBERED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}
"""Of Keras' own callbacks: what they remember from epoch to epoch, all of it numbers or None."""


@dataclass(frozen=True)
class State:
    """A moment of training.

    Attributes:
        epoch: the epoch to go on with, from 0.
        batches: how many were seen since training began.
        is_whole: whether the epoch before it was trained to its end; if not, `epoch` is begun again.
        best: the best value of what is monitored, so far.
        backend: the Keras backend.
        build: how a model is built that is not yet: `build_from_config` takes it.
        random: states of random number generators.
        callbacks: what Keras' own callbacks remember, in the order of the list; None for the others.
    """

    epoch: int
    batches: int
    is_whole: bool
    best: float | None = None
    backend: str = field(default_factory=keras.config.backend)
    build: dict[str, Any] | None = None
    random: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any] | None] = field(default_factory=list)


def write(path: Path, state: State) -> None:
    """Put a state into the file of a model."""
    text = json.dumps(vars(state))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_NAME, text)
    else:
        with h5py.File(path, "a") as file:
            file.create_dataset(_NAME, data=np.frombuffer(text.encode(), "uint8"))


def read(path: Path) -> State | None:
    """The state in the file of a model; None if there is none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text = archive.read(_NAME) if _NAME in archive.namelist() else None
    else:
        with h5py.File(path) as file:
            text = bytes(file[_NAME][()]) if _NAME in file else None
    try:
        return None if text is None else State(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path.name} holds a state of training that this version can't read: {error}") from error


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
    return [item for item in model.non_trainable_variables if item.path.endswith("seed_generator_state")]


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
            return others
        frame = frame.f_back
    return []


def remembered(callbacks: list[Any]) -> list[dict[str, Any] | None]:
    """What callbacks remember."""
    return [_remembered(callback) for callback in callbacks]


def _remembered(callback: Any) -> dict[str, Any] | None:
    for base in type(callback).__mro__:
        if base.__name__ in _REMEMBERED:
            values = {name: getattr(callback, name, None) for name in _REMEMBERED[base.__name__]}
            plain = {name: None if value is None else float(value) for name, value in values.items()}
            return {"class": base.__name__, "monitor": callback.monitor, **plain}
    return None


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
    left = [memory for memory in memories if memory is not None]
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
