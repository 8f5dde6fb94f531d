"""Going on with a run: from which checkpoint, with which history and code, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from interrupted_runs import flip, killed, kinds, ran, save, seen, start, stored
from kit import steps, text_of, until
from misbehaving import Storage, fails
from stores import manifest_key, manifest_of

from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.format.records import Ended, Resumed
from replicate_core.recording import notices, recording
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import sync
from replicate_core.storage.local import LocalStore

pytestmark = pytest.mark.usefixtures("few_packages")


class TestFromWhichCheckpoint:
    def test_the_newest_one_with_its_files(self, project: Path) -> None:
        ran(3)
        assert text_of(start().resumed_from) == "weights of step 2"

    def test_those_without_files_are_passed_over_and_set_aside(self, project: Path) -> None:
        first = start()
        save(first, 0)
        for step in (1, 2):
            first.checkpoint(None, {"loss": 1}, step=step)
        killed(first)
        second = start()
        assert second.resumed_from.step == 0
        assert steps(second) == steps(seen(first.id)) == [0]

    def test_a_run_without_files_begins_at_its_beginning(self, project: Path) -> None:
        first = start()
        first.checkpoint(None, {"loss": 1}, step=5)
        killed(first)
        second = start()
        assert (second.id, second.resumed_from) == (first.id, None)
        assert second.checkpoint(None, {}).step == 0
        second.stop()
        assert steps(seen(first.id)) == [0]
        assert seen(first.id).resumed_from is None

    def test_so_does_one_that_was_killed_before_its_first_checkpoint(self, project: Path) -> None:
        first = ran(0)
        second = start()
        assert (second.id, second.resumed_from) == (first.id, None)

    @pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "no manifest"])
    def test_of_a_damaged_one_a_warning_tells_and_the_one_before_is_taken(self, project: Path, harm: str) -> None:
        first = ran(3)
        killed(start())
        newest = stored(first.id, 2)
        (path,) = (Path(".replicate/storage", key) for key in manifest_of(newest).object_bytes)
        if harm == "flipped":
            flip(newest)
        elif harm == "cut":
            path.chmod(0o644)
            os.truncate(path, 3)
        elif harm == "missing":
            path.unlink()
        else:
            Path(".replicate/storage", manifest_key(newest)).unlink()
        with pytest.warns(UserWarning, match=rf"{newest.short_id} \(step 2\) can't be resumed from") as told:
            second = start()
        assert len(told) == 1
        assert told[0].filename == start.__code__.co_filename, "the line that called init()"
        assert second.resumed_from.step == 1
        assert text_of(second.resumed_from) == "weights of step 1"
        assert steps(second) == [0, 1]
        save(second)
        second.stop()
        assert steps(seen(first.id)) == [0, 1, 2]
        assert text_of(stored(first.id, 2)) == "weights of step None", "the new one"

    def test_a_part_of_a_directory_is_enough_to_damage_it(self, project: Path) -> None:
        first = start()
        Path("model").mkdir()
        for step in range(2):
            for name in "abc":
                Path("model", name).write_bytes(os.urandom(50_000))
            first.checkpoint("model", {}, step=step)
        killed(first)
        killed(start())
        flip(stored(first.id, 1))
        with pytest.warns(UserWarning, match=r"\(step 1\) can't be resumed from"):
            assert start().resumed_from.step == 0

    def test_if_all_are_damaged_it_begins_at_its_beginning(self, project: Path) -> None:
        first = ran(2)
        killed(start())
        for checkpoint in seen(first.id).checkpoints:
            flip(checkpoint)
        with pytest.warns(UserWarning, match="can't be resumed from") as told:
            second = start()
        assert len(told) == 2
        assert (second.id, second.resumed_from, steps(second)) == (first.id, None, [])
        assert save(second).step == 0
        second.stop()
        assert steps(seen(first.id)) == [0]

    def test_a_storage_that_fails_is_no_damage(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the newest checkpoint would be set aside because the network was down for a moment."""
        first = ran(2)
        killed(start())
        whole = LocalStore.get

        def get(self: LocalStore, key: str, start: int = 0, end: int | None = None) -> bytes:
            if key.startswith("data/"):
                raise StorageFailed("the network is down")
            return whole(self, key, start, end)

        before = kinds(Resumed)
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "get", get)
            with pytest.raises(StorageFailed, match="the network is down"):
                start()
        assert kinds(Resumed) == before
        assert steps(seen(first.id)) == [0, 1]


