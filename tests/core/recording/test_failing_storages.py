"""Recording while the storage fails, hangs or goes away: nothing is lost, and who can do something is told once."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from kit import PATIENCE_SECONDS, texts, until
from misbehaving import Gate, Storage, fails, nothing
from stored_checkpoints import AtExit, assert_stored_once, begin, content, queues, save, stored

import replicate_core as replicate
from replicate_core.recording import backlog, launching, notices
from replicate_core.spool import recorder


class TestFailuresThatPass:
    def test_nothing_is_lost_and_nothing_is_there_twice(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        ids = []
        for step in range(12):
            if step % 4 == 0:
                until(lambda: queues()[0].state().trouble is None)  # one failure is over before the next one comes
                storage.before = fails(1)
            ids.append(save(experiment, step))
            time.sleep(0.01)
        experiment.stop()
        assert_stored_once(storage, ids)
        assert texts(told) == []
        assert experiment.status == "finished"

    @pytest.mark.parametrize("of", ["data/", "manifests/", "records/", "heartbeats/"])
    def test_wherever_they_come(self, project: Path, storage: Storage, told: list, of: str) -> None:
        experiment = begin(project)
        storage.before = fails(2, of=of)
        ids = [save(experiment, step) for step in range(3)]
        experiment.stop()
        assert_stored_once(storage, ids)
        assert texts(told) == []

    def test_training_goes_on_meanwhile(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = fails()  # for ever: who waited for the storage would not come back
        ids = [save(experiment, step) for step in range(50)]
        assert experiment.status == "running"
        assert [item.is_stored for item in experiment.checkpoints] == [False] * 50
        assert experiment.checkpoints[7].open().read() == content(7, 0)
        storage.before = nothing
        experiment.stop()
        assert_stored_once(storage, ids)

    def test_the_user_is_told_once_a_failure_lasts(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lasts() -> bool:
            trouble = queues()[0].state().trouble
            return trouble is not None and trouble.attempts >= launching.PATIENCE

        experiment = begin(project)
        storage.before = fails()
        save(experiment, 0)
        until(lasts)
        for step in range(1, 10):
            save(experiment, step)
        assert len(told) == 1
        assert "training continues. the network is down" in texts(told)[0]
        assert told[0].filename == save.__code__.co_filename  # `checkpoint()` of the user's
        storage.before = nothing
        until(lambda: not queues()[0].waiting())
        save(experiment, 10)
        storage.before = fails()
        save(experiment, 11)
        until(lasts)
        save(experiment, 12)  # it is another failure
        storage.before = nothing
        experiment.stop()
        assert len(told) == 2

    def test_the_end_waits_while_there_is_hope(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = fails()
        ids = [save(experiment, 0)]
        timer = threading.Timer(0.7, lambda: setattr(storage, "before", nothing))
        timer.start()
        experiment.stop()
        timer.join()
        assert_stored_once(storage, ids)
        assert texts(told) == []

    def test_the_end_does_not_wait_for_ever(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=1))
        monkeypatch.setattr(launching, "PATIENCE", 10**9)  # the end says it first, however slow training is
        experiment = begin(project)
        until(lambda: not queues()[0].waiting())
        storage.before = fails()
        ids = [save(experiment, step) for step in range(3)]
        experiment.stop()
        assert len(told) == 1
        assert "4 jobs of the experiment" in texts(told)[0]
        assert "the network is down. `replicate sync` stores them" in texts(told)[0]
        assert str(queues()[0].directory) in texts(told)[0]
        storage.before = nothing
        assert [one.outcome for one in replicate.Project().sync()] == ["stored"]
        assert_stored_once(storage, ids)
        assert stored().status == "finished"


class TestFailuresThatStay:
    def test_are_told_once_and_what_is_saved_is_kept(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = fails(permanent=True, text="access denied")
        ids = [save(experiment, 0)]
        until(lambda: queues()[0].state().trouble)
        ids += [save(experiment, step) for step in range(1, 10)]
        assert len(told) == 1
        assert "access denied" in texts(told)[0]
        began = time.monotonic()
        experiment.stop()
        assert time.monotonic() - began < 3
        assert len(told) == 2
        assert "access denied. `replicate sync` stores them" in texts(told)[1]
        assert [item.id for item in experiment.checkpoints] == ids
        storage.before = nothing
        replicate.Project().sync()
        assert_stored_once(storage, ids)

    def test_from_some_key_on(self, project: Path, storage: Storage, told: list) -> None:
        """What was stored before is there; what comes behind waits, in order."""
        experiment = begin(project)
        ids = [save(experiment, step) for step in range(3)]
        until(lambda: not queues()[0].waiting())
        storage.before = fails(permanent=True)
        ids += [save(experiment, step) for step in range(3, 6)]
        experiment.stop()
        checkpoints = experiment.checkpoints
        assert [item.id for item in checkpoints] == ids
        assert [item.is_stored for item in checkpoints] == [True] * 3 + [False] * 3
        assert [item.open().read() for item in checkpoints] == [content(step, 0) for step in range(6)]
        storage.before = nothing
        replicate.Project().sync()
        assert_stored_once(storage, ids)

    def test_that_somebody_mends_while_training_goes_on(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = fails(permanent=True)
        ids = [save(experiment, 0)]
        until(lambda: queues()[0].state().trouble)
        storage.before = nothing
        until(lambda: not queues()[0].waiting())
        ids.append(save(experiment, 1))
        experiment.stop()
        assert_stored_once(storage, ids)

    def test_end_with_the_process(self, project: Path, storage: Storage, told: list, at_exit: AtExit) -> None:
        experiment = begin(project)
        storage.before = fails(permanent=True)
        save(experiment, 0)
        at_exit[-1]("failed", "ValueError: no")
        assert "`replicate sync`" in texts(told)[-1]
        assert (experiment.status, experiment.error) == ("failed", "ValueError: no")


class TestStrict:
    def test_trouble_is_raised_from_a_checkpoint(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project, strict=True)
        first = save(experiment, 0)
        storage.before = fails(permanent=True, text="access denied")

        def train() -> None:
            save(experiment, 1)
            until(lambda: queues()[0].state().trouble)
            save(experiment, 2)

        with pytest.raises(replicate.StorageFailed, match="access denied"):
            train()
        storage.before = nothing
        experiment.stop()
        assert stored().checkpoints[0].id == first
        assert texts(told) == []

    def test_what_may_pass_is_not_raised_at_once(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project, strict=True)
        storage.before = fails(2)
        ids = []
        for step in range(10):
            ids.append(save(experiment, step))
            time.sleep(0.02)
        experiment.stop()
        assert_stored_once(storage, ids)

    @pytest.mark.parametrize("permanent", [True, False])
    def test_trouble_is_raised_from_the_end(
        self, project: Path, storage: Storage, told: list, permanent: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GIVE_UP", timedelta(seconds=1))
        experiment = begin(project, strict=True)
        save(experiment, 0)
        storage.before = fails(permanent=permanent, text="access denied")
        with pytest.raises(replicate.StorageFailed, match=r"access denied. `replicate sync`"):
            experiment.stop()
        assert texts(told) == []
        experiment.stop()
        storage.before = nothing
        replicate.Project().sync()
        assert stored().status == "finished"

    def test_trouble_at_the_end_of_a_block_does_not_hide_an_error(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        def train() -> None:
            with begin(project, strict=True) as experiment:
                experiment.checkpoint(None, {"loss": 1})
                storage.before = fails(permanent=True, text="access denied")
                raise ValueError("the first of both")

        with pytest.raises(replicate.StorageFailed, match="access denied") as caught:
            train()
        assert isinstance(caught.value.__context__, ValueError)

    def test_trouble_at_the_end_of_the_process_is_a_warning(
        self, project: Path, storage: Storage, told: list, at_exit: AtExit
    ) -> None:
        """Nobody is left to catch anything."""
        experiment = begin(project, strict=True)
        storage.before = fails(permanent=True, text="access denied")
        experiment.checkpoint(None, {"loss": 1})
        at_exit[-1]("finished", None)
        (text,) = texts(told)
        assert "access denied. `replicate sync` stores them" in text

    def test_an_interruption_at_the_end_of_the_process_is_none(
        self, project: Path, storage: Storage, told: list, at_exit: AtExit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C while it waits: what is left is left to the recorder, and the process goes on ending."""
        experiment = begin(project, strict=True)
        storage.before = gate = Gate("data/")
        save(experiment, 0)
        until(lambda: gate.held_up)

        class Impatient:
            def show(self, waiting: notices.Waiting) -> None:
                raise KeyboardInterrupt

            def close(self, left: object) -> None:
                pass

        monkeypatch.setattr(notices.notifier(), "upload_display", Impatient)
        at_exit[-1]("finished", None)
        (text,) = texts(told)
        assert "are still being stored in the background" in text
        gate.open()
        until(lambda: not queues())
        assert stored().status == "finished"


