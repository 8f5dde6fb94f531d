"""Measures the bytes and time that checkpoints cost, compared to `cp`, restic and borg.

    python benchmarks/storage.py [--small] [--only NAME ...]

Makes real series of checkpoints with the installed frameworks (torch, Keras). replicate and `cp` save each checkpoint
in turns, and so do restic and borg if installed. What counts are the ratios: of the bytes stored to the raw bytes, and
of the time to that of `cp` of the same file. Times are medians of one run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "tensorflow")

from replicate_core.config import Config
from replicate_core.format.records import Checkpointed, CheckpointFacts
from replicate_core.machine.files import scan
from replicate_core.machine.ignoring import IgnoreRules
from replicate_core.machine.staging import SMALL_BYTES, Staged, stage
from replicate_core.repository.checkout import check_out, lay_out
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.repository import Repository
from replicate_core.repository.writing import publish
from replicate_core.spool.upload_queue import SPARES_MAX
from replicate_core.storage.local import LocalStore

Series = Callable[[Path, int], Iterator[Path]]
"""Function that writes checkpoints into a directory one after another; each is a file or a directory."""


# The series. Sizes are in parameters, 4 bytes each; `scale` makes them smaller for a quick look.


def torch_model(parameters: int, layers: int = 100):
    import torch

    torch.manual_seed(0)
    width = int((parameters / layers) ** 0.5)
    return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))


def steps(model, optimizer, count: int) -> None:
    """Train the model for a few steps on random data."""
    import torch

    width = model[0].in_features
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, width)).pow(2).mean().backward()
        optimizer.step()


def torch_full(directory: Path, scale: int) -> Iterator[Path]:
    """A full fine-tuning with Adam: every weight moves."""
    import torch

    model = torch_model(8_400_000 // scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(5):
        steps(model, optimizer, 2)
        path = directory / "model.pt"
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        yield path


def torch_frozen(directory: Path, scale: int) -> Iterator[Path]:
    """A frozen backbone with a trained head; a growing history comes before the weights."""
    import torch

    yield from _torch_frozen(directory, scale, lambda _: "model.pt", torch)


def torch_frozen_named(directory: Path, scale: int) -> Iterator[Path]:
    """The same, with the step in the name of the file, which torch writes into every record."""
    import torch

    yield from _torch_frozen(directory, scale, lambda step: f"epoch-{step}.pt", torch)


def _torch_frozen(directory: Path, scale: int, name: Callable[[int], str], torch) -> Iterator[Path]:
    model = torch_model(24_500_000 // scale)
    for layer in model[:-1]:
        layer.requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam(model[-1].parameters(), lr=1e-3)
    history = []
    for step in range(10):
        steps(model, optimizer, 1)
        history.append({"step": step, "loss": 1 / (step + 1)})
        path = directory / name(step)
        torch.save({"history": history, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        yield path


def torch_partly_frozen(percent: int) -> Series:
    """A fine-tuning with AdamW in which a percentage of the saved bytes are frozen weights."""

    def series(directory: Path, scale: int) -> Iterator[Path]:
        import torch

        # Of 100 layers. Those that are trained are saved three times, with AdamW's state.
        layers = round(300 * percent / (100 + 2 * percent))
        model = torch_model(int(25_000_000 / scale / (layers / 100 + 3 * (1 - layers / 100))))
        for layer in model[:layers]:
            layer.requires_grad_(requires_grad=False)
        optimizer = torch.optim.AdamW(model[layers:].parameters(), lr=1e-4)
        for _ in range(SAVES):
            steps(model, optimizer, 1)
            path = directory / "model.pt"
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
            yield path

    return series


SAVES = 5
"""Number of checkpoints in the partly frozen series, whose goal depends on it."""


def goal_partly_frozen(percent: int) -> float:
    """Return the goal: all of the first checkpoint, and at most 1.05 times the new bytes of each other."""
    return (1 + (SAVES - 1) * 1.05 * (1 - percent / 100)) / SAVES


def torch_lora(directory: Path, scale: int) -> Iterator[Path]:
    """LoRA: small trained matrices beside frozen ones; the whole state is saved."""
    import torch

    base = torch_model(24_500_000 // scale)
    width = base[0].in_features
    adapters = torch.nn.ParameterList(torch.zeros(width, 2).normal_(std=0.01) for _ in range(2 * len(base)))
    optimizer = torch.optim.AdamW(adapters, lr=1e-4)
    history = []
    for step in range(10):
        optimizer.zero_grad()
        value = torch.randn(8, width)
        for number, layer in enumerate(base):
            value = value @ layer.weight.detach() + (value @ adapters[2 * number]) @ adapters[2 * number + 1].T
        value.pow(2).mean().backward()
        optimizer.step()
        history.append(step)
        state = {"history": history, "base": base.state_dict(), "lora": adapters.state_dict()}
        path = directory / "model.pt"
        torch.save({**state, "optimizer": optimizer.state_dict()}, path)
        yield path


def torch_bf16(directory: Path, scale: int) -> Iterator[Path]:
    """A bf16 copy of weights that all change, at a small learning rate."""
    import torch

    model = torch_model(24_800_000 // scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(5):
        steps(model, optimizer, 1)
        path = directory / "model.pt"
        torch.save({name: weights.bfloat16() for name, weights in model.state_dict().items()}, path)
        yield path


def torch_distributed(directory: Path, scale: int) -> Iterator[Path]:
    """Torch's distributed format, a sequence of archives, after a growing history."""
    import io

    import torch

    weights = [torch.randn(1_000_000 // scale + 50_000) for _ in range(8)]
    for step in range(5):
        path = directory / "__0_0.distcp"
        with open(path, "wb") as file:
            for item in (list(range(100 * step)), weights[0] + step, *weights[1:]):
                buffer = io.BytesIO()
                torch.save(item, buffer)
                file.write(buffer.getbuffer())
        yield path


def pickled(directory: Path, scale: int) -> Iterator[Path]:
    """A pickle of arrays, after a growing history."""
    import pickle

    import numpy as np

    arrays = [np.random.default_rng(number).normal(size=1_000_000 // scale + 50_000) for number in range(8)]
    for step in range(5):
        path = directory / "state.pkl"
        arrays[0] = arrays[0] + step
        path.write_bytes(pickle.dumps({"history": list(range(100 * step)), "arrays": arrays}))
        yield path


def keras_frozen(directory: Path, scale: int) -> Iterator[Path]:
    """A Keras model with a frozen backbone, as `.keras`."""
    yield from _keras_frozen(directory, scale, "model.keras")


def keras_frozen_h5(directory: Path, scale: int) -> Iterator[Path]:
    """The same as `.h5`."""
    yield from _keras_frozen(directory, scale, "model.h5")


def _keras_frozen(directory: Path, scale: int, name: str) -> Iterator[Path]:
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    width = int((24_000_000 / scale / 60) ** 0.5)
    backbone = [keras.layers.Dense(width, trainable=False) for _ in range(60)]
    model = keras.Sequential([keras.Input((width,)), *backbone, keras.layers.Dense(width // 2)])
    model.compile("adam", "mean_squared_error")
    x = np.random.default_rng(0).normal(size=(32, width)).astype("float32")
    for _ in range(10):
        model.fit(x, x[:, : width // 2], verbose=0)
        model.save(directory / name)
        yield directory / name


def code(directory: Path, _: int) -> Iterator[Path]:
    """A project of 300 source files, of which one changes from run to run."""
    chance = random.Random(0)
    sources = [path for path in sorted(Path(os.__file__).parent.rglob("*.py")) if 2_000 < path.stat().st_size < 60_000]
    project = directory / "project"
    for number, path in enumerate(chance.sample(sources, 300)):
        target = project / f"package{number % 20}" / f"module{number}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    files = sorted(project.rglob("*.py"))
    for step in range(20):
        with open(chance.choice(files), "a", encoding="utf-8") as file:
            file.write(f"\n# changed in run {step}\n")
        yield project


SERIES: dict[str, tuple[Series, float | None]] = {
    "torch full fine-tune": (torch_full, 1.01),
    "torch frozen, growing history": (torch_frozen, 0.15),
    "torch frozen, step in file name": (torch_frozen_named, 0.15),
    "torch LoRA, full state": (torch_lora, 0.13),
    **{
        f"torch {percent} % frozen": (torch_partly_frozen(percent), goal_partly_frozen(percent))
        for percent in (25, 40, 60, 75)
    },
    "torch bf16": (torch_bf16, 1.01),
    "torch distributed, shifted": (torch_distributed, None),
    "pickle, shifted": (pickled, None),
    "keras frozen .keras": (keras_frozen, 0.15),
    "keras frozen .h5": (keras_frozen_h5, None),
    "code, 20 x 300 files": (code, 0.03),
}
"""Name to the series, and the goal as a share of the raw bytes, if there is one."""


# The tools to compare.


@dataclass
class Times:
    """Seconds per checkpoint."""

    blocking: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    got: list[float] = field(default_factory=list)


class Replicate:
    """replicate's own code path: copy the files, then store the copies."""

    def __init__(self, room: Path) -> None:
        self.room = room / "replicate"
        self.room.mkdir()
        self.repository = Repository(LocalStore(self.room / "storage"))
        self.repository.prepare()
        self.known = ChunkIndex(self.repository)
        self.spares: list[Path] = []
        self.config = Config(self.room)
        self.manifests: list[str] = []

    def put(self, path: Path, times: Times) -> None:
        start = time.perf_counter()
        tree = scan(path.parent, path, rules=IgnoreRules())
        with tempfile.TemporaryDirectory(dir=self.room) as directory:
            staged = stage(tree, Path(directory), spare=lambda: self.spares.pop() if self.spares else None)
            times.blocking.append(time.perf_counter() - start)
            facts = CheckpointFacts(self.repository.new_id(), self.repository.now(), 0, {})
            publish(
                self.repository,
                self.known,
                staged,
                self.config.compression,
                lambda snapshot: self._record(facts, snapshot.manifest),
            )
            self._keep_spares(staged)
        times.stored.append(time.perf_counter() - start)

    def _keep_spares(self, staged: Staged) -> None:
        """Keep copies that did not become objects, to be overwritten later, as the spool does."""
        for file in staged.files:
            if file.size > SMALL_BYTES and file.copy.stat().st_nlink == 1 and len(self.spares) < SPARES_MAX:
                self.spares.append(file.copy.replace(self.room / f"spare-{os.urandom(8).hex()}"))

    def _record(self, facts: CheckpointFacts, manifest: str) -> Checkpointed:
        self.manifests.append(manifest)
        return Checkpointed("0" * 32, (facts,))

    def get(self, target: Path, times: Times) -> None:
        start = time.perf_counter()
        repository = Repository(LocalStore(self.room / "storage"))
        check_out(repository, lay_out([repository.manifest(self.manifests[-1])]), target)
        times.got.append(time.perf_counter() - start)

    def size(self) -> int:
        return directory_bytes(self.room / "storage")


class Copy:
    """`cp`, as a program."""

    def __init__(self, room: Path) -> None:
        self.room = room / "cp"
        self.room.mkdir()
        self.count = 0
        self.last = self.room

    def put(self, path: Path, times: Times) -> None:
        self.count += 1
        self.last = self.room / str(self.count)
        self.last.mkdir()
        start = time.perf_counter()
        run("cp", "-r", str(path), str(self.last))
        times.stored.append(time.perf_counter() - start)

    def get(self, target: Path, times: Times) -> None:
        start = time.perf_counter()
        run("cp", "-r", str(self.last), str(target))
        times.got.append(time.perf_counter() - start)

    def size(self) -> int:
        return directory_bytes(self.room)


class Restic:
    """restic, which encrypts and compresses."""

    def __init__(self, room: Path) -> None:
        self.room = room / "restic"
        self.environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(self.room)}
        self.environment["RESTIC_CACHE_DIR"] = str(room / "restic-cache")
        run("restic", "init", "--quiet", environment=self.environment)

    def put(self, path: Path, times: Times) -> None:
        start = time.perf_counter()
        run("restic", "backup", "--quiet", str(path), environment=self.environment)
        times.stored.append(time.perf_counter() - start)

    def get(self, target: Path, times: Times) -> None:
        start = time.perf_counter()
        run("restic", "restore", "latest", "--quiet", "--target", str(target), environment=self.environment)
        times.got.append(time.perf_counter() - start)

    def size(self) -> int:
        return directory_bytes(self.room)


class Borg:
    """borg, without encryption."""

    def __init__(self, room: Path) -> None:
        self.room = room / "borg"
        self.environment = {**os.environ, "BORG_BASE_DIR": str(room / "borg-home")}
        self.count = 0
        run("borg", "init", "-e", "none", str(self.room), environment=self.environment)

    def put(self, path: Path, times: Times) -> None:
        self.count += 1
        start = time.perf_counter()
        run("borg", "create", f"{self.room}::{self.count}", str(path), environment=self.environment)
        times.stored.append(time.perf_counter() - start)

    def get(self, target: Path, times: Times) -> None:
        target.mkdir()
        start = time.perf_counter()
        run("borg", "extract", f"{self.room}::{self.count}", environment=self.environment, directory=target)
        times.got.append(time.perf_counter() - start)

    def size(self) -> int:
        return directory_bytes(self.room)


def run(*command: str, environment: dict[str, str] | None = None, directory: Path | None = None) -> None:
    subprocess.run(command, check=True, env=environment, cwd=directory, stdout=subprocess.DEVNULL)


def directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def compare(name: str, series: Series, goal: float | None, scale: int) -> None:
    peers = {"replicate": Replicate, "cp": Copy}
    peers |= {tool: peer for tool, peer in (("restic", Restic), ("borg", Borg)) if shutil.which(tool)}
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-") as directory:
        room = Path(directory)
        (room / "source").mkdir()
        tools = {tool: peer(room) for tool, peer in peers.items()}
        times = {tool: Times() for tool in tools}
        raw = 0
        for count, path in enumerate(series(room / "source", scale)):
            raw += path.stat().st_size if path.is_file() else directory_bytes(path)
            order = list(tools)
            for tool in order[count % len(order) :] + order[: count % len(order)]:  # no tool always goes first
                tools[tool].put(path, times[tool])
        for attempt in range(3):
            for tool, peer in tools.items():
                peer.get(room / f"got-{tool}-{attempt}", times[tool])
        print(f"\n{name}: {raw / 1e6:.0f} MB in {count + 1} checkpoints")
        if goal is not None:
            print(f"  the goal for replicate: at most {goal:.2f} of the raw bytes")
        base = times["cp"]
        print(f"  {'':10} {'stored':>8} {'blocking/cp':>12} {'until stored/cp':>16} {'get/cp':>8}")
        for tool, peer in tools.items():
            mine = times[tool]
            blocking = f"{pairwise(mine.blocking, base.stored):.2f}" if mine.blocking else ""
            until = f"{pairwise(mine.stored, base.stored):.2f}"
            print(
                f"  {tool:10} {peer.size() / raw:8.3f} {blocking:>12} {until:>16} {pairwise(mine.got, base.got):8.2f}"
            )


def pairwise(mine: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of paired measurements."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def peak_memory(megabytes: int) -> None:
    """Measure the memory that saving a large file takes, above the process's baseline."""
    with tempfile.TemporaryDirectory(prefix="replicate-benchmark-") as directory:
        room = Path(directory)
        source = room / "source" / "large.bin"
        source.parent.mkdir()
        with open(source, "wb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range(megabytes))
        peer = Replicate(room)
        before = resident_bytes()
        highest = [before]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                highest[0] = max(highest[0], resident_bytes())

        thread = threading.Thread(target=watch)
        thread.start()
        peer.put(source, Times())
        over.set()
        thread.join()
        print(f"\nsaving a file of {megabytes} MiB: {(highest[0] - before) / 1e6:.0f} MB of memory above the baseline")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a fortieth of the size, to see that it works")
    parser.add_argument("--memory", type=int, metavar="MEBIBYTES", help="only measure the memory that saving takes")
    parser.add_argument("--only", nargs="*", help="parts of the names of the series to run")
    arguments = parser.parse_args()
    if arguments.memory:
        peak_memory(arguments.memory)
        return
    scale = 40 if arguments.small else 1
    for name, (series, goal) in SERIES.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        needs = "keras" if name.startswith("keras") else "torch" if name.startswith("torch") else "numpy"
        if importlib.util.find_spec(needs) is None:
            print(f"\n{name}: left out, because {needs} is not installed", file=sys.stderr)
            continue
        compare(name, series, goal, scale)
    if not arguments.only and Path("/proc/self/statm").exists():
        megabytes = 50 if arguments.small else 2048
        # In a new process: this one holds memory of the frameworks, which saving would reuse.
        subprocess.run([sys.executable, __file__, "--memory", str(megabytes)], check=True)


if __name__ == "__main__":
    main()
