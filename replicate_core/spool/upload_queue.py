"""A queue in the spool: the jobs of one recording process. That process appends to it, and one process uploads."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import get_args

from replicate_core.errors import Corrupted, ReplicateError
from replicate_core.format import ids, record_codec
from replicate_core.format.encodings import Policy
from replicate_core.format.records import Ended, Record
from replicate_core.format.sealed import expect_count, expect_mapping, expect_text, seal, unseal
from replicate_core.format.values import Value, dumps, loads
from replicate_core.machine import boot, locks, ownership, staging
from replicate_core.machine.descriptors import Anchor, open_above
from replicate_core.machine.files import FULL, HOME, Tree, disk_advice, sync, sync_directory, temporary_beside
from replicate_core.machine.names import local_name, portable
from replicate_core.machine.staging import Staged
from replicate_core.spool.journal import START, Journal, JournalLine, Position
from replicate_core.user_warnings import warn_only

SPARES_MAX = 2
"""Maximum number of staged copies that are kept to be overwritten."""

SILENT_SECONDS = 300
"""Seconds without a sign of life after which another machine's queue is abandoned: ten times a recorder's interval."""

RESERVE_BYTES = 16 << 10
"""Bytes reserved twice for when the disk is full: for the last job, and for the state, which says what failed."""

SYNC_AFTER_SECONDS = 5
"""Seconds after which copies that still wait are synced to disk."""

QUEUE = re.compile(r"[0-9A-Z]+-[0-9a-f]+")

OWNER = "owner"
SCRATCH = ".scratch-"

_NUMBER = re.compile(r"[0-9]+")
_RECORDER = "recorder"
_CLOSED = b"closed"
_END_RESERVE = "room-for-the-end"
_STATE_RESERVE = "room-for-state"
_TAKEN = ".taken"
_SYNCED = "synced"
_WHOLE = "whole"
_ORIGIN = "origin.json"
_PROOF = "proof"
_STATE = "state.json"
_TORN = "torn-"
_DAMAGED = "damaged-"


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose queue it is, and where to store it."""

    experiment: str
    storage: str
    """The URL or path, as the user gave it. It may hold credentials, so only the owner can read the file."""
    project: str
    """The project directory. A relative path of the storage starts from it."""
    compression: Policy
    process: int
    host: str
    session: str | None = None
    """The session of the experiment that is recorded; None for the first one."""
    storage_options: Mapping[str, Value] = field(default_factory=dict)
    """The options for its driver, as the user gave them, with references unresolved. They may hold credentials, too."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why storing fails."""

    kind: str
    """The class of the error."""
    message: str
    permanent: bool
    """Whether retrying is useless until somebody changes something."""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """The progress of storing."""

    ready: bool = False
    """Whether the storage was reached."""
    done: int = 0
    """Number of jobs that are stored."""
    mark: Position = START
    """The position in the journal after them."""
    ended: bool = False
    """Whether one of them was the end of the experiment."""
    blocked_seconds: float = 0.0
    """Seconds for which training had been held up in total when the last of them was made."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Something to store: a record, and the staged files that it refers to."""

    record: Record
    staged: Staged | None
    """None if it has no files."""
    blocked_seconds: float
    """Seconds for which training had been held up in total when the job was made."""
    boot: str | None
    """The boot of the machine in which it was made: copies are not synced at once, so a reboot may lose them."""
    after: Position
    damaged: bytes = b""
    """Unreadable bytes before it in the journal."""


_deferred_waits: dict[Path, Callable[[], object]] = {}
"""Queue of an experiment that has ended in this process, to a function that waits until all in it is stored."""

_trusted: set[Path] = set()
"""The queues that this process has made or was told to accept. They need no proof here."""


def believe(directory: Path) -> None:
    """Trust from now on that a queue is one of this user, whatever proof it has."""
    _trusted.add(directory)


