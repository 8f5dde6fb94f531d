"""The spool: queues of what is still to be stored, which two processes share and every third one may look at."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, InvalidInput, StorageFailed
from replicate_core.format import record_codec
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended
from replicate_core.machine import boot as boots
from replicate_core.machine import locks, staging
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import SMALL_BYTES, Staged
from replicate_core.spool import spool as spools
from replicate_core.spool import upload_queue
from replicate_core.spool.journal import START, Position
from replicate_core.spool.spool import ABANDONED_SECONDS, Spool
from replicate_core.spool.upload_queue import SPARES_MAX, Job, Origin, Queue, State, Trouble

EXPERIMENT = "e" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
LARGE = SMALL_BYTES + 1

Start = Callable[..., "subprocess.Popen[str]"]

BEGINNING = (
    "import sys, pathlib, socket\n"
    "from replicate_core.spool.spool import Origin, Spool\n"
    "project = pathlib.Path(sys.argv[1])\n"
    "origin = Origin(sys.argv[2] * 32, 'storage', str(project), 'auto', 1, socket.gethostname())\n"
    "queue = Spool(project).begin(origin, '01J' + sys.argv[2].upper() * 23)\n"
    "print(queue.directory, flush=True)\n"
    "sys.stdin.readline()\n"
)


class Queues:
    """A spool, and the queues that this process has in it."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.spool = Spool(project)
        self.begun: list[Queue] = []

    def origin(self, experiment: str = EXPERIMENT) -> Origin:
        return Origin(experiment, "storage", str(self.project), "auto", os.getpid(), socket.gethostname())

    def begin(self, experiment: str = EXPERIMENT) -> Queue:
        queue = self.spool.begin(self.origin(experiment), f"01J{len(self.begun):023}")
        self.begun.append(queue)
        return queue


@pytest.fixture
def queues(project: Path) -> Iterator[Queues]:
    queues = Queues(project)
    yield queues
    for queue in queues.begun:
        queue.finish_appending()
        queue.release()


@pytest.fixture
def queue(queues: Queues) -> Queue:
    return queues.begin()


def created() -> Created:
    return Created(EXPERIMENT, NOW, params={"lr": 0.1})


def checkpointed(number: int) -> Checkpointed:
    return Checkpointed(EXPERIMENT, (CheckpointFacts(f"{number:032}", NOW, number, {"loss": 0.5}),))


def stage(queue: Queue, **contents: bytes) -> Staged:
    project = queue.directory.parents[2]
    for name, data in contents.items():
        (project / name).write_bytes(data)
    return queue.stage(Tree({name: project / name for name in contents}))


def append(queue: Queue, number: int, **contents: bytes) -> Job:
    """Append a checkpoint with these files, and return it as a reader sees it."""
    queue.append(checkpointed(number), stage(queue, **contents) if contents else None)
    return Queue(queue.directory).jobs()[-1]


def contents(staged: Staged) -> dict[str, bytes]:
    return {file.path: file.copy.read_bytes()[file.offset :][: file.size] for file in staged.files}


