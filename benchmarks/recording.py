"""Measures what recording costs a training, compared to what a script would do by hand.

    python benchmarks/recording.py [--small] [--only NAME ...]

Compares blocked time to `cp` of the same file to the same disk, in turns, and a training with checkpoints to the same
training without. What counts are the ratios, compared to the goals: times are medians of one run, on one machine. The
range of each ratio over the rounds shows how reliable it is. TMPDIR selects the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TypeVar

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each busy process uses one processor

from side_by_side import MEGABYTE, note, row, seconds_of, title, warm_memory

import replicate

T = TypeVar("T")

METRICS = {"loss": 0.25, "accuracy": 0.75}
LATENCY_SECONDS = 0.03
FROZEN_SHARE = 0.95

SLOW = f'''
"""A directory with the latency of a distant bucket: each request takes {LATENCY_SECONDS} seconds, many run at once."""

import asyncio, os, shutil
from fsspec.asyn import AsyncFileSystem

class SlowFileSystem(AsyncFileSystem):
    protocol = "slow"

    async def _cat_file(self, path, start=None, end=None, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        with open(path, "rb") as file:
            return file.read()[start:end]

    async def _pipe_file(self, path, value, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(value)

    async def _put_file(self, lpath, rpath, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        os.makedirs(os.path.dirname(rpath), exist_ok=True)
        await asyncio.to_thread(shutil.copyfile, lpath, rpath)

    async def _info(self, path, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        status = os.stat(path)
        return {{"name": path, "size": status.st_size, "type": "file", "mtime": status.st_mtime}}

    async def _find(self, path, detail=False, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        names = [os.path.join(root, name) for root, _, files in os.walk(path) for name in files]
        return {{name: {{"name": name, "size": os.path.getsize(name), "type": "file"}} for name in names}}

    async def _ls(self, path, detail=True, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        with os.scandir(path) as found:
            return [{{"name": entry.path, "type": "directory" if entry.is_dir() else "file"}} for entry in found]

    async def _rm_file(self, path, **_):
        await asyncio.sleep({LATENCY_SECONDS})
        os.unlink(path)
'''
"""Source of a module that the recorder finds by its entry point, like any installed driver."""


@dataclass(frozen=True)
class Size:
    """How much to measure."""

    megabytes: tuple[int, ...]
    rounds: int
    calls: int
    starts: int
    checkpoints: int
    training_rounds: int
    phases: int
    """Number of checkpoints in one round of the training."""


FULL = Size((100, 1000), 9, 100_000, 10, 10_000, 12, 3)
SMALL = Size((10,), 2, 10_000, 2, 300, 1, 2)


# Projects and their files.


@contextmanager
def project(storage: str = "storage") -> Iterator[Path]:
    """Make a project directory and work in it until the `with` block ends."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-", ignore_cleanup_errors=True) as room:
        directory = Path(room).resolve() / "project"
        directory.mkdir()
        url = f"slow://{directory.parent}/storage" if storage == "slow" else "../storage"
        (directory / "replicate.yaml").write_text(f"storage: {url}\nquiet: true\n")
        os.environ["REPLICATE_TRUST"] = str(directory)  # its driver is unknown to replicate
        os.chdir(directory)
        try:
            yield directory
        finally:
            os.chdir(before)


@contextmanager
def surroundings() -> Iterator[None]:
    """Set up the environment of the measured processes: the driver for `slow://`, and a cache of compiled modules."""
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-") as room:
        (Path(room) / "slow_storage.py").write_text(SLOW)
        facts = Path(room) / "slow_storage-1.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-storage\nVersion: 1\n")
        (facts / "entry_points.txt").write_text("[fsspec.specs]\nslow = slow_storage:SlowFileSystem\n")
        os.environ["REPLICATE_CACHE"] = str(Path(room) / "cache")
        sys.path.insert(0, room)  # for this process, which knows it too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [room, os.environ.get("PYTHONPATH")]))
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(room) / "compiled")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles all modules
        with project():
            fresh(_init, None)
        yield


def new_file(path: Path, megabytes: int) -> None:
    """Write a file of random bytes."""
    with open(path, "wb") as file:
        file.writelines(os.urandom(MEGABYTE) for _ in range(megabytes))


