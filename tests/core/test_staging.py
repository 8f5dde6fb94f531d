"""Staged copies: nobody changes them any more, and nothing is left of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate_core import spool as spools
from replicate_core.errors import InvalidInput, StorageFailed
from replicate_core.files import Tree
from replicate_core.spool import SMALL_BYTES, SPARES_MAX, Spool, StagedFile


def tree(project: Path, **contents: bytes) -> Tree:
    for name, data in contents.items():
        (project / name).write_bytes(data)
    return Tree({name: project / name for name in contents})


def test_small_files_are_held_in_memory_and_large_ones_copied(project: Path) -> None:
    large = os.urandom(SMALL_BYTES + 1)
    with Spool(project).staged(tree(project, small=b"s" * SMALL_BYTES, large=large, empty=b"")) as staged:
        small, copied, empty = staged.files
        assert (small.content, small.size) == (b"s" * SMALL_BYTES, SMALL_BYTES)
        assert empty.content == b""
        assert isinstance(copied.content, Path)
        assert copied.content.parent == staged.directory
        assert copied.content.read_bytes() == large
        assert copied.size == len(large)


def test_what_is_staged_does_not_change_with_the_files(project: Path) -> None:
    before = {"small": b"before", "large": bytes(SMALL_BYTES + 1)}
    with Spool(project).staged(tree(project, **before)) as staged:
        for name in before:
            (project / name).write_bytes(b"after")
        found = {file.path: file.content for file in staged.files}
        assert found["small"] == b"before"
        assert isinstance(found["large"], Path)
        assert found["large"].read_bytes() == before["large"]


def test_only_so_much_is_held_in_memory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SMALL_TOTAL_BYTES", 10)
    with Spool(project).staged(tree(project, a=b"12345", b=b"123456", c=b"12345")) as staged:
        assert [type(file.content) for file in staged.files] == [bytes, type(project), bytes]
        assert [file.size for file in staged.files] == [5, 6, 5]


def test_permissions_links_and_empty_directories_are_kept(project: Path) -> None:
    found = tree(project, script=b"#!/bin/sh", large=bytes(SMALL_BYTES + 1))
    (project / "script").chmod(0o750)
    (project / "large").chmod(0o444)
    content = Tree(found.files, {"link": "script"}, ("logs",))
    with Spool(project).staged(content) as staged:
        assert [file.mode for file in staged.files] == [0o750, 0o444]
        assert staged.links == {"link": "script"}
        assert staged.directories == ("logs",)


def test_a_file_that_vanished_is_left_out(project: Path) -> None:
    content = tree(project, gone=b"x", kept=b"y", large=bytes(SMALL_BYTES + 1))
    (project / "gone").unlink()
    (project / "large").unlink()
    with Spool(project).staged(content) as staged:
        assert staged.files == (StagedFile("kept", staged.files[0].mode, b"y", 1),)


def test_the_spool_is_empty_afterwards_and_git_ignores_it(project: Path) -> None:
    spool = Spool(project)
    with spool.staged(tree(project, large=bytes(SMALL_BYTES + 1))):
        assert len(os.listdir(project / ".replicate/spool")) == 1
    spool.close()
    assert os.listdir(project / ".replicate/spool") == []
    assert (project / ".replicate/.gitignore").read_text() == "*\n"


def test_a_gitignore_of_the_user_is_kept(project: Path) -> None:
    (project / ".replicate").mkdir()
    (project / ".replicate/.gitignore").write_text("spool/\n")
    with Spool(project).staged(Tree()) as staged:
        assert staged.files == ()
    assert (project / ".replicate/.gitignore").read_text() == "spool/\n"


def test_two_may_be_staged_at_once(project: Path) -> None:
    content = tree(project, large=bytes(SMALL_BYTES + 1))
    with Spool(project).staged(content) as one, Spool(project).staged(content) as other:
        assert one.directory != other.directory
        assert one.files[0].size == other.files[0].size


class TestWhenItFails:
    """And nothing of what was copied is left, whatever it was."""

    @pytest.fixture(autouse=True)
    def nothing_left(self, project: Path) -> Iterator[None]:
        yield
        spool = project / ".replicate/spool"
        assert not spool.is_dir() or os.listdir(spool) == []

    def test_an_error_of_the_block_passes(self, project: Path) -> None:
        content = tree(project, large=bytes(SMALL_BYTES + 1))
        with pytest.raises(RuntimeError, match="storing failed"), Spool(project).staged(content):
            raise RuntimeError("storing failed")

    def test_a_project_that_cannot_be_written_says_so(self, project: Path) -> None:
        (project / ".replicate").write_text("a file where a directory is needed")
        content = tree(project, small=b"x")
        message = r"can't copy the files .* to .*/\.replicate/spool: .*Make room there"
        with pytest.raises(StorageFailed, match=message), Spool(project).staged(content):
            pass

    def test_a_spool_that_is_removed_meanwhile_is_no_vanished_file(self, project: Path) -> None:
        content = tree(project, large=bytes(SMALL_BYTES + 1))

        class Removing(type(project)):  # type: ignore[misc]
            def stat(self, **options: bool) -> os.stat_result:
                shutil.rmtree(project / ".replicate", ignore_errors=True)
                return super().stat(**options)

        content.files["large"] = Removing(project / "large")
        with pytest.raises(StorageFailed, match="can't copy the files"), Spool(project).staged(content):
            pass

    def test_a_file_that_keeps_changing_is_named(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = tree(project, first=bytes(SMALL_BYTES + 1), log=bytes(SMALL_BYTES + 1))

        def append(descriptor: int, size: int) -> None:
            with open(project / "log", "ab") as log:
                log.write(b"x")

        monkeypatch.setattr("replicate_core.files.set_aside", append)
        message = "log is being written all the time"
        with pytest.raises(InvalidInput, match=message), Spool(project).staged(content):
            pass


def test_a_file_that_may_not_be_read_is_named_with_what_to_do(open_directory: Path, as_nobody) -> None:
    content = tree(open_directory, secret=b"x")
    (open_directory / "secret").chmod(0)
    message = r"secret can't be read .* leave it out"
    with as_nobody(), pytest.raises(InvalidInput, match=message), Spool(open_directory).staged(content):
        pass
    assert os.listdir(open_directory / ".replicate/spool") == []


def test_a_copy_is_written_over_by_the_next_one_unless_it_became_an_object(project: Path) -> None:
    spool = Spool(project)
    contents = [bytes([number]) * (SMALL_BYTES + size) for number, size in enumerate([5, 3, 9])]
    objects = []
    for content in contents:
        with spool.staged(tree(project, large=content)) as staged:
            (file,) = staged.files
            assert file.content.read_bytes() == content
            assert file.size == len(content)
            assert not any(taken.samefile(file.content) for taken in objects)
            if content is contents[1]:
                os.link(file.content, project / "object")
                staged.taken.add(file.content)
                objects.append(project / "object")
    assert (project / "object").read_bytes() == contents[1]


def test_no_more_than_a_few_copies_are_kept(project: Path) -> None:
    spool = Spool(project)
    large = {f"large{number}": bytes(SMALL_BYTES + 1) for number in range(5)}
    for _ in range(2):
        with spool.staged(tree(project, **large)):
            pass
        assert len(os.listdir(spool.directory)) == SPARES_MAX
