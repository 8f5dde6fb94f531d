"""The whole path through the public API: record an experiment, find it again, get everything back."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import replicate_core as replicate
from replicate_core.filesystem import ReplicateFileSystem
from replicate_core.format.records import Deleted, Ended
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.recording import notices
from replicate_core.storage.fsspec_store import FsspecStore
from replicate_core.storage.local import LocalStore
from replicate_core.workspace import Workspace


def write(project: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        (project / name).write_bytes(content.encode() if isinstance(content, str) else content)


def only() -> replicate.Experiment:
    """The only experiment there is, as another process would read it."""
    (experiment,) = replicate.experiments.list()
    return experiment


def found(directory: Path) -> dict[str, str]:
    """Path to content of every file below a directory; links as `-> target`, empty directories as `/`."""
    shown: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            shown[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            shown[name] = path.read_text("latin-1")
        elif not any(path.iterdir()):
            shown[name] = "/"
    return shown


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a training script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class TestTheMainJob:
    def test_from_training_to_a_checkout(self, project: Path, tmp_path: Path) -> None:
        write(project, **{"train.py": "print('training')\n"})
        experiment = replicate.init({"learning_rate": 0.1}, name="first", tags=["a", "b"], notes="A try.")
        for step, loss in enumerate([0.5, 0.2, 0.3]):
            write(project, **{"model.bin": f"weights of step {step}"})
            checkpoint = experiment.checkpoint("model.bin", {"loss": loss}, primary_metric=("loss", "minimize"))
            assert checkpoint.step == step
        assert experiment.is_running()
        experiment.stop()

        read = only()
        assert (read.id, read.name, read.tags, read.notes) == (experiment.id, "first", ("a", "b"), "A try.")
        assert read.params == {"learning_rate": 0.1}
        assert (read.status, read.is_running()) == ("finished", False)
        assert [item.step for item in read.checkpoints] == [0, 1, 2]
        assert read.primary_metric == ("loss", "minimize")
        best, latest = read.best(), read.latest()
        assert best is not None
        assert latest is not None
        assert (best.step, best.metrics) == (1, {"loss": 0.2})
        assert (latest.step, latest.path) == (2, "model.bin")
        assert read.created < best.created < latest.created
        best.checkout(tmp_path / "best")
        assert found(tmp_path / "best") == {"train.py": "print('training')\n", "model.bin": "weights of step 1"}
        read.checkout(tmp_path / "again")
        assert found(tmp_path / "again") == found(tmp_path / "best")
        latest.checkout(tmp_path / "latest", path="model.bin")
        assert found(tmp_path / "latest") == {"model.bin": "weights of step 2"}
        with latest.open() as stream:
            assert stream.read() == b"weights of step 2"

    def test_storage_is_in_the_project_where_nothing_else_is_said(self, project: Path) -> None:
        replicate.init({})
        assert sorted(os.listdir(project / ".replicate/storage")) == [
            "heartbeats",
            "manifests",
            "records",
            "replicate.json",
        ]

    def test_large_files_come_back_too(self, project: Path, tmp_path: Path) -> None:
        data = os.urandom(5 * SMALL_BYTES + 3)
        write(project, model=data)
        experiment = replicate.init({})
        checkpoint = experiment.checkpoint("model", {})
        write(project, model=b"something else")
        checkpoint.checkout(tmp_path / "out")
        assert (tmp_path / "out/model").read_bytes() == data
        with checkpoint.open("model") as stream:
            stream.seek(SMALL_BYTES)
            assert stream.read(100) == data[SMALL_BYTES : SMALL_BYTES + 100]
        assert checkpoint.size_bytes == len(data)
        experiment.stop()
        assert os.listdir(project / ".replicate/spool") == []

    def test_in_memory_nothing_is_written_to_disk_but_the_copies(self, project: Path) -> None:
        write(project, **{"replicate.yaml": f"storage: memory://{uuid.uuid4().hex}\n", "model": "weights"})
        experiment = replicate.init({"a": 1})
        experiment.checkpoint("model", {"loss": 1.0})
        assert only().id == experiment.id
        with only().checkpoints[0].open("model") as stream:
            assert stream.read() == b"weights"
        assert sorted(os.listdir(project / ".replicate")) == [".gitignore", "spool"]


class TestWhatIsRecorded:
    def test_of_the_experiment(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--api-key=s3cret", "--lr", "1"])
        text = "storage: storage\nmetrics:\n  loss: {goal: minimize, primary: true}\n  f1: {goal: maximize}\n"
        write(project, **{"replicate.yaml": text})
        before = datetime.now(timezone.utc)
        experiment = replicate.init({"a": 1})
        assert before <= experiment.created <= datetime.now(timezone.utc)
        assert experiment.created.tzinfo is timezone.utc
        assert re.fullmatch("[0-9a-f]{32}", experiment.id)
        assert experiment.short_id == experiment.id[:7]
        read = only()
        for name in ("created", "name", "tags", "notes", "params", "user", "host", "command", "config", "path",
                     "python_version", "packages", "system", "git", "size_bytes", "stored_bytes", "status", "duration",
                     "primary_metric"):  # fmt: skip
            assert getattr(read, name) == getattr(experiment, name)
        assert read.command == "python train.py --api-key=[redacted] --lr 1"
        assert read.python_version == ".".join(map(str, sys.version_info[:3]))
        assert read.packages["numpy"] == np.__version__
        assert read.system["processors"] == os.cpu_count()
        assert read.host
        assert read.config == {
            "project": project.name,
            "storage": "storage",
            "metrics": {"loss": {"goal": "minimize", "primary": True}, "f1": {"goal": "maximize", "primary": False}},
        }
        assert read.path == "."
        assert read.git is None
        assert (read.name, read.tags, read.notes, read.duration) == (None, (), None, None)
        assert read.size_bytes == len(text)

    def test_a_command_that_is_no_unicode_is_shown_as_far_as_it_is(self, project: Path, monkeypatch) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["train.py", os.fsdecode(b"caf\xe9.csv")])
        replicate.init({}, path=None)
        command = only().command
        assert command is not None
        assert command.startswith("train.py ")
        assert "caf" in command

    def test_credentials_of_the_storage_are_not(self, project: Path) -> None:
        name = uuid.uuid4().hex
        write(project, **{"replicate.yaml": f"storage: memory://me:s3cret@{name}/x?token=s3cret\n"})
        experiment = replicate.init({}, path=None)
        assert experiment.config["storage"] == f"memory://{name}/x"
        assert "s3cret" not in repr(replicate.Project())

    def test_size_and_duration(self, project: Path) -> None:
        write(project, model="12345", code="123")
        experiment = replicate.init({}, path="code")
        experiment.checkpoint("model", {})
        experiment.checkpoint("model", {})
        experiment.stop()
        read = only()
        assert read.size_bytes == 3 + 5 + 5
        assert read.stored_bytes > read.size_bytes
        assert read.duration is not None
        assert timedelta(0) < read.duration < timedelta(minutes=1)

    def test_params_of_every_kind(self, project: Path) -> None:
        params = {
            "scalar": np.float32(0.5),
            "integer": np.int64(7),
            "flag": np.bool_(True),
            "array": np.arange(6).reshape(2, 3),
            "zero-dimensional": np.array(3.0),
            "nan": float("nan"),
            "infinities": [float("inf"), -np.inf],
            "nested": {"deep": {"er": [1, {"x": None}]}},
            "nothing": None,
            "text": "模型 🎉",
            "tuple": (1, 2),
            "path": Path("data/x.csv"),
            3: "a number as key",
            "$float": "nan",
            "large": 1 << 60,
            "empty": {},
        }
        experiment = replicate.init(params)
        read = dict(only().params)
        assert isinstance(read["nan"], float)
        assert math.isnan(read.pop("nan"))
        assert read == {
            "scalar": 0.5,
            "integer": 7,
            "flag": True,
            "array": [[0, 1, 2], [3, 4, 5]],
            "zero-dimensional": 3.0,
            "infinities": [math.inf, -math.inf],
            "nested": {"deep": {"er": [1, {"x": None}]}},
            "nothing": None,
            "text": "模型 🎉",
            "tuple": [1, 2],
            "path": "data/x.csv",
            "3": "a number as key",
            "$float": "nan",
            "large": 1 << 60,
            "empty": {},
        }
        assert list(experiment.params) == list(only().params)

    def test_what_is_recorded_does_not_change_with_the_objects(self, project: Path) -> None:
        params = {"layers": [1, 2]}
        experiment = replicate.init(params)
        params["layers"].append(3)
        assert experiment.params == only().params == {"layers": [1, 2]}

    def test_no_params_are_fine(self, project: Path) -> None:
        replicate.init()
        replicate.init(None)
        assert [experiment.params for experiment in replicate.experiments.list()] == [{}, {}]

    def test_metrics_of_every_kind(self, project: Path) -> None:
        experiment = replicate.init({})
        experiment.checkpoint(None, {"loss": np.float64("nan"), "acc": np.float32(0.25), "hist": np.ones(2), "n": None})
        experiment.checkpoint(None, None)
        first, second = only().checkpoints
        assert isinstance(first.metrics["loss"], float)
        assert math.isnan(first.metrics["loss"])
        assert {name: first.metrics[name] for name in ("acc", "hist", "n")} == {"acc": 0.25, "hist": [1, 1], "n": None}
        assert second.metrics == {}

    def test_other_keyword_arguments(self, project: Path) -> None:
        replicate.init({}).checkpoint(None, {"loss": 1}, epoch=3, phase="warm-up")
        (checkpoint,) = only().checkpoints
        assert checkpoint.extra == {"epoch": 3, "phase": "warm-up"}
        assert checkpoint.metrics == {"loss": 1}
        assert (checkpoint.path, checkpoint.size_bytes, dict(checkpoint.files)) == (None, 0, {})


class TestWhatIsSaved:
    def test_everything_of_the_project_that_belongs_to_it(self, project: Path, tmp_path: Path) -> None:
        (project / "src/empty").mkdir(parents=True)
        (project / "données").mkdir()
        for environment, mark in {"venv": "pyvenv.cfg", "conda": "conda-meta"}.items():
            (project / environment / "lib").mkdir(parents=True)
            (project / environment / mark).touch()
            (project / environment / "lib/site.py").touch()
        for skipped in (".git", "__pycache__", "src/.ipynb_checkpoints", "data"):
            (project / skipped).mkdir()
            (project / skipped / "x").touch()
        write(
            project, **{"train.py": "1", "src/a.py": "2", "données/模型.txt": "3", ".replicateignore": "data/\n*.log\n"}
        )
        write(project, **{"train.log": "no", ".hidden": "4"})
        (project / "src/link.py").symlink_to("../train.py")
        (project / "train.py").chmod(0o755)
        replicate.init({}).stop()
        only().checkout(tmp_path / "out")
        assert found(tmp_path / "out") == {
            ".hidden": "4",
            ".replicateignore": "data/\n*.log\n",
            "données/模型.txt": "3",
            "src/a.py": "2",
            "src/empty": "/",
            "src/link.py": "-> ../train.py",
            "train.py": "1",
        }
        assert os.access(tmp_path / "out/train.py", os.X_OK)
        assert not os.access(tmp_path / "out/src/a.py", os.X_OK)

    @pytest.mark.parametrize(("path", "saved"), [("src", {"src/a.py"}), ("train.py", {"train.py"})])
    def test_or_only_a_part_of_it(self, project: Path, tmp_path: Path, path: str | None, saved: set[str]) -> None:
        (project / "src").mkdir()
        write(project, **{"src/a.py": "1", "train.py": "2"})
        replicate.init({}, path=path)
        only().checkout(tmp_path / "out")
        assert set(found(tmp_path / "out")) == saved
        assert only().path == path

    def test_or_nothing_which_can_not_be_checked_out(self, project: Path, tmp_path: Path) -> None:
        write(project, **{"train.py": "2"})
        replicate.init({}, path=None)
        with pytest.raises(replicate.NotFound, match="no code was saved of the experiment"):
            only().checkout(tmp_path / "out")
        assert only().path is None
        assert not (tmp_path / "out").exists()

    def test_the_storage_in_the_project_never_is(self, project: Path, tmp_path: Path) -> None:
        write(project, **{"replicate.yaml": "storage: my/storage\n", "train.py": "1"})
        for _ in range(2):
            replicate.init({}).checkpoint(".", {})
        for checkpoint in (experiment.checkpoints[0] for experiment in replicate.experiments.list()):
            assert set(checkpoint.files) == {"replicate.yaml", "train.py"}
        replicate.experiments.list()[1].checkout(tmp_path / "out")
        assert set(found(tmp_path / "out")) == {"replicate.yaml", "train.py", "my"}

    def test_the_storage_behind_a_link_never_is(self, project: Path) -> None:
        (project / "disk").mkdir()
        (project / "storage").symlink_to("disk")
        write(project, **{"replicate.yaml": "storage: storage\n"})
        replicate.init({}).checkpoint(".", {})
        checkpoint = replicate.init({}).checkpoint(".", {})
        assert set(checkpoint.files) == {"replicate.yaml"}

    @pytest.mark.parametrize("storage", [".", ".."])
    def test_a_storage_that_holds_the_project_is_refused_or_not_saved(self, project: Path, storage: str) -> None:
        write(project, **{"replicate.yaml": f"storage: {storage}\n", "train.py": "1"})
        try:
            for _ in range(2):
                checkpoint = replicate.init({}).checkpoint(".", {})
        except replicate.ReplicateError as error:
            assert "storage" in str(error)  # noqa: PT017  # either answer is fine
        else:
            assert set(checkpoint.files) == {"replicate.yaml", "train.py"}

    def test_a_checkpoint_may_be_a_directory(self, project: Path) -> None:
        (project / "out/deep").mkdir(parents=True)
        (project / "out/none").mkdir()
        write(project, **{"out/a": "1", "out/deep/b": "22"})
        checkpoint = replicate.init({}, path=None).checkpoint("out", {})
        assert dict(only().checkpoints[0].files) == {"out/a": 1, "out/deep/b": 2}
        assert checkpoint.path == "out"
        checkpoint.checkout("copy")
        assert found(project / "copy") == {"out/a": "1", "out/deep/b": "22", "out/none": "/"}

    def test_ignored_files_can_be_checkpoints(self, project: Path) -> None:
        (project / "out").mkdir()
        write(project, **{".replicateignore": "out/\n*.bin\n", "out/model.bin": "1"})
        assert set(replicate.init({}).checkpoint("out", {}).files) == {"out/model.bin"}

    def test_a_path_may_be_anything_that_names_a_file(self, project: Path) -> None:
        (project / "out").mkdir()
        write(project, **{"out/model": "1"})
        (project / "latest").symlink_to("out/model")
        (project / "current").symlink_to("out")
        experiment = replicate.init({})
        for path, saved in {
            "out/model": "out/model",
            Path("out/model"): "out/model",
            project / "out/model": "out/model",
            "./out/../out/model": "out/model",
            "latest": "latest",
            "current/model": "out/model",
        }.items():
            checkpoint = experiment.checkpoint(path, {})
            assert (checkpoint.path, dict(checkpoint.files)) == (saved, {saved: 1})
            with checkpoint.open(saved) as stream:
                assert stream.read() == b"1"

    def test_a_working_directory_below_the_project(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (project / "src/deep").mkdir(parents=True)
        write(project, **{"replicate.yaml": "", "src/deep/model": "1", "train.py": "2", "elsewhere": "3"})
        monkeypatch.chdir(project / "src/deep")
        experiment = replicate.init({})
        assert replicate.Project().directory == project
        assert experiment.path == "."
        assert experiment.checkpoint("model", {}).path == "src/deep/model"
        assert experiment.checkpoint("../../elsewhere", {}).path == "elsewhere"
        assert only().checkpoints[1].path == "elsewhere"
        assert (project / ".replicate/storage").is_dir()
        assert os.listdir(project / "src/deep") == ["model"]

    def test_a_file_that_vanishes_while_the_project_is_read_is_left_out(self, project: Path, tmp_path: Path) -> None:
        (project / "tmp").mkdir()
        write(project, **{"train.py": "1"})
        over = threading.Event()

        def come_and_go() -> None:
            while not over.is_set():
                for number in range(20):
                    write(project, **{f"tmp/{number}": bytes(100)})
                for number in range(20):
                    (project / f"tmp/{number}").unlink()

        worker = threading.Thread(target=come_and_go)
        worker.start()
        try:
            for number in range(10):
                replicate.init({}).checkout(tmp_path / str(number))
                assert (tmp_path / f"{number}/train.py").read_text() == "1"
        finally:
            over.set()
            worker.join()

    def test_what_is_saved_is_what_stood_there_at_that_moment(self, project: Path) -> None:
        experiment = replicate.init({})
        checkpoints = []
        for text in ("first", "second"):
            write(project, model=text)
            checkpoints.append(experiment.checkpoint("model", {}))
        for checkpoint, text in zip(checkpoints, (b"first", b"second"), strict=True):
            with checkpoint.open() as stream:
                assert stream.read() == text


class TestSteps:
    def test_count_up_from_zero_and_go_on_from_the_last_one(self, project: Path) -> None:
        experiment = replicate.init({})
        steps: list[int | None] = [None, None, 10, None, 5, None, 0, None]
        made = [experiment.checkpoint(None, {}, step=step).step for step in steps]
        assert made == [item.step for item in only().checkpoints] == [0, 1, 10, 11, 5, 6, 0, 1]

    def test_may_be_whole_numbers_of_numpy(self, project: Path) -> None:
        assert replicate.init({}).checkpoint(None, {}, step=np.int64(7)).step == 7

    @pytest.mark.parametrize("step", ["1", 1.5, True, [1], np.array([1, 2]), np.float32(1)], ids=repr)
    def test_are_nothing_else(self, project: Path, step: object) -> None:
        experiment = replicate.init({})
        with pytest.raises(replicate.InvalidInput, match="step must be a whole number, got"):
            experiment.checkpoint(None, {}, step=step)  # type: ignore[arg-type]
        assert len(only().checkpoints) == 0

    def test_a_checkpoint_that_was_refused_counts_for_nothing(self, project: Path) -> None:
        (project / "out").mkdir()
        (project / "out/link").symlink_to("/etc/passwd")
        experiment = replicate.init({}, path=None)
        experiment.checkpoint(None, {})
        for refused in ({"path": "missing"}, {"path": "out"}, {"path": "out", "step": 7}):
            with pytest.raises(replicate.InvalidInput):
                experiment.checkpoint(metrics={}, **refused)
        assert experiment.checkpoint(None, {}).step == 1
        assert len(experiment.checkpoints) == len(only().checkpoints) == 2

    def test_of_several_threads_are_all_there_once(self, project: Path) -> None:
        write(project, model=b"weights")
        experiment = replicate.init({})
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: experiment.checkpoint("model", {}), range(20)))
        assert sorted(item.step for item in only().checkpoints) == list(range(20))


class TestPrimaryMetric:
    CONFIG = "metrics:\n  acc: {goal: maximize, primary: true}\n  loss: {goal: minimize}\n"

    def test_comes_from_replicate_yaml_where_none_is_named(self, project: Path) -> None:
        write(project, **{"replicate.yaml": self.CONFIG})
        experiment = replicate.init({})
        assert experiment.checkpoint(None, {"acc": 0.5, "loss": 0.1}).primary_metric == ("acc", "maximize")
        assert experiment.checkpoint(None, {"acc": 0.9, "loss": 0.3}).primary_metric == ("acc", "maximize")
        best = only().best()
        assert best is not None
        assert best.step == 1

    def test_that_is_named_wins(self, project: Path) -> None:
        write(project, **{"replicate.yaml": self.CONFIG})
        checkpoint = replicate.init({}).checkpoint(None, {"acc": 0.5, "loss": 0.1}, ("loss", "minimize"))
        assert checkpoint.primary_metric == ("loss", "minimize")

    def test_of_replicate_yaml_may_be_missing_in_silence(self, project: Path) -> None:
        write(project, **{"replicate.yaml": self.CONFIG})
        assert replicate.init({}).checkpoint(None, {"other": 1}).primary_metric is None
        assert only().best() is None

    def test_a_keyword_argument_that_the_config_knows_is_a_metric(self, project: Path) -> None:
        write(project, **{"replicate.yaml": self.CONFIG})
        checkpoint = replicate.init({}).checkpoint(None, {"loss": 1}, acc=0.5, epoch=2)
        assert checkpoint.metrics == {"loss": 1, "acc": 0.5}
        assert checkpoint.extra == {"epoch": 2}
        assert checkpoint.primary_metric == ("acc", "maximize")

    def test_best_passes_over_nan_and_takes_the_first_of_equals(self, project: Path) -> None:
        experiment = replicate.init({})
        for loss in (float("nan"), 0.5, 0.2, np.float32("inf"), 0.2):
            experiment.checkpoint(None, {"loss": loss}, ("loss", "minimize"))
        best = only().best()
        assert best is not None
        assert best.step == 2
        assert experiment.best() is not None
        assert experiment.best().id == best.id

    def test_without_any_there_is_no_best_and_without_checkpoints_no_latest(self, project: Path) -> None:
        experiment = replicate.init({})
        assert (experiment.best(), experiment.latest(), experiment.primary_metric) == (None, None, None)
        experiment.checkpoint(None, {"loss": 1})
        assert experiment.best() is None
        assert experiment.latest() is not None


CLOUD = "storage: s3://bucket/path\nstorage_options: {profile: '${WHO}'}\n"


class TestConfig:
    @pytest.mark.parametrize("key", ["storage", "repository"])
    def test_names_the_storage(self, project: Path, key: str) -> None:
        write(project, **{"replicate.yaml": f"{key}: here\n"})
        replicate.init({})
        assert (project / "here/replicate.json").is_file()
        assert Workspace().storage == "here"

    def test_a_project_may_be_somewhere_else(self, project: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        write(tmp_path / "other", **{"replicate.yaml": "storage: there\n"})
        other = replicate.Project(directory=tmp_path / "other")
        experiment = other.experiments.create({"a": 1}, path=None)
        assert [item.id for item in other.experiments.list()] == [experiment.id]
        assert len(replicate.experiments.list()) == 0
        assert (tmp_path / "other/there/replicate.json").is_file()

    def test_a_storage_may_be_given_directly(self, project: Path) -> None:
        write(project, **{"replicate.yaml": "storage: unused\n"})
        given = replicate.Project(storage="given")
        given.experiments.create({}, path=None)
        assert sorted(os.listdir(project)) == [".replicate", "given", "replicate.yaml"]
        assert sorted(os.listdir(project / ".replicate")) == [".gitignore", "spool"]
        assert repr(given) == f"<Project {str(project)!r} storage={str(project / 'given')!r}>"
        assert given.location == str(project / "given")

    def test_a_file_may_name_the_storage_and_its_options(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REPLICATE_TRUST", str(tmp_path / "other"))
        (tmp_path / "other").mkdir()
        write(
            tmp_path / "other", **{"archive.yaml": "storage: there\n", "cloud.yml": CLOUD, "storge.yaml": "storge: x"}
        )
        given = replicate.Project(storage=str(tmp_path / "other" / "archive.yaml"))
        given.experiments.create({}, path=None).stop()
        assert (tmp_path / "other/there/replicate.json").is_file()
        assert given.storage == str(tmp_path / "other" / "there")
        assert given.directory == project
        cloud = Workspace(storage="../other/cloud.yml")
        assert (cloud.storage, cloud.storage_options) == ("s3://bucket/path", {"profile": "${WHO}"})
        told = Workspace(storage="../other/cloud.yml", storage_options={"anon": True})
        assert told.storage_options == {"anon": True}
        with pytest.raises(replicate.ConfigInvalid, match=r"storge\.yaml, line 1: .* did you mean 'storage'"):
            replicate.Project(storage="../other/storge.yaml")
        write(tmp_path / "other", **{"quiet.yaml": "quiet: true\n"})
        with pytest.raises(replicate.ConfigInvalid, match=r"quiet\.yaml names no storage: write `storage: `"):
            replicate.Project(storage="../other/quiet.yaml")
        write(tmp_path / "other", **{"twice.yaml": "storage: archive.yaml\n"})
        with pytest.raises(replicate.InvalidInput, match=r"'archive\.yaml' is a file that names one"):
            replicate.Project(storage="../other/twice.yaml")
        with pytest.raises(replicate.ConfigInvalid, match=r"none\.yaml can't be read"):
            replicate.Project(storage="../other/none.yaml")

    def test_a_directory_may_have_the_name_of_such_a_file(self, project: Path) -> None:
        (project / "runs.yaml").mkdir()
        assert Workspace(storage="runs.yaml").storage == str(project / "runs.yaml")


class TestBelowAProject:
    """The specification: the working directory is the project where no parent has a replicate.yaml."""

    def test_the_code_of_the_working_directory_is_saved_with_the_experiments_above(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        monkeypatch.setattr(notices.notifier(), "inform", told.append)
        (project / "sub").mkdir()
        write(project, **{"train.py": "above", "sub/train.py": "below", "sub/model.txt": "weights"})
        first = replicate.init({})
        assert told == []
        monkeypatch.chdir(project / "sub")
        second = replicate.init({})
        checkpoint = second.checkpoint("model.txt", {"loss": 1.0})
        assert [f"with the experiments of the project above, {project}. " in text for text in told] == [True]
        assert [one.id for one in replicate.experiments.list()] == [first.id, second.id]
        assert checkpoint.path == "model.txt"
        assert os.listdir(project / "sub") == ["model.txt", "train.py"]
        second.checkout(project / "out")
        assert (project / "out/train.py").read_text() == "below"
        assert replicate.Project().directory == project / "sub"
        monkeypatch.chdir(project)
        assert [one.id for one in replicate.experiments.list()] == [first.id, second.id]

    def test_a_directory_that_has_experiments_of_its_own_keeps_them(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "sub").mkdir()
        monkeypatch.chdir(project / "sub")
        own = replicate.init({}, path=None)
        monkeypatch.chdir(project)
        replicate.init({}, path=None)
        monkeypatch.chdir(project / "sub")
        assert [one.id for one in replicate.experiments.list()] == [own.id]

    def test_another_process_reads_the_same_through_the_protocol(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "sub").mkdir()
        experiment = replicate.init({}, path=None)
        monkeypatch.chdir(project / "sub")
        opened = pickle.loads(pickle.dumps(ReplicateFileSystem()))
        assert opened.ls("", detail=False) == [experiment.id]


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


class TestTheEnd:
    def test_two_experiments_in_one_notebook_do_not_mix(self, project: Path) -> None:
        write(project, model="1")
        first = replicate.init({"n": 1})
        first.checkpoint("model", {})
        second = replicate.init({"n": 2})
        second.checkpoint("model", {})
        first.checkpoint(None, {})
        first.stop()
        listed = replicate.experiments.list()
        assert [(item.params["n"], len(item.checkpoints), item.status) for item in listed] == [
            (1, 2, "finished"), (2, 1, "running"),
        ]  # fmt: skip

    def test_stopping_twice_is_stopping_once(self, project: Path, at_exit: list) -> None:
        experiment = replicate.init({}, path=None)
        assert len(at_exit) == 1
        experiment.stop()
        ended = only().duration
        experiment.stop()
        assert only().duration == experiment.duration == ended
        assert at_exit == []

    def test_after_the_end_nothing_can_be_added(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.stop()
        with pytest.raises(replicate.InvalidInput, match="has ended"):
            experiment.checkpoint(None, {})
        assert len(only().checkpoints) == 0

    def test_what_was_loaded_can_not_be_ended(self, project: Path) -> None:
        replicate.init({}, path=None)
        only().stop()
        assert only().is_running()

    def test_an_experiment_ends_with_its_process(self, project: Path) -> None:
        done = run(
            "import replicate_core as replicate\nreplicate.init({'a': 1}).checkpoint(None, {'loss': 1})", project
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (only().status, len(only().checkpoints)) == ("finished", 1)

    def test_an_experiment_that_was_stopped_ends_once(self, project: Path) -> None:
        script = "import replicate_core as replicate\nexperiment = replicate.init({})\nexperiment.stop()"
        assert run(script, project).stderr == ""
        assert len(list((project / ".replicate/storage/records").rglob("*-ended.json"))) == 1
        assert only().status == "finished"

    def test_a_process_that_is_killed_leaves_it_readable(self, project: Path) -> None:
        write(project, model="1")
        script = "import os, replicate_core as r\nr.init({}).checkpoint('model', {})\nos.kill(os.getpid(), 9)"
        assert run(script, project).returncode == -9
        read = only()
        assert read.status == "lost", "nobody was there to see its end, and nobody is at it"
        read.checkout("out")
        assert found(project / "out") == {"model": "1"}


class TestAStorageThatFails:
    def test_never_stops_training(self, project: Path) -> None:
        write(project, **{"replicate.yaml": "storage: storage\n", "model": "1"})
        experiment = replicate.init({})
        (project / "storage").rename(project / "gone")
        write(project, storage="a file where the storage was")
        with pytest.warns(UserWarning, match="can't be stored for now, .*can't read replicate.json") as caught:
            experiment.checkpoint("model", {"loss": 1})
        assert caught[0].filename == __file__
        experiment.checkpoint(None, {"loss": 1})  # what was said once is not said again
        (project / "storage").unlink()
        (project / "gone").rename(project / "storage")
        assert experiment.checkpoint("model", {"loss": 1}).step == 2
        assert [(item.step, item.is_stored) for item in only().checkpoints] == [(0, True), (1, True), (2, True)]
        assert only().checkpoints[0].open().read() == b"1"
        experiment.stop()
        assert os.listdir(project / ".replicate/spool") == []

    def test_at_the_end_is_reported_and_nothing_is_lost(self, project: Path) -> None:
        write(project, **{"replicate.yaml": "storage: storage\n"})
        experiment = replicate.init({}, path=None)
        (project / "storage").rename(project / "gone")
        write(project, storage="a file where the storage was")
        with pytest.warns(UserWarning, match="1 job of .* could not be stored yet, and .*sync` stores") as caught:
            experiment.stop()
        assert caught[0].filename == __file__
        (project / "storage").unlink()
        (project / "gone").rename(project / "storage")
        assert only().status == experiment.status == "finished"
        assert len(only().checkpoints) == 0


def ended(project: Path) -> tuple[str, str | None]:
    """How the only experiment ended: its status and its error."""
    (record,) = (one for one in Workspace().repository.read_records() if isinstance(one, Ended))
    assert only().status == record.status
    return record.status, record.error


class TestHowAScriptEnds:
    def test_one_that_raises_has_failed_with_the_type_and_the_message(self, project: Path) -> None:
        done = run("import replicate_core as r\nr.init({})\nraise ValueError('the loss is\\nnan')", project)
        assert done.returncode == 1
        assert "ValueError: the loss is" in done.stderr, "the traceback is still shown"
        assert ended(project) == ("failed", "ValueError: the loss is\nnan")

    def test_one_that_is_interrupted_was_interrupted(self, project: Path) -> None:
        done = run("import replicate_core as r\nr.init({})\nraise KeyboardInterrupt", project)
        assert done.returncode != 0
        assert ended(project)[0] == "interrupted"

    def test_one_that_catches_its_errors_has_finished(self, project: Path) -> None:
        script = "import replicate_core as r\nr.init({})\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    pass"
        assert run(script, project).returncode == 0
        assert ended(project) == ("finished", None)

    def test_one_that_was_stopped_before_it_raised_has_finished(self, project: Path) -> None:
        run("import replicate_core as r\nr.init({}).stop()\nraise ValueError", project)
        assert ended(project) == ("finished", None)

    def test_a_hook_of_the_script_still_runs(self, project: Path) -> None:
        script = "import sys\nsys.excepthook = lambda *_: print('mine')\nimport replicate_core as r\nr.init({})\n1 / 0"
        assert run(script, project).stdout == "mine\n"
        assert ended(project) == ("failed", "ZeroDivisionError: division by zero")

    def test_a_forked_child_that_exits_does_not_end_it(self, project: Path) -> None:
        script = (
            "import os, sys, replicate_core as r\n"
            "experiment = r.init({}, path=None)\n"
            "if os.fork() == 0:\n    sys.exit()\n"
            "assert os.wait()[1] == 0\n"
            "(read,) = r.experiments.list()\n"
            "assert read.is_running()\n"
            "experiment.checkpoint(None, {'loss': 1.0})"
        )
        done = run(script, project)
        assert (done.returncode, done.stderr) == (0, "")
        assert ended(project) == ("finished", None)
        assert len(only().checkpoints) == 1

    def test_a_storage_that_fails_at_the_end_is_a_warning(self, project: Path) -> None:
        script = (
            "import os, replicate_core as r, shutil\n"
            "experiment = r.init({}, path=None)\n"
            "while os.path.isdir('.replicate/storage'):\n    shutil.rmtree('.replicate/storage', ignore_errors=True)\n"
            "open('.replicate/storage', 'w').close()\n"
            "experiment.stop()\nprint('went on')"
        )
        done = run(script, project)
        assert (done.returncode, done.stdout) == (0, "went on\n")
        assert "could not be stored yet" in done.stderr
        assert "Traceback" not in done.stderr


class Model:
    """Has a dtype, as a model of torch or Keras, and is no array."""

    dtype = "float32"

    def __repr__(self) -> str:
        return "Model()"


class TestWhatIsNoArray:
    @pytest.mark.parametrize(
        ("params", "key"),
        [({"model": Model()}, "params['model']"), ({"a": [{"b": Model()}]}, "params['a'][0]['b']")],
    )
    def test_names_its_key_though_it_has_a_dtype(self, project: Path, params: dict, key: str) -> None:
        with pytest.raises(replicate.InvalidInput, match=re.escape(key)) as raised:
            replicate.init(params)
        assert "Model()" in str(raised.value)
        assert not (project / ".replicate").exists()


class Failing(MemoryFileSystem):
    """Says where it could not get through, with everything in it."""

    def cat_file(self, path, start=None, end=None, **kwargs):
        raise OSError("no route to s3://k:SECRET@bucket/path?token=SECRET")


class TestCredentials:
    @pytest.mark.parametrize(
        "url",
        [
            "s3://k:SECRET@bucket/path",
            "s3://k:with/SECRET@bucket/path",
            "s4://k:SECRET@bucket/path",
            "s3:/k:SECRET@bucket/path",
            "s3:k:SECRET@bucket/path",
            "simplecache::s3://k:SECRET@bucket/path",
            "sftp://k:SECRET@127.0.0.1:1/path",
            "gs://k:SECRET@bucket/path",
            "az://k:SECRET@bucket/path?sig=SECRET",
        ],
    )
    def test_of_a_storage_are_in_no_error(self, project: Path, url: str) -> None:
        write(project, **{"replicate.yaml": f"storage: '{url}'\n"})
        with pytest.raises(replicate.ReplicateError) as raised:
            replicate.init({})
        assert "SECRET" not in str(raised.value)
        assert "SECRET" not in repr(raised.value)

    def test_that_a_driver_names_are_in_no_error(self) -> None:
        store = FsspecStore(Failing(), "/root", "s3://bucket/path")
        with pytest.raises(replicate.StorageFailed, match="no route to s3://") as raised:
            store.get("key")
        assert "SECRET" not in str(raised.value)


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


class TestLinks:
    def test_that_are_absolute_through_another_name_of_the_project_are_kept(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "alias").symlink_to(project)
        write(project, **{"train.py": "print()"})
        (project / "deep").mkdir()
        (project / "deep/link").symlink_to(tmp_path / "alias/train.py")
        (project / "direct").symlink_to(project / "train.py")
        (project / "latest").symlink_to(tmp_path / "alias/deep")
        for directory in (project, tmp_path / "alias"):
            monkeypatch.chdir(directory)
            experiment = replicate.init({})
            experiment.checkout(tmp_path / "out")
            assert {path: os.readlink(tmp_path / "out" / path) for path in ("deep/link", "direct", "latest")} == {
                "deep/link": "../train.py",
                "direct": "train.py",
                "latest": "deep",
            }
            assert (tmp_path / "out/deep/link").read_text() == "print()"


def test_what_an_exception_says_is_recorded_without_credentials_and_not_without_end(project: Path) -> None:
    script = (
        "import replicate_core as replicate; replicate.init({}, path=None); "
        "raise ValueError('no s3://me:s3cret@bucket \\udce9 ' + 'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 1
    experiment = only()
    assert experiment.status == "failed"
    assert experiment.error is not None
    assert experiment.error.startswith("ValueError: no s3://[redacted]@bucket")
    assert "s3cret" not in experiment.error
    assert len(experiment.error) < 2100


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
        with pytest.raises(replicate.InvalidInput, match="storage and repository are two names of one argument"):
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


@pytest.fixture
def gone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # the project first
    """A working directory that was deleted."""
    (tmp_path / "gone").mkdir()
    with monkeypatch.context() as context:
        context.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        yield


class TestAWorkingDirectoryThatIsGone:
    @pytest.mark.parametrize(
        "call",
        [
            replicate.init,
            lambda: replicate.init(path=None),
            replicate.experiments.list,
            replicate.Project,
        ],
    )
    @pytest.mark.usefixtures("gone")
    def test_is_named_where_it_says_which_project_it_is(self, call: Callable[[], object]) -> None:
        with pytest.raises(replicate.InvalidInput, match=r"the working directory is gone: .*Project\(directory="):
            call()

    @pytest.mark.usefixtures("gone")
    def test_a_relative_storage_starts_from_it(self, project: Path) -> None:
        with pytest.raises(replicate.InvalidInput, match="'archive' starts from the working directory, which is gone"):
            replicate.Project(storage="archive", directory=project)

    @pytest.mark.usefixtures("gone")
    def test_so_does_a_relative_project(self) -> None:
        with pytest.raises(replicate.InvalidInput, match="'project' starts from the working directory, which is gone"):
            replicate.Project(directory="project")

    @pytest.mark.usefixtures("gone")
    def test_the_home_directory_needs_none(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert replicate.Project(directory=project, storage="~/archive").storage == str(tmp_path / "archive")

    @pytest.mark.usefixtures("gone")
    def test_a_project_that_is_named_needs_none(self, project: Path, tmp_path: Path) -> None:
        named = Workspace(directory=project, storage=str(tmp_path / "archive"))
        assert list(replicate.Project(directory=project).experiments.list()) == []
        assert replicate.Project(directory=project).importable() == {}
        named.check_path(project / "model.bin")


def test_that_the_bucket_is_to_be_made_outlives_a_pickle(project: Path) -> None:
    again = pickle.loads(pickle.dumps(Workspace(directory=project, create=True)))
    assert again.storage_options == {"create": True}
