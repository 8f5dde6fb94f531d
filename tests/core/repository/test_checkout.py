"""Files are laid out whole and verified, later snapshots over earlier ones, and never outside of the directory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from projects import found

from replicate_core.errors import Corrupted, InvalidInput, NotFound, StorageFailed
from replicate_core.format.digest import digest
from replicate_core.format.manifest import File, Manifest, Part
from replicate_core.repository import checkout
from replicate_core.repository.checkout import Layout, check_out, lay_out
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(LocalStore(tmp_path / "storage"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "output"


def stored(repository: Repository, text: str, *, mode: int = 0o644) -> File:
    data = text.encode()
    key = repository.new_object_key(digest(data), "")
    repository.store.put(key, data)
    return File(len(data), mode, (Part(key, 0, len(data), digest(data)),))


def layout(repository: Repository, files: Mapping[str, str], links=None, directories=()) -> Layout:
    return Layout({path: stored(repository, text) for path, text in files.items()}, links or {}, tuple(directories))


EMPTY = File(0, 0o644, ())
OTHER = File(0, 0o755, ())


def manifest(*files: str, links: Mapping[str, str] | None = None, directories: tuple[str, ...] = ()) -> Manifest:
    return Manifest(dict.fromkeys(files, EMPTY), links or {}, directories)


class TestThousandsOfDirectories:
    """A path may have as many names as the system takes, and a hostile one more."""

    def test_inside_one_another_are_laid_out(self, repository: Repository, output: Path) -> None:
        room = os.pathconf("/", "PC_PATH_MAX") - len(str(output)) - 60
        deep = "d/" * (room // 2)
        assert deep.count("/") > sys.getrecursionlimit()
        files = {f"{deep}model.bin": stored(repository, "weights"), "code.py": stored(repository, "code")}
        content = Manifest(files, {f"{deep}latest": "model.bin"}, (f"{deep}logs",))
        key = repository.put_manifest(replace(content, object_bytes={part.object: 7 for part in parts_of(content)}))
        plan = lay_out([manifest(deep.rstrip("/")), repository.manifest(key)])
        check_out(repository, plan, output)
        assert (output / deep / "model.bin").read_text() == (output / deep / "latest").read_text() == "weights"
        assert (output / deep / "logs").is_dir()
        assert plan.replaced(output) == []
        check_out(repository, plan, output)  # over itself
        remove(output)

    def test_deeper_than_the_system_takes_is_a_clear_error_that_changes_nothing(
        self, repository: Repository, output: Path
    ) -> None:
        deep = "d/" * 2000 + "model.bin"
        plan = lay_out([Manifest({deep: stored(repository, "weights"), "code.py": stored(repository, "code")})])
        output = output / ("n" * 200)
        with pytest.raises(StorageFailed, match=r"can't write to .*too long.*shorter path$"):
            check_out(repository, plan, output)
        assert not (output / "code.py").exists()

    def test_in_many_paths_take_little_memory(self) -> None:
        deep = {"/".join([str(number), *["d"] * 1900]): EMPTY for number in range(100)}
        content = Manifest(deep)
        tracemalloc.start()
        try:
            assert lay_out([content, content]).files == deep
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


def parts_of(content: Manifest) -> list[Part]:
    return [part for file in content.files.values() for part in file.parts]


def remove(directory: Path) -> None:
    """Remove what `shutil.rmtree` of older Pythons is too deep for."""
    subprocess.run(["rm", "-r", directory], check=True)


class TestLayingOut:
    def test_no_snapshots_are_nothing(self) -> None:
        assert lay_out([]) == Layout({}, {}, ())

    def test_a_later_snapshot_goes_over_an_earlier_one(self) -> None:
        code = manifest("train.py", "model.bin", links={"latest": "model.bin"}, directories=("logs",))
        checkpoint = Manifest({"model.bin": OTHER}, {"latest": "train.py"}, ("more",))
        assert lay_out([code, checkpoint]) == Layout(
            {"train.py": EMPTY, "model.bin": OTHER}, {"latest": "train.py"}, ("logs", "more")
        )

    def test_a_file_takes_the_place_of_a_link_and_a_link_that_of_a_file(self) -> None:
        assert lay_out([manifest("b", links={"a": "b"}), manifest("a", links={"b": "a"})]) == Layout(
            {"a": EMPTY}, {"b": "a"}, ()
        )

    def test_a_directory_takes_the_place_of_a_file_or_link(self) -> None:
        code = manifest("out", "kept", links={"logs": "kept"})
        assert lay_out([code, manifest("out/model.bin", "logs/today")]) == Layout(
            {"kept": EMPTY, "out/model.bin": EMPTY, "logs/today": EMPTY}, {}, ()
        )

    def test_an_empty_directory_takes_the_place_of_a_file_too(self) -> None:
        assert lay_out([manifest("out"), manifest(directories=("out",))]) == Layout({}, {}, ("out",))
        assert lay_out([manifest("out"), manifest(directories=("out/deep",))]) == Layout({}, {}, ("out/deep",))

    def test_a_file_takes_the_place_of_a_directory_and_all_below(self) -> None:
        code = manifest("out/a", "out/b/c", "outer", links={"out/l": "a"}, directories=("out/empty",))
        assert lay_out([code, manifest("out")]) == Layout({"outer": EMPTY, "out": EMPTY}, {}, ())

    @pytest.mark.parametrize("only", ["out", "out/", "./out", "a/../out"])
    def test_only_a_directory(self, only: str) -> None:
        code = manifest("out/a", "outer", "train.py", links={"out/l": "a"}, directories=("out/empty", "empty"))
        assert lay_out([code], only=only) == Layout({"out/a": EMPTY}, {"out/l": "a"}, ("out/empty",))

    def test_only_a_file_a_link_or_an_empty_directory(self) -> None:
        code = manifest("a", "b", links={"l": "a"}, directories=("empty",))
        assert lay_out([code], only="a") == Layout({"a": EMPTY}, {}, ())
        assert lay_out([code], only="l") == Layout({}, {"l": "a"}, ())
        assert lay_out([code], only="empty") == Layout({}, {}, ("empty",))

    def test_only_everything(self) -> None:
        code = manifest("a", links={"l": "a"}, directories=("empty",))
        assert lay_out([code], only=".") == lay_out([code])

    def test_a_path_that_is_not_there_lists_those_that_are(self) -> None:
        with pytest.raises(NotFound, match="nothing has the path 'c'; there is: a, b/x"):
            lay_out([manifest("b/x", links={"a": "b/x"})], only="c")
        with pytest.raises(NotFound, match="there is: nothing"):
            lay_out([], only="../c")

    def test_snapshots_that_are_dangerous_together_are_refused(self) -> None:
        code = manifest("real/x", links={"a": "real"})
        checkpoint = manifest(links={"b": "a/../../outside"})
        with pytest.raises(InvalidInput, match="can't be laid out in one directory: the link 'b' points out"):
            lay_out([code, checkpoint])

    def test_what_would_be_replaced_is_known(self, output: Path) -> None:
        plan = Layout({"a": EMPTY, "b/c": EMPTY}, {"l": "a"}, ("empty",))
        assert plan.existing(output) == []
        (output / "empty").mkdir(parents=True)
        (output / "a").touch()
        (output / "l").symlink_to("nowhere")
        assert plan.existing(output) == ["a", "l"]


class TestCheckingOut:
    def test_files_links_and_empty_directories_are_there(self, repository: Repository, output: Path) -> None:
        files = {"train.py": "print()\n", "données/模型.txt": "x", "empty": ""}
        plan = layout(
            repository, {"train.py": "print()\n", "données/模型.txt": "x"}, {"deep/l": "../train.py"}, ("logs/now",)
        )
        plan.files["empty"] = EMPTY
        check_out(repository, plan, output)
        assert found(output) == files | {"deep/l": "-> ../train.py", "logs/now": "/"}

    def test_a_relative_directory_is_made_where_one_stands(self, repository, project: Path) -> None:
        check_out(repository, layout(repository, {"a": "1"}), Path("new/output"))
        assert found(project) == {"new/output/a": "1"}

    @pytest.mark.parametrize(
        ("saved", "umask", "found"),
        [
            (0o700, 0o022, 0o700),
            (0o600, 0o022, 0o600),
            (0o640, 0o002, 0o660),
            (0o755, 0o027, 0o750),
            (0o644, 0o022, 0o644),
            (0o444, 0o022, 0o644),
            (0o000, 0o022, 0o600),
        ],
    )
    def test_programs_can_be_run_what_was_private_stays_so_and_the_rest_is_up_to_the_user(
        self, repository: Repository, output: Path, saved: int, umask: int, found: int
    ) -> None:
        plan = Layout({"file": stored(repository, "x", mode=saved)}, {}, ())
        before = os.umask(umask)
        try:
            check_out(repository, plan, output)
        finally:
            os.umask(before)
        assert stat.S_IMODE((output / "file").stat().st_mode) == found

    def test_directories_with_private_files_alone_are_private(self, repository: Repository, output: Path) -> None:
        files = {"keys/deep/key": 0o600, "keys/note": 0o600, "mixed/key": 0o600, "mixed/readme": 0o644}
        plan = Layout({path: stored(repository, path, mode=mode) for path, mode in files.items()}, {"l/k": "x"}, ("e",))
        before = os.umask(0o022)
        try:
            check_out(repository, plan, output)
        finally:
            os.umask(before)
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in output.rglob("*") if path.is_dir()}
        assert found == {"keys": 0o700, "deep": 0o700, "mixed": 0o755, "l": 0o755, "e": 0o755}

    def test_what_was_private_is_readable_for_nobody_else_while_it_is_fetched(
        self, repository: Repository, output: Path
    ) -> None:
        seen = set()

        def look(_done: int, _all: int) -> None:
            seen.update(stat.S_IMODE(path.stat().st_mode) for path in output.rglob("*") if path.is_file())

        check_out(repository, Layout({"key": stored(repository, "x", mode=0o600)}, {}, ()), output, look)
        assert seen == {0o600}

    def test_what_stands_there_is_replaced_and_the_rest_kept(self, repository: Repository, output: Path) -> None:
        output.mkdir()
        (output / "a").write_text("old")
        (output / "mine").write_text("mine")
        (output / "l").symlink_to("mine")
        (output / "to-file").symlink_to("mine")
        check_out(repository, layout(repository, {"a": "new", "to-file": "x"}, {"l": "a"}), output)
        assert found(output) == {"a": "new", "l": "-> a", "mine": "mine", "to-file": "x"}
        check_out(repository, layout(repository, {"a": "new", "to-file": "x"}, {"l": "a"}), output)
        assert (output / "mine").read_text() == "mine"

    def test_a_directory_that_is_a_link_is_entered(self, repository: Repository, output: Path, tmp_path: Path) -> None:
        output.mkdir()
        (tmp_path / "link").symlink_to("output")
        (output / "real").mkdir()
        (output / "inside").symlink_to("real")
        check_out(repository, layout(repository, {"inside/a": "1"}, {}, ("real",)), tmp_path / "link")
        assert found(output) == {"inside": "-> real", "real/a": "1"}

    def test_a_damaged_byte_changes_nothing(self, repository: Repository, output: Path) -> None:
        plan = layout(repository, {"a": "new", "b": "new"})
        key = plan.files["b"].parts[0].object
        repository.store.put(key, b"neW")
        (output / "sub").mkdir(parents=True)
        (output / "a").write_text("old")
        with pytest.raises(Corrupted, match=key):
            check_out(repository, plan, output)
        assert found(output) == {"a": "old", "sub": "/"}

    def test_a_file_that_can_not_be_written_whole_changes_nothing(
        self, repository: Repository, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where no space can be set aside, the system writes the beginning, and says so without an error."""
        resource = pytest.importorskip("resource")
        monkeypatch.setattr(checkout, "preallocate", lambda _descriptor, _size: None)
        wanted = layout(repository, {"model": "x" * 5000})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises((OSError, InvalidInput, StorageFailed), match="File too large"):
                check_out(repository, wanted, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert found(output) == {}

    def test_a_storage_that_fails_passes_as_it_is(self, repository: Repository, output: Path, monkeypatch) -> None:
        def failing(*_: object) -> bytes:
            raise StorageFailed("no answer")

        plan = layout(repository, {"a": "1"})
        monkeypatch.setattr(repository.store, "get", failing)
        with pytest.raises(StorageFailed, match=r"^no answer$"):
            check_out(repository, plan, output)
        assert found(output) == {}

    def test_a_link_in_the_directory_never_leads_out_of_it(self, repository, output: Path, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        output.mkdir()
        (output / "out").symlink_to("../outside")
        for plan in (
            layout(repository, {"out/a": "1"}),
            layout(repository, {}, {"out/l": "a"}),
            layout(repository, {}, {}, ("out/deep",)),
        ):
            with pytest.raises(InvalidInput, match=f"{output}/out leads out of {output}: remove the link"):
                check_out(repository, plan, output)
        assert os.listdir(tmp_path / "outside") == []
        assert found(output) == {"out": "-> ../outside"}

    def test_a_link_in_the_directory_never_leads_to_what_git_carries_out(self, repository, output: Path) -> None:
        (output / ".git/hooks").mkdir(parents=True)
        (output / "tools").symlink_to(".git/hooks")
        with pytest.raises(InvalidInput, match=f"{output}/tools leads into .git: remove the link"):
            check_out(repository, layout(repository, {"tools/post-checkout": "evil"}), output)
        assert os.listdir(output / ".git/hooks") == []

    @pytest.mark.parametrize("kind", ["file", "link", "empty directory"])
    def test_a_file_where_a_directory_is_needed_changes_nothing(self, repository, output: Path, kind: str) -> None:
        output.mkdir()
        (output / "a").write_text("old")
        plan = {
            "file": layout(repository, {"0": "1", "a/deep/b": "1"}),
            "link": layout(repository, {"0": "1"}, {"a/b": "0"}),
            "empty directory": layout(repository, {"0": "1"}, {}, ("a",)),
        }[kind]
        with pytest.raises(InvalidInput, match=f"{output}/a is a file, and 'a.*' needs a directory there"):
            check_out(repository, plan, output)
        assert found(output) == {"a": "old"}

    def test_a_directory_where_a_file_must_go_changes_nothing(self, repository: Repository, output: Path) -> None:
        (output / "a").mkdir(parents=True)
        for plan in (layout(repository, {"0": "1", "a": "1"}), layout(repository, {"0": "1"}, {"a": "0"})):
            with pytest.raises(InvalidInput, match=f"{output}/a is a directory, and the checkout has a file"):
                check_out(repository, plan, output)
        assert found(output) == {"a": "/"}

    def test_an_output_that_cannot_be_written_says_so(self, repository: Repository, output: Path) -> None:
        output.touch()
        with pytest.raises(StorageFailed, match=f"can't write to {output}: .*choose another directory"):
            check_out(repository, layout(repository, {"a": "1"}), output)
        with pytest.raises(StorageFailed, match="can't write to"):
            check_out(repository, layout(repository, {"a": "1"}), output / "below")


class TestADirectoryOfACheckpoint:
    def test_has_nothing_of_the_older_code_below_it(self, repository: Repository, output: Path) -> None:
        code = Manifest(
            {
                path: stored(repository, path)
                for path in ("train.py", "model/old.bin", "model/deep/old.bin", "models.py")
            },
            {"model/link": "old.bin"},
            ("model/empty", "logs"),
        )
        checkpoint = Manifest({"model/new.bin": stored(repository, "new")}, {}, ("model/fresh",))
        plan = lay_out([code, checkpoint], replaced="model")
        check_out(repository, plan, output)
        assert found(output) == {
            "train.py": "train.py",
            "models.py": "models.py",
            "logs": "/",
            "model/new.bin": "new",
            "model/fresh": "/",
        }

    def test_leaves_the_code_alone_when_only_a_file_of_it_was_saved(self, repository: Repository) -> None:
        code = manifest("model/old.bin", "model/config.json")
        assert set(lay_out([code, manifest("model/old.bin")], replaced="model/old.bin").files) == {
            "model/old.bin",
            "model/config.json",
        }

    def test_that_is_the_whole_project_replaces_all_of_the_code(self, repository: Repository) -> None:
        assert set(lay_out([manifest("a", "b/c"), manifest("b/d")], replaced=".").files) == {"b/d"}
