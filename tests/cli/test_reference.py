"""`docs/cli.md`, and the help that it is made of."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from replicate.cli import cli as commands
from replicate.cli import reference

Cli = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def examples(command: click.Command) -> list[list[str]]:
    """The lines of the examples in the help of a command that call replicate."""
    lines = (command.epilog or "").replace("\b", "").removeprefix("\n").removeprefix("Example: ").splitlines()
    calls = [line.strip().partition(" | ")[0].removesuffix(" > experiments.csv") for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in calls if line.startswith("replicate")]


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text("utf-8") == reference.page(), "run: nox -s reference"


def test_the_page_is_printed_by_its_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replicate.cli.reference"], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout == reference.page()


def test_every_command_has_its_place_on_the_page() -> None:
    for name in commands.commands:
        assert f"\n## replicate {name} " in reference.page()


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_command_says_what_it_does_with_an_example(cli: Cli, name: str) -> None:
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert commands.commands[name].help
    assert "Example: " in out
    assert all(option.help for option in commands.commands[name].params if isinstance(option, click.Option))


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_example_is_valid_usage(project: Path, name: str) -> None:
    command = commands.commands[name]
    Path("downloads").mkdir()
    Path("downloads/model.pt").touch()  # an example names it
    for example in examples(command):
        assert example[0] == name
        context = click.Context(commands)
        command.make_context(name, example[1:], parent=context)
