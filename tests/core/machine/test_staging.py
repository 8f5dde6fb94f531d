"""Staged copies: nobody changes them any more."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import contents

from replicate_core.errors import Corrupted
from replicate_core.format.values import dumps, loads
from replicate_core.machine import staging
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import SMALL_BYTES, Staged, StagedFile, decode, encode, stage

LARGE = SMALL_BYTES + 1


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Where the copies go."""
    directory = tmp_path / "copies"
    directory.mkdir()
    return directory


def tree(project: Path, **contents: bytes) -> Tree:
    for name, data in contents.items():
        (project / name).write_bytes(data)
    return Tree({name: project / name for name in contents})


def content(file: StagedFile) -> bytes:
    return file.copy.read_bytes()[file.offset : file.offset + file.size]


class TestCopies:
    def test_small_files_share_one_and_large_ones_have_their_own(self, project: Path, copies: Path) -> None:
        large = os.urandom(LARGE)
        files = {"a": b"a" * SMALL_BYTES, "large": large, "empty": b"", "b": b"b", "other": bytes(LARGE)}
        staged = stage(tree(project, **files), copies)
        assert contents(staged) == files
        assert [file.copy.name for file in staged.files] == ["small", "1", "small", "small", "4"]
        assert [file.offset for file in staged.files] == [0, 0, SMALL_BYTES, SMALL_BYTES, 0]
        assert sorted(os.listdir(copies)) == ["1", "4", "small"]
        assert (copies / "small").read_bytes() == files["a"] + files["b"]
        assert all(file.copy.parent == staged.directory == copies for file in staged.files)

    def test_they_add_up(self, project: Path, copies: Path) -> None:
        staged = stage(tree(project, small=b"12345", large=bytes(LARGE)), copies)
        assert staged.total_bytes == 5 + LARGE
        assert Staged(copies).total_bytes == 0

    def test_they_do_not_change_with_the_files(self, project: Path, copies: Path) -> None:
        before = {"small": b"before", "large": bytes(LARGE)}
        staged = stage(tree(project, **before), copies)
        for name in before:
            (project / name).write_bytes(b"after")
        assert contents(staged) == before

    def test_permissions_links_and_empty_directories_are_kept(self, project: Path, copies: Path) -> None:
        found = tree(project, script=b"#!/bin/sh", large=bytes(LARGE))
        (project / "script").chmod(0o750)
        (project / "large").chmod(0o444)
        staged = stage(Tree(found.files, {"link": "script"}, ("logs",)), copies)
        assert [file.mode for file in staged.files] == [0o750, 0o444]
        assert staged.links == {"link": "script"}
        assert staged.directories == ("logs",)

    def test_what_lies_in_a_private_directory_is_private(self, project: Path, copies: Path) -> None:
        """Others could not reach it, whatever its own mode says; and they can't once it is somewhere else."""
        modes = {"keys": 0o700, "keys/deep": 0o755, "team": 0o750, "open": 0o755}
        for name in modes:
            (project / name).mkdir()
            (project / name / "file").write_bytes(b"x")
            (project / name / "file").chmod(0o775)
        for name, mode in modes.items():
            (project / name).chmod(mode)
        project.chmod(0o700)  # where the project is says nothing of what is in it
        files = {f"{name}/file": project / name / "file" for name in modes}
        (project / "latest").symlink_to("keys/deep")
        files["latest/file"] = project / "latest" / "file"
        files["link/file"] = (project / "latest" / "file").resolve()
        staged = stage(Tree(files, root=project), copies)
        assert {file.path.removesuffix("/file"): file.mode for file in staged.files} == {
            "keys": 0o700,
            "keys/deep": 0o700,
            "team": 0o770,
            "open": 0o775,
            "latest": 0o700,
            "link": 0o700,
        }

    def test_of_a_tree_without_a_root_modes_are_what_they_are(self, project: Path, copies: Path) -> None:
        found = tree(project, file=b"x")
        (project / "file").chmod(0o664)
        project.chmod(0o700)
        assert [file.mode for file in stage(found, copies).files] == [0o664]

    def test_nothing_makes_no_copies(self, copies: Path) -> None:
        assert stage(Tree(), copies) == Staged(copies)
        assert os.listdir(copies) == []

    def test_no_file_stays_open(self, project: Path, copies: Path) -> None:
        before = open_files()
        stage(tree(project, a=b"a", large=bytes(LARGE)), copies)
        assert open_files() == before


