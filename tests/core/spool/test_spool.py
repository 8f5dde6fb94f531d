"""The spool: queues of what is still to be stored, which two processes share and every third one may look at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from snapshots import contents
from spooled import BEGINNING, EXPERIMENT, LARGE, NOW, Queues, Start, append, created

from replicate_core.errors import Corrupted, StorageFailed
from replicate_core.machine import locks
from replicate_core.spool import spool as spools
from replicate_core.spool import upload_queue
from replicate_core.spool.spool import ABANDONED_SECONDS, Spool
from replicate_core.spool.upload_queue import Origin, Queue, State


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
