"""Local files: what of a directory belongs to a snapshot, copies that do not tear, writes that are whole or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from replicate_core import files
from replicate_core.errors import ConfigInvalid, InvalidInput
from replicate_core.files import (
    COPY_ATTEMPTS,
    COPY_BYTES,
    IGNORE_FILE,
    SKIPPED_NAMES,
    IgnoreRules,
    Tree,
    copy_steadily,
    is_temporary,
    read_steadily,
    regular_files,
    scan,
    set_aside,
    temporary_beside,
    write_atomically,
)


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def scanned(
    root: Path, start: Path | None = None, *, ignored: Sequence[str] = (), skipped: Sequence[Path] = ()
) -> Tree:
    return scan(root, start or root, rules=IgnoreRules(ignored, advice="name it in .replicateignore"), skipped=skipped)


class TestScan:
    def test_finds_every_file_at_any_depth_in_order(self, project: Path) -> None:
        write(project, "train.py", "b/c/d/deep.txt", "a.txt")
        assert list(scanned(project).files.items()) == [
            ("a.txt", project / "a.txt"),
            ("b/c/d/deep.txt", project / "b/c/d/deep.txt"),
            ("train.py", project / "train.py"),
        ]

    def test_an_empty_project_holds_nothing(self, project: Path) -> None:
        assert scanned(project) == Tree()

    def test_paths_are_relative_to_the_project_also_when_it_begins_below(self, project: Path) -> None:
        write(project, "out/model/weights.bin", "train.py")
        assert list(scanned(project, project / "out").files) == ["out/model/weights.bin"]

    def test_a_single_file_is_a_snapshot(self, project: Path) -> None:
        write(project, "out/model.bin", "out/other.bin")
        assert scanned(project, project / "out/model.bin").files == {"out/model.bin": project / "out/model.bin"}

    def test_a_start_that_is_a_link_is_followed(self, project: Path) -> None:
        write(project, "runs/7/model.bin")
        (project / "latest.bin").symlink_to("runs/7/model.bin")
        (project / "latest").symlink_to("runs/7")
        assert scanned(project, project / "latest.bin") == Tree({"latest.bin": project / "runs/7/model.bin"})
        assert list(scanned(project, project / "latest").files) == ["latest/model.bin"]

    def test_unicode_names_are_kept(self, project: Path) -> None:
        write(project, "données/模型 🎉.txt")
        assert list(scanned(project).files) == ["données/模型 🎉.txt"]

    def test_empty_directories_are_kept(self, project: Path) -> None:
        (project / "logs/today").mkdir(parents=True)
        (project / "out").mkdir()
        assert scanned(project).directories == ("logs/today", "out")

    def test_a_directory_of_which_everything_is_left_out_is_empty(self, project: Path) -> None:
        write(project, "package/__pycache__/module.pyc", "data/big.bin")
        assert scanned(project, ignored=["*.bin"]) == Tree(directories=("data", "package"))

    @pytest.mark.parametrize("name", sorted(SKIPPED_NAMES))
    def test_version_control_and_caches_are_skipped_wherever_they_stand(self, project: Path, name: str) -> None:
        write(project, f"{name}/inside", f"src/{name}/inside", "src/train.py")
        assert list(scanned(project).files) == ["src/train.py"]

    def test_temporary_files_of_replicate_are_skipped(self, project: Path) -> None:
        write(project, temporary_beside(project / "model.bin").name, "model.bin")
        assert list(scanned(project).files) == ["model.bin"]

    @pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history"])
    def test_virtual_environments_are_skipped_whatever_their_name(self, project: Path, mark: str) -> None:
        write(project, f"my environment/{mark}", "my environment/lib/python3/site.py", "train.py")
        assert scanned(project) == Tree({"train.py": project / "train.py"})

    def test_a_project_that_is_a_virtual_environment_itself_is_saved(self, project: Path) -> None:
        write(project, "pyvenv.cfg", "train.py")
        assert list(scanned(project).files) == ["pyvenv.cfg", "train.py"]

    def test_directories_named_to_be_skipped_are(self, project: Path) -> None:
        write(project, "storage/data/object", "train.py")
        assert list(scanned(project, skipped=[project / "storage"]).files) == ["train.py"]

    def test_a_snapshot_of_a_skipped_directory_itself_holds_none_of_it(self, project: Path) -> None:
        write(project, "storage/data/object")
        with pytest.raises(InvalidInput, match="storage"):
            scanned(project, project / "storage/data", skipped=[project / "storage"])

    def test_ignore_rules_are_those_of_git(self, project: Path) -> None:
        write(project, "a.log", "keep.log", "data/x.csv", "src/data/x.csv", "src/tmp/y", "docs/tmp", "src/main.py")
        ignored = ["# a comment", "*.log", "!keep.log", "/data/", "tmp/"]
        assert list(scanned(project, ignored=ignored).files) == [
            "docs/tmp",
            "keep.log",
            "src/data/x.csv",
            "src/main.py",
        ]

    def test_sockets_and_pipes_are_passed_over(self, project: Path) -> None:
        write(project, "train.py")
        os.mkfifo(project / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            assert list(scanned(project).files) == ["train.py"]

    def test_a_pipe_is_no_snapshot(self, project: Path) -> None:
        os.mkfifo(project / "pipe")
        with pytest.raises(InvalidInput, match="pipe"):
            scanned(project, project / "pipe")

    def test_a_directory_that_vanishes_meanwhile_is_left_out(self, project: Path) -> None:
        write(project, "going/soon.txt", "train.py")

        class Removing(IgnoreRules):
            def match(self, path: str, *, directory: bool) -> bool:
                if path == "going":
                    shutil.rmtree(project / path)
                return super().match(path, directory=directory)

        assert scan(project, project, rules=Removing()) == Tree({"train.py": project / "train.py"})

    def test_a_directory_that_may_not_be_read_is_an_error_that_says_what_to_do(self, open_directory, as_nobody) -> None:
        write(open_directory, "secrets/key", "train.py")
        (open_directory / "secrets").chmod(0)
        with as_nobody(), pytest.raises(InvalidInput, match=r"secrets can't be read .* name it in .*\.replicateignore"):
            scanned(open_directory)
        with as_nobody():
            assert list(scanned(open_directory, ignored=["secrets"]).files) == ["train.py"]

    def test_a_name_that_is_no_unicode_is_an_error_that_ignoring_it_mends(self, project: Path) -> None:
        write(project, "train.py")
        Path(os.fsdecode(b"caf\xe9.bin")).write_text("?")
        with pytest.raises(InvalidInput, match=r"is no Unicode text.*\.replicateignore"):
            scanned(project)
        assert list(scanned(project, ignored=["*.bin"]).files) == ["train.py"]


class TestLinks:
    def test_links_inside_the_project_are_kept_as_they_are(self, project: Path) -> None:
        write(project, "data/v2/train.csv")
        (project / "data/latest").symlink_to("v2")
        (project / "data/v2/self.csv").symlink_to("../../data/v2/train.csv")
        tree = scanned(project)
        assert tree.links == {"data/latest": "v2", "data/v2/self.csv": "../../data/v2/train.csv"}
        assert list(tree.files) == ["data/v2/train.csv"]

    def test_an_absolute_link_inside_the_project_becomes_relative(self, project: Path) -> None:
        write(project, "data/train.csv")
        (project / "src").mkdir()
        (project / "src/train.csv").symlink_to(project / "data/train.csv")
        assert scanned(project).links == {"src/train.csv": "../data/train.csv"}

    def test_a_link_to_nothing_is_kept_too(self, project: Path) -> None:
        (project / "later").symlink_to("not/yet")
        assert scanned(project).links == {"later": "not/yet"}

    @pytest.mark.parametrize("target", ["../elsewhere", "/etc/passwd", "sub/../../elsewhere"])
    def test_a_link_out_of_the_project_is_refused_until_it_is_ignored(self, project: Path, target: str) -> None:
        write(project, "sub/x")
        (project / "outside").symlink_to(target)
        with pytest.raises(InvalidInput, match=r"outside is a link to .*outside of the project .*\.replicateignore"):
            scanned(project)
        assert list(scanned(project, ignored=["outside"]).files) == ["sub/x"]

    def test_two_links_that_lead_out_together_are_refused(self, project: Path) -> None:
        (project / "sub").mkdir()
        (project / "sub/up").symlink_to("..")
        (project / "out").symlink_to("sub/up/../elsewhere")
        with pytest.raises(InvalidInput, match="'out' points out of the project"):
            scanned(project)

    def test_links_in_a_circle_are_refused(self, project: Path) -> None:
        (project / "a").symlink_to("b")
        (project / "b").symlink_to("a")
        with pytest.raises(InvalidInput, match="leads in a circle"):
            scanned(project)

    def test_a_target_that_is_no_unicode_is_refused(self, project: Path) -> None:
        os.symlink(b"caf\xe9", b"link")
        with pytest.raises(InvalidInput, match="link"):
            scanned(project)


class TestIgnoreFile:
    def test_its_rules_are_read(self, project: Path) -> None:
        (project / IGNORE_FILE).write_text("*.ckpt\ndatä/\n", "utf-8")
        rules = IgnoreRules.of(project)
        assert rules.match("out/a.ckpt", directory=False)
        assert rules.match("datä", directory=True)
        assert not rules.match("datä", directory=False)

    def test_without_one_nothing_is_ignored(self, project: Path) -> None:
        assert not IgnoreRules.of(project).match("anything", directory=False)

    @pytest.mark.parametrize("content", [b"caf\xe9\n", b"!\n"], ids=["no UTF-8", "no pattern"])
    def test_one_that_cannot_be_used_is_named(self, project: Path, content: bytes) -> None:
        (project / IGNORE_FILE).write_bytes(content)
        with pytest.raises(ConfigInvalid, match=r"project/\.replicateignore can't be used: .*\.gitignore"):
            IgnoreRules.of(project)

    def test_one_that_is_a_directory_is_named(self, project: Path) -> None:
        (project / IGNORE_FILE).mkdir()
        with pytest.raises(ConfigInvalid, match=r"\.replicateignore can't be used"):
            IgnoreRules.of(project)


class Written(type(Path())):  # type: ignore[misc]
    """A file that somebody writes to whenever it has been read."""

    def after_reading(self, contents: Sequence[bytes]) -> None:
        self.write_bytes(b"before")
        self.waiting = list(contents)

    def read_bytes(self) -> bytes:
        data = super().read_bytes()
        if self.waiting:
            self.write_bytes(self.waiting.pop(0))
        return data


class TestCopies:
    @pytest.mark.parametrize("size", [0, 1, COPY_BYTES, 2 * COPY_BYTES + 17])
    def test_a_copy_has_the_bytes_of_the_file(self, tmp_path: Path, size: int) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(os.urandom(size))
        status = copy_steadily(source, target)
        assert target.read_bytes() == source.read_bytes()
        assert status.st_size == size
        assert read_steadily(source) == (source.read_bytes(), os.stat(source))

    @pytest.mark.parametrize("after", [b"longer than it was before", b"short"])
    def test_a_file_that_changes_while_it_is_copied_is_copied_again(self, tmp_path, monkeypatch, after: bytes) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(b"what it was before")
        during_first = iter([lambda: source.write_bytes(after)])

        def change_once(descriptor: int, size: int) -> None:
            next(during_first, lambda: None)()

        monkeypatch.setattr(files, "set_aside", change_once)
        assert copy_steadily(source, target).st_size == len(after)
        assert target.read_bytes() == after

    def test_a_small_file_that_changes_while_it_is_read_is_read_again(self, tmp_path: Path) -> None:
        source = Written(tmp_path / "source")
        source.after_reading([b"after that"])
        assert read_steadily(source)[0] == b"after that"
        assert read_steadily(source)[1].st_size == 10

    def test_a_file_that_keeps_changing_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Written(tmp_path / "log.txt")
        versions = [bytes(size) for size in range(2 * COPY_ATTEMPTS)]
        source.after_reading(versions[:COPY_ATTEMPTS])
        with pytest.raises(InvalidInput, match=rf"log\.txt is being written .* during {COPY_ATTEMPTS} readings"):
            read_steadily(source)
        monkeypatch.setattr(files, "set_aside", lambda *_: source.write_bytes(versions.pop()))
        with pytest.raises(InvalidInput, match=rf"log\.txt is being written .* during {COPY_ATTEMPTS} copies"):
            copy_steadily(source, tmp_path / "target")

    def test_a_file_that_is_gone_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            copy_steadily(tmp_path / "gone", tmp_path / "target")
        with pytest.raises(FileNotFoundError):
            read_steadily(tmp_path / "gone")


class TestSettingAside:
    def test_space_is_reserved(self, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file:
            set_aside(file.fileno(), 4096)
        assert (tmp_path / "file").stat().st_size == 4096

    def test_a_file_system_that_cannot_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(descriptor: int, offset: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(os, "posix_fallocate", unsupported)
        with open(tmp_path / "file", "wb") as file:
            set_aside(file.fileno(), 4096)
        assert (tmp_path / "file").stat().st_size == 0

    def test_a_system_without_it_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "posix_fallocate")
        (tmp_path / "source").write_bytes(b"content")
        copy_steadily(tmp_path / "source", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"content"

    def test_a_full_disk_shows_at_once(self, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match=r"space|large"):
            set_aside(file.fileno(), 1 << 60)


class TestWritingAtomically:
    def test_the_file_has_the_bytes_and_replaces_what_was_there(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "file", b"first")
        write_atomically(tmp_path / "file", b"second, and longer")
        assert (tmp_path / "file").read_bytes() == b"second, and longer"
        assert os.listdir(tmp_path) == ["file"]

    def test_a_write_that_fails_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        with pytest.raises(OSError, match="irectory"):
            write_atomically(tmp_path / "directory", b"data")
        assert os.listdir(tmp_path) == ["directory"]

    def test_temporary_names_are_known_as_such_and_stand_beside(self, tmp_path: Path) -> None:
        fresh = temporary_beside(tmp_path / "file")
        assert fresh.parent == tmp_path
        assert is_temporary(fresh.name)
        assert fresh != temporary_beside(tmp_path / "file")
        assert not is_temporary(".replicate-notes.tmp")


class TestRegularFiles:
    def test_are_found_at_any_depth_without_links_and_temporary_ones(self, tmp_path: Path) -> None:
        write(tmp_path, "a", "b/c/d", f"b/{temporary_beside(tmp_path).name}")
        (tmp_path / "link").symlink_to("a")
        assert sorted(entry.path for entry in regular_files(tmp_path)) == [f"{tmp_path}/a", f"{tmp_path}/b/c/d"]

    def test_there_are_none_below_what_is_no_directory(self, tmp_path: Path) -> None:
        write(tmp_path, "file")
        assert list(regular_files(tmp_path / "missing")) == []
        assert list(regular_files(tmp_path / "file")) == []

    def test_modes_do_not_matter(self, tmp_path: Path) -> None:
        write(tmp_path, "private")
        (tmp_path / "private").chmod(stat.S_IRUSR)
        assert [entry.name for entry in regular_files(tmp_path)] == ["private"]