def open_files() -> int:
    """How many files this process has open, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0


class TestFilesThatDoNotStandStill:
    def test_one_that_vanished_is_left_out(self, project: Path, copies: Path) -> None:
        found = tree(project, gone=b"x", kept=b"y", large=bytes(LARGE))
        (project / "gone").unlink()
        (project / "large").unlink()
        assert contents(stage(found, copies)) == {"kept": b"y"}

    def test_one_that_grew_beyond_small_meanwhile_has_a_copy_of_its_own(
        self, project: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was read decides where it goes, and not what was there before: the copy that is shared holds more."""
        found = tree(project, a=b"a" * 1000, log=b"l" * 1000, next=b"n")
        plain = staging.read_steadily

        def read_after_growing(source: Path, *, size_max: int) -> object:
            if source.name == "log":
                source.write_bytes(b"l" * 400_000)
            return plain(source, size_max=size_max)

        monkeypatch.setattr(staging, "read_steadily", read_after_growing)
        staged = stage(found, copies)
        assert contents(staged) == {"a": b"a" * 1000, "log": b"l" * 400_000, "next": b"n"}
        assert [file.copy.name for file in staged.files] == ["small", "1", "small"]
        assert (copies / "1").read_bytes() == b"l" * 400_000

    @pytest.mark.parametrize("size", [1, LARGE])
    def test_one_that_keeps_growing_is_there_as_far_as_it_reached(
        self, project: Path, copies: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        found = tree(project, first=bytes(LARGE), log=bytes(size))
        disturb(monkeypatch, project / "log", "ab", 0)
        staged = stage(found, copies)
        assert staged.growing == ("log",)
        assert staged.left_out == {}
        assert list(contents(staged)) == ["first", "log"]
        assert (project / "log").read_bytes().startswith(contents(staged)["log"])

    @pytest.mark.parametrize("size", [100, LARGE])
    def test_one_that_never_stands_still_is_left_out_and_named(
        self, project: Path, copies: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        found = tree(project, first=bytes(LARGE), table=bytes(size))
        disturb(monkeypatch, project / "table", "r+b", 10)
        staged = stage(found, copies)
        assert staged.left_out == {"table": "is being written all the time"}
        assert contents(staged) == {"first": bytes(LARGE)}
        assert os.listdir(copies) == ["0"], "half a copy takes no room"

    def test_one_that_may_not_be_read_is_left_out_and_named(self, open_directory: Path, as_nobody) -> None:
        found = tree(open_directory, secret=b"x", train=b"y")
        (open_directory / "secret").chmod(0)
        (open_directory / "copies").mkdir()
        (open_directory / "copies").chmod(0o777)
        with as_nobody():
            staged = stage(found, open_directory / "copies")
        assert staged.left_out == {"secret": "can't be read (Permission denied)"}
        assert contents(staged) == {"train": b"y"}

    def test_one_that_became_a_directory_is_left_out_and_named(self, project: Path, copies: Path) -> None:
        found = tree(project, model=b"x")
        (project / "model").unlink()
        (project / "model").mkdir()
        assert stage(found, copies).left_out == {"model": "can't be read (Is a directory)"}

    def test_a_directory_that_could_not_be_read_is_named_too(self, project: Path, copies: Path) -> None:
        found = replace(tree(project, model=b"x"), unreadable={"secrets": "can't be read (Permission denied)"})
        assert stage(found, copies).left_out == {"secrets": "can't be read (Permission denied)"}


def disturb(monkeypatch: pytest.MonkeyPatch, path: Path, mode: str, offset: int) -> None:
    """Write to a file before each look at it."""
    plain, number = os.fstat, path.stat().st_ino

    def look(descriptor: int) -> os.stat_result:
        if plain(descriptor).st_ino == number:
            with open(path, mode) as file:
                file.seek(offset)
                file.write(os.urandom(8))
        return plain(descriptor)

    monkeypatch.setattr(os, "fstat", look)


class TestWhereTheCopiesGo:
    @pytest.mark.parametrize("size", [1, LARGE])
    def test_a_directory_that_is_removed_meanwhile_is_no_vanished_file(
        self, project: Path, copies: Path, size: int
    ) -> None:
        found = tree(project, model=bytes(size))
        shutil.rmtree(copies)
        with pytest.raises(FileNotFoundError) as raised:
            stage(found, copies)
        assert Path(raised.value.filename).parent == copies

    @pytest.mark.parametrize("size", [1, LARGE])
    def test_a_disk_that_is_full_is_no_file_that_cannot_be_read(
        self, project: Path, copies: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        found = tree(project, model=bytes(size))
        full = Path("/dev/full")
        if not full.is_char_device():
            pytest.skip("there is no /dev/full")
        (copies / ("small" if size == 1 else "0")).symlink_to(full)
        plain_open = open
        monkeypatch.setattr("replicate_core.machine.steady.preallocate", lambda *_: None)
        monkeypatch.setattr(
            "builtins.open",
            lambda path, mode, **more: plain_open(path, mode.replace("x", "w").replace("r+", "w"), **more),
        )
        with pytest.raises(OSError, match="No space left") as raised:
            stage(found, copies)
        assert raised.value.errno == errno.ENOSPC


class TestSpares:
    def test_a_spare_is_written_over_whatever_its_size(self, project: Path, copies: Path, tmp_path: Path) -> None:
        for size in (1, LARGE, 3 * LARGE):
            spare = tmp_path / "spare"
            spare.write_bytes(b"s" * size)
            number = spare.stat().st_ino
            data = os.urandom(2 * LARGE)
            staged = stage(tree(project, large=data), copies, spare=lambda spare=spare: spare)
            assert contents(staged) == {"large": data}
            assert staged.files[0].copy.stat().st_ino == number, "it is the very file"
            assert staged.files[0].copy.stat().st_size == len(data)
            assert not spare.exists()

    def test_none_is_used_for_small_files(self, project: Path, copies: Path) -> None:
        def never() -> Path:
            raise AssertionError("no spare is needed")

        assert contents(stage(tree(project, small=b"x"), copies, spare=never)) == {"small": b"x"}

    def test_one_that_was_removed_meanwhile_is_not_needed(self, project: Path, copies: Path, tmp_path: Path) -> None:
        """The recorder removes it where it needs room."""
        data = os.urandom(LARGE)
        staged = stage(tree(project, large=data), copies, spare=lambda: tmp_path / "gone")
        assert contents(staged) == {"large": data}

    def test_where_there_are_fewer_than_large_files_the_rest_is_new(
        self, project: Path, copies: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "spare").write_bytes(b"old")
        spares = [tmp_path / "spare"]
        files = {"one": b"1" * LARGE, "two": b"2" * LARGE}
        staged = stage(tree(project, **files), copies, spare=lambda: spares.pop() if spares else None)
        assert contents(staged) == files


class TestAsPlainData:
    def test_it_comes_back_where_the_copies_are(self, project: Path, copies: Path, tmp_path: Path) -> None:
        found = tree(project, small=b"s", large=bytes(LARGE))
        staged = stage(Tree(found.files, {"link": "small"}, ("logs",)), copies)
        value = loads(dumps(encode(staged)))
        assert decode(value, copies) == staged
        copies.rename(tmp_path / "moved")
        moved = decode(value, tmp_path / "moved")
        assert contents(moved) == {"small": b"s", "large": bytes(LARGE)}
        assert moved.directory == tmp_path / "moved"

    @pytest.mark.parametrize(
        "value",
        [
            None,
            [],
            {},
            {"files": [], "links": {}},
            {"files": {}, "links": {}, "directories": []},
            {"files": [["a", 0o644, "small", 0]], "links": {}, "directories": []},
            {"files": [["a", 0o644, "small", 0, 1, 2]], "links": {}, "directories": []},
            {"files": [["a", 0o644, "small", -1, 1]], "links": {}, "directories": []},
            {"files": [["a", 0o644, "small", 0, None]], "links": {}, "directories": []},
            {"files": [[1, 0o644, "small", 0, 1]], "links": {}, "directories": []},
            {"files": [["a", "rw", "small", 0, 1]], "links": {}, "directories": []},
            {"files": [["a", 0o644, 5, 0, 1]], "links": {}, "directories": []},
            {"files": ["a"], "links": {}, "directories": []},
            {"files": [], "links": {"a": 1}, "directories": []},
            {"files": [], "links": {}, "directories": [1]},
        ],
        ids=repr,
    )
    def test_anything_else_is_refused(self, copies: Path, value) -> None:
        with pytest.raises(Corrupted):
            decode(value, copies)

    @pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b"])
    def test_it_names_no_copy_elsewhere(self, copies: Path, name: str) -> None:
        value = {"files": [["a", 0o644, name, 0, 1]], "links": {}, "directories": []}
        with pytest.raises(Corrupted, match="is not the name of a staged copy"):
            decode(value, copies)


PATHS = st.text(min_size=1, max_size=6)
FILES = st.builds(
    lambda path, mode, copy, offset, size: StagedFile(path, mode, Path("/copies") / copy, offset, size),
    PATHS,
    st.integers(0, 0o777),
    st.sampled_from(["small", "0", "17"]),
    st.integers(0, 1 << 53),
    st.integers(0, 1 << 53),
)


@given(st.lists(FILES, max_size=4), st.dictionaries(PATHS, PATHS, max_size=3), st.lists(PATHS, max_size=3))
def test_whatever_is_staged_comes_back(files, links, directories) -> None:
    staged = Staged(Path("/copies"), tuple(files), links, tuple(directories))
    assert decode(loads(dumps(encode(staged))), Path("/copies")) == staged


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3000) | st.integers(SMALL_BYTES - 2, SMALL_BYTES + 2), max_size=6))
def test_files_of_any_sizes_are_copied_byte_for_byte(sizes: list[int]) -> None:
    with TemporaryDirectory() as name:
        project, copies = Path(name) / "project", Path(name) / "copies"
        project.mkdir()
        copies.mkdir()
        files = {f"f{number}": bytes([number + 1]) * size for number, size in enumerate(sizes)}
        staged = stage(tree(project, **files), copies)
        assert contents(staged) == files
        assert staged.total_bytes == sum(sizes)
