"""Files that change, files that may not be read or written, directories that move: no run ends by them."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit import texts, until
from misbehaving import Gate, Storage, remove
from stored_checkpoints import assert_stored, begin, content, queues, save, stored

import replicate_core as replicate
from replicate_core.recording import backlog, recording
from replicate_core.spool import upload_queue
from replicate_core.storage.diagnosis import translated


@contextmanager
def neighbour(path: Path, size: int, *, offset: int | None = None) -> Iterator[None]:
    """Somebody writes to a file before each look at it: at its end, or in place."""
    path.write_bytes(os.urandom(size))
    plain, number = os.fstat, path.stat().st_ino

    def look(descriptor: int) -> os.stat_result:
        if plain(descriptor).st_ino == number:
            with open(path, "r+b") as file:
                file.seek(*((0, os.SEEK_END) if offset is None else (offset, os.SEEK_SET)))
                file.write(os.urandom(20))
        return plain(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", look)
        yield


class TestAFileThatANeighbourWrites:
    """Neither ends a run: what grows is saved as far as it reached, and what never stands still is left out."""

    SIZE = 3_000_000

    def test_at_its_end_is_saved_as_far_as_it_reached_when_the_run_began(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        (project / "train.py").write_text("print()")
        with neighbour(project / "job.log", self.SIZE):
            experiment = replicate.init()
        experiment.stop()
        (text,) = texts(told)
        assert "saved as far as it was written, because it kept growing while it was copied: job.log" in text
        assert ".replicateignore" in text
        assert told[0].filename == __file__
        stored().checkout("out")
        saved = Path("out/job.log").read_bytes()
        assert len(saved) >= self.SIZE
        assert (project / "job.log").read_bytes().startswith(saved)
        assert replicate.Project().verify(deep=True).damages == ()

    def test_in_place_is_left_out_of_the_code_and_named(self, project: Path, storage: Storage, told: list) -> None:
        (project / "train.py").write_text("print()")
        with neighbour(project / "table.db", self.SIZE, offset=0):
            experiment = replicate.init()
        experiment.stop()
        (text,) = texts(told)
        assert "left out of what is saved: table.db is being written all the time" in text
        stored().checkout("out")
        assert os.listdir("out") == ["train.py"]

    def test_in_a_directory_of_a_checkpoint_is_told_once(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        Path("out").mkdir()
        Path("out/model.bin").write_bytes(content(3, 0))
        with neighbour(project / "out" / "events", self.SIZE), neighbour(project / "out" / "db", self.SIZE, offset=9):
            for step in range(3):
                experiment.checkpoint("out", {"loss": step}, step=step)
        experiment.stop()
        (text,) = texts(told)
        assert "out/db is being written all the time" in text
        assert "it kept growing while it was copied: out/events" in text
        assert told[0].filename == __file__
        for checkpoint in stored().checkpoints:
            assert checkpoint.open("out/model.bin").read() == content(3, 0)
            saved = checkpoint.open("out/events").read()
            assert (project / "out" / "events").read_bytes().startswith(saved)
        assert replicate.Project().verify(deep=True).damages == ()

    def test_and_that_was_to_be_saved_alone_leaves_its_metrics(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        experiment = begin(project)
        with neighbour(project / "model.bin", self.SIZE, offset=0):
            experiment.checkpoint("model.bin", {"loss": 0.5}, step=7)
        experiment.stop()
        (text,) = texts(told)
        assert text.startswith(
            "the files of the checkpoint of step 7 are not saved, only its metrics: model.bin is bei"
        )
        assert told[0].filename == __file__
        (checkpoint,) = stored().checkpoints
        assert (checkpoint.metrics, checkpoint.size_bytes) == ({"loss": 0.5}, 0)

    def test_is_an_error_of_a_checkpoint_where_the_user_is_strict(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        experiment = begin(project, strict=True)
        Path("out").mkdir()
        Path("out/model.bin").touch()
        with neighbour(project / "out" / "db", self.SIZE, offset=0):
            for path in ("out", "out/db"):
                with pytest.raises(replicate.InvalidInput, match="out/db is being written all the time: nothing was"):
                    experiment.checkpoint(path, {})
        assert list((queues()[0].directory / "files").iterdir()) == []
        experiment.stop()


class TestFilesThatMayNotBeRead:
    def test_are_left_out_and_named(self, open_directory: Path, as_nobody: Callable, told: list) -> None:
        for path in ("train.py", "secret.bin", "private/key", "out/model.bin", "out/events"):
            (open_directory / path).parent.mkdir(exist_ok=True)
            (open_directory / path).write_text(path)
            os.chown(open_directory / path, *open_directory.stat()[4:6])
        for path in ("secret.bin", "private", "out/events"):
            (open_directory / path).chmod(0)
        with as_nobody():
            experiment = replicate.init()
            experiment.checkpoint("out", {}, step=1)
            experiment.checkpoint("out", {}, step=2)
            experiment.checkpoint("out/events", {"loss": 1}, step=3)
            experiment.stop()
            code, *checkpoints = texts(told)
            for name in ("private can't be read (Permission denied)", "secret.bin can't be read (Permission denied)"):
                assert name in code
            assert "out/events can't be read (Permission denied)" in code
            (text,) = checkpoints
            assert text.startswith("the files of the checkpoint of step 3 are not saved, only its metrics: out/events")
            stored().checkout("there", what="code")
            assert [path.name for path in Path("there").rglob("*.*")] == ["train.py"], "checkpoints saved model.bin"
            assert [len(item.files) for item in stored().checkpoints if item.size_bytes] == [1, 1]


class TestAFileThatMayNotBeSoLarge:
    """`ulimit -f`, or a file system that has such a limit: that does not pass by waiting."""

    def test_is_not_waited_for(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        ids = [save(experiment, 0)]
        until(lambda: gate.held_up)
        plain = upload_queue.Queue.stage

        def stage(self: upload_queue.Queue, tree: object) -> object:
            raise OSError(errno.EFBIG, "File too large")

        monkeypatch.setattr(upload_queue.Queue, "stage", stage)
        began = time.monotonic()
        ids.append(save(experiment, 1))
        assert time.monotonic() - began < 5
        (text,) = texts(told)
        assert "File too large. Raise the limit for the size of a file (`ulimit -f`)" in text
        monkeypatch.setattr(upload_queue.Queue, "stage", plain)
        gate.open()
        experiment.stop()
        assert_stored(ids)

    def test_ends_a_run_with_the_reason(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = lambda _verb, key: refuse(key)
        experiment.checkpoint(None, {"loss": 1})
        began = time.monotonic()
        experiment.stop()
        assert time.monotonic() - began < 5
        assert "File too large" in texts(told)[-1]
        assert "ulimit -f" in texts(told)[-1]


def refuse(key: str) -> None:
    raise translated(OSError(errno.EFBIG, "File too large"), "the storage", f"write {key}")


class TestASpoolThatCannotBeWritten:
    def test_ends_the_wait_for_the_rest_with_the_reason(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The recorder can't say what is in its way: it would have to write that there."""
        monkeypatch.setattr(backlog, "STALLED_SECONDS", 0.2)
        monkeypatch.setattr(recording, "LOOK_SECONDS", 0.1)
        monkeypatch.setattr(backlog, "LOOK_SECONDS", 0.1)
        experiment = begin(project)
        storage.before = gate = Gate("records/")
        ids = [experiment.checkpoint(None, {"loss": 1}).id]
        until(lambda: gate.held_up)
        monkeypatch.setattr(upload_queue.Queue, "write_problem", lambda _: "it can't be written: Read-only file system")
        experiment.stop()
        (text,) = texts(told)
        assert "in the background, as far as possible: it can't be written: Read-only file system" in text
        gate.open()
        until(lambda: not queues())
        assert_stored(ids)

    def test_is_told_by_trying(self, open_directory: Path, as_nobody: Callable) -> None:
        queue = upload_queue.Queue(open_directory)
        with as_nobody():
            assert queue.write_problem() is None
            open_directory.chmod(0o555)
            problem = queue.write_problem()
        assert problem == f"{open_directory} can't be written: Permission denied. Make it writable"
        assert os.listdir(open_directory) == []


