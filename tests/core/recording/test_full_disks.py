"""Disks without room: what is lost is told each time, and nothing else is."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kit import texts, until
from misbehaving import Gate, Storage
from stored_checkpoints import assert_stored, assert_stored_once, begin, queues, save, stored

import replicate_core as replicate
from replicate_core.recording import backlog
from replicate_core.spool import upload_queue


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
        assert told[0].filename == save.__code__.co_filename
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
