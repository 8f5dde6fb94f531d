"""Shell completion: of commands, options and ids, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import replicate
from replicate.cli import cli, options

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Two experiments of a checkpoint each."""
    made = []
    for name in ("first", "second"):
        with replicate.init({}, path=None, name=name) as experiment:
            experiment.checkpoint(None, {})
        made.append(experiment)
    return made


def completed(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    done = subprocess.run(
        [sys.executable, "-m", "replicate"],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_REPLICATE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["replicate", *words]),
            "COMP_CWORD": str(len(words)),
        },
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_completed(project: Path) -> None:
    assert completed("che") == ["checkout"]
    assert completed("ls", "--fi") == ["--filter"]
    assert completed("ls", "--sto") == ["--storage"]


def test_ids_of_experiments_are_offered_and_of_checkpoints_once_begun(experiments) -> None:
    assert completed("show", "") == [experiments[1].short_id, experiments[0].short_id]
    checkpoint = experiments[0].checkpoints[0]
    assert completed("diff", experiments[0].id, checkpoint.id[:6]) == [checkpoint.short_id]
    assert completed("checkout", checkpoint.id[:9]) == [checkpoint.id]
    assert completed("rm", "zzz") == []


def test_only_the_latest_experiments_are_offered_before_anything_is_typed(experiments, monkeypatch) -> None:
    monkeypatch.setattr(options, "OFFERED", 1)
    assert [item.value for item in options.complete_id(click.Context(cli), cli.params[0], "")] == [
        experiments[1].short_id
    ]


def test_ids_come_from_the_storage_that_is_named(experiments, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("show", "") == []
    assert len(completed("show", "-D", "project", "")) == 2
    assert len(completed("-S", "project/.replicate/storage", "show", "")) == 2


def test_what_fails_completes_nothing(project: Path) -> None:
    (project / "replicate.yaml").write_text("storrage: x\n")
    assert completed("show", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_what_it_evaluates(cli: Cli, project: Path, shell: str) -> None:
    code, out, _ = cli("completion", shell)
    assert code == 0
    assert f"_REPLICATE_COMPLETE={shell}_complete" in out


def test_the_shell_is_that_of_the_user(cli: Cli, project: Path, monkeypatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert "zsh_complete" in cli("completion")[1]
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    code, _, err = cli("completion")
    assert code == 2
    assert "tcsh" in err
    monkeypatch.delenv("SHELL")
    assert cli("completion")[0] == 2
