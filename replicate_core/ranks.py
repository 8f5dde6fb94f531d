"""Which process of a distributed run this is: one of them records, the others must not.

Asks the launcher's environment, and frameworks that are imported and initialised already; initialises nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

OVERRIDE = "REPLICATE_RANK"

_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Torchrun and its like; Open MPI; MPICH and Intel MPI; Slurm."""

_PARTS = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
"""The number of the machine, and of the process on it: the first process is 0 in both."""

LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Those that start runs of their own just as well as the processes of one run."""

_CHIEFS = ("chief", "master")


@dataclass(frozen=True, slots=True)
class Rank:
    """The number of this process in a distributed run."""

    number: int
    source: str
    """What says so."""


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank of this process; 0 where nothing says that the run is distributed."""
    return next(_said(environment), Rank(0, "nothing"))


def _said(environment: Mapping[str, str]) -> Iterator[Rank]:
    """What the sources say, the surest first."""
    yield from _said_by_variable(environment, OVERRIDE)
    yield from _said_by_frameworks()
    for name in _VARIABLES:
        yield from _said_by_variable(environment, name)
    with suppress(KeyError, ValueError, OverflowError, TypeError, AttributeError):
        yield Rank(_tensorflow_rank(json.loads(environment["TF_CONFIG"])), "TF_CONFIG")
    for name in _PARTS:  # Lightning's own launcher says no more
        yield from (rank for rank in _said_by_variable(environment, name) if rank.number)


def _said_by_variable(environment: Mapping[str, str], name: str) -> Iterator[Rank]:
    with suppress(KeyError, ValueError):
        if (number := int(environment[name])) >= 0:  # -1 is a common word for "not distributed"
            yield Rank(number, name)


def _tensorflow_rank(config: dict[str, dict[str, Any]]) -> int:
    """The chief comes first, then the workers; where there is no chief, the first worker is it."""
    kind, index = config["task"]["type"], int(config["task"].get("index", 0))
    has_chief = any(config.get("cluster", {}).get(word) for word in _CHIEFS)
    if kind == "worker":
        return index + has_chief
    return 0 if kind in _CHIEFS else 1 + index  # evaluators and parameter servers never record


def _said_by_frameworks() -> Iterator[Rank]:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        yield Rank(distributed.get_rank(), "torch.distributed")
    # jax.process_index() would start the backend; this is where jax.distributed.initialize() notes the number.
    state: Any = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    if getattr(state, "client", None) is not None and isinstance(state.process_id, int):
        yield Rank(state.process_id, "jax.distributed")
