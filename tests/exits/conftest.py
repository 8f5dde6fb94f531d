"""Trainings as real processes, and what is known of their experiments once they are over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import replicate_core as replicate

PYTHONS = os.environ.get("REPLICATE_PYTHONS", sys.executable).split(":")

PRELUDE = """\
import os, sys, time
import replicate

def save(experiment, step):
    with open("model.bin", "wb") as file:
        file.write(b"step %d " % step * 1000)
    print("saved", experiment.checkpoint("model.bin", {"loss": 1 / (step + 1)}, step=step).id, flush=True)

def save_all(experiment, count=3):
    for step in range(count):
        save(experiment, step)

"""

PATIENCE_SECONDS = 30


def until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(0.02)


def processes_of(project: Path) -> dict[int, str]:
    """The processes that were started for a project: those that name it on their command line."""
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if os.fsencode(project) in line:
            found[int(entry.parent.name)] = os.fsdecode(line).replace("\0", " ")
    return found


class Run:
    """One execution of a training script."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def out(self) -> str:
        return (self._output / "out").read_text("utf-8")

    @property
    def err(self) -> str:
        return (self._output / "err").read_text("utf-8")

    def said(self, word: str) -> list[str]:
        """What followed this word at the beginning of a line of the output."""
        return [line.removeprefix(word).strip() for line in self.out.splitlines() if line.startswith(word)]

    def wait_for(self, word: str) -> Run:
        """Wait until it has said something."""
        until(lambda: self.said(word) or self.process.poll() is not None, f"the training says {word!r}")
        assert self.said(word), f"ended with {self.process.poll()} before it said {word!r}: {self.err}"
        return self

    def send(self, number: signal.Signals) -> Run:
        self.process.send_signal(number)
        return self

    def finish(self, *, seconds: float = 60) -> Run:
        self.process.wait(seconds)
        return self

    @property
    def code(self) -> int:
        assert self.process.returncode is not None, "it has ended"
        return self.process.returncode


class Training:
    """A project directory with a training script.

    Args:
        project: the directory.
        python: what runs the script.
    """

    def __init__(self, project: Path, python: str) -> None:
        self.project = project
        self.python = python
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REPLICATE_", "SLURM_", "OMPI_", "PMI", "PYTEST_", "COV_")) and name != "RANK"
        }
        self._runs: list[Run] = []
        self._gate = project.parent / "gate"

    def start(self, script: str, *, prelude: str = PRELUDE, arguments: tuple[str, ...] = ("train.py",)) -> Run:
        (self.project / "train.py").write_text(prelude + script, "utf-8")
        output = self.project.parent / f"output{len(self._runs)}"
        output.mkdir()
        with open(output / "out", "wb") as out, open(output / "err", "wb") as err:
            process = subprocess.Popen(
                [self.python, *arguments],
                cwd=self.project, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, preexec_fn=_with_default_signals,  # as a shell starts it in the foreground
            )  # fmt: skip
        self._runs.append(Run(process, output))
        return self._runs[-1]

    def run(self, script: str, *, seconds: float = 60) -> Run:
        return self.start(script).finish(seconds=seconds)

    def with_gate(self) -> Training:
        """Have the storage wait, from now on, while the gate is shut."""
        self.environment["REPLICATE_TEST_GATE"] = str(self._gate)
        self.environment["PYTHONPATH"] = str(Path(__file__).parent / "sitecustomized")
        return self

    def shut(self) -> None:
        self._gate.touch()

    def open(self) -> None:
        self._gate.unlink(missing_ok=True)

    def queues(self) -> list[str]:
        spool = self.project / ".replicate" / "spool"
        return sorted(os.listdir(spool)) if spool.is_dir() else []

    def experiments(self) -> list[replicate.Experiment]:
        return list(replicate.Project(directory=self.project).experiments.list())

    def wait_until_settled(self) -> None:
        """Wait until nothing waits any more and nobody is at work."""
        until(lambda: not self.queues(), "nothing is left in the spool")
        if Path("/proc/self").exists():
            until(lambda: not processes_of(self.project), f"nobody works any more: {processes_of(self.project)}")

    def only(self, *runs: Run) -> replicate.Experiment:
        """The only experiment there is: stored to the last byte, as are all checkpoints that these runs made."""
        self.wait_until_settled()
        (experiment,) = self.experiments()
        assert_stored(experiment, [identifier for run in runs for identifier in run.said("saved")])
        return experiment

    def clean_up(self) -> None:
        self.open()
        for run in self._runs:
            if run.process.poll() is None:
                run.process.kill()
            run.process.wait()
        for process in processes_of(self.project):
            os.kill(process, signal.SIGKILL)


def assert_stored(experiment: replicate.Experiment, ids: list[str]) -> None:
    """Make sure that an experiment has exactly these checkpoints, and that all of them can be read."""
    assert [checkpoint.id for checkpoint in experiment.checkpoints] == ids
    for checkpoint in experiment.checkpoints:
        assert checkpoint.is_stored
        if checkpoint.path is not None:
            assert checkpoint.open().read() == b"step %d " % checkpoint.step * 1000
    assert experiment.waiting == 0
    assert experiment.heartbeat is None or experiment.status == "running"


def _with_default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(params=PYTHONS, ids=[Path(python).parent.parent.name for python in PYTHONS])
def python(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def training(project: Path, python: str) -> Iterator[Training]:
    found = Training(project, python)
    yield found
    found.clean_up()
