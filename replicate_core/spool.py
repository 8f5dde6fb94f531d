"""The spool: the local directory of things that are still to be stored.

Each recording process has a queue in it: staged copies, and a journal of the jobs they belong to. The process appends;
one other process at a time, which holds the queue's `recorder` lock, takes away what it has stored. Jobs are plain
records: what the storage will say once they are done. Storing them is in `draining`.

```
spool/<ulid>-<experiment>/origin.json      whose queue it is, and where to store it
                          owner            locked by the process that appends, as long as it lives
                          recorder         locked by the process that stores
                          journal/         the jobs, see `journal`
                          files/<job>/     staged copies, and `whole`, then `synced`, once they are; `<job>.taken` once
                                           they are being stored
                          spares/          copies to be written over
                          state.json       how far storing has come, and what is in its way
```
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cache, cached_property
from pathlib import Path
from typing import get_args

from replicate_core import locks, record_format, staging
from replicate_core.documents import expect_count, expect_mapping, expect_text, seal, unseal
from replicate_core.encodings import Policy
from replicate_core.errors import Corrupted, StorageFailed
from replicate_core.files import Tree, sync, sync_directory, temporary_beside
from replicate_core.journal import START, Journal, Mark
from replicate_core.records import Ended, Record
from replicate_core.staging import Staged
from replicate_core.values import Value, dumps, loads

SPARES_MAX = 2
"""So many staged copies are kept to be written over."""

ABANDONED_SECONDS = 3600
"""A directory that nobody owns is removed once it is so old: its owner may be about to lock it."""

HOME = ".replicate"
"""The directory in a project that is replicate's own."""

_IGNORE = ".gitignore"
SILENT_SECONDS = 300
"""Ten times as long as a recorder takes from one sign of life to the next."""

GUARD_SECONDS = 60
"""So long, at most, one process waits for others to begin."""

SYNC_AFTER_SECONDS = 5
"""Copies that wait for longer are synced to disk."""

_QUEUE = re.compile(r"[0-9A-Z]+-[0-9a-f]+")
_GUARD = "guard"
_OWNER = "owner"
_RECORDER = "recorder"
_CLOSED = b"closed"
_NEW = ".new-"
_SCRATCH = ".scratch-"
_TAKEN = ".taken"
_SYNCED = "synced"
_WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose queue it is, and where to store it."""

    experiment: str
    storage: str
    """The URL or path, as the user gave it. It may hold credentials: the file is for its owner's eyes only."""
    project: str
    """The project directory, which a relative path of the storage starts from."""
    compression: Policy
    process: int
    host: str
    session: str | None = None
    """The session of the experiment that is recorded; None for the first one."""
    storage_options: Mapping[str, Value] = field(default_factory=dict)
    """What its driver is told, as the user gave it: references are not resolved. As `storage`, for its owner alone."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is in the way of storing."""

    kind: str
    """The class of the error."""
    message: str
    permanent: bool
    """Whether trying again is of no use until somebody has changed something."""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """How far storing has come."""

    ready: bool = False
    """Whether the storage was reached."""
    done: int = 0
    """How many jobs are stored."""
    mark: Mark = START
    """The place in the journal behind them."""
    ended: bool = False
    """Whether one of them was the end of the experiment."""
    blocked_seconds: float = 0.0
    """How long training had been held up in total when the last of them was made."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Something to store: a record, and the staged files it tells of."""

    record: Record
    staged: Staged | None
    """None where it has no files."""
    blocked_seconds: float
    """How long training had been held up in total when the job was made."""
    boot: str | None
    """Which start of the machine that was in: copies are not synced to disk, so another one may not have them."""
    after: Mark


