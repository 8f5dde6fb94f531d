"""Measures listing many experiments, on a local disk and on S3, compared to MLflow's search.

    python benchmarks/listing.py [--small] [--experiments 10000] [--mlflow PYTHON] [--only local s3 mlflow]

Generates experiments over a hundred days, with five records each: code, three checkpoints, and the end. Each has 120
packages, and the params and metrics of a small training. Each measurement runs in a new process, and starts after
Python's start and the imports. Cold means that nothing is in the local cache, nor, for the local disk, in the page
cache; warm means a repeated run. The S3 server is moto, in a process of its own on the loopback; its time is reported
apart from the reader's processor time. `--mlflow` adds MLflow, with the same runs in its file store and sqlite store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

ROUNDS = 5
SHOWN = 20
"""Number of the latest experiments that are read in detail, as for a listing in a terminal."""

DAYS = 100
BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
BUCKET = "experiments"

READ = f"""
import json, os, sys, time
import replicate
from replicate_core.project import Project
if sys.argv[1].startswith("s3://"):
    import s3fs  # importing is not measured
wall, cpu = time.perf_counter(), time.process_time()
experiments = Project(storage=sys.argv[1]).experiments.list()
for experiment in experiments[-{SHOWN}:] if sys.argv[2] == "latest" else experiments:
    experiment.params, experiment.status, experiment.best(), experiment.latest()
print(json.dumps([len(experiments), time.perf_counter() - wall, time.process_time() - cpu]))
"""

BEGIN_MLFLOW = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.create_experiment("benchmark")
client.search_runs([experiment])
print(experiment)
"""

META = """artifact_uri: file:///nowhere/{run}
end_time: {ended}
entry_point_name: ''
experiment_id: '{experiment}'
lifecycle_stage: active
run_id: {run}
run_name: {name}
source_name: ''
source_type: 4
source_version: ''
start_time: {started}
status: 3
tags: []
user_id: ada
"""

