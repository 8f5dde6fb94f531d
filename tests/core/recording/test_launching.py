"""Getting a queue emptied by a real recorder process: what it can't reach is told at `init()`, and it may die."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import PATIENCE_SECONDS, texts, until
from misbehaving import Died, Storage, fails, remove

import replicate_core as replicate
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import Staged
from replicate_core.recording import backlog, launching, recording
from replicate_core.recording.launching import InlineRecorder, as_error
from replicate_core.spool import spool
from replicate_core.spool.recorder import LEFT
from replicate_core.spool.upload_queue import Queue, Trouble
from replicate_core.workspace import Workspace


@pytest.fixture
def with_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATE_RECORDER")


def recorder_of(experiment: replicate.Experiment) -> launching.ChildRecorder:
    return experiment._recorded._launched


def only_queue() -> Queue:
    (queue,) = Workspace().spool.queues()
    return queue


def kill(experiment: replicate.Experiment) -> None:
    process = recorder_of(experiment)._process
    process.send_signal(signal.SIGKILL)
    process.wait(60)


@pytest.mark.usefixtures("with_recorder")
class TestAStorageThatRefuses:
    """`init()` raises what opening the storage here would have raised, and nothing is left of it."""

    def refused(self, project: Path, storage: str, error: type[Exception], match: str) -> None:
        (project / "replicate.yaml").write_text(f"storage: '{storage}'\n")
        (project / "train.py").write_text("pass\n")
        with pytest.raises(error, match=match):
            replicate.init({"lr": 0.1})
        assert sorted(os.listdir(project)) == ["replicate.yaml", "train.py"]

    def test_an_unknown_scheme(self, project: Path) -> None:
        self.refused(project, "nosuch://bucket/x", replicate.InvalidInput, "'nosuch', which nothing here can open")

    def test_a_driver_that_is_not_installed(self, project: Path) -> None:
        if importlib.util.find_spec("gcsfs") is None:
            self.refused(project, "gs://bucket/x", replicate.MissingExtra, "pip install gcsfs")

    def test_a_place_that_can_not_be_written(self, project: Path) -> None:
        (project.parent / "file").touch()
        self.refused(project, "../file/storage", replicate.StorageFailed, "There is a file where a directory is needed")

    def test_a_repository_of_a_newer_version(self, project: Path) -> None:
        self.put_format(project, '{"format": 99, "digest": "sha256"}')
        self.refused(project, "../storage", replicate.TooNew, "has format 99")

    def test_something_else(self, project: Path) -> None:
        self.put_format(project, "hello")
        self.refused(project, "../storage", replicate.Corrupted, "can't be understood")

    def put_format(self, project: Path, text: str) -> None:
        from replicate_core.format.keys import FORMAT_KEY

        (project.parent / "storage").mkdir()
        (project.parent / "storage" / FORMAT_KEY).write_text(text)

    def test_one_that_does_not_answer(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launching, "READY_SECONDS", 0.3)
        monkeypatch.setattr(launching, "_PROGRAM", "import sys; sys.stdin.read()")  # lives until it is forgotten
        self.refused(project, "../storage", replicate.StorageFailed, "did not answer within")

    def test_the_same_without_a_recorder(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPLICATE_RECORDER", "none")
        (project.parent / "file").touch()
        self.refused(project, "../file/storage", replicate.StorageFailed, "There is a file where a directory is needed")
        self.refused(project, "nosuch://bucket/x", replicate.InvalidInput, "'nosuch', which nothing here can open")
        self.put_format(project, '{"format": 99, "digest": "sha256"}')
        self.refused(project, "../storage", replicate.TooNew, "has format 99")


@pytest.mark.usefixtures("with_recorder")
class TestARecorderThatDies:
    def test_is_started_again_and_that_is_told_once(self, project: Path, told: list) -> None:
        experiment = replicate.init(path=None)
        ids = []
        for step in range(3):
            kill(experiment)
            (project / "model").write_bytes(b"%d" % step)
            ids.append(experiment.checkpoint("model", {"loss": step}).id)
        experiment.stop()
        (text,) = texts(told)
        assert f"has died ({-signal.SIGKILL}) and was started again; nothing is lost" in text
        (found,) = replicate.experiments.list()
        assert [checkpoint.id for checkpoint in found.checkpoints] == ids
        assert [checkpoint.open().read() for checkpoint in found.checkpoints] == [b"0", b"1", b"2"]
        assert found.status == "finished"
        assert not Workspace().spool.queues()

    def test_while_many_threads_save_is_started_again_once(self, project: Path, told: list) -> None:
        experiment = replicate.init(path=None)
        kill(experiment)
        ready = threading.Barrier(8)
        ids: list[str] = []

        def train(number: int) -> None:
            path = project / f"model{number}"
            path.write_bytes(b"%d" % number)
            ready.wait()
            ids.append(experiment.checkpoint(path, {"loss": number}).id)

        threads = [threading.Thread(target=train, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recorder_of(experiment)._starts == 2
        experiment.stop()
        assert len(texts(told)) == 1
        assert sorted(checkpoint.id for checkpoint in experiment.checkpoints) == sorted(ids)

    def test_after_it_lived_for_long_is_none_of_those_that_die_again_and_again(
        self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = replicate.init(path=None)
        for step in range(launching.STARTS_MAX + 2):
            kill(experiment)
            (project / "model").write_bytes(b"%d" % step)
            experiment.checkpoint("model", {"loss": step})
            with monkeypatch.context() as patch:
                patch.setattr(launching, "STEADY_SECONDS", 0.0)
                experiment.checkpoint("model", {"loss": step})
            assert recorder_of(experiment).is_alive()
        experiment.stop()
        assert experiment.status == "finished"
        assert [text for text in texts(told) if "not started again" in text] == []

    def test_and_cannot_be_started_again_leaves_all_to_sync(
        self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = replicate.init(path=None)
        kill(experiment)
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        (project / "model").write_bytes(b"x")
        made = experiment.checkpoint("model", {"loss": 1}).id
        experiment.stop()
        (text,) = texts(told)
        assert "the process that stores them is gone. `replicate sync` stores them" in text
        assert [one.outcome for one in replicate.Project().sync()] == ["stored"]
        assert [checkpoint.id for checkpoint in replicate.experiments.get(experiment.id).checkpoints] == [made]

    def test_at_the_very_end_is_started_again(self, project: Path, told: list) -> None:
        experiment = replicate.init(path=None)
        experiment.checkpoint(None, {"loss": 1})
        kill(experiment)
        experiment.stop()
        assert experiment.status == "finished"
        assert not Workspace().spool.queues()

    def test_is_started_again_by_metrics_alone(self, project: Path, told: list) -> None:
        experiment = replicate.init(path=None)
        kill(experiment)
        first = recorder_of(experiment)._process.pid

        def restarted() -> bool:
            experiment.checkpoint(None, {"loss": 1})
            return recorder_of(experiment)._process.pid != first

        until(restarted)
        experiment.stop()
        assert experiment.status == "finished"

    def test_where_warnings_are_errors_raises_nothing_into_training(self, project: Path, logged: list[str]) -> None:
        """The warning is logged, the checkpoint is saved, and the recorder is there again."""
        experiment = replicate.init(path=None)
        kill(experiment)
        (project / "model").touch()
        experiment.checkpoint("model", {})
        (said,) = logged
        assert "has died" in said
        logged.clear()
        experiment.checkpoint("model", {})
        experiment.stop()
        assert experiment.status == "finished"
        assert len(experiment.checkpoints) == 2

    def test_again_and_again_is_given_up(self, project: Path, storage: Storage, told: list) -> None:
        experiment = replicate.init(path=None)
        until(lambda: not only_queue().waiting())

        def dies(verb: str, key: str) -> None:
            raise Died

        storage.before = dies
        ids = []
        for _ in range(launching.STARTS_MAX + 3):
            (project / "model").write_bytes(b"x")
            ids.append(experiment.checkpoint("model", {"loss": 1}).id)
            storage.recorders[-1].thread.join(PATIENCE_SECONDS)  # else the next checkpoint finds it alive
        assert len(storage.recorders) == launching.STARTS_MAX
        before_the_end = len(told)
        experiment.stop()
        assert len(storage.recorders) == launching.STARTS_MAX
        assert "`replicate sync` stores them" in texts(told)[-1]
        storage.before = fails(0)
        replicate.Project().sync()
        (found,) = replicate.experiments.list()
        assert [checkpoint.id for checkpoint in found.checkpoints] == ids
        assert found.status == "finished"
        assert before_the_end == 2, "told that it died, and that it is given up: days before the end, maybe"

    def test_before_it_began_is_an_error_with_a_way_out(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launching, "_PROGRAM", "raise ImportError('no module named x')")
        with pytest.raises(
            replicate.StorageFailed, match=r"ended with 1 before it had begun: .*no module named x.*REPLICATE_RECORDER"
        ):
            replicate.init(path=None)
        assert not (project / ".replicate").exists()

    def test_that_ends_in_order_too_early_is_started_again(self, project: Path, storage: Storage, told: list) -> None:
        """Exit code 0 says that nothing is left to do: it is not believed while something is."""
        experiment = replicate.init(path=None)
        until(lambda: not only_queue().waiting())

        def vanishes(verb: str, key: str) -> None:
            raise SystemExit(0)

        storage.before = vanishes
        (project / "model").write_bytes(b"x")
        experiment.checkpoint("model", {})
        until(lambda: recorder_of(experiment).is_alive() is False or len(storage.recorders) > 1)
        storage.before = fails(0)
        experiment.checkpoint("model", {})
        experiment.stop()
        assert not Workspace().spool.queues()


@pytest.mark.usefixtures("with_recorder")
class TestARecorderThatHangs:
    """It lives, and nothing gets done: neither `checkpoint()` nor the end of the training waits for ever."""

    @pytest.fixture
    def hanging(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[replicate.Experiment]:
        (project / "replicate.yaml").write_text("spool: {limit: 1 MB, keep_free: 0 MB}\n")
        monkeypatch.setattr(backlog, "ROOM_SECONDS", 0.3)
        monkeypatch.setattr(backlog, "END_SECONDS", 0.5)
        experiment = replicate.init(path=None)
        until(lambda: not only_queue().waiting())
        process = recorder_of(experiment)._process
        process.send_signal(signal.SIGSTOP)
        yield experiment
        process.send_signal(signal.SIGCONT)
        until(lambda: not Workspace().spool.queues())
        process.wait(60)

    def save(self, experiment: replicate.Experiment, step: int) -> str:
        Path("model").write_bytes(os.urandom(300_000))
        return experiment.checkpoint("model", {"loss": step}).id

    def test_is_not_waited_for(self, hanging: replicate.Experiment, told: list) -> None:
        began = time.monotonic()
        ids = [self.save(hanging, step) for step in range(5)]
        assert time.monotonic() - began < 5
        first, *others = texts(told)
        assert first.startswith("storing is slower than training")
        assert ["only its metrics: there is no room for 0.3 MB" in text for text in others] == [True, True]
        began = time.monotonic()
        hanging.stop()
        assert time.monotonic() - began < 5
        assert "6 jobs of the experiment" in texts(told)[-1]
        assert "are still being stored in the background. If that stops: `replicate sync`" in texts(told)[-1]
        recorder_of(hanging)._process.send_signal(signal.SIGCONT)
        until(lambda: not Workspace().spool.queues())
        found = replicate.experiments.get(hanging.id)
        assert [checkpoint.id for checkpoint in found.checkpoints] == ids
        assert [checkpoint.size_bytes for checkpoint in found.checkpoints] == [300_000] * 3 + [0] * 2
        assert [len(checkpoint.open().read()) for checkpoint in found.checkpoints[:3]] == [300_000] * 3
        assert found.status == "finished"

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says whether a process is stopped")
    def test_and_is_stopped_is_named_at_the_end(
        self, hanging: replicate.Experiment, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody waits half an hour for it; it goes on in the background once somebody lets it."""
        monkeypatch.setattr(backlog, "STALLED_SECONDS", 0.1)
        monkeypatch.setattr(backlog, "END_SECONDS", 1800)
        self.save(hanging, 0)
        hanging.stop()
        process = recorder_of(hanging)._process.pid
        assert f"was stopped; `kill -CONT {process}` resumes it" in texts(told)[-1]

    def test_is_told_where_a_checkout_needs_it(self, hanging: replicate.Experiment, told: list) -> None:
        """And the end says so in strict mode, too."""
        hanging._recorded._strict = True
        self.save(hanging, 0)
        with pytest.raises(replicate.StorageFailed, match="still being stored in the background"):
            hanging.stop()
        assert texts(told) == []


