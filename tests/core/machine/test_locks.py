"""Locks between processes: who holds one, who sees that, and how it is given up."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import until

from replicate_core.machine import locks

Start = Callable[..., "subprocess.Popen[str]"]

HOLDING = (
    "import signal, sys, pathlib; from replicate_core.machine import locks\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs tests in the background ignores it
    "print(locks.acquire(pathlib.Path(sys.argv[1])), flush=True)\n"
    "sys.stdin.readline()\n"
)

LOOKING = (
    "import sys, pathlib; from replicate_core.machine import locks; print(locks.is_held(pathlib.Path(sys.argv[1])))"
)

TAKING = (
    "import sys, pathlib; from replicate_core.machine import locks; print(locks.acquire(pathlib.Path(sys.argv[1])))"
)


def another_says(code: str, path: Path) -> bool:
    """What another process, which ends after that, says of a lock."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def in_a_fork(question: Callable[[], object]) -> bool:
    """What a forked child says."""
    child = os.fork()
    if child == 0:
        os._exit(0 if question() else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lock"
    locks.release(tmp_path / "lock")


class TestInThisProcess:
    def test_a_lock_is_held_from_acquire_to_release(self, path: Path) -> None:
        assert not locks.is_held(path)
        assert locks.acquire(path)
        assert locks.is_held(path)
        locks.release(path)
        assert not locks.is_held(path)
        assert locks.acquire(path), "it may be taken again"

    def test_it_is_taken_once(self, path: Path) -> None:
        assert locks.acquire(path)
        assert not locks.acquire(path)
        locks.release(path)
        assert not another_says(LOOKING, path), "one release is enough"

    def test_of_many_threads_one_gets_it(self, path: Path) -> None:
        got: list[bool] = []
        threads = [threading.Thread(target=lambda: got.append(locks.acquire(path))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 7 + [True]

    def test_looking_makes_no_file(self, path: Path) -> None:
        assert not locks.is_held(path)
        assert not path.exists()

    def test_giving_back_what_one_does_not_hold_is_fine(self, path: Path) -> None:
        locks.release(path)
        locks.acquire(path)
        locks.release(path)
        locks.release(path)

    def test_a_directory_that_is_gone_is_an_error_for_who_takes_and_an_answer_for_who_looks(self, path: Path) -> None:
        assert not locks.is_held(path.parent / "gone" / "lock")
        with pytest.raises(FileNotFoundError):
            locks.acquire(path.parent / "gone" / "lock")

    def test_only_its_owner_may_open_it(self, path: Path) -> None:
        locks.acquire(path)
        assert path.stat().st_mode & 0o777 == 0o600, "whoever may open it may keep it locked for ever"


class TestBetweenProcesses:
    def test_what_this_one_holds_others_see_and_do_not_get(self, path: Path) -> None:
        locks.acquire(path)
        assert another_says(LOOKING, path)
        assert not another_says(TAKING, path)
        locks.release(path)
        assert not another_says(LOOKING, path)
        assert another_says(TAKING, path)

    def test_what_another_holds_this_one_sees_and_does_not_get(self, path: Path, another_process: Start) -> None:
        other = another_process(HOLDING, path)
        assert locks.is_held(path)
        assert not locks.acquire(path)
        other.communicate("end\n")
        assert not locks.is_held(path)
        assert locks.acquire(path)

    @pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda by: by.name)
    def test_a_process_that_is_killed_holds_nothing(self, path: Path, another_process: Start, by: int) -> None:
        other = another_process(HOLDING, path)
        assert locks.is_held(path)
        other.send_signal(by)
        other.wait()
        assert not locks.is_held(path)
        assert locks.acquire(path)

    def test_looking_does_not_drop_what_this_process_holds(self, path: Path) -> None:
        locks.acquire(path)
        for _ in range(3):
            assert locks.is_held(path)
            assert not locks.acquire(path)
        assert another_says(LOOKING, path)

    def test_nor_does_reading_or_copying_its_file(self, path: Path) -> None:
        """A backup by the training itself. With POSIX locks, whoever closes any descriptor of a file gives up his."""
        locks.acquire(path)
        path.read_bytes()
        shutil.copy(path, path.with_name("copy"))
        assert another_says(LOOKING, path)
        assert not another_says(TAKING, path)
        assert not locks.is_held(path.with_name("copy")), "a copy is another file"

    def test_nor_does_looking_by_another_name_of_the_path(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (path.parent / "link").symlink_to(path.parent)
        monkeypatch.chdir(path.parent)
        locks.acquire(path)
        assert locks.is_held(path.parent / "link" / "lock")
        assert locks.is_held(Path("lock"))
        assert another_says(LOOKING, path)

    def test_of_many_who_look_at_once_nobody_is_taken_for_an_owner(self, path: Path, another_process: Start) -> None:
        path.touch()
        code = LOOKING.partition("print")[0] + (
            "\nlock = pathlib.Path(sys.argv[1])\nprint(flush=True)\nwhile True: locks.is_held(lock)"
        )
        another_process(code, path)
        seen = [locks.is_held(path) for _ in range(200)]
        assert sum(seen) <= 2, "it may happen that all attempts meet one, but hardly ever"

    def test_a_program_that_is_started_does_not_inherit_it(self, path: Path) -> None:
        locks.acquire(path)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        try:
            locks.release(path)
            assert not another_says(LOOKING, path)
        finally:
            child.communicate(b"\n")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # pytest-xdist has threads, and they do no harm here
class TestAForkedChild:
    def test_does_not_hold_what_its_parent_holds_and_sees_that(self, path: Path) -> None:
        locks.acquire(path)
        assert in_a_fork(lambda: locks.is_held(path))
        assert in_a_fork(lambda: not locks.acquire(path))

    def test_takes_nothing_away_by_looking_giving_back_or_ending(self, path: Path) -> None:
        locks.acquire(path)
        assert in_a_fork(lambda: locks.is_held(path))
        assert in_a_fork(lambda: locks.release(path) is None)
        assert another_says(LOOKING, path)

    def test_that_outlives_its_parent_keeps_nothing(self, path: Path, another_process: Start) -> None:
        code = HOLDING + "import os, time\nchild = os.fork()\nif child == 0: time.sleep(60)\nprint(child, flush=True)\n"
        code += "sys.stdin.readline(); os._exit(0)"
        other = another_process(code, path)
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("fork\n")
        other.stdin.flush()
        child = int(other.stdout.readline())
        try:
            assert locks.is_held(path)
            other.kill()
            other.wait()
            until(lambda: not locks.is_held(path))  # the child closes it once it runs
            assert locks.acquire(path)
        finally:
            os.kill(child, signal.SIGKILL)

    def test_may_take_it_for_itself_once_its_parent_gave_it_back(self, path: Path) -> None:
        locks.acquire(path)
        locks.release(path)
        assert in_a_fork(lambda: locks.acquire(path) and locks.is_held(path))
        assert not locks.is_held(path), "the child has ended"

    def test_is_not_stuck_though_a_thread_was_taking_one_when_it_was_forked(self, path: Path) -> None:
        locks.acquire(path.with_name("other"))  # from the first one on, forks are seen
        with locks._held.guard:  # as another thread has it for the moment of taking one
            child = os.fork()
            if child == 0:
                signal.alarm(5)
                os._exit(0 if locks.acquire(path) and locks.is_held(path) else 1)
            assert os.waitpid(child, 0)[1] == 0


class TestADirectoryThatIsMoved:
    def test_takes_its_locks_along(self, path: Path) -> None:
        before, after = path.parent / "before", path.parent / "after"
        before.mkdir()
        locks.acquire(before / "lock")
        before.rename(after)
        locks.moved(before / "lock", after / "lock")
        assert locks.is_held(after / "lock")
        assert not locks.acquire(after / "lock")
        assert not locks.is_held(before / "lock")
        assert another_says(LOOKING, after / "lock")
        locks.release(before / "lock")
        assert another_says(LOOKING, after / "lock"), "it has no lock of the old name any more"
        locks.release(after / "lock")
        assert not another_says(LOOKING, after / "lock")

    def test_of_a_lock_that_this_process_does_not_hold_is_nothing(self, path: Path) -> None:
        locks.moved(path, path.with_name("other"))
        assert not locks.is_held(path.with_name("other"))
        assert locks.acquire(path)

    def test_by_somebody_else_keeps_its_locks_for_others(self, path: Path) -> None:
        before, after = path.parent / "before", path.parent / "after"
        before.mkdir()
        locks.acquire(before / "lock")
        before.rename(after)
        assert another_says(LOOKING, after / "lock")
        locks.release(before / "lock")
        assert not another_says(LOOKING, after / "lock")

    def test_by_somebody_else_keeps_its_locks_though_this_process_looks(self, path: Path) -> None:
        before, after = path.parent / "before", path.parent / "after"
        before.mkdir()
        locks.acquire(before / "lock")
        before.rename(after)
        assert locks.is_held(after / "lock")
        assert another_says(LOOKING, after / "lock")
        locks.release(before / "lock")


class TestWhereThereAreNone:
    def test_a_system_without_them_says_so(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "AVAILABLE", False)
        for ask in (locks.acquire, locks.is_held):
            with pytest.raises(OSError, match="this system has no locks") as raised:
                ask(path)
            assert raised.value.errno == errno.ENOSYS

    def test_a_file_system_without_them_says_so_and_no_file_stays_open(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []
        monkeypatch.setattr("fcntl.flock", refuse)
        for ask in (locks.acquire, locks.is_held):
            with pytest.raises(OSError, match="No locks available"):
                ask(path)
        assert not before or len(os.listdir("/proc/self/fd")) == len(before)

    def test_a_lock_that_this_user_may_not_open_is_no_crash_for_who_looks(
        self, open_directory: Path, as_nobody, another_process: Start
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can make a file that this user may not open")
        path = open_directory / "lock"
        another_process(HOLDING, path)
        with as_nobody():
            assert locks.is_held(path)