SEARCH_MLFLOW = """
import json, sys, time
from mlflow.tracking import MlflowClient
import mlflow.store.tracking.file_store, mlflow.store.tracking.sqlalchemy_store
wall = time.perf_counter()
client = MlflowClient(sys.argv[1])
count = int(sys.argv[3])
found, token = [], None
while len(found) < count:
    page = client.search_runs(
        [sys.argv[2]], max_results=min(count, 5000), order_by=["start_time DESC"], page_token=token
    )
    found += page
    token = page.token
    if not token:
        break
print(json.dumps([len(found), time.perf_counter() - wall]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--small", action="store_true", help="50 experiments on the local disk, to see that it works")
    parser.add_argument("--mlflow", help="a Python interpreter that has MLflow")
    parser.add_argument("--only", nargs="+", choices=["local", "s3", "mlflow"], default=["local", "s3", "mlflow"])
    parser.add_argument("--serve", nargs=2, metavar=("DIRECTORY", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve[0]), int(arguments.serve[1]))
        return
    count, only = (50, ["local"]) if arguments.small else (arguments.experiments, arguments.only)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["REPLICATE_CACHE"] = f"{directory}/cache"
        measure(Path(directory), count, only, arguments.mlflow)


def measure(directory: Path, count: int, only: list[str], mlflow: str | None) -> None:
    from replicate_core.repository.compacting import compact
    from replicate_core.repository.repository import Repository
    from replicate_core.storage.local import LocalStore

    storage = directory / "storage"
    runs = make(storage, count)
    print(f"{count} experiments, {5 * count} records; seconds, the median of {ROUNDS} with the range")
    before: list[float] = []
    if "local" in only:
        before = series(
            "local disk, records alone: the latest, warm", lambda: read(str(storage), "latest")[1], rounds=2
        )
    start = time.perf_counter()
    report = compact(Repository(LocalStore(storage)))
    (segment,) = storage.glob("segments/*")
    print(
        f"  compacted {report.records} records in {time.perf_counter() - start:.1f} s: {segment.stat().st_size:,} bytes"
    )
    ours: dict[str, float] = {}
    if "local" in only:
        cold = series("local disk: the latest, cold", lambda: read(str(storage), "latest")[1], forget=[storage])
        warm = series("local disk: the latest, warm", lambda: read(str(storage), "latest")[1])
        every = series("local disk: all params and checkpoints, warm", lambda: read(str(storage), "all")[1])
        ours = {"latest": middle(warm), "all": middle(every)}
        goal("cold", middle(cold), 2.0)
        goal("warm", middle(warm), 0.5)
        print(f"  ratio to records alone: {middle(warm) / middle(before):.3f}")
    if "s3" in only:
        measure_s3(directory, storage)
    if "mlflow" in only and mlflow:
        measure_mlflow(directory, runs, mlflow, ours)


def goal(what: str, found: float, wanted: float) -> None:
    print(f"  goal {what}: {wanted} s: {'met' if found <= wanted else 'NOT MET'} ({found:.3f} s)")


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def series(
    what: str, action: Callable[[], float], *, forget: list[Path] | None = None, rounds: int = ROUNDS
) -> list[float]:
    """Measure an action several times."""
    found = []
    for _ in range(rounds):
        for path in forget or ():
            forget_pages(path)
        found.append(action())
    print(f"  {what:62} {middle(found):8.3f}  ({min(found):.3f} .. {max(found):.3f})", flush=True)
    return found


def forget_pages(root: Path) -> None:
    """Drop files from the page cache, so that they are read from disk."""
    os.sync()
    for path in root.glob("segments/*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(storage: str, what: str, **environment: str) -> tuple[int, float, float]:
    command = [sys.executable, "-c", READ, storage, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    count, wall, cpu = json.loads(done.stdout)
    return count, wall, cpu


def make(storage: Path, count: int) -> list[dict[str, Any]]:
    """Write the records of experiments over a hundred days; returns the runs for MLflow."""
    from replicate_core.format import ids, record_codec
    from replicate_core.format.records import (
        Checkpointed,
        CheckpointFacts,
        Created,
        Ended,
        GitState,
        PrimaryMetric,
        Record,
    )
    from replicate_core.format.sealed import seal

    chance = random.Random(1)
    packages = {f"package-{number}": f"{number % 7}.{number % 11}.{number % 5}" for number in range(120)}
    system = {"platform": "Linux-6.1-x86_64", "cpus": 16, "memory_bytes": 1 << 37, "accelerators": ["NVIDIA H100"] * 8}
    storage.mkdir()
    (storage / "replicate.json").write_text('{"format": 1, "digest": "sha256"}\n')
    runs: list[dict[str, Any]] = []
    for number in range(count):
        began = BEGAN + timedelta(days=DAYS * number / count)
        experiment = chance.randbytes(16).hex()
        params = {"learning_rate": chance.random(), "layers": chance.randrange(9), "optimizer": {"name": "adam"}}
        records: list[Record] = [
            Created(
                experiment,
                began,
                name=f"run {number}",
                params=params,
                user="ada",
                host=f"node{number % 16}",
                command="python train.py --epochs 3",
                packages=packages,
                system=system,
                git=GitState("0" * 40, "main", dirty=False),
                python_version="3.11.7",
                manifest=f"manifests/{ids.ulid(number, bytes(10))}.json",
                size_bytes=10_000,
            )
        ]
        metrics = []
        for step in range(3):
            loss, accuracy = chance.random(), chance.random()
            metrics += [(step, "loss", loss), (step, "accuracy", accuracy)]
            facts = CheckpointFacts(
                chance.randbytes(16).hex(),
                began + timedelta(minutes=step),
                step,
                {"loss": loss, "accuracy": accuracy},
                PrimaryMetric("loss", "minimize"),
                "model.pt",
                manifest=f"manifests/{ids.ulid(number, bytes(9) + bytes([step]))}.json",
                size_bytes=1_000_000,
            )
            records.append(Checkpointed(experiment, (facts,)))
        records.append(Ended(experiment, began + timedelta(minutes=4), "finished"))
        for minute, record in enumerate(records):
            written = began + timedelta(minutes=minute)
            ulid = ids.ulid(int(written.timestamp() * 1000), chance.randbytes(10))
            path = storage / f"records/{written:%Y%m%d}/{ulid}-{experiment}-{record_codec.kind(record)}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(seal(record_codec.encode(record)))
            os.utime(path, (written.timestamp(),) * 2)
        flat = {"learning_rate": params["learning_rate"], "layers": params["layers"], "optimizer.name": "adam"}
        runs.append({"started": int(began.timestamp() * 1000), "params": flat, "metrics": metrics})
    return runs


def measure_s3(directory: Path, storage: Path) -> None:
    with server(storage) as url:
        place = f"s3://{BUCKET}/storage"
        fsspec_config = directory / "fsspec"
        fsspec_config.mkdir()
        (fsspec_config / "s3.json").write_text(json.dumps({"s3": {"endpoint_url": url, "key": "k", "secret": "s"}}))
        caches = iter(range(1000))

        def once(*, fresh: bool) -> tuple[float, float, dict[str, float]]:
            cache = f"{directory}/cold{next(caches)}" if fresh else f"{directory}/warm"
            ask(url, "/-/log")
            environment = {"REPLICATE_CACHE": cache, "FSSPEC_CONFIG_DIR": str(fsspec_config)}
            _, wall, cpu = read(place, "latest", **environment)
            return wall, cpu, ask(url, "/-/log")

        for what, fresh, wanted in (("cold", True, 2.0), ("warm", False, 0.5)):
            once(fresh=fresh)
            found = [once(fresh=fresh) for _ in range(ROUNDS)]
            work = series(f"S3: the latest, {what}: work", iter([cpu for _, cpu, _ in found]).__next__)
            series(f"S3: the latest, {what}: elapsed", iter([wall for wall, _, _ in found]).__next__)
            requests = found[-1][2]
            print(f"  requests: {requests['count']:.0f}, for which the server took {requests['seconds']:.3f} s")
            goal(what, middle(work), wanted)


def ask(url: str, path: str) -> dict[str, float]:
    with urllib.request.urlopen(url + path) as answer:
        return json.load(answer)


@contextmanager
def server(storage: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(storage), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                ask(url, "/-/log")
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def serve(storage: Path, port: int) -> None:
    """Run an S3 server with the content of a directory; it reports the number of requests and the time they took."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for path in storage.rglob("*"):
        if path.is_file():
            key = backend.put_object(BUCKET, f"storage/{path.relative_to(storage).as_posix()}", path.read_bytes())
            key.last_modified = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).replace(tzinfo=None)
    answer = DomainDispatcherApplication(create_backend_app)
    log = {"count": 0, "seconds": 0.0}

    def application(environ: dict[str, str], start_response: Callable[..., object]) -> object:
        if environ["PATH_INFO"] == "/-/log":
            start_response("200 OK", [("Content-Type", "application/json")])
            text = json.dumps(log)
            log.update(count=0, seconds=0.0)
            return [text.encode()]
        start = time.perf_counter()
        body = list(answer(environ, start_response))
        log["count"] += 1
        log["seconds"] += time.perf_counter() - start
        return body

    class Silent(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: object) -> None:
            pass

    make_server("127.0.0.1", port, application, threaded=True, request_handler=Silent).serve_forever()


