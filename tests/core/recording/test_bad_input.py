"""What users get wrong, each as one clear error, raised as early as it can be known, and nothing half-written."""

from __future__ import annotations

import os
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import replicate_core as replicate


def stored(project: Path) -> list[str]:
    """The keys of everything that any storage in the project holds, but for the mark of the format."""
    found = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    return sorted(key for key in found if {"records", "manifests", "data"} & set(key.split("/")))


@pytest.fixture
def nothing_recorded(project: Path) -> Iterator[None]:
    """Holds the test to it that nothing was written, not even in part."""
    yield
    assert stored(project) == []
    assert not list(project.rglob("*.tmp"))
    spool = project / ".replicate/spool"
    assert not spool.exists() or os.listdir(spool) == []


@pytest.fixture
def experiment(project: Path) -> Iterator[replicate.Experiment]:
    """A running experiment, which has no checkpoint and nothing stored beyond its beginning after the test."""
    (project / "model").write_text("weights")
    (project / "out").mkdir()
    experiment = replicate.init({}, path=None)
    before = stored(project)
    yield experiment
    assert stored(project) == before
    assert len(experiment.checkpoints) == len(replicate.experiments.get(experiment.id).checkpoints) == 0
    assert experiment.checkpoint(None, {}).step == 0


class Thing:
    def __repr__(self) -> str:
        return "<a thing>"


