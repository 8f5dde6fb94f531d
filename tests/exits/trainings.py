"""Trainings in processes of their own, by each Python that `REPLICATE_PYTHONS` names (separated by colons)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

from kit import until

import replicate_core as replicate
from replicate_core.workspace import Workspace

PYTHONS = os.environ.get("REPLICATE_PYTHONS", sys.executable).split(":")
PRELUDE = """\
import os, sys
if "shadows" in os.listdir():  # what is beside the script is not for the script
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]
import time
import replicate

def save(experiment, step):
    with open("model.bin", "wb") as file:
        file.write(b"step %d " % step * 1000)
    print("saved", experiment.checkpoint("model.bin", {"loss": 1 / (step + 1)}, step=step).id, flush=True)

def save_all(experiment, count=3):
    for step in range(count):
        save(experiment, step)

"""


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
        self._terminal: int | None = None
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read_terminal, daemon=True)

    def show_in(self, terminal: int) -> None:
        self._terminal = terminal
        self._reader.start()

    def hang_up(self) -> None:
        """Close its terminal, if it has one."""
        if self._terminal is not None:
            self._closing.set()
            self._reader.join()
            os.close(self._terminal)
        self._terminal = None

    def _read_terminal(self) -> None:
        with open(self._output / "err", "ab", buffering=0) as err:
            while not self._closing.is_set():
                if select.select([self._terminal], [], [], 0.05)[0]:
                    try:
                        err.write(os.read(self._terminal, 4096))
                    except OSError:  # nobody has it open on the other side any more
                        return

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
        if self._terminal is not None:
            time.sleep(0.2)
            self.hang_up()
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
            if not name.startswith(("REPLICATE_", "SLURM_", "OMPI_", "PMI", "PYTEST_", "COV_"))
            and not name.endswith("RANK")
        }
        self._runs: list[Run] = []
        self._gate = project.parent / "gate"

    def start_without_streams(self, script: str) -> Run:
        """As a daemon does: descriptors 0, 1 and 2 are closed."""
        close = (
            "import os, sys; [os.close(n) for n in range(3)]; os.execv(sys.executable, [sys.executable, 'train.py'])"
        )
        return self.start(script, arguments=("-c", close))

    def start(self, script: str, *, arguments: tuple[str, ...] = ("train.py",), terminal: bool = False) -> Run:
        (self.project / "train.py").write_text(PRELUDE + script, "utf-8")
        output = self.project.parent / f"output{len(self._runs)}"
        output.mkdir()
        with open(output / "out", "wb") as out, open(output / "err", "wb") as err:
            options = {"cwd": self.project, "env": self.environment, "stdin": subprocess.DEVNULL, "stdout": out}
            if terminal:
                terminal_side, training_side = pty.openpty()
                options |= {"stdin": training_side, "stderr": training_side, "preexec_fn": _in_terminal}
            else:
                options |= {"stderr": err, "preexec_fn": _with_default_signals}
            process = subprocess.Popen([self.python, *arguments], start_new_session=True, **options)
        self._runs.append(Run(process, output))
        if terminal:
            os.close(training_side)
            self._runs[-1].show_in(terminal_side)
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

    def recording(self) -> int:
        """How many experiments have not said their last word."""
        return sum(queue.is_owned() for queue in Workspace(directory=self.project).spool.queues())

    def start_and_shut(self, script: str, *, others: int = 0) -> Run:
        """Start a training whose storage is shut when it is ready, and wait until only the storing is left to do."""
        self.with_gate()
        run = self.start(script).wait_for("ready")
        self.shut()
        run.wait_for("done")
        self.wait_until_over(others)
        return run

    def wait_until_over(self, others: int = 0) -> None:
        """Wait until the training has said its last word, and only waits for what is left to store."""
        until(lambda: self.recording() <= others, "the training comes to its end")
        time.sleep(0.7)  # it goes on waiting

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

    def lose_power(self) -> None:
        """Kill all at once, while nothing can be stored; then the gate is open."""
        for process in processes_of(self.project):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.clean_up()

    def clean_up(self) -> None:
        self.open()
        for run in self._runs:
            if run.process.poll() is None:
                run.process.kill()
            run.process.wait()
            run.hang_up()
        for process in processes_of(self.project):
            with suppress(ProcessLookupError):
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


def _in_terminal() -> None:
    _with_default_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _with_default_signals() -> None:
    """As a shell starts a program in the foreground, whatever started these tests."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


WITH = "with replicate.init({'lr': 0.1}) as experiment:\n"
INIT = "experiment = replicate.init({'lr': 0.1})\n"
GATED = (
    "print('ready', flush=True)\nwhile not os.path.exists(os.environ['REPLICATE_TEST_GATE']):\n    time.sleep(0.01)\n"
    "save_all(experiment)\n"
)
"""What is saved once the gate is shut, however long that takes."""
LONG = "save_all(experiment)\nprint('ready', flush=True)\ntime.sleep(60)\n"
WAITING = GATED + "print('done', flush=True)\n"
FORK = "pid = os.fork()\nif pid == 0:\n    {}\nprint('child', os.waitpid(pid, 0)[1], flush=True)\n"


def own(text: str) -> str:
    """What a training wrote to standard error, without the lines about what its end waits for."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("replicate: "))


def assert_ended(experiment: replicate.Experiment, status: str, error: str | None = None) -> None:
    assert (experiment.status, experiment.error) == (status, error)
