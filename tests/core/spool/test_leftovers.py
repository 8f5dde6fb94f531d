"""What runs have left in a project is not code of a later run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.recording import notices
from replicate_core.spool import leftovers
from replicate_core.spool.leftovers import LARGE_BYTES, NAME, Maker, made, note_digests, note_paths, read, version

LIMIT = 100 * 10**6


def run(train: Callable[[replicate.Experiment], object] = lambda _: None, **facts: object) -> replicate.Experiment:
    experiment = replicate.init({}, **facts)
    train(experiment)
    experiment.stop()
    return experiment


def code() -> set[str]:
    return set(replicate.Project().preview().files)


def saves(path: str, text: str = "weights") -> Callable[[replicate.Experiment], object]:
    def train(experiment: replicate.Experiment) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
        experiment.checkpoint(path, {"loss": 1.0})

    return train


class TestByPath:
    def test_a_file_that_a_run_has_saved_is_no_code_of_the_next(self, project: Path) -> None:
        Path("train.py").write_text("1")
        first = run(saves("model.txt"))
        second = run(saves("model.txt", "others"))
        second.checkout("../out", what="code")
        assert sorted(os.listdir("../out")) == ["train.py"]
        (checkpoint,) = second.checkpoints
        left_out = replicate.Project().preview().left_out
        assert left_out["model.txt"] == f"checkpoint {checkpoint.short_id} of experiment {second.short_id}"
        assert code() == {"train.py"}
        assert first.id != second.id

    def test_what_stands_there_later_is_none_either_until_it_is_taken_back(self, project: Path) -> None:
        run(saves("model.txt"))
        Path("model.txt").write_text("something else")
        assert code() == set()
        Path(".replicateignore").write_text("!model.txt\n")
        assert code() == {".replicateignore", "model.txt"}

    def test_it_holds_for_directories_that_runs_have_made(self, project: Path) -> None:
        def train(experiment: replicate.Experiment) -> None:
            Path("weights/shard").mkdir(parents=True)
            Path("weights/shard/1.bin").write_text("1")
            Path("weights/config.json").write_text("{}")
            experiment.checkpoint("weights", {})

        Path("train.py").write_text("1")
        run(train)
        Path("weights/notes.md").write_text("mine")
        assert code() == {"train.py", "weights/notes.md"}

    def test_a_run_that_was_killed_before_it_stored_anything_has_left_it_too(
        self, project: Path, another_process: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("train.py").write_text("1")
        training = another_process(
            "import os, sys; os.chdir(sys.argv[1]); import replicate_core as replicate\n"
            "experiment = replicate.init({}); open('model.txt', 'w').write('x')\n"
            "experiment.checkpoint('model.txt', {}); print(flush=True); input()",
            project,
        )
        training.kill()
        training.wait()
        assert code() == {"train.py"}

    def test_another_project_below_has_files_of_its_own(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(saves("model.txt"))
        Path("sub").mkdir()
        monkeypatch.chdir(project / "sub")
        Path("model.txt").write_text("mine")
        assert code() == {"model.txt"}

    def test_it_is_known_where_the_project_was_moved_to(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(saves("model.txt"))
        monkeypatch.chdir(project.parent)
        project.rename(project.with_name("moved"))
        monkeypatch.chdir(project.with_name("moved"))
        assert code() == set()

    def test_a_spool_that_lies_elsewhere_keeps_the_list(self, project: Path, tmp_path: Path) -> None:
        Path("replicate.yaml").write_text(f"spool: {{directory: {tmp_path / 'elsewhere'}}}\n")
        run(saves("model.txt"))
        assert code() == {"replicate.yaml"}


class TestWhatIsSaid:
    @pytest.fixture
    def said(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        monkeypatch.setattr(notices.notifier(), "inform", lines.append)
        return lines

    def test_init_names_what_looks_like_code_and_is_not_saved(self, project: Path, said: list[str]) -> None:
        run(saves("b.json"))
        assert said == []
        run(saves("a.py"))
        why = "because earlier runs have saved checkpoints there"
        assert said == [f"1 file is not saved as code, {why}: b.json; `replicate status` shows which"]
        run(saves("model.txt"))
        assert said[1:] == [f"2 files are not saved as code, {why}: a.py, b.json; `replicate status` shows which"]

    def test_weights_that_a_run_has_left_are_no_news(self, project: Path, said: list[str]) -> None:
        run(saves("model.txt"))
        run()
        assert said == []

    def test_nothing_is_said_where_the_project_wants_quiet(self, project: Path, said: list[str]) -> None:
        Path("replicate.yaml").write_text("quiet: true\n")
        run(saves("b.json"))
        run()
        assert said == []


class TestWhatStaysCode:
    def test_code_that_is_saved_as_a_checkpoint_stays_code(self, project: Path) -> None:
        for name in ("train.py", "labels.csv", "model.txt"):
            Path(name).write_text("1")
        run(lambda experiment: experiment.checkpoint("train.py", {}))
        run(lambda experiment: experiment.checkpoint(".", {}))
        assert code() == {"train.py", "labels.csv", "model.txt"}

    def test_of_a_whole_project_only_what_the_run_has_made_is_none(self, project: Path) -> None:
        def train(experiment: replicate.Experiment) -> None:
            Path("model.txt").write_text("weights")
            Path("train.py").write_text("edited while it runs")
            Path("eval.py").write_text("written while it runs")
            Path("notes.txt").write_text("changed while it runs")
            experiment.checkpoint(".", {})

        for name in ("train.py", "notes.txt"):
            Path(name).write_text("1")
        run(train)
        assert code() == {"train.py", "eval.py", "notes.txt"}

    def test_a_run_that_saves_no_code_makes_no_source_a_leftover(self, project: Path) -> None:
        for name in ("train.py", "model.bin"):
            Path(name).write_text("1")
        run(lambda experiment: experiment.checkpoint(".", {}), path=None)
        assert code() == {"train.py"}

    @pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
    def test_what_git_tracks_is_code(self, project: Path) -> None:
        run(saves("model.txt"))
        subprocess.run(["git", "init", "-q"], check=True)
        assert code() == set()
        subprocess.run(["git", "add", "model.txt"], check=True)
        assert code() == {"model.txt"}

    def test_one_that_was_saved_as_code_before_is_none_once_a_run_has_written_it(self, project: Path) -> None:
        Path("model.txt").write_text("of a run that nobody knows of")
        run(saves("model.txt"))
        assert code() == set()


class TestByBytes:
    def test_a_large_file_of_a_checkpoint_is_none_under_any_name(self, project: Path) -> None:
        def train(experiment: replicate.Experiment) -> None:
            Path("model.bin").write_bytes(os.urandom(LARGE_BYTES + 7))
            experiment.checkpoint("model.bin", {})
            Path("model.bin").rename("best.bin")
            Path("model.bin").write_bytes(os.urandom(LARGE_BYTES + 7))
            experiment.checkpoint("model.bin", {})

        Path("other.bin").write_bytes(os.urandom(LARGE_BYTES + 7))
        experiment = run(train)
        first = experiment.checkpoints[0]
        left_out = replicate.Project().preview().left_out
        assert left_out["best.bin"] == f"checkpoint {first.short_id} of experiment {experiment.short_id}"
        assert code() == {"other.bin"}

    def test_data_that_was_code_of_the_run_stays_code(self, project: Path) -> None:
        Path("data.bin").write_bytes(os.urandom(LARGE_BYTES))
        run(lambda experiment: experiment.checkpoint(".", {}))
        shutil.copy("data.bin", "copy.bin")
        assert code() == {"data.bin", "copy.bin"}

    def test_no_more_is_read_than_a_bound(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(lambda experiment: (Path("m").write_bytes(bytes(LARGE_BYTES)), experiment.checkpoint("m", {})))
        for name in ("a", "b"):
            shutil.copy("m", name)
        assert code() == set()
        monkeypatch.setattr(leftovers, "DIGESTED_BYTES_MAX", LARGE_BYTES)
        assert code() == {"b"}


class TestTheList:
    @pytest.fixture
    def spool(self, project: Path) -> Path:
        (project / ".replicate/spool").mkdir(parents=True)
        return project / ".replicate/spool"

    def test_what_can_not_be_read_is_passed_over(self, spool: Path, project: Path) -> None:
        maker = Maker("e" * 8, "c" * 8)
        note_paths(spool, project, maker, ["a"])
        with open(spool.parent / NAME, "ab") as file:
            file.write(b"\n[1]\nnot json\n\xff\n[1, 2, 3, 4, 5]\n" + b"[" * 100_000 + b"\n")
        note_paths(spool, project, maker, ["b", "\udcff"])
        assert read(spool, project).paths == dict.fromkeys(["a", "b", "\udcff"], maker)

    def test_a_line_that_somebody_else_has_put_there_hides_no_code(self, project: Path) -> None:
        """As an unpacked or cloned project may hold one."""
        for name in ("train.py", "helper.py"):
            Path(name).write_text("1")
        line = ["e" * 32, "c" * 32, ["train.py", "helper.py"], [], ".."]
        planted = [line, ["0" * 64, *line], ["-", *line], [None, *line]]
        Path(".replicate").mkdir()
        (project / ".replicate" / NAME).write_text("".join(json.dumps(each) + "\n" for each in planted))
        assert code() == {"train.py", "helper.py"}
        run().checkout("../out", what="code")
        assert sorted(os.listdir("../out")) == ["helper.py", "train.py"]

    @pytest.mark.parametrize("key", ["another", "none"])
    def test_a_line_of_another_user_hides_no_code(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        run(saves("model.txt"))
        assert code() == set()
        monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "another"))
        if key == "another":
            run(saves("other.txt"))
        assert code() == {"model.txt"}

    def test_a_line_that_was_changed_hides_nothing(self, spool: Path, project: Path) -> None:
        note_paths(spool, project, Maker("e", "c"), ["model.txt"])
        path = spool.parent / NAME
        assert set(read(spool, project).paths) == {"model.txt"}
        path.write_text(path.read_text().replace("model.txt", "train.py"))
        assert read(spool, project).paths == {}

    def test_where_the_user_can_have_no_key_all_is_code(
        self, spool: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "file" / "state"))
        note_paths(spool, project, Maker("e", "c"), ["model.txt"])
        assert not (spool.parent / NAME).exists()
        assert read(spool, project).paths == {}

    def test_a_list_that_grows_too_long_keeps_what_is_latest(
        self, spool: Path, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leftovers, "LIST_BYTES_MAX", 1000)
        for number in range(100):
            note_paths(spool, project, Maker("e", str(number)), [f"model-{number}"])
        found = read(spool, project).paths
        assert "model-99" in found
        assert len(found) < 50
        assert (spool.parent / NAME).stat().st_size <= 1000

    def test_a_link_or_a_pipe_in_its_place_is_left_alone(self, spool: Path, project: Path) -> None:
        (project / "private").write_text("mine\n")
        (spool.parent / NAME).symlink_to(project / "private")
        note_paths(spool, project, Maker("e", "c"), ["a"])
        assert (project / "private").read_text() == "mine\n"
        (spool.parent / NAME).unlink()
        os.link(project / "private", spool.parent / NAME)
        note_paths(spool, project, Maker("e", "c"), ["a"])
        assert (project / "private").read_text() == "mine\n"
        (spool.parent / NAME).unlink()
        os.mkfifo(spool.parent / NAME)
        note_paths(spool, project, Maker("e", "c"), ["a"])
        assert read(spool, project).paths == {}

    def test_it_is_for_its_owner_alone(self, spool: Path, project: Path) -> None:
        note_digests(spool, Maker("e", "c"), {"a": (LARGE_BYTES, [(1, "x")]), "small": (1, [(1, "x")])})
        assert (spool.parent / NAME).stat().st_mode & 0o777 == 0o600
        assert "small" not in (spool.parent / NAME).read_text()

    def test_where_it_can_not_be_written_the_run_goes_on(self, spool: Path, project: Path) -> None:
        (spool.parent / NAME).mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(saves("model.txt"))
        assert code() == {"model.txt"}


def test_a_file_that_vanished_is_no_leftover(tmp_path: Path) -> None:
    assert version(tmp_path / "gone") is None
    assert made({"gone": tmp_path / "gone"}, {"gone": (1, 1, 1)}, whole=True, limit_bytes=LIMIT) == []


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_line_that_is_written_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:most]))
    note_paths(tmp_path, tmp_path, Maker("a" * 32, "b" * 32), ["model.ckpt"])
    monkeypatch.undo()
    assert read(tmp_path, tmp_path).paths == {"model.ckpt": Maker("a" * 32, "b" * 32)}


def test_a_line_behind_one_that_was_cut_off_counts(tmp_path: Path) -> None:
    for path in ("first.ckpt", "second.ckpt"):
        note_paths(tmp_path, tmp_path, Maker("a" * 32, "b" * 32), [path])
    size = (tmp_path / NAME).stat().st_size
    os.truncate(tmp_path / NAME, size - 5)
    note_paths(tmp_path, tmp_path, Maker("a" * 32, "c" * 32), ["third.ckpt"])
    assert set(read(tmp_path, tmp_path).paths) == {"first.ckpt", "third.ckpt"}
