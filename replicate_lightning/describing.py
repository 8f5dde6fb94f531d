"""What is trained, and how, as plain data: hyperparameters, and what the trainer can tell."""

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
"""What LightningCLI keeps for itself among hyperparameters."""

DEPTH_MAX = 32
"""Nesting of hyperparameters; what is deeper contains itself, most likely."""

ARRAY_MAX = 1000
"""Numbers of an array among hyperparameters; more of them are data."""


class Plain:
    """Hyperparameters as they are recorded: numbers, texts, lists, dictionaries.

    What the core takes is as it makes it; classes and functions become their names; what OmegaConf can't resolve, and
    what is missing there, stays the text that the configuration holds.

    Attributes:
        values: what was added.
        left_out: what can't be recorded, each with its type.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.left_out: list[str] = []

    def add(self, values: Any) -> None:
        """Add hyperparameters, of which none may be there, unless there are some of the same name."""
        for name, value in self._items(_opened(values) or {}, "", 0).items():
            self.values.setdefault(name, value)

    def warn(self) -> None:
        """Name what was left out, if anything was, in one warning."""
        if self.left_out:
            warn(
                f"hyperparameters that are neither numbers nor text are not recorded: {', '.join(self.left_out)}. Give "
                "what matters of them as params, or leave them out with save_hyperparameters(ignore=[...])"
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
        """Raises `InvalidInput`: it can't be recorded, nor can a part of it by itself."""
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
    """A key of a dictionary as text. Raises `InvalidInput`: it has none."""
    named: Any = plain({key: None}, name="hyperparameters")
    return str(next(iter(named)))


def _name(value: Any) -> str | None:
    """How a class or a function is called; None for anything else, whose text may be another one in each process."""
    if not hasattr(value, "__qualname__"):
        return repr(value) if isinstance(value, (range, slice)) else None
    module = getattr(value, "__module__", None)
    return value.__qualname__ if module in (None, "builtins") else f"{module}.{value.__qualname__}"


def _opened(value: Any) -> Any:
    """What holds values by name or in order, as a dictionary or a list, one level deep; anything else as it is."""
    if isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    omegaconf = sys.modules.get("omegaconf")  # it is in use if there is anything of it
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


def hyperparameters(*owners: Any, tells: bool) -> dict[str, Any]:
    """Those of a module and of a data module; of two with the same name the first one's.

    Args:
        owners: they.
        tells: whether to warn of what can't be recorded.
    """
    found = Plain()
    for owner in owners:
        found.add(getattr(owner, "hparams", None))
    if tells:
        found.warn()
    return found.values


def description(trainer: Any, module: Any) -> dict[str, Any]:
    """What is trained, and how; what can't be told is left out."""
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
        with suppress(Exception):  # of a trainer of another version, or of lazy parameters
            told[name] = plain(attempt(), name=name)
    return told


def _optimizer(optimizer: Any) -> dict[str, Any]:
    found = Plain()
    found.add(optimizer.defaults)
    return {"class": type(optimizer).__name__, **found.values}
