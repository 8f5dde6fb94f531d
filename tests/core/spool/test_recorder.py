"""The recorder, in a thread of the test: when it stores, when it tries again, and when it gives up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from kit import PATIENCE_SECONDS, until
from misbehaving import Gate, RecorderThread, Storage, fails, nothing, remove, takes

from replicate_core.errors import StorageFailed
from replicate_core.format import ids
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended, ExperimentState
from replicate_core.machine.files import Tree
from replicate_core.repository import heartbeats
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool import recorder
from replicate_core.spool.recorder import Recorder, record, record_abandoned
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Origin, Queue
from replicate_core.storage.local import LocalStore


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    found = Storage()
    found.install(monkeypatch)
    return found


class Training:
    """The side that appends."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.experiment = ids.random_id(os.urandom(ids.ID_BYTES))
        self.spool = Spool(project)
        origin = Origin(self.experiment, "../storage", str(project), "auto", os.getpid(), socket.gethostname())
        self.queue = self.spool.begin(origin, ids.ulid(int(time.time() * 1000), os.urandom(ids.ULID_BYTES)))
        self.queue.append(Created(self.experiment, utc_now()))
        self._steps = 0

    def point(self) -> str:
        facts = CheckpointFacts(ids.random_id(os.urandom(ids.ID_BYTES)), utc_now(), self._steps, {})
        self._steps += 1
        self.queue.append(Checkpointed(self.experiment, (facts,)), blocked_seconds=0.5 * self._steps)
        return facts.id

    def checkpoint(self, content: bytes = b"model") -> str:
        (self.project / "model").write_bytes(content)
        staged = self.queue.stage(Tree({"model": self.project / "model"}))
        identifier = ids.random_id(os.urandom(ids.ID_BYTES))
        facts = CheckpointFacts(identifier, utc_now(), self._steps, {}, path="model", size_bytes=len(content))
        self._steps += 1
        self.queue.append(Checkpointed(self.experiment, (facts,)), staged, blocked_seconds=0.5 * self._steps)
        return identifier

    def end(self) -> None:
        self.queue.append(Ended(self.experiment, utc_now(), "finished"))
        self.queue.finish_appending()

    def repository(self) -> Repository:
        return Repository(LocalStore(self.project.parent / "storage"))

    def state(self) -> ExperimentState:
        return self.repository().states()[self.experiment]

    def stored(self) -> list[str]:
        return [facts.id for facts in self.state().checkpoints]


@pytest.fixture
def training(project: Path, storage: Storage) -> Iterator[Training]:
    found = Training(project)
    yield found
    found.queue.finish_appending()
    for one in storage.recorders:
        one.thread.join(PATIENCE_SECONDS)


def start(training: Training, storage: Storage) -> RecorderThread:
    return storage.start([str(training.queue.directory)])


class TestNews:
    def test_of_files_are_acted_on_at_once(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "POLL_SECONDS", 10 * PATIENCE_SECONDS)
        recording = start(training, storage)
        until(lambda: training.queue.state().ready)
        checkpoint = training.checkpoint()
        recording.wake()
        until(lambda: training.queue.state().done == 2)
        assert training.stored() == [checkpoint]
        training.end()
        recording.wake()
        recording.thread.join(PATIENCE_SECONDS)
        assert not recording.thread.is_alive()


