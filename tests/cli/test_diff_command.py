"""`replicate diff`, through the real entry point, on experiments that were really recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]
Terminal = Callable[..., str]


@pytest.fixture
def two(project: Path) -> list[replicate.Experiment]:
    """Two experiments: other params, other code, another model."""
    made = []
    for number, lr in enumerate((0.1, 0.01)):
        (project / "train.py").write_text(f"import math\n\n\tlr = {lr}\nend = 1\n")
        (project / f"only_{number}.py").write_text(f"number = {number}\n")
        (project / f"empty {number}.txt").touch()
        with replicate.init(
            {"lr": lr, "layers": 3, **({"new": [1]} if number else {})}, name=f"rate {lr}"
        ) as experiment:
            for step in range(2):
                (project / "model.bin").write_bytes(bytes([number, step, 0]) * 1000)
                experiment.checkpoint("model.bin", {"loss": lr + step, "note": "same"}, ("loss", "minimize"))
        (project / f"only_{number}.py").unlink()
        (project / f"empty {number}.txt").unlink()
        made.append(experiment)
    return made


def test_says_what_differs_and_what_does_not(cli: Cli, two) -> None:
    code, out, err = cli("diff", two[0].short_id, two[1].short_id)

    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"- experiment {two[0].short_id}, checkpoint {two[0].best().short_id} (step 0) rate 0.1"
    assert lines[1] == f"+ experiment {two[1].short_id}, checkpoint {two[1].best().short_id} (step 0) rate 0.01"
    for expected in (
        "lr 0.1 0.01",
        "new (not set) [1]",
        "loss 0.1 0.01",
        "- only_0.py 11 B",
        "+ only_1.py 11 B",
        "- lr = 0.1",
        "+ lr = 0.01",
        "~ model.bin 3 kB to 3 kB",
    ):
        assert expected in lines
    assert lines[-1] == "The same in both: environment, packages, git"
    assert "layers" not in out
    assert "note" not in out


def test_an_experiment_and_itself_are_the_same(cli: Cli, two) -> None:
    _, out, _ = cli("diff", two[0].id, two[0].id)
    assert out.splitlines()[-1].startswith(
        "The same in both: experiment, params, metrics, environment, packages, git, code"
    )


def test_only_what_is_asked_for_is_shown(cli: Cli, two) -> None:
    _, out, _ = cli("diff", two[0].id, two[1].id, "--only", "params", "--only", "git")
    assert "Params" in out
    assert "Metrics" not in out
    assert "train.py" not in out
    assert out.endswith("The same in both: git\n")


def test_the_code_is_a_patch_that_git_applies(cli: Cli, two, project: Path) -> None:
    code, patch, err = cli("diff", two[0].id, two[1].id, "--code")
    assert (code, err) == (0, "")
    assert cli("checkout", two[0].id, "-o", "back", "--code-only")[0] == 0
    back = project / "back"
    subprocess.run(["git", "init"], cwd=back, check=True, capture_output=True)
    subprocess.run(["git", "apply"], cwd=back, check=True, input=patch.encode())

    assert (back / "train.py").read_text() == "import math\n\n\tlr = 0.01\nend = 1\n"
    assert not (back / "only_0.py").exists()
    assert (back / "only_1.py").read_text() == "number = 1\n"
    assert not (back / "empty 0.txt").exists()
    assert (back / "empty 1.txt").read_bytes() == b""


def test_what_is_no_text_is_no_part_of_the_patch(cli: Cli, project: Path) -> None:
    ids = []
    for number in range(2):
        (project / "picture.png").write_bytes(b"\x89PNG\0" * number)
        (project / "notes.txt").write_text(f"{number}\n")
        with replicate.init({}) as experiment:
            ids.append(experiment.id)
    code, patch, err = cli("diff", *ids, "--code")
    assert code == 0
    assert err == "Binary files a/picture.png and b/picture.png differ\n"
    assert patch.startswith("diff --git a/notes.txt b/notes.txt\n--- a/notes.txt\n")
    assert "Binary files" in cli("diff", *ids)[1]


def test_json_is_for_programs(cli: Cli, two) -> None:
    code, out, err = cli("diff", two[0].id, two[1].checkpoints[1].id, "--json")
    found = json.loads(out)

    assert (code, err) == (0, "")
    assert found["before"] == {"experiment": two[0].id, "checkpoint": two[0].best().id, "step": 0}
    assert found["after"] == {"experiment": two[1].id, "checkpoint": two[1].checkpoints[1].id, "step": 1}
    assert found["params"] == {"lr": {"before": 0.1, "after": 0.01}, "new": {"after": [1]}}
    assert found["metrics"]["step"] == {"before": 0, "after": 1}
    assert [item["kind"] for item in found["code"]] == ["removed", "added", "removed", "added", "changed"]
    assert "-\tlr = 0.1" in found["code"][-1]["diff"]
    (model,) = found["files"]
    assert model == {"path": "model.bin", "kind": "changed", "before_bytes": 3000, "after_bytes": 3000}
    assert found.keys() == {
        "before",
        "after",
        "experiment",
        "params",
        "metrics",
        "environment",
        "packages",
        "git",
        "code",
        "files",
    }
    assert json.loads(cli("diff", two[0].id, two[1].id, "--json", "--code")[1]).keys() == {"before", "after", "code"}


def test_in_json_and_in_words_an_experiment_may_have_no_checkpoint(cli: Cli, two) -> None:
    with replicate.init({"lr": 0.1}, path=None) as bare:
        pass
    found = json.loads(cli("diff", bare.id, two[0].id, "--json")[1])
    assert found["before"] == {"experiment": bare.id, "checkpoint": None, "step": None}
    assert found["metrics"]["loss"] == {"after": 0.1}
    assert f"- experiment {bare.short_id}, no checkpoint" in cli("diff", bare.id, two[0].id)[1]


def test_long_lists_are_cut_and_say_how_to_see_the_rest(cli: Cli, two, monkeypatch) -> None:
    module = sys.modules["replicate.cli.diff"]  # the package has the command of that name
    monkeypatch.setattr(module, "LISTED", 2)
    monkeypatch.setattr(module, "LINES", 3)
    _, out, _ = cli("diff", two[0].id, two[1].id)
    assert "and 3 more: --only code" in out
    assert "more lines: --code" in out
    _, out, _ = cli("diff", two[0].id, two[1].id, "--only", "code")
    assert "more" not in out


def test_interesting_packages_come_first(cli: Cli, project: Path, monkeypatch) -> None:
    ids = []
    for version in ("1", "2"):
        packages = {"aaa": version, "numpy": version, "torch": version}
        monkeypatch.setattr("replicate_core.machine.environment.packages", lambda packages=packages: packages)
        with replicate.init({}, path=None) as experiment:
            ids.append(experiment.id)
    names = [line.split()[0] for line in cli("diff", *ids, "--only", "packages")[1].splitlines() if "  1" in line]
    assert names == ["numpy", "torch", "aaa"]


def test_a_terminal_shows_colours_and_no_control_characters(terminal: Terminal, project: Path) -> None:
    ids = []
    for text in ("one\n", "two \x1b[2J\r\n"):
        (project / "train.py").write_bytes(text.encode())
        with replicate.init({}, name=f"\x1b[2J{text}") as experiment:
            ids.append(experiment.id)
    for arguments in ((), ("--code",)):
        out = terminal("diff", *ids, *arguments, raw=True)
        assert "\x1b[32m+two \\x1b[2J\\r" in out
        assert "\x1b[2J" not in out


def test_what_fits_nothing_exits_with_1_and_wrong_usage_with_2(cli: Cli, two) -> None:
    assert cli("diff", two[0].id, "zzzz")[0] == 1
    assert cli("diff", two[0].id)[0] == 2
    assert cli("diff", two[0].id, two[1].id, "--only", "everything")[0] == 2
    assert cli("diff", two[0].id, two[1].id, "--only", "params", "--code")[0] == 2
