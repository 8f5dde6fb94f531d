"""Recording while the storage misbehaves: training goes on, nothing is lost, and who can do something is told once."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from kit import PATIENCE_SECONDS, texts, until
from misbehaving import Gate, Storage, fails, nothing, remove, takes

import replicate_core as replicate
from replicate_core.recording import backlog, launching, notices, recording
from replicate_core.repository import heartbeats
from replicate_core.spool import leftovers, recorder, upload_queue
from replicate_core.storage.diagnosis import translated
from replicate_core.workspace import Workspace

AtExit = list[Callable[..., object]]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, at_exit: AtExit, told: list) -> Iterator[Storage]:
    found = Storage()
    found.install(monkeypatch)
    yield found
    found.settle(at_exit)


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of a test."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def begin(project: Path, **options: object) -> replicate.Experiment:
    return replicate.init(path=None, **options)


def save(experiment: replicate.Experiment, step: int, *, size: int = 0, loss: float | None = None) -> str:
    """A checkpoint whose file is told by its step."""
    Path("model.bin").write_bytes(content(step, size))
    value = 1 / (step + 1) if loss is None else loss
    return experiment.checkpoint("model.bin", {"loss": value}, ("loss", "minimize"), step).id


def content(step: int, size: int) -> bytes:
    return (b"step %d " % step * (size // 8 + 1000))[: max(size, 1000)]


def stored() -> replicate.Experiment:
    """The only experiment there is, as somebody reads it who does not see the spool."""
    (experiment,) = [one for one in replicate.experiments.list() if one.waiting == 0]
    assert all(checkpoint.is_stored for checkpoint in experiment.checkpoints)
    return experiment


def queues() -> list[upload_queue.Queue]:
    return Workspace().spool.queues()


def assert_stored(ids: list[str]) -> None:
    """Each of these checkpoints is there, and every byte that is there can be read."""
    assert [checkpoint.id for checkpoint in stored().checkpoints] == ids
    assert replicate.Project().verify(deep=True).damages == ()


def assert_stored_once(storage: Storage, ids: list[str]) -> None:
    """Each of these checkpoints is there, in this order, whole, and in one record only."""
    experiment = stored()
    assert [checkpoint.id for checkpoint in experiment.checkpoints] == ids
    for checkpoint in experiment.checkpoints:
        if checkpoint.path is not None:
            assert checkpoint.open().read() == content(checkpoint.step, checkpoint.size_bytes)
    repository = Workspace().repository
    inside = [item.id for record in repository.read_records() for item in getattr(record, "checkpoints", ())]
    assert inside == ids
    assert replicate.Project().verify(deep=True).damages == ()


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
        assert "training goes on. the network is down" in texts(told)[0]
        assert told[0].filename == __file__  # `checkpoint()` of the user's
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


class TestMetricsAlone:
    def test_many_make_few_records_in_little_memory(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, told: list
    ) -> None:
        """With a recorder process, as users have it."""
        monkeypatch.delenv("REPLICATE_RECORDER")
        experiment = begin(project)
        (queue,) = queues()
        process = experiment._recorded._launched._process
        largest = before = _memory_kilobytes(process.pid)
        own_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = 100_000
        began = time.monotonic()
        for step in range(count):
            experiment.checkpoint(None, {"loss": step, "accuracy": 0.5}, step=step)
            if step % 5000 == 0:
                largest = max(largest, _memory_kilobytes(process.pid))
        took = time.monotonic() - began
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own_before
        waiting = max((size for size in _sizes(queue.directory / "journal")), default=0)
        while process.poll() is None and queue.waiting(count_max=1):
            largest = max(largest, _memory_kilobytes(process.pid))
            time.sleep(0.02)
        experiment.stop()
        assert texts(told) == []
        assert took / count < 0.001, f"{took / count * 1e6:.0f} µs per checkpoint"
        assert own < 30_000, "the training keeps none of them"
        assert largest - before < 60_000, "the recorder keeps a few thousand of them at a time"
        assert waiting < 3 << 20, "a file of the journal stays small"
        keys = list((project / ".replicate" / "storage" / "records").rglob("*.json"))
        assert len(keys) < 500
        found = stored().checkpoints
        assert len(found) == count
        assert [item.step for item in found[:: count // 100]] == list(range(0, count, count // 100))

    def test_order_is_kept_between_those_with_files_and_those_without(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "GATHER_SECONDS", (600.0, 600.0))  # those with files take the others with them
        experiment = begin(project)
        ids = []
        for step in range(200):
            if step % 17 == 5:
                ids.append(save(experiment, step))
            else:
                ids.append(experiment.checkpoint(None, {"loss": step}, step=step).id)
            storage.before = fails(1) if step % 40 == 0 else storage.before
            time.sleep(0.001)
        experiment.stop()
        assert_stored_once(storage, ids)
        assert len(storage.records("checkpoints")) < 80

    def test_they_are_stored_while_training_goes_on(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        experiment.checkpoint(None, {"loss": 1})
        until(lambda: storage.records("checkpoints"))
        experiment.stop()


def _memory_kilobytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def _sizes(directory: Path) -> Iterator[int]:
    for path in directory.glob("*"):
        try:
            yield path.stat().st_size
        except FileNotFoundError:
            continue


class TestWaitingForRoom:
    SIZE = 300_000

    def limit(self, project: Path, **options: str) -> None:
        lines = "".join(f", {name}: {value}" for name, value in options.items())
        (project / "replicate.yaml").write_text(f"spool: {{limit: 1 MB, keep_free: 0 MB{lines}}}\n")

    def save(self, experiment: replicate.Experiment, step: int, **options: float) -> str:
        """Random content: equal chunks would be stored once."""
        Path("model.bin").write_bytes(os.urandom(self.SIZE))
        return experiment.checkpoint("model.bin", {"loss": options.get("loss", 1.0)}, ("loss", "minimize"), step).id

    def test_a_slow_storage_slows_training_down(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = takes(0.2)
        began = time.monotonic()
        largest = 0
        for step in range(8):
            self.save(experiment, step)
            largest = max(largest, sum(_sizes_below(queues()[0].directory / "files")))
        took = time.monotonic() - began
        experiment.stop()
        assert took > 0.8
        assert [text.startswith("storing is slower than training") for text in texts(told)] == [True]
        assert told[0].filename == __file__
        assert 0.5 < experiment.blocked.total_seconds() <= took
        assert largest < 2_000_000
        assert [checkpoint.size_bytes for checkpoint in stored().checkpoints] == [self.SIZE] * 8
        assert all(len(checkpoint.open().read()) == self.SIZE for checkpoint in stored().checkpoints)

    def test_a_checkpoint_larger_than_the_limit_waits_until_it_is_alone(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = takes(0.1)
        for step in range(3):
            Path("model.bin").write_bytes(os.urandom(2_000_000))
            experiment.checkpoint("model.bin", {}, step=step)
        experiment.stop()
        assert [len(checkpoint.open().read()) for checkpoint in stored().checkpoints] == [2_000_000] * 3

    def test_metrics_alone_never_wait(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = gate = Gate()
        self.save(experiment, 0)
        self.save(experiment, 1)
        began = time.monotonic()
        for step in range(2, 500):
            experiment.checkpoint(None, {"loss": step}, step=step)
        assert time.monotonic() - began < 2
        gate.open()
        experiment.stop()
        assert len(stored().checkpoints) == 500

    def test_a_storage_in_trouble_is_not_waited_for(self, project: Path, storage: Storage, told: list) -> None:
        """What has no room is recorded without its files, and that is said."""
        self.limit(project)
        experiment = begin(project)
        storage.before = fails(permanent=True, text="access denied")
        began = time.monotonic()
        for step in range(6):
            self.save(experiment, step)
        assert time.monotonic() - began < 5
        assert sum("only its metrics" in text for text in texts(told)) == 3
        storage.before = nothing
        experiment.stop()
        found = stored().checkpoints
        assert [checkpoint.metrics["loss"] for checkpoint in found] == [1.0] * 6
        assert [checkpoint.size_bytes for checkpoint in found] == [self.SIZE] * 3 + [0] * 3
        with pytest.raises(replicate.NotFound, match="could not be saved when it was made"):
            found[5].open()

    def test_strict_raises_where_there_is_no_room(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project, strict=True)
        storage.before = fails(permanent=True, text="access denied")

        def train() -> None:
            for step in range(6):
                self.save(experiment, step)

        with pytest.raises(replicate.StorageFailed, match="access denied"):
            train()
        storage.before = nothing
        experiment.stop()

    def test_one_that_waits_is_given_up_for_a_newer_one(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project, when_full="replace")
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        losses = [5.0, 1.0, 4.0, 3.0, 2.0, 6.0]
        ids = []
        for step, loss in enumerate(losses):
            ids.append(self.save(experiment, step, loss=loss))
            until(lambda: gate.held_up)  # the first one is being stored, and can't be given up
        gate.open()
        experiment.stop()
        found = stored().checkpoints
        assert [checkpoint.id for checkpoint in found] == ids
        assert [checkpoint.metrics["loss"] for checkpoint in found] == losses
        kept = [checkpoint.step for checkpoint in found if checkpoint.size_bytes and _is_readable(checkpoint)]
        assert 0 in kept, "it was being stored"
        assert 1 in kept, "it is the best"
        assert stored().best().step == 1
        assert len(stored().best().open().read()) == self.SIZE

    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_the_best_is_never_given_up(self, project: Path, storage: Storage, told: list, goal: str) -> None:
        self.limit(project, when_full="replace")
        for losses in itertools.islice(itertools.permutations([1.0, 2.0, 3.0, 4.0]), 0, 24, 5):
            experiment = begin(project)
            storage.before = gate = Gate("data/")
            for step, loss in enumerate([9.0 if goal == "minimize" else -9.0, *losses]):
                Path("model.bin").write_bytes(os.urandom(self.SIZE))
                experiment.checkpoint("model.bin", {"loss": loss}, ("loss", goal), step)
                until(lambda gate=gate: gate.held_up)
            gate.open()
            experiment.stop()
            experiment.refresh()
            assert len(experiment.best().open().read()) == self.SIZE


def _is_readable(checkpoint: replicate.Checkpoint) -> bool:
    try:
        return len(checkpoint.open().read()) > 0
    except replicate.NotFound:
        return False


def _sizes_below(directory: Path) -> Iterator[int]:
    for found, _, names in os.walk(directory):  # passes over directories that vanish meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(found, name)).st_size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", directory]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root mounts a small disk")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def fill(path: Path) -> None:
    """Leave no room on a disk, not even for a byte."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def take_all_names(disk: Path) -> Path:
    """Leave no room on a disk for one more file, but for bytes."""
    subprocess.run(["mount", "-o", f"remount,nr_inodes={names_used(disk) + 2}", disk], check=True)
    directory = disk / "names"
    directory.mkdir()
    with suppress(OSError):
        for number in range(10):
            (directory / str(number)).touch()
    return directory


