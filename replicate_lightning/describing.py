"""Describes a training as plain data: its hyperparameters, and facts about the trainer."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import math
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from replicate_core import InvalidInput
from replicate_core.adapters import plain, warn

OF_LIGHTNING_CLI = frozenset({"_class_path", "_instantiator"})
"""Hyperparameters that LightningCLI adds for its own use."""

DEPTH_MAX = 32
"""Maximum nesting of hyperparameters; anything deeper most likely contains itself."""

ARRAY_MAX = 1000
"""Maximum number of values in an array among hyperparameters; larger arrays are data."""


class Plain:
    """Hyperparameters as they are recorded: numbers, strings, lists, dictionaries.

    The core converts what it can. Classes and functions become their names. Values that OmegaConf can't resolve, or
    that are missing, stay the strings of the configuration.

    Attributes:
        values: name to value of the hyperparameters added.
        left_out: names of values that can't be recorded, each with its type.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.left_out: list[str] = []

    def add(self, values: Any) -> None:
        """Add hyperparameters (None adds nothing); a name that is already there keeps its value."""
        for name, value in self._items(_opened(values) or {}, "", 0).items():
            self.values.setdefault(name, value)

    def warn(self) -> None:
        """Warn once, with the names of all values that were left out, if there are any."""
        if self.left_out:
            warn(
                f"hyperparameters that are neither numbers nor strings are not recorded: {', '.join(self.left_out)}. "
                "Give those that matter as params, or leave them out with save_hyperparameters(ignore=[...])"
            )

    def _items(self, values: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            if depth == 0 and key in OF_LIGHTNING_CLI:
                continue
            called = f"{path}.{key}" if path else str(key)
            try:
                found[_key(key)] = self._value(value, called, depth + 1)
            except InvalidInput:
                self.left_out.append(f"{ascii(called)[1:-1]} ({type(value).__qualname__})")
        return found

    def _value(self, value: Any, path: str, depth: int) -> Any:
        """Convert a value. Raises `InvalidInput` if it can't be recorded, not even in part."""
        value = _opened(value)
        shape = getattr(value, "shape", None)
        if depth > DEPTH_MAX or (isinstance(shape, tuple) and math.prod(shape) > ARRAY_MAX):
            raise InvalidInput(path)
        if isinstance(value, Mapping):
            return self._items(value, path, depth)
        if isinstance(value, (list, tuple)):
            return [self._value(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(value)]
        if isinstance(value, functools.partial):
            given = [repr(self._value(item, path, depth + 1)) for item in value.args]
            named = [f"{name}={self._value(item, path, depth + 1)!r}" for name, item in value.keywords.items()]
            return f"{_name(value.func)}({', '.join(given + named)})"
        try:
            return plain(value, name=path)
        except InvalidInput:
            if (name := _name(value)) is None:
                raise
            return name


def _key(key: Any) -> str:
    """Convert a key of a dictionary to a string. Raises `InvalidInput` if it can't be."""
    named: Any = plain({key: None}, name="hyperparameters")
    return str(next(iter(named)))


def _name(value: Any) -> str | None:
    """Return the name of a class or function; None for anything else, as its repr may differ between processes."""
    if not hasattr(value, "__qualname__"):
        return repr(value) if isinstance(value, (range, slice)) else None
    module = getattr(value, "__module__", None)
    return value.__qualname__ if module in (None, "builtins") else f"{module}.{value.__qualname__}"


def _opened(value: Any) -> Any:
    """Convert a namespace, dataclass or OmegaConf container to a dict or list, one level deep; else return it."""
    if isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    omegaconf = sys.modules.get("omegaconf")  # imported if the value is one of its containers
    if omegaconf is None or not omegaconf.OmegaConf.is_config(value):
        return value
    written = omegaconf.OmegaConf.to_container(value, resolve=False)

    def item(key: Any) -> Any:
        try:
            return value[key]
        except omegaconf.errors.OmegaConfBaseException:
            return written[key]

    if isinstance(written, dict):
        return {key: item(key) for key in written}
    return [item(number) for number in range(len(written))] if isinstance(written, list) else written


def hyperparameters(*owners: Any, warns: bool) -> dict[str, Any]:
    """Return the hyperparameters of a module and a data module; on a clash of names the first owner wins.

    Args:
        owners: the module and the data module.
        warns: whether to warn about values that can't be recorded.
    """
    found = Plain()
    for owner in owners:
        found.add(getattr(owner, "hparams", None))
    if warns:
        found.warn()
    return found.values


def description(trainer: Any, module: Any) -> dict[str, Any]:
    """Describe the training; leaves out what can't be determined."""
    told: dict[str, Any] = {}
    attempts: dict[str, Callable[[], Any]] = {
        "version": lambda: importlib.metadata.version(type(trainer).__module__.partition(".")[0].replace("_", "-")),
        "module": lambda: type(module).__name__,
        "parameters": lambda: sum(parameter.numel() for parameter in module.parameters()),
        "optimizers": lambda: [_optimizer(optimizer) for optimizer in trainer.optimizers],
        "epochs": lambda: trainer.max_epochs,
        "batches": lambda: trainer.num_training_batches,
        "precision": lambda: trainer.precision,
        "strategy": lambda: type(trainer.strategy).__name__,
        "processes": lambda: trainer.world_size,
        "accumulate_grad_batches": lambda: trainer.accumulate_grad_batches,
    }
    for name, attempt in attempts.items():
        with suppress(Exception):  # the trainer is of another version, or parameters are lazy
            told[name] = plain(attempt(), name=name)
    return told


def _optimizer(optimizer: Any) -> dict[str, Any]:
    found = Plain()
    found.add(optimizer.defaults)
    return {"class": type(optimizer).__name__, **found.values}
