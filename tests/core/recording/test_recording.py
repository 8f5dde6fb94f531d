"""Recording while all is well: many metrics in few records, signs of life, reading meanwhile, and the end."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import texts, until
from misbehaving import Gate, Storage, fails, remove
from stored_checkpoints import assert_stored_once, begin, content, queues, save, stored

import replicate_core as replicate
from replicate_core.recording import notices, recording
from replicate_core.repository import heartbeats
from replicate_core.spool import leftovers, recorder


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
