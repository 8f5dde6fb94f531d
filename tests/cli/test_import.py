"""`replicate import`, through the real entry point, on what Keepsake and the first replicate have written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def keepsake(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "keepsake", tmp_path / "keepsake"))


def test_says_what_came(cli: Cli, keepsake: Path) -> None:
    code, out, err = cli("import", str(keepsake))
    assert (code, err) == (0, "")
    first, second = replicate.experiments.list()
    assert sorted(out.splitlines()) == sorted(
        [
            f"{first.short_id}  imported: 5 checkpoints, 410 B",
            f"{second.short_id}  imported: 0 checkpoints, 0 B",
            "Imported 2 experiments with 5 checkpoints, of 2 found.",
        ]
    )
    code, out, _ = cli("import", str(keepsake))
    assert code == 0
    assert f"{first.short_id}  is here already" in out
    assert "Imported 0 experiments with 0 checkpoints, of 2 found." in out


def test_shows_of_an_experiment_what_was_recorded_then(cli: Cli, keepsake: Path) -> None:
    cli("import", str(keepsake))
    for experiment in replicate.experiments.list():
        _, out, _ = cli("show", experiment.id)
        assert "None" not in out
        assert "null" not in out.replace('"none": null', "")  # a param


def test_a_trial_says_what_would_come(cli: Cli, keepsake: Path, project: Path) -> None:
    code, out, _ = cli("import", "--dry-run", str(keepsake))
    assert code == 0
    assert "would be imported: 5 checkpoints" in out
    assert "Would import 2 experiments with 5 checkpoints, of 2 found." in out
    assert not (project / ".replicate/storage").exists()


def test_what_lacks_and_what_is_damaged_is_named_and_exits_with_4(cli: Cli, keepsake: Path) -> None:
    first, second, *_ = sorted((keepsake / "checkpoints").iterdir())
    first.unlink()
    second.write_bytes(b"damaged")
    code, out, _ = cli("import", str(keepsake))
    assert code == 4
    assert f"note: the files of the checkpoint {first.name[:7]} are not there" in out
    assert f"damaged: the files of the checkpoint {second.name[:7]} can't be read" in out


def test_json_is_for_programs(cli: Cli, keepsake: Path) -> None:
    code, out, err = cli("import", "--json", str(keepsake))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {item["outcome"] for item in found} == {"imported"}
    assert found[0].keys() == {"experiment", "outcome", "checkpoints", "size_bytes", "notes", "damages"}


def test_what_is_no_repository_exits_with_1(cli: Cli, project: Path) -> None:
    code, out, err = cli("import", "nothing")
    assert (code, out) == (1, "")
    assert "is no repository of Keepsake" in err


def test_control_characters_do_not_reach_the_terminal(cli: Cli, keepsake: Path) -> None:
    (document, _) = sorted((keepsake / "metadata/experiments").iterdir())
    content = json.loads(document.read_text())
    document.write_text(json.dumps({**content, "\x1b[2Jred": 1}))
    _, out, _ = cli("import", str(keepsake))
    assert "\x1b" not in out
    assert "red" in out
