"""Emptying a queue of the spool: its jobs are stored in order, and each is noted as done once everybody can see it.

A plain function, called by the recorder of an experiment, by `replicate sync`, and by the recording process itself
where there is no other. A process that dies meanwhile leaves nothing but a job that is done again: a checkpoint that
stands in two records counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import groupby

from replicate_core.errors import Corrupted, StorageFailed, TooNew
from replicate_core.format import ids
from replicate_core.format.encodings import Policy
from replicate_core.format.records import Checkpointed, Created, Ended, Record, Resumed
from replicate_core.repository import catalogue, heartbeats
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.repository.retention import Retention
from replicate_core.repository.writing import StoredSnapshot, publish
from replicate_core.spool import leftovers
from replicate_core.spool.upload_queue import Job, Queue
from replicate_core.storage.cache import cached
from replicate_core.storage.local import LocalStore
from replicate_core.storage.opening import open_store

JOBS_AT_ONCE = 2000
"""Maximum number of checkpoints without files in one record."""

JobProgress = Callable[[int], object]


def silent(_: int) -> None:
    """Shows no progress."""


class Uploader:
    """Stores what is in a queue. Its caller holds the queue: `Queue.take`.

    Args:
        queue: the queue.
        repository: where to.
        known: what is there already.
        policy: what to compress.
    """

    def __init__(self, queue: Queue, repository: Repository, known: ChunkIndex, policy: Policy) -> None:
        self.queue = queue
        self.repository = repository
        self._known = known
        self._policy = policy
        self._retention = Retention(repository, known, queue.experiment, queue.session)
        self.spares_memory = False
        """Whether to give back the memory in which the system keeps what was stored, because a training needs it."""

    def reach(self) -> None:
        """Make sure that the storage can be used, and that what this experiment has stored is there.

        Raises:
            StorageFailed: it can't; or what was stored there is gone, as when its disk is not there.
        """
        if not self.queue.knows_storage():
            self.repository.prepare()
        else:
            self._check_is_filled()
        if not self._is_begun():
            raise self._emptied(f"holds nothing of the experiment {ids.short(self.queue.experiment)}, and did before")

    def begin_again(self) -> None:
        """Take a storage as it is, though what was stored there is gone: what waits is stored without that."""
        self.repository.prepare()
        if not self._is_begun():
            first = next(iter(self.queue.jobs(count_max=1)), None)
            created = Created(self.queue.experiment, utc_now())
            if first is not None and isinstance(first.record, Created):
                created = replace(first.record, path=None)  # its code is gone
            self.repository.append(created)

    def _check_is_filled(self) -> None:
        if not self.repository.check_format():
            raise self._emptied("holds nothing any more, and did before")

    def _is_begun(self) -> bool:
        """Tell whether the experiment begins in the storage, or has nothing there yet."""
        if not self.queue.state().done:
            return True
        stored = catalogue.read(self.repository, _ignore, experiment=self.queue.experiment)
        return any(isinstance(record, Created) for record in stored.records(self.queue.experiment))

    def _emptied(self, what: str) -> StorageFailed:
        return StorageFailed(
            f"{self.repository.store.url} {what}: is its disk there, or was it emptied? What waits here stays. Put it "
            "back; or, if that is gone for good, `replicate sync --anew` stores what waits without it",
            permanent=True,
        )

    def run(self, *, progress: JobProgress = silent, until: Callable[[], bool] = lambda: False) -> None:
        """Store all that is there now; what comes meanwhile is left to the next time, to be gathered until then.

        Args:
            progress: called with the number of jobs that are done so far.
            until: tells, asked after each step, whether to leave the rest to the next time.

        Raises:
            StorageFailed, Corrupted, TooNew: the storage refuses; what is not stored stays where it is.
        """
        if isinstance(self.repository.store, LocalStore):  # where nothing fails: directories are made
            self._check_is_filled()
        end = self.queue.end()
        done = 0
        while (jobs := self.queue.waiting(count_max=JOBS_AT_ONCE)) and self.queue.state().mark < end:
            for group in _groups(jobs):
                self._store(group)
                done += len(group)
                progress(done)
                if until():
                    return

    def upload_all(self, *, progress: JobProgress = silent) -> None:
        """Store all that is there, and remove the queue if its process is gone.

        Raises:
            StorageFailed, Corrupted, TooNew: the storage refuses; what is not stored stays where it is.
        """
        abandoned, last_sign = self.queue.is_abandoned(), self.queue.last_sign()
        self.reach()
        self.run(progress=progress)
        if abandoned or self.queue.state().ended:
            self.close(died_at=last_sign)

    def close(self, *, died_at: datetime) -> None:
        """Remove a queue that is empty and gets no more jobs.

        Args:
            died_at: when its process was last alive: should it not have lived to say how the experiment ended, it was
                killed then.
        """
        state = self.queue.state()
        if state.done and not state.ended:
            self._retention.apply()
            experiment, session, blocked = self.queue.experiment, self.queue.session, state.blocked_seconds
            self.repository.append(Ended(experiment, died_at, "killed", blocked_seconds=blocked, session=session))
        heartbeats.stop(self.repository, self.queue.experiment, self.queue.session)
        self.queue.close()

    def _store(self, group: Sequence[Job]) -> None:
        """Store jobs that make one record together."""
        record = _merged([job.record for job in group])
        if isinstance(record, Ended):  # from then on others may refer to what it has stored
            self._retention.apply()
        claimed = None if group[0].staged is None else self.queue.claim(group[0])
        if claimed is not None:
            snapshot = publish(self.repository, self._known, claimed, self._policy, partial(self._published, record))
            if self.spares_memory and isinstance(self.repository.store, LocalStore):
                self.repository.store.release_memory(snapshot.added)
        else:
            self.repository.append(record if group[0].staged is None else _without_files(record))
        self.queue.finish(group, claimed)
        if self._retention.is_due():
            self._retention.apply()

    def _published(self, record: Record, snapshot: StoredSnapshot) -> Record:
        """The record of what was stored. From now on it may be there, though nobody hears so, and refer to objects."""
        self._retention.stored(record, snapshot)
        if isinstance(record, Checkpointed):
            maker = leftovers.Maker(record.experiment, record.checkpoints[0].id)
            parts = {
                path: (file.size, [(part.length, part.digest) for part in file.parts])
                for path, file in snapshot.files.items()
            }
            leftovers.note_digests(self.queue.directory.parent, maker, parts)
        return _with_snapshot(record, snapshot)


def open_queue(queue: Queue, *, patient: bool = False) -> Uploader:
    """Open the storage that a queue belongs to; `patient` as of `open_store`.

    Raises:
        InvalidInput, ConfigInvalid, MissingExtra, StorageFailed: the storage can't be opened.
        Corrupted: what the queue says of itself was damaged.
        OSError: the queue is gone.
    """
    origin = queue.origin()
    store = open_store(
        origin.storage, relative_to=queue.project(origin), options=origin.storage_options, patient=patient
    )
    repository = Repository(cached(store))
    return Uploader(queue, repository, ChunkIndex(repository), origin.compression)


def _ignore(_: Corrupted | TooNew) -> None:
    """What is damaged is there."""


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that go into one record: checkpoints without files that follow one another, and everything else alone."""
    for together, found in groupby(jobs, key=lambda job: job.staged is None and isinstance(job.record, Checkpointed)):
        if together:
            yield list(found)
        else:
            yield from ([job] for job in found)


