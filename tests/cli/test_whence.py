"""`replicate whence`, through the real entry point, on experiments that were really recorded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiment(project: Path, tmp_path: Path) -> replicate.Experiment:
    (project / "train.py").write_text("print(1)\n")
    made = replicate.init({}, path="train.py", name="first")
    for step in range(2):
        (project / "model.bin").write_bytes(b"weights of step %d" % step)
        made.checkpoint("model.bin", {"loss": 1.0 - step})
    made.stop()
    shutil.move(project / "model.bin", tmp_path / "renamed")
    return made


def test_names_what_holds_it(cli: Cli, experiment: replicate.Experiment, tmp_path: Path) -> None:
    code, out, err = cli("whence", str(tmp_path / "renamed"))
    assert (code, err) == (0, "")
    heading, row = out.splitlines()
    assert heading.split() == ["EXPERIMENT", "NAME", "CHECKPOINT", "STEP", "MADE", "FILE"]
    words = row.split()
    assert words[:4] == [experiment.short_id, "first", experiment.latest().short_id, "1"]
    assert words[-1] == "model.bin"


def test_names_code(cli: Cli, experiment: replicate.Experiment) -> None:
    code, out, _ = cli("whence", "train.py")
    assert code == 0
    assert out.splitlines()[0].split() == ["EXPERIMENT", "NAME", "CHECKPOINT", "MADE", "FILE"]
    assert out.splitlines()[1].split()[:3] == [experiment.short_id, "first", "code"]


def test_what_nothing_holds_exits_with_1(cli: Cli, experiment: replicate.Experiment, project: Path) -> None:
    (project / "other").write_text("other")
    code, out, err = cli("whence", "other")
    assert (code, out) == (1, "")
    assert err == f"Nothing in {project / '.replicate/storage'} holds the bytes of other (5 B).\n"
    assert cli("whence", "--json", "other")[:2] == (1, "[]\n")


def test_json_is_for_programs(cli: Cli, experiment: replicate.Experiment, tmp_path: Path) -> None:
    code, out, err = cli("whence", "--json", str(tmp_path / "renamed"))
    assert (code, err) == (0, "")
    latest = experiment.latest()
    assert json.loads(out) == [
        {
            "experiment": experiment.id,
            "name": "first",
            "checkpoint": latest.id,
            "step": 1,
            "created": latest.created.isoformat(),
            "path": "model.bin",
        }
    ]
    (code_holder,) = json.loads(cli("whence", "--json", "train.py")[1])
    assert (code_holder["checkpoint"], code_holder["step"], code_holder["path"]) == (None, None, "train.py")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["."]], ids=["none", "missing", "directory"])
def test_needs_a_file(cli: Cli, project: Path, arguments: list[str]) -> None:
    assert cli("whence", *arguments)[0] == 2