class TestStoragesThatGoAway:
    def test_and_come_back(self, project: Path, storage: Storage, told: list) -> None:
        """A disk that is not mounted: nothing is written to where it was."""
        (project / "replicate.yaml").write_text("storage: ../disk/storage\n")
        experiment = begin(project)
        ids = [save(experiment, 0)]
        until(lambda: not queues()[0].waiting())
        disk, away = project.parent / "disk", project.parent / "away"
        disk.rename(away)
        ids += [save(experiment, step) for step in range(1, 4)]
        time.sleep(0.5)
        assert not disk.exists()
        away.rename(disk)
        ids.append(save(experiment, 4))
        experiment.stop()
        assert_stored_once(storage, ids)

    def test_and_stay_away(self, project: Path, storage: Storage, told: list) -> None:
        (project / "replicate.yaml").write_text("storage: ../disk/storage\n")
        experiment = begin(project)
        until(lambda: not queues()[0].waiting())
        disk, away = project.parent / "disk", project.parent / "away"
        disk.rename(away)
        ids = [save(experiment, step) for step in range(3)]
        experiment.stop()
        assert not disk.exists()
        assert "`replicate sync`" in texts(told)[-1]
        away.rename(disk)
        replicate.Project().sync()
        assert_stored_once(storage, ids)


