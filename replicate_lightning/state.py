"""The state of training that Lightning does not save: random states, frozen parameters, pending scheduler steps.

It is added to Lightning's own checkpoint under one key, as numbers, strings and tensors: torch loads it without
unpickling objects.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from replicate_core import InvalidInput
from replicate_core.adapters import has_random_state, warn

NAME = "replicate"
"""Key of the state in a checkpoint of Lightning."""


def random_states_of_all_ranks(trainer: Any) -> list[dict[str, Any]]:
    """Return the random states of all ranks, in order. Every rank must call this."""
    own = random_states()
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def random_states() -> dict[str, Any]:
    """Return the random states of Python, torch, and NumPy if it is imported."""
    version, internal, gauss = random.getstate()
    states: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state(legacy=True)
        if name == "MT19937":  # else NumPy's global generator was replaced
            states["numpy"] = [name, [int(key) for key in keys], *rest]
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore random states."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    if "numpy" in states:
        import numpy as np  # noqa: PLC0415  # it was imported when this was saved

        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, "uint32"), *rest))


def has_own_generator(loader: Any) -> bool:
    """Tell whether a torch `DataLoader` or its dataset has a random generator of its own."""
    if not isinstance(loader, torch.utils.data.DataLoader) or hasattr(loader, "state_dict"):
        return False  # a loader with a state_dict resumes from it
    return any(map(has_random_state, (loader, loader.sampler, loader.dataset)))


def training_flags(module: Any) -> dict[str, dict[str, bool]]:
    """Return which parameters of a module are trained, and which BatchNorm layers track statistics."""
    tracking = {name: getattr(part, "track_running_stats", None) for name, part in module.named_modules()}
    return {
        "requires_grad": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "track_running_stats": {name: value for name, value in tracking.items() if isinstance(value, bool)},
    }


def changed_flags(module: Any, before: dict[str, dict[str, bool]]) -> dict[str, dict[str, bool]]:
    """Return the flags that changed since training began: something was frozen or unfrozen."""
    return {
        kind: {name: value for name, value in values.items() if before[kind].get(name, value) != value}
        for kind, values in training_flags(module).items()
    }


def restore_flags(module: Any, changed: dict[str, dict[str, bool]]) -> None:
    """Freeze and unfreeze parts of a module as in the saved training: Lightning saves only weights."""
    parameters, parts = dict(module.named_parameters()), dict(module.named_modules())
    for name, value in changed.get("requires_grad", {}).items():
        if name in parameters:
            parameters[name].requires_grad_(value)
    for name, value in changed.get("track_running_stats", {}).items():
        if name in parts:
            parts[name].track_running_stats = value


def describe_optimizers(optimizers: list[Any]) -> list[dict[str, Any]]:
    """Describe new optimizers: class, number of parameters in each group, and learning rates."""
    return [
        {
            "class": type(optimizer).__name__,
            "groups": [len(group["params"]) for group in optimizer.param_groups],
            "rates": [float(group["lr"]) for group in optimizer.param_groups if "lr" in group],
        }
        for optimizer in optimizers
    ]


def check_optimizers(now: list[dict[str, Any]], before: list[dict[str, Any]] | None) -> None:
    """Check that the saved training fits the optimizers of this start, and warn if their learning rates differ.

    Args:
        now: the result of `describe_optimizers`.
        before: the same of the saved training's first start; None in checkpoints of earlier versions.

    Raises:
        InvalidInput: the optimizers do not fit.
    """
    if before is None:
        return
    if len(now) != len(before) or not all(map(_fits, now, before)):
        raise InvalidInput(
            f"the optimizers were {_shape(before)} when this run began, and are {_shape(now)} now: what was saved does "
            "not fit. If configure_optimizers was changed since, start a new run: give another "
            "name, or leave resume out"
        )
    rates = ((old["rates"], new["rates"]) for old, new in zip(before, now, strict=True))
    if (changed := next(((old, new) for old, new in rates if old != new[: len(old)]), None)) is not None:
        old, new = changed
        warn(
            f"the learning rate is {_shown(new)} in configure_optimizers, and was {_shown(old)} when this run began: "
            "training resumes with that of the checkpoint. To use the new one, set it in on_train_start"
        )


def _fits(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Tell whether an optimizer has the same class and groups; `BaseFinetuning` may have appended more groups."""
    groups = now["groups"][: len(before["groups"])]
    return bool(now["class"] == before["class"] and groups == before["groups"])


def _shape(optimizers: list[dict[str, Any]]) -> str:
    shown = (f"{one['class']} of {'+'.join(map(str, one['groups']))} parameters" for one in optimizers)
    return ", ".join(shown) or "none"


def _shown(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def plateaus(trainer: Any) -> dict[str, float]:
    """Return the metric that each `ReduceLROnPlateau` is about to get at the end of this epoch, by its number.

    Lightning steps these schedulers after callbacks have saved. A resumed training does not, as the metrics are gone.
    """
    if not trainer.lightning_module.automatic_optimization:
        return {}
    metrics = trainer.callback_metrics
    return {
        str(number): float(metrics[config.monitor])
        for number, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau
        and config.interval == "epoch"
        and (trainer.current_epoch + 1) % config.frequency == 0
        and config.monitor in metrics
    }


def step_plateaus(trainer: Any, values: dict[str, float]) -> None:
    """Step each `ReduceLROnPlateau` with its saved metric."""
    for number, config in enumerate(trainer.lr_scheduler_configs):
        if config.reduce_on_plateau and str(number) in values:
            trainer.lightning_module.lr_scheduler_step(config.scheduler, values[str(number)])
