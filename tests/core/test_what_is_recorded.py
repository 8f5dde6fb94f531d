"""What is recorded of an experiment and what of its files is saved: all of it, as it was, and no secrets."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from projects import found, only, write

import replicate_core as replicate
from replicate_core.storage.fsspec_store import FsspecStore


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