class TestBeginning:
    def test_a_queue_is_found_with_all_that_others_must_know(self, queues: Queues) -> None:
        begun = queues.begin()
        (found,) = Spool(queues.project).queues()
        assert found.directory == begun.directory
        assert found.directory.name == f"01J{0:023}-{EXPERIMENT}"
        assert found.experiment == EXPERIMENT
        assert found.origin() == queues.origin()
        assert found.state() == State()
        assert found.jobs() == found.waiting() == []

    def test_it_is_owned_from_the_first_moment_it_is_seen(
        self, queues: Queues, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        rename = Path.rename

        def watched(self: Path, target: Path) -> Path:
            seen.append([other.is_owned() for other in queues.spool.queues()])
            moved = rename(self, target)
            seen.append([other.is_owned() for other in queues.spool.queues()])
            return moved

        monkeypatch.setattr(Path, "rename", watched)
        begun = queues.begin()
        assert seen[0] == [], "nobody sees it before"
        assert begun.is_owned()

    def test_what_it_says_of_the_storage_is_for_its_owner_alone(self, queue: Queue) -> None:
        assert (queue.directory / "origin.json").stat().st_mode & 0o777 == 0o600

    def test_nobody_else_may_look_into_it(self, queue: Queue) -> None:
        """What may not be read by all where it stands is copied there."""
        assert queue.directory.stat().st_mode & 0o777 == 0o700

    def test_git_ignores_it(self, queues: Queues) -> None:
        queues.begin()
        assert (queues.project / ".replicate/.gitignore").read_text() == "*\n"

    def test_a_gitignore_of_the_user_is_kept(self, queues: Queues) -> None:
        (queues.project / ".replicate").mkdir()
        (queues.project / ".replicate/.gitignore").write_text("spool/\n")
        queues.begin()
        assert (queues.project / ".replicate/.gitignore").read_text() == "spool/\n"

    def test_in_another_directory_leaves_the_project_alone(self, project: Path, tmp_path: Path) -> None:
        spool = Spool(project, tmp_path / "fast" / "disk")
        queue = spool.begin(Origin(EXPERIMENT, "storage", str(project), "auto", 1, socket.gethostname()), "01J")
        assert queue.directory.parent == tmp_path / "fast" / "disk"
        assert os.listdir(project) == []
        assert queue.project(queue.origin()) == project
        queue.finish_appending()

    def test_two_processes_that_begin_at_once_have_a_queue_each(self, project: Path, another_process: Start) -> None:
        processes: list[subprocess.Popen[str]] = []
        threads = [
            threading.Thread(target=lambda name=name: processes.append(another_process(BEGINNING, project, name)))
            for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Spool(project).queues()
        assert [queue.experiment for queue in found] == [name * 32 for name in "abcd"]
        assert all(queue.is_owned() for queue in found)
        processes[0].kill()
        processes[0].wait()
        assert sorted(queue.is_owned() for queue in found) == [False, True, True, True]

    def test_queues_are_listed_oldest_first_and_by_experiment(self, queues: Queues) -> None:
        for experiment in ("b" * 32, "a" * 32, "b" * 32):
            queues.begin(experiment)
        (queues.spool.directory / "notes").touch()
        assert [queue.experiment[0] for queue in queues.spool.queues()] == ["b", "a", "b"]
        assert [queue.directory for queue in queues.spool.queues_of("b" * 32)] == [
            queues.begun[0].directory,
            queues.begun[2].directory,
        ]
        assert queues.spool.queues_of("c" * 32) == []

    def test_there_are_none_where_there_is_no_spool(self, project: Path) -> None:
        assert Spool(project).queues() == []
        (project / ".replicate").write_text("a file in its place")
        assert Spool(project).queues() == []

    def test_a_project_that_cannot_be_written_says_so(self, queues: Queues) -> None:
        (queues.project / ".replicate").write_text("a file where a directory is needed")
        with pytest.raises(StorageFailed, match=r"can't use .*/\.replicate/spool, .*Make room there.*directory: "):
            queues.begin()

    def test_a_file_system_without_locks_says_so(self, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "AVAILABLE", False)
        with pytest.raises(StorageFailed, match=r"has no locks .*name another directory"):
            queues.begin()
        assert queues.spool.queues() == []

    @pytest.mark.parametrize(
        "change",
        [
            {"experiment": None},
            {"storage": 1},
            {"project": []},
            {"compression": "much"},
            {"process": -1},
            {"process": "1"},
            {"host": None},
        ],
        ids=repr,
    )
    def test_what_makes_no_sense_is_corrupted(self, queue: Queue, change: dict) -> None:
        path = queue.directory / "origin.json"
        document = json.loads(path.read_bytes())["document"] | change
        path.write_bytes(upload_queue.seal(document))
        with pytest.raises(Corrupted):
            queue.origin()
        for name in change:
            del document[name]
        path.write_bytes(upload_queue.seal(document))
        with pytest.raises(Corrupted, match=r"origin\.json can't be understood"):
            queue.origin()

    def test_what_was_damaged_is_corrupted_and_what_is_gone_is_gone(self, queue: Queue) -> None:
        path = queue.directory / "origin.json"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(Corrupted, match=r"origin\.json"):
            queue.origin()
        path.unlink()
        with pytest.raises(FileNotFoundError):
            queue.origin()


class TestWhoseItIs:
    """What lies in a spool is stored by anybody who finds it: so it must be what this user has saved."""

    def copied(self, queue: Queue, tmp_path: Path) -> Queue:
        """The queue as an archive brings it to another user, with all that it says of itself."""
        spool = tmp_path / "elsewhere" / ".replicate" / "spool"
        shutil.copytree(queue.directory, spool / queue.directory.name)
        return Queue(spool / queue.directory.name)

    def test_the_spool_is_private(self, queue: Queue) -> None:
        assert queue.directory.parent.stat().st_mode & 0o777 == 0o700

    def test_a_queue_is_known_to_other_processes_of_this_user(self, queues: Queues, another_process: Start) -> None:
        another_process(BEGINNING, queues.project, "a")
        assert [found.experiment for found in queues.spool.queues()] == ["a" * 32]
        assert queues.spool.strangers() == []

    def test_a_copy_is_known_by_the_key_of_this_user(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = self.copied(queue, tmp_path)
        assert copy.distrust() is None
        monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "another home"))
        assert copy.distrust() is not None

    def test_an_origin_that_was_changed_is_not_believed(self, queue: Queue, tmp_path: Path) -> None:
        copy = self.copied(queue, tmp_path)
        origin = copy.directory / "origin.json"
        document = json.loads(origin.read_bytes())["document"] | {"storage": "ftp://example.org/loot"}
        origin.write_bytes(upload_queue.seal(document))
        spool = Spool(tmp_path / "elsewhere")
        assert spool.queues() == []
        (stranger,) = spool.strangers()
        assert (stranger.queue.directory, stranger.is_own) == (copy.directory, True)

    @pytest.mark.parametrize("what", ["queue", "spool"])
    def test_a_directory_that_others_may_write_to_is_not_believed(
        self, queue: Queue, tmp_path: Path, what: str
    ) -> None:
        copy = self.copied(queue, tmp_path)
        opened = copy.directory if what == "queue" else copy.directory.parent
        opened.chmod(0o770)
        assert Spool(tmp_path / "elsewhere").queues() == []
        (stranger,) = Spool(tmp_path / "elsewhere").strangers()
        assert stranger.why == f"other users may write to {opened}"

    def test_of_what_processes_have_left_only_that_is_removed_which_has_our_names(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, tmp_path / "shared")
        ours = [f".scratch-{'0' * 16}", ".new-01ABC-" + "a" * 32, ".scratch-01ABC-" + "a" * 32]
        theirs = [".scratch-notes", ".new-thesis", "work"]
        for name in (*ours, *theirs):
            (spool.directory / name).mkdir(parents=True)
            os.utime(spool.directory / name, (1, 1))
        with spool.scratch():
            assert sorted(name for name in os.listdir(spool.directory) if name in {*ours, *theirs}) == sorted(theirs)

    def test_a_link_to_a_queue_is_none(self, queue: Queue, tmp_path: Path) -> None:
        (tmp_path / "elsewhere/.replicate/spool").mkdir(parents=True, mode=0o700)
        (tmp_path / "elsewhere/.replicate/spool" / queue.directory.name).symlink_to(queue.directory)
        assert Spool(tmp_path / "elsewhere").queues() == []
        (stranger,) = Spool(tmp_path / "elsewhere").strangers()
        assert not stranger.is_own
        with pytest.raises(InvalidInput, match="is not a directory"):
            Spool(tmp_path / "elsewhere").accept(stranger)

    def test_what_an_earlier_version_left_is_accepted_once_the_user_says_so(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = self.copied(queue, tmp_path)
        (copy.directory / "proof").unlink()
        spool = Spool(tmp_path / "elsewhere")
        (stranger,) = spool.strangers()
        assert stranger.why.startswith("an earlier version of replicate has left it")
        assert spool.accept(stranger).directory == copy.directory
        monkeypatch.setattr(upload_queue, "_begun", set())  # another process
        assert [found.directory for found in spool.queues()] == [copy.directory]
        assert spool.strangers() == []

    def test_what_an_earlier_version_is_at_is_no_stranger(self, project: Path, another_process: Start) -> None:
        process = another_process(BEGINNING, project, "a")
        (queue,) = Spool(project).queues()
        (queue.directory / "proof").unlink()
        assert Spool(project).queues() == Spool(project).strangers() == []
        process.kill()
        process.wait()
        assert [found.queue.directory for found in Spool(project).strangers()] == [queue.directory]

    def test_a_spool_that_others_may_write_to_is_closed_to_them(self, queues: Queues) -> None:
        """As earlier versions made it, where the group may write to what a user makes."""
        queues.spool.directory.mkdir(parents=True)
        queues.spool.directory.chmod(0o775)
        queues.begin()
        assert queues.spool.directory.stat().st_mode & 0o777 == 0o755

    def test_another_user_has_a_spool_beside_it(
        self, open_directory: Path, as_nobody: Callable[[], AbstractContextManager[None]]
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root becomes another user")
        (open_directory / ".replicate").mkdir()
        (open_directory / ".replicate").chmod(0o777)
        first = Spool(open_directory)
        first.begin(
            Origin(EXPERIMENT, "storage", str(open_directory), "auto", 1, socket.gethostname()), "01A"
        ).finish_appending()
        with as_nobody():
            second = Spool(open_directory)
            origin = Origin("a" * 32, "storage", str(open_directory), "auto", 1, socket.gethostname())
            queue = second.begin(origin, "01B")
            assert queue.directory.parent.name == f"spool-{os.geteuid()}"
            assert queue.project(origin) == open_directory
            assert [found.experiment for found in second.queues()] == ["a" * 32]
            queue.finish_appending()
        assert [found.experiment for found in first.queues()] == [EXPERIMENT]

    @pytest.mark.parametrize("name", ["/etc", "../../secret", "1/..", "", "."])
    def test_a_line_of_the_journal_names_no_directory_outside_of_the_queue(self, queue: Queue, name: str) -> None:
        staged = {"files": [["a", 0o644, "0", 0, 1]], "links": {}, "directories": []}
        record = record_codec.encode(checkpointed(1))
        queue._journal.append({"record": record, "blocked_seconds": 0.0, "staged": staged, "files": name})
        with pytest.raises(Corrupted, match="would lie outside of the queue"):
            queue.jobs()

    def test_a_copy_that_is_a_link_is_kept_aside_and_not_followed(self, queue: Queue, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"12345")
        job = append(queue, 1, model=b"model")
        copy = queue.directory / "files/1/small"
        copy.unlink()
        copy.symlink_to(tmp_path / "secret")
        assert queue.copy_of(job, "model") is None
        with pytest.warns(UserWarning, match="the files are not stored, and kept in"):
            assert queue.claim(job) is None
        (kept,) = queue.kept_aside()
        assert kept.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "secret").read_bytes() == b"12345"

    def test_a_link_in_place_of_the_gitignore_is_not_written_through(self, queues: Queues, tmp_path: Path) -> None:
        (queues.project / ".replicate").mkdir()
        (queues.project / ".replicate/.gitignore").symlink_to(tmp_path / "elsewhere")
        queues.begin()
        assert not (tmp_path / "elsewhere").exists()


class TestOwners:
    def test_a_queue_is_owned_until_it_is_left(self, queue: Queue) -> None:
        assert queue.is_owned()
        assert Queue(queue.directory).is_owned()
        queue.finish_appending()
        assert not queue.is_owned()

    def test_or_until_its_process_is_killed(self, project: Path, another_process: Start) -> None:
        process = another_process(BEGINNING, project, "a")
        (queue,) = Spool(project).queues()
        assert queue.is_owned()
        process.kill()
        process.wait()
        assert not queue.is_owned()

    def test_one_process_at_a_time_stores(self, queue: Queue, another_process: Start) -> None:
        code = "import sys, pathlib; from replicate_core.spool.spool import Queue\n"
        code += "print(Queue(pathlib.Path(sys.argv[1])).take(), flush=True); sys.stdin.readline()"
        other = another_process(code, queue.directory)
        assert queue.is_taken()
        assert not queue.take()
        other.kill()
        other.wait()
        assert not queue.is_taken()
        assert queue.take()
        assert queue.is_taken()
        assert not Queue(queue.directory).take()
        queue.release()
        assert not queue.is_taken()

    def test_a_queue_that_is_gone_is_not_taken(self, queue: Queue) -> None:
        queue.finish_appending()
        queue.remove()
        with pytest.raises(FileNotFoundError):
            queue.take()
        assert not queue.is_owned()
        assert not queue.is_taken()
        assert not queue.directory.exists()

    def test_its_last_sign_is_the_last_append_or_a_sign_of_its_recorder(self, queue: Queue) -> None:
        before = time.time()
        queue.append(created())
        assert before - 2 < queue.last_sign().timestamp() < time.time() + 2
        (journal,) = (queue.directory / "journal").iterdir()
        for number, path in enumerate((journal, queue.directory / "owner", queue.directory / "recorder")):
            for other in (journal, queue.directory / "owner", queue.directory / "recorder"):
                os.utime(other, (1, 1))
            os.utime(path, (NOW.timestamp() + number, NOW.timestamp() + number))
            assert (queue.last_sign() - NOW).total_seconds() == number
        queue.give_sign()
        assert before - 2 < queue.last_sign().timestamp() < time.time() + 2

    def test_a_queue_that_is_gone_had_its_last_sign_long_ago(self, queue: Queue) -> None:
        queue.remove()
        queue.give_sign()
        assert queue.last_sign() == datetime.fromtimestamp(0, timezone.utc)
        assert not queue.directory.exists()

    def test_a_queue_is_abandoned_once_its_process_is_gone(self, queue: Queue) -> None:
        assert not queue.is_abandoned()
        queue.finish_appending()
        assert queue.is_abandoned()

    def test_a_queue_of_another_machine_is_abandoned_once_it_was_silent_for_long(
        self, queues: Queues, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its lock may not be seen here: a file system that is shared, and knows locks of one machine only."""
        queue = queues.begin()
        queue.append(created())
        queue.finish_appending()
        monkeypatch.setattr(upload_queue.socket, "gethostname", lambda: "another")
        assert not queue.is_abandoned()
        long_ago = time.time() - upload_queue.SILENT_SECONDS - 1
        for path in (queue.directory / "owner", queue.directory / "recorder", *queue.directory.glob("journal/*")):
            os.utime(path, (long_ago, long_ago))
        assert queue.is_abandoned()
        queue.give_sign()
        assert not queue.is_abandoned()

    def test_a_queue_that_does_not_say_whose_it_is_is_taken_for_one_of_this_machine(self, queue: Queue) -> None:
        (queue.directory / "origin.json").write_bytes(b"{}")
        assert not queue.is_abandoned()
        queue.finish_appending()
        assert queue.is_abandoned()


class TestJobs:
    def test_are_read_as_they_were_appended(self, queue: Queue) -> None:
        queue.append(created(), stage(queue, train=b"print()"))
        queue.append(checkpointed(1), blocked_seconds=0.25)
        queue.append(Ended(EXPERIMENT, NOW, "failed", "ValueError: x", 1.5))
        begun, made, ended = Queue(queue.directory).jobs()
        assert begun.record == created()
        assert begun.staged is not None
        assert contents(begun.staged) == {"train": b"print()"}
        assert begun.boot == boots.boot_id()
        assert (made.record, made.staged, made.blocked_seconds) == (checkpointed(1), None, 0.25)
        assert ended.record == Ended(EXPERIMENT, NOW, "failed", "ValueError: x", 1.5)

    def test_wait_until_they_are_finished(self, queue: Queue) -> None:
        for number in range(4):
            queue.append(checkpointed(number))
        jobs = queue.jobs()
        assert queue.waiting() == jobs
        queue.finish(jobs[:1])
        assert queue.waiting() == jobs[1:]
        assert queue.waiting(count_max=2) == jobs[1:3]
        assert queue.jobs(after=jobs[2].after) == jobs[3:]
        queue.finish(jobs[1:])
        assert queue.waiting() == []
        assert queue.state().done == 4

    def test_of_a_journal_that_is_long_are_forgotten_behind_the_mark(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("replicate_core.spool.journal.SEGMENT_BYTES", 0)
        for number in range(4):
            queue.append(checkpointed(number))
        for job in queue.waiting():
            queue.finish([job])
        assert len(os.listdir(queue.directory / "journal")) == 1
        queue.append(checkpointed(4))
        (left,) = queue.waiting()
        assert left.record == checkpointed(4)

    def test_that_no_version_knows_are_corrupted(self, queue: Queue) -> None:
        queue._journal.append({"record": {"kind": "something new", "experiment": EXPERIMENT}, "blocked_seconds": 0.0})
        with pytest.raises(Corrupted):
            queue.jobs()

    def test_before_one_that_makes_no_sense_are_not_held_up_by_it(self, queue: Queue) -> None:
        for number in (1, 2):
            queue.append(checkpointed(number))
        queue._journal.append("senseless")
        queue.append(checkpointed(3))
        jobs = queue.waiting()
        assert [job.record for job in jobs] == [checkpointed(1), checkpointed(2)]
        queue.finish(jobs)
        with pytest.raises(Corrupted):
            queue.waiting()

    @pytest.mark.parametrize("job", [None, [], "x", 5])
    def test_that_are_none_are_corrupted(self, queue: Queue, job) -> None:
        queue._journal.append(job)
        with pytest.raises(Corrupted):
            queue.jobs()

    def test_that_lack_what_is_not_needed_are_jobs_all_the_same(self, queue: Queue) -> None:
        queue.append(checkpointed(1))
        (line,) = queue._journal.read()
        queue._journal.append({"record": line.document["record"], "blocked_seconds": "long", "boot": 5})
        job = queue.jobs()[1]
        assert (job.record, job.blocked_seconds, job.boot) == (checkpointed(1), 0.0, None)

    def test_a_checkpoint_without_room_leaves_no_copies(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "model").write_bytes(b"x")
        (project / "large").write_bytes(bytes(LARGE))

        def full(source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device", str(target))

        tree = Tree({"model": project / "model", "large": project / "large"})
        monkeypatch.setattr(staging, "copy_steadily", full)
        with pytest.raises(OSError, match="No space left"):
            queue.stage(tree)
        assert os.listdir(queue.directory / "files") == []
        assert contents(stage(queue, model=b"y")) == {"model": b"y"}, "the next one has a directory of its own"


class TestClaims:
    def test_copies_belong_to_who_claims_them(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}
        assert claimed.directory.name == "1.taken"
        assert os.listdir(queue.directory / "files") == ["1.taken"]
        assert job.staged is not None
        assert not queue.withdraw(job.staged), "they are being stored"
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}

    def test_whoever_claims_again_after_a_kill_gets_them_again(self, queue: Queue) -> None:
        job = append(queue, 1, model=b"m")
        assert queue.claim(job) == Queue(queue.directory).claim(job) is not None

    def test_copies_that_were_withdrawn_are_not_there(self, queue: Queue) -> None:
        job = append(queue, 1, model=b"m")
        assert job.staged is not None
        assert queue.withdraw(job.staged)
        assert os.listdir(queue.directory / "files") == []
        assert queue.claim(job) is None
        assert not queue.withdraw(job.staged), "twice is once too often"
        assert queue.waiting() == [job], "the job is there without them"

    def test_when_both_try_exactly_one_wins(self, queue: Queue) -> None:
        for number in range(60):
            job = append(queue, number, model=b"m")
            assert job.staged is not None
            ready, claimed, withdrawn = threading.Barrier(2), [], []

            def claim(job=job, ready=ready, claimed=claimed) -> None:
                ready.wait()
                claimed.append(Queue(queue.directory).claim(job))

            thread = threading.Thread(target=claim)
            thread.start()
            ready.wait()
            withdrawn.append(queue.withdraw(job.staged))
            thread.join()
            assert (claimed[0] is None) == withdrawn[0]
            assert claimed[0] is None or contents(claimed[0]) == {"model": b"m"}

    def test_copies_that_are_cut_short_are_not_stored(self, queue: Queue) -> None:
        job = append(queue, 1, a=b"12345", b=b"67890")
        small = queue.directory / "files" / "1" / "small"
        os.truncate(small, 9)
        with pytest.warns(UserWarning, match=r"a, b of the experiment eeeeeee .*the files are not stored, and kept in"):
            assert queue.claim(job) is None
        kept = queue.directory.parent / f"torn-{queue.directory.name}-1"
        assert (kept / "small").read_bytes() == b"123456789", "whoever knows better may use them"
        assert os.listdir(queue.directory / "files") == []
        assert queue.claim(job) is None, "and is told once"
        assert [other.directory for other in Spool(queue.directory.parents[2]).queues()] == [queue.directory]

    def test_copies_that_are_missing_are_not_stored(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        (queue.directory / "files" / "1" / "0").unlink()
        with pytest.warns(UserWarning, match="model, notes of the experiment"):
            assert queue.claim(job) is None

    def test_copies_of_empty_files_are_whole(self, queue: Queue) -> None:
        job = append(queue, 1, empty=b"")
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"empty": b""}

    def test_a_job_of_directories_and_links_alone_is_claimed(self, queue: Queue) -> None:
        queue.append(checkpointed(1), queue.stage(Tree({}, {"link": "target"}, ("logs",))))
        claimed = queue.claim(queue.jobs()[0])
        assert claimed is not None
        assert (claimed.links, claimed.directories) == ({"link": "target"}, ("logs",))


class TestAnotherStartOfTheMachine:
    """What was not synced may be torn, however long it looks."""

    def test_may_not_have_the_copies(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: "one")
        job = append(queue, 1, model=b"m")
        assert job.boot == "one"
        monkeypatch.setattr(boots, "boot_id", lambda: "two")
        assert queue.copy_of(job, "model") is None
        with pytest.warns(UserWarning, match="the machine stopped before model of the experiment"):
            assert queue.claim(job) is None

    @pytest.mark.parametrize("boot", ["two", None], ids=["another", "an unknown one"])
    def test_has_those_that_were_synced(self, queue: Queue, monkeypatch: pytest.MonkeyPatch, boot: str | None) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: "one")
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        queue.sync()
        monkeypatch.setattr(boots, "boot_id", lambda: boot)
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}

    def test_where_the_system_does_not_tell_they_are_taken_as_they_are(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: None)
        assert queue.claim(append(queue, 1, model=b"m")) is not None

    def test_is_told_by_the_system_or_not_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = boots.boot_id()
        assert told is None or len(told) == 36
        assert boots.boot_id() is told, "it does not change, and is asked for with every job"
        monkeypatch.setattr(boots, "Path", lambda _: Path("/does/not/exist"))
        assert boots.boot_id.__wrapped__() is None

    def test_is_told_by_another_command_on_macos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []
        monkeypatch.setattr(boots.sys, "platform", "darwin")
        monkeypatch.setattr(boots.subprocess, "check_output", lambda command, text: asked.append(command) or "one\n")
        assert boots.boot_id.__wrapped__() == "one"
        assert asked == [["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]]

        def fail(command: list[str], text: bool) -> str:
            raise subprocess.CalledProcessError(1, command)

        monkeypatch.setattr(boots.subprocess, "check_output", fail)
        assert boots.boot_id.__wrapped__() is None


class TestSyncing:
    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        synced: list[str] = []
        monkeypatch.setattr(upload_queue, "sync", lambda path: synced.append(path.name))
        monkeypatch.setattr("replicate_core.spool.journal.sync", lambda path: synced.append(path.name))
        return synced

    def test_takes_every_copy_once_and_the_journal(self, queue: Queue, synced: list[str]) -> None:
        append(queue, 1, model=bytes(LARGE), a=b"a", b=b"b")
        append(queue, 2)
        queue.sync()
        assert sorted(synced) == ["0", "00000001.jsonl", "small"]
        queue.sync()
        assert sorted(synced)[:3] == ["0", "00000001.jsonl", "00000001.jsonl"], "the copies are safe already"

    def test_takes_what_was_claimed_and_passes_over_what_was_withdrawn(self, queue: Queue, synced: list[str]) -> None:
        claimed, withdrawn = append(queue, 1, model=b"m"), append(queue, 2, model=b"m")
        queue.claim(claimed)
        queue.withdraw(withdrawn.staged)
        queue.sync()
        assert synced == ["small", "00000001.jsonl"]

    def test_leaves_what_is_young(self, queue: Queue, synced: list[str]) -> None:
        append(queue, 1, model=b"m")
        append(queue, 2, notes=b"n")
        os.utime(queue.directory / "files" / "1", (1, 1))
        queue.sync(older_than_seconds=60)
        assert [(queue.directory / "files" / job / "synced").exists() for job in "12"] == [True, False]
        assert synced == ["small", "00000001.jsonl"]

    def test_leaves_what_is_still_being_copied(self, queue: Queue, project: Path) -> None:
        """A large file takes longer than a copy may wait: what is written after the sync is not safe."""

        class Slow(type(project)):  # type: ignore[misc]
            def stat(self, **_: bool) -> os.stat_result:
                (copying,) = (queue.directory / "files").iterdir()
                os.utime(copying, (1, 1))
                queue.sync(older_than_seconds=5)
                return super().stat()

        (project / "model").write_bytes(bytes(LARGE))
        tree = Tree({"a": project / "model", "b": Slow(project / "model")})
        queue.append(checkpointed(1), queue.stage(tree))
        assert not list(queue.directory.glob("files/*/synced"))

    def test_of_a_queue_without_copies_is_fine(self, queue: Queue, synced: list[str]) -> None:
        (queue.directory / "files").rmdir()
        (queue.directory / "spares").touch()
        queue.sync()
        assert synced == []

    def test_copies_that_are_withdrawn_meanwhile_are_no_trouble(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = append(queue, 1, model=b"m")
        plain = upload_queue.sync

        def late(path: Path) -> None:
            queue.withdraw(job.staged)
            plain(path)

        monkeypatch.setattr(upload_queue, "sync", late)
        queue.sync()
        assert not job.staged.directory.exists()


class TestFinishing:
    def test_removes_the_copies(self, queue: Queue) -> None:
        job = append(queue, 1, notes=b"n")
        queue.finish([job], queue.claim(job))
        assert os.listdir(queue.directory / "files") == []
        assert os.listdir(queue.directory / "spares") == [], "a small copy is not worth keeping"

    def test_keeps_a_few_large_copies_to_be_written_over(self, queue: Queue) -> None:
        for number in range(3):
            files = {f"{number}-{name}": bytes([number]) * (LARGE + number) for name in "abc"}
            job = append(queue, number, **files)
            claimed = queue.claim(job)
            assert claimed is not None
            assert contents(claimed) == files
            queue.finish([job], claimed)
            assert len(os.listdir(queue.directory / "spares")) == SPARES_MAX
        assert os.listdir(queue.directory / "files") == []

    def test_an_object_is_never_written_over(self, queue: Queue, project: Path) -> None:
        """Storing on the same disk makes the copy itself the object, as a second name of it."""
        job = append(queue, 1, model=b"1" * LARGE, other=b"o" * LARGE)
        claimed = queue.claim(job)
        assert claimed is not None
        os.link(claimed.files[0].copy, project / "object")
        queue.finish([job], claimed)
        assert len(os.listdir(queue.directory / "spares")) == 1
        append(queue, 2, model=b"2" * LARGE, other=b"p" * LARGE)
        assert (project / "object").read_bytes() == b"1" * LARGE
        assert (project / "object").stat().st_nlink == 1

    def test_is_no_failure_though_the_spares_cannot_be_kept(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE))
        claimed = queue.claim(job)
        (queue.directory / "spares").rmdir()
        queue.finish([job], claimed)
        assert queue.state().done == 1
        append(queue, 2, model=bytes(LARGE))

    def test_notes_whether_the_experiment_has_ended_and_how_long_it_was_held_up(self, queue: Queue) -> None:
        for blocked, record in enumerate([created(), Ended(EXPERIMENT, NOW, "finished"), checkpointed(1)]):
            queue.append(record, blocked_seconds=float(blocked))
        states = []
        for job in queue.waiting():
            queue.finish([job])
            states.append(queue.state())
        assert [state.ended for state in states] == [False, True, True]
        assert [state.blocked_seconds for state in states] == [0.0, 1.0, 2.0]
        assert all(state.ready and state.trouble is None for state in states)

    def test_ends_what_was_in_the_way(self, queue: Queue) -> None:
        job = append(queue, 1)
        queue.set_state(State(trouble=Trouble("StorageFailed", "no", permanent=False, attempts=2)))
        queue.finish([job])
        assert queue.state().trouble is None


class TestReadingAlong:
    def test_the_copy_of_a_file_is_found_until_it_is_stored(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        for _ in range(2):
            for path, data in (("model", bytes(LARGE)), ("notes", b"n")):
                found = queue.copy_of(job, path)
                assert found is not None
                assert found.copy.read_bytes()[found.offset :][: found.size] == data
            assert queue.copy_of(job, "other") is None
            claimed = queue.claim(job)
        queue.finish([job], claimed)
        assert queue.copy_of(job, "model") is None


class TestTheState:
    @pytest.mark.parametrize(
        "state",
        [
            State(),
            State(ready=True, done=7, mark=Position(3, 1234), ended=True, blocked_seconds=1.25),
            State(trouble=Trouble("StorageFailed", "can't write: é", permanent=True, attempts=9)),
        ],
        ids=["the first", "the last", "trouble"],
    )
    def test_comes_back(self, queue: Queue, state: State) -> None:
        queue.set_state(state)
        assert Queue(queue.directory).state() == state
        assert not list(queue.directory.glob("*.tmp"))

    def test_is_the_first_one_where_none_was_written_or_all_is_gone(self, queue: Queue) -> None:
        assert queue.state() == State()
        queue.set_state(State(ready=True))
        queue.remove()
        assert queue.state() == State()

    @pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"{}", b"\xff", b'{"mark": [1]}', b"\0" * 100])
    def test_that_was_damaged_is_the_first_one_so_that_all_is_stored_again(self, queue: Queue, data: bytes) -> None:
        job = append(queue, 1)
        queue.finish([job])
        (queue.directory / "state.json").write_bytes(data)
        assert queue.state() == State()
        assert queue.waiting() == [job]

    def test_that_could_not_be_written_whole_leaves_the_one_before(self, queue: Queue) -> None:
        """Of a file that may not become so large, the system writes the beginning, and says so without an error."""
        resource = pytest.importorskip("resource")
        before = State(ready=True, done=7, mark=Position(3, 1234))
        queue.set_state(before)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                queue.set_state(replace(before, trouble=Trouble("StorageFailed", "x" * 5000, permanent=True)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert queue.state() == before

    def test_is_never_seen_half_written(self, queue: Queue) -> None:
        stopped = threading.Event()
        states = [State(ready=True, done=n, mark=Position(1, n), blocked_seconds=n / 3) for n in range(1, 50)]
        queue.set_state(states[0])

        def write() -> None:
            while not stopped.is_set():
                for state in states:
                    queue.set_state(state)

        writer = threading.Thread(target=write)
        writer.start()
        reader = Queue(queue.directory)
        found = [reader.state() for _ in range(500)]
        stopped.set()
        writer.join()
        assert set(found) <= set(states)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_state_with_anything_in_it_is_a_state(queue: Queue, damaged, data) -> None:
    trouble = Trouble("StorageFailed", "no", permanent=True)
    whole = upload_queue._encode_state(State(ready=True, done=1, mark=Position(1, 2), trouble=trouble))
    document = data.draw(damaged(whole))
    (queue.directory / "state.json").write_text(upload_queue.dumps(document))
    state = queue.state()
    assert isinstance(state.mark, Position)
    queue.set_state(state)
    assert queue.state() == state or state.blocked_seconds != state.blocked_seconds


@given(
    st.builds(
        State,
        st.booleans(),
        st.integers(0, 1 << 53),
        st.builds(Position, st.integers(0, 1 << 30), st.integers(0, 1 << 53)),
        st.booleans(),
        st.floats(0, 1e9),
        st.none() | st.builds(Trouble, st.text(), st.text(), st.booleans(), st.integers(0, 1 << 53)),
    )
)
def test_whatever_the_state_it_comes_back(state: State) -> None:
    assert (
        upload_queue._decode_state(upload_queue.loads(upload_queue.dumps(upload_queue._encode_state(state)))) == state
    )


class TestAProjectThatIsMoved:
    def test_takes_its_queues_along(self, queues: Queues, tmp_path: Path) -> None:
        append(queues.begin(), 1, model=b"m")
        queues.project.rename(tmp_path / "moved")
        (moved,) = Spool(tmp_path / "moved").queues()
        assert moved.project(moved.origin()) == tmp_path / "moved"
        claimed = moved.claim(moved.waiting()[0])
        assert claimed is not None
        assert contents(claimed) == {"model": b"m"}

    def test_is_found_again_by_a_spool_elsewhere_only_as_it_was(self, project: Path, tmp_path: Path) -> None:
        spool = Spool(project, tmp_path / "fast")
        queue = spool.begin(Origin(EXPERIMENT, "storage", str(project), "auto", 1, socket.gethostname()), "01J")
        assert queue.project(queue.origin()) == project
        queue.finish_appending()


class TestRemoving:
    def test_nothing_is_left(self, queues: Queues) -> None:
        queue = queues.begin()
        append(queue, 1, model=bytes(LARGE))
        queue.take()
        queue.finish_appending()
        queue.remove()
        assert os.listdir(queues.spool.directory) == []
        assert not locks.is_held(queue.directory / "recorder")
        queue.remove()

    def test_nobody_sees_half_a_queue(self, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
        queue = queues.begin()
        seen = []
        monkeypatch.setattr(upload_queue.shutil, "rmtree", lambda *_, **__: seen.append(queues.spool.queues()))
        queue.remove()
        assert seen == [[]]

    def test_tidying_takes_the_directories_of_the_spool_if_nothing_is_in_them(self, queues: Queues) -> None:
        queue = queues.begin()
        queues.spool.tidy()
        assert queue.directory.is_dir()
        queue.remove()
        queues.spool.tidy()
        assert os.listdir(queues.project) == []
        queues.spool.tidy()

    def test_but_nothing_of_anybody_else(self, queues: Queues) -> None:
        queues.begin().remove()
        (queues.project / ".replicate/storage").mkdir()
        queues.spool.tidy()
        assert sorted(os.listdir(queues.project / ".replicate")) == [".gitignore", "storage"]


ALONE = (
    "import sys, pathlib\n"
    "from replicate_core.spool.spool import Spool\n"
    "with Spool(pathlib.Path(sys.argv[1])).alone():\n"
    "    print('in', flush=True)\n"
    "    sys.stdin.readline()\n"
)

COUNTING = (
    "import sys, pathlib, time\n"
    "from replicate_core.spool.spool import Spool\n"
    "project = pathlib.Path(sys.argv[1])\n"
    "print('there', flush=True)\n"
    "sys.stdin.readline()\n"
    "for _ in range(20):\n"
    "    with Spool(project).alone():\n"
    "        number = int((project / 'number').read_text())\n"
    "        time.sleep(0.001)\n"
    "        (project / 'number').write_text(str(number + 1))\n"
)


class TestAlone:
    def test_one_process_at_a_time_is(self, project: Path, another_process: Start) -> None:
        (project / "number").write_text("0")
        processes = [another_process(COUNTING, project) for _ in range(4)]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0] * 4
        assert (project / "number").read_text() == "80"

    def test_the_next_one_waits_until_the_other_is_out(self, project: Path, another_process: Start) -> None:
        other = another_process(ALONE, project)
        inside = threading.Event()

        def go_in() -> None:
            with Spool(project).alone():
                inside.set()

        waiting = threading.Thread(target=go_in)
        waiting.start()
        assert not inside.wait(0.2), "the other one is in there"
        other.communicate("out\n")
        waiting.join(60)
        assert inside.is_set()

    def test_if_the_other_stays_in_there_an_error_says_so(
        self, project: Path, another_process: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spools, "GUARD_SECONDS", 0.1)
        other = another_process(ALONE, project)
        kept = r"another process has kept .*/guard locked for 0\.1 seconds: end it"
        with pytest.raises(StorageFailed, match=kept), Spool(project).alone():
            pytest.fail("two are in there")
        other.kill()
        other.wait()
        with Spool(project).alone():
            assert Spool(project).queues() == [], "the guard is none"

    def test_after_an_error_others_can_be(self, queues: Queues, another_process: Start) -> None:
        with pytest.raises(ZeroDivisionError), queues.spool.alone():
            _ = 1 / 0
        other = another_process(ALONE, queues.project)  # it says that it is in
        assert other.communicate("out\n") == ("", None)

    def test_a_queue_can_be_begun(self, queues: Queues) -> None:
        with queues.spool.alone():
            queue = queues.begin()
        assert queue.is_owned()

    def test_where_nothing_can_be_written_says_so(self, queues: Queues) -> None:
        (queues.project / ".replicate").write_text("a file where a directory is needed")
        told = r"can't use .*/\.replicate/spool, .*Make room there"
        with pytest.raises(StorageFailed, match=told), queues.spool.alone():
            pytest.fail("nothing is locked")

    def test_a_file_system_without_locks_says_so(self, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "AVAILABLE", False)
        with pytest.raises(StorageFailed, match=r"has no locks .*name another directory"), queues.spool.alone():
            pytest.fail("nothing is locked")


class TestScratch:
    def test_is_a_fresh_directory_for_a_while(self, queues: Queues) -> None:
        with queues.spool.scratch() as one, queues.spool.scratch() as other:
            assert one != other
            (one / "file").touch()
            assert queues.spool.queues() == []
        assert os.listdir(queues.spool.directory) == []

    def test_is_removed_after_an_error_too(self, queues: Queues) -> None:
        with pytest.raises(RuntimeError), queues.spool.scratch() as scratch:
            raise RuntimeError
        assert not scratch.exists()

    def test_where_none_can_be_made_says_so(self, queues: Queues) -> None:
        (queues.project / ".replicate").write_text("a file where a directory is needed")
        with pytest.raises(StorageFailed, match="Make room there"), queues.spool.scratch():
            pass


class TestWhatWasAbandoned:
    @pytest.fixture(params=[".new-01J-e", ".scratch-0123456789abcdef", ".scratch-01J-e"])
    def left(self, request: pytest.FixtureRequest, queues: Queues) -> Path:
        """What a process left that was killed: `begin` before the end, `scratch`, or `remove` half way."""
        directory = queues.spool.directory / request.param
        (directory / "files").mkdir(parents=True)
        (directory / "files" / "copy").touch()
        return directory

    def age(self, path: Path, seconds: float = ABANDONED_SECONDS + 60) -> None:
        os.utime(path, (time.time() - seconds, time.time() - seconds))

    def test_long_ago_is_removed_by_the_next_one(self, queues: Queues, left: Path) -> None:
        (left / "owner").touch()
        self.age(left)
        queues.begin()
        assert not left.exists()

    def test_before_it_had_an_owner_too(self, queues: Queues, left: Path) -> None:
        self.age(left)
        with queues.spool.scratch():
            assert not left.exists()

    def test_just_now_is_left_alone_its_owner_may_be_about_to_lock_it(self, queues: Queues, left: Path) -> None:
        self.age(left, ABANDONED_SECONDS - 60)
        queues.begin()
        assert (left / "files" / "copy").exists()

    def test_by_nobody_is_left_alone_however_old(self, queues: Queues, left: Path, another_process: Start) -> None:
        code = "import sys, pathlib; from replicate_core.machine import locks\n"
        code += "print(locks.acquire(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.readline()"
        owner = another_process(code, left / "owner")
        self.age(left)
        queues.begin()
        assert (left / "files" / "copy").exists()
        owner.kill()
        owner.wait()
        self.age(left)
        queues.begin("a" * 32)
        assert not left.exists()

    def test_queues_and_what_is_not_ours_are_never_removed(self, queues: Queues) -> None:
        queue = queues.begin()
        queue.append(created())
        queue.finish_appending()
        (queues.spool.directory / "notes").mkdir()
        for directory in queues.spool.directory.iterdir():
            self.age(directory, 10 * ABANDONED_SECONDS)
        queues.begin("a" * 32)
        assert len(queue.jobs()) == 1
        assert (queues.spool.directory / "notes").is_dir()

    def test_one_that_cannot_be_looked_at_does_not_save_the_others(self, queues: Queues, left: Path) -> None:
        (left.parent / ".new-").touch()
        self.age(left)
        queues.begin()
        assert not left.exists()


RECORDS = st.one_of(
    st.just(created()),
    st.integers(0, 99).map(checkpointed),
    st.sampled_from(["finished", "failed", "interrupted"]).map(lambda status: Ended(EXPERIMENT, NOW, status)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=st.lists(st.tuples(RECORDS, st.dictionaries(st.sampled_from("abc"), st.binary(max_size=9)), st.floats(0, 9)))
)
def test_whatever_is_appended_is_read_as_it_was(queues: Queues, jobs) -> None:
    queue = queues.begin()
    for record, files, blocked in jobs:
        queue.append(record, stage(queue, **files) if files else None, blocked_seconds=blocked)
    read = Queue(queue.directory).jobs()
    assert [(job.record, job.blocked_seconds) for job in read] == [(record, blocked) for record, _, blocked in jobs]
    assert [contents(job.staged) if job.staged else {} for job in read] == [files for _, files, _ in jobs]
    assert [job.after for job in read] == sorted({job.after for job in read} - {START})
    for number, job in enumerate(read):
        claimed = None if job.staged is None else queue.claim(job)
        queue.finish([job], claimed)
        assert queue.waiting() == read[number + 1 :]
    assert replace(queue.state(), ready=True).done == len(jobs)
    queue.finish_appending()
    queue.remove()
