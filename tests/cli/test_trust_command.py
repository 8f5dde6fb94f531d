"""`replicate trust`: what it allows, says and takes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]

EVIL = 'storage: sftp://host.invalid/x\nstorage_options: {proxy_command: "touch ran"}\n'


@pytest.fixture(autouse=True)
def asking(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("REPLICATE_TRUST", raising=False)
    (project / "replicate.yaml").write_text(EVIL)
    return project / "replicate.yaml"


def test_a_fresh_clone_runs_nothing(cli: Cli, project: Path, asking: Path) -> None:
    for command in (["ls"], ["status"], ["ps"], ["-S", str(asking), "ls"], ["-S", "sftp://host/x", "ls"]):
        code, out, err = cli(*command)
        assert (code, out) == (2, "")
        assert "storage_options.proxy_command, which is not a plain option of sftp://" in err
        assert f"run `replicate trust {asking}` once" in err
    assert [path.name for path in project.iterdir()] == ["replicate.yaml"]


def test_it_says_what_it_allows_and_lists_and_takes_it_back(cli: Cli, asking: Path) -> None:
    code, out, _ = cli("trust")
    assert code == 0
    assert f"Trusted as it is now: {asking}. It may use:\n  storage_options.proxy_command, which is not a plain" in out
    assert cli("trust", "--list")[1] == f"{asking}\n"
    assert "asks for something that only you may allow" not in cli("ls")[2]
    assert cli("trust", "--revoke", str(asking))[:2] == (0, f"Not trusted any more: {asking}\n")
    assert cli("ls")[0] == 2
    code, _, err = cli("trust", "--revoke")
    assert (code, "is not trusted" in err) == (1, True)


def test_a_project_is_named_by_its_directory_too(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for named in (["trust", "project"], ["-D", "project", "trust"], ["-S", "project/replicate.yaml", "trust"]):
        code, out, _ = cli(*named)
        assert (code, "Trusted as it is now" in out) == (0, True)
    code, _, err = cli("trust")
    assert (code, "has no replicate.yaml" in err) == (1, True)
    code, _, err = cli("-S", "s3://bucket", "trust")
    assert (code, "that you name needs no trust" in err) == (2, True)


def test_a_harmless_file_needs_none(cli: Cli, asking: Path) -> None:
    asking.write_text("storage: s3://bucket\nstorage_options: {profile: research}\n")
    assert cli("trust")[:2] == (0, f"{asking} asks for nothing that needs trust.\n")
    assert cli("trust", "--list")[1] == ""


def test_where_nothing_can_be_remembered_it_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    code, _, err = cli("trust")
    assert (code, "can't save what you trust" in err) == (3, True)


def test_what_a_file_says_is_shown_without_control_characters(cli: Cli, asking: Path) -> None:
    asking.write_text('storage: sftp://h/x\nstorage_options: {"a\\e[2Jb": 1}\n')
    assert "\x1b" not in cli("trust")[1] + cli("ls")[2]