@pytest.mark.usefixtures("nothing_recorded")
class TestParams:
    @pytest.mark.parametrize("params", [[("lr", 1)], "lr=1", 5, np.ones(2), {"lr"}], ids=repr)
    def test_that_are_no_dictionary(self, params: object) -> None:
        with pytest.raises(replicate.InvalidInput, match=f"params must be a dictionary, got {type(params).__name__}"):
            replicate.init(params)  # type: ignore[arg-type]

    def test_of_argparse_have_a_hint(self) -> None:
        with pytest.raises(replicate.InvalidInput, match=r"got Namespace\. Did you mean vars\(\.\.\.\)\?"):
            replicate.init(Namespace(lr=1))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"model": Thing()}, r"params\['model'\] is a .*Thing \(<a thing>\), which can't be recorded"),
            ({"a": {"b": [1, Thing()]}}, r"params\['a'\]\['b'\]\[1\] is a .*Thing"),
            ({"f": len}, r"params\['f'\] is a builtins\.builtin_function"),
            ({"s": {1, 2j}}, r"an item of params\['s'\] is a builtins\.complex"),
            ({"z": 1j}, r"params\['z'\] is a builtins\.complex"),
            ({"b": b"\xff\xfe"}, r"params\['b'\] is binary data"),
            ({"t": "\ud800"}, r"params\['t'\] is not valid Unicode"),
            ({("a", 1): 2}, r"params has the key \('a', 1\) of type tuple"),
            ({1: "a", "1": "b"}, r"params has the key '1' twice"),
            ({"o": np.array([Thing()])}, r"params\['o'\]\[0\] is a .*Thing"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_that_json_cannot_hold_name_the_key(self, params: dict, message: str) -> None:
        with pytest.raises(replicate.InvalidInput, match=message):
            replicate.init(params)

    def test_that_contain_themselves(self) -> None:
        params: dict[str, object] = {}
        params["self"] = params
        with pytest.raises(replicate.InvalidInput, match="does it contain itself"):
            replicate.init(params)


@pytest.mark.usefixtures("nothing_recorded")
class TestOtherArgumentsOfInit:
    @pytest.mark.parametrize("name", ["", " ", 5, b"name"])
    def test_names_and_notes_are_texts(self, name: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="name must be a non-empty string, got"):
            replicate.init({}, name=name)  # type: ignore[arg-type]
        with pytest.raises(replicate.InvalidInput, match="notes must be a non-empty string, got"):
            replicate.init({}, notes=name)  # type: ignore[arg-type]

    @pytest.mark.parametrize("tags", ["one", 5, None])
    def test_tags_are_a_list(self, tags: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="tags must be a list of strings, got"):
            replicate.init({}, tags=tags)  # type: ignore[arg-type]

    @pytest.mark.parametrize("tag", ["", 5, None])
    def test_a_tag_is_a_text(self, tag: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="a tag must be a non-empty string, got"):
            replicate.init({}, tags=["good", tag])  # type: ignore[list-item]

    @pytest.mark.parametrize(("argument", "value"), [("name", "\ud800"), ("notes", "\ud800"), ("tags", ["\ud800"])])
    def test_texts_are_unicode(self, argument: str, value: object) -> None:
        with pytest.raises(replicate.InvalidInput, match=argument.removesuffix("s")):
            replicate.init({}, **{argument: value})  # type: ignore[arg-type]


OUTSIDE = ["..", "../other", "/etc/passwd", "/", "out/../../other", "~/x/../../../.."]


@pytest.mark.usefixtures("nothing_recorded")
class TestPathOfInit:
    @pytest.mark.parametrize("path", ["", "  ", b"model"])
    def test_empty(self, path: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="give a file or directory of the project, or None"):
            replicate.init({}, path=path)  # type: ignore[arg-type]

    @pytest.mark.parametrize("path", OUTSIDE)
    def test_outside_of_the_project(self, project: Path, path: str) -> None:
        with pytest.raises(replicate.InvalidInput, match=f"path '{path}' lies outside of the project {project}"):
            replicate.init({}, path=path)

    def test_missing(self, project: Path) -> None:
        (project / "source").mkdir()
        with pytest.raises(replicate.InvalidInput, match=f"'sorce' does not exist in {project}; similar is: source"):
            replicate.init({}, path="sorce")

    def test_a_link_out_of_the_project(self, project: Path) -> None:
        (project / "dataset").symlink_to("/etc/hostname")
        with pytest.raises(replicate.InvalidInput, match=r"dataset is a link to /etc/hostname.*\.replicateignore"):
            replicate.init({})

    def test_an_ignore_file_that_cannot_be_used(self, project: Path) -> None:
        (project / ".replicateignore").write_bytes(b"\xff")
        with pytest.raises(replicate.ConfigInvalid, match=r"\.replicateignore can't be used"):
            replicate.init({})


class TestPathOfACheckpoint:
    @pytest.mark.parametrize("path", ["", " ", b"model"])
    def test_empty(self, experiment: replicate.Experiment, path: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="give a file or directory of the project, or None"):
            experiment.checkpoint(path, {})  # type: ignore[arg-type]

    @pytest.mark.parametrize("path", [5, {"loss": 1}, ["model"]], ids=repr)
    def test_no_path_at_all(self, experiment: replicate.Experiment, path: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="path"):
            experiment.checkpoint(path, {})  # type: ignore[arg-type]

    @pytest.mark.parametrize("path", ["mod\0el", "x" * 300], ids=["a NUL", "too long"])
    def test_impossible(self, experiment: replicate.Experiment, path: str) -> None:
        with pytest.raises(replicate.InvalidInput, match="path"):
            experiment.checkpoint(path, {})

    @pytest.mark.parametrize("path", OUTSIDE)
    def test_outside_of_the_project(self, experiment: replicate.Experiment, path: str) -> None:
        with pytest.raises(replicate.InvalidInput, match=r"lies outside of the project .*put a replicate\.yaml into"):
            experiment.checkpoint(path, {})

    def test_a_link_out_of_the_project(self, experiment: replicate.Experiment) -> None:
        Path("out/model").symlink_to("/etc/hostname")
        Path("elsewhere").symlink_to("/etc")
        with pytest.raises(replicate.InvalidInput, match="'out/model' is a link to /etc/hostname, outside of the"):
            experiment.checkpoint("out/model", {})
        with pytest.raises(replicate.InvalidInput, match="model is a link to /etc/hostname, which lies outside"):
            experiment.checkpoint("out", {})
        with pytest.raises(replicate.InvalidInput, match="'elsewhere/hostname' lies outside of the project"):
            experiment.checkpoint("elsewhere/hostname", {})

    @pytest.mark.parametrize(
        ("path", "hint"),
        [
            ("modle", "path 'modle' does not exist in {}; similar is: model"),
            ("qqqq", r"path 'qqqq' does not exist in {}; there is: .replicate, model, out"),
            ("out/model", "path 'out/model' does not exist in {}/out; there is: nothing"),
            ("outt/model", "path 'outt/model' does not exist: there is no directory {}/outt"),
            ("model/x", "path 'model/x' does not exist: there is no directory {}/model"),
        ],
    )
    def test_missing_lists_what_is_there(self, experiment, project: Path, path: str, hint: str) -> None:
        with pytest.raises(replicate.InvalidInput) as caught:
            experiment.checkpoint(path, {})
        assert str(caught.value) == hint.format(project)

    def test_a_link_to_nothing_is_missing(self, experiment: replicate.Experiment) -> None:
        Path("latest").symlink_to("nowhere")
        with pytest.raises(replicate.InvalidInput, match="'latest' does not exist"):
            experiment.checkpoint("latest", {})

    def test_a_pipe(self, experiment: replicate.Experiment) -> None:
        os.mkfifo("pipe")
        with pytest.raises(replicate.InvalidInput, match="pipe"):
            experiment.checkpoint("pipe", {})  # whoever opens it waits for ever


class TestMetrics:
    @pytest.mark.parametrize("metrics", [0.5, [("loss", 1)], "loss"], ids=repr)
    def test_that_are_no_dictionary(self, experiment: replicate.Experiment, metrics: object) -> None:
        with pytest.raises(replicate.InvalidInput, match="metrics must be a dictionary, got"):
            experiment.checkpoint("model", metrics)  # type: ignore[arg-type]

    def test_that_json_cannot_hold_name_the_key(self, experiment: replicate.Experiment) -> None:
        with pytest.raises(replicate.InvalidInput, match=r"metrics\['loss'\] is a .*Thing"):
            experiment.checkpoint("model", {"loss": Thing()})
        with pytest.raises(replicate.InvalidInput, match=r"keyword arguments\['optimizer'\] is a .*Thing"):
            experiment.checkpoint("model", {}, optimizer=Thing())

    def test_that_are_given_twice(self, project: Path, experiment: replicate.Experiment) -> None:
        storage = f"memory://{uuid.uuid4().hex}"
        (project / "replicate.yaml").write_text(f"storage: {storage}\nmetrics: {{loss: {{goal: minimize}}}}\n")
        other = replicate.init({}, path=None)
        with pytest.raises(replicate.InvalidInput, match="'loss' is given twice: among the metrics, and as a keyword"):
            other.checkpoint(None, {"loss": 1}, loss=2)
        (project / "replicate.yaml").unlink()


class TestPrimaryMetric:
    @pytest.mark.parametrize(
        "primary",
        ["loss", ("loss",), ("loss", "minimize", 1), ("loss", "min"), ("loss", "MIN IMIZE"), ("", "minimize"),
         (1, "minimize"), {"loss": "minimize"}, 5, ("loss", None), ("loss", ["minimize"])],
        ids=repr,
    )  # fmt: skip
    def test_of_the_wrong_shape_or_goal(self, experiment: replicate.Experiment, primary: object) -> None:
        with pytest.raises(replicate.InvalidInput, match=r'primary_metric must be a pair \(name, "minimize" or "max'):
            experiment.checkpoint("model", {"loss": 1}, primary_metric=primary)  # type: ignore[arg-type]

    @pytest.mark.parametrize("goal", ["MINIMIZE", "Minimize"])
    def test_whose_goal_is_in_capitals_is_meant(self, project: Path, goal: str) -> None:
        made = replicate.init({}, path=None).checkpoint(None, {"loss": 1}, primary_metric=("loss", goal))
        assert made.primary_metric == ("loss", "minimize")

    def test_that_is_mistyped_in_the_configuration_is_a_warning(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("metrics:\n  val_los: {goal: minimize, primary: true}\n")
        experiment = replicate.init({}, path=None)
        with pytest.warns(UserWarning, match=r"yaml marks 'val_los' as primary, .*: did you mean 'val_loss'"):
            experiment.checkpoint(None, {"val_loss": 1})
        experiment.checkpoint(None, {"loss": 1})  # not every checkpoint need have it

    def test_that_is_needed_to_keep_the_best_is_asked_for(self, project: Path) -> None:
        (project / "model").write_text("weights")
        experiment = replicate.init({}, path=None)
        experiment.keep(best=2)
        with pytest.warns(
            UserWarning, match="all files are kept, not those of the best 2 checkpoints: without a primary metric"
        ):
            experiment.checkpoint("model", {"loss": 1})
        experiment.checkpoint("model", {"loss": 1}, ("loss", "minimize"))
        experiment.keep()
        experiment.checkpoint("model", {"loss": 1})

    @pytest.mark.parametrize("value", [[0.5, 0.25], True, "low", {"a": 1}], ids=repr)
    def test_that_is_no_single_number_is_warned_of_once(self, project: Path, value: object) -> None:
        experiment = replicate.init(path=None)
        with pytest.warns(UserWarning, match=r"the primary metric 'f1' is not a single number but .*Name a metric"):
            experiment.checkpoint(None, {"f1": value, "loss": 1.0}, ("f1", "maximize"))
        experiment.checkpoint(None, {"f1": value, "loss": 1.0}, ("f1", "maximize"))
        experiment.stop()
        assert experiment.best() is None
        assert [checkpoint.metrics["f1"] for checkpoint in experiment.checkpoints] == [value, value]

    def test_that_is_absent_is_a_warning_and_best_passes_over_it(self, project: Path) -> None:
        experiment = replicate.init({})
        with pytest.warns(
            UserWarning, match=r"'val_los' is not among the metrics \(val_loss, acc\) \(did you mean 'val_loss'"
        ) as caught:
            experiment.checkpoint(None, {"val_loss": 1, "acc": 2}, ("val_los", "minimize"))
        assert [warning.filename for warning in caught] == [__file__]
        with pytest.warns(UserWarning, match=r"'loss' is not among the metrics \(none\): the checkpoint is recorded"):
            experiment.checkpoint(None, None, ("loss", "minimize"))
        assert experiment.best() is None
        wanted = experiment.checkpoint(None, {"loss": 5}, ("loss", "minimize"))
        with pytest.warns(UserWarning, match="best"):
            experiment.checkpoint(None, {}, ("loss", "minimize"))
        read = replicate.experiments.get(experiment.id)
        assert len(read.checkpoints) == 4
        assert read.best() is not None
        assert read.best().id == wanted.id


@pytest.mark.usefixtures("nothing_recorded")
class TestStorage:
    @pytest.mark.parametrize(
        ("url", "error", "message"),
        [
            (
                "s33://bucket/x",
                replicate.InvalidInput,
                "scheme 's33', which nothing here can open: did you mean s3://b",
            ),
            ("s3:/bucket/x", replicate.InvalidInput, "a slash missing: did you mean s3://bucket/x"),
            ("s3://bucket/x", replicate.MissingExtra, r'replicate\[s3\]"'),
            ("gs://bucket/x", replicate.MissingExtra, r'replicate\[gcs\]"'),
            ("sftp://host/x", replicate.MissingExtra, r'replicate\[sftp\]"'),
            ("ftp://127.0.0.1:1/x", replicate.StorageFailed, r"can't open the storage in ftp://127\.0\.0\.1:1/x"),
        ],
    )
    def test_that_cannot_be_opened(self, project: Path, monkeypatch, url: str, error: type, message: str) -> None:
        for package in ("s3fs", "gcsfs", "paramiko", "sshfs"):
            monkeypatch.setitem(sys.modules, package, None)
        (project / "replicate.yaml").write_text(f"storage: {url}\n")
        if url.startswith("ftp:"):
            monkeypatch.setenv("REPLICATE_TRUST", str(project))
        for action in (lambda: replicate.init({}), replicate.experiments.list):
            with pytest.raises(error, match=message):
                action()
        assert os.listdir(project) == ["replicate.yaml"]

    def test_below_a_file(self, project: Path) -> None:
        (project / "file").touch()
        (project / "replicate.yaml").write_text("storage: file/storage\n")
        for path in (".", None):
            with pytest.raises(
                replicate.StorageFailed, match="There is a file where a directory is needed: name another"
            ):
                replicate.init({}, path=path)
        with pytest.raises(replicate.StorageFailed, match="There is a file where a directory is needed"):
            replicate.experiments.list()

    def test_that_was_made_by_a_newer_version(self, project: Path) -> None:
        (project / ".replicate/storage").mkdir(parents=True)
        (project / ".replicate/storage/replicate.json").write_text('{"format": 2, "digest": "sha256"}')
        for action in (lambda: replicate.init({}), replicate.experiments.list):
            with pytest.raises(replicate.TooNew, match="upgrade replicate"):
                action()

    def test_that_is_something_else(self, project: Path) -> None:
        (project / ".replicate/storage").mkdir(parents=True)
        (project / ".replicate/storage/replicate.json").write_text("experiments: []")
        for action in (lambda: replicate.init({}), replicate.experiments.list):
            with pytest.raises(replicate.Corrupted, match=r"replicate\.json in .* can't be understood"):
                action()


class TestPermissions:
    def test_a_storage_that_may_not_be_written(self, open_directory: Path, as_nobody: Callable) -> None:
        (open_directory / "storage").mkdir(mode=0o755)
        (open_directory / "replicate.yaml").write_text("storage: storage\n")
        (open_directory / "storage").chmod(0o555)
        with (
            as_nobody(),
            pytest.raises(replicate.StorageFailed, match="Check that you may write there, and with which credentials"),
        ):
            replicate.init({})
        assert os.listdir(open_directory / "storage") == []

    def test_a_storage_that_may_be_read_but_not_written(self, open_directory: Path, as_nobody: Callable) -> None:
        with as_nobody():
            replicate.init({"n": 1})
        storage = open_directory / ".replicate/storage"
        for directory in (storage, *(path for path in storage.rglob("*") if path.is_dir())):
            directory.chmod(0o555)
        before = stored(open_directory)
        with as_nobody():
            with pytest.raises(replicate.StorageFailed, match="Check that you may write there"):
                replicate.init({"n": 2})
            assert [experiment.params for experiment in replicate.experiments.list()] == [{"n": 1}]
        assert stored(open_directory) == before

    def test_a_project_that_may_not_be_written(self, open_directory: Path, as_nobody: Callable) -> None:
        (open_directory / "train.py").touch()
        (open_directory / "replicate.yaml").write_text(f"storage: memory://{uuid.uuid4().hex}\n")
        open_directory.chmod(0o555)
        with as_nobody(), pytest.raises(replicate.StorageFailed, match=r"can't use .*/spool, .*make it writable"):
            replicate.init({})
        assert len(replicate.experiments.list()) == 0

    def test_a_file_of_the_project_that_may_not_be_read(self, open_directory: Path, as_nobody: Callable) -> None:
        (open_directory / "private.bin").touch(mode=0)
        with as_nobody(), pytest.raises(replicate.InvalidInput, match=r"private\.bin can't be read"):
            replicate.init({})
        assert stored(open_directory) == []
        (open_directory / ".replicateignore").write_text("*.bin\n")
        with as_nobody():
            assert replicate.init({}).size_bytes == 6


@pytest.mark.usefixtures("nothing_recorded")
class TestConfig:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("storage: [\n", "line 2: this is not valid YAML"),
            ("# mine\nstroage: x\n", "line 2: 'stroage' is not a key of the file: did you mean 'storage'"),
            ("storage: 5\n", "line 1: 'storage' must be a URL or a path"),
            ("metrics: 5\n", "line 1: metrics must hold"),
            ("metrics:\n  loss: {goal: down}\n", "line 2: the goal of 'loss' must be minimize or maximize"),
            ("storage: \xff".encode("latin-1"), "can't be read"),
        ],
    )
    def test_that_cannot_be_used_names_file_and_line(self, project: Path, text: str | bytes, message: str) -> None:
        (project / "replicate.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        for action in (lambda: replicate.init({}), replicate.experiments.list, replicate.Project):
            with pytest.raises(replicate.ConfigInvalid, match=message) as caught:
                action()
            assert str(caught.value).startswith(f"{project}/replicate.yaml")

    def test_in_two_files(self, project: Path) -> None:
        (project / "replicate.yaml").touch()
        (project / "replicate.yml").touch()
        with pytest.raises(replicate.ConfigInvalid, match="keep one of them"):
            replicate.init({})


def test_every_error_is_a_replicate_error_and_one_of_pythons() -> None:
    for error, builtin in {
        replicate.NotFound: KeyError,
        replicate.InvalidInput: ValueError,
        replicate.ConfigInvalid: ValueError,
        replicate.StorageFailed: OSError,
        replicate.MissingExtra: ImportError,
        replicate.Corrupted: Exception,
        replicate.TooNew: Exception,
    }.items():
        assert issubclass(error, replicate.ReplicateError)
        assert issubclass(error, builtin)
