"""Whichever way a training ends: its exit code is its own, its status is true, and all it saved is stored.

Each test runs a script in a process of its own, by each Python that `REPLICATE_PYTHONS` names (separated by colons).
"""

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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
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


@pytest.fixture(params=PYTHONS, ids=[Path(python).parent.parent.name for python in PYTHONS])
def python(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def training(project: Path, python: str) -> Iterator[Training]:
    found = Training(project, python)
    yield found
    found.clean_up()


WITH = "with replicate.init({'lr': 0.1}) as experiment:\n"
INIT = "experiment = replicate.init({'lr': 0.1})\n"
GATED = (
    "print('ready', flush=True)\nwhile not os.path.exists(os.environ['REPLICATE_TEST_GATE']):\n    time.sleep(0.01)\n"
    "save_all(experiment)\n"
)
"""What is saved once the gate is shut, however long that takes."""


def own(text: str) -> str:
    """What a training wrote to standard error, without the lines about what its end waits for."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("replicate: "))


def assert_ended(experiment: replicate.Experiment, status: str, error: str | None = None) -> None:
    assert (experiment.status, experiment.error) == (status, error)


class TestByItself:
    def test_at_the_last_line(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_with_the_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\nprint('is', experiment.status)\n")
        assert (run.code, own(run.err), run.said("is")) == (0, "", ["finished"])
        assert_ended(training.only(run), "finished")

    def test_by_stop(self, training: Training) -> None:
        run = training.run(
            INIT + "save_all(experiment)\nexperiment.stop()\nexperiment.stop()\nprint('is', experiment.status)\n"
            "print('left', os.listdir('.replicate'))\n"
            "try:\n    save(experiment, 9)\nexcept replicate.InvalidInput as error:\n    print('refused', error)\n"
        )
        assert (run.code, own(run.err), run.said("is")) == (0, "", ["finished"])
        assert run.said("refused") == ["this experiment has ended: a checkpoint can't be added to it any more"]
        assert_ended(training.only(run), "finished")

    def test_without_any_checkpoint(self, training: Training) -> None:
        run = training.run(INIT)
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_without_any_file(self, training: Training) -> None:
        run = training.run(
            "experiment = replicate.init(path=None)\n"
            "for step in range(500):\n    print('saved', experiment.checkpoint(None, {'loss': step}).id)\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        experiment = training.only(run)
        assert_ended(experiment, "finished")
        assert [checkpoint.metrics["loss"] for checkpoint in experiment.checkpoints] == list(range(500))

    def test_after_half_a_minute_without_a_word(self, training: Training) -> None:
        run = training.run(INIT + "save(experiment, 0)\ntime.sleep(31)\n", seconds=90)
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_from_a_thread(self, training: Training) -> None:
        run = training.run(
            "from threading import Thread\n"
            "def train():\n    with replicate.init() as experiment:\n        save_all(experiment)\n"
            "thread = Thread(target=train)\nthread.start()\nthread.join()\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_with_checkpoints_until_the_very_end(self, training: Training) -> None:
        """A daemon thread that saves while Python ends: each checkpoint is refused, or stored."""
        run = training.run(
            INIT + "from threading import Thread\n"
            "def train():\n    step = 0\n    while True:\n        save(experiment, step)\n        step += 1\n"
            "Thread(target=train, daemon=True).start()\ntime.sleep(0.3)\n"
        )
        assert run.code == 0
        training.wait_until_settled()
        (experiment,) = training.experiments()
        assert set(run.said("saved")) <= {checkpoint.id for checkpoint in experiment.checkpoints}
        assert_stored(experiment, [checkpoint.id for checkpoint in experiment.checkpoints])

    def test_with_two_experiments_in_either_order(self, training: Training) -> None:
        run = training.run(
            "def begin(name):\n    return replicate.init(name=name)\n"
            "for order in ('ab', 'ba'):\n    both = {name: begin(name + order) for name in 'ab'}\n"
            "    for step in range(2):\n        for one in both.values():\n            save(one, step)\n"
            "    for name in order:\n        both[name].stop()\n"
            "for name in ('x', 'y'):\n    save(begin(name), 0)\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        training.wait_until_settled()
        saved = run.said("saved")
        taken = {"aab": saved[0:4:2], "bab": saved[1:4:2], "aba": saved[4:8:2], "bba": saved[5:8:2]}
        taken |= {"x": [saved[8]], "y": [saved[9]]}
        found = {experiment.name: experiment for experiment in training.experiments()}
        assert found.keys() == taken.keys()
        for name, experiment in found.items():
            assert_ended(experiment, "finished")
            assert_stored(experiment, taken[name])


class TestByAnException:
    def test_that_nobody_caught(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nraise ValueError('no data at s3://me:pass-word@host/x')\n")
        assert run.code == 1
        assert "Traceback" in run.err
        experiment = training.only(run)
        assert experiment.status == "failed"
        assert "pass-word" not in experiment.error
        assert experiment.error.startswith("ValueError: no data at s3://")

    def test_that_left_the_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    raise ValueError('token=hf_abcdefghijklmnopqrstuv')\n")
        assert run.code == 1
        experiment = training.only(run)
        assert experiment.status == "failed"
        assert experiment.error.startswith("ValueError: token=")
        assert "abcdefgh" not in experiment.error

    def test_that_was_caught_around_the_block(self, training: Training) -> None:
        run = training.run(
            f"try:\n    {WITH}        save_all(experiment)\n        1 / 0\nexcept ArithmeticError: pass\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")

    def test_in_another_thread(self, training: Training) -> None:
        """It ends that thread alone."""
        run = training.run(
            INIT + "from threading import Thread\nthread = Thread(target=lambda: 1 / 0)\nthread.start()\n"
            "thread.join()\nsave_all(experiment)\n"
        )
        assert run.code == 0
        assert "ZeroDivisionError" in run.err
        assert_ended(training.only(run), "finished")

    def test_that_a_hook_of_the_users_saw(self, training: Training) -> None:
        run = training.run(
            "sys.excepthook = lambda kind, error, trace: print('seen', kind.__name__)\n"
            + INIT
            + "save_all(experiment)\n1 / 0\n"
        )
        assert (run.code, run.said("seen")) == (1, ["ZeroDivisionError"])
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")

    def test_that_a_hook_set_later_saw(self, training: Training) -> None:
        run = training.run(
            INIT + "save_all(experiment)\nsys.excepthook = lambda kind, error, trace: print('seen', kind.__name__)\n"
            "1 / 0\n"
        )
        assert (run.code, run.said("seen")) == (1, ["ZeroDivisionError"])
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")


class TestBySysExit:
    def test_outside_of_a_block(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nsys.exit(0)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_outside_of_a_block_with_a_code(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nsys.exit(3)\n")
        assert (run.code, own(run.err)) == (3, "")
        assert_ended(training.only(run), "failed", "SystemExit: 3")

    def test_by_who_shows_the_exception_of_a_function(self, training: Training) -> None:
        """As Hydra does."""
        run = training.run(
            "def main():\n    save_all(replicate.init({'lr': 0.1}))\n    raise ValueError('loss is nan')\n"
            "try:\n    main()\nexcept Exception as error:\n    print(error)\n    sys.exit(1)\n"
        )
        assert (run.code, own(run.err)) == (1, "")
        assert_ended(training.only(run), "failed", "ValueError: loss is nan")

    def test_inside_of_a_block(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit(0)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_inside_of_a_block_with_a_code(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit(3)\n")
        assert (run.code, own(run.err)) == (3, "")
        assert_ended(training.only(run), "failed", "SystemExit: 3")

    def test_inside_of_a_block_with_a_text(self, training: Training) -> None:
        run = training.run(WITH + "    save_all(experiment)\n    sys.exit('no more data')\n")
        assert (run.code, own(run.err)) == (1, "no more data\n")
        assert_ended(training.only(run), "failed", "SystemExit: no more data")


class TestAtOnce:
    """Ends that no code of the training sees: the recorder does."""

    def test_by_os_exit(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos._exit(5)\n")
        assert (run.code, own(run.err)) == (5, "")
        assert_ended(training.only(run), "killed")

    def test_by_os_exit_with_everything_still_to_be_stored(self, training: Training) -> None:
        training.with_gate()
        run = training.start(INIT + GATED + "os._exit(5)\n").wait_for("ready")
        training.shut()
        assert run.finish().code == 5
        (experiment,) = training.experiments()
        assert experiment.status == "running"
        training.open()
        assert_ended(training.only(run), "killed")

    def test_by_sigkill(self, training: Training) -> None:
        run = training.start(INIT + "save_all(experiment)\nprint('done', flush=True)\ntime.sleep(60)\n")
        run.wait_for("done").send(signal.SIGKILL).finish()
        assert run.code == -signal.SIGKILL
        assert_ended(training.only(run), "killed")

    def test_by_sigkill_in_the_midst_of_saving(self, training: Training) -> None:
        run = training.start(INIT + "save_all(experiment, 10**6)\n").wait_for("saved")
        time.sleep(0.3)
        run.send(signal.SIGKILL).finish()
        training.wait_until_settled()
        (experiment,) = training.experiments()
        assert_ended(experiment, "killed")
        ids = [checkpoint.id for checkpoint in experiment.checkpoints]
        assert set(run.said("saved")) <= set(ids)
        assert_stored(experiment, ids)

    def test_by_an_abort(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos.abort()\n")
        assert run.code == -signal.SIGABRT
        assert_ended(training.only(run), "killed")

    def test_by_the_end_of_its_terminal(self, training: Training) -> None:
        script = INIT + "save_all(experiment)\nprint('done', flush=True)\ntime.sleep(60)\n"
        run = training.start(script, terminal=True).wait_for("done")
        run.hang_up()
        run.finish()
        assert run.code == 128 + signal.SIGHUP
        assert_ended(training.only(run), "interrupted", "SIGHUP")


class TestByCtrlC:
    LONG = "save_all(experiment)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    WAITING = GATED + "print('done', flush=True)\n"

    def test_once(self, training: Training) -> None:
        run = training.start(INIT + self.LONG).wait_for("ready").send(signal.SIGINT).finish()
        assert run.code == -signal.SIGINT  # as Python itself does it, so that a shell's loop ends, too
        assert run.err.count("Traceback") == 1
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_once_in_a_block(self, training: Training) -> None:
        run = training.start(WITH + "    save_all(experiment)\n    print('ready', flush=True)\n    time.sleep(60)\n")
        run.wait_for("ready").send(signal.SIGINT).finish()
        assert run.code == -signal.SIGINT
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_that_the_training_caught(self, training: Training) -> None:
        run = training.start(INIT + "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
                             "except KeyboardInterrupt:\n    save_all(experiment)\n").wait_for("ready")  # fmt: skip
        run.send(signal.SIGINT).finish()
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_twice_leaves_the_rest_to_the_recorder(self, training: Training) -> None:
        training.with_gate()
        run = training.start(INIT + self.WAITING + "time.sleep(60)\n").wait_for("ready")
        training.shut()
        run.wait_for("done").send(signal.SIGINT)
        until(lambda: "Traceback" in run.err, "the first Ctrl-C ends the training")
        training.wait_until_over()
        assert run.process.poll() is None  # it waits
        run.send(signal.SIGINT).finish(seconds=10)
        assert "`replicate sync`" in run.err
        assert run.err.count("Traceback") == 1
        (queue,) = training.queues()
        assert queue in run.err
        training.open()
        assert_ended(training.only(run), "interrupted", "KeyboardInterrupt")

    def test_while_the_end_waits(self, training: Training) -> None:
        training.with_gate()
        run = training.start(INIT + self.WAITING).wait_for("ready")
        training.shut()
        run.wait_for("done")
        training.wait_until_over()
        assert run.process.poll() is None
        run.send(signal.SIGINT).finish(seconds=10)
        assert "`replicate sync`" in run.err
        assert "Traceback" not in run.err
        training.open()
        assert_ended(training.only(run), "finished")

    def test_while_stop_waits(self, training: Training) -> None:
        """It is an interruption of the program as any other: what comes next is not run."""
        training.with_gate()
        run = training.start(INIT + self.WAITING + "experiment.stop()\nprint('still', flush=True)\n").wait_for("ready")
        training.shut()
        run.wait_for("done")
        training.wait_until_over()
        run.send(signal.SIGINT).finish(seconds=10)
        assert (run.code, run.said("still")) == (-signal.SIGINT, [])
        assert "`replicate sync`" in run.err
        training.open()
        assert_ended(training.only(run), "finished")


class TestBySigterm:
    LONG = TestByCtrlC.LONG

    def test_where_nobody_handles_it(self, training: Training) -> None:
        run = training.start(INIT + self.LONG).wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (143, "")
        assert_ended(training.only(run), "interrupted", "SIGTERM")

    def test_in_a_block(self, training: Training) -> None:
        run = training.start(WITH + "    save_all(experiment)\n    print('ready', flush=True)\n    time.sleep(60)\n")
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (143, "")
        assert_ended(training.only(run), "interrupted", "SIGTERM")

    def test_where_the_training_handles_it(self, training: Training) -> None:
        run = training.start(
            "import signal\ndef handler(number, frame):\n    print('handled', flush=True)\n    sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, handler)\n" + INIT
            + "assert signal.getsignal(signal.SIGTERM) is handler\n" + self.LONG
        )  # fmt: skip
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err), run.said("handled")) == (7, "", [""])
        assert_ended(training.only(run), "failed", "SystemExit: 7")

    def test_where_the_training_handles_it_later(self, training: Training) -> None:
        run = training.start(
            INIT + "import signal\ndef handler(number, frame):\n    print('handled', flush=True)\n    sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, handler)\n" + self.LONG
        )
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err), run.said("handled")) == (7, "", [""])
        training.only(run)

    def test_where_the_training_ignores_it(self, training: Training) -> None:
        run = training.start("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + INIT
                             + "print('ready', flush=True)\ntime.sleep(0.5)\nsave_all(experiment)\n")  # fmt: skip
        run.wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_leaves_no_handler_behind(self, training: Training) -> None:
        run = training.run("import signal\n" + WITH + "    save_all(experiment)\n"
                           "print('handler', signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n")  # fmt: skip
        assert run.said("handler") == ["True"]

    def test_while_the_process_ends(self, training: Training) -> None:
        """It is over at once; the recorder finishes."""
        training.with_gate()
        run = training.start(INIT + TestByCtrlC.WAITING).wait_for("ready")
        training.shut()
        run.wait_for("done")
        training.wait_until_over()
        assert run.process.poll() is None
        run.send(signal.SIGTERM).finish(seconds=10)
        assert run.code in (143, -signal.SIGTERM)
        training.open()
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("others", [0, 1])
    def test_while_stop_waits(self, training: Training, others: int) -> None:
        """It ends the process, and not only the wait: whoever sent it will not ask twice."""
        training.with_gate()
        run = training.start(
            f"others = [replicate.init(name='other', path=None) for _ in range({others})]\n{INIT}{TestByCtrlC.WAITING}"
            "experiment.stop()\nprint('still', flush=True)\ntime.sleep(60)\n"
        ).wait_for("ready")
        training.shut()
        run.wait_for("done")
        training.wait_until_over(others)
        run.send(signal.SIGTERM)
        if others:
            until(lambda: not training.recording(), "the signal ends the other one, too")
            training.open()
        run.finish(seconds=20)
        training.open()
        assert run.said("still") == []
        assert run.code in (143, -signal.SIGTERM)
        training.wait_until_settled()
        statuses = {experiment.name: experiment.status for experiment in training.experiments()}
        assert statuses == {None: "finished"} | ({"other": "interrupted"} if others else {})


class TestWorkersOfMultiprocessing:
    """Spawn and forkserver import the script anew in each worker."""

    SCRIPT = (
        "import multiprocessing\n"
        "def work(number, answers):\n    answers.put(number)\n"
        "def record(number, answers):\n    save_all(replicate.init({'number': number}, path=None), 1)\n"
        "experiment = replicate.init({'lr': 0.1})\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('METHOD')\n    answers = context.Queue()\n"
        "    workers = [context.Process(target=TARGET, args=(n, answers)) for n in range(2)]\n"
        "    for worker in workers:\n        worker.start()\n"
        "    for worker in workers:\n        worker.join()\n        assert worker.exitcode == 0\n"
        "    save_all(experiment)\n"
    )

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_a_script_without_a_guard_is_recorded_once(self, training: Training, method: str) -> None:
        run = training.run(self.SCRIPT.replace("METHOD", method).replace("TARGET", "work"))
        assert run.code == 0, run.err
        assert_ended(training.only(run), "finished")
        assert run.err.count("nothing is recorded there") == 1
        assert "train.py:" in run.err, "the warning names the line of the script"
        assert 'if __name__ == "__main__":' in run.err

    def test_a_worker_that_only_imports_the_script_does_not_reach_the_storage(self, training: Training) -> None:
        resuming = self.SCRIPT.replace("{'lr': 0.1}", "{'lr': 0.1}, resume='auto'")
        gone = "if __name__ != '__main__':\n    os.chdir(os.path.dirname(os.path.abspath(__file__)) + '/elsewhere')\n"
        (training.project / "elsewhere").mkdir()
        (training.project / "elsewhere" / "replicate.yaml").write_text("storage: /dev/null/nowhere\n")
        run = training.run(gone + resuming.replace("METHOD", "spawn").replace("TARGET", "work"))
        assert run.code == 0, run.err
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_what_a_worker_is_told_to_record_is_recorded(self, training: Training, method: str) -> None:
        """With the command that started it all, not with Python's own for a worker."""
        run = training.run(self.SCRIPT.replace("METHOD", method).replace("TARGET", "record"))
        assert run.code == 0, run.err
        training.wait_until_settled()
        experiments = training.experiments()
        assert sorted(len(experiment.checkpoints) for experiment in experiments) == [1, 1, 3]
        assert {experiment.command for experiment in experiments} == {f"{training.python} train.py"}


class TestForks:
    FORK = "pid = os.fork()\nif pid == 0:\n    {}\nprint('child', os.waitpid(pid, 0)[1], flush=True)\n"

    @pytest.mark.parametrize(
        ("child", "status"),
        [
            ("sys.exit(0)", 0),
            ("sys.exit(3)", 3 << 8),
            ("os._exit(4)", 4 << 8),
            ("raise ValueError('in the child')", 1 << 8),
            ("os.kill(os.getpid(), 15); time.sleep(60)", 15),
            ("experiment.stop(); sys.exit(0)", 0),
            ("experiment.__exit__(None, None, None); os._exit(0)", 0),
        ],
    )
    def test_whatever_a_child_does_is_no_end(self, training: Training, child: str, status: int) -> None:
        run = training.run(INIT + "save(experiment, 0)\n" + self.FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, run.said("child")) == (0, [str(status)])
        assert_ended(training.only(run), "finished")

    def test_a_child_inside_of_a_block(self, training: Training) -> None:
        fork = "    pid = os.fork()\n    if pid == 0:\n        sys.exit(2)\n    os.waitpid(pid, 0)\n"
        run = training.run(WITH + "    save(experiment, 0)\n" + fork + "    save(experiment, 1)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_a_child_that_saves_is_told(self, training: Training) -> None:
        child = "save(experiment, 5)"
        run = training.run(INIT + "save(experiment, 0)\n" + self.FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, run.said("child")) == (0, [str(1 << 8)])
        assert "this process was forked from the one that records the experiment" in run.err
        assert_ended(training.only(run), "finished")

    def test_a_child_with_an_experiment_of_its_own(self, training: Training) -> None:
        child = "own = replicate.init(name='child'); save(own, 7); sys.exit(0)"
        run = training.run(INIT + "save(experiment, 0)\n" + self.FORK.format(child) + "save(experiment, 1)\n")
        assert (run.code, own(run.err), run.said("child")) == (0, "", ["0"])
        training.wait_until_settled()
        found = {experiment.name: experiment for experiment in training.experiments()}
        first, second, third = run.said("saved")
        assert_stored(found[None], [first, third])
        assert_stored(found["child"], [second])
        assert [experiment.status for experiment in found.values()] == ["finished", "finished"]

    @pytest.mark.parametrize("end", ["", "os._exit(0)\n", "os.kill(os.getpid(), 9)\n"])
    def test_a_child_that_outlives_the_training(self, training: Training, end: str) -> None:
        """The experiment is over at once, and not when the child is."""
        run = training.start(INIT + "pid = os.fork()\nif pid == 0:\n    time.sleep(60)\n    os._exit(0)\n"
                             "print('child', pid, flush=True)\nsave_all(experiment)\n" + end)  # fmt: skip
        try:
            run.finish(seconds=20)
            assert_ended(training.only(run), "killed" if end else "finished")
        finally:
            os.kill(int(run.said("child")[0]), signal.SIGKILL)

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_pool(self, training: Training, method: str) -> None:
        run = training.run(
            "import multiprocessing\ndef square(number):\n    return number * number\n"
            f"if __name__ == '__main__':\n    {INIT}    save(experiment, 0)\n"
            f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
            "        print('squares', pool.map(square, range(20))[-1], flush=True)\n        save(experiment, 1)\n"
        )
        assert (run.code, own(run.err), run.said("squares")) == (0, "", ["361"])
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    @pytest.mark.parametrize(
        ("end", "code", "ended"),
        [
            ("pass", 0, ("finished", None)),
            ("raise ValueError('nan')", 1, ("failed", "ValueError: nan")),
            ("os.kill(os.getpid(), 15); time.sleep(60)", 143, ("interrupted", "SIGTERM")),
            ("os._exit(4)", 4, ("killed", None)),
        ],
        ids=["finished", "failed", "interrupted", "killed"],
    )
    def test_a_child_of_multiprocessing_with_an_experiment_of_its_own(
        self, training: Training, method: str, end: str, code: int, ended: tuple[str, str | None]
    ) -> None:
        """As sweeps are often written: such a process runs no exit handlers."""
        run = training.run(
            "import multiprocessing\ndef train(number):\n    experiment = replicate.init(name=f'child {number}')\n"
            f"    save(experiment, number)\n    {end}\nif __name__ == '__main__':\n"
            f"    context = multiprocessing.get_context('{method}')\n"
            "    for number in range(2):\n        child = context.Process(target=train, args=(number,))\n"
            "        child.start()\n        child.join()\n        print('child', child.exitcode, flush=True)\n"
        )
        assert (run.code, run.said("child")) == (0, [str(code)] * 2)
        training.wait_until_settled()
        first, second = training.experiments()
        assert_ended(first, *ended)
        assert_ended(second, *ended)
        for experiment, made in zip((first, second), run.said("saved"), strict=True):
            assert_stored(experiment, [made])

    def test_data_loaders_of_torch(self, training: Training) -> None:
        pytest.importorskip("torch", exc_type=ImportError)
        if training.python != sys.executable:
            pytest.skip("torch is not in that Python")
        run = training.run(
            "import torch\nclass Data(torch.utils.data.Dataset):\n    def __len__(self):\n        return 64\n"
            "    def __getitem__(self, index):\n        return torch.tensor(float(index))\n"
            f"{INIT}loader = torch.utils.data.DataLoader(Data(), batch_size=8, num_workers=2)\n"
            "for step in range(3):\n    print('sum', sum(batch.sum().item() for batch in loader))\n"
            "    save(experiment, step)\n"
            "iterator = iter(loader)\nnext(iterator)\n",  # and workers that are alive at the end
        )
        assert (run.code, own(run.err), run.said("sum")) == (0, "", ["2016.0"] * 3)
        assert_ended(training.only(run), "finished")


class TestAround:
    """What stands around a training does not harm its recorder."""

    SHADOWS = ("random", "json", "token", "queue", "logging", "tempfile", "copy", "types", "fsspec", "yaml")

    def shadow(self, training: Training) -> None:
        for name in ("shadows", *self.SHADOWS):
            (training.project / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
        (training.project / "shadows").touch()

    def test_files_with_the_names_of_standard_modules(self, training: Training) -> None:
        """Where they are no harm to the training itself, which does not look there."""
        self.shadow(training)
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_such_files_and_a_queue_that_was_left_behind(self, training: Training) -> None:
        """Whoever stores what others have left is started in the working directory of the training."""
        training.with_gate()
        run = training.start(INIT + TestByCtrlC.WAITING + "time.sleep(60)\n").wait_for("ready")
        training.shut()
        run.wait_for("done")
        training.lose_power()
        assert training.queues()
        self.shadow(training)
        second = training.run("replicate.init(name='next')\n")
        assert (second.code, own(second.err)) == (0, "")
        training.wait_until_settled()
        first, following = training.experiments()
        assert_ended(first, "killed")
        assert_stored(first, run.said("saved"))
        assert_ended(following, "finished")

    def test_warnings_that_are_errors(self, training: Training) -> None:
        training.environment["PYTHONWARNINGS"] = "error"
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_switches_of_python(self, training: Training) -> None:
        for variable in ("PYTHONOPTIMIZE", "PYTHONNODEBUGRANGES", "PYTHONDEVMODE", "PYTHONSAFEPATH"):
            training.environment[variable] = "1"
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_no_locale_and_no_home(self, training: Training) -> None:
        training.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        training.environment.pop("HOME", None)
        run = training.run("experiment = replicate.init({'lr': 0.1}, name='na\\u00efve')\nsave_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("name", ["Größe Δ 学習 a'b\"c$(d);100%", "-dash"])
    def test_strange_names_of_the_project(self, training: Training, name: str) -> None:
        training.project = training.project / name
        training.project.mkdir()
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_a_change_of_the_working_directory(self, training: Training) -> None:
        run = training.run(
            INIT + "save(experiment, 0)\nos.mkdir('deeper')\nos.chdir('deeper')\nsave(experiment, 1)\n"
            "os.chdir('/')\nprint('left', flush=True)\n"
        )
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_a_closed_standard_error(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos.close(0)\nos.close(2)\n")
        assert run.code == 0
        assert_ended(training.only(run), "finished")

    @pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)\n"])
    def test_a_backup_of_the_project_by_the_training_itself(self, training: Training, end: str) -> None:
        """It opens and closes the locked files of the spool; the locks are there all the same."""
        run = training.start(
            f"import shutil\n{INIT}save(experiment, 0)\n"
            "for step in range(3):\n    try:\n        shutil.copytree('.', f'../backup{step}')\n"
            "    except shutil.Error:\n        pass  # what is stored meanwhile vanishes from the spool\n"
            "    save(experiment, step + 1)\n"
            f"print('ready', flush=True)\nwhile not os.path.exists('../looked'):\n    time.sleep(0.01)\n{end}"
        ).wait_for("ready")
        (experiment,) = training.experiments()
        assert experiment.status == "running"
        (synced,) = replicate.Project(directory=training.project).sync()
        assert synced.outcome == "recording"
        (experiment,) = training.experiments()
        assert experiment.status == "running", "nobody ended it"
        (training.project.parent / "looked").touch()
        run.finish()
        assert own(run.err) == ""
        assert_ended(training.only(run), "killed" if end else "finished")

    def test_such_a_backup_is_a_project_itself(self, training: Training) -> None:
        """What waited when it was made belongs to nobody there, and is stored there."""
        training.with_gate()
        run = training.start(
            f"import shutil\n{INIT}{GATED}shutil.copytree('.', '../backup')\nprint('copied', flush=True)\n"
        ).wait_for("ready")
        training.shut()
        run.wait_for("copied")
        backup = replicate.Project(directory=training.project.parent / "backup")
        assert [synced.outcome for synced in backup.sync()] == ["stored"]
        (copied,) = backup.experiments.list()
        assert copied.status == "killed"
        found = {item.step: item.open().read() for item in copied.checkpoints if item.size_bytes}
        assert found == {step: b"step %d " % step * 1000 for step in found}
        training.open()
        run.finish()
        assert_ended(training.only(run), "finished")

    def test_the_loss_of_the_spool(self, training: Training) -> None:
        """Somebody tidies up: training goes on, and is told."""
        run = training.run(
            f"import shutil\n{INIT}save(experiment, 0)\n"
            "while os.path.exists('.replicate'):\n    shutil.rmtree('.replicate', ignore_errors=True)\n"
            "os.remove('model.bin')\n"
            "for step in range(3):\n    with open('model.bin', 'wb') as file:\n        file.write(b'x')\n"
            "    experiment.checkpoint('model.bin', {'loss': step})\nprint('last line', flush=True)\n"
        )
        assert (run.code, run.said("last line")) == (0, [""])
        assert "was deleted by somebody" in run.err
        assert "Traceback" not in run.err
        until(lambda: not processes_of(training.project), "no recorder is left")

    def test_descriptors_that_a_daemon_closes(self, training: Training) -> None:
        """`os.closerange` at the start of a daemon; the recorder needs none of the training's files."""
        run = training.run("os.closerange(3, 256)\n" + INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")


class TestInATerminal:
    def test_the_end_of_a_run_shows_what_it_waits_for(self, training: Training) -> None:
        """Where Python refuses new threads already: 3.12 does at exit."""
        training.with_gate()
        script = INIT + TestByCtrlC.WAITING
        run = training.start(script, terminal=True).wait_for("ready")
        training.shut()
        run.wait_for("done")
        until(lambda: "storing what is left" in run.err, "it shows what it waits for")
        assert run.process.poll() is None
        training.open()
        run.finish(seconds=20)
        assert run.code == 0
        assert "Traceback" not in run.err
        assert "Error" not in run.err
        assert "storing what is left" in run.err
        assert_ended(training.only(run), "finished")


class TestWithoutARecorder:
    """`REPLICATE_RECORDER=none`: the training stores itself."""

    @pytest.fixture(autouse=True)
    def none(self, training: Training) -> None:
        training.environment["REPLICATE_RECORDER"] = "none"

    def test_normal_end(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_exception(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\n1 / 0\n")
        assert run.code == 1
        assert_ended(training.only(run), "failed", "ZeroDivisionError: division by zero")

    def test_sigterm(self, training: Training) -> None:
        run = training.start(INIT + TestByCtrlC.LONG).wait_for("ready").send(signal.SIGTERM).finish()
        assert (run.code, own(run.err)) == (143, "")
        assert_ended(training.only(run), "interrupted", "SIGTERM")

    def test_ctrl_c_while_it_stores(self, training: Training) -> None:
        """What is left is stored by the end, or said to be left."""
        training.with_gate()
        run = training.start(INIT + GATED).wait_for("ready")
        training.shut()
        time.sleep(1)
        run.send(signal.SIGINT)
        time.sleep(0.5)
        training.open()
        run.finish(seconds=20)
        assert run.code == -signal.SIGINT
        assert run.err.count("Traceback") == 1, run.err
        if training.queues():
            assert "`replicate sync`" in run.err
            replicate.Project(directory=training.project).sync()
        training.wait_until_settled()
        (experiment,) = training.experiments()
        assert_ended(experiment, "interrupted", "KeyboardInterrupt")
        assert_stored(experiment, [checkpoint.id for checkpoint in experiment.checkpoints])

    def test_fork(self, training: Training) -> None:
        run = training.run(INIT + TestForks.FORK.format("sys.exit(0)") + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_kill(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos.kill(os.getpid(), 9)\n")
        (experiment,) = training.experiments()
        assert experiment.status == "lost"  # nobody was there to see it
        replicate.Project(directory=training.project).sync()
        assert_ended(training.only(run), "killed")


class TestRanks:
    """Of a distributed run the first process records."""

    SCRIPT = (
        WITH + "    checkpoint = experiment.checkpoint(None, {'loss': 0.5}, ('loss', 'minimize'), step=3)\n"
        "    print('step', checkpoint.step, experiment.status, len(experiment.checkpoints), experiment.best())\n"
        "experiment.stop()\nexperiment.refresh() if os.environ.get('RANK') == '0' else None\n"
        "experiment.checkpoint('train.py', {})\n"
    )

    def test_another_one_records_nothing(self, training: Training) -> None:
        training.environment |= {"RANK": "1", "WORLD_SIZE": "2"}
        run = training.run(self.SCRIPT)
        assert (run.code, own(run.err), run.said("step")) == (0, "", ["3 running 0 None"])
        assert not (training.project / ".replicate").exists()

    def test_another_one_of_slurm_is_told_once(self, training: Training) -> None:
        training.environment["SLURM_PROCID"] = "2"
        run = training.run(self.SCRIPT)
        assert (run.code, run.said("step")) == (0, ["3 running 0 None"])
        assert run.err.count("REPLICATE_RANK=0") == 1
        assert not (training.project / ".replicate").exists()

    def test_an_override(self, training: Training) -> None:
        training.environment |= {"SLURM_PROCID": "2", "REPLICATE_RANK": "0"}
        run = training.run(INIT + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")


NOTEBOOK = """
import os, sys, time
from pathlib import Path
from jupyter_client import KernelManager

manager = KernelManager(kernel_name="python3")
manager.start_kernel(cwd=os.getcwd())
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)

def cell(code):
    reply = client.execute_interactive(code, timeout=60, output_hook=show)
    print("cell", reply["content"]["status"], flush=True)

def show(message):
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", flush=True)
    elif message["msg_type"] == "error":
        print("error", content["ename"], content["evalue"], flush=True)

cell(open("train.py").read())
cell("save(experiment, 0)")
cell("1 / 0")
cell("save(experiment, 1); print('is', experiment.status)")
"""


class TestNotebooks:
    """A kernel: `sys.excepthook` is never called, and its process ends when somebody closes the notebook."""

    @pytest.fixture(autouse=True)
    def kernel(self, training: Training) -> None:
        pytest.importorskip("jupyter_client", exc_type=ImportError)
        pytest.importorskip("ipykernel", exc_type=ImportError)
        if training.python != sys.executable:
            pytest.skip("Jupyter is not in that Python")
        (training.project.parent / "notebook.py").write_text(NOTEBOOK)

    def run(self, training: Training, end: str) -> Run:
        notebook = training.project.parent / "notebook.py"
        notebook.write_text(NOTEBOOK + end + "\nclient.stop_channels()\n")
        return training.start(INIT, arguments=(str(notebook),)).finish(seconds=120)

    @pytest.mark.parametrize(
        ("end", "statuses"),
        [
            ("manager.shutdown_kernel()", {"finished"}),
            ("manager.shutdown_kernel(now=True)", {"killed"}),
            ("cell('experiment.stop()')\nmanager.shutdown_kernel(now=True)", {"finished"}),
            ("manager.restart_kernel()\nmanager.shutdown_kernel()", {"finished"}),
        ],
    )
    def test_a_kernel_ends(self, training: Training, end: str, statuses: set[str]) -> None:
        run = self.run(training, end)
        assert run.code == 0, run.err
        assert run.said("is") == ["running"]
        assert run.said("error")[0].startswith("ZeroDivisionError")
        assert training.only(run).status in statuses


@pytest.mark.parametrize("recorder", ["", "none"], ids=["with a recorder", "without one"])
def test_without_standard_streams_nothing_that_is_printed_lands_in_what_is_saved(
    training: Training, recorder: str
) -> None:
    """A C library prints to descriptors 1 and 2 whatever they are."""
    if recorder:
        training.environment["REPLICATE_RECORDER"] = recorder
    run = training.start_without_streams(
        """
import threading
for step in range(6):
    with open(f"model{step}", "wb") as file:
        file.write(b"step %d " % step * 1000 * (1 + step % 2 * 100))
over = threading.Event()
def chatter():
    while not over.wait(0.0005):
        for number in range(3):
            try:
                os.write(number, b"progress 10%\\r")
            except OSError:
                pass
threading.Thread(target=chatter, daemon=True).start()
experiment = replicate.init(path=None)
for step in range(6):
    experiment.checkpoint(f"model{step}", {"loss": 1.0}, step=step)
for step in range(6, 50):
    experiment.checkpoint(None, {"loss": 1.0}, step=step)
experiment.stop()
over.set()
"""
    ).finish()
    assert run.code == 0
    training.wait_until_settled()
    (experiment,) = training.experiments()
    assert experiment.status == "finished"
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == list(range(50))
    for step, checkpoint in enumerate(experiment.checkpoints[:6]):
        assert checkpoint.open().read() == b"step %d " % step * 1000 * (1 + step % 2 * 100)