def _merged(records: Sequence[Record]) -> Record:
    """One record of several: they come from one queue, and so from one session."""
    first = records[0]
    if not isinstance(first, Checkpointed):
        return first
    made = [item for record in records if isinstance(record, Checkpointed) for item in record.checkpoints]
    return replace(first, checkpoints=tuple(made))


def _without_files(record: Record) -> Record:
    """What a record says where its files were given up, or can't be trusted."""
    if isinstance(record, Checkpointed):
        return replace(record, checkpoints=tuple(replace(item, size_bytes=0) for item in record.checkpoints))
    return replace(record, size_bytes=0) if isinstance(record, Created) else record


def _with_snapshot(record: Record, snapshot: StoredSnapshot) -> Record:
    """What a record says once its files are stored."""
    facts = {
        "manifest": snapshot.manifest,
        "size_bytes": snapshot.size_bytes,
        "stored_bytes": snapshot.stored_bytes,
    }
    match record:
        case Checkpointed(_, (checkpoint,)):
            return replace(record, checkpoints=(replace(checkpoint, **facts),))  # type: ignore[arg-type]  # as named
        case Created() | Resumed():
            return replace(record, **facts)  # type: ignore[arg-type]  # each value belongs to the field of its name
    raise AssertionError(f"{type(record).__name__} has no files")
