"""Runs that are killed and go on: in the process of a test, and as training scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from stores import manifest_of

import replicate_core as replicate
from replicate_core.format.records import Record
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore

ROOT = Path(replicate.__file__).parents[1]


def start(name: str | None = "digits", *, resume: str | None = "auto", **options: object) -> replicate.Experiment:
    """What the training script does first."""
    return replicate.init(options.pop("params", {"lr": 0.1}), name=name, resume=resume, **options)


def save(experiment: replicate.Experiment, step: int | None = None) -> replicate.Checkpoint:
    """A checkpoint whose file says its step."""
    Path("model.txt").write_text(f"weights of step {step}")
    return experiment.checkpoint("model.txt", {"loss": -1 if step is None else 1 / (step + 1)}, step=step)


def killed(experiment: replicate.Experiment) -> replicate.Experiment:
    """As after a SIGKILL: nobody owns its queue any more."""
    experiment._recorded._queue.finish_appending()
    return experiment


def interrupted(experiment: replicate.Experiment) -> replicate.Experiment:
    """As after a Ctrl-C: its end is recorded, and it did not finish."""
    experiment._recorded.end("interrupted", "KeyboardInterrupt")
    return experiment


def ran(steps: int, **options: object) -> replicate.Experiment:
    """A run that was killed after so many steps."""
    experiment = start(**options)
    for step in range(steps):
        save(experiment, step)
    return killed(experiment)


def seen(identifier: str) -> replicate.Experiment:
    """As everybody else sees an experiment."""
    return replicate.experiments.get(identifier)


def repository(storage: Path | str = ".replicate/storage") -> Repository:
    return Repository(LocalStore(Path(storage)))


def kinds(*types: type[Record], storage: Path | str = ".replicate/storage") -> list[Record]:
    """The stored records of some kinds."""
    return [record for record in repository(storage).read_records() if isinstance(record, types)]


def flip(checkpoint: replicate.Checkpoint) -> None:
    """Change a bit of the last file of a checkpoint, where that is stored."""
    part = list(manifest_of(checkpoint).files.values())[-1].parts[-1]
    path = Path(".replicate/storage", part.object)
    data = bytearray(path.read_bytes())
    assert part.encoding is None, "as it is, so that every bit counts"
    data[part.offset + part.length // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def stored(experiment: str, step: int) -> replicate.Checkpoint:
    return next(item for item in seen(experiment).checkpoints if item.step == step)


TRAINING = """
import os, sys, time
import replicate
options = dict(part.split("=") for part in sys.argv[1:])
if "go" in options:
    print("there", flush=True)
    while not os.path.exists(options["go"]):
        time.sleep(0.001)
try:
    experiment = replicate.init({"lr": 0.1}, name="digits", resume=options.get("resume", "auto"))
except replicate.InvalidInput as error:
    print("refused:", error, flush=True)
    sys.exit(0)
begin = 0
if experiment.resumed_from is not None:
    step = experiment.resumed_from.step
    with experiment.resumed_from.open("model.txt") as file:
        assert file.read() == b"weights of step %d" % step * 1000, step
    begin = step + 1
print("begun", experiment.id, begin, flush=True)
if "wait" in options:
    sys.stdin.readline()
for step in range(begin, int(options["steps"])):
    path = "model.txt" if step % int(options.get("every", 1)) == 0 else None
    if path is not None:
        with open(path, "w") as file:
            file.write(f"weights of step {step}" * 1000)
    made = experiment.checkpoint(path, {"loss": 1 / (step + 1)}, step=step)
    print("made", step, made.id, flush=True)
    time.sleep(float(options.get("pause", 0)))
if "stay" in options:
    time.sleep(600)
"""


class Training:
    """A training script in a process of its own."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, *(f"{name}={value}" for name, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def line(self) -> list[str]:
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.split()

    def begun(self) -> tuple[str, int]:
        word, experiment, begin = self.line()
        assert word == "begun"
        return experiment, int(begin)

    def made(self, step: int) -> str:
        """Wait for the acknowledgement of a step; returns the id of its checkpoint."""
        found = self.line()
        assert found[:2] == ["made", str(step)], found
        return found[2]

    def tell(self) -> None:
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def rest(self) -> list[list[str]]:
        """All that it still says until its end."""
        return [line.split() for line in self.process.stdout.read().splitlines()]

    def recorders(self) -> list[int]:
        """The processes that store what this one records."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if any(word.startswith(os.fsencode(self.directory / ".replicate/spool/")) for word in words):
                    found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds recorders in /proc")
