"""`replicate status`: what would be saved from here, what would not, and where it would go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import until

import replicate


@pytest.fixture
def code(project: Path) -> Path:
    """A project with code, data, a secret, and something left out."""
    for name, size in {"train.py": 200, "data/train.csv": 2 * 10**6, ".env": 8, "run.log": 5}.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_bytes(b"x" * size)
    (project / ".replicateignore").write_text("*.log\n")
    return project


def test_what_would_be_saved_is_shown_largest_first(cli, code: Path) -> None:
    status, out, err = cli("status")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"Project: {code}",
        "Storage: .replicate/storage (reached, nothing is stored there yet)",
        "init() would save 4 files, 2 MB:",
        "",
        "SIZE   NOTE     FILE",
        "2 MB   data?    data/train.csv",
        "200 B           train.py",
        "8 B    secret?  .env",
        "6 B             .replicateignore",
        "",
        "LEFT OUT  WHY",
        "run.log   .replicateignore",
        "",
        f"Warning: {replicate.Project().preview().concerns()[0]}.",
    ]
    assert not (code / ".replicate").exists()


def test_programs_get_all_of_it(cli, code: Path) -> None:
    (code / "replicate.yaml").write_text("code_limit: 1 MB\n")
    status, out, _ = cli("status", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["files"][0] == {"path": "data/train.csv", "size_bytes": 2 * 10**6}
    assert found["left_out"] == [{"path": "run.log", "why": ".replicateignore"}]
    assert (found["secrets"], found["data"]) == ([".env"], ["data/train.csv"])
    assert (found["reachable"], found["problem"], found["is_used"]) == (True, None, False)
    assert found["limit_bytes"] == 10**6
    assert found["total_bytes"] == sum(file["size_bytes"] for file in found["files"])
    assert ["more than 1 MB" in concern for concern in found["concerns"]] == [True, False]


def test_many_files_are_cut_short_unless_all_are_asked_for(cli, code: Path) -> None:
    for index in range(30):
        (code / f"module_{index}.py").write_text("pass")
        (code / f"{index}.log").touch()
    _, out, _ = cli("status")
    assert "and 14 smaller ones: --all" in out
    assert "and 11 more: --all" in out
    _, out, _ = cli("status", "--all")
    assert "--all" not in out
    assert all(f"module_{index}.py" in out and f"{index}.log" in out for index in range(30))


def test_a_part_of_the_project_can_be_asked_for(cli, code: Path) -> None:
    status, out, _ = cli("status", "--path", "train.py")
    assert status == 0
    assert "init() would save 1 file, 200 B:" in out
    assert "Warning" not in out


def test_a_storage_that_is_not_reached_is_said_beside_all_else(cli, code: Path) -> None:
    status, out, err = cli("-S", "train.py/storage", "status")
    assert status == 3
    assert "train.py/storage (not reached)" in out
    assert "data/train.csv" in out
    assert "There is a file where a directory is needed" in err
    status, out, _ = cli("-S", "train.py/storage", "status", "--json")
    assert (status, json.loads(out)["reachable"]) == (3, False)
    assert "There is a file" in json.loads(out)["problem"]


def test_credentials_of_the_storage_are_not_shown(cli, code: Path) -> None:
    _, out, err = cli("-S", "memory://user:SECRET@host/path", "status")
    assert "memory://" in out
    assert "SECRET" not in out + err


def test_where_something_is_stored_it_says_so(cli, project: Path) -> None:
    replicate.init({}).stop()
    assert "Storage: .replicate/storage (reached)" in cli("status")[1]


def test_an_empty_project_and_what_init_refuses(cli, project: Path) -> None:
    assert "init() would save 0 files, 0 B:" in cli("status")[1]
    (project / "link").symlink_to("/etc/passwd")
    status, out, err = cli("status")
    assert (status, out) == (2, "")
    assert "outside of the project" in err


def test_what_is_recorded_on_this_machine_is_named(cli, project: Path) -> None:
    run = "import replicate\nreplicate.init({}, path=None)\nopen('ready', 'w')\nimport time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", run]) as training:
        until((project / "ready").exists)
        status, out, _ = cli("status")
        assert status == 0
        (identifier,) = [experiment.short_id for experiment in replicate.experiments.list()]
        assert f"{identifier}       0 jobs  is recorded" in out
        found = json.loads(cli("status", "--json")[1])["waiting"]
        assert [(one["jobs"], one["is_recorded"], one["trouble"]) for one in found] == [(0, True, None)]
        training.kill()
    assert "its process is gone" in cli("status")[1]
    assert cli("sync")[0] == 0
    assert "WAITING" not in cli("status")[1]


def test_what_runs_have_left_is_named_with_its_checkpoint(cli, project: Path) -> None:
    (project / "model.txt").write_text("weights")
    experiment = replicate.init({}, path=None)
    checkpoint = experiment.checkpoint("model.txt", {"loss": 1.0})
    experiment.stop()
    why = f"checkpoint {checkpoint.short_id} of experiment {experiment.short_id}"
    assert f"model.txt   {why}\n" in cli("status")[1]
    assert {"path": "model.txt", "why": why} in json.loads(cli("status", "--json")[1])["left_out"]


def test_directories_of_trackers_are_named(cli, project: Path) -> None:
    (project / "wandb").mkdir()
    (project / "wandb/run").write_text("1")
    assert "Warning: wandb/ (1 B) holds output of runs" in cli("status")[1]
    assert json.loads(cli("status", "--json")[1])["outputs"] == ["wandb"]
