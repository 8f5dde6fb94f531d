"""`replicate://`: whatever opens fsspec URLs reads what checkpoints hold, and writes nothing."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.config import conf

import replicate_core as replicate
from replicate_core.filesystem import ReplicateFileSystem
from replicate_core.format.manifest import follow
from replicate_core.machine.files import write_atomically
from replicate_core.storage.local import LocalStore

TABLE = b"step,loss\n0,0.5\n1,0.25\n"


def save(experiment: replicate.Experiment, loss: float, **files: bytes) -> replicate.Checkpoint:
    """Make a checkpoint of the directory `out` with these files."""
    directory = Path("out")
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name.replace("_", ".")).write_bytes(data)
    return experiment.checkpoint("out", {"loss": loss}, primary_metric=("loss", "minimize"))


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    """Three checkpoints: the second one is the best."""
    made = replicate.init({"lr": 0.01}, path=None)
    (project / "out/deep").mkdir(parents=True)
    (project / "out/deep/notes.txt").write_text("deep")
    for step, loss in enumerate([0.5, 0.25, 0.75]):
        save(made, loss, model_bin=b"weights of step %d" % step, table_csv=TABLE)
    made.stop()
    return made


@pytest.fixture
def fs(experiment: replicate.Experiment) -> ReplicateFileSystem:
    return fsspec.filesystem("replicate")


def read(url: str, **options: object) -> bytes:
    with fsspec.open(url, **options) as file:
        return file.read()


class TestWhatAUrlMeans:
    def test_an_experiment_is_its_best_checkpoint(self, experiment: replicate.Experiment) -> None:
        assert read(f"replicate://{experiment.short_id}/out/model.bin") == b"weights of step 1"
        assert read(f"replicate://{experiment.id}@best/out/model.bin") == b"weights of step 1"

    def test_or_its_latest_where_the_url_says_so(self, experiment: replicate.Experiment) -> None:
        assert read(f"replicate://{experiment.short_id}@latest/out/model.bin") == b"weights of step 2"

    def test_or_its_latest_where_no_checkpoint_has_a_primary_metric(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        for content in ("first", "second"):
            Path("model.bin").write_text(content)
            experiment.checkpoint("model.bin", {"loss": 1.0})
        assert read(f"replicate://{experiment.id}/model.bin") == b"second"
        with pytest.raises(FileNotFoundError, match="none has a primary metric: its latest is replicate://"):
            read(f"replicate://{experiment.id}@best/model.bin")

    def test_a_checkpoint_is_itself(self, experiment: replicate.Experiment) -> None:
        first = experiment.checkpoints[0]
        assert read(f"replicate://{first.short_id}/out/model.bin") == b"weights of step 0"
        with pytest.raises(FileNotFoundError, match="leave out '@best'"):
            read(f"replicate://{first.id}@best/out/model.bin")

    def test_text_and_archives_and_caches_are_those_of_fsspec(
        self, experiment: replicate.Experiment, tmp_path: Path
    ) -> None:
        url = f"replicate://{experiment.short_id}/out/table.csv"
        with fsspec.open(url, "rt") as file:
            assert file.readline() == "step,loss\n"
        cache = {"cache_storage": str(tmp_path / "cache")}
        assert read(f"simplecache::{url}", simplecache=cache) == TABLE

        with zipfile.ZipFile("model.zip", "w") as archive:
            archive.writestr("inside.txt", "packed")
        other = replicate.init({}, path=None)
        other.checkpoint("model.zip", {})
        assert read(f"zip://inside.txt::replicate://{other.id}/model.zip") == b"packed"

    def test_what_is_not_stored_yet_is_read_too(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: object) -> None:
            raise replicate.StorageFailed("the network is down")

        experiment = replicate.init({}, path=None)
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "put_file", down)
            Path("out").mkdir()
            Path("out/model.bin").write_bytes(b"not stored")
            Path("out/last.bin").symlink_to("model.bin")
            with pytest.warns(UserWarning, match="waits in"):
                made = experiment.checkpoint("out", {})
            assert read(f"replicate://{made.id}/out/model.bin") == b"not stored"
            assert read(f"replicate://{made.id}/out/last.bin") == b"not stored"
            assert not experiment.latest().is_stored
        experiment.stop()
        assert experiment.latest().is_stored
        assert read(f"replicate://{made.id}/out/last.bin") == b"not stored"
        assert made.links == {"out/last.bin": "model.bin"}, "an object from before it was stored looks again"


class TestWhichProjectIsRead:
    def test_the_one_around_the_working_directory(
        self, experiment: replicate.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"replicate://{experiment.id}/out/model.bin"
        fs = fsspec.filesystem("replicate")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(url)
        assert fs.cat_file(url) == b"weights of step 1", "what is open stays with its project"

    def test_another_one_where_options_say_so(
        self, experiment: replicate.Experiment, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"replicate://{experiment.id}/out/model.bin"
        monkeypatch.chdir(tmp_path)
        assert read(url, directory=str(project)) == b"weights of step 1"
        assert read(url, storage=str(project / ".replicate/storage")) == b"weights of step 1"
        assert read(url, storage="project/.replicate/storage") == b"weights of step 1"
        monkeypatch.setitem(conf, "replicate", {"directory": str(project)})
        assert read(url) == b"weights of step 1"

    @pytest.mark.parametrize("options", [{}, {"storage": ".replicate/storage"}], ids=["project", "storage"])
    def test_the_same_one_in_another_process_that_works_elsewhere(
        self, experiment: replicate.Experiment, tmp_path: Path, options: dict[str, str]
    ) -> None:
        opened = fsspec.open(f"replicate://{experiment.id}/out/model.bin", **options)
        (tmp_path / "pickled").write_bytes(pickle.dumps(opened))
        code = "import pickle; print(pickle.load(open('pickled', 'rb')).open().read().decode())"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "weights of step 1\n"

    def test_with_what_its_driver_is_told(self, project: Path) -> None:
        told = {"secret": "${REPLICATE_TEST_UNSET}"}
        fs = fsspec.filesystem("replicate", storage="s3://bucket", storage_options=told)
        for opened in (fs, pickle.loads(pickle.dumps(fs))):
            with pytest.raises(replicate.ConfigInvalid, match="REPLICATE_TEST_UNSET"):
                opened.ls("")

    def test_a_storage_can_not_be_one_of_our_own_urls(self, experiment: replicate.Experiment) -> None:
        for storage in (f"replicate://{experiment.id}", "Replicate://x"):
            with pytest.raises(replicate.InvalidInput, match="is invalid: replicate:// can only read"):
                replicate.Project(storage=storage)


class TestListing:
    def test_the_root_lists_experiments(self, experiment: replicate.Experiment, fs: ReplicateFileSystem) -> None:
        empty = replicate.init({}, path=None)
        assert fs.ls("replicate://", detail=False) == [experiment.id, empty.id]
        assert fs.find("")[0] == f"{experiment.id}/out/deep/notes.txt"
        assert fs.find("", maxdepth=1) == []
        assert fs.glob("replicate://*/out/*.bin") == [f"{experiment.id}/out/model.bin"]
        assert fs.info("") == {"name": "", "size": 0, "type": "directory"}
        assert fs.modified("") is None

    def test_a_directory_lists_what_is_in_it(self, experiment: replicate.Experiment, fs: ReplicateFileSystem) -> None:
        top = f"{experiment.short_id}@latest"
        assert fs.ls(f"replicate://{top}", detail=False) == [f"{top}/out"]
        inside = {"deep", "model.bin", "table.csv"}
        assert set(fs.ls(f"replicate://{top}/out/", detail=False)) == {f"{top}/out/{name}" for name in inside}
        assert fs.ls(f"{top}/out/table.csv", detail=False) == [f"{top}/out/table.csv"]
        assert list(fs.walk(top)) == [
            (top, ["out"], []),
            (f"{top}/out", ["deep"], ["model.bin", "table.csv"]),
            (f"{top}/out/deep", [], ["notes.txt"]),
        ]

    def test_files_are_found_at_any_depth(self, experiment: replicate.Experiment, fs: ReplicateFileSystem) -> None:
        top = experiment.short_id
        files = [f"{top}/out/deep/notes.txt", f"{top}/out/model.bin", f"{top}/out/table.csv"]
        assert fs.find(f"replicate://{top}") == files
        assert fs.find(top, maxdepth=2) == files[1:]
        assert fs.find(top, maxdepth=1) == []
        assert fs.find(top, maxdepth=2, withdirs=True) == [top, f"{top}/out", f"{top}/out/deep", *files[1:]]
        assert fs.find(files[1]) == [files[1]]
        assert fs.find(f"{top}/nothing") == []
        assert fs.glob(f"replicate://{top}/**/*.txt") == files[:1]
        assert fs.du(top) == 4 + len(b"weights of step 1") + len(TABLE)
        with pytest.raises(ValueError, match="maxdepth"):
            fs.find(top, maxdepth=0)

    def test_what_is_known_of_a_file(self, experiment: replicate.Experiment, fs: ReplicateFileSystem) -> None:
        best = experiment.best()
        name = f"{experiment.short_id}/out/table.csv"
        expected = {"created": best.created, "checkpoint": best.id, "step": 1}
        assert fs.info(f"replicate://{name}") == {"name": name, "size": len(TABLE), "type": "file", **expected}
        assert fs.modified(name) == fs.created(name) == best.created
        assert (fs.exists(name), fs.isfile(name), fs.isdir(name)) == (True, True, False)
        assert (fs.exists(f"{name}/x"), fs.exists("zzzz"), fs.isdir(experiment.id)) == (False, False, True)

    def test_a_storage_that_fails_is_no_answer(self, experiment, fs, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: object) -> None:
            raise replicate.StorageFailed("the network is down")

        monkeypatch.setattr(LocalStore, "names", down)
        with pytest.raises(replicate.StorageFailed):
            fs.exists(f"{experiment.id}/out/model.bin")

    def test_directories_are_copied_out(self, experiment, fs, tmp_path: Path) -> None:
        fs.get(f"replicate://{experiment.id}/out", str(tmp_path / "got"), recursive=True)
        assert (tmp_path / "got/deep/notes.txt").read_text() == "deep"
        assert (tmp_path / "got/table.csv").read_bytes() == TABLE


class TestTheProject:
    """The files of the project open through a checkpoint; its own files come first."""

    @pytest.fixture
    def made(self, project: Path) -> list[replicate.Checkpoint]:
        (project / "src").mkdir()
        (project / "out").mkdir()
        for path in ("train.py", "src/layers.py", "model.txt", "out/table.csv", "out/other.csv"):
            (project / path).write_text(f"code {path}")
        (project / "main.py").symlink_to("train.py")
        experiment = replicate.init({})
        (project / "model.txt").write_text("weights")
        (project / "out/table.csv").write_text("measured")
        made = [experiment.checkpoint(path, {}) for path in ("model.txt", None, "out/table.csv")]
        experiment.stop()
        return made

    def test_opens_by_its_names(self, made: list[replicate.Checkpoint]) -> None:
        for top in (made[0].experiment_id, *(item.id for item in made)):
            assert read(f"replicate://{top}/train.py") == b"code train.py"
            assert read(f"replicate://{top}/main.py") == b"code train.py"
            assert read(f"replicate://{top}/src/layers.py") == b"code src/layers.py"

    def test_is_not_listed_beside_what_the_checkpoint_saved(self, made: list[replicate.Checkpoint]) -> None:
        fs, top = fsspec.filesystem("replicate"), made[0].id
        assert fs.find(top) == fs.ls(top, detail=False) == [f"{top}/model.txt"]
        assert fs.glob(f"{top}/*.py") == []
        assert fs.isfile(f"{top}/train.py")
        assert fs.ls(f"{top}/src", detail=False) == [f"{top}/src/layers.py"], "a directory that is named is listed"
        assert fs.ls(f"{made[2].id}/out", detail=False) == [f"{made[2].id}/out/table.csv"]

    def test_never_stands_for_what_a_checkpoint_saved(self, made: list[replicate.Checkpoint]) -> None:
        assert read(f"replicate://{made[0].id}/model.txt") == b"weights"
        for url in (f"{made[1].id}/model.txt", f"{made[2].id}/model.txt", f"{made[0].id}/out/table.csv"):
            with pytest.raises(FileNotFoundError):
                read(f"replicate://{url}")
        assert fsspec.filesystem("replicate").ls(f"{made[0].id}/out", detail=False) == [f"{made[0].id}/out/other.csv"]


class TestLinks:
    @pytest.fixture
    def top(self, project: Path) -> str:
        (project / "out/deep").mkdir(parents=True)
        (project / "out/deep/model.bin").write_bytes(b"weights")
        (project / "out/last.bin").symlink_to("deep/model.bin")
        (project / "out/newest").symlink_to("deep")
        (project / "out/gone").symlink_to("nothing")
        return replicate.init({}, path=None).checkpoint("out", {}).short_id

    def test_are_followed_to_files_and_directories(self, top: str) -> None:
        assert read(f"replicate://{top}/out/last.bin") == b"weights"
        assert read(f"replicate://{top}/out/newest/model.bin") == b"weights"
        with pytest.raises(FileNotFoundError):
            read(f"replicate://{top}/out/gone")

    def test_are_listed_as_what_they_lead_to(self, top: str) -> None:
        fs = fsspec.filesystem("replicate")
        found = {info["name"].removeprefix(f"{top}/out/"): info for info in fs.ls(f"{top}/out")}
        assert {name: info["type"] for name, info in found.items()} == {
            "deep": "directory",
            "last.bin": "file",
            "newest": "directory",
        }
        assert (found["last.bin"]["size"], found["last.bin"]["destination"]) == (7, "deep/model.bin")
        assert fs.ls(f"{top}/out/newest", detail=False) == [f"{top}/out/newest/model.bin"]

    @pytest.mark.parametrize(
        ("path", "leads_to"),
        [("a/x", "b/c/x"), ("up", "top"), ("a/../x", "b/x"), ("none", "none"), ("", ""), ("./b//x", "b/x")],
    )
    def test_lead_where_the_operating_system_would_go(self, path: str, leads_to: str) -> None:
        assert follow(path, {"a": "b/link", "b/link": "./c", "up": "b/../top"}) == leads_to

    def test_that_lead_in_a_circle_lead_nowhere(self) -> None:
        assert follow("a", {"a": "b", "b": "a"}) == ""


class TestReading:
    @pytest.fixture
    def large(self, project: Path) -> tuple[str, bytes]:
        """A file of twelve parts, and its URL."""
        data = os.urandom(12 << 20)
        Path("large.bin").write_bytes(data)
        made = replicate.init({}, path=None).checkpoint("large.bin", {})
        return f"replicate://{made.id}/large.bin", data

    @pytest.mark.parametrize(
        ("start", "end"), [(0, 10), (3, None), (None, 7), (-5, None), (5, -5), (9, 3), (0, 99999999)]
    )
    def test_ranges_are_those_of_slices(self, large: tuple[str, bytes], start: int | None, end: int | None) -> None:
        url, data = large
        fs = fsspec.filesystem("replicate")
        assert fs.cat_file(url, start, end) == data[start:end]
        assert fs.cat_ranges([url, url], [0, 7], [3, 9]) == [data[:3], data[7:9]]

    def test_only_what_is_asked_for_is_fetched(
        self, large: tuple[str, bytes], project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, data = large
        fetched, plain = [], LocalStore.get

        def counted(self: LocalStore, key: str, start: int = 0, end: int | None = None) -> bytes:
            found = plain(self, key, start, end)
            fetched.extend([len(found)] if key.startswith("data/") else [])
            return found

        monkeypatch.setattr(LocalStore, "get", counted)
        with fsspec.open(url) as file:
            file.seek(5 << 20)
            assert file.read(100) == data[5 << 20 :][:100]
            assert file.seek(-3, io.SEEK_END) == len(data) - 3
            assert file.read() == data[-3:]
        assert sum(fetched) <= 3 << 20

    def test_a_damaged_byte_is_never_handed_over(self, large: tuple[str, bytes], project: Path) -> None:
        url, data = large
        (stored,) = project.glob(".replicate/storage/data/*/*.bin")
        damaged = bytearray(stored.read_bytes())
        damaged[6 << 20] ^= 1
        write_atomically(stored, bytes(damaged))
        fs = fsspec.filesystem("replicate")
        assert fs.cat_file(url, 0, 100) == data[:100]
        with pytest.raises(replicate.Corrupted):
            fs.cat_file(url, 6 << 20, (6 << 20) + 10)
        with pytest.raises(replicate.Corrupted):
            read(url)


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("zzzz/model.bin", "has an id that begins with 'zzzz'"),
            ("EXPERIMENT/model", "has no file 'model'; it has 'out/"),
            ("EXPERIMENT@bset/out/model.bin", "there must be best or latest, not 'bset'"),
            ("EXPERIMENT", "is a directory: name a file in it"),
            ("EXPERIMENT/out", "is a directory: name a file in it"),
        ],
        ids=["experiment", "file", "moment", "no file named", "directory"],
    )
    def test_says_what_is(self, experiment: replicate.Experiment, url: str, text: str) -> None:
        with pytest.raises((FileNotFoundError, IsADirectoryError), match=text):
            read("replicate://" + url.replace("EXPERIMENT", experiment.id))

    def test_an_experiment_without_checkpoints(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        with pytest.raises(FileNotFoundError, match="has no checkpoint"):
            read(f"replicate://{experiment.id}/model.bin")

    def test_a_checkpoint_of_metrics_names_the_nearest_ones_with_files(self, experiment: replicate.Experiment) -> None:
        other = replicate.init({}, path=None)
        before = save(other, 0.5, model_bin=b"weights")
        between = other.checkpoint(None, {"loss": 0.1}, ("loss", "minimize"))
        after = save(other, 0.4, model_bin=b"better")
        with pytest.raises(FileNotFoundError, match="has no files: none were given when it was made") as caught:
            read(f"replicate://{between.id}/out/model.bin")
        nearest = f"nearest with files: {before.short_id} (step 0) and {after.short_id} (step 2)"
        assert nearest in str(caught.value)
        for which in ("", "@best", "@latest"):
            assert read(f"replicate://{other.id}{which}/out/model.bin") == b"better"

    def test_files_that_were_let_go(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        experiment.keep(best=1, last=1)
        made = [save(experiment, loss, model_bin=os.urandom(9)) for loss in (0.5, 0.1, 0.2)]
        experiment.stop()
        with pytest.raises(FileNotFoundError, match=r"were deleted, as experiment.keep.*The nearest with files"):
            read(f"replicate://{made[0].id}/out/model.bin")


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, url: fs.open(url, "wb"),
        lambda fs, url: fs.open(url, "ab"),
        lambda fs, url: fsspec.open(url, "w").open(),
        lambda fs, url: fs.pipe(url, b"data"),
        lambda fs, url: fs.write_text(url, "data"),
        lambda fs, url: fs.put(__file__, url),
        lambda fs, url: fs.makedirs(url, exist_ok=True),
        lambda fs, url: fs.mkdir(url),
        lambda fs, url: fs.rmdir(url),
        lambda fs, url: fs.rm(url, recursive=True),
        lambda fs, url: fs.mv(url, url + "2"),
        lambda fs, url: fs.copy(url, url + "2"),
        lambda fs, url: fs.touch(url),
    ],
    ids=[
        "open",
        "append",
        "text",
        "pipe",
        "write_text",
        "put",
        "makedirs",
        "mkdir",
        "rmdir",
        "rm",
        "mv",
        "copy",
        "touch",
    ],
)
def test_nothing_is_written(
    experiment: replicate.Experiment, fs: ReplicateFileSystem, write: Callable[[ReplicateFileSystem, str], object]
) -> None:
    with pytest.raises(replicate.InvalidInput, match=r"is read-only: .* experiment\.checkpoint\(path, metrics\)"):
        write(fs, f"replicate://{experiment.id}/out/model.bin")
    assert fs.cat_file(f"{experiment.id}/out/model.bin") == b"weights of step 1"


def test_fsspec_finds_it_where_replicate_is_only_installed() -> None:
    code = (
        "import fsspec, sys; assert 'replicate_core' not in sys.modules\n"
        "print(fsspec.get_filesystem_class('replicate'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "replicate_core.filesystem.ReplicateFileSystem" in done.stdout
