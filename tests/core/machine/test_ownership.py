"""What this user has made is told from what somebody has copied, cloned or put there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from replicate_core.machine import ownership
from replicate_core.machine.ownership import is_proven, problem, prove, read_own, strange_below

AsNobody = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key of the user will be."""
    monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "spool.key"


@pytest.fixture
def made(tmp_path: Path, key: Path) -> tuple[Path, bytes]:
    """A file of this user, and its proof."""
    path = tmp_path / "origin.json"
    path.write_bytes(b"whose it is")
    return path, prove(path, "name").encode()


class TestAProof:
    def test_holds_where_the_file_was_made(self, made: tuple[Path, bytes], key: Path) -> None:
        path, proof = made
        assert is_proven(path, "name", proof)
        key.unlink()
        assert is_proven(path, "name", proof), "a container has no home directory that lasts"

    def test_holds_wherever_the_directory_was_moved(self, made: tuple[Path, bytes], tmp_path: Path) -> None:
        path, proof = made
        (tmp_path / "moved").mkdir()
        moved = path.rename(tmp_path / "moved" / "origin.json")
        assert is_proven(moved, "name", proof)

    def test_holds_for_a_copy_with_the_key_of_this_user_alone(
        self, made: tuple[Path, bytes], tmp_path: Path, key: Path
    ) -> None:
        path, proof = made
        copy = tmp_path / "copy"
        shutil.copy2(path, copy)
        assert is_proven(copy, "name", proof)
        key.unlink()
        assert not is_proven(copy, "name", proof)
        prove(path, "name")  # another key
        assert not is_proven(copy, "name", proof)

    def test_holds_for_no_other_name_and_no_other_bytes(self, made: tuple[Path, bytes]) -> None:
        path, proof = made
        assert not is_proven(path, "another", proof)
        path.write_bytes(b"whose it was")
        assert not is_proven(path, "name", proof)

    @pytest.mark.parametrize(
        "text", ["", "name 1 2 -\n", "name 1 2 " + "0" * 64 + "\n", "name", "\0", "name 1 2\n" * 9]
    )
    def test_that_anybody_can_write_is_none(self, made: tuple[Path, bytes], text: str) -> None:
        assert not is_proven(made[0], "name", text.encode())

    def test_of_a_link_to_what_was_proven_is_none(self, made: tuple[Path, bytes], tmp_path: Path) -> None:
        path, proof = made
        (tmp_path / "link").symlink_to(path)
        assert not is_proven(tmp_path / "link", "name", proof)

    def test_of_a_cloned_file_does_not_hold(self, tmp_path: Path, made: tuple[Path, bytes], key: Path) -> None:
        source, clone = tmp_path / "source", tmp_path / "clone"
        source.mkdir()
        origin = source / "origin.json"
        origin.write_bytes(b"{}")
        (source / "proof").write_text(prove(origin, "name"))
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], cwd=source, check=True)
        key.unlink()
        prove(made[0], "name")  # another user has another key
        subprocess.run(["git", "clone", "-q", source, clone], check=True, umask=0o077)
        assert not is_proven(clone / "origin.json", "name", (clone / "proof").read_bytes())


class TestTheKey:
    def test_is_for_this_user_alone_and_made_once(self, made: tuple[Path, bytes], key: Path, tmp_path: Path) -> None:
        assert key.stat().st_mode & 0o777 == 0o600
        before = key.read_bytes()
        assert len(before) == ownership.KEY_BYTES
        prove(made[0], "name")
        assert key.read_bytes() == before
        assert os.listdir(key.parent) == ["spool.key"]

    @pytest.mark.parametrize("damage", ["short", "open", "link"])
    def test_that_others_may_know_signs_nothing(self, made: tuple[Path, bytes], key: Path, damage: str) -> None:
        if damage == "short":
            key.write_bytes(b"x")
        elif damage == "open":
            key.chmod(0o644)
        else:
            key.rename(key.with_name("elsewhere"))
            key.symlink_to(key.with_name("elsewhere"))
        assert prove(made[0], "name").endswith(" -\n")
        assert is_proven(*(made[0], "name"), made[1]), "what was made here needs none"

    def test_where_none_can_be_kept_nothing_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: tuple[Path, bytes]
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "file" / "state"))
        proof = prove(made[0], "name")
        assert proof.endswith(" -\n")
        assert is_proven(made[0], "name", proof.encode())


class TestADirectory:
    def test_that_only_this_user_writes_to_has_no_problem(self, tmp_path: Path) -> None:
        for mode in (0o700, 0o755):
            tmp_path.chmod(mode)
            assert problem(tmp_path) is None

    @pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
    def test_that_others_may_write_to_has_one(self, tmp_path: Path, mode: int) -> None:
        tmp_path.chmod(mode)
        assert problem(tmp_path) == f"other users may write to {tmp_path}"

    def test_that_is_a_link_or_a_file_has_one(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        (tmp_path / "file").touch()
        assert problem(tmp_path / "link") == f"{tmp_path / 'link'} is not a directory"
        assert problem(tmp_path / "link", follow=True) is None
        assert problem(tmp_path / "file") is not None

    def test_of_another_user_has_one(self, open_directory: Path, as_nobody: AsNobody) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root has directories of other users")
        assert problem(open_directory) == f"{open_directory} belongs to the user {ownership.user_name(65534)}"
        with as_nobody():
            assert problem(open_directory) is None


def test_only_a_small_regular_file_of_this_user_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_directory: Path, as_nobody: AsNobody
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert read_own(path) == b"x"
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for other in ("link", "pipe", "missing", "."):
        assert read_own(tmp_path / other) is None
    monkeypatch.setattr(ownership, "READ_BYTES_MAX", 0)
    assert read_own(path) is None


def test_what_no_queue_has_is_found_however_deep_it_is(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    assert strange_below(tmp_path) is None
    (tmp_path / "a" / "b" / "link").symlink_to("../file")
    assert strange_below(tmp_path) == tmp_path / "a" / "b" / "link"


def test_where_the_key_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REPLICATE_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    expected = {
        "linux": ".local/state/replicate",
        "darwin": "Library/Application Support/replicate",
        "win32": "replicate/state",
    }
    for platform, below in expected.items():
        monkeypatch.setattr("sys.platform", platform)
        assert ownership.state_directory() == tmp_path / below
    assert ownership.user_name(4_000_000_000) == "4000000000"