class TestHistory:
    def test_has_no_double_steps_however_often_it_was_killed(self, project: Path) -> None:
        first = start()
        save(first, 0)
        for begin in (1, 3, 5):
            for step in (begin, begin + 1):
                save(first, step)
            for step in range(begin + 2, begin + 5):  # these are done again
                first.checkpoint(None, {"loss": -step}, step=step)
            killed(first)
            first = start()
            assert first.resumed_from.step == begin + 1
        assert steps(first) == list(range(7))
        assert [item.metrics["loss"] for item in seen(first.id).checkpoints] == [1 / (step + 1) for step in range(7)]
        assert len({record.created for record in kinds(Resumed)}) == 3

    def test_steps_are_counted_on(self, project: Path) -> None:
        ran(3)
        second = start()
        assert [save(second).step, second.checkpoint(None, {}).step, save(second).step] == [3, 4, 5]

    def test_the_experiment_is_the_one_that_began(self, project: Path) -> None:
        first = ran(1, tags=["old"], notes="old")
        second = start(resume=first.id, tags=["new"], notes="new", params={"lr": 0.2})
        assert (second.created, second.params) == (seen(first.id).created, {"lr": 0.1})
        assert second.checkpoints[0].id == second.resumed_from.id
        assert second.resumed_from.is_stored

    def test_everybody_sees_what_it_goes_on_from(self, project: Path) -> None:
        first = ran(2)
        second = start()
        save(second)
        second.stop()
        assert seen(first.id).resumed_from.id == second.resumed_from.id == seen(first.id).checkpoints[1].id

    def test_the_end_of_the_run_before_is_known_as_a_kill(self, project: Path) -> None:
        first = ran(1)
        second = start()
        assert [record.status for record in kinds(Ended)] == ["killed"]
        assert seen(first.id).status == "running"
        killed(second)
        sync(Spool(Path.cwd()))
        assert seen(first.id).status == "killed"

    def test_best_looks_at_all_of_it(self, project: Path) -> None:
        first = start()
        for step, loss in enumerate([3, 1, 2]):
            Path("model.txt").write_text(str(loss))
            first.checkpoint("model.txt", {"loss": loss}, primary_metric=("loss", "minimize"), step=step)
        killed(first)
        second = start()
        second.checkpoint(None, {"loss": 2.5}, primary_metric=("loss", "minimize"))
        assert second.best().step == 1