class TestASpoolThatSomebodyDeletes:
    @pytest.fixture(params=["", "none"], ids=["with a recorder", "without one"])
    def switch(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
        monkeypatch.setenv("REPLICATE_RECORDER", request.param)
        (project / "replicate.yaml").write_text("storage: ../storage\n")

    def test_is_told_while_training_goes_on_and_at_the_end(self, project: Path, told: list, switch: None) -> None:
        experiment = replicate.init(path=None)
        (project / "model").write_bytes(b"x")
        first = experiment.checkpoint("model", {"loss": 0}).id
        until(lambda: not only_queue().waiting())
        queue = only_queue()
        remove(project / ".replicate")
        for step in range(3):
            experiment.checkpoint("model", {"loss": step})
        gone = [text for text in texts(told) if f"{queue.directory}, where what is saved waits" in text]
        assert [text for text in gone if "nothing more of this experiment can be saved" in text]
        before_the_end = len(told)
        experiment.stop()
        (last,) = texts(told)[before_the_end:]
        assert "was deleted by somebody: what was not stored by then is lost" in last
        (found,) = replicate.experiments.list()
        assert [checkpoint.id for checkpoint in found.checkpoints] == [first]

    def test_while_the_experiment_begins_is_an_error_at_once(
        self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch, switch: None
    ) -> None:
        """Nobody waits for a queue that is not there: the storage may answer whenever it wants."""
        stage = Queue.stage

        def deleted(self: Queue, tree: Tree) -> Staged:
            staged = stage(self, tree)
            remove(project / ".replicate")
            return staged

        monkeypatch.setattr(Queue, "stage", deleted)
        monkeypatch.setattr(launching, "_PROGRAM", "import time; time.sleep(60)")
        with pytest.raises(replicate.StorageFailed, match="was deleted by somebody while the experiment began"):
            replicate.init()
        assert texts(told) == []

    def test_is_told_where_there_are_metrics_alone(
        self, project: Path, told: list, switch: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(backlog, "LOOK_SECONDS", 0.0)
        experiment = replicate.init(path=None)
        remove(project / ".replicate")
        for step in range(10):
            experiment.checkpoint(None, {"loss": step})
        (text,) = texts(told)
        assert "was deleted by somebody: nothing more of this experiment can be saved" in text
        experiment.stop()
        assert len(told) == 2

    def test_is_raised_where_the_user_is_strict(self, project: Path, told: list, switch: None) -> None:
        experiment = replicate.init(path=None, strict=True)
        (project / "model").write_bytes(b"x")
        experiment.checkpoint("model", {"loss": 0})
        remove(project / ".replicate")
        with pytest.raises(replicate.StorageFailed, match="No such file"):
            experiment.checkpoint("model", {"loss": 1})
        with pytest.raises(replicate.StorageFailed, match="was deleted by somebody: what was not stored by then"):
            experiment.stop()
        assert texts(told) == []

    def test_leaves_no_recorder_behind(self, project: Path, told: list, with_recorder: None) -> None:
        experiment = replicate.init(path=None)
        until(lambda: not only_queue().waiting())
        remove(project / ".replicate" / "spool")
        process = recorder_of(experiment)._process
        assert process.wait(60) == LEFT
        experiment.stop()
        assert len(told) == 1


class TestAQueueThatIsClosed:
    """All is stored: who closed it, and how long that took, is no reason to say that anything is lost."""

    def test_slowly_was_not_deleted(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Removing large copies takes long on some disks, and a recorder has what processors are left."""
        monkeypatch.setattr(launching, "LEAVE_SECONDS", 0.2)
        plain = shutil.rmtree

        def slow(path: Path, **options: bool) -> None:
            time.sleep(1 if ".scratch-" in str(path) else 0)
            plain(path, **options)

        monkeypatch.setattr(spool.shutil, "rmtree", slow)
        with replicate.init(path=None, strict=True) as experiment:
            experiment.checkpoint(None, {"loss": 1})
        assert texts(told) == []
        assert experiment.status == "finished"

    def test_by_another_process_was_not_deleted(
        self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`replicate sync`, or a checkout, between the last word of the training and the storing of it."""
        experiment = replicate.init(path=None)
        plain = Queue.finish_appending

        def leave(self: Queue) -> None:
            plain(self)
            assert [one.outcome for one in replicate.Project().sync()] == ["stored"]

        monkeypatch.setattr(Queue, "finish_appending", leave)
        experiment.stop()
        assert texts(told) == []
        assert experiment.status == "finished"


class TestWhereNoProcessCanBeStarted:
    @pytest.mark.parametrize("executable", ["", "/no/such/python", None])
    def test_the_training_stores_itself(
        self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch, with_recorder: None, executable: str | None
    ) -> None:
        """An embedded Python knows no executable."""
        monkeypatch.setattr(sys, "executable", executable)
        with replicate.init(path=None) as experiment:
            (project / "model").write_bytes(b"x")
            assert experiment.checkpoint("model", {}).open().read() == b"x"
            assert replicate.experiments.get(experiment.id).checkpoints[0].is_stored
        (text,) = texts(told)
        assert "no process could be started to store what is saved" in text
        assert experiment.status == "finished"
        assert not Workspace().spool.queues()


class TestWithoutARecorder:
    def test_trouble_is_told_and_passes(self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch) -> None:
        (project / "replicate.yaml").write_text("storage: ../disk/storage\n")
        experiment = replicate.init(path=None)
        launched = experiment._recorded._launched
        assert isinstance(launched, InlineRecorder)
        put = launched._uploader.repository.store.put
        before = fails(permanent=True, text="access denied")
        monkeypatch.setattr(
            launched._uploader.repository.store, "put", lambda key, data: (before("put", key), put(key, data))[1]
        )
        ids = [experiment.checkpoint(None, {"loss": step}).id for step in range(1)]
        for step in range(3):
            (project / "model").write_bytes(b"%d" % step)
            ids.append(experiment.checkpoint("model", {"loss": step}).id)
        assert len(told) == 1
        assert "access denied" in texts(told)[0]
        before = fails(0)
        experiment.stop()
        assert len(told) == 1
        (found,) = replicate.experiments.list()
        assert [checkpoint.id for checkpoint in found.checkpoints] == ids
        assert found.status == "finished"

    def test_a_process_reads_its_own_writes(self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch) -> None:
        """A checkout of what waits stores it, and so does one by another process."""
        experiment = replicate.init(path=None)
        store = experiment._recorded._launched._uploader.repository.store
        made = []
        with monkeypatch.context() as patch:
            patch.setattr(store, "put_file", lambda key, path: fails()("put_file", key))
            for content in (b"one", b"two"):
                (project / "model").write_bytes(content)
                made.append(experiment.checkpoint("model", {}))
        assert [checkpoint.open().read() for checkpoint in made] == [b"one", b"two"]
        assert [checkpoint.is_stored for checkpoint in experiment.checkpoints] == [False, False]
        made[1].checkout(project.parent / "mine")
        assert (project.parent / "mine" / "model").read_bytes() == b"two"
        assert [checkpoint.is_stored for checkpoint in replicate.experiments.get(experiment.id).checkpoints] == [
            True,
            True,
        ]
        (project / "model").write_bytes(b"three")
        experiment.checkpoint("model", {})
        experiment.stop()
        assert (experiment.status, len(experiment.checkpoints)) == ("finished", 3)

    def test_others_may_store_between(self, project: Path, told: list) -> None:
        """The queue is this process's only while it stores."""
        with replicate.init(path=None) as experiment:
            queue = only_queue()
            assert not queue.is_taken()
            assert queue.take()
            (project / "model").write_bytes(b"x")
            experiment.checkpoint("model", {})
            assert len(queue.waiting()) == 1, "somebody else is at it"
            queue.release()
            experiment.checkpoint("model", {})
            assert queue.waiting() == []
        assert texts(told) == []
        assert experiment.status == "finished"

    def test_the_end_says_what_is_left(self, project: Path, told: list, monkeypatch: pytest.MonkeyPatch) -> None:
        experiment = replicate.init(path=None)
        store = experiment._recorded._launched._uploader.repository.store
        with monkeypatch.context() as patch:
            patch.setattr(store, "put", lambda key, data: fails()("put", key))
            (project / "model").write_bytes(b"x")
            experiment.checkpoint("model", {})
            experiment.stop()
        assert "`replicate sync`" in texts(told)[-1]
        assert [one.outcome for one in replicate.Project().sync()] == ["stored"]
        assert replicate.experiments.list()[0].status == "finished"


class TestWhatOthersHaveLeft:
    def test_is_stored_when_the_next_experiment_begins(self, project: Path, told: list, with_recorder: None) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                experiment = replicate.init(path=None)
                (project / "model").write_bytes(b"x")
                process = recorder_of(experiment)._process
                process.kill()
                process.wait()
                experiment.checkpoint("model", {})
                recorder_of(experiment)._process.kill()
                recorder_of(experiment)._process.wait()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert len(Workspace().spool.queues()) == 1
        with replicate.init(path=None, name="next"):
            pass
        until(lambda: not Workspace().spool.queues())
        first, _ = replicate.experiments.list()
        assert first.status == "killed"
        assert first.checkpoints[0].open().read() == b"x"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("StorageFailed", replicate.StorageFailed),
        ("TooNew", replicate.TooNew),
        ("Corrupted", replicate.Corrupted),
        ("OSError", replicate.StorageFailed),
        ("annotations", replicate.StorageFailed),
    ],
)
def test_an_error_of_another_process_is_raised_as_what_it_was(kind: str, error: type[Exception]) -> None:
    raised = as_error(Trouble(kind, "no", permanent=True))
    assert type(raised) is error
    assert str(raised) == "no"


def test_a_recorder_leads_a_session_of_its_own(project: Path, with_recorder: None) -> None:
    """What ends the terminal of the training does not end it."""
    experiment = replicate.init(path=None)
    process = recorder_of(experiment)._process
    assert os.getsid(process.pid) == process.pid
    experiment.stop()
    assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.usefixtures("with_recorder")
class TestSeveralExperimentsOfOneProcess:
    def begin(self, count: int) -> list[replicate.Experiment]:
        return [replicate.init({"number": number}, path=None) for number in range(count)]

    def processes(self, experiments: list[replicate.Experiment]) -> set[int]:
        return {recorder_of(experiment)._process.pid for experiment in experiments}

    def save(self, experiments: list[replicate.Experiment]) -> None:
        for number, experiment in enumerate(experiments):
            Path("model").write_bytes(b"%d" % number)
            experiment.checkpoint("model", {"loss": number})

    def check(self) -> None:
        found = replicate.experiments.list()
        assert [experiment.status for experiment in found] == ["finished"] * len(found)
        contents = [experiment.checkpoints[-1].open().read() for experiment in found]
        assert contents == [b"%d" % experiment.params["number"] for experiment in found]

    def test_share_a_recorder(self, project: Path) -> None:
        experiments = self.begin(12)
        assert len(self.processes(experiments)) == 1
        self.save(experiments)
        for experiment in experiments:
            experiment.stop()
        self.check()
        assert recorder_of(experiments[0])._process.wait(60) == 0

    def test_end_on_their_own(self, project: Path) -> None:
        """The recorder goes on with the others, and nobody waits for its end."""
        first, second = experiments = self.begin(2)
        self.save(experiments)
        first.stop()
        assert first.status == "finished"
        assert recorder_of(second)._process.poll() is None
        second.checkpoint(None, {"loss": 3})
        second.stop()
        assert len(second.checkpoints) == 2

    def test_share_the_next_one_when_it_dies(self, project: Path, told: list) -> None:
        experiments = self.begin(3)
        kill(experiments[0])
        self.save(experiments)
        assert len(self.processes(experiments)) == 1
        for experiment in experiments:
            experiment.stop()
        self.check()
        assert len([text for text in texts(told) if "was started again" in text]) == 3, "one for each experiment"

    def test_after_another_have_a_recorder_of_their_own(self, project: Path) -> None:
        (first,) = self.begin(1)
        first.stop()
        (second,) = self.begin(1)
        assert len(self.processes([first, second])) == 2
        second.stop()

    def test_do_not_share_it_where_credentials_may_differ(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (first,) = self.begin(1)
        monkeypatch.setenv("AWS_PROFILE", "other")
        (second,) = self.begin(1)
        assert len(self.processes([first, second])) == 2
        for experiment in (first, second):
            experiment.stop()

    def test_in_a_forked_child_have_a_recorder_of_their_own(self, project: Path) -> None:
        (first,) = self.begin(1)
        if (pid := os.fork()) == 0:
            code = 1
            try:
                second = replicate.init(path=None)
                code = int(recorder_of(second)._process.pid == recorder_of(first)._process.pid)
                second.stop()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        first.stop()
        assert [experiment.status for experiment in replicate.experiments.list()] == ["finished"] * 2

    def test_one_whose_storage_fails_does_not_hold_up_the_others(self, project: Path, told: list) -> None:
        (project / "replicate.yaml").write_text("storage: ../failing\n")
        (failing,) = self.begin(1)
        (project / "replicate.yaml").write_text("storage: ../other\n")
        others = self.begin(2)
        assert len(self.processes([failing, *others])) == 1
        until(lambda: not any(queue.waiting() for queue in Workspace().spool.queues()))  # nobody writes there
        shutil.rmtree(project.parent / "failing")
        (project.parent / "failing").touch()
        self.save([failing])
        failing.stop()
        assert "`replicate sync` stores them" in texts(told)[-1]
        self.save(others)
        for experiment in others:
            experiment.stop()
        self.check()


def test_a_recorder_that_was_stopped_holds_up_nobody_who_wakes_it(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        never_reads = [sys.executable, "-c", "import time; time.sleep(600)"]
        process = launching.RecorderProcess(never_reads, directory=tmp_path, output=log)
    try:
        for _ in range(200_000):  # more than a pipe holds
            process.wake()
        assert not process.add(tmp_path / "queue")  # so another one is started for it
    finally:
        process.kill()
        process.wait()
