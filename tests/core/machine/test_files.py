"""Local files: what of a directory belongs to a snapshot, and writes that are whole or nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import InvalidInput
from replicate_core.format.manifest import File, Manifest, decode, encode
from replicate_core.machine.files import (
    SKIPPED_NAMES,
    Tree,
    is_temporary,
    preallocate,
    regular_files,
    scan,
    temporary_beside,
    write_atomically,
)
from replicate_core.machine.ignoring import IgnoreRules, Verdict


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


AWKWARD = st.sampled_from(
    [".git", ".GIT", "git~1", ".Replicate ", ".git.", "a", "A", "..a", "a:b", "...", "-", " "]
) | st.text(min_size=1, max_size=4).filter(lambda name: not {"/", "\0"} & set(name) and name not in {".", ".."})
"""Names that a file may have, many of them near to those that it may not."""


def scanned(
    root: Path, start: Path | None = None, *, ignored: Sequence[str] = (), skipped: Sequence[Path] = ()
) -> Tree:
    return scan(
        root,
        start or root,
        rules=IgnoreRules.from_lines(ignored, advice="name it in .replicateignore"),
        skipped=skipped,
    )


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

    @pytest.mark.parametrize("name", [".git", ".GIT", ".Git", ".Replicate", "git~1", ".git.", ".gi\u200ct", ".git ::x"])
    @pytest.mark.parametrize("kind", ["file", "directory", "link"])
    def test_what_no_reader_would_lay_out_is_left_out_however_it_is_spelled(
        self, project: Path, name: str, kind: str
    ) -> None:
        write(project, "w/kept")
        if kind == "file":
            write(project, f"w/{name}")
        elif kind == "directory":
            write(project, f"w/{name}/config")
        else:
            (project / "w" / name).symlink_to("kept")
        left_out: dict[str, str] = {}
        assert list(scanned(project).files) == ["w/kept"]
        assert scan(project, project, rules=IgnoreRules(), left_out=left_out.__setitem__).links == {}
        assert left_out == {f"w/{name}": "never saved"}
        with pytest.raises(InvalidInput, match="which is never saved"):
            scanned(project, project / "w" / name)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(AWKWARD, min_size=1, max_size=3), max_size=5), st.randoms())
    def test_whatever_is_saved_can_be_read(self, paths: list[list[str]], chance: random.Random) -> None:
        """What a writer accepts, no reader refuses: both go by one rule."""
        with tempfile.TemporaryDirectory() as name:
            root = Path(name).resolve()
            for parts in paths:
                with suppress(OSError):  # it is there already, or too long
                    path = root.joinpath(*parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    make = chance.choice([Path.touch, Path.mkdir, lambda link: link.symlink_to("a")])
                    make(path)
            try:
                tree = scanned(root)
            except InvalidInput:  # said at once
                return
            empty = dict.fromkeys(tree.files, File(0, 0o644, ()))
            written = Manifest(empty, tree.links, tree.directories)
            assert decode(encode(written), key="manifests/x.json") == written

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
            def verdict(self, path: str, *, directory: bool) -> Verdict | None:
                if path == "going":
                    shutil.rmtree(project / path)
                return None

        assert scan(project, project, rules=Removing()) == Tree({"train.py": project / "train.py"})

    def test_a_directory_that_may_not_be_read_is_left_out_and_named(self, open_directory, as_nobody) -> None:
        write(open_directory, "secrets/key", "train.py")
        (open_directory / "secrets").chmod(0)
        with as_nobody():
            found = scanned(open_directory)
            assert list(scanned(open_directory, ignored=["secrets"]).files) == ["train.py"]
        assert list(found.files) == ["train.py"]
        assert found.unreadable == {"secrets": "can't be read (Permission denied)"}
        assert found.directories == ()

    def test_a_start_that_may_not_be_read_is_an_error_that_says_what_to_do(self, open_directory, as_nobody) -> None:
        write(open_directory, "secrets/key")
        (open_directory / "secrets").chmod(0)
        with as_nobody(), pytest.raises(InvalidInput, match=r"secrets can't be read .* name it in .*\.replicateignore"):
            scanned(open_directory, open_directory / "secrets")

    def test_a_link_that_vanishes_meanwhile_is_left_out(self, project: Path) -> None:
        write(project, "train.py")
        (project / "going").symlink_to("train.py")

        class Removing(IgnoreRules):
            def verdict(self, path: str, *, directory: bool) -> Verdict | None:
                if path == "going":
                    (project / path).unlink()
                return None

        assert scan(project, project, rules=Removing()) == Tree({"train.py": project / "train.py"})

    def test_a_link_that_the_system_can_not_read_is_left_out_and_named(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(project, "train.py")
        (project / "deep").symlink_to("train.py")

        def refuse(_: object) -> str:
            raise OSError(errno.ENAMETOOLONG, "File name too long")

        monkeypatch.setattr(os, "readlink", refuse)
        found = scanned(project)
        assert list(found.files) == ["train.py"]
        assert found.unreadable == {"deep": "can't be read (File name too long)"}

    def test_a_name_that_is_no_unicode_is_an_error_that_ignoring_it_mends(self, project: Path) -> None:
        write(project, "train.py")
        Path(os.fsdecode(b"caf\xe9.bin")).write_text("?")
        with pytest.raises(InvalidInput, match=r"is not Unicode text.*\.replicateignore"):
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


class TestSettingAside:
    def test_space_is_reserved(self, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file:
            preallocate(file.fileno(), 4096)
        assert (tmp_path / "file").stat().st_size == 4096

    def test_a_file_system_that_cannot_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(descriptor: int, offset: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(os, "posix_fallocate", unsupported)
        with open(tmp_path / "file", "wb") as file:
            preallocate(file.fileno(), 4096)
        assert (tmp_path / "file").stat().st_size == 0

    def test_a_system_without_it_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "posix_fallocate")
        with open(tmp_path / "file", "wb") as file:
            preallocate(file.fileno(), 4096)
        assert (tmp_path / "file").stat().st_size == 0

    def test_a_full_disk_shows_at_once(self, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match=r"space|large"):
            preallocate(file.fileno(), 1 << 60)


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


def test_directories_deeper_than_a_path_may_be_long_are_refused_in_words(tmp_path: Path) -> None:
    above = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=above)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    with pytest.raises(InvalidInput, match=r"… is longer than 4096 characters, .* Move it up, or") as caught:
        scan(tmp_path, tmp_path, rules=IgnoreRules())
    assert len(str(caught.value)) < 500
