"""What was recorded is found again by its id, and its files come back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from projects import found, only, write

import replicate_core as replicate
from replicate_core.format.records import Deleted
from replicate_core.storage.local import LocalStore
from replicate_core.workspace import Workspace


class TestFinding:
    def test_experiments_are_listed_in_the_order_they_began(self, project: Path) -> None:
        made = [replicate.init({"n": number}, path=None).id for number in range(4)]
        listed = replicate.experiments.list()
        assert [experiment.id for experiment in listed] == made
        assert isinstance(listed[1:], replicate.ExperimentList)
        assert [experiment.id for experiment in listed[1:]] == made[1:]
        assert listed[-1].id == made[-1]
        assert repr(listed[:1]) == f"<ExperimentList of 1: '{made[0][:7]}'>"

    def test_a_filter_keeps_what_it_says_yes_to(self, project: Path) -> None:
        for number in range(4):
            replicate.init({"n": number}, path=None)
        kept = replicate.experiments.list(filter=lambda experiment: experiment.params["n"] > 1)
        assert [experiment.params["n"] for experiment in kept] == [2, 3]

    def test_an_empty_project_has_none(self, project: Path) -> None:
        assert len(replicate.experiments.list()) == 0
        assert os.listdir(project) == []

    def test_any_beginning_of_an_id_is_enough(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        for prefix in (experiment.id, experiment.short_id, experiment.id[:12].upper(), f" {experiment.id} "):
            assert replicate.experiments.get(prefix).id == experiment.id

    def test_checkpoints_are_found_too(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.checkpoint(None, {})
        wanted = experiment.checkpoint(None, {})
        found_experiment, found_checkpoint = replicate.experiments.find(wanted.id)
        assert found_experiment.id == wanted.experiment_id == experiment.id
        assert found_checkpoint is not None
        assert (found_checkpoint.id, found_checkpoint.short_id) == (wanted.id, wanted.id[:7])
        assert replicate.experiments.find(experiment.id)[1] is None
        got = replicate.experiments.get(wanted.short_id)
        assert isinstance(got, replicate.Checkpoint)
        assert got.id == wanted.id

    @pytest.mark.parametrize("prefix", ["zzz", "", "  ", "0" * 33])
    def test_what_is_not_there_is_not_found(self, project: Path, prefix: str) -> None:
        replicate.init({}, path=None)
        with pytest.raises(replicate.NotFound, match="`replicate ls` lists the existing ones"):
            replicate.experiments.get(prefix)

    def test_a_name_is_no_id_and_the_ids_of_that_name_are_said(self, project: Path) -> None:
        with replicate.init(name="sweep") as first:
            pass
        with pytest.raises(replicate.NotFound, match=f"{first.short_id} has that name"):
            replicate.experiments.get("sweep")
        with replicate.init(name="sweep") as second:
            pass
        with pytest.raises(replicate.NotFound, match=f"{first.short_id}, {second.short_id} have that name"):
            replicate.experiments.get("sweep")

    def test_a_beginning_of_several_lists_them(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = iter(f"abc{number:029x}" for number in range(20))
        monkeypatch.setattr("replicate_core.format.ids.random_id", lambda _: next(names))
        experiment = replicate.init({}, path=None)
        for _ in range(11):
            experiment.checkpoint(None, {})
        with pytest.raises(replicate.NotFound) as caught:
            replicate.experiments.get("abc")
        lines = str(caught.value).splitlines()
        assert lines[0] == "12 ids begin with 'abc': give more characters of one of"
        assert re.fullmatch(rf"  {experiment.id}  \(experiment, 20\d\d-\d\d-\d\d \d\d:\d\d\)", lines[1])
        assert "(checkpoint, " in lines[2]
        assert lines[11:] == ["  and 2 more"]

    def test_lists_of_checkpoints_can_be_sliced(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        for number in range(4):
            experiment.checkpoint(None, {"n": number})
        listed = only().checkpoints
        assert isinstance(listed[1:3], replicate.CheckpointList)
        assert [item.step for item in listed[1:3]] == [1, 2]
        assert listed[-1].step == 3
        assert repr(listed) == "<CheckpointList of 4, steps 0 to 3>"
        assert repr(listed[2]) == f"<Checkpoint {listed[2].short_id} step=2 {{'n': 2}}>"

    def test_an_experiment_shows_what_it_is(self, project: Path) -> None:
        experiment = replicate.init({}, path=None, name="big one")
        assert repr(experiment) == f"<Experiment {experiment.short_id} 'big one' running checkpoints=0>"
        assert repr(replicate.init({}, path=None)).endswith(" running checkpoints=0>")

    def test_refreshing_sees_what_others_recorded(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        read = only()
        experiment.checkpoint(None, {})
        experiment.stop()
        assert (len(read.checkpoints), read.status) == (0, "running")
        read.refresh()
        assert (len(read.checkpoints), read.status) == (1, "finished")

    def test_refreshing_what_is_gone_is_not_found(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        Workspace().repository.append(Deleted(experiment.id))
        with pytest.raises(replicate.NotFound, match=f"the experiment {experiment.short_id} is no longer in"):
            experiment.refresh()


class TestFilesOfACheckpoint:
    def test_a_file_is_named_unless_it_is_the_only_one(self, project: Path) -> None:
        (project / "out").mkdir()
        for number in range(12):
            write(project, **{f"out/{number:02}": str(number)})
        checkpoint = replicate.init({}, path=None).checkpoint("out", {})
        with checkpoint.open("out/07") as stream:
            assert stream.read() == b"7"
        with pytest.raises(replicate.NotFound, match=r"has 12 files: name one of 'out/00', .* and 2 more"):
            checkpoint.open()
        with pytest.raises(replicate.NotFound, match="has no file 'model'; it has 'out/00'"):
            checkpoint.open("model")

    def test_one_without_files_has_none(self, project: Path) -> None:
        checkpoint = replicate.init({}, path=None).checkpoint(None, {})
        with pytest.raises(replicate.NotFound, match="has no files: none were given"):
            checkpoint.open()
        with pytest.raises(replicate.NotFound, match=r"No checkpoint of the experiment .* has files\. .*--code-only"):
            checkpoint.checkout("out")
        assert not (project / "out").exists()

    def test_code_that_was_not_saved_is_not_laid_out(self, project: Path) -> None:
        write(project, **{"train.py": "1", "model": "2"})
        replicate.init({}, path=None).checkpoint("model", {})
        assert only().path is None
        only().checkout("out")
        assert found(project / "out") == {"model": "2"}

    def test_the_model_in_the_code_gives_way_to_that_of_the_checkpoint(self, project: Path) -> None:
        write(project, model="old", **{"train.py": "1"})
        experiment = replicate.init({})
        write(project, model="new")
        experiment.checkpoint("model", {})
        only().checkout("out")
        assert found(project / "out") == {"model": "new", "train.py": "1"}
        assert set(only().layout(path="model").files) == {"model"}

    def test_an_experiment_without_checkpoints_gives_its_code(self, project: Path) -> None:
        write(project, **{"train.py": "1"})
        replicate.init({})
        only().checkout("out", path="train.py")
        assert found(project / "out") == {"train.py": "1"}


class TestHostileKeys:
    @pytest.mark.parametrize("key", ["../outside", "data/../../outside", "data/..", "..", "/etc/passwd", "/"])
    def test_lead_out_of_no_directory(self, tmp_path: Path, key: str) -> None:
        (tmp_path / "outside").write_text("mine")
        (tmp_path / "storage/data").mkdir(parents=True)
        store = LocalStore(tmp_path / "storage")
        for request in (
            lambda: store.get(key),
            lambda: store.get_many([key]),
            lambda: store.put(key, b"theirs"),
            lambda: store.put_file(key, tmp_path / "outside"),
            lambda: store.sizes([key]),
            lambda: store.delete([key]),
        ):
            with pytest.raises(replicate.InvalidInput, match="is not a key: it leads out of"):
                request()
        assert (tmp_path / "outside").read_text() == "mine"

    def test_dots_in_names_are_fine(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "storage")
        store.put("data/a..b/..c", b"1")
        assert store.get("data/a..b/..c") == b"1"


class TestTheWordsOfKeepsake:
    def test_are_taken(self, project: Path, tmp_path: Path) -> None:
        write(project, **{"train.py": "code", "model": "weights"})
        with replicate.init({"lr": 0.1}, disable_heartbeat=True) as experiment:
            experiment.checkpoint("model", {"loss": 0.5}, ("loss", "MINIMIZE"))
        (read,) = replicate.Project(repository=".replicate/storage").experiments.list()
        assert read.id == experiment.id
        assert read.python_packages == read.packages
        read.latest().checkout(output_directory=tmp_path / "one", quiet=True)
        read.checkout(output_directory=str(tmp_path / "two"), quiet=False)
        assert found(tmp_path / "one") == found(tmp_path / "two") == {"train.py": "code", "model": "weights"}

    def test_are_not_taken_beside_those_of_today(self, project: Path) -> None:
        with pytest.raises(replicate.InvalidInput, match="storage and repository are two names of the same argument"):
            replicate.Project(storage="a", repository="b")
        write(project, model="weights")
        with replicate.init({}) as experiment:
            checkpoint = experiment.checkpoint("model", {"loss": 0.5})
        for one in (experiment, checkpoint):
            with pytest.raises(replicate.InvalidInput, match="directory and output_directory are two names"):
                one.checkout("a", output_directory="b")
            with pytest.raises(replicate.InvalidInput, match="needs a directory to write to"):
                one.checkout()

    def test_to_json_is_plain_data_with_all_that_keepsake_had(self, project: Path) -> None:
        write(project, model="weights")
        with replicate.init({"lr": 0.1, "deep": {"layers": [1, 2]}}, tags=["a"]) as experiment:
            checkpoint = experiment.checkpoint("model", {"loss": 0.5}, ("loss", "minimize"), seed=3)
        whole = json.loads(json.dumps(only().to_json()))
        assert {
            "id", "created", "params", "user", "host", "config", "command", "path", "python_version", "python_packages",
            "checkpoints",
        } < whole.keys()  # fmt: skip
        assert (whole["id"], whole["params"]) == (experiment.id, {"lr": 0.1, "deep": {"layers": [1, 2]}})
        assert whole["python_packages"]["numpy"]
        (made,) = whole["checkpoints"]
        assert made == json.loads(json.dumps(only().latest().to_json()))
        assert {"id", "created", "path", "metrics", "primary_metric", "step"} < made.keys()
        assert (made["id"], made["metrics"], made["extra"]) == (checkpoint.id, {"loss": 0.5}, {"seed": 3})
        assert made["primary_metric"] == {"name": "loss", "goal": "minimize"}
