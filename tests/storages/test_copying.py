"""`replicate sync` and `replicate cp` from one server to another, each with options of its own; killed and repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kit import until
from s3_faults import Fault, FaultS3
from storage_servers import Place

import replicate_core as replicate
from replicate_core.workspace import Workspace

BYTES = 200_000


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def experiments(on_s3: Place, project: Path) -> list[str]:
    """Two experiments on S3, whose ids these are; `here.yaml` names their storage."""
    name(on_s3, "here.yaml")
    made = []
    for number in range(2):
        experiment = replicate.Project(storage="here.yaml").experiments.create({"number": number}, path=None)
        for step in range(3):
            (project / "model.bin").write_bytes(os.urandom(BYTES))
            experiment.checkpoint("model.bin", {"loss": step})
        experiment.stop()
        made.append(experiment.id)
    return made


def name(place: Place, file: str) -> None:
    Path(file).write_text(f"storage: {place.url}\nstorage_options: {json.dumps(place.options)}\n")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "replicate", *words]


def run(*words: str) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("kind", ["weak_s3", "azure", "sftp", "webdav"])
def test_everything_from_one_server_to_another(
    kind: str, experiments: list[str], request: pytest.FixtureRequest
) -> None:
    name(request.getfixturevalue(f"on_{kind}"), "there.yml")
    assert run("sync", "here.yaml", "there.yml") == "Copied 2 experiments: 10 records, 6 objects, 1.21 MB.\n"
    assert run("-S", "there.yml", "ls", "-q").split() == experiments
    assert "damage" not in run("-S", "there.yml", "verify", "--deep")
    assert run("sync", "here.yaml", "there.yml") == "2 experiments were there already.\n"
    replicate.Project(storage="there.yml").experiments.get(experiments[0]).delete()
    deleted = "Copied the deletion of 1 experiment.\n1 experiment was there already.\n"
    assert run("sync", "there.yml", "here.yaml") == deleted
    assert run("-S", "here.yaml", "ls", "-q").split() == experiments[1:]


def test_one_experiment_back_to_a_disk(experiments: list[str], tmp_path: Path) -> None:
    backup = str(tmp_path / "backup")
    run("-S", "here.yaml", "cp", experiments[1][:8], backup)
    (copied,) = replicate.Project(storage=backup).experiments.list()
    assert copied.id == experiments[1]
    with copied.checkpoints[-1].open() as stream:
        assert stream.read() == Path("model.bin").read_bytes()


def test_killed_while_it_copies_and_repeated(experiments: list[str], on_weak_s3: Place, s3: FaultS3) -> None:
    name(on_weak_s3, "there.yaml")
    there = replicate.Project(storage="there.yaml")
    with s3.failing(Fault("GET", "data", seconds=0.5, times=100)):
        copying = subprocess.Popen(command("sync", "here.yaml", "there.yaml"), stderr=subprocess.DEVNULL)
        until(lambda: Workspace(storage="there.yaml").store.list("data/"))
        copying.send_signal(signal.SIGKILL)
        assert copying.wait() == -signal.SIGKILL
    listed = [experiment.id for experiment in there.experiments.list()]
    assert not [damage for damage in there.verify(deep=True).damages if damage.experiment in listed]
    run("sync", "here.yaml", "there.yaml")
    assert [experiment.id for experiment in there.experiments.list()] == experiments
    report = there.verify(deep=True)
    assert (report.damages, report.objects) == ((), 6)
