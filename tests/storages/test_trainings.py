"""Whole trainings on S3, by recorders of their own: with faults, killed and resumed, and many at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit import until
from s3_faults import Fault, FaultS3
from storage_servers import Place

import replicate_core as replicate

SECRET = "test-secret"

TRAINING = """\
import os, sys, time
import replicate

steps, kill_at = int(sys.argv[1]), int(sys.argv[2])
experiment = replicate.init({"lr": 0.1}, path="train.py", name="run", resume="auto")
begin = 0
if experiment.resumed_from is not None:
    begin = experiment.resumed_from.step + 1
for step in range(begin, steps):
    with open("model.bin", "wb") as file:
        file.write(b"step %d " % step * 50_000)
    experiment.checkpoint("model.bin", {"loss": 1 / (step + 1)}, ("loss", "minimize"), step=step)
    if step == kill_at:
        os.kill(os.getpid(), 9)
experiment.stop()
print("begun at", begin)
"""

WORKER = """\
import sys
import replicate

experiment = replicate.init({"number": int(sys.argv[1])}, path=None)
for step in range(3):
    with open("model.bin", "wb") as file:
        file.write(b"%s of %d " % (sys.argv[1].encode(), step) * 1000)
    experiment.checkpoint("model.bin", {"loss": step}, step=step)
experiment.stop()
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEST_S3_SECRET", SECRET)
    return dict(os.environ)


@pytest.fixture
def configured(on_s3: Place, project: Path, environment: dict[str, str]) -> Path:
    configure(project, on_s3)
    (project / "train.py").write_text(TRAINING)
    return project


def configure(project: Path, place: Place) -> None:
    options = {**place.options, "secret": "${TEST_S3_SECRET}"}
    (project / "replicate.yaml").write_text(f"storage: {place.url}\nstorage_options: {json.dumps(options)}\n")


def train(project: Path, steps: int, *, kill_at: int = -1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", str(steps), str(kill_at)], cwd=project, capture_output=True, text=True, check=False
    )


def settled(project: Path) -> bool:
    spool = project / ".replicate" / "spool"
    return not spool.is_dir() or not [name for name in os.listdir(spool) if "-" in name]


def assert_whole(project: Path, steps: int) -> replicate.Experiment:
    opened = replicate.Project(directory=project)
    (experiment,) = opened.experiments.list()
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == list(range(steps))
    for checkpoint in experiment.checkpoints:
        assert checkpoint.open().read() == b"step %d " % checkpoint.step * 50_000
    assert not opened.verify(deep=True).damages
    return experiment


def test_with_faults_nothing_is_lost(s3: FaultS3, configured: Path) -> None:
    faults = (
        Fault(status=503, code="SlowDown", skip=3, times=2),
        Fault("PUT", "data", status=500, skip=1, times=4),
        Fault("PUT", "records", cuts=True, is_done_first=True, times=2),
        Fault("PUT", "manifests", status=429, code="TooManyRequests", times=2),
        Fault("PUT", "heartbeats", status=409, code="OperationAborted", skip=1, times=2),
    )
    with s3.failing(*faults):
        done = train(configured, 4)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert assert_whole(configured, 4).status == "finished"


