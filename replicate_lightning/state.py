"""What training depends on beside what Lightning saves: random states, what is frozen, what is due after the save.

It is put into Lightning's own checkpoint, under one name, in numbers, texts and tensors: torch loads it without
unpickling anything.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from replicate_core import InvalidInput
from replicate_core.adapters import has_random_state, warn

NAME = "replicate"
"""Of the entry in a checkpoint of Lightning."""


def of_all_ranks(trainer: Any) -> list[dict[str, Any]]:
    """The random states of every rank, in order. Every rank must take part."""
    own = random_states()
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def random_states() -> dict[str, Any]:
    """The states of Python, torch, and NumPy if it is in use."""
    version, internal, gauss = random.getstate()
    states: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state(legacy=True)
        if name == "MT19937":  # else somebody has put in another one
            states["numpy"] = [name, [int(key) for key in keys], *rest]
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Go on with random states as they were."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    if "numpy" in states:
        import numpy as np  # noqa: PLC0415  # it was in use when this was saved

        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, "uint32"), *rest))


def draws_by_itself(loader: Any) -> bool:
    """Whether a data loader of torch draws from a random generator of its own, or its dataset does."""
    if not isinstance(loader, torch.utils.data.DataLoader) or hasattr(loader, "state_dict"):
        return False  # a loader that can say where it is goes on from there
    return any(map(has_random_state, (loader, loader.sampler, loader.dataset)))


def switches(module: Any) -> dict[str, dict[str, bool]]:
    """What of a module is trained: which of its parameters, and of which BatchNorm layers the statistics."""
    tracking = {name: getattr(part, "track_running_stats", None) for name, part in module.named_modules()}
    return {
        "requires_grad": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "track_running_stats": {name: value for name, value in tracking.items() if isinstance(value, bool)},
    }


def switched(module: Any, before: dict[str, dict[str, bool]]) -> dict[str, dict[str, bool]]:
    """Those switches that are not as they were when training began: what has frozen or unfrozen something since."""
    return {
        kind: {name: value for name, value in values.items() if before[kind].get(name, value) != value}
        for kind, values in switches(module).items()
    }


def switch(module: Any, changed: dict[str, dict[str, bool]]) -> None:
    """Freeze and unfreeze what training had, before it was saved: Lightning saves weights, not that."""
    parameters, parts = dict(module.named_parameters()), dict(module.named_modules())
    for name, value in changed.get("requires_grad", {}).items():
        if name in parameters:
            parameters[name].requires_grad_(value)
    for name, value in changed.get("track_running_stats", {}).items():
        if name in parts:
            parts[name].track_running_stats = value


def described(optimizers: list[Any]) -> list[dict[str, Any]]:
    """What tells optimizers apart that are just made: their class, the sizes of their groups, and learning rates."""
    return [
        {
            "class": type(optimizer).__name__,
            "groups": [len(group["params"]) for group in optimizer.param_groups],
            "rates": [float(group["lr"]) for group in optimizer.param_groups if "lr" in group],
        }
        for optimizer in optimizers
    ]


def check_optimizers(now: list[dict[str, Any]], before: list[dict[str, Any]] | None) -> None:
    """Make sure that what was saved fits the optimizers of this start, and say so if their learning rates differ.

    Args:
        now: as `described`.
        before: those of the start that was saved; None if an earlier version has saved it.

    Raises:
        InvalidInput: it does not fit.
    """
    if before is None:
        return
    if len(now) != len(before) or not all(map(_fits, now, before)):
        raise InvalidInput(
            f"the optimizers were {_shape(before)} when this run began, and are {_shape(now)} now: what was saved does "
            "not fit. Was configure_optimizers changed since? Then begin anew: another name, or no resume"
        )
    rates = ((old["rates"], new["rates"]) for old, new in zip(before, now, strict=True))
    if (changed := next(((old, new) for old, new in rates if old != new[: len(old)]), None)) is not None:
        old, new = changed
        warn(
            f"the learning rate is {_shown(new)} in configure_optimizers, and was {_shown(old)} when this run began: "
            "training goes on with that of the checkpoint. Should it be the new one, set it in on_train_start"
        )


def _fits(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether an optimizer is of the same kind; groups that `BaseFinetuning` has added may come behind the others."""
    groups = now["groups"][: len(before["groups"])]
    return bool(now["class"] == before["class"] and groups == before["groups"])


def _shape(optimizers: list[dict[str, Any]]) -> str:
    shown = (f"{one['class']} of {'+'.join(map(str, one['groups']))} parameters" for one in optimizers)
    return ", ".join(shown) or "none"


def _shown(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def plateaus(trainer: Any) -> dict[str, float]:
    """What each `ReduceLROnPlateau` is about to be told at the end of this epoch, by its number.

    Lightning tells them after the callbacks have saved, and when it goes on, not at all: the metrics are gone.
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


def tell_plateaus(trainer: Any, values: dict[str, float]) -> None:
    """Tell them now."""
    for number, config in enumerate(trainer.lr_scheduler_configs):
        if config.reduce_on_plateau and str(number) in values:
            trainer.lightning_module.lr_scheduler_step(config.scheduler, values[str(number)])