def measure_mlflow(directory: Path, runs: list[dict[str, Any]], python: str, ours: dict[str, float]) -> None:
    environment = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"}
    stores = (
        ("sqlite", f"sqlite:///{directory}/mlflow.db", partial(fill_sqlite, directory / "mlflow.db")),
        ("file", f"file://{directory}/mlruns", partial(fill_files, directory / "mlruns")),
    )
    for name, store, fill in stores:
        begin = [python, "-c", BEGIN_MLFLOW, store]
        done = subprocess.run(begin, capture_output=True, text=True, check=True, env=environment)
        experiment = done.stdout.split()[-1]
        fill(experiment, runs)

        def search(count: int, store: str = store, experiment: str = experiment) -> float:
            command = [python, "-c", SEARCH_MLFLOW, store, experiment, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            found, seconds = json.loads(done.stdout.splitlines()[-1])
            assert found == count
            return seconds

        for what, count in (("latest", SHOWN), ("all", len(runs))):
            theirs = series(f"MLflow, {name} store: {what}, warm", lambda count=count: search(count), rounds=3)
            if what in ours:
                print(f"  ratio replicate to MLflow: {ours[what] / middle(theirs):.3f}", flush=True)


def fill_sqlite(path: Path, experiment: str, runs: list[dict[str, Any]]) -> None:
    """Write the same runs into MLflow's database directly: its API would take an hour."""
    with sqlite3.connect(path) as database:
        for number, run in enumerate(runs):
            name, started = f"{number:031x}a", run["started"]
            columns = (
                "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
            )
            columns += "source_version, lifecycle_stage, artifact_uri, experiment_id"
            row = (name, f"run {number}", "LOCAL", "", "", "ada", "FINISHED", started, started + 240_000, "", "active")
            database.execute(
                f"INSERT INTO runs ({columns}) VALUES ({', '.join('?' * 13)})",
                (*row, f"file:///nowhere/{name}", int(experiment)),
            )
            params = [(key, str(value), name) for key, value in run["params"].items()]
            database.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)
            points = [(key, value, started + step, name, step, 0) for step, key, value in run["metrics"]]
            for table, rows in (("metrics", points), ("latest_metrics", points[-2:])):
                names = "key, value, timestamp, run_uuid, step, is_nan"
                database.executemany(f"INSERT INTO {table} ({names}) VALUES (?, ?, ?, ?, ?, ?)", rows)


def fill_files(root: Path, experiment: str, runs: list[dict[str, Any]]) -> None:
    """Write the same runs into MLflow's file store."""
    for number, run in enumerate(runs):
        name, started = f"{number:031x}a", run["started"]
        place = root / experiment / name
        for kind in ("params", "metrics", "tags", "artifacts"):
            (place / kind).mkdir(parents=True)
        meta = META.format(
            run=name, name=f"run {number}", experiment=experiment, started=started, ended=started + 240_000
        )
        (place / "meta.yaml").write_text(meta)
        for key, value in run["params"].items():
            (place / "params" / key).write_text(str(value))
        for step, key, value in run["metrics"]:
            with open(place / "metrics" / key, "a") as file:
                file.write(f"{started + step} {value} {step}\n")


if __name__ == "__main__":
    main()