def test_killed_and_resumed(configured: Path) -> None:
    assert train(configured, 6, kill_at=2).returncode == -9
    until(lambda: settled(configured))
    done = train(configured, 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("begun at 3")
    assert assert_whole(configured, 6).status == "finished"


def test_a_storage_that_fails_in_the_midst_and_comes_back(s3: FaultS3, configured: Path) -> None:
    """The recorder keeps trying, for longer than any request is tried again."""
    with s3.failing(Fault("PUT", "/storage/(data|manifests|records)", status=503, code="SlowDown", skip=3, times=7)):
        done = train(configured, 3)
    assert done.returncode == 0, done.stderr
    until(lambda: settled(configured))
    assert assert_whole(configured, 3).status == "finished"


def test_a_bucket_that_is_missing_stops_the_training_before_it_begins(s3: FaultS3, configured: Path) -> None:
    configure(configured, Place("s3://never-made/storage", **s3.options))
    done = train(configured, 3)
    assert done.returncode == 1
    assert "the bucket never-made does not exist" in done.stderr
    assert not (configured / "model.bin").exists()


def test_secrets_are_shown_and_kept_nowhere(s3: FaultS3, on_s3: Place, configured: Path, tmp_path: Path) -> None:
    """Neither in what is stored, nor on disk, nor in what is said when the storage refuses them."""
    s3.gate.clear()
    try:
        process = subprocess.Popen([sys.executable, "train.py", "2", "-1"], cwd=configured, stderr=subprocess.PIPE)
        spool = configured / ".replicate" / "spool"
        until(lambda: process.poll() is not None or (spool.is_dir() and any("-" in name for name in os.listdir(spool))))
        assert process.poll() is None
        time.sleep(0.5)
        on_disk = {path: path.read_bytes() for path in configured.rglob("*") if path.is_file()}
        assert any(path.name == "origin.json" for path in on_disk)
        assert [str(path) for path, data in on_disk.items() if SECRET.encode() in data] == []
    finally:
        s3.gate.set()
    process.communicate()
    store = on_s3.open()
    stored = store.get_many([entry.key for entry in store.list("")])
    assert stored
    assert not [key for key, data in stored.items() if SECRET.encode() in data or b"test-key" in data]


def test_a_secret_given_in_code_waits_for_its_owner_alone(
    s3: FaultS3, on_s3: Place, project: Path, environment
) -> None:
    script = (
        "import os, stat, replicate\n"
        f"opened = replicate.Project(storage={on_s3.url!r}, storage_options={on_s3.options!r})\n"
        "experiment = opened.experiments.create({}, path=None)\n"
        "for directory, _, names in os.walk('.replicate/spool'):\n"
        "    for name in names:\n"
        "        path = os.path.join(directory, name)\n"
        "        if b'test-secret' in open(path, 'rb').read():\n"
        "            print(name, oct(os.stat(path).st_mode & 0o777), oct(os.stat(directory).st_mode & 0o777))\n"
        "experiment.checkpoint(None, {'loss': 1})\nexperiment.stop()\n"
    )
    (project / "train.py").write_text(script)  # what is given with -c is part of the command, which is recorded
    done = subprocess.run([sys.executable, "train.py"], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["origin.json", "0o600", "0o700"]), done.stderr
    (experiment,) = replicate.Project(storage=on_s3.url, storage_options=on_s3.options).experiments.list()
    assert experiment.status == "finished"


@pytest.mark.parametrize("where", ["s3", "local"])
def test_thirty_two_processes_lose_nothing_and_see_one_another(
    where: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    projects = [tmp_path / f"machine{number}" for number in range(32)]
    for project in projects:
        project.mkdir()
        (project / "train.py").write_text(WORKER)
        if where == "s3":
            configure(project, request.getfixturevalue("on_s3"))
        else:
            (project / "replicate.yaml").write_text("storage: ../storage\n")
    monkeypatch.setenv("REPLICATE_TRUST", os.pathsep.join(map(str, projects)))
    environment["REPLICATE_TRUST"] = os.environ["REPLICATE_TRUST"]
    environment["REPLICATE_RECORDER"] = "none"  # half as many processes, and the same requests
    running = [
        subprocess.Popen(
            [sys.executable, "train.py", str(number)], cwd=project, env=environment, stderr=subprocess.PIPE, text=True
        )
        for number, project in enumerate(projects)
    ]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 32, said
    for project in (projects[0], projects[-1]):
        experiments = replicate.Project(directory=project).experiments.list()
        assert sorted(experiment.params["number"] for experiment in experiments) == list(range(32))
        for experiment in experiments:
            number = experiment.params["number"]
            assert experiment.status == "finished"
            found = [checkpoint.open().read() for checkpoint in experiment.checkpoints]
            assert found == [b"%d of %d " % (number, step) * 1000 for step in range(3)]
