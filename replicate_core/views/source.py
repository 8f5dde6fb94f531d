"""What is known about experiments: what is stored, what waits in the spool of this project, and signs of life.

Nothing is shown twice: a checkpoint that waits and one that was stored meanwhile are the same if their ids are.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple, NoReturn, overload

from replicate_core.errors import Corrupted, NotFound
from replicate_core.format import ids, records
from replicate_core.format.records import Checkpointed, Created, Ended, ExperimentState, Record, Resumed, Status
from replicate_core.format.segments import Summary, summarise
from replicate_core.format.values import dumps
from replicate_core.machine.gc_pause import collection_paused
from replicate_core.machine.staging import StagedFile, open_copy
from replicate_core.repository import catalogue, heartbeats
from replicate_core.repository.catalogue import Catalogue, StoredExperiment
from replicate_core.repository.heartbeats import LOST_AFTER, Heartbeat
from replicate_core.repository.repository import Repository, Unusable, warn
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Job, Queue

COPY_BYTES = 1 << 20


class _State:
    """The state of an experiment, read from its records on first use: a listing needs the state of few experiments."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> NoReturn: ...
    @overload
    def __get__(self, instance: object, owner: type) -> ExperimentState: ...
    def __get__(self, instance: object | None, owner: type) -> ExperimentState:
        if instance is None:  # `dataclass` looks for a default of the field
            raise AttributeError(self._name)
        given: ExperimentState | StoredExperiment = instance.__dict__[self._name]
        return given.state if isinstance(given, StoredExperiment) else given

    def __set__(self, instance: object, given: ExperimentState | StoredExperiment) -> None:
        instance.__dict__[self._name] = given


@dataclass(frozen=True)
class ExperimentView:
    """What is known about one experiment."""

    state: _State = _State()  # a descriptor, not a default
    """Its `ExperimentState`, given as that, or as a `StoredExperiment` to read it from."""
    status: Status  # type: ignore[misc]  # the field before has no default: see `_State`
    waiting: frozenset[str] = frozenset()
    """The ids that are not stored yet: of the experiment itself, and of its checkpoints."""
    heartbeat: Heartbeat | None = None
    """Its last sign of life; None if it has ended or never gave one."""

    def __reduce__(self) -> tuple[type[ExperimentView], tuple[object, ...]]:
        """For pickles and copies: with the state, which this reads."""
        return ExperimentView, (self.state, self.status, self.waiting, self.heartbeat)

    @property
    def experiment(self) -> str:
        """Its id."""
        given: ExperimentState | StoredExperiment = self.__dict__["_state"]
        return given.experiment if isinstance(given, StoredExperiment) else given.created.experiment

    @property
    def created(self) -> datetime:
        """When it began."""
        given: ExperimentState | StoredExperiment = self.__dict__["_state"]
        return given.summary.created if isinstance(given, StoredExperiment) else given.created.created