class Spool:
    """The spool of a project directory.

    Args:
        project: the project directory.
        directory: where the spool is; by default `.replicate/spool` in the project.
    """

    def __init__(self, project: Path, directory: Path | None = None) -> None:
        self._home = project / HOME
        self.directory = directory or self._home / "spool"

    def queues(self) -> list[Queue]:
        """The queues that are there, oldest first."""
        try:
            names = sorted(os.listdir(self.directory))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [Queue(self.directory / name) for name in names if _QUEUE.fullmatch(name)]

    def queues_of(self, experiment: str) -> list[Queue]:
        """The queues of one experiment, oldest first."""
        return [queue for queue in self.queues() if queue.experiment == experiment]

    def begin(self, origin: Origin, ulid: str) -> Queue:
        """Make a queue, owned by this process until it ends or calls `Queue.leave`.

        Args:
            origin: what others must know of it.
            ulid: a fresh one.

        Raises:
            StorageFailed: there is no room, the directory can't be written, or its file system knows no locks.
        """
        self._remove_abandoned()
        temporary = self.directory / f"{_NEW}{ulid}-{origin.experiment}"  # nobody looks at it before it is locked
        final = self.directory / f"{ulid}-{origin.experiment}"
        with self._translating():
            self._make(temporary)
            for name in ("origin.json", _RECORDER):
                (temporary / name).touch(mode=0o600)
            (temporary / "origin.json").write_bytes(seal(_encode_origin(origin)))
            for name in ("files", "spares"):
                (temporary / name).mkdir()
            locks.acquire(temporary / _OWNER)
            temporary.rename(final)
            locks.moved(temporary / _OWNER, final / _OWNER)
        return Queue(final)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process of this machine at a time into the `with` block.

        Raises:
            StorageFailed: another one stays in there; or the directory can't be written.
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
        """A fresh directory, which is removed after the `with` block.

        Raises:
            StorageFailed: the project directory can't be written.
        """
        self._remove_abandoned()
        directory = self.directory / f"{_SCRATCH}{os.urandom(8).hex()}"
        try:
            with self._translating():
                self._make(directory)
                locks.acquire(directory / _OWNER)
            yield directory
        finally:
            locks.release(directory / _OWNER)
            shutil.rmtree(directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the directories of the spool, if nothing is in them."""
        with suppress(OSError):
            self.directory.rmdir()
            if os.listdir(self._home) == [_IGNORE]:
                (self._home / _IGNORE).unlink()
                self._home.rmdir()

    def _make(self, directory: Path | None = None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if directory is not None:
            directory.mkdir(mode=0o700)  # what may be read where it stands may not be readable for all here
        ignore = self._home / _IGNORE
        if self._home.is_dir() and not ignore.exists():
            ignore.write_text("*\n")

    def _remove_abandoned(self) -> None:
        """Remove what processes that were killed have left."""
        with suppress(OSError):
            for name in os.listdir(self.directory):
                if name.startswith((_NEW, _SCRATCH)):
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


class Queue:
    """What one process has still to store.

    Args:
        directory: `<ulid>-<experiment>` in the spool.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.experiment = directory.name.partition("-")[2]
        self._journal = Journal(directory / "journal")
        self._owner = directory / _OWNER
        self._recorder = directory / _RECORDER
        self._last_job = 0
        self._note: int | None = None

    @property
    def log(self) -> Path:
        """Where its recorder writes what only a developer wants to know."""
        return self.directory / "recorder.log"

    def origin(self) -> Origin:
        """What is known of the queue.

        Raises:
            Corrupted: it was damaged.
            OSError: the queue is gone: all of it is stored.
        """
        path = self.directory / "origin.json"
        fields = expect_mapping(unseal(path.read_bytes(), key=str(path)))
        try:
            experiment, storage, project = (expect_text(fields[name]) for name in ("experiment", "storage", "project"))
            compression: Policy = next(policy for policy in get_args(Policy) if policy == fields["compression"])
            process, host = expect_count(fields["process"]), expect_text(fields["host"])
            session = None if (found := fields.get("session")) is None else expect_text(found)
            options = expect_mapping(fields.get("storage_options", {}))
            return Origin(experiment, storage, project, compression, process, host, session, options)
        except (KeyError, StopIteration) as error:
            raise Corrupted(f"{path} can't be understood") from error

    @cached_property
    def session(self) -> str | None:
        """The session of the experiment that is recorded; None for the first one, and where that was damaged."""
        try:
            return self.origin().session
        except (OSError, Corrupted):
            return None

    def knows_storage(self) -> bool:
        """Tell whether something was stored already where this queue is to be stored, as far as the spool knows."""
        storage = self.origin().storage
        with suppress(OSError, Corrupted):  # another queue is gone, or damaged
            others = Spool(self.directory, self.directory.parent).queues()
            return any(queue.state().done and queue.origin().storage == storage for queue in others)
        return bool(self.state().done)

    def project(self, origin: Origin) -> Path:
        """The project directory: wherever it was moved to, if the queue was moved with it."""
        home = self.directory.parents[1]
        return home.parent if home.name == HOME else Path(origin.project)

    def last_sign(self) -> datetime:
        """When the process that appends was last heard of, or its recorder."""
        paths = (self._owner, self._recorder, *self._journal.directory.glob("*"))
        return datetime.fromtimestamp(max(_modified(path) for path in paths), timezone.utc)

    def give_sign(self) -> None:
        """Show that there is life here, to machines whose locks say nothing of it."""
        with suppress(OSError):
            os.utime(self._recorder)

    def is_abandoned(self) -> bool:
        """Tell whether its process is gone, and what waits here is anybody's to store.

        The lock of another machine may not be seen here, if the directory is shared in a way that knows no locks: then
        it is abandoned once there was no sign of life for `SILENT_SECONDS`.
        """
        if self.is_owned():
            return False
        try:
            is_ours = self.origin().host == socket.gethostname()
        except (OSError, Corrupted):
            is_ours = True
        return is_ours or time.time() - self.last_sign().timestamp() > SILENT_SECONDS

    # The side of the process that appends.

    def stage(self, tree: Tree) -> Staged:
        """Copy the files of a tree; see `staging.stage`."""
        self._last_job += 1
        directory = self.directory / "files" / str(self._last_job)
        directory.mkdir()
        try:
            return staging.stage(tree, directory, spare=self._spare)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def append(self, record: Record, staged: Staged | None = None, *, blocked_seconds: float = 0.0) -> None:
        """Append a job: once this returns, it survives the end of this process.

        Raises:
            OSError: there is no room.
        """
        job: dict[str, Value] = {"record": record_format.encode(record), "blocked_seconds": blocked_seconds}
        if staged is not None:
            job |= {"staged": staging.encode(staged), "files": staged.directory.name, "boot": boot_id()}
        self._journal.append(job)
        if staged is not None:
            with suppress(OSError):  # it is only not synced then
                (staged.directory / _WHOLE).touch()

    def withdraw(self, staged: Staged) -> bool:
        """Remove the copies of a job, unless they are being stored already; tells whether they were removed."""
        gone = temporary_beside(staged.directory)
        try:
            staged.directory.rename(gone)
        except FileNotFoundError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def watch(self) -> None:
        """Keep hold of where `close` leaves its note: it can be read though the queue is gone by then."""
        self._note = os.open(self._recorder, os.O_RDONLY)

    def was_closed(self) -> bool:
        """Tell whether the queue is gone because all was stored, and not because somebody deleted it."""
        if self._note is None:
            return False
        try:
            return os.pread(self._note, len(_CLOSED), 0) == _CLOSED
        finally:
            os.close(self._note)
            self._note = None

    def exists(self) -> bool:
        """Tell whether the queue is there, and is not being deleted, file by file."""
        return self._owner.exists()

    def leave(self) -> None:
        """Append nothing any more."""
        self._journal.close()
        locks.release(self._owner)

    def is_owned(self) -> bool:
        """Tell whether the process that appends is alive, and may append more."""
        return locks.is_held(self._owner)

    def is_owned_by_this_process(self) -> bool:
        """Tell whether it is this process that appends."""
        return locks.is_own(self._owner)

    def is_alive(self) -> bool | None:
        """Tell whether a process appends or stores; None if it belongs to another user, and that can't be told."""
        return self.is_owned() or self.is_taken() if os.access(self._owner, os.R_OK) else None

    # The side of the process that stores.

    def take(self) -> bool:
        """Become the one that stores; False if another process is it.

        Raises:
            FileNotFoundError: the queue is gone.
            OSError: this user may not.
        """
        return locks.acquire(self._recorder)

    def give_back(self) -> None:
        """Let another process store."""
        locks.release(self._recorder)

    def is_taken(self) -> bool:
        """Tell whether a process is storing what is here."""
        return locks.is_held(self._recorder)

    def waiting(self, *, count_max: int | None = None) -> list[Job]:
        """The jobs that are not stored yet, in order."""
        return self.jobs(after=self.state().mark, count_max=count_max)

    def end(self) -> Mark:
        """The place behind the last job."""
        return self._journal.end()

    def jobs(self, *, after: Mark = START, count_max: int | None = None) -> list[Job]:
        """The jobs behind a place in the journal, in order; some may be stored already."""
        lines = self._journal.read(after, count_max=count_max)
        return [self._decode(expect_mapping(line.document), line.after) for line in lines]

    def claim(self, job: Job) -> Staged | None:
        """The copies of a job, from now on for whoever stores them; None if they were withdrawn, or may be torn."""
        assert job.staged is not None, "only jobs with files are claimed"
        before, claimed = self._places(job.staged)
        with suppress(FileNotFoundError):  # withdrawn, or claimed before
            before.directory.rename(claimed.directory)
        if not claimed.directory.is_dir():
            return None
        if not _is_safe(job, claimed):
            kept = self.directory.parent / f"torn-{self.directory.name}-{claimed.directory.name.removesuffix(_TAKEN)}"
            claimed.directory.rename(kept)
            (kept / _WHOLE).unlink(missing_ok=True)
            warnings.warn(
                f"the machine stopped before {', '.join(file.path for file in claimed.files[:5])} of the experiment "
                f"{self.experiment[:7]} had reached its disk for sure: the files are not stored, and kept in {kept}",
                stacklevel=2,
            )
            return None
        return claimed

    def finish(self, jobs: Sequence[Job], claimed: Staged | None = None) -> None:
        """Note that these jobs are stored, and keep or remove the copies that were claimed for them."""
        state = self.state()
        last = jobs[-1]
        ended = state.ended or isinstance(last.record, Ended)
        done = State(
            ready=True,
            done=state.done + len(jobs),
            mark=last.after,
            ended=ended,
            blocked_seconds=last.blocked_seconds,
        )
        self.set_state(done)
        self._journal.forget(done.mark)
        if claimed is not None:
            self._keep_spares(claimed)
            shutil.rmtree(claimed.directory, ignore_errors=True)

    def state(self) -> State:
        """How far storing has come."""
        try:
            return _decode_state(expect_mapping(loads((self.directory / "state.json").read_bytes())))
        except (OSError, Corrupted, KeyError):  # nothing is stored yet; or all is, and the queue is gone
            return State()

    def set_state(self, state: State) -> None:
        """Tell others how far storing has come."""
        path = self.directory / "state.json"
        temporary = temporary_beside(path)
        temporary.write_bytes(dumps(_encode_state(state)).encode())
        os.replace(temporary, path)

    def sync(self, *, older_than_seconds: float = 0) -> None:
        """Make what waits outlive the machine, too."""
        for directory in [] if not (self.directory / "files").is_dir() else (self.directory / "files").iterdir():
            with suppress(FileNotFoundError):  # claimed, withdrawn or stored meanwhile
                is_young = time.time() - directory.stat().st_mtime < older_than_seconds
                is_whole = (directory / _WHOLE).exists()  # else it is being copied
                if is_young or not is_whole or (directory / _SYNCED).exists():
                    continue
                for copy in directory.iterdir():
                    if copy.name != _WHOLE:
                        sync(copy)
                (directory / _SYNCED).touch()
                sync_directory(directory)
        self._journal.sync()

    def close(self) -> None:
        """Remove the queue because nothing is left to store."""
        with suppress(FileNotFoundError):
            self._recorder.write_bytes(_CLOSED)
        self.remove()

    def remove(self) -> None:
        """Remove the queue, whatever is in it."""
        gone = self.directory.with_name(f"{_SCRATCH}{self.directory.name}")  # nobody sees half a queue
        with suppress(FileNotFoundError):
            self.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        locks.release(self._recorder)

    def copy_of(self, job: Job, path: str) -> staging.StagedFile | None:
        """Where the staged copy of a file is at this moment; None once the job is stored."""
        assert job.staged is not None, "the job has files"
        for staged in self._places(job.staged):
            if not _is_safe(job, staged):
                continue
            found = next((file for file in staged.files if file.path == path), None)
            if found is not None and found.copy.exists():
                return found
        return None

    def _places(self, staged: Staged) -> tuple[Staged, Staged]:
        """Where copies may be: as they were staged, and once they were claimed."""
        return staged, _moved(staged, staged.directory.with_name(staged.directory.name + _TAKEN))

    def _decode(self, job: dict[str, Value], after: Mark) -> Job:
        record = record_format.decode(job.get("record"), key=str(self._journal.directory))
        if record is None:
            raise Corrupted(f"{self._journal.directory} holds a job of a kind that this version does not know")
        staged = None
        if "staged" in job:
            staged = staging.decode(job["staged"], self.directory / "files" / expect_text(job.get("files")))
        blocked, boot = job.get("blocked_seconds"), job.get("boot")
        return Job(
            record,
            staged,
            float(blocked) if isinstance(blocked, (int, float)) else 0.0,
            boot if isinstance(boot, str) else None,
            after,
        )

    def _spare(self) -> Path | None:
        """A copy to write over."""
        with suppress(OSError):
            for name in os.listdir(self.directory / "spares"):
                return self.directory / "spares" / name
        return None

    def _keep_spares(self, claimed: Staged) -> None:
        """Keep a few copies to be written over, unless they are objects by now: those have a second name."""
        with suppress(OSError):
            room = SPARES_MAX - len(os.listdir(self.directory / "spares"))
            large = (file.copy for file in claimed.files if file.size > staging.SMALL_BYTES)
            for copy in [copy for copy in large if copy.stat().st_nlink == 1][: max(0, room)]:
                copy.rename(self.directory / "spares" / os.urandom(8).hex())


def _remove_if_abandoned(directory: Path) -> None:
    with suppress(OSError):  # it may belong to another user
        age_seconds = time.time() - directory.stat().st_mtime
        if age_seconds > ABANDONED_SECONDS and not locks.is_held(directory / _OWNER):
            shutil.rmtree(directory, ignore_errors=True)


@cache
def boot_id() -> str | None:
    """Which start of the machine this is; None where the system does not tell."""
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _is_safe(job: Job, staged: Staged) -> bool:
    """Tell whether copies are whole: the machine may have stopped before they had reached its disk."""
    is_whole = all(_size(file.copy) >= file.offset + file.size for file in staged.files)
    return is_whole and (job.boot == boot_id() or (staged.directory / _SYNCED).exists())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _moved(staged: Staged, directory: Path) -> Staged:
    files = tuple(replace(file, copy=directory / file.copy.name) for file in staged.files)
    return replace(staged, directory=directory, files=files)


def _encode_origin(origin: Origin) -> Value:
    return {
        "experiment": origin.experiment,
        "storage": origin.storage,
        "project": origin.project,
        "compression": origin.compression,
        "process": origin.process,
        "host": origin.host,
        "session": origin.session,
        "storage_options": dict(origin.storage_options),
    }


def _encode_state(state: State) -> Value:
    trouble = state.trouble
    return {
        "ready": state.ready,
        "done": state.done,
        "mark": list(state.mark),
        "ended": state.ended,
        "blocked_seconds": state.blocked_seconds,
        "trouble": None
        if trouble is None
        else {
            "kind": trouble.kind,
            "message": trouble.message,
            "permanent": trouble.permanent,
            "attempts": trouble.attempts,
        },
    }


def _decode_state(fields: dict[str, Value]) -> State:
    mark = fields["mark"]
    if not isinstance(mark, list) or len(mark) != 2:
        raise Corrupted(f"{mark!r} is no place in a journal")
    trouble = None
    if fields["trouble"] is not None:
        found = expect_mapping(fields["trouble"])
        kind, message = expect_text(found["kind"]), expect_text(found["message"])
        trouble = Trouble(kind, message, found["permanent"] is True, expect_count(found["attempts"]))
    place = Mark(expect_count(mark[0]), expect_count(mark[1]))
    blocked = fields["blocked_seconds"]
    return State(
        fields["ready"] is True,
        expect_count(fields["done"]),
        place,
        fields["ended"] is True,
        float(blocked) if isinstance(blocked, (int, float)) else 0.0,
        trouble,
    )