def frozen_file(path: Path, megabytes: int) -> None:
    """Write a file of which only the end is new, as of a model that is mostly frozen. Frameworks rewrite it, too."""
    frozen = int(megabytes * FROZEN_SHARE)
    with open(path, "wb") as file:
        file.writelines(random.Random(number).randbytes(MEGABYTE) for number in range(frozen))
        file.writelines(os.urandom(MEGABYTE) for _ in range(megabytes - frozen))


def unstored(directory: Path) -> int:
    """Count the checkpoints with files that wait in a project's spool."""
    return sum(1 for _ in directory.glob(".replicate/spool/*/files/*"))


def wait_until_stored(directory: Path) -> None:
    while unstored(directory):
        time.sleep(0.02)


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def fresh(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a new interpreter."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# How long `checkpoint()` blocks.


def blocked(size: Size) -> None:
    title("blocked by checkpoint(path), beside cp", "checkpoint", "cp")
    for megabytes in size.megabytes:
        for storage in ("local", "slow"):
            for content, write in (("new", new_file), ("frozen", frozen_file)):
                where = "local storage" if storage == "local" else f"{LATENCY_SECONDS * 1000:.0f} ms per request"
                rounds = size.rounds if megabytes < 1000 else min(size.rounds, 5)
                mine, theirs = _blocked(storage, write, megabytes, rounds)
                row(f"{megabytes} MB, {content}, {where}", mine, theirs, "<= 1.0")
    megabytes = size.megabytes[0]
    mine, theirs = _blocked("local", new_file, megabytes, size.rounds, idle=False)
    row(f"{megabytes} MB, new, the one before is being stored", mine, theirs)


def _blocked(
    storage: str, write: Callable[[Path, int], None], megabytes: int, rounds: int, *, idle: bool = True
) -> tuple[list[float], list[float]]:
    """Measure checkpoints and `cp` in turns; returns the seconds of each.

    Args:
        storage: `local` or `slow`.
        write: writes the file.
        megabytes: size of the file.
        rounds: number of checkpoints.
        idle: whether the recorder is idle when a checkpoint is saved.
    """
    mine: list[float] = []
    theirs: list[float] = []
    with project(storage) as directory:
        experiment = replicate.init(path=None)
        source = directory / "model.bin"

        def save() -> None:
            if not idle:
                experiment.checkpoint("model.bin", METRICS)
                time.sleep(0.3)  # the recorder has noticed it by now
            mine.append(seconds_of(lambda: experiment.checkpoint("model.bin", METRICS)))
            wait_until_stored(directory)

        def by_hand() -> None:
            copy = directory.parent / f"copy{len(theirs)}.bin"  # kept, like what replicate stores
            theirs.append(seconds_of(lambda: run("cp", str(source), str(copy))))

        for number in range(rounds):
            write(source, megabytes)
            os.sync()  # earlier writes must not be measured
            for action in (save, by_hand) if number % 2 else (by_hand, save):  # neither always goes first
                warm_memory(megabytes)
                action()
        experiment.stop()
    return mine, theirs


# Many checkpoints without files.


def calls(size: Size) -> None:
    title(f"{size.calls:,} times checkpoint(None, metrics), beside a log", "checkpoint", "json line")
    mine, theirs = [], []
    for _ in range(3):
        seconds, by_hand, grown, records, ending = fresh(_calls, size.calls)
        mine.append(seconds / size.calls)
        theirs.append(by_hand / size.calls)
    row("per call", mine, theirs, unit="us")
    note(f"{1 / statistics.median(mine):,.0f} calls per second; {records} records; stop() took {ending:.1f} s")
    note(f"memory of the training process grew by {grown / 1e6:.1f} MB, {grown / size.calls:.0f} bytes per call")


def _calls(count: int) -> tuple[float, float, int, int, float]:
    with project() as directory:
        with open(directory / "log.jsonl", "w", encoding="utf-8") as log:

            def by_hand(step: int) -> None:
                log.write(json.dumps({"step": step, "time": time.time(), "metrics": METRICS}) + "\n")
                log.flush()

            hand = seconds_of(lambda: [by_hand(step) for step in range(count)])
        experiment = replicate.init(path=None)
        for _ in range(1000):
            experiment.checkpoint(None, METRICS)
        before = resident_bytes()

        def loop() -> None:
            for _ in range(count):
                experiment.checkpoint(None, METRICS)

        seconds = seconds_of(loop)
        grown = resident_bytes() - before
        ending = seconds_of(experiment.stop)
        records = sum(1 for _ in directory.parent.glob("storage/records/**/*-checkpoints.json"))
    return seconds, hand, grown, records, ending


# Starting.


def imports(size: Size) -> None:
    title("import replicate, beside a bare interpreter", "import", "bare")
    mine, json_only, bare = [], [], []
    run(sys.executable, "-c", "import replicate")
    for _ in range(size.starts):
        bare.append(seconds_of(lambda: run(sys.executable, "-c", "pass")))
        json_only.append(seconds_of(lambda: run(sys.executable, "-c", "import json")))
        mine.append(seconds_of(lambda: run(sys.executable, "-c", "import replicate")))
    row("import replicate", mine, bare)
    row("import json", json_only, bare)
    added = statistics.median(a - b for a, b in zip(mine, bare, strict=True))
    note(f"on top of the bare interpreter: {added:.3f} s; goal <= 0.1 s")


def init(size: Size) -> None:
    title("init() in a new process, beside a bare interpreter", "init()", "bare")
    for what, path in (("10 files", "."), ("no code", None)):
        mine, bare = [], []
        with project() as directory:
            for number in range(10):
                (directory / f"module{number}.py").write_text(f"# {number}\n" * 200)
            for _ in range(size.starts + 1):
                mine.append(fresh(_init, path))
                bare.append(seconds_of(lambda: run(sys.executable, "-c", "pass")))
        row(f"{what}, first experiment of a storage", mine[:1], bare[:1])
        row(f"{what}, the next ones", mine[1:], bare[1:])


def _init(path: str | None) -> float:
    began = time.perf_counter()
    experiment = replicate.init(path=path)
    seconds = time.perf_counter() - began
    experiment.stop()
    return seconds


# Very many checkpoints with files.


def growth(size: Size) -> None:
    title(f"{size.checkpoints:,} checkpoints of 10 kB, beside the first tenth", "later", "first")
    block = size.checkpoints // 10
    blocks, stored, ending = fresh(_growth, size.checkpoints)
    for number in (1, 4, 9):
        later, first = (_medians(times) for times in (blocks[number], blocks[0]))
        row(f"checkpoints {number * block:,} to {(number + 1) * block:,}", later, first, "flat", unit="us")
    medians = [statistics.median(times) for times in blocks]
    note("medians in us: " + " ".join(f"{median * 1e6:.0f}" for median in medians))
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(stored) if b[1] > a[1]]
    tenth = max(1, len(rates) // 10)
    first, last = statistics.mean(rates[:tenth]), statistics.mean(rates[-tenth:])
    note(f"the recorder stored {first:.0f} per second at first, {last:.0f} at the end; stop() took {ending:.1f} s")


def _medians(times: list[float]) -> list[float]:
    """Return the medians of ten parts."""
    part = len(times) // 10
    return [statistics.median(times[start : start + part]) for start in range(0, 10 * part, part)]


def _growth(count: int) -> tuple[list[list[float]], list[tuple[float, int]], float]:
    """Return the seconds of checkpoints in ten blocks, pairs of time and number stored, and the seconds of `stop()`."""
    with project() as directory:
        source = directory / "small.bin"
        source.write_bytes(os.urandom(10_000))
        experiment = replicate.init(path=None)
        blocks: list[list[float]] = []
        stored: list[tuple[float, int]] = []
        began = time.perf_counter()
        for number in range(10):
            times = []
            for _ in range(count // 10):
                with open(source, "r+b") as file:
                    file.write(os.urandom(100))
                times.append(seconds_of(lambda: experiment.checkpoint("small.bin", METRICS)))
            blocks.append(times)
            stored.append((time.perf_counter() - began, (number + 1) * (count // 10) - unstored(directory)))
        while left := unstored(directory):
            stored.append((time.perf_counter() - began, count - left))
            time.sleep(1)
        ending = seconds_of(experiment.stop)
    return blocks, stored, ending


# A training that keeps all processors busy.

MATRIX = 768
PHASE_SECONDS = 2.0


def training(size: Size) -> None:
    title("steps on all processors, beside no checkpoints", "with", "without")
    rates: dict[str, list[float]] = {"nothing": [], "cp": [], "replicate": []}
    behind: list[int] = []
    workers = max(1, (os.cpu_count() or 2) - 1)
    context = get_context("spawn")
    counters = [context.Value("q", 0) for _ in range(workers)]
    processes = [context.Process(target=_multiply, args=(counter,), daemon=True) for counter in counters]
    for process in processes:
        process.start()
    try:
        for number in range(size.training_rounds):
            names = list(rates)
            for name in names[number % 3 :] + names[: number % 3]:
                rate, left = _trained(name, size.phases, size.megabytes[0], counters)
                rates[name].append(rate)
                if name == "replicate":
                    behind.append(left)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    megabytes = size.megabytes[0]
    row(f"{megabytes} MB saved every {PHASE_SECONDS:.0f} s", rates["replicate"], rates["nothing"], ">= 0.98", unit="/s")
    row("cp at nice 19 in its place, beside the training", rates["cp"], rates["nothing"], unit="/s")
    still = rates["nothing"]
    note(f"without checkpoints, rounds differ by {(max(still) - min(still)) / statistics.median(still):.1%}")
    note(f"of {size.phases} checkpoints, not stored yet at the end of a round: {statistics.median(behind):.0f}")


def _multiply(counter: Synchronized[int]) -> None:
    """Keep one processor busy."""
    step = _stepper()
    while True:
        step()
        counter.value += 1


def _stepper() -> Callable[[], object]:
    import numpy as np

    left, right = np.random.default_rng(0).normal(size=(2, MATRIX, MATRIX)).astype("float32")
    return lambda: left @ right


def _trained(name: str, phases: int, megabytes: int, counters: list[Synchronized[int]]) -> tuple[float, int]:
    """Return the steps per second of all processes outside of `checkpoint()`, and the number not stored at the end."""
    step = _stepper()
    counted, seconds = 0, 0.0
    copies: list[subprocess.Popen[bytes]] = []
    with project() as directory:
        experiment = replicate.init(path=None) if name == "replicate" else None
        new_file(directory / "model.bin", megabytes)
        if experiment is not None:
            experiment.checkpoint("model.bin", METRICS)  # the first one warms up
            wait_until_stored(directory)
        for number in range(phases):
            new_file(directory / "model.bin", megabytes)
            if experiment is not None:
                experiment.checkpoint("model.bin", METRICS)
            if name == "cp":
                copies.append(_copy_beside(directory / "model.bin", directory.parent / f"copy{number % 2}.bin"))
            began, before = time.perf_counter(), sum(counter.value for counter in counters)
            while (passed := time.perf_counter() - began) < PHASE_SECONDS:
                step()
                counted += 1
            counted += sum(counter.value for counter in counters) - before
            seconds += passed
        left = unstored(directory)
        for copy in copies:
            copy.wait()
        if experiment is not None:
            experiment.stop()
    return counted / seconds, left


def _copy_beside(source: Path, target: Path) -> subprocess.Popen[bytes]:
    """Start `cp` with the priority of the recorder."""
    process = subprocess.Popen(["nice", "-n", "19", "cp", str(source), str(target)], start_new_session=True)
    with suppress(OSError):
        Path(f"/proc/{process.pid}/autogroup").write_text("19", "ascii")
    return process


PARTS: dict[str, Callable[[Size], None]] = {
    "blocked": blocked,
    "calls": calls,
    "import": imports,
    "init": init,
    "growth": growth,
    "training": training,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="half a minute, to see that it works")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="the parts to run")
    arguments = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    free = shutil.disk_usage(tempfile.gettempdir()).free
    print(f"{os.cpu_count()} processors, load {load}; {free / 1e9:.0f} GB free in {tempfile.gettempdir()}")
    with surroundings():
        for name, part in PARTS.items():
            if not arguments.only or name in arguments.only:
                part(SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