def names_used(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_files - status.f_ffree


class TestFullDisks:
    SIZE = 6_000_000

    def save(self, experiment: replicate.Experiment, step: int) -> str:
        Path("model.bin").write_bytes(os.urandom(self.SIZE))
        return experiment.checkpoint("model.bin", {"loss": step}, step=step).id

    def is_settled(self) -> bool:
        """Whether all is stored, and the copies of it are gone or spares."""
        return not queues()[0].waiting() and not os.listdir(queues()[0].directory / "files")

    def has_spares(self) -> bool:
        return self.is_settled() and queues()[0].spare_bytes(9) >= self.SIZE

    def spool_on(self, project: Path, disk: Path) -> None:
        (project / "replicate.yaml").write_text(f"spool: {{directory: '{disk}/spool', keep_free: 0 MB}}\n")

    def test_the_spool_has_no_room_for_the_files(
        self, project: Path, storage: Storage, told: list, small_disk: Path
    ) -> None:
        self.spool_on(project, small_disk)
        experiment = begin(project)
        (small_disk / "others").write_bytes(bytes(16_000_000))
        began = time.monotonic()
        ids = [self.save(experiment, step) for step in range(3)]
        assert time.monotonic() - began < 5
        assert sum("only its metrics" in text for text in texts(told)) == 3
        (small_disk / "others").unlink()
        for step in range(3, 8):
            until(self.is_settled)  # a busy recorder may not have made room yet
            ids.append(self.save(experiment, step))
        experiment.stop()
        assert sum("only its metrics" in text for text in texts(told)) == 3
        found = stored().checkpoints
        assert [checkpoint.id for checkpoint in found] == ids
        assert [checkpoint.size_bytes for checkpoint in found] == [0] * 3 + [self.SIZE] * 5
        assert not queues()

    def test_spare_copies_are_room(self, project: Path, storage: Storage, told: list, small_disk: Path) -> None:
        """Two of them and a checkpoint are more than there is; each goes where one of them was."""
        self.spool_on(project, small_disk)
        storage.on_another_disk = True
        experiment = begin(project)
        (small_disk / "others").write_bytes(bytes(4_000_000))
        ids = []
        for step in range(8):
            ids.append(self.save(experiment, step))
            until(self.is_settled)
        experiment.stop()
        assert texts(told) == []
        assert [checkpoint.size_bytes for checkpoint in stored().checkpoints] == [self.SIZE] * 8
        assert_stored(ids)

    def test_spare_copies_go_where_others_need_the_room(
        self, project: Path, storage: Storage, told: list, small_disk: Path
    ) -> None:
        """Small files can't take their place, and neither can a line of the journal."""
        self.spool_on(project, small_disk)
        storage.on_another_disk = True
        experiment = begin(project)
        for step in range(3):
            self.save(experiment, step)
            until(self.has_spares)
        (small_disk / "more").write_bytes(bytes(11_000_000))
        Path("out").mkdir()
        for number in range(20):
            Path(f"out/{number}").write_bytes(os.urandom(200_000))
        experiment.checkpoint("out", {}, step=3)
        until(self.is_settled)
        for step in range(4, 6):
            self.save(experiment, step)
            until(self.has_spares)
        fill(small_disk / "others")
        experiment.checkpoint(None, {"loss": 1}, step=6)
        (small_disk / "others").unlink()
        experiment.stop()
        assert texts(told) == []
        assert [checkpoint.size_bytes > 0 for checkpoint in stored().checkpoints] == [True] * 6 + [False]

    def test_the_end_of_a_run_says_so_and_how_the_run_ended(
        self, project: Path, storage: Storage, told: list, small_disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Room was set aside for the last word, and for what is in the way."""
        monkeypatch.setattr(backlog, "STALLED_SECONDS", 0.5)
        self.spool_on(project, small_disk)
        experiment = begin(project)
        storage.before = gate = Gate("records/")
        ids = [experiment.checkpoint(None, {"loss": 1}, step=0).id]
        until(lambda: gate.held_up)
        fill(small_disk / "others")
        (queues()[0].directory / "room-for-state").unlink()
        fill(small_disk / "more")
        gate.open()
        began = time.monotonic()
        experiment.stop()
        assert time.monotonic() - began < 15
        assert "No space left on device" in texts(told)[-1]
        assert "`replicate sync`" in texts(told)[-1]
        (small_disk / "others").unlink()
        (small_disk / "more").unlink()
        # its recorder may be about to note that there was no room
        until(lambda: all(one.outcome == "stored" for one in replicate.Project().sync()))
        assert_stored(ids)
        assert stored().status == "finished"

    def test_all_names_of_files_are_taken(
        self, project: Path, storage: Storage, told: list, small_disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bytes are free, and yet there is no room: that is said at once, and waited for while it may help."""
        monkeypatch.setattr(backlog, "ROOM_SECONDS", 0.5)
        self.spool_on(project, small_disk)
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        ids = [self.save(experiment, 0)]
        until(lambda: gate.held_up)
        taken = take_all_names(small_disk)
        began = time.monotonic()
        ids.append(self.save(experiment, 1))
        assert time.monotonic() - began < 10
        assert [text.partition(":")[0] for text in texts(told)] == [
            "checkpoint() waits for room",
            "the files of the checkpoint of step 1 are not saved, only its metrics",
        ]
        assert all("No space left on device" in text for text in texts(told))
        shutil.rmtree(taken)
        gate.open()
        experiment.stop()
        assert_stored(ids)
        assert [checkpoint.size_bytes for checkpoint in stored().checkpoints] == [self.SIZE, 0]

    def test_the_spool_has_no_room_for_anything(
        self, project: Path, storage: Storage, told: list, small_disk: Path
    ) -> None:
        """Not even for metrics: they can't be kept, which is said; training goes on, and so does recording later."""
        self.spool_on(project, small_disk)
        experiment = begin(project)
        first = experiment.checkpoint(None, {"loss": -1}, step=0).id
        until(lambda: not queues()[0].waiting())
        fill(small_disk / "others")
        for step in range(1, 400):
            experiment.checkpoint(None, {"loss": step}, step=step)
        assert 0 < len(told) < 5
        (small_disk / "others").unlink()
        last = experiment.checkpoint(None, {"loss": 1000}, step=1000).id
        experiment.stop()
        ids = [checkpoint.id for checkpoint in stored().checkpoints]
        assert (ids[0], ids[-1]) == (first, last)
        assert stored().status == "finished"

    def test_the_spool_fills_while_something_is_being_stored(
        self, project: Path, storage: Storage, told: list, small_disk: Path
    ) -> None:
        """The recorder notes how far it is on that disk, too."""
        self.spool_on(project, small_disk)
        experiment = begin(project)
        storage.before = gate = Gate("records/")
        ids = [self.save(experiment, 0)]
        until(lambda: gate.held_up)
        fill(small_disk / "others")
        gate.open()
        time.sleep(0.5)
        (small_disk / "others").unlink()
        ids.append(self.save(experiment, 1))
        experiment.stop()
        assert texts(told) == []
        found = stored()
        assert [checkpoint.id for checkpoint in found.checkpoints] == ids
        assert [checkpoint.size_bytes for checkpoint in found.checkpoints] == [self.SIZE] * 2
        assert not queues()

    def test_the_storage_is_full(self, project: Path, storage: Storage, told: list, small_disk: Path) -> None:
        (project / "replicate.yaml").write_text(f"storage: '{small_disk}/storage'\n")
        experiment = begin(project)
        ids = [self.save(experiment, step) for step in range(6)]
        until(lambda: (state := queues()[0].state()).trouble and state.done)
        time.sleep(0.2)
        ids.append(experiment.checkpoint(None, {"loss": 6}, step=6).id)
        time.sleep(1.1)
        ids.append(experiment.checkpoint(None, {"loss": 7}, step=7).id)
        assert len(told) == 1
        assert "the disk is full" in texts(told)[0]
        assert replicate.Project().verify(deep=True).damages == ()  # nobody sees half of anything
        assert [checkpoint.id for checkpoint in experiment.checkpoints] == ids
        subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
        experiment.stop()
        found = stored().checkpoints
        assert [checkpoint.id for checkpoint in found] == ids
        assert [len(checkpoint.open().read()) for checkpoint in found[:6]] == [self.SIZE] * 6
        assert replicate.Project().verify(deep=True).damages == ()

    def test_the_storage_stays_full(self, project: Path, storage: Storage, told: list, small_disk: Path) -> None:
        (project / "replicate.yaml").write_text(f"storage: '{small_disk}/storage'\n")
        experiment = begin(project)
        ids = [self.save(experiment, step) for step in range(5)]
        began = time.monotonic()
        experiment.stop()
        assert time.monotonic() - began < 10
        assert "the disk is full" in texts(told)[-1]
        assert "`replicate sync`" in texts(told)[-1]
        subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
        assert [one.outcome for one in replicate.Project().sync()] == ["stored"]
        assert [checkpoint.id for checkpoint in stored().checkpoints] == ids
        assert stored().status == "finished"


class TestNoRoomForAJob:
    """Not even for a line in the journal."""

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Whether it is so."""
        found, plain = [False], upload_queue.Queue.append

        def append(self: upload_queue.Queue, *arguments: object, **options: float) -> None:
            if found[0]:
                raise OSError(28, "No space left on device")
            plain(self, *arguments, **options)

        monkeypatch.setattr(upload_queue.Queue, "append", append)
        return found

    def test_loses_checkpoints_with_one_warning_each_time(
        self, project: Path, storage: Storage, told: list, full: list[bool]
    ) -> None:
        experiment = begin(project)
        ids = []
        for step in range(12):
            full[0] = step % 6 >= 3
            made = save(experiment, step)
            ids += [] if full[0] else [made]
        assert [text.partition(":")[0] for text in texts(told)] == [
            f"the checkpoint of step {step} is lost, and so are those that follow until there is room"
            for step in (3, 9)
        ]
        assert told[0].filename == __file__
        full[0] = False
        experiment.stop()
        assert_stored_once(storage, ids)
        assert [checkpoint.step for checkpoint in stored().checkpoints] == [0, 1, 2, 6, 7, 8]

    def test_leaves_no_copies(self, project: Path, storage: Storage, told: list, full: list[bool]) -> None:
        experiment = begin(project)
        until(lambda: not queues()[0].waiting())
        full[0] = True
        save(experiment, 0)
        assert list((queues()[0].directory / "files").iterdir()) == []
        full[0] = False
        experiment.stop()

    def test_is_raised_where_the_user_is_strict(
        self, project: Path, storage: Storage, told: list, full: list[bool]
    ) -> None:
        experiment = begin(project, strict=True)
        full[0] = True
        with pytest.raises(replicate.StorageFailed, match="No space left on device"):
            experiment.checkpoint(None, {"loss": 1})
        full[0] = False
        made = experiment.checkpoint(None, {"loss": 2}).id
        experiment.stop()
        assert [checkpoint.id for checkpoint in stored().checkpoints] == [made]
        assert texts(told) == []

    def test_for_the_last_word_counts_as_killed(
        self, project: Path, storage: Storage, told: list, full: list[bool]
    ) -> None:
        experiment = begin(project)
        ids = [save(experiment, 0)]
        full[0] = True
        experiment.stop()
        assert_stored_once(storage, ids)
        assert stored().status == "killed"


class TestCopying:
    def test_that_finds_no_room_is_tried_again_while_others_wait(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        ids = [save(experiment, 0)]
        until(lambda: gate.held_up)
        plain, left = upload_queue.Queue.stage, [2]

        def stage(self: upload_queue.Queue, tree: object) -> object:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(28, "No space left on device")
            gate.open()
            return plain(self, tree)

        monkeypatch.setattr(upload_queue.Queue, "stage", stage)
        ids.append(save(experiment, 1))
        experiment.stop()
        assert_stored_once(storage, ids)
        (text,) = texts(told)
        assert text.startswith("checkpoint() waits for room: can't copy what is to be saved")
        assert "No space left on device. Make room there" in text

    def test_of_what_vanishes_meanwhile_is_an_error(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = begin(project)
        plain = upload_queue.Queue.stage

        def stage(self: upload_queue.Queue, tree: object) -> object:
            Path("model.bin").unlink()
            return plain(self, tree)

        with monkeypatch.context() as patch:
            patch.setattr(upload_queue.Queue, "stage", stage)
            with pytest.raises(replicate.InvalidInput, match=r"model\.bin vanished while it was copied"):
                save(experiment, 0)
        assert list((queues()[0].directory / "files").iterdir()) == []
        ids = [save(experiment, 1)]
        experiment.stop()
        assert_stored_once(storage, ids)


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
        assert "in the background, as far as that can be: it can't be written: Read-only file system" in text
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
        with pytest.raises(replicate.InvalidInput, match="starts from the working directory, which is gone"):
            experiment.checkpoint("model.bin", {})
        monkeypatch.chdir(project)
        experiment.stop()
        assert_stored([made.id])
        assert stored().checkpoints[0].open().read() == content(0, 0)


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


class TestSignsOfLife:
    def test_they_are_given_until_the_end(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeats, "INTERVAL", heartbeats.INTERVAL / 300)
        directory = project / ".replicate" / "storage" / "heartbeats"
        experiment = begin(project)
        until(lambda: sum(key.startswith("heartbeats/") for key in storage.written) >= 3)
        assert [path.stem for path in directory.iterdir()] == [experiment.id]
        experiment.refresh()
        assert experiment.heartbeat is not None
        experiment.stop()
        assert list(directory.iterdir()) == []

    def test_they_are_given_while_something_large_is_stored(
        self, project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeats, "INTERVAL", heartbeats.INTERVAL / 300)
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        save(experiment, 0)
        until(lambda: gate.held_up)
        count = sum(key.startswith("heartbeats/") for key in storage.written)
        until(lambda: sum(key.startswith("heartbeats/") for key in storage.written) >= count + 3)
        gate.open()
        experiment.stop()


class TestReading:
    def test_a_process_reads_its_own_writes(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = gate = Gate()
        ids = [save(experiment, step) for step in range(4)]
        assert [checkpoint.id for checkpoint in experiment.checkpoints] == ids
        assert experiment.waiting == 4
        assert experiment.best().open().read() == content(3, 0)
        assert replicate.experiments.get(experiment.id).status == "running"
        gate.open()
        experiment.stop()
        assert_stored_once(storage, ids)

    def test_a_checkout_waits_until_it_is_stored(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        storage.before = gate = Gate()
        checkpoint = replicate.experiments.get(save(experiment, 3)[:0] or experiment.id).latest()
        threading.Timer(0.3, gate.open).start()
        checkpoint.checkout(project.parent / "out")
        assert (project.parent / "out" / "model.bin").read_bytes() == content(3, 0)
        experiment.stop()


class TestThreads:
    def test_many_threads_save_at_once(self, project: Path, storage: Storage, told: list) -> None:
        experiment = begin(project)
        ids: list[str] = []

        def train(number: int) -> None:
            path = project / f"model{number}.bin"
            for step in range(20):
                path.write_bytes(b"%d %d" % (number, step) * 1000)
                ids.append(experiment.checkpoint(path, {"loss": step}, step=step).id)
                ids.append(experiment.checkpoint(None, {"loss": step}, step=step).id)

        threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        experiment.stop()
        found = stored().checkpoints
        assert sorted(checkpoint.id for checkpoint in found) == sorted(ids)
        assert len(ids) == 160
        for checkpoint in found:
            if checkpoint.path is not None:
                number = checkpoint.path.removeprefix("model").removesuffix(".bin")
                assert checkpoint.open().read() == b"%d %d" % (int(number), checkpoint.step) * 1000
        assert texts(told) == []


def test_the_end_shows_what_it_waits_for(
    project: Path, storage: Storage, told: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[notices.Waiting] = []
    closed: list[bool] = []

    class Watcher:
        def show(self, waiting: notices.Waiting) -> None:
            shown.append(waiting)
            gate.open()  # nothing is stored before it was shown what there is

        def close(self, left: object) -> None:
            closed.append(True)

    monkeypatch.setattr(notices.notifier(), "upload_display", Watcher)
    experiment = begin(project)
    storage.before = gate = Gate("data/")
    for step in range(3):
        save(experiment, step)
    until(lambda: gate.held_up)
    experiment.stop()
    assert shown[0] == notices.Waiting(4, 3000, None)
    assert closed == [True]


def test_the_disk_that_holds_both_is_left_clean(project: Path, storage: Storage, told: list) -> None:
    with begin(project) as experiment:
        save(experiment, 0)
    left = [
        name for name in os.listdir(project / ".replicate") if name != leftovers.NAME
    ]  # what it has made stays known
    assert sorted(left) in (["storage"], [".gitignore", "spool", "storage"])
    assert not queues()
    remove(project / ".replicate")


class TestTheEndOfATraining:
    """`end_training`: nothing waits that need not, and nothing is lost by it."""

    @pytest.fixture
    def gate(self, storage: Storage) -> Iterator[Gate]:
        found = Gate()
        yield found
        found.open()

    def test_does_not_wait_where_the_spool_is_on_the_disk_of_the_storage(
        self, project: Path, storage: Storage, gate: Gate
    ) -> None:
        experiment = begin(project)
        save(experiment, 0)
        storage.before = gate
        experiment.end_training(None)
        assert queues()  # what is left is safe here
        gate.open()
        experiment.stop()
        assert not queues()

    def test_is_caught_up_with_by_who_reads_in_the_same_process(self, project: Path, storage: Storage) -> None:
        experiment = begin(project)
        identifier = save(experiment, 0)
        experiment.end_training(None)
        found = replicate.experiments.get(experiment.id)
        assert (found.status, [item.id for item in found.checkpoints]) == ("finished", [identifier])
        assert all(item.is_stored for item in found.checkpoints)
        assert not queues()

    def test_waits_where_the_storage_is_elsewhere(
        self, project: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "local_root", lambda *_, **__: None)
        experiment = begin(project)
        save(experiment, 0)
        experiment.end_training(None)
        assert not queues()

    def test_waits_where_the_user_is_strict(self, project: Path, storage: Storage) -> None:
        experiment = begin(project, strict=True)
        save(experiment, 0)
        experiment.end_training(None)
        assert not queues()

    def test_all_is_stored_when_the_process_has_ended(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REPLICATE_RECORDER", raising=False)
        Path("model.bin").write_bytes(bytes(range(256)) * 4096)
        program = (
            "import replicate_core as replicate; experiment = replicate.init(path=None); "
            "experiment.checkpoint('model.bin', {'loss': 1.0}); "
            "experiment.end_training(ValueError('nan')); print(experiment.id)"
        )
        identifier = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
        assert not queues()
        found = replicate.experiments.get(identifier)
        assert (found.status, len(found.checkpoints)) == ("failed", 1)
