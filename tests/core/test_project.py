"""The whole path through the public API, and which project and which storage are meant."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from projects import found, only, write

import replicate_core as replicate
from replicate_core.filesystem import ReplicateFileSystem
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.recording import notices
from replicate_core.workspace import Workspace


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
        with pytest.raises(
            replicate.InvalidInput, match="'archive' is relative to the working directory, which is gone"
        ):
            replicate.Project(storage="archive", directory=project)

    @pytest.mark.usefixtures("gone")
    def test_so_does_a_relative_project(self) -> None:
        with pytest.raises(
            replicate.InvalidInput, match="'project' is relative to the working directory, which is gone"
        ):
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
