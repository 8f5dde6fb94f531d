"""Whatever stands around a training (files, a terminal, a notebook, no recorder): all it saved is stored."""

from __future__ import annotations

import signal
import sys
import time

import pytest
from kit import until
from trainings import FORK, GATED, INIT, LONG, WAITING, Run, Training, assert_ended, assert_stored, own, processes_of

import replicate_core as replicate


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
        run = training.start(INIT + WAITING + "time.sleep(60)\n").wait_for("ready")
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
        script = INIT + WAITING
        run = training.start(script, terminal=True).wait_for("ready")
        training.shut()
        run.wait_for("done")
        until(lambda: "storing what waits" in run.err, "it shows what it waits for")
        assert run.process.poll() is None
        training.open()
        run.finish(seconds=20)
        assert run.code == 0
        assert "Traceback" not in run.err
        assert "Error" not in run.err
        assert "storing what waits" in run.err
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
        run = training.start(INIT + LONG).wait_for("ready").send(signal.SIGTERM).finish()
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
        run = training.run(INIT + FORK.format("sys.exit(0)") + "save_all(experiment)\n")
        assert (run.code, own(run.err)) == (0, "")
        assert_ended(training.only(run), "finished")

    def test_kill(self, training: Training) -> None:
        run = training.run(INIT + "save_all(experiment)\nos.kill(os.getpid(), 9)\n")
        (experiment,) = training.experiments()
        assert experiment.status == "lost"  # nobody was there to see it
        replicate.Project(directory=training.project).sync()
        assert_ended(training.only(run), "killed")


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