class TestAStorageThatHangs:
    """A request that never returns, and no error either."""

    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Iterator[Gate]:
        monkeypatch.setattr(backlog, "END_SECONDS", 0.5)
        monkeypatch.setattr(backlog, "ROOM_SECONDS", 0.3)
        found = Gate("data/")
        yield found
        found.open()

    def test_lets_the_run_end(self, project: Path, storage: Storage, told: list, gate: Gate) -> None:
        experiment = begin(project)
        storage.before = gate
        ids = [save(experiment, step) for step in range(3)]
        until(lambda: gate.held_up)
        began = time.monotonic()
        experiment.stop()
        assert 0.4 < time.monotonic() - began < 5
        (text,) = texts(told)
        assert text.startswith("4 jobs of the experiment ")
        assert text.endswith("are still being stored in the background. If that stops: `replicate sync`")
        gate.open()
        until(lambda: not queues())
        assert_stored_once(storage, ids)
        assert stored().status == "finished"

    def test_is_raised_where_the_user_is_strict(self, project: Path, storage: Storage, told: list, gate: Gate) -> None:
        experiment = begin(project, strict=True)
        storage.before = gate
        save(experiment, 0)
        until(lambda: gate.held_up)
        with pytest.raises(replicate.StorageFailed, match="still being stored in the background"):
            experiment.stop()

    def test_that_gets_on_slowly_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However long it takes altogether."""
        clock = [0.0]
        monkeypatch.setattr(backlog.time, "monotonic", lambda: clock[0])
        stall = backlog._Stall()
        for left in range(1000, 0, -1):
            clock[0] += backlog.END_SECONDS * 0.9
            assert not stall.is_over(left, backlog.END_SECONDS)
        clock[0] += backlog.END_SECONDS * 1.1
        assert stall.is_over(1, backlog.END_SECONDS)

    def test_lets_training_go_on_without_the_files(
        self, project: Path, storage: Storage, told: list, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "replicate.yaml").write_text("spool: {limit: 1 MB, keep_free: 0 MB}\n")
        experiment = begin(project)
        storage.before = gate
        for step in range(5):
            Path("model.bin").write_bytes(os.urandom(400_000))
            experiment.checkpoint("model.bin", {"loss": step}, step=step)
        assert [text for text in texts(told) if "of step 2 are not saved, only its metrics" in text]
        assert sum("only its metrics: there is no room for 0.4 MB in" in text for text in texts(told)) == 3
        gate.open()
        monkeypatch.setattr(backlog, "END_SECONDS", PATIENCE_SECONDS)
        experiment.stop()
        assert [checkpoint.size_bytes for checkpoint in stored().checkpoints] == [400_000] * 2 + [0] * 3
