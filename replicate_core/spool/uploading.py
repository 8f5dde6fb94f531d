"""Uploading from a queue of the spool: its jobs are stored in order, and each is marked as done once all can see it.

The recorder of an experiment calls it, `replicate sync` does, and the recording process itself if there is no other. If
a process dies meanwhile, its last job is done again. That is safe: a checkpoint in two records counts once.
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
    """Show no progress."""


class Uploader:
    """Stores what is in a queue. Its caller has taken the queue: `Queue.take`.

    Args:
        queue: the queue.
        repository: where to store it.
        known: what is already stored there.
        policy: what to compress.
    """

    def __init__(self, queue: Queue, repository: Repository, known: ChunkIndex, policy: Policy) -> None:
        self.queue = queue
        self.repository = repository
        self._known = known
        self._policy = policy
        self._retention = Retention(repository, known, queue.experiment, queue.session)
        self.spares_memory = False
        """Whether to release the page cache of what was stored, because a training needs the memory."""

    def reach(self) -> None:
        """Make sure that the storage can be used, and still holds what this experiment has stored.

        Raises:
            StorageFailed: it can't be used, or what was stored is gone, for instance because a disk is not mounted.
        """
        if not self.queue.knows_storage():
            self.repository.prepare()
        else:
            self._check_has_content()
        if not self._has_begun():
            raise self._lost(f"no longer holds the experiment {ids.short(self.queue.experiment)}")

    def begin_again(self) -> None:
        """Accept that the storage has lost what was stored there: what waits is stored without it."""
        self.repository.prepare()
        if not self._has_begun():
            first = next(iter(self.queue.jobs(count_max=1)), None)
            created = Created(self.queue.experiment, utc_now())
            if first is not None and isinstance(first.record, Created):
                created = replace(first.record, path=None)  # its code is gone
            self.repository.append(created)

    def _check_has_content(self) -> None:
        if not self.repository.check_format():
            raise self._lost("no longer holds anything")

    def _has_begun(self) -> bool:
        """Tell whether the storage holds the beginning of the experiment, or nothing was stored yet."""
        if not self.queue.state().done:
            return True
        stored = catalogue.read(self.repository, _ignore, experiment=self.queue.experiment)
        return any(isinstance(record, Created) for record in stored.records(self.queue.experiment))

    def _lost(self, what: str) -> StorageFailed:
        return StorageFailed(
            f"{self.repository.store.url} {what}: is its disk mounted, or was it deleted? What waits here stays. "
            "Restore the storage; or, if it is gone for good, `replicate sync --anew` stores what waits without it",
            permanent=True,
        )

    def run(self, *, progress: JobProgress = silent, until: Callable[[], bool] = lambda: False) -> None:
        """Store everything that waits now. Jobs that come meanwhile are gathered for the next call.

        Args:
            progress: called with the number of jobs that are done so far.
            until: called after each step; returns whether to leave the rest to the next call.

        Raises:
            StorageFailed, Corrupted, TooNew: the storage refuses; what is not stored stays in the queue.
        """
        if isinstance(self.repository.store, LocalStore):  # writing would not fail: it would make the directories anew
            self._check_has_content()
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
        """Store everything that waits, and remove the queue if its process is gone.

        Raises:
            StorageFailed, Corrupted, TooNew: the storage refuses; what is not stored stays in the queue.
        """
        abandoned, last_sign = self.queue.is_abandoned(), self.queue.last_sign()
        self.reach()
        self.run(progress=progress)
        if abandoned or self.queue.state().ended:
            self.close(died_at=last_sign)

    def close(self, *, died_at: datetime) -> None:
        """Remove a queue that is empty and gets no more jobs.

        Args:
            died_at: when its process was last alive. If the queue does not say how the experiment ended, it was killed
                at that time.
        """
        state = self.queue.state()
        if state.done and not state.ended:
            self._retention.apply()
            experiment, session, blocked = self.queue.experiment, self.queue.session, state.blocked_seconds
            self.repository.append(Ended(experiment, died_at, "killed", blocked_seconds=blocked, session=session))
        heartbeats.stop(self.repository, self.queue.experiment, self.queue.session)
        self.queue.close()

    def _store(self, group: Sequence[Job]) -> None:
        """Store jobs that are merged into one record."""
        record = _merged([job.record for job in group])
        if isinstance(record, Ended):  # after the end, others may refer to what it has stored
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
        """The record of what was stored. From now on it may exist and refer to objects, even if writing it fails."""
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
    """Open the storage of a queue. See `open_store` for `patient`.

    Raises:
        InvalidInput, ConfigInvalid, MissingExtra, StorageFailed: the storage can't be opened.
        Corrupted: the origin of the queue is damaged.
        OSError: the queue is gone.
    """
    origin = queue.origin()
    store = open_store(
        origin.storage, relative_to=queue.project(origin), options=origin.storage_options, patient=patient
    )
    repository = Repository(cached(store))
    return Uploader(queue, repository, ChunkIndex(repository), origin.compression)


def _ignore(_: Corrupted | TooNew) -> None:
    """Ignore a damaged record: it exists."""


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Groups of jobs that become one record: consecutive checkpoints without files together, each other job alone."""
    for together, found in groupby(jobs, key=lambda job: job.staged is None and isinstance(job.record, Checkpointed)):
        if together:
            yield list(found)
        else:
            yield from ([job] for job in found)


def _merged(records: Sequence[Record]) -> Record:
    """Merge several records into one. They come from one queue, and so from one session."""
    first = records[0]
    if not isinstance(first, Checkpointed):
        return first
    made = [item for record in records if isinstance(record, Checkpointed) for item in record.checkpoints]
    return replace(first, checkpoints=tuple(made))


def _without_files(record: Record) -> Record:
    """The record to write if its files were withdrawn, or may be incomplete."""
    if isinstance(record, Checkpointed):
        return replace(record, checkpoints=tuple(replace(item, size_bytes=0) for item in record.checkpoints))
    return replace(record, size_bytes=0) if isinstance(record, Created) else record


def _with_snapshot(record: Record, snapshot: StoredSnapshot) -> Record:
    """The record to write once its files are stored."""
    facts = {
        "manifest": snapshot.manifest,
        "size_bytes": snapshot.size_bytes,
        "stored_bytes": snapshot.stored_bytes,
    }
    match record:
        case Checkpointed(_, (checkpoint,)):
            return replace(record, checkpoints=(replace(checkpoint, **facts),))  # type: ignore[arg-type]  # as below
        case Created() | Resumed():
            return replace(record, **facts)  # type: ignore[arg-type]  # each value belongs to the field of its name
    raise AssertionError(f"{type(record).__name__} has no files")