class Source:
    """Finds what is known about experiments, in the storage and in the spool.

    Args:
        open_repository: opens the storage, when it is first needed.
        spool: the spool of the project.
        check: called if nothing was found; it may raise because the storage is not a repository.
    """

    def __init__(
        self, open_repository: Callable[[], Repository], spool: Spool, *, check: Callable[[], object] = lambda: None
    ) -> None:
        self._open_repository = open_repository
        self.spool = spool
        self._check = check

    def __getstate__(self) -> dict[str, object]:
        """For pickles and copies: without connections. The storage is opened again when it is needed."""
        return {"_open_repository": self._open_repository, "spool": self.spool, "_check": self._check}

    @cached_property
    def repository(self) -> Repository:
        """What is stored."""
        return self._open_repository()

    def all(self, unusable: Unusable | None = None) -> dict[str, ExperimentView]:
        """Every experiment that is not deleted, by id, in the order they began.

        Args:
            unusable: as in `Repository.read_records`.
        """
        spooled = _read_queues(self.spool.queues(), unusable)
        stored = catalogue.read(self.repository, unusable)
        return self._checked(self._listed(spooled, stored, stored.experiments))

    def one(self, experiment: str) -> ExperimentView | None:
        """One experiment; None if there is none with that id."""
        spooled = _read_queues(self.spool.queues_of(experiment))
        stored = catalogue.read(self.repository, experiment=experiment)
        found = stored.one(experiment)
        return self._listed(spooled, stored, {} if found is None else {experiment: found}).get(experiment)

    def matching(self, prefix: str) -> list[tuple[ExperimentView, str | None]]:
        """The experiments (with None) and checkpoints (as their experiment and id) whose id has this prefix."""
        wanted = prefix.strip().lower()
        found: list[tuple[ExperimentView, str | None]] = []
        begun = dumps(wanted)[:-1]
        for listed in self.candidates([f'"experiment":{begun}'], [f'"id":{begun}']).values() if wanted else ():
            own = [(listed, item.id) for item in listed.state.checkpoints if item.id.startswith(wanted)]
            found += [(listed, None), *own] if listed.experiment.startswith(wanted) else own
        return found

    def named(self, name: str) -> list[str]:
        """The ids of the experiments that have a name, in the order they began."""
        found = self.candidates([f'"name":{dumps(name)}'])
        return [identifier for identifier, listed in found.items() if listed.state.created.name == name]

    def candidates(self, *alternatives: Collection[str]) -> dict[str, ExperimentView]:
        """Like `Catalogue.candidates`, including what waits; the result is like that of `all`."""
        spooled = _read_queues(self.spool.queues())
        stored = catalogue.read(self.repository)
        found = {one.experiment: one for one in stored.candidates(*alternatives)}
        return self._checked(self._listed(spooled, stored, found))

    def _checked(self, found: dict[str, ExperimentView]) -> dict[str, ExperimentView]:
        if not found:
            self._check()
        return found

    def state(self, experiment: str) -> ExperimentState:
        """The state of an experiment. Raises `NotFound` if there is none with that id."""
        listed = self.one(experiment)
        if listed is None:
            raise NotFound(f"the experiment {ids.short(experiment)} is no longer in {self.repository.store.url}")
        return listed.state

    def open_waiting(self, experiment: str, checkpoint: str, path: str) -> io.BufferedReader | None:
        """Open a file of a checkpoint that is not stored yet; None once it is."""
        for queue, job in self._waiting_files(experiment, checkpoint):
            while (found := queue.copy_of(job, path)) is not None:
                with suppress(FileNotFoundError):  # it was claimed or stored meanwhile
                    private = _private_copy(found)
                    if found.copy.exists():  # if not, it may have been overwritten while it was copied
                        return private
                    private.close()
        return None

    def waiting_files(self, experiment: str, checkpoint: str) -> dict[str, int] | None:
        """The files of a checkpoint that is not stored yet, path to size; None once it is."""
        for queue, job in self._waiting_files(experiment, checkpoint):
            assert job.staged is not None, "these have files"
            files = {file.path: file.size for file in job.staged.files}
            if all(queue.copy_of(job, path) is not None for path in files):
                return files
        return None

    def waiting_links(self, experiment: str, checkpoint: str) -> dict[str, str] | None:
        """The links of a checkpoint that is not stored yet, path to target; None once it is."""
        staged = (job.staged for _, job in self._waiting_files(experiment, checkpoint))
        return next((dict(found.links) for found in staged if found is not None), None)

    def _waiting_files(self, experiment: str, checkpoint: str) -> Iterable[tuple[Queue, Job]]:
        for queue in self.spool.queues_of(experiment):
            for job in queue.waiting():
                record = job.record
                if (
                    job.staged is not None
                    and isinstance(record, Checkpointed)
                    and record.checkpoints[0].id == checkpoint
                ):
                    yield queue, job

    def _listed(
        self, spooled: _Spooled, stored: Catalogue, found: Mapping[str, StoredExperiment]
    ) -> dict[str, ExperimentView]:
        """What is known about the experiments that were found, and about all of which something waits."""
        alive, waiting = spooled
        unstored: dict[str, set[str]] = {}
        everything = dict(found)
        for experiment in dict.fromkeys(record.experiment for record in waiting):
            before = stored.records(experiment)
            missing = _without((record for record in waiting if record.experiment == experiment), before)
            unstored[experiment] = {identifier for record in missing for identifier in _ids(record)}
            state = records.fold([*before, *missing]).get(experiment)
            everything.pop(experiment, None)
            if state is not None:
                everything[experiment] = StoredExperiment(experiment, summarise(state), list, state)
        sessions = {experiment: one.summary.session for experiment, one in everything.items()}
        running = {name: session for name, session in sessions.items() if everything[name].summary.status is None}
        signs = heartbeats.last(self.repository, running)
        now = self.repository.now()
        with collection_paused():
            return {
                one.experiment: ExperimentView(
                    one,
                    _status(
                        one.summary, signs.get(one.experiment), alive.get((one.experiment, one.summary.session)), now
                    ),
                    frozenset(unstored.get(one.experiment, ())),
                    signs.get(one.experiment),
                )
                for one in sorted(everything.values(), key=lambda one: (one.summary.created, one.experiment))
            }