class TestTryingAgain:
    def test_pauses_grow_and_stop_growing(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "PAUSE_SECONDS", (0.05, 0.4))
        monkeypatch.setattr(recorder.random, "uniform", lambda low, high: high)
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails(6, of="records/")
        training.point()
        until(lambda: training.queue.state().done == 2)
        times = [when for when, key in storage.asked if "-checkpoints" in key]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        for pause, wanted in zip(pauses, [0.05, 0.1, 0.2, 0.4, 0.4, 0.4], strict=True):
            assert wanted <= pause
        assert training.queue.state().trouble is None

    def test_the_longest_pause_is_never_exceeded(self, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder.time, "monotonic", lambda: 1000.0)
        monkeypatch.setattr(recorder, "PAUSE_SECONDS", (1.0, 60.0))
        monkeypatch.setattr(recorder.random, "uniform", lambda low, high: high)
        one, pauses = Recorder(training.queue), []
        for _ in range(10):
            one._record_failure(StorageFailed("the network is down"))
            pauses.append(one._retry_at - 1000.0)
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]

    def test_pauses_differ_between_machines(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "PAUSE_SECONDS", (10.0, 60.0))
        found = Recorder(training.queue)
        pauses = set()
        for _ in range(20):
            before = time.monotonic()
            found._record_failure(OSError("no"))
            training.queue.set_state(type(training.queue.state())())
            pauses.add(round(found._retry_at - before, 3))
        assert len(pauses) > 5
        assert all(5 <= pause <= 11 for pause in pauses)

    def test_the_state_says_what_is_in_the_way(self, training: Training, storage: Storage) -> None:
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails(text="the network is down")
        training.checkpoint()
        until(lambda: (trouble := training.queue.state().trouble) and trouble.attempts >= 3)
        trouble = training.queue.state().trouble
        assert (trouble.kind, trouble.message, trouble.permanent) == ("StorageFailed", "the network is down", False)
        storage.before = nothing

    def test_what_waits_while_something_else_is_stored_outlives_the_machine(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The storage hangs in the midst of a file: it is synced beside that, and there are signs of life."""
        monkeypatch.setattr(recorder, "SYNC_AFTER_SECONDS", 0.05)
        storage.before = gate = Gate("data/")
        start(training, storage)
        training.checkpoint()
        until(lambda: gate.held_up)
        os.utime(training.queue.directory / "recorder", (1, 1))
        training.checkpoint()
        until(lambda: len(list(training.queue.directory.glob("files/*/synced"))) == 2)
        until(lambda: (utc_now() - training.queue.last_sign()) < timedelta(seconds=5))
        assert (training.queue.directory / "recorder").stat().st_mtime > 1
        gate.open()
        training.end()
        until(lambda: not training.queue.directory.exists())

    def test_what_waits_for_long_outlives_the_machine(self, training: Training, storage: Storage) -> None:
        """It is synced to disk, and marked so."""
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails()
        for _ in range(2):  # the first of them was about to be stored, and has another name by then
            training.checkpoint()
        until(lambda: len(list(training.queue.directory.glob("files/*/synced"))) == 2)
        storage.before = nothing


class TestTheEnd:
    def test_all_is_stored_and_the_queue_is_gone(self, training: Training, storage: Storage) -> None:
        one = start(training, storage)
        made = [training.checkpoint(b"%d" % step) if step % 3 == 0 else training.point() for step in range(20)]
        training.end()
        one.thread.join(PATIENCE_SECONDS)
        assert training.stored() == made
        assert training.state().ended.status == "finished"
        assert not training.queue.directory.exists()
        assert one.returncode == 0

    def test_a_training_that_was_killed(self, training: Training, storage: Storage) -> None:
        one = start(training, storage)
        made = [training.checkpoint(), training.point()]
        until(lambda: training.queue.state().done)
        training.queue.finish_appending()
        one.thread.join(PATIENCE_SECONDS)
        assert training.stored() == made
        ended = training.state().ended
        assert ended.status == "killed"
        assert ended.blocked_seconds == 1.0  # as the last job said
        assert (utc_now() - ended.created) < timedelta(seconds=10)

    def test_a_job_that_makes_no_sense_is_named_and_stays(self, training: Training, storage: Storage) -> None:
        """Its line is sealed, but a later version wrote it, say: the recorder says so, and does not crash."""
        one = start(training, storage)
        until(lambda: training.queue.state().done == 1)
        training.queue._journal.append({"record": {"kind": "rhubarb"}})
        until(lambda: training.queue.state().trouble is not None)
        trouble = training.queue.state().trouble
        assert trouble is not None
        assert trouble.kind == "Corrupted"
        assert trouble.permanent
        training.queue.finish_appending()
        one.thread.join(PATIENCE_SECONDS)
        assert one.returncode == recorder.LEFT
        assert training.queue.directory.exists()

    def test_a_training_that_was_killed_long_ago(self, training: Training, storage: Storage) -> None:
        """It died when it was last heard of, and not when somebody found out."""
        training.point()
        training.queue.finish_appending()
        yesterday = time.time() - 86400
        queue = training.queue.directory
        for path in (queue / "owner", queue / "recorder", *queue.glob("journal/*")):
            os.utime(path, (yesterday, yesterday))
        record_abandoned(training.spool)
        assert training.state().ended.created.timestamp() == pytest.approx(yesterday, abs=2)

    def test_a_training_that_never_began(self, project: Path, storage: Storage) -> None:
        """Nothing was appended: there is no experiment."""
        training = Training(project)
        for path in training.queue.directory.glob("journal/*"):
            path.unlink()
        training.queue.finish_appending()
        assert record(Queue(training.queue.directory))
        assert training.repository().states() == {}
        assert not training.queue.directory.exists()

    @pytest.mark.parametrize("permanent", [True, False])
    def test_a_storage_that_does_not_recover(
        self, training: Training, storage: Storage, permanent: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=10 * PATIENCE_SECONDS if permanent else 1))
        one = start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails(permanent=permanent)
        training.checkpoint()
        training.end()
        began = time.monotonic()
        one.thread.join(PATIENCE_SECONDS)
        assert not one.thread.is_alive()
        assert permanent or time.monotonic() - began > 0.9
        assert len(training.queue.waiting()) == 2
        assert not training.queue.is_taken()
        storage.before = fails(0)
        assert record(Queue(training.queue.directory))
        assert training.state().ended.status == "finished"

    def test_a_storage_that_was_in_trouble_for_long_is_not_waited_for_again(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The time is counted from when the trouble began; the end of the training gets one attempt more."""
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=1))
        one = start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails()
        training.checkpoint()
        until(lambda: training.queue.state().trouble)
        time.sleep(1.1)
        asked_before = len(storage.asked)
        training.end()
        one.thread.join(PATIENCE_SECONDS)
        assert len(storage.asked) - asked_before <= 2, "one may have been under way"
        assert len(training.queue.waiting()) == 2

    def test_a_storage_that_recovers_at_the_end_gets_all(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=0.5))
        monkeypatch.setattr(recorder, "PAUSE_SECONDS", (60.0, 60.0))
        one = start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = fails(1)
        made = [training.checkpoint()]
        until(lambda: training.queue.state().trouble)
        time.sleep(0.6)
        training.end()
        one.thread.join(PATIENCE_SECONDS)
        assert training.stored() == made

    def test_a_disk_without_room_for_its_notes(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It can't even say that it is ready, for a while: all is stored once it can."""
        plain, left = Queue.set_state, [3]

        def full(self: Queue, state: object) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(28, "No space left on device")
            plain(self, state)

        monkeypatch.setattr(Queue, "set_state", full)
        made = [training.point()]
        training.end()
        assert record(Queue(training.queue.directory))
        assert training.stored() == made
        assert training.state().ended.status == "finished"

    def test_trouble_while_the_queue_is_closed(self, training: Training, storage: Storage) -> None:
        """The last word of a killed training is tried again, and said once."""
        one = start(training, storage)
        training.point()
        until(lambda: training.queue.state().done == 2)
        storage.before = fails(3, of="-ended")
        training.queue.finish_appending()
        one.thread.join(PATIENCE_SECONDS)
        assert training.state().ended.status == "killed"
        assert len(storage.records("ended")) == 1

    def test_a_queue_that_vanishes(self, training: Training, storage: Storage) -> None:
        """`init()` failed, or somebody deleted it: the recorder goes, too."""
        one = start(training, storage)
        until(lambda: training.queue.state().done == 1)
        remove(training.queue.directory)
        one.thread.join(PATIENCE_SECONDS)
        assert one.returncode == recorder.LEFT

    def test_a_queue_that_is_vanishing(self, training: Training, storage: Storage) -> None:
        """To delete it takes a while, file by file: that is not the death of the training."""
        one = start(training, storage)
        training.point()
        until(lambda: training.queue.state().done == 2)
        (training.queue.directory / "owner").unlink()
        one.thread.join(PATIENCE_SECONDS)
        assert training.state().ended is None
        assert one.returncode == recorder.LEFT


class TestGathering:
    def test_points_go_together(self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder, "GATHER_SECONDS", (0.3, 0.3))
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        began = time.monotonic()
        for _ in range(100):
            training.point()
            time.sleep(0.005)
        took = time.monotonic() - began
        training.end()
        until(lambda: not training.queue.directory.exists())
        assert len(training.stored()) == 100
        assert 1 <= len(storage.records("checkpoints")) <= took / 0.3 + 3

    def test_points_that_come_while_others_are_stored_wait_for_their_turn(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a storage that is slower than a step gets one record per request, for as long as training lasts."""
        monkeypatch.setattr(recorder, "GATHER_SECONDS", (0.5, 0.5))
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        storage.before = takes(0.03, of="-checkpoints")
        began = time.monotonic()
        for _ in range(150):
            training.point()
            time.sleep(0.01)
        took = time.monotonic() - began
        training.end()
        until(lambda: not training.queue.directory.exists())
        assert len(training.stored()) == 150
        assert len(storage.records("checkpoints")) <= took / 0.5 + 3

    def test_files_do_not_wait(self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder, "GATHER_SECONDS", (600.0, 600.0))
        start(training, storage)
        made = [training.point(), training.checkpoint()]
        until(lambda: training.queue.state().done == 3)
        assert training.stored() == made

    def test_after_long_trainings_are_longer(self, training: Training) -> None:
        one = Recorder(training.queue)
        one._uploader = object()
        one._waiting = 1
        now = time.monotonic()
        for age, gap, due in ((10, 0.01, False), (10, 0.2, True), (15, 0.14, False), (1000, 0.19, False)):
            one._began, one._stored_at = now - age, now - gap
            assert one._is_due() is due, (age, gap)


class TestWhoMayStore:
    def test_one_at_a_time(self, training: Training, storage: Storage) -> None:
        storage.before = gate = Gate("data/")
        training.checkpoint()
        start(training, storage)
        until(lambda: gate.held_up)
        assert record(Queue(training.queue.directory)) is False
        record_abandoned(training.spool)  # it is owned, too
        gate.open()
        training.end()
        until(lambda: not training.queue.directory.exists())
        assert len(training.stored()) == 1

    def test_a_queue_that_is_gone_is_passed_over(self, project: Path, storage: Storage) -> None:
        assert record(Queue(project / ".replicate" / "spool" / "x-y")) is False
        assert not (project / ".replicate").exists()

    def test_a_queue_that_lacks_what_is_needed_is_an_error(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=1))
        (training.queue.directory / "origin.json").unlink()
        training.queue.finish_appending()
        storage.before = nothing
        training.queue.append(Ended(training.experiment, utc_now(), "finished"))
        thread = start(training, storage)
        until(lambda: training.queue.state().trouble)
        assert training.queue.state().trouble.kind == "FileNotFoundError"
        thread.thread.join(PATIENCE_SECONDS)
        assert len(training.queue.waiting()) == 2

    def test_one_that_may_run_on_another_machine_is_left_alone(
        self, project: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training = Training(project)
        training.queue.finish_appending()
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        record_abandoned(training.spool)
        assert len(training.queue.waiting()) == 1

    def test_those_that_are_left_behind(self, project: Path, storage: Storage) -> None:
        trainings = [Training(project) for _ in range(3)]
        made = [[training.checkpoint(b"%d" % number)] for number, training in enumerate(trainings)]
        for training in trainings[:2]:
            training.queue.finish_appending()
        record_abandoned(trainings[0].spool)
        assert [training.stored() for training in trainings[:2]] == made[:2]
        assert trainings[2].queue.directory.exists()
        trainings[2].queue.finish_appending()

    def test_one_left_behind_in_trouble_does_not_stop_the_others(self, project: Path, storage: Storage) -> None:
        trainings = [Training(project) for _ in range(2)]
        made = [[training.checkpoint(os.urandom(9))] for training in trainings]
        for training in trainings:
            training.queue.finish_appending()
        storage.before = fails(permanent=True, of=trainings[0].experiment)
        record_abandoned(trainings[0].spool)
        assert trainings[0].queue.directory.exists()
        assert trainings[1].stored() == made[1]

    def test_one_left_behind_that_is_damaged_does_not_stop_the_others(self, project: Path, storage: Storage) -> None:
        trainings = [Training(project) for _ in range(2)]
        made = [[training.checkpoint(os.urandom(9))] for training in trainings]
        for training in trainings:
            training.queue.finish_appending()
        (trainings[0].queue.directory / "origin.json").write_bytes(b"{}\n")
        record_abandoned(trainings[0].spool)
        assert trainings[1].stored() == made[1]


class TestPriority:
    """What is stored beside a training takes the processor time that nobody else wants; later a person waits for it."""

    @pytest.fixture
    def niceness(self, storage: Storage) -> dict[str, int]:
        """By how a key begins, at which priority it was stored last."""
        found: dict[str, int] = {}

        def note(verb: str, key: str) -> None:
            found[key.partition("/")[0]] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        storage.before = note
        return found

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
    def test_is_the_lowest_beside_the_training_and_normal_after_it(
        self, training: Training, storage: Storage, niceness: dict[str, int]
    ) -> None:
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        training.checkpoint()
        until(lambda: training.queue.state().done == 2)
        assert (niceness["data"], niceness["records"]) == (19, 19)
        training.end()
        storage.recorders[-1].thread.join(60)
        assert niceness["records"] == os.getpriority(os.PRIO_PROCESS, 0), "that of the training, maybe begun with nice"

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
    def test_becomes_normal_between_two_things_that_are_stored(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who has no privileges can't raise that of a thread again: another thread stores the next one."""
        hurried = threading.Event()
        monkeypatch.setattr("replicate_core.machine.background.Background.hurry", lambda _: hurried.set())
        start(training, storage)
        until(lambda: training.queue.state().done == 1)
        gate, found = Gate("data/"), []
        storage.before = lambda verb, key: (
            gate(verb, key),
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) if "data/" in key else None,
        )
        made = [training.checkpoint(b"%d" % number * 300_000) for number in range(3)]
        until(lambda: gate.held_up)
        training.end()
        one = storage.recorders[-1]
        until(hurried.is_set)
        gate.open()
        one.thread.join(60)
        normal = os.getpriority(os.PRIO_PROCESS, 0)
        assert found == [19, normal, normal]
        assert training.stored() == made

    def test_without_threads_all_is_stored_all_the_same(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`ulimit -u`: signs of life are given in between, too."""
        monkeypatch.setattr(recorder, "start_thread", lambda _: False)
        monkeypatch.setattr("replicate_core.machine.background.start_thread", lambda _: False)
        monkeypatch.setattr(heartbeats, "INTERVAL", timedelta(seconds=0.01))
        start(training, storage)
        made = [training.checkpoint()]
        until(lambda: len([key for key in storage.written if key.startswith("heartbeats/")]) > 3)
        made.append(training.checkpoint())
        training.end()
        storage.recorders[-1].thread.join(60)
        assert training.stored() == made
        assert training.state().ended.status == "finished"


class TestSignsOfLife:
    def test_say_how_many_jobs_wait(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeats, "INTERVAL", timedelta(seconds=0.05))
        storage.before = fails(of="data/")
        start(training, storage)
        for _ in range(4):
            training.checkpoint(os.urandom(9))
        until(lambda: any(sign.waiting >= 4 for sign in self.signs(training)))
        storage.before = fails(0)
        until(lambda: [sign.waiting for sign in self.signs(training)] == [0])
        training.end()
        until(lambda: not training.queue.directory.exists())
        assert self.signs(training) == []

    def test_trouble_with_them_is_no_trouble(
        self, training: Training, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeats, "INTERVAL", timedelta(seconds=0.02))
        start(training, storage)
        until(lambda: training.queue.state().ready)
        storage.before = fails(of="heartbeats/")
        made = [training.checkpoint()]
        training.end()
        until(lambda: not training.queue.directory.exists())
        assert training.stored() == made

    def signs(self, training: Training) -> list[heartbeats.Heartbeat]:
        return list(heartbeats.last(training.repository(), {training.experiment: None}).values())


class TestAProcess:
    """As it is started: its exit status says whether all is stored."""

    PROGRAM = "import sys; from replicate_core.spool.recorder import main; main(sys.argv[1:])"

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", self.PROGRAM, *map(str, arguments)]
        root = Path(recorder.__file__).parents[1]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=PATIENCE_SECONDS)

    def test_that_stored_all(self, training: Training) -> None:
        training.end()
        done = self.run(training.queue.directory)
        assert (done.returncode, done.stderr) == (0, "")
        assert training.state().ended.status == "finished"

    def test_that_could_not(self, training: Training) -> None:
        (training.project.parent / "storage").touch()
        training.end()
        done = self.run(training.queue.directory)
        assert done.returncode == recorder.LEFT
        assert "replicate.recorder WARNING: StorageFailed" in done.stderr
        assert len(training.queue.waiting()) == 2

    def test_whose_queue_is_gone(self, training: Training) -> None:
        assert self.run(training.project / ".replicate" / "spool" / "x-y").returncode == recorder.LEFT

    def test_that_is_one_too_many_waits_while_somebody_else_stores(self, training: Training) -> None:
        """A checkout that stores what it needs itself: the recorder goes on behind it."""
        assert training.queue.take()
        threading.Timer(0.5, training.queue.release).start()
        threading.Timer(0.7, training.end).start()
        assert self.run(training.queue.directory).returncode == 0
        assert training.state().ended.status == "finished"

    def test_that_stores_what_others_have_left(self, training: Training) -> None:
        training.queue.finish_appending()
        done = self.run("abandoned", training.project, training.spool.directory)
        assert (done.returncode, done.stderr) == (0, "")
        assert training.state().ended.status == "killed"
        assert training.spool.queues() == []


def test_no_thread_is_left(training: Training, storage: Storage) -> None:
    before = threading.active_count()
    one = start(training, storage)
    training.end()
    one.thread.join(PATIENCE_SECONDS)
    until(lambda: threading.active_count() <= before)
