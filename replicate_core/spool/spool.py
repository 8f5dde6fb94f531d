"""The spool: the local directory of what waits to be stored.

Each recording process has a queue in it: staged copies, and a journal of the jobs they belong to. The recording process
appends. One process at a time, which holds the queue's `recorder` lock, removes what it has stored. Jobs are plain
records: what the storage will say once they are done. Storing them is in `uploading`.

```
spool/<ulid>-<experiment>/origin.json      whose queue it is, and where to store it
                          proof            shows that this user made it, see `ownership`
                          owner            locked by the process that appends, as long as it lives
                          recorder         locked by the process that stores
                          journal/         the jobs, see `journal`
                          files/<job>/     staged copies, and markers: `whole` when all are copied, `synced` when all
                                           are on the disk; renamed to `<job>.taken` while they are stored
                          spares/          copies to be overwritten
                          state.json       the progress of storing, and the last failure
                          room-for-...     deleted when the disk is full: makes room for the last job, and for the state
      torn-<queue>-<job>/                  copies that may be incomplete on the disk, kept for people to look at
      damaged-<queue>-<place>              unreadable bytes of a journal, kept as well
```
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.machine import locks, ownership
from replicate_core.machine.descriptors import opener
from replicate_core.machine.files import HOME
from replicate_core.spool.upload_queue import OWNER, QUEUE, SCRATCH, Origin, Queue, believe, kept_aside, listed

ABANDONED_SECONDS = 3600
"""Minimum age in seconds of an unlocked directory before it is removed: its owner may be about to lock a newer one."""

GUARD_SECONDS = 60
"""Maximum number of seconds that one process waits for others to begin."""

_IGNORE = ".gitignore"
_GUARD = "guard"
_NEW = ".new-"
_ABANDONED = re.compile(rf"{re.escape(_NEW)}{QUEUE.pattern}|{re.escape(SCRATCH)}(?:[0-9a-f]{{16}}|{QUEUE.pattern})")


@dataclass(frozen=True, slots=True)
class Stranger:
    """A directory that looks like a queue, but is not known to be made by this user. It may hold anything."""

    queue: Queue
    why: str
    """Why it is not trusted."""
    is_own: bool
    """Whether it belongs to this user nevertheless, who may accept it."""

    @property
    def todo(self) -> str:
        """What to do about it."""
        if not self.is_own:
            return "Only that user can store what is in it"
        if self.queue.strange_part() is not None:
            return "Put back what belongs there, or delete it; `replicate sync` then stores what else is in it"
        return (
            f"If you have saved it, `replicate sync --accept {self.queue.directory.name}` shows what is in it, asks, "
            "and stores it. If not, delete it"
        )


class Spool:
    """The spool of a project directory. It belongs to one user; other users have their own beside it.

    Args:
        project: the project directory.
        directory: where the spool is; by default `.replicate/spool` in the project.
    """

    def __init__(self, project: Path, directory: Path | None = None) -> None:
        self._home = project / HOME
        self.named = directory or self._home / "spool"
        """Where the spool is, unless that directory belongs to another user."""
        self.directory = self.named if _is_free(self.named) else _beside(self.named)

    def queues(self) -> list[Queue]:
        """The queues of this user, oldest first. Anything else that looks like a queue is a stranger."""
        return [queue for queue in listed(self.directory) if queue.distrust() is None]

    def strangers(self) -> list[Stranger]:
        """What looks like a queue, but is not known to be one of this user. None of it is ever stored or deleted.

        Queues that a living process of this user works on are left out: an earlier version may have made them.
        """
        found = []
        for directory in dict.fromkeys((self.named, self.directory)):
            for queue in listed(directory):
                why = queue.distrust()
                try:
                    status = queue.directory.lstat()
                except OSError:  # it was removed meanwhile
                    continue
                is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == ownership.user()
                if why is not None and not (is_own and queue.is_in_use()):
                    found.append(Stranger(queue, why, is_own))
        return found

    def accept(self, stranger: Stranger) -> Queue:
        """Turn a stranger into a queue of this user, because the user says so.

        Raises:
            InvalidInput: it belongs to another user, or holds links or other things that no queue has.
            StorageFailed: the spool can't be written.
        """
        if not stranger.is_own:
            raise InvalidInput(f"{stranger.why}. {stranger.todo}")
        if strange := stranger.queue.strange_part() or ownership.strange_below(stranger.queue.directory):
            raise InvalidInput(f"{strange} is not part of a queue: those are files and directories of this user")
        queue = Queue(self.directory / stranger.queue.directory.name)
        with self._translating():
            self._make()
            stranger.queue.directory.chmod(0o700)
            if stranger.queue.directory != queue.directory:
                stranger.queue.directory.rename(queue.directory)
            queue.prove(queue.directory.name)
        believe(queue.directory)
        return queue

    def kept_aside(self) -> list[Path]:
        """What could not be stored, and is kept for people to look at."""
        return kept_aside(self.directory)

    def queues_of(self, experiment: str) -> list[Queue]:
        """The queues of one experiment, oldest first."""
        return [queue for queue in self.queues() if queue.experiment == experiment]

    def is_recorded_here(self, experiment: str) -> bool:
        """Tell whether a process of this machine records an experiment."""
        return any(queue.is_owned() for queue in self.queues_of(experiment))

    def is_recorded_by_this_process(self, experiment: str) -> bool:
        """Tell whether this process records an experiment."""
        return any(queue.is_owned_by_this_process() for queue in self.queues_of(experiment))

    def was_left_here(self, experiment: str, session: str | None) -> bool:
        """Tell whether a process of this machine recorded that session of an experiment, and has died."""
        return any(queue.session == session and queue.is_abandoned() for queue in self.queues_of(experiment))

    def begin(self, origin: Origin, ulid: str) -> Queue:
        """Make a queue, owned by this process until it ends or calls `Queue.finish_appending`.

        Args:
            origin: what other processes must know about it.
            ulid: a new one.

        Raises:
            StorageFailed: there is no room, the directory can't be written, or its file system has no locks.
        """
        self._remove_abandoned()
        temporary = self.directory / f"{_NEW}{ulid}-{origin.experiment}"  # ignored by others until it is locked
        final = self.directory / f"{ulid}-{origin.experiment}"
        with self._translating():
            self._make(temporary)
            return Queue.create(temporary, final, origin)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process of this machine at a time run the `with` block.

        Raises:
            StorageFailed: another process does not leave the block, or the directory can't be written.
        """
        guard = self.directory / _GUARD
        patience = time.monotonic() + GUARD_SECONDS
        while not self._acquire(guard):
            if time.monotonic() > patience:
                raise StorageFailed(f"another process has kept {guard} locked for {GUARD_SECONDS} seconds: end it")
        try:
            yield
        finally:
            locks.release(guard)

    def _acquire(self, guard: Path) -> bool:
        with self._translating():
            self._make()
            return locks.acquire(guard)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new directory, removed after the `with` block.

        Raises:
            StorageFailed: the project directory can't be written.
        """
        self._remove_abandoned()
        directory = self.directory / f"{SCRATCH}{os.urandom(8).hex()}"
        try:
            with self._translating():
                self._make(directory)
                locks.acquire(directory / OWNER)
            yield directory
        finally:
            locks.release(directory / OWNER)
            shutil.rmtree(directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the directories of the spool if they are empty."""
        with suppress(OSError):
            self.directory.rmdir()
            if os.listdir(self._home) == [_IGNORE]:
                (self._home / _IGNORE).unlink()
                self._home.rmdir()

    def _make(self, directory: Path | None = None) -> None:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._close_to_others()
        if directory is not None:
            directory.mkdir(mode=0o700)  # other users may read the project's files here, but not there
        with suppress(FileExistsError, NotADirectoryError):
            if self._home.is_dir():
                with open(self._home / _IGNORE, "x", encoding="ascii", opener=opener) as file:  # follows no link
                    file.write("*\n")

    def _close_to_others(self) -> None:
        """Make sure that the spool belongs to this user, and that nobody else may write to it."""
        status = self.directory.stat()
        if status.st_uid != ownership.user():
            name = ownership.user_name(status.st_uid)
            raise PermissionError(errno.EPERM, f"it belongs to the user {name}", str(self.directory))
        if status.st_mode & 0o022:
            with suppress(OSError):  # some file systems have no modes
                self.directory.chmod(stat.S_IMODE(status.st_mode) & ~0o022)

    def _remove_abandoned(self) -> None:
        """Remove temporary directories of processes that were killed."""
        with suppress(OSError):
            for name in os.listdir(self.directory):
                if _ABANDONED.fullmatch(name):
                    _remove_if_abandoned(self.directory / name)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFailed(
                f"can't use {self.directory}, where what is saved waits to be stored: {error}. Make room there, make "
                "it writable, or name another directory in replicate.yaml (spool: {directory: ...})"
            ) from error


def _is_free(directory: Path) -> bool:
    """Tell whether a directory belongs to this user, or to nobody yet."""
    try:
        return directory.stat().st_uid == ownership.user()
    except OSError:
        return True


def _beside(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}-{ownership.user()}")


def _remove_if_abandoned(directory: Path) -> None:
    with suppress(OSError):  # it may be gone
        status = directory.lstat()
        age_seconds = time.time() - status.st_mtime
        if status.st_uid != ownership.user():
            return
        if age_seconds > ABANDONED_SECONDS and not locks.is_held(directory / OWNER):
            shutil.rmtree(directory, ignore_errors=True)
