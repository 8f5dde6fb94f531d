"""Which process of a distributed run this is: one of them records, the others must not.

Asks the launcher's environment, and frameworks that are imported and initialised already; initialises nothing. Neither
does a worker of multiprocessing record while it imports the script of the process that started it.

The first process tells the others which experiment it records, through the key-value store that a process group has
anyway: no collective call is made, because a process that has no part in it would make all of them wait.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from replicate_core.format.ids import is_id

OVERRIDE = "REPLICATE_RANK"

_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Torchrun and its like; Open MPI; MPICH and Intel MPI; Slurm."""

_PARTS = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
"""The number of the machine, and of the process on it: the first process is 0 in both."""

LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Those that start runs of their own just as well as the processes of one run."""

IMPORTING = "multiprocessing"
"""Says that this process only imports the script, in order to be a worker of it."""

_CHIEFS = ("chief", "master")

TOLD_SECONDS = 10.0
"""How long another process waits, at most, for the first one to have begun its experiment."""

_POLL_SECONDS = 0.01

_told = itertools.count()
"""Numbers the experiments that the first process tells of, there and in the others."""

_joined: set[str] = set()
"""Those that another process knows already."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The number of this process in a distributed run."""

    number: int
    source: str
    """What says so."""


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank of this process; 0 where nothing says that the run is distributed."""
    return next(_said(environment), Rank(0, "nothing"))


def is_first_worker() -> bool:
    """Whether this process is the first one that its parent started: the others need not say the same again."""
    process = sys.modules.get("multiprocessing.process")
    number = None if process is None else re.search(r"-(\d+)$", process.current_process().name)
    return number is None or number[1] == "1"


def tell_id(experiment: str) -> None:
    """In the first process: tell the others which experiment it has begun, if there is a process group."""
    if (board := _board()) is not None:
        with suppress(Exception):  # whatever a framework raises: the others go without it
            board.write(_key(next(_told)), experiment)


def told_id() -> str | None:
    """In another process: the id of the experiment that the first one has begun; None where it does not tell.

    It is waited for, as the next collective call would wait, but not for long.
    """
    if (board := _board()) is None:
        return None
    deadline = time.monotonic() + TOLD_SECONDS
    with suppress(Exception):  # as above
        while (found := _read(board, _key(next(_told)), deadline)) in _joined:
            pass
        return found if is_id(found) else None
    return None


def know_id(experiment: str) -> None:
    """In another process: it was told of this experiment by other means already."""
    _joined.add(experiment)


def _read(board: _Board, key: str, deadline: float) -> str | None:
    while (found := board.read(key)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def _key(number: int) -> str:
    return f"replicate/experiment/{number}"


class _Board(Protocol):
    """Texts under keys, which all processes of a run see."""

    def write(self, key: str, text: str) -> None: ...

    def read(self, key: str) -> str | None:
        """None if nobody has written it."""


class _TorchBoard:
    """The store by which the processes of torch.distributed have found one another."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def write(self, key: str, text: str) -> None:
        self._store.set(key, text)

    def read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None


class _JaxBoard:
    """The key-value store of jax.distributed."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def write(self, key: str, text: str) -> None:
        self._client.key_value_set(key, text)

    def read(self, key: str) -> str | None:
        try:
            return str(self._client.blocking_key_value_get(key, int(1000 * _POLL_SECONDS)))
        except Exception as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise


def _board() -> _Board | None:
    with suppress(Exception):  # names that the frameworks do not promise
        if (distributed := _torch_group()) is not None:
            return _TorchBoard(distributed.distributed_c10d._get_default_store())  # noqa: SLF001  # there is no other way to it
        if (client := _jax_client()) is not None:
            return _JaxBoard(client)
    return None


def _said(environment: Mapping[str, str]) -> Iterator[Rank]:
    """What the sources say, the surest first."""
    yield from _said_by_variable(environment, OVERRIDE)
    if _imports_script_of_parent():
        yield Rank(1, IMPORTING)
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


def _imports_script_of_parent() -> bool:
    """Whether this is called by the lines of a script that run again when spawn or forkserver import it."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # the documented way to it
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            return True
        frame = frame.f_back
    return False


def _tensorflow_rank(config: dict[str, dict[str, Any]]) -> int:
    """The chief comes first, then the workers; where there is no chief, the first worker is it."""
    kind, index = config["task"]["type"], int(config["task"].get("index", 0))
    has_chief = any(config.get("cluster", {}).get(word) for word in _CHIEFS)
    if kind == "worker":
        return index + has_chief
    return 0 if kind in _CHIEFS else 1 + index  # evaluators and parameter servers never record


def _said_by_frameworks() -> Iterator[Rank]:
    if (distributed := _torch_group()) is not None:
        yield Rank(distributed.get_rank(), "torch.distributed")
    if _jax_client() is not None and isinstance(number := _jax_state().process_id, int):
        yield Rank(number, "jax.distributed")


def _torch_group() -> Any:
    """torch.distributed, if it is initialised; else None."""
    distributed: Any = sys.modules.get("torch.distributed")
    has_group = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if has_group else None


def _jax_state() -> Any:
    """Where jax.distributed.initialize() notes things; jax.process_index() would start the backend."""
    return getattr(sys.modules.get("jax._src.distributed"), "global_state", None)


def _jax_client() -> Any:
    return getattr(_jax_state(), "client", None)