class Queue:
    """The jobs that one recording process has still to store.

    Args:
        directory: `<ulid>-<experiment>` in the spool.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.experiment = directory.name.partition("-")[2]
        self._journal = Journal(directory / "journal")
        self._owner = directory / OWNER
        self._recorder = directory / _RECORDER
        self._last_job = 0
        self._note: int | None = None
        self._anchor: Anchor | None = None

    @classmethod
    def create(cls, temporary: Path, final: Path, origin: Origin) -> Queue:
        """Make a queue, owned by this process; see `Spool.begin`. Other processes ignore it until it is locked.

        Args:
            temporary: an empty directory.
            final: the path it is renamed to.
            origin: what other processes must know about it.

        Raises:
            OSError: there is no room, or its file system has no locks.
        """
        (temporary / _RECORDER).touch(mode=0o600)
        write_privately(temporary / _ORIGIN, seal(_encode_origin(origin)))
        cls(temporary).prove(final.name)
        for name in ("files", "spares"):
            (temporary / name).mkdir()
        for name in (_END_RESERVE, _STATE_RESERVE):
            write_privately(temporary / name, bytes(RESERVE_BYTES))
        locks.acquire(temporary / OWNER)
        temporary.rename(final)
        believe(final)
        locks.moved(temporary / OWNER, final / OWNER)
        return cls(final)

    @property
    def log(self) -> Path:
        """The log file of its recorder, for developers."""
        return self.directory / "recorder.log"

    def prove(self, name: str) -> None:
        """Write the proof that this user made the queue.

        Args:
            name: the name that its directory will have.
        """
        proof = temporary_beside(self.directory / _PROOF)
        write_privately(proof, ownership.prove(self.directory / _ORIGIN, name).encode())
        os.replace(proof, self.directory / _PROOF)

    def distrust(self) -> str | None:
        """Why the queue can't be trusted to be made by this user; None if it can."""
        if self.directory in _trusted:
            return None
        try:
            if why := ownership.problem(self.directory.parent, follow=True) or ownership.problem(self.directory):
                return why
            proof = ownership.read_own(self.directory / _PROOF)
            if proof is None:
                return "an earlier version of replicate has left it, or somebody else has put it there"
            if ownership.is_proven(self.directory / _ORIGIN, self.directory.name, proof):
                strange = self.strange_part()
                return None if strange is None else f"{strange} is a link, a pipe or the like, which no queue contains"
        except OSError as error:
            return f"it can't be read: {error}"
        return "it was made by another user or with another home directory, and copied there, or it was changed"

    def strange_part(self) -> Path | None:
        """The first path of the queue that is not the file or directory it should be; None if all are.

        Raises:
            OSError: a path can't be examined.
        """
        directories = (self._journal.directory, self.directory / "files", self.directory / "spares")
        files = (self._owner, self._recorder, self.directory / _STATE)
        for path in (*directories, *files):
            if not _is_kind(path, stat.S_ISDIR if path in directories else stat.S_ISREG):
                return path
        return next((path for path in self._journal.segments() if not _is_kind(path, stat.S_ISREG)), None)

    def is_in_use(self) -> bool:
        """Tell whether a living process appends or stores. Safe to call even if its lock files are something else."""
        try:
            return self.strange_part() is None and (self.is_owned() or self.is_taken())
        except OSError:  # it can't be examined
            return False

    def origin(self) -> Origin:
        """Whose queue it is, and where to store it.

        Raises:
            Corrupted: the file that says so is damaged.
            OSError: the queue is gone, because all of it is stored.
        """
        path = self.directory / _ORIGIN
        data = ownership.read_own(path)
        if data is None:
            path.lstat()  # raises if there is no such file
            raise Corrupted(f"{path} is not a small file of this user")
        fields = expect_mapping(unseal(data, key=str(path)))
        try:
            experiment, storage, project = (expect_text(fields[name]) for name in ("experiment", "storage", "project"))
            compression: Policy = next(policy for policy in get_args(Policy) if policy == fields["compression"])
            process, host = expect_count(fields["process"]), expect_text(fields["host"])
            session = None if (found := fields.get("session")) is None else expect_text(found)
            options = expect_mapping(fields.get("storage_options", {}))
            return Origin(experiment, storage, local_name(project), compression, process, host, session, options)
        except (KeyError, StopIteration) as error:
            raise Corrupted(f"{path} can't be understood") from error

    @cached_property
    def session(self) -> str | None:
        """The session of the experiment that is recorded; None for the first one, and if `origin` can't be read."""
        try:
            return self.origin().session
        except (OSError, Corrupted):
            return None

    def knows_storage(self) -> bool:
        """Tell whether, as far as the spool knows, something was already stored in the storage of this queue."""
        storage = self.origin().storage
        if self.state().done:
            return True
        with suppress(OSError, Corrupted):  # another queue is gone, or damaged
            others = [queue for queue in listed(self.directory.parent) if queue.distrust() is None]
            return any(queue.state().done and queue.origin().storage == storage for queue in others)
        return False

    def project(self, origin: Origin) -> Path:
        """The project directory. If it was moved with the queue in it, the new one."""
        spool, home = self.directory.parents[:2]
        is_inside = home.name == HOME and not home.is_symlink() and not spool.is_symlink()
        return home.parent if is_inside else Path(origin.project)

    def last_sign(self) -> datetime:
        """When the process that appends, or its recorder, last gave a sign of life."""
        paths = (self._owner, self._recorder, *self._journal.directory.glob("*"))
        return datetime.fromtimestamp(max(_modified(path) for path in paths), timezone.utc)

    def give_sign(self) -> None:
        """Give a sign of life to machines that can't see the locks of this one."""
        with suppress(OSError):
            os.utime(self._recorder)

    def is_abandoned(self) -> bool:
        """Tell whether its process is gone, so that any process may store what waits here.

        If the directory is shared by a file system without locks, the lock of another machine can't be seen here. Then
        the queue is abandoned after `SILENT_SECONDS` without a sign of life.
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
        directory.mkdir(mode=0o700)  # `claim` may move it out of the queue, and keep it there
        try:
            return staging.stage(tree, directory, spare=self._spare)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def append(self, record: Record, staged: Staged | None = None, *, blocked_seconds: float = 0.0) -> None:
        """Append a job. After this returns, the job survives the end of this process.

        Raises:
            OSError: there is no room.
        """
        job: dict[str, Value] = {"record": record_codec.encode(record), "blocked_seconds": blocked_seconds}
        if staged is not None:
            job |= {"staged": staging.encode(staged), "files": staged.directory.name, "boot": boot.boot_id()}
        try:
            self._journal.append(job)
        except OSError as error:
            if error.errno not in FULL or not self._make_room(_END_RESERVE if isinstance(record, Ended) else None):
                raise
            self._journal.append(job)
        if staged is not None:
            with suppress(OSError):  # without it, the copies are stored but not synced
                (staged.directory / _WHOLE).touch()

    def withdraw(self, staged: Staged) -> bool:
        """Remove the copies of a job, unless they are already being stored. Returns whether they were removed."""
        copies = self.directory / "files" / staged.directory.name  # the project may have been moved
        gone = temporary_beside(copies)
        try:
            copies.rename(gone)
        except FileNotFoundError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def watch(self) -> None:
        """Keep the file open in which `close` leaves its note, so that it can be read after the queue is gone."""
        self._note = open_above(self._recorder, os.O_RDONLY)
        self._anchor = Anchor(self.directory)

    def follow(self) -> bool:
        """Find the queue again if its directory was moved, such as with the project. Returns whether it was.

        It works after `watch` only.
        """
        if self._anchor is None or not self._anchor.follow() or self._anchor.path.name != self.directory.name:
            return False  # a queue that is being removed has another name
        before = (self._owner, self._recorder)
        self.directory = directory = self._anchor.path
        self._journal.directory = directory / "journal"
        self._owner, self._recorder = directory / OWNER, directory / _RECORDER
        _trusted.add(self.directory)
        for old, new in zip(before, (self._owner, self._recorder), strict=True):
            locks.moved(old, new)
        return True

    def was_closed(self) -> bool:
        """Tell whether the queue is gone because everything was stored, not because somebody deleted it."""
        if self._note is None:
            return False
        try:
            return os.pread(self._note, len(_CLOSED), 0) == _CLOSED
        finally:
            self.unwatch()

    def unwatch(self) -> None:
        """Close what `watch` opened."""
        if self._note is not None:
            os.close(self._note)
        if self._anchor is not None:
            self._anchor.close()
        self._note = self._anchor = None

    def exists(self) -> bool:
        """Tell whether the queue exists, and nobody is deleting it file by file."""
        return self._owner.exists()

    def defer_wait(self, wait: Callable[[], object] | None) -> None:
        """Defer waiting until everything is stored: `wait_if_deferred` calls `wait`. None: waiting is not deferred."""
        if wait is None:
            _deferred_waits.pop(self.directory, None)
        else:
            _deferred_waits[self.directory] = wait

    def wait_if_deferred(self) -> None:
        """Wait now if this process has deferred it."""
        if (wait := _deferred_waits.get(self.directory)) is not None:
            wait()

    def finish_appending(self) -> None:
        """Finish appending: this process no longer owns the queue."""
        self._journal.close()
        locks.release(self._owner)

    def is_owned(self) -> bool:
        """Tell whether the process that appends is alive, and may append more."""
        return locks.is_held(self._owner)

    def is_owned_by_this_process(self) -> bool:
        """Tell whether this process is the one that appends."""
        return locks.is_own(self._owner)

    def is_alive(self) -> bool | None:
        """Tell whether a process appends or stores; None if another user owns the queue, so that it is unknown."""
        return self.is_owned() or self.is_taken() if os.access(self._owner, os.R_OK) else None

    # The side of the process that stores.

    def take(self) -> bool:
        """Take the queue, to store what is in it; False if another process has taken it.

        Raises:
            FileNotFoundError: the queue is gone.
            OSError: this user has no permission.
        """
        return locks.acquire(self._recorder)

    def release(self) -> None:
        """Release the queue, so that another process can take it."""
        locks.release(self._recorder)

    def is_taken(self) -> bool:
        """Tell whether a process has taken the queue."""
        return locks.is_held(self._recorder)

    def waiting(self, *, count_max: int | None = None) -> list[Job]:
        """The jobs that are not stored yet, in order."""
        return self.jobs(after=self.state().mark, count_max=count_max)

    def end(self) -> Position:
        """The position after the last job."""
        return self._journal.end()

    def jobs(self, *, after: Position = START, count_max: int | None = None) -> list[Job]:
        """The jobs after a position in the journal, in order, up to the first invalid one. Some may already be stored.

        Raises:
            Corrupted: the first job is invalid.
        """
        jobs: list[Job] = []
        for line in self._journal.read(after, count_max=count_max):
            try:
                jobs.append(self._decode(line))
            except ReplicateError:
                if not jobs:
                    raise
                break
        return jobs

    def claim(self, job: Job) -> Staged | None:
        """Claim the copies of a job, to store them; None if they were withdrawn or may be incomplete."""
        assert job.staged is not None, "only jobs with files are claimed"
        before, claimed = self._places(job.staged)
        with suppress(FileNotFoundError):  # withdrawn, or claimed before
            before.directory.rename(claimed.directory)
        if not claimed.directory.is_dir():
            return None
        if not _is_safe(job, claimed):
            kept = self.directory.parent / f"{_TORN}{self.directory.name}-{claimed.directory.name.removesuffix(_TAKEN)}"
            claimed.directory.chmod(0o700)
            claimed.directory.rename(kept)
            (kept / _WHOLE).unlink(missing_ok=True)
            warn_only(
                f"the machine stopped, maybe before {', '.join(file.path for file in claimed.files[:5])} of the "
                f"experiment {ids.short(self.experiment)} had reached its disk: the files are not stored, and are kept "
                f"in {kept}"
            )
            return None
        return claimed

    def finish(self, jobs: Sequence[Job], claimed: Staged | None = None) -> None:
        """Record that these jobs are stored, and remove the claimed copies, or keep some to be overwritten."""
        for job in jobs:
            if job.damaged:
                self._keep_unreadable(job.damaged, job.after)
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
        """The progress of storing."""
        try:
            data = ownership.read_own(self.directory / _STATE)
            return State() if data is None else _decode_state(expect_mapping(loads(data)))
        except (Corrupted, KeyError):  # as if there were none: nothing is stored yet, or all is and the queue is gone
            return State()

    def set_state(self, state: State) -> None:
        """Write the progress of storing, for other processes to read."""
        try:
            self._write_state(state)
        except OSError as error:
            if error.errno not in FULL or not self._make_room(_STATE_RESERVE):
                raise
            self._write_state(state)
        else:
            if state.trouble is None:
                self._keep_reserve()

    def _write_state(self, state: State) -> None:
        path = self.directory / _STATE
        temporary = temporary_beside(path)
        try:
            write_privately(temporary, dumps(_encode_state(state)).encode())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def write_problem(self) -> str | None:
        """Why this process can't write to the queue; None if it can."""
        probe = temporary_beside(self.directory / OWNER)
        try:
            write_privately(probe, b"?")
        except OSError as error:
            return f"{self.directory} can't be written: {error.strerror}. {disk_advice(error)}"
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
        return None

    def sync(self, *, older_than_seconds: float = 0) -> None:
        """Sync what waits to disk, so that it survives a crash of the machine, too."""
        for directory in [] if not (self.directory / "files").is_dir() else (self.directory / "files").iterdir():
            with suppress(FileNotFoundError):  # claimed, withdrawn or stored meanwhile
                is_young = time.time() - directory.stat().st_mtime < older_than_seconds
                is_whole = (directory / _WHOLE).exists()  # if not, files are still being copied
                if is_young or not is_whole or (directory / _SYNCED).exists():
                    continue
                for copy in directory.iterdir():
                    if copy.name != _WHOLE:
                        sync(copy)
                (directory / _SYNCED).touch()
                sync_directory(directory)
        self._journal.sync()

    def close(self) -> None:
        """Remove the queue because everything is stored."""
        mark = self.state().mark
        if damaged := self._journal.unreadable_end(mark):
            self._keep_unreadable(damaged, mark)
        with suppress(FileNotFoundError):
            self._recorder.write_bytes(_CLOSED)
        self.remove()

    def kept_aside(self) -> list[Path]:
        """What could not be stored of this queue, and is kept in the spool."""
        return kept_aside(self.directory.parent, self.directory.name)

    def _keep_unreadable(self, damaged: bytes, place: Position) -> None:
        """Keep unreadable bytes of the journal, which is about to be deleted."""
        kept = self.directory.parent / f"{_DAMAGED}{self.directory.name}-{place.segment}-{place.offset}"
        with suppress(FileExistsError):  # a process that kept them before died before it recorded the job as stored
            write_privately(kept, damaged)
            warn_only(
                f"{len(damaged)} bytes of the journal of the experiment {ids.short(self.experiment)} can't be read: "
                "another program wrote into it, or its disk is failing. Their content is not stored; everything "
                f"before and after them is. They are kept in {kept}"
            )

    def remove(self) -> None:
        """Remove the queue and everything in it."""
        gone = self.directory.with_name(f"{SCRATCH}{self.directory.name}")  # so that nobody sees half a queue
        with suppress(FileNotFoundError):
            self.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        locks.release(self._recorder)

    def copy_of(self, job: Job, path: str) -> staging.StagedFile | None:
        """The staged copy of a file, with its present path; None once the job is stored."""
        assert job.staged is not None, "the job has files"
        for staged in self._places(job.staged):
            if not _is_safe(job, staged):
                continue
            found = next((file for file in staged.files if file.path == path), None)
            if found is not None and found.copy.exists():
                return found
        return None

    def has_copies(self, job: Job) -> bool:
        """Tell whether the staged copies of a job exist: it has files that were neither withdrawn nor stored."""
        if job.staged is None:
            return False
        return any(staged.directory.is_dir() and _is_safe(job, staged) for staged in self._places(job.staged))

    def _places(self, staged: Staged) -> tuple[Staged, Staged]:
        """Where copies may be: as they were staged, and after they were claimed."""
        return staged, _moved(staged, staged.directory.with_name(staged.directory.name + _TAKEN))

    def _decode(self, line: JournalLine) -> Job:
        job = expect_mapping(line.document)
        record = record_codec.decode(job.get("record"), key=str(self._journal.directory))
        if record is None:
            raise Corrupted(f"{self._journal.directory} holds a job of a kind that this version does not know")
        staged = None
        if "staged" in job:
            name = expect_text(job.get("files"))
            if not _NUMBER.fullmatch(name):
                raise Corrupted(
                    f"{self._journal.directory} names {name!r} as copies: they would lie outside of the queue"
                )
            staged = staging.decode(job["staged"], self.directory / "files" / name)
        blocked, boot = job.get("blocked_seconds"), job.get("boot")
        return Job(
            record,
            staged,
            float(blocked) if isinstance(blocked, (int, float)) else 0.0,
            boot if isinstance(boot, str) else None,
            line.after,
            line.damaged,
        )

    def spare_bytes(self, count_max: int) -> int:
        """Size on disk of the spare copies, of at most `count_max` files."""
        return sum(size for size, _ in self._spares()[:count_max])

    def drop_spares(self) -> bool:
        """Remove the spare copies. Returns whether there were any."""
        found = self._spares()
        for _, path in found:
            path.unlink(missing_ok=True)  # the process that appends may have used it meanwhile
        return bool(found)

    def _spare(self) -> Path | None:
        """A copy to overwrite."""
        return next((path for _, path in self._spares()), None)

    def _spares(self) -> list[tuple[int, Path]]:
        """The spare copies, which are to be overwritten, with their sizes on disk; the largest first."""
        found = []
        with suppress(OSError):
            for name in os.listdir(self.directory / "spares"):
                path = self.directory / "spares" / name
                found.append((path.stat().st_blocks * 512, path))
        return sorted(found, reverse=True)

    def _keep_reserve(self) -> None:
        """Reserve some room for the state, for when the disk is full."""
        path = self.directory / _STATE_RESERVE
        if not path.exists():
            with suppress(OSError):
                write_privately(path, bytes(RESERVE_BYTES))

    def _make_room(self, reserve: str | None) -> bool:
        """Delete the spare copies and a reserve. Returns whether there were any."""
        dropped = self.drop_spares()
        with suppress(FileNotFoundError):
            if reserve is not None:
                (self.directory / reserve).unlink()
                dropped = True
        return dropped

    def _keep_spares(self, claimed: Staged) -> None:
        """Keep a few copies to be overwritten, except those that became objects of the storage: they have two links."""
        with suppress(OSError):
            room = SPARES_MAX - len(os.listdir(self.directory / "spares"))
            large = (file.copy for file in claimed.files if file.size > staging.SMALL_BYTES)
            for copy in [copy for copy in large if copy.stat().st_nlink == 1][: max(0, room)]:
                copy.rename(self.directory / "spares" / os.urandom(8).hex())