class TestCode:
    def test_a_checkpoint_comes_back_with_the_code_that_made_it(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = start()
        save(first, 0)
        save(first, 1)
        killed(first)
        Path("train.py").write_text("new")
        Path("added.py").write_text("added")
        second = start()
        save(second)
        second.stop()
        Path("train.py").write_text("newest")
        third = start(resume=first.id)
        before_any = third.checkpoints[-1]
        save(third)
        third.stop()

        for step, wanted in enumerate([("old", None), ("old", None), ("new", "added"), ("newest", "added")]):
            checkpoint = stored(first.id, step)
            there = tmp_path / f"out-{step}"
            checkpoint.checkout(there)
            assert (there / "train.py").read_text() == wanted[0]
            assert (there / "added.py").exists() is (wanted[1] is not None)
            assert (there / "model.txt").exists()
        before_any.checkout(tmp_path / "again")
        assert (tmp_path / "again/train.py").read_text() == "new"

    def test_without_checkpoints_the_code_is_the_one_it_goes_on_with(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = ran(0)
        Path("train.py").write_text("new")
        start().stop()
        seen(first.id).checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "new"

    def test_of_no_code_the_last_one_stays(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = ran(1)
        second = start(path=None)
        save(second)
        second.stop()
        stored(first.id, 1).checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "old"

    def test_a_run_that_saved_no_code_may_save_it_later(self, project: Path, tmp_path: Path) -> None:
        first = ran(1, path=None)
        Path("train.py").write_text("new")
        second = start()
        save(second)
        second.stop()
        stored(first.id, 0).checkout(tmp_path / "zero")
        stored(first.id, 1).checkout(tmp_path / "one")
        assert sorted(path.name for path in (tmp_path / "zero").iterdir()) == ["model.txt"]
        assert (tmp_path / "one/train.py").read_text() == "new"

    def test_while_it_waits_the_files_are_already_there(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkout waits until the code is stored, so it never comes with the code of the run before."""
        Path("train.py").write_text("old")
        first = ran(1)
        Path("train.py").write_text("new")
        monkeypatch.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
        second = start()
        made = save(second)
        assert kinds(Resumed) == []
        assert made.files == {"model.txt": len("weights of step None")}
        seen(first.id).checkpoints[-1].checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "new"

    def test_what_cannot_be_saved_sets_nothing_aside(self, project: Path) -> None:
        first = ran(2)
        wanted = first.checkpoints[0].id
        with pytest.raises(InvalidInput, match="does not exist"):
            start(resume=wanted, path="missing")
        assert steps(seen(first.id)) == [0, 1]
        assert Spool(Path.cwd()).queues() == []


class TestWhatIsSaid:
    def test_what_is_gone_on_with_and_why(
        self, project: Path, said: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        first = ran(2)
        assert said == []
        newest = first.checkpoints[1]
        killed(start())
        killed(start(resume=first.id))
        killed(start(resume=newest.id))
        about = f"resuming the experiment {first.short_id} from its checkpoint {newest.short_id} (step 1), because "
        assert said == [
            about + "it has the same name, 'digits'",
            about + "its id was given",
            about + "its checkpoint was given",
        ]
        assert capfd.readouterr() == ("", ""), "the core is silent"

    def test_which_params_are_others_now(self, project: Path, said: list[str]) -> None:
        first = killed(start(params={"lr": 0.1, "model": {"layers": 2}, "seed": 1}))
        killed(start(resume=first.id, params={"lr": 0.2, "model": {"layers": 2}, "name": "x" * 40}))
        killed(start(resume=first.id, params={}))
        assert said[0].partition(", because ")[2] == (
            "its id was given. Its params stay as they were recorded, though this run has others: "
            f'lr 0.1 → 0.2, seed 1 → nothing, name nothing → "{"x" * 28}…'
        )
        assert said[1].endswith("its id was given")

    def test_how_many_later_checkpoints_are_set_aside(self, project: Path, said: list[str]) -> None:
        with start() as first:
            save(first, 18)
            first.checkpoint(None, {"loss": 1}, step=19)
        second = start(resume=first.id)
        assert said.pop().endswith(
            "(step 18), because its id was given; 1 later checkpoint (step 19), which has no files, is set aside"
        )
        for step in (19, 20):
            second.checkpoint(None, {"loss": 1}, step=step)
        killed(second)
        third = start()
        assert said.pop().endswith("; 2 later checkpoints (steps 19 to 20), which have no files, are set aside")
        save(third, 19), save(third, 20)
        killed(third)
        killed(start(resume=third.checkpoints[0].id))
        assert said.pop().endswith("its checkpoint was given; 2 later checkpoints (steps 19 to 20) are set aside")

    def test_at_its_beginning_all_of_them_are(self, project: Path, said: list[str]) -> None:
        first = start()
        first.checkpoint(None, {"loss": 1}, step=5)
        killed(first)
        killed(start())
        assert said[-1].endswith("; 1 checkpoint (step 5), which has no files, is set aside")

    def test_that_there_was_nothing_to_go_on_from(self, project: Path, said: list[str]) -> None:
        first = ran(0, name=None)
        killed(start(None))
        (line,) = said
        assert line == (
            f"resuming the experiment {first.short_id} at its beginning: no checkpoint of it has files to resume "
            "from, because it has the same params and command"
        )

    def test_the_face_prints_it(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from replicate.progress import say

        monkeypatch.setattr(notices.notifier(), "inform", say)
        first = ran(1)
        killed(start())
        newest = seen(first.id).checkpoints[0].short_id
        assert capsys.readouterr().err == (
            f"replicate: resuming the experiment {first.short_id} from its checkpoint {newest} (step 0), because "
            "it has the same name, 'digits'\n"
        )
        (project / "replicate.yaml").write_text("quiet: true\n")
        killed(start())
        assert capsys.readouterr().err == ""


class TestOtherWays:
    def test_a_storage_in_memory(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("storage: memory://resuming\n")
        first = start()
        save(first, 0)
        killed(first)
        second = start()
        assert text_of(second.resumed_from) == "weights of step 0"
        save(second)
        second.stop()
        assert steps(seen(first.id)) == [0, 1]

    def test_strict_goes_on_being_strict(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran(1)
        storage = Storage()
        storage.install(monkeypatch)
        second = start(strict=True)
        assert second.resumed_from.step == 0
        storage.before = fails(permanent=True)
        save(second)
        until(lambda: second._recorded._queue.state().trouble is not None)
        with pytest.raises(StorageFailed, match="the network is down"):
            save(second)
        storage.before = fails(0)
        killed(second)
        for one in storage.recorders:
            one.thread.join(10)

    def test_a_storage_that_can_not_be_written_sets_nothing_aside(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ran(2)
        killed(start())
        wanted = seen(first.id).checkpoints[0].id
        sync(Spool(Path.cwd()))
        before = len(kinds(Resumed))

        def full(*_: object) -> None:
            raise StorageFailed("the disk is full", permanent=True)

        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "put", full)
            with pytest.raises(StorageFailed, match="the disk is full"):
                start(resume=wanted)
        assert Spool(Path.cwd()).queues() == []
        assert len(kinds(Resumed)) == before
        assert steps(seen(first.id)) == [0, 1]

    def test_ranks_other_than_0_go_on_from_the_same_and_record_nothing(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        first = ran(3)
        zero = start()
        before = [path for path in Path(".replicate").rglob("*") if "heartbeats" not in path.parts]
        for rank in (1, 2):
            monkeypatch.setenv("RANK", str(rank))
            other = start()
            assert (other.id, other.resumed_from.id) == (first.id, zero.resumed_from.id)
            assert text_of(other.resumed_from) == "weights of step 2"
            save(other)
            other.stop()
        assert [path for path in Path(".replicate").rglob("*") if "heartbeats" not in path.parts] == before
        assert zero.is_running()

    def test_a_rank_that_comes_first_gets_the_same_too(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran(3)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        other = start()
        monkeypatch.setenv("RANK", "0")
        zero = start()
        assert other.resumed_from.id == zero.resumed_from.id
        assert len(kinds(Resumed)) == 1

    def test_a_rank_that_comes_late_gets_the_same_too(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        ran(2)
        zero = start()
        save(zero)
        monkeypatch.setenv("RANK", "1")
        assert start().resumed_from.id == zero.resumed_from.id

    def test_a_rank_that_comes_while_the_first_one_begins_gets_the_same_too(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        ran(3)
        launch, others = recording.launch, []

        def meanwhile(*arguments: object) -> object:
            monkeypatch.setattr(recording, "launch", launch)
            monkeypatch.setenv("RANK", "1")
            others.append(start())
            monkeypatch.delenv("RANK")
            return launch(*arguments)

        monkeypatch.setattr(recording, "launch", meanwhile)
        zero = start()
        (other,) = others
        assert other.resumed_from is not None
        assert other.resumed_from.id == zero.resumed_from.id
