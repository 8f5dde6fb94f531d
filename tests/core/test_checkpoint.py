"""What a checkpoint hands out: its own files, those of its project, and never the one for the other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from projects import only

import replicate_core as replicate
from replicate_core.storage.local import LocalStore

PRIMARY = ("loss", "minimize")


def test_code_is_not_hidden_by_a_checkpoint_that_could_not_save_a_file_of_its_path(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "table.bin").write_bytes(b"as it was at first")
    experiment = replicate.init({})

    def refuse(*_: object) -> None:
        raise replicate.StorageFailed("the file is being written all the time", permanent=True)

    with monkeypatch.context() as patched:
        patched.setattr("replicate_core.recording.backlog.Backlog.stage_with_room", refuse)
        with pytest.warns(UserWarning, match="are not saved, only its metrics"):
            checkpoint = experiment.checkpoint("table.bin", {"loss": 1}, step=9)
    experiment.stop()
    with checkpoint.open("table.bin") as file:
        assert file.read() == b"as it was at first"
    experiment.checkout("../back", what="code")
    assert (project / "../back/table.bin").read_bytes() == b"as it was at first"


def save(experiment: replicate.Experiment, text: str, loss: float, path: str = "model.txt") -> replicate.Checkpoint:
    Path(path).write_text(text)
    return experiment.checkpoint(path, {"loss": loss}, PRIMARY)


@pytest.fixture
def often_measured(project: Path) -> replicate.Experiment:
    """Metrics of every step and weights of every fifth, in a project where the weights of an earlier run lie about."""
    (project / "train.py").write_text("code\n")
    (project / "model.txt").write_text("of an earlier run")
    with replicate.init({}) as experiment:
        for step in range(13):
            if step % 5 == 4:
                save(experiment, f"weights of step {step}", 10 + abs(step - 5))
            else:
                experiment.checkpoint(None, {"loss": abs(step - 7)}, PRIMARY)
    return only()


class TestWhichOneIsMeant:
    def test_best_and_latest_have_files(self, often_measured: replicate.Experiment) -> None:
        best, latest = often_measured.best(), often_measured.latest()
        assert (best.step, latest.step, often_measured.best_or_latest().id) == (4, 9, best.id)
        assert best.open().read() == b"weights of step 4"
        assert latest.open().read() == b"weights of step 9"

    def test_the_best_and_the_last_of_all_are_there_for_who_asks(self, often_measured: replicate.Experiment) -> None:
        assert often_measured.best(with_files=False).step == 7
        assert often_measured.latest(with_files=False).step == 12
        assert often_measured.better_without_files().step == 7
        assert often_measured.later_without_files().step == 12

    def test_there_is_no_other_where_the_best_has_files(self, project: Path) -> None:
        with replicate.init({}) as experiment:
            save(experiment, "weights", 1.0)
            experiment.checkpoint(None, {"loss": 2.0}, PRIMARY)
            save(experiment, "weights", 1.5)
        assert (only().better_without_files(), only().later_without_files()) == (None, None)

    def test_what_keep_keeps_is_what_best_says(self, project: Path) -> None:
        with replicate.init({}, path=None) as experiment:
            experiment.keep(best=1, last=1)
            for step in range(12):
                if step % 4 == 3:
                    save(experiment, f"weights of step {step}", 10 + abs(step - 3))
                else:
                    experiment.checkpoint(None, {"loss": step}, PRIMARY)
        read = only()
        assert [item.step for item in read.checkpoints if item.has_files] == [3, 11]
        assert (read.best().step, read.latest().step) == (3, 11)
        assert read.best().open().read() == b"weights of step 3"

    def test_what_waits_on_this_machine_has_files(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: object) -> None:
            raise replicate.StorageFailed("the network is down")

        experiment = replicate.init({}, path=None)
        experiment.checkpoint(None, {"loss": 0.5}, PRIMARY)
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "put_file", down)
            patched.setattr(LocalStore, "put", down)
            with pytest.warns(UserWarning, match="waits in"):
                made = save(experiment, "weights", 1.0)
            assert made.has_files
            assert only().best().id == only().latest().id == made.id
            assert not only().best().is_stored
            with only().best().open() as file:
                assert file.read() == b"weights"
        experiment.stop()
        assert only().best().id == made.id

    def test_a_notebook_shows_which_have_files_and_the_best_of_all(self, often_measured: replicate.Experiment) -> None:
        html = often_measured._repr_html_()
        assert html.count("17 B") == 2
        assert (
            f"the best recorded checkpoint has no files: {often_measured.better_without_files().short_id} (step 7)"
            in html
        )
        (row,) = re.findall(rf"<tr[^>]*>(?:(?!</tr>).)*{often_measured.best().short_id}.*?</tr>", html, re.DOTALL)
        assert "17 B" in row
        assert "best" in row

    def test_filters_sorts_and_comparisons_mean_the_same_one(self, often_measured: replicate.Experiment) -> None:
        assert replicate.experiments.list("loss = 11")
        assert not replicate.experiments.list("loss = 0")
        assert replicate.experiments.list("step = 12"), "how far it came"
        best = often_measured.best()
        comparison = replicate.experiments.compare(often_measured.id, best.id)
        assert comparison.before.checkpoint.id == comparison.after.checkpoint.id == best.id


class TestCheckout:
    def test_of_an_experiment_gives_weights_and_not_what_lay_about(
        self, often_measured: replicate.Experiment, tmp_path: Path
    ) -> None:
        often_measured.checkout(tmp_path / "out")
        assert (tmp_path / "out/model.txt").read_text() == "weights of step 4"

    @pytest.mark.parametrize(
        ("step", "nearest"), [(6, [4, 9]), (0, [4]), (12, [9])], ids=["between", "before all", "after all"]
    )
    def test_of_what_has_no_files_is_an_error_that_names_the_nearest_that_have(
        self, often_measured: replicate.Experiment, tmp_path: Path, step: int, nearest: list[int]
    ) -> None:
        made = {item.step: item for item in often_measured.checkpoints}
        named = " and ".join(f"{made[one].short_id} (step {one})" for one in nearest)
        with pytest.raises(replicate.NotFound, match=re.escape(f"The nearest with files: {named}. ")) as caught:
            made[step].checkout(tmp_path / "out")
        assert f"{made[step].short_id} (step {step}) has no files" in str(caught.value)
        assert "--code-only" in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_of_a_path_of_it_is_none_of_the_code(self, often_measured: replicate.Experiment, tmp_path: Path) -> None:
        for path in ("model.txt", "train.py"):
            with pytest.raises(replicate.NotFound, match="The nearest with files"):
                often_measured.checkpoints[0].checkout(tmp_path / "out", path=path)

    def test_gives_the_code_where_that_is_said_to_be_wanted(
        self, often_measured: replicate.Experiment, tmp_path: Path
    ) -> None:
        with pytest.warns(UserWarning, match="left out of the code.*model.txt"):
            often_measured.checkpoints[0].checkout(tmp_path / "out", what="code")
        assert (tmp_path / "out/train.py").read_text() == "code\n"

    def test_of_an_experiment_that_has_no_files_anywhere_is_an_error(self, project: Path, tmp_path: Path) -> None:
        (project / "train.py").write_text("code\n")
        with replicate.init({}) as experiment:
            experiment.checkpoint(None, {"loss": 1.0}, PRIMARY)
        with pytest.raises(replicate.NotFound, match=r"No checkpoint of the experiment .* has files\. .*--code-only"):
            only().checkout(tmp_path / "out")
        only().checkout(tmp_path / "out", what="code")
        assert (tmp_path / "out/train.py").read_text() == "code\n"

    def test_names_what_it_leaves_out_of_the_code_because_other_checkpoints_saved_it(
        self, project: Path, tmp_path: Path
    ) -> None:
        for path in ("train.py", "best.txt", "last.txt"):
            (project / path).write_text("of an earlier run")
        with replicate.init({}) as experiment:
            save(experiment, "best", 1.0, "best.txt")
            save(experiment, "last", 2.0, "last.txt")
        with pytest.warns(UserWarning, match=r"left out of the code, because checkpoints saved them: 'best.txt'$"):
            only().latest().checkout(tmp_path / "out")
        assert sorted(os.listdir(tmp_path / "out")) == ["last.txt", "train.py"]
        assert (tmp_path / "out/last.txt").read_text() == "last"

    def test_views_of_the_code_agree_on_what_lay_where_checkpoints_saved_something(
        self, project: Path, tmp_path: Path
    ) -> None:
        (project / "train.py").write_text("code")
        (project / "model.txt").write_text("leftover")
        lay_about = tmp_path / "leftover"
        lay_about.write_text("leftover")
        with replicate.init({}) as experiment:
            experiment.checkpoint(None, {"loss": 2.0})
            save(experiment, "weights", 1.0, "model.txt")
        for made in (only(), *only().checkpoints):
            with pytest.warns(UserWarning, match=r"because checkpoints saved them: 'model.txt'$"):
                assert set(made.layout(what="code").files) == {"train.py"}
        assert [set(made.project_files) for made in only().checkpoints] == [{"train.py"}] * 2
        assert replicate.Project().whence(lay_about) == []

    @pytest.mark.parametrize("path", [".", "train.py"])
    def test_source_that_checkpoints_saved_stays_code(self, project: Path, path: str) -> None:
        (project / "train.py").write_text("code")
        with replicate.init({}) as experiment:
            experiment.checkpoint(path, {"loss": 1.0})
        assert set(only().layout(what="code").files) == set(only().latest().project_files) == {"train.py"}


class TestOpen:
    def test_a_file_of_the_project_opens_through_it(self, often_measured: replicate.Experiment) -> None:
        for checkpoint in (often_measured.best(), often_measured.checkpoints[0]):
            with checkpoint.open("train.py") as file:
                assert file.read() == b"code\n"
            assert checkpoint.project_files == {"train.py": 5}
        assert often_measured.best().files == {"model.txt": 17}, "its own alone"

    def test_its_own_file_comes_first(self, project: Path) -> None:
        (project / "train.py").write_text("as it began")
        with replicate.init({}) as experiment:
            save(experiment, "as it was saved", 1.0, "train.py")
        assert only().best().open("train.py").read() == b"as it was saved"

    def test_what_lay_about_is_never_opened_as_if_it_had_been_saved(self, often_measured: replicate.Experiment) -> None:
        made = {item.step: item for item in often_measured.checkpoints}
        named = f"{made[4].short_id} (step 4) and {made[9].short_id} (step 9)"
        with pytest.raises(
            replicate.NotFound, match=re.escape(f"no file 'model.txt': the checkpoint {made[6].short_id}")
        ):
            made[6].open("model.txt")
        with pytest.raises(replicate.NotFound, match=re.escape(named)):
            made[6].open()

    def test_what_is_in_neither_is_not_found_and_near_names_are_told(
        self, often_measured: replicate.Experiment
    ) -> None:
        with pytest.raises(replicate.NotFound, match=r"no file 'tran.py'; it has 'model.txt'.*similar is 'train.py'"):
            often_measured.best().open("tran.py")
        with pytest.raises(replicate.NotFound, match=r"similar is 'model.txt'"):
            often_measured.best().open("model.tx")

    def test_it_is_the_code_of_the_session_that_made_it(self, project: Path) -> None:
        made: list[replicate.Checkpoint] = []
        for text in ("old", "new"):
            (project / "train.py").write_text(text)
            with replicate.init({}, name="run", resume=made[0].id if made else None) as experiment:
                made.append(save(experiment, text, 1.0))
        assert [item.open("train.py").read() for item in only().checkpoints] == [b"old", b"new"]

    def test_also_before_it_is_stored(self, project: Path) -> None:
        (project / "train.py").write_text("code")
        made = save(replicate.init({}), "weights", 1.0)
        assert made.open("train.py").read() == b"code"