def write_privately(path: Path, data: bytes) -> None:
    """Write a new file that only this user can read."""
    with open(open_above(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def listed(directory: Path) -> list[Queue]:
    """Everything in a directory that has the name of a queue, in order."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [Queue(directory / name) for name in names if QUEUE.fullmatch(name)]


def kept_aside(directory: Path, queue: str = "") -> list[Path]:
    """What could not be stored, and is kept in a spool for people to look at.

    Args:
        directory: the spool.
        queue: the name of the queue it comes from; by default any.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [directory / name for name in names if name.startswith((f"{_TORN}{queue}", f"{_DAMAGED}{queue}"))]


def _is_safe(job: Job, staged: Staged) -> bool:
    """Tell whether copies are complete: the machine may have stopped before they reached its disk."""
    is_whole = all(_size(file.copy) >= file.offset + file.size for file in staged.files)
    return is_whole and (job.boot == boot.boot_id() or (staged.directory / _SYNCED).exists())


def _is_kind(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Tell whether a path is of this kind, or does not exist."""
    try:
        return is_kind(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    """Size of a staged copy; -1 if it is gone, or is not a file that this user made."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return -1
    return status.st_size if staging.is_own_file(status) else -1


def _moved(staged: Staged, directory: Path) -> Staged:
    files = tuple(replace(file, copy=directory / file.copy.name) for file in staged.files)
    return replace(staged, directory=directory, files=files)


def _encode_origin(origin: Origin) -> Value:
    return {
        "experiment": origin.experiment,
        "storage": origin.storage,
        "project": portable(origin.project),
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
        raise Corrupted(f"{mark!r} is not a place in a journal")
    trouble = None
    if fields["trouble"] is not None:
        found = expect_mapping(fields["trouble"])
        kind, message = expect_text(found["kind"]), expect_text(found["message"])
        trouble = Trouble(kind, message, found["permanent"] is True, expect_count(found["attempts"]))
    place = Position(expect_count(mark[0]), expect_count(mark[1]))
    blocked = fields["blocked_seconds"]
    return State(
        fields["ready"] is True,
        expect_count(fields["done"]),
        place,
        fields["ended"] is True,
        float(blocked) if isinstance(blocked, (int, float)) else 0.0,
        trouble,
    )
