"""Which process of a distributed run this is: only one of them may record.

The rank comes from the launcher's environment, and from frameworks that are already imported and initialised; nothing
is initialised here. A worker of multiprocessing does not record either while it imports the script of its parent.

The first process publishes the id of its experiment to the others, through the key-value store that a process group
already has. It makes no collective call, because all processes would wait for one that does not take part.
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
"""Variables of torchrun and similar launchers, Open MPI, MPICH and Intel MPI, and Slurm."""

_PARTS = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
"""Variables for the number of the machine and of the process on it: the first process is 0 in both."""

LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Variables of launchers that may start separate runs as well as the processes of one run."""

IMPORTING = "multiprocessing"
"""Source of the rank of a process that only imports the script, to become a worker of it."""

_CHIEFS = ("chief", "master")

TOLD_SECONDS = 10.0
"""Maximum number of seconds that another process waits for the first one to begin its experiment."""

_POLL_SECONDS = 0.01

_numbers = itertools.count()
"""Numbers the published experiments, in the first process and in the others."""

_known: set[str] = set()
"""Ids that this process, not being the first one, knows already."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The number of this process in a distributed run."""

    number: int
    source: str
    """Where the number comes from."""


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank of this process; 0 where nothing says that the run is distributed."""
    return next(_candidates(environment), Rank(0, "nothing"))


def is_first_worker() -> bool:
    """Whether this process is the first one that its parent started: the others need not repeat a warning."""
    process = sys.modules.get("multiprocessing.process")
    number = None if process is None else re.search(r"-(\d+)$", process.current_process().name)
    return number is None or number[1] == "1"


def tell_id(experiment: str) -> None:
    """In the first process: publish the id of its experiment to the others, if there is a process group."""
    if (store := _shared_store()) is not None:
        with suppress(Exception):  # whatever a framework raises, the others then do without the id
            store.write(_key(next(_numbers)), experiment)


def told_id() -> str | None:
    """In another process: the id of the experiment that the first one began; None if it is not published.

    This waits for the id, as the next collective call would, for at most `TOLD_SECONDS`.
    """
    if (store := _shared_store()) is None:
        return None
    deadline = time.monotonic() + TOLD_SECONDS
    with suppress(Exception):  # as above
        while (found := _read(store, _key(next(_numbers)), deadline)) in _known:
            pass
        return found if is_id(found) else None
    return None


def know_id(experiment: str) -> None:
    """In another process: note that it already knows this experiment by other means."""
    _known.add(experiment)


def _read(store: _SharedStore, key: str, deadline: float) -> str | None:
    while (found := store.read(key)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def _key(number: int) -> str:
    return f"replicate/experiment/{number}"


class _SharedStore(Protocol):
    """A key-value store of strings that all processes of a run share."""

    def write(self, key: str, text: str) -> None: ...

    def read(self, key: str) -> str | None:
        """The value of a key; None if nobody has written it."""


class _TorchStore:
    """The store of torch.distributed, through which its processes found each other."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def write(self, key: str, text: str) -> None:
        self._store.set(key, text)

    def read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None


class _JaxStore:
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


def _shared_store() -> _SharedStore | None:
    with suppress(Exception):  # the frameworks do not guarantee these names
        if (distributed := _torch_group()) is not None:
            return _TorchStore(distributed.distributed_c10d._get_default_store())  # noqa: SLF001  # there is no other way to it
        if (client := _jax_client()) is not None:
            return _JaxStore(client)
    return None


def _candidates(environment: Mapping[str, str]) -> Iterator[Rank]:
    """The ranks that the sources give, the most reliable first."""
    yield from _from_variable(environment, OVERRIDE)
    if _imports_script_of_parent():
        yield Rank(1, IMPORTING)
    yield from _from_frameworks()
    for name in _VARIABLES:
        yield from _from_variable(environment, name)
    with suppress(KeyError, ValueError, OverflowError, TypeError, AttributeError):
        yield Rank(_tensorflow_rank(json.loads(environment["TF_CONFIG"])), "TF_CONFIG")
    for name in _PARTS:  # Lightning's own launcher sets no others
        yield from (rank for rank in _from_variable(environment, name) if rank.number)


def _from_variable(environment: Mapping[str, str], name: str) -> Iterator[Rank]:
    with suppress(KeyError, ValueError):
        if (number := int(environment[name])) >= 0:  # -1 commonly means "not distributed"
            yield Rank(number, name)


def _imports_script_of_parent() -> bool:
    """Whether this is called from a script that spawn or forkserver imports in a worker."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # the documented way to it
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            return True
        frame = frame.f_back
    return False


def _tensorflow_rank(config: dict[str, dict[str, Any]]) -> int:
    """The rank of a task: the chief comes first, then the workers; without a chief, the first worker is the chief."""
    kind, index = config["task"]["type"], int(config["task"].get("index", 0))
    has_chief = any(config.get("cluster", {}).get(word) for word in _CHIEFS)
    if kind == "worker":
        return index + has_chief
    return 0 if kind in _CHIEFS else 1 + index  # evaluators and parameter servers never record


def _from_frameworks() -> Iterator[Rank]:
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
    """The state that jax.distributed.initialize() sets; jax.process_index() would start the backend."""
    return getattr(sys.modules.get("jax._src.distributed"), "global_state", None)


def _jax_client() -> Any:
    return getattr(_jax_state(), "client", None)
