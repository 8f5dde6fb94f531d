"""What training depends on beside what Lightning saves: random states, and where they come from.

It is put into Lightning's own checkpoint, under one name, in numbers, texts and tensors: torch loads it without
unpickling anything.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

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
