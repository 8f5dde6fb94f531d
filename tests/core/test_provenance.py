"""From the bytes of a file to the checkpoints and experiments that hold them."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.format import manifest
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.storage.local import LocalStore


def whence(file: object) -> list[tuple[str, int | None, str]]:
    """Experiment's name, checkpoint's step (None: its code) and path of every holder."""
    return [
        (holder.experiment.name, None if holder.checkpoint is None else holder.checkpoint.step, holder.path)
        for holder in replicate.Project().whence(file)
    ]


def begin(name: str, path: str | None = None) -> replicate.Experiment:
    return replicate.init({}, name=name, path=path)


class TestAFile:
    @pytest.mark.parametrize("size", [1, 100, SMALL_BYTES, SMALL_BYTES + 1, 3 << 20], ids=str)
    def test_is_found_whatever_its_name_and_size(self, project: Path, tmp_path: Path, size: int) -> None:
        experiment = begin("first")
        for step in range(3):
            data = os.urandom(size - 1) + bytes([step])
            Path("model.bin").write_bytes(data)
            experiment.checkpoint("model.bin", {})
            (tmp_path / f"renamed-{step}").write_bytes(data)
        experiment.stop()
        for step in range(3):
            (found,) = replicate.Project().whence(tmp_path / f"renamed-{step}")
            assert (found.experiment.id, found.checkpoint.step) == (experiment.id, step)

    def test_that_changed_by_one_byte_is_not_found(self, project: Path) -> None:
        data = os.urandom(3 << 20)
        Path("model.bin").write_bytes(data)
        begin("first").checkpoint("model.bin", {})
        for place in (0, len(data) // 2, len(data) - 1):
            changed = bytearray(data)
            changed[place] ^= 1
            Path("changed").write_bytes(changed)
            assert whence("changed") == []
        for other in (data[:-1], data + b"x", data[::-1]):
            Path("changed").write_bytes(other)
            assert whence("changed") == []

    def test_is_found_in_everything_that_holds_it(self, project: Path) -> None:
        Path("out").mkdir()
        Path("out/a.bin").write_bytes(b"the same")
        Path("out/b.bin").write_bytes(b"the same")
        first = begin("first", "out")
        first.checkpoint("out", {})
        second = begin("second")
        second.checkpoint("out/b.bin", {}, step=7)
        assert whence("out/a.bin") == [
            ("first", 0, "out/a.bin"),  # and not its code: what lay there before is not what checkpoints saved
            ("first", 0, "out/b.bin"),
            ("second", 7, "out/b.bin"),
        ]

    def test_that_was_cut_at_its_tensors_is_found(self, project: Path) -> None:
        frozen, head = os.urandom(300_000), os.urandom(70_000)
        experiment = begin("first")
        for step in range(2):
            with zipfile.ZipFile("model.pt", "w") as archive:
                archive.writestr("history", b"x" * (step + 1))
                archive.writestr("frozen", frozen)
                archive.writestr("head", head[::-1] if step else head)
            shutil.copy("model.pt", f"copy-{step}")
            experiment.checkpoint("model.pt", {})
            Path("model.pkl").write_bytes(pickle.dumps({"step": step, "frozen": frozen}))
            shutil.copy("model.pkl", f"pickle-{step}")
            experiment.checkpoint("model.pkl", {})
        experiment.stop()
        assert [whence(f"copy-{step}") for step in range(2)] == [[("first", 0, "model.pt")], [("first", 2, "model.pt")]]
        assert [whence(f"pickle-{step}")[0][1] for step in range(2)] == [1, 3]

    def test_is_found_however_it_was_cut(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("model.bin").write_bytes(os.urandom(1 << 20))
        with monkeypatch.context() as patched:
            patched.setattr("replicate_core.format.chunks.GRID_BYTES", 100_000)
            begin("first").checkpoint("model.bin", {})
        assert whence("model.bin") == [("first", 0, "model.bin")]

    def test_that_is_compressed_is_found(self, project: Path) -> None:
        Path("replicate.yaml").write_text("compression: max\n")
        Path("log.txt").write_text("the same line\n" * 100_000)
        begin("first").checkpoint("log.txt", {})
        assert whence("log.txt") == [("first", 0, "log.txt")]

    def test_that_is_empty_is_found_with_every_empty_one(self, project: Path) -> None:
        Path("nothing").touch()
        assert whence("nothing") == []
        begin("first").checkpoint("nothing", {})
        assert whence("nothing") == [("first", 0, "nothing")]

    def test_that_is_code_is_found(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("print(1)\n")
        experiment = begin("first", ".")
        experiment.stop()
        Path("train.py").write_text("print(2)\n")
        (tmp_path / "old.py").write_text("print(1)\n")
        assert whence(tmp_path / "old.py") == [("first", None, "train.py")]
        assert whence("train.py") == []

    def test_that_is_code_of_several_sessions_is_found_once(self, project: Path) -> None:
        (project / "train.py").write_text("print(1)")
        resume = None
        for _ in range(2):
            with replicate.init({}, name="again", resume=resume) as experiment:
                experiment.checkpoint(None, {"loss": 1})
            resume = experiment.id
        assert whence("train.py") == [("again", None, "train.py")]

    def test_of_code_that_was_changed_before_it_was_resumed_is_found(self, project: Path) -> None:
        resume = None
        for content in ("print(1)\n", "print(2)\n"):
            Path("train.py").write_text(content)
            experiment = replicate.init({}, name="first", resume=resume)
            resume = experiment.id
            Path("model.bin").write_bytes(b"weights")
            experiment.checkpoint("model.bin", {})
            experiment.stop()
        Path("old.py").write_text("print(1)\n")
        assert whence("old.py") == [("first", None, "train.py")]
        assert ("first", None, "train.py") in whence("train.py")

    def test_that_is_not_stored_yet_is_found(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: object) -> None:
            raise replicate.StorageFailed("the network is down")

        experiment = begin("first")
        Path("out").mkdir()
        for name, content in (("a.bin", b"weights"), ("b.bin", b"others!"), ("c.bin", b"longer than these")):
            Path("out", name).write_bytes(content)
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "put_file", down)
            with pytest.warns(UserWarning, match="waits in"):
                experiment.checkpoint("out", {})
            assert whence("out/a.bin") == [("first", 0, "out/a.bin")]
            assert not replicate.Project().whence("out/a.bin")[0].checkpoint.is_stored
            patched.setattr("replicate_core.views.source.Source.open_waiting", lambda *_: None)
            assert whence("out/a.bin") == [], "stored between two looks: the next one finds it"
        experiment.stop()
        assert whence("out/a.bin") == [("first", 0, "out/a.bin")]

    def test_that_was_deleted_or_let_go_is_not_found(self, project: Path) -> None:
        experiment = begin("first")
        experiment.keep(best=1, last=1)
        for step in range(3):
            Path("model.bin").write_bytes(b"weights %d" % step)
            shutil.copy("model.bin", f"copy-{step}")
            experiment.checkpoint("model.bin", {"loss": step}, ("loss", "minimize"))
        experiment.stop()
        assert [bool(whence(f"copy-{step}")) for step in range(3)] == [True, False, True]
        replicate.experiments.list().delete()
        assert whence("copy-0") == []


class TestWhatCanNotBeRead:
    def test_is_no_file(self, project: Path) -> None:
        with pytest.raises(replicate.InvalidInput, match="nothing can't be read: No such file"):
            whence("nothing")
        with pytest.raises(replicate.InvalidInput, match="can't be read: Is a directory"):
            whence(project)

    @pytest.mark.parametrize(
        "spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])], ids=["missing", "cut"]
    )
    def test_is_a_manifest_which_hides_only_what_it_lists(self, project: Path, spoil) -> None:
        experiment = begin("first")
        for _ in range(2):
            Path("model.bin").write_bytes(b"weights")
            experiment.checkpoint("model.bin", {})
        experiment.stop()
        spoil(max(project.glob(".replicate/storage/manifests/*")))
        with pytest.warns(UserWarning, match="not searched: "):
            assert whence("model.bin") == [("first", 0, "model.bin")]


def test_only_manifests_are_fetched_and_few_are_parsed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = begin("first")
    for step in range(300):
        Path("model.bin").write_bytes(b"w" * (step + 10))
        experiment.checkpoint("model.bin", {})
    experiment.stop()
    Path("copy").write_bytes(b"w" * 42)
    read, parsed = [], []
    plain, decode = LocalStore.get, manifest.decode
    monkeypatch.setattr(LocalStore, "get", lambda self, key, *range_: read.append(key) or plain(self, key, *range_))
    monkeypatch.setattr(
        "replicate_core.format.manifest.decode", lambda *a, key: parsed.append(key) or decode(*a, key=key)
    )
    assert whence("copy") == [("first", 32, "model.bin")]
    assert not [key for key in read if key.startswith("data/")]
    assert len(parsed) == 1
