"""What is trained, and how, as plain data: hyperparameters, and what the trainer can tell."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any


def hyperparameters(*owners: Any) -> dict[str, Any]:
    """Those of a module and of a data module, as far as they are JSON; of two with the same name the first one's."""
    found: dict[str, Any] = {}
    for owner in owners:
        for name, value in plain_items(getattr(owner, "hparams", None) or {}).items():
            found.setdefault(name, value)
    return found


def plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are JSON. Not those which LightningCLI keeps for itself."""
    return {
        str(name): value for name, value in dict(values).items() if _is_json(value) and not str(name).startswith("_")
    }


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()  # half of a pair is no text
        return _has_plain_keys(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _has_plain_keys(value: object) -> bool:
    """Tell whether all keys are texts and numbers: `json` makes texts of None and True, too, which the core refuses."""
    if isinstance(value, dict):
        keys_are_plain = all(isinstance(key, (str, int, float)) and not isinstance(key, bool) for key in value)
        return keys_are_plain and all(map(_has_plain_keys, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_has_plain_keys, value))


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
            value = attempt()
            if _is_json(value):
                told[name] = value
    return told


def _optimizer(optimizer: Any) -> dict[str, Any]:
    return {"class": type(optimizer).__name__, **plain_items(optimizer.defaults)}