class _Spooled(NamedTuple):
    """What the queues of the spool say."""

    alive: Mapping[tuple[str, str | None], bool | None]
    """Experiment and session to whether a process appends or stores; see `Queue.is_alive`."""
    waiting: Sequence[Record]
    """What is not stored yet, as far as it can be read."""


def _read_queues(queues: Iterable[Queue], unusable: Unusable | None = None) -> _Spooled:
    """Read queues. Call this before reading what is stored, so that a job stored meanwhile is seen twice, not never.

    A process that stores exits only after it has stored the last job and the end. In a queue that can't be read,
    nothing waits.
    """
    alive: dict[tuple[str, str | None], bool | None] = {}
    waiting: list[Record] = []
    for queue in queues:
        queue.wait_if_deferred()  # so that the process that recorded it finds everything stored
        alive[queue.experiment, queue.session] = queue.is_alive()
        try:
            waiting += [_waiting_record(queue, job) for job in queue.waiting()]
        except Corrupted as error:
            (unusable or warn)(error)
        except OSError as error:
            (unusable or warn)(Corrupted(f"{queue.directory} can't be read: {error}"))
    return _Spooled(alive, waiting)


def _waiting_record(queue: Queue, job: Job) -> Record:
    """The record of a job. `is_waiting` of a checkpoint says whether the copies of its files exist."""
    if not isinstance(job.record, Checkpointed) or not queue.has_copies(job):
        return job.record
    return replace(job.record, checkpoints=tuple(replace(item, is_waiting=True) for item in job.record.checkpoints))


def _private_copy(file: StagedFile) -> io.BufferedReader:
    """A copy of a staged file in a temporary file without a name, open at its beginning."""
    left = file.size
    with open(open_copy(file), "rb") as source, tempfile.TemporaryFile(dir=file.copy.parent) as target:
        source.seek(file.offset)
        while data := source.read(min(left, COPY_BYTES)):
            target.write(data)
            left -= len(data)
        target.flush()
        opened = os.fdopen(os.dup(target.fileno()), "rb")
    opened.seek(0)
    return opened


def _ids(record: Record) -> set[str]:
    """The ids of the experiment or the checkpoints that a record creates."""
    match record:
        case Created():
            return {record.experiment}
        case Checkpointed():
            return {checkpoint.id for checkpoint in record.checkpoints}
    return set()


def _without(waiting: Iterable[Record], stored: Iterable[Record]) -> list[Record]:
    """The waiting records that are not stored yet, without checkpoints that are."""
    stored = list(stored)
    known = {identifier for record in stored for identifier in _ids(record)}
    sessions = {(type(record), record.session) for record in stored if isinstance(record, (Resumed, Ended))}
    missing: list[Record] = []
    for record in waiting:
        match record:
            case Created():
                missing += [] if record.experiment in known else [record]
            case Checkpointed():
                left = tuple(item for item in record.checkpoints if item.id not in known)
                missing += [replace(record, checkpoints=left)] if left else []
            case Resumed() | Ended():
                missing += [] if (type(record), record.session) in sessions else [record]
    return missing


def _status(summary: Summary, heartbeat: Heartbeat | None, alive: bool | None, now: datetime) -> Status:  # noqa: FBT001
    """The status of an experiment.

    Args:
        summary: what its records say.
        heartbeat: its last sign of life.
        alive: whether a process of this machine records or stores it; None if that is unknown, because another machine
            or user began it.
        now: the time.
    """
    if summary.status is not None:
        return summary.status
    if alive is not None:
        return "running" if alive else "lost"
    last = summary.active if heartbeat is None else max(summary.active, heartbeat.time)
    return "running" if now - last < LOST_AFTER else "lost"
