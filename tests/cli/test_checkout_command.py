"""`replicate checkout`: what it writes where, what it names before it asks, and what it leaves alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]
Terminal = Callable[..., str]


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    """Code of two files, and a model directory of two."""
    (project / "train.py").write_text("one\n")
    (project / "data.py").write_text("data\n")
    (project / "weights").mkdir()
    with replicate.init({}) as experiment:
        for name in ("a", "b"):
            (project / "weights" / name).write_text(name)
        experiment.checkpoint("weights", {"loss": 1.0}, ("loss", "minimize"))
    return experiment


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"train.py", "data.py", "weights/a", "weights/b"}),
        ("--code-only", {"train.py", "data.py"}),
        ("--files-only", {"weights/a", "weights/b"}),
        ("--path weights/a", {"weights/a"}),
        ("--path weights --files-only", {"weights/a", "weights/b"}),
    ],
    ids=["all", "code", "files", "one file", "one directory"],
)
def test_all_or_a_part_is_written(cli: Cli, experiment, project: Path, options: str, expected: set[str]) -> None:
    code, out, err = cli("checkout", experiment.short_id, "-o", "out", *options.split())

    assert (code, err) == (0, "")
    part = {"--code-only": "code of ", "--files-only": "files of "}.get(options.rsplit(" ", maxsplit=1)[-1], "")
    assert f"Wrote the {part}checkpoint {experiment.best().short_id} (step 0) of experiment" in out
    assert out.splitlines()[0].endswith(f"to out ({len(expected)} file{'s' * (len(expected) > 1)}).")
    assert files(project / "out") == expected


def test_what_is_not_part_of_it_is_not_found(cli: Cli, experiment, project: Path) -> None:
    for options in (("--path", "weights/a", "--code-only"), ("--path", "nothing")):
        code, _, err = cli("checkout", experiment.id, "-o", "out", *options)
        assert code == 1
        assert "nothing has the path" in err
    assert not (project / "out").exists()
    assert cli("checkout", experiment.id, "--code-only", "--files-only")[0] == 2


def test_only_files_that_differ_are_named_and_asked_for(cli: Cli, experiment, project: Path, monkeypatch) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    (project / "train.py").write_text("mine\n")
    (project / "mine.txt").write_text("mine\n")
    code, out, err = cli("checkout", experiment.id)

    assert (code, out) == (1, "")
    assert err.startswith(f"These files in {project} differ, and would be replaced:\n  train.py\n")
    assert err.endswith("Nothing was changed.\n")
    assert "data.py" not in err
    assert (project / "train.py").read_text() == "mine\n"

    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    assert cli("checkout", experiment.id)[0] == 0
    assert (project / "train.py").read_text() == "one\n"
    assert (project / "mine.txt").read_text() == "mine\n"


def test_nobody_is_asked_where_nothing_would_be_lost(cli: Cli, experiment, project: Path, monkeypatch) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: pytest.fail("it asked"))
    (project / "weights/a").unlink()
    assert cli("checkout", experiment.id)[0] == 0
    assert (project / "weights/a").read_text() == "a"


def test_of_many_files_only_some_are_named(cli: Cli, project: Path, monkeypatch) -> None:
    for number in range(13):
        (project / f"{number:02}.py").write_text("old")
    experiment = replicate.init({})
    experiment.stop()
    for number in range(13):
        (project / f"{number:02}.py").write_text("new")
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    err = cli("checkout", experiment.id)[2]
    assert "  09.py" in err
    assert "  10.py" not in err
    assert "  and 3 more" in err


def test_an_experiment_without_checkpoints_gives_its_code(cli: Cli, project: Path) -> None:
    (project / "train.py").write_text("code")
    experiment = replicate.init({})
    experiment.stop()
    assert "Wrote the code of experiment" in cli("checkout", experiment.id, "-o", "out")[1]
    assert cli("checkout", experiment.id, "-o", "out", "--files-only")[0] == 1


def test_damage_leaves_everything_as_it_was(cli: Cli, experiment, project: Path) -> None:
    (project / "train.py").write_text("mine\n")
    for path in (project / ".replicate/storage/data").rglob("*.*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        data[600 if len(data) > 600 else 0] ^= 1
        path.write_bytes(bytes(len(data)))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert cli("checkout", experiment.id, "--force")[0] == 4
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_a_terminal_is_asked_and_sees_how_far_it_is(terminal: Terminal, experiment, project: Path) -> None:
    (project / "train.py").write_text("mine\n")
    out = terminal("checkout", experiment.short_id, answer="y\n")
    assert "train.py" in out
    assert "Replace them? [y/N]" in out
    assert "fetching" in out
    assert f"Wrote the checkpoint {experiment.best().short_id}" in out
    assert (project / "train.py").read_text() == "one\n"


def test_a_directory_that_can_not_be_written_exits_with_3(cli: Cli, experiment, project: Path, monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr("replicate_core.repository.checkout._create", refused)
    code, _, err = cli("checkout", experiment.id, "-o", "out")
    assert code == 3
    assert "can't write to out" in err
    assert files(project / "out") == set()
    assert os.listdir(project / "out") == []