class TestDirectoriesThatMove:
    @pytest.fixture
    def moved(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Where the project will be; with a recorder process, as users have it."""
        monkeypatch.delenv("REPLICATE_RECORDER")
        moved = project.parent / "renamed"
        yield moved
        if moved.exists():
            moved.rename(project)

    def test_a_project_that_is_renamed_is_recorded_on(self, project: Path, moved: Path, told: list) -> None:
        experiment = begin(project)
        ids = [save(experiment, 0)]
        until(lambda: not queues()[0].waiting())
        project.rename(moved)
        until(lambda: len(queues()) == 1 and queues()[0].is_taken())
        ids += [save(experiment, 1), experiment.checkpoint(None, {"loss": 2}, step=2).id]
        ids.append(experiment.checkpoint(moved / "model.bin", {"loss": 3}, step=3).id)
        assert [one.status for one in replicate.Project().experiments.list()] == ["running"]
        experiment.stop()
        assert texts(told) == []
        assert_stored(ids)
        assert stored().status == "finished"
        assert [checkpoint.size_bytes > 0 for checkpoint in stored().checkpoints] == [True, True, False, True]
        assert not project.exists()

    def test_a_project_that_is_renamed_before_the_end_is_no_deleted_spool(
        self, project: Path, moved: Path, told: list
    ) -> None:
        experiment = begin(project)
        ids = [experiment.checkpoint(None, {"loss": step}, step=step).id for step in range(3)]
        project.rename(moved)
        experiment.stop()
        assert texts(told) == []
        assert_stored(ids)
        assert stored().status == "finished"

    def test_a_project_that_is_renamed_is_stored_though_the_training_is_gone(
        self, project: Path, moved: Path, told: list, another_process: Callable
    ) -> None:
        """The recorder finds it, too."""
        process = another_process(
            "import os, sys, replicate_core\n"
            "os.chdir(sys.argv[1])\n"
            "experiment = replicate_core.init(path=None)\n"
            "experiment.checkpoint(None, {'loss': 1})\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n",
            project,
        )
        assert queues()
        project.rename(moved)
        process.kill()
        process.wait()
        until(lambda: not queues())
        assert [one.status for one in replicate.Project().experiments.list()] == ["killed"]

    def test_a_spool_that_is_deleted_is_told_as_before(self, project: Path, moved: Path, told: list) -> None:
        experiment = begin(project)
        until(lambda: not queues()[0].waiting())
        remove(project / ".replicate" / "spool")
        experiment.checkpoint(None, {"loss": 1})
        experiment.stop()
        assert "was deleted by somebody: what was not stored by then is lost" in texts(told)[-1]

    def test_an_absolute_path_needs_no_working_directory(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = begin(project)
        (project / "model.bin").write_bytes(content(0, 0))
        (project / "gone").mkdir()
        monkeypatch.chdir(project / "gone")
        (project / "gone").rmdir()
        made = experiment.checkpoint(project / "model.bin", {}, step=0)
        with pytest.raises(replicate.InvalidInput, match="is relative to the working directory, which is gone"):
            experiment.checkpoint("model.bin", {})
        monkeypatch.chdir(project)
        experiment.stop()
        assert_stored([made.id])
        assert stored().checkpoints[0].open().read() == content(0, 0)
