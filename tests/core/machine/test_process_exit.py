"""How a process ends: what waits for that is told once, and told the truth, in processes that really end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate_core.machine.process_exit import ERROR_CHARACTERS, Terminated, ending_of

BEGIN = (
    "import atexit, os, signal, sys, threading, time\n"
    "from replicate_core.machine import process_exit as endings\n"
    "def say(name):\n"
    "    return lambda status, error: print(f'{name}: {status}, {error}', flush=True)\n"
    "one, other = say('one'), say('other')\n"
)
READY = "print('ready', flush=True)\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script to its end; with `kill`, a signal is sent to it once it printed that it is ready."""

    def run(script: str, *, kill: int | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )
        if kill is not None:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(kill)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


class TestByItself:
    def test_at_the_last_line_it_has_finished(self, run: Run) -> None:
        done = run("endings.register(one)\nprint('last line')")
        assert (done.returncode, done.stdout, done.stderr) == (0, "last line\none: finished, None\n", "")

    def test_the_last_one_that_registered_is_told_first(self, run: Run) -> None:
        done = run("endings.register(one)\nendings.register(other)")
        assert done.stdout == "other: finished, None\none: finished, None\n"

    def test_who_unregistered_is_not_told(self, run: Run) -> None:
        done = run("endings.register(one)\nendings.register(other)\nendings.unregister(one)\nendings.unregister(one)")
        assert done.stdout == "other: finished, None\n"

    def test_who_unregisters_when_told_is_told_once(self, run: Run) -> None:
        done = run(
            "def last(status, error):\n    endings.unregister(last)\n    one(status, error)\n"
            "endings.register(last)\nendings.register(other)"
        )
        assert done.stdout == "other: finished, None\none: finished, None\n"

    def test_one_that_fails_when_told_does_not_keep_it_from_the_others(self, run: Run) -> None:
        done = run("endings.register(one)\nendings.register(lambda *_: 1 / 0)\nendings.register(other)")
        assert done.stdout == "other: finished, None\none: finished, None\n"
        assert "ZeroDivisionError" in done.stderr

    def test_importing_does_nothing(self, run: Run) -> None:
        done = run("assert sys.excepthook is sys.__excepthook__\nassert signal.getsignal(15) == signal.SIG_DFL")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestByAnException:
    def test_it_has_failed_with_the_type_and_the_message(self, run: Run) -> None:
        done = run("endings.register(one)\nraise ValueError('loss is nan')")
        assert (done.returncode, done.stdout) == (1, "one: failed, ValueError: loss is nan\n")
        assert done.stderr.endswith("ValueError: loss is nan\n"), "the traceback is still shown"

    def test_an_interrupted_one_was_interrupted(self, run: Run) -> None:
        done = run("endings.register(one)\nraise KeyboardInterrupt")
        assert (done.returncode, done.stdout) == (-signal.SIGINT, "one: interrupted, KeyboardInterrupt\n")

    def test_control_c_interrupts(self, run: Run) -> None:
        done = run("endings.register(one)\n" + READY + "time.sleep(60)", kill=signal.SIGINT)
        assert (done.returncode, done.stdout) == (-signal.SIGINT, "one: interrupted, KeyboardInterrupt\n")

    def test_one_that_is_caught_is_none(self, run: Run) -> None:
        done = run("endings.register(one)\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    pass")
        assert done.stdout == "one: finished, None\n"

    def test_one_of_another_thread_is_no_end(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()"
        )
        assert (done.returncode, done.stdout) == (0, "one: finished, None\n")

    def test_one_from_before_anybody_registered_is_no_end(self, run: Run) -> None:
        """A debugger that was used before has left it there."""
        done = run("sys.last_value = ValueError('old')\nendings.register(one)")
        assert done.stdout == "one: finished, None\n"

    def test_one_in_an_interactive_session_is_no_end(self, run: Run) -> None:
        """The next line is typed as if nothing had been."""
        done = run("sys.ps1 = '>>> '\nendings.register(one)\nsys.last_value = ValueError('typed')")
        assert done.stdout == "one: finished, None\n"

    def test_what_a_debugger_leaves_there_that_is_no_exception_is_no_end(self, run: Run) -> None:
        done = run("endings.register(one)\nsys.last_value = 'text'")
        assert done.stdout == "one: finished, None\n"

    def test_one_that_was_raised_before_anybody_registered_is_told_to_nobody(self, run: Run) -> None:
        assert run("1 / 0").stdout == ""


class TestByAnExitCode:
    @pytest.mark.parametrize(
        ("end", "code", "told"),
        [
            ("sys.exit(3)", 3, "failed, SystemExit: 3"),
            ("sys.exit('no data')", 1, "failed, SystemExit: no data"),
            ("exit(4)", 4, "failed, SystemExit: 4"),
            ("quit(4)", 4, "failed, SystemExit: 4"),
            ("sys.exit()", 0, "finished, None"),
            ("sys.exit(0)", 0, "finished, None"),
            ("exit()", 0, "finished, None"),
        ],
    )
    @pytest.mark.parametrize(
        "way",
        [
            "{}",
            "try:\n    {}\nexcept ValueError:\n    pass",
            "try:\n    {}\nfinally:\n    time.time()",
            "with open(os.devnull):\n    {}",
            "def main():\n    {}\nmain()",
        ],
        ids=["plainly", "past an except", "through a finally", "through a with", "in a function"],
    )
    def test_it_has_failed_if_that_is_not_zero(self, run: Run, way: str, end: str, code: int, told: str) -> None:
        done = run("endings.register(one)\n" + way.format(end))
        assert (done.returncode, done.stdout) == (code, f"one: {told}\n")

    def test_what_led_to_it_is_told(self, run: Run) -> None:
        """Hydra shows the exception of the user's function, and exits with 1."""
        script = "endings.register(one)\ntry:\n    raise ValueError('loss is nan')\nexcept Exception:\n    sys.exit(1)"
        assert run(script).stdout == "one: failed, ValueError: loss is nan\n"

    def test_by_a_command_of_click(self, run: Run) -> None:
        done = run(
            "import click\n@click.command()\ndef main():\n    endings.register(one)\n"
            "    raise click.ClickException('no data')\nmain([])"
        )
        assert done.returncode == 1
        assert done.stdout.startswith("one: failed, ")

    def test_control_c_in_a_command_interrupts_it(self, run: Run) -> None:
        """Command-line libraries turn it into an exception of their own."""
        done = run(
            "class Abort(Exception): ...\nendings.register(one)\n"
            "try:\n    try:\n        raise KeyboardInterrupt\n    except KeyboardInterrupt as error:\n"
            "        raise Abort from error\nexcept Abort:\n    sys.exit(1)"
        )
        assert (done.returncode, done.stdout) == (1, "one: interrupted, Abort\n")

    @pytest.mark.parametrize("way", ["{}", "def main():\n    {}\nmain()"], ids=["plainly", "in a function"])
    def test_one_that_is_caught_is_none(self, run: Run, way: str) -> None:
        caught = way.format("exec('try: sys.exit(3)\\nexcept SystemExit: pass')")
        assert run(f"endings.register(one)\n{caught}\nprint('on')").stdout == "on\none: finished, None\n"

    def test_of_several_the_last_one_counts(self, run: Run) -> None:
        script = "endings.register(one)\ntry:\n    sys.exit(3)\nexcept SystemExit:\n    sys.exit(0)"
        assert run(script).stdout == "one: finished, None\n"

    def test_one_of_another_thread_is_no_end(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nthread = threading.Thread(target=sys.exit, args=(3,))\n"
            "thread.start()\nthread.join()\nraise SystemExit"
        )
        assert done.stdout == "one: finished, None\n"

    def test_an_exception_after_it_counts(self, run: Run) -> None:
        script = "endings.register(one)\ntry:\n    sys.exit(3)\nexcept SystemExit:\n    raise ValueError('x') from None"
        assert run(script).stdout == "one: failed, ValueError: x\n"

    def test_sys_exit_is_as_it_was_once_nobody_waits(self, run: Run) -> None:
        done = run(
            "before = sys.exit, exit, quit\nendings.register(one)\nprint(sys.exit is before[0], sys.exit.__name__)\n"
            "endings.unregister(one)\nprint((sys.exit, exit, quit) == before)"
        )
        assert done.stdout == "False exit\nTrue\n"

    def test_who_replaces_sys_exit_too_is_left_alone(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nbefore = sys.exit\n"
            "def mine(code=None):\n    print('mine')\n    before(code)\nsys.exit = mine\n"
            "endings.unregister(one)\nprint(sys.exit is mine)\nendings.register(other)\nsys.exit(3)"
        )
        assert (done.returncode, done.stdout) == (3, "True\nmine\nother: failed, SystemExit: 3\n")

    def test_sys_exit_can_still_be_sent_to_another_process(self, run: Run) -> None:
        done = run("import pickle\nendings.register(one)\nprint(pickle.loads(pickle.dumps(sys.exit)) is sys.exit)")
        assert done.stdout == "True\none: finished, None\n"


class TestInIPython:
    """A notebook that is run by a program ends with its first cell that fails."""

    @staticmethod
    def shell(*cells: str) -> str:
        """A script in which IPython runs these cells."""
        lines = [f"shell.run_cell({cell!r})" for cell in cells]
        return "\n".join(
            [
                "os.environ['IPYTHONDIR'] = os.getcwd()",
                "from IPython.core.interactiveshell import InteractiveShell",
                "from traitlets.config import Config",
                "shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))",
                "shell.user_ns.update(endings=endings, one=one)",
                *lines,
            ]
        )

    @pytest.fixture(autouse=True)
    def ipython(self) -> None:
        pytest.importorskip("IPython")

    def told(self, run: Run, *cells: str) -> str:
        return next(line for line in run(self.shell(*cells)).stdout.splitlines() if line.startswith("one: "))

    def test_it_has_failed_if_the_last_cell_did(self, run: Run) -> None:
        told = self.told(run, "endings.register(one)", "raise ValueError('loss is nan')")
        assert told == "one: failed, ValueError: loss is nan"

    def test_it_has_failed_if_the_cell_that_began_it_did(self, run: Run) -> None:
        assert self.told(run, "endings.register(one); raise ValueError('x')") == "one: failed, ValueError: x"

    def test_one_that_a_later_cell_followed_is_no_end(self, run: Run) -> None:
        assert self.told(run, "endings.register(one)", "1 / 0", "2") == "one: finished, None"

    def test_an_exit_code_is_one_too(self, run: Run) -> None:
        told = self.told(run, "endings.register(one)", "import sys; sys.exit(3)")
        assert told == "one: failed, SystemExit: 3"

    def test_a_script_that_fails_in_the_last_cell_is_one(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "fail.py").write_text("raise ValueError('in the script')\n")
        assert self.told(run, "endings.register(one)", "%run fail.py") == "one: failed, ValueError: in the script"
        assert self.told(run, "endings.register(one)", "%run fail.py", "2") == "one: finished, None"


class TestAHookOfTheUser:
    HOOK = "def hook(kind, error, trace):\n    print('mine:', error, flush=True)\n"

    def test_from_before_is_still_called(self, run: Run) -> None:
        done = run(self.HOOK + "sys.excepthook = hook\nendings.register(one)\nraise ValueError('x')")
        assert (done.stdout, done.stderr) == ("mine: x\none: failed, ValueError: x\n", "")

    def test_is_called_once_though_several_registered(self, run: Run) -> None:
        script = self.HOOK + "sys.excepthook = hook\nendings.register(one)\nendings.register(other)\n"
        done = run(script + "raise ValueError('x')")
        assert done.stdout.count("mine: x\n") == 1

    def test_from_after_is_called_too_once_another_one_registered(self, run: Run) -> None:
        done = run(
            self.HOOK + "endings.register(one)\nsys.excepthook = hook\nendings.register(other)\nraise ValueError('x')"
        )
        assert done.stdout == "mine: x\nother: failed, ValueError: x\none: failed, ValueError: x\n"

    def test_from_after_is_called_though_nobody_registers_again(self, run: Run) -> None:
        done = run("endings.register(one)\n" + self.HOOK + "sys.excepthook = hook\nraise ValueError('x')")
        assert (done.stdout, done.stderr) == ("mine: x\none: failed, ValueError: x\n", "")

    def test_is_the_one_that_stands_there(self, run: Run) -> None:
        done = run(self.HOOK + "sys.excepthook = hook\nendings.register(one)\nprint(sys.excepthook is hook)")
        assert done.stdout == "True\none: finished, None\n"

    def test_from_after_that_calls_what_was_there_is_no_endless_circle(self, run: Run) -> None:
        """As every reporter of errors does: what stood there is called after its own work."""
        done = run(
            "endings.register(one)\nbefore = sys.excepthook\n"
            "def hook(*what):\n    print('mine', flush=True)\n    before(*what)\n"
            "sys.excepthook = hook\nendings.register(other)\nraise ValueError('x')"
        )
        assert done.stdout == "mine\nother: failed, ValueError: x\none: failed, ValueError: x\n"
        assert done.stderr.count("ValueError: x") == 1
        assert "RecursionError" not in done.stderr

    def test_that_fails_changes_nothing(self, run: Run) -> None:
        done = run("sys.excepthook = lambda *_: 1 / 0\nendings.register(one)\nraise ValueError('x')")
        assert done.stdout == "one: failed, ValueError: x\n"


class TestBySigterm:
    def test_it_was_interrupted_and_ends_in_order(self, run: Run) -> None:
        done = run(
            "endings.register(one)\natexit.register(print, 'exit handler')\n"
            "try:\n    " + READY + "    time.sleep(60)\nfinally:\n    print('finally', flush=True)",
            kill=signal.SIGTERM,
        )
        assert done.returncode == 128 + signal.SIGTERM
        assert done.stdout == "finally\nexit handler\none: interrupted, SIGTERM\n"
        assert done.stderr == ""

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_handler_of_the_user_has_the_say(self, run: Run, when: str) -> None:
        handler = "signal.signal(15, lambda *_: (print('mine', flush=True), sys.exit(3)))\n"
        register = "endings.register(one)\n"
        both = handler + register if when == "before" else register + handler
        done = run(both + READY + "time.sleep(60)", kill=signal.SIGTERM)
        assert (done.returncode, done.stdout) == (3, "mine\none: failed, SystemExit: 3\n")

    def test_a_handler_of_the_user_outlives_the_end_of_all_experiments(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nhandler = lambda *_: None\nsignal.signal(15, handler)\nendings.unregister(one)\n"
            "print(signal.getsignal(15) is handler)"
        )
        assert done.stdout == "True\n"

    def test_a_user_who_ignores_it_is_heeded(self, run: Run) -> None:
        script = "signal.signal(15, signal.SIG_IGN)\nendings.register(one)\n" + READY + "time.sleep(0.3)"
        done = run(script, kill=signal.SIGTERM)
        assert (done.returncode, done.stdout) == (0, "one: finished, None\n")

    def test_with_nobody_registered_any_more_it_ends_as_ever(self, run: Run) -> None:
        script = "endings.register(one)\nendings.unregister(one)\n" + READY + "time.sleep(60)"
        done = run(script, kill=signal.SIGTERM)
        assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")

    def test_who_registers_again_is_told_again(self, run: Run) -> None:
        script = "endings.register(one)\nendings.unregister(one)\nendings.register(other)\n" + READY + "time.sleep(60)"
        assert run(script, kill=signal.SIGTERM).stdout == "other: interrupted, SIGTERM\n"

    def test_a_thread_that_registers_leaves_signals_alone(self, run: Run) -> None:
        done = run(
            "thread = threading.Thread(target=endings.register, args=(one,))\nthread.start()\nthread.join()\n"
            "print(signal.getsignal(15) == signal.SIG_DFL)"
        )
        assert done.stdout == "True\none: finished, None\n"

    def test_a_thread_that_unregisters_does_too(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nthread = threading.Thread(target=endings.unregister, args=(one,))\n"
            "thread.start()\nthread.join()"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestAForkedChild:
    def test_tells_nobody(self, run: Run) -> None:
        for end in ("sys.exit()", "sys.exit(3)", "raise ValueError", "1 / 0"):
            done = run(f"endings.register(one)\nif os.fork() == 0:\n    {end}\nos.wait()\nprint('parent')")
            assert done.stdout == "parent\none: finished, None\n"

    def test_has_the_signals_as_ever(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nchild = os.fork()\nif child == 0:\n    time.sleep(60)\n"
            "time.sleep(0.2)\nos.kill(child, 15)\nprint(os.waitpid(child, 0)[1])"
        )
        assert done.stdout == f"{signal.SIGTERM}\none: finished, None\n"

    def test_that_registers_is_told_of_its_own_end(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nif os.fork() == 0:\n    endings.register(other)\n    raise ValueError('child')\n"
            "os.wait()"
        )
        assert done.stdout == "other: failed, ValueError: child\none: finished, None\n"

    def test_of_a_forked_child_is_one_too(self, run: Run) -> None:
        done = run(
            "endings.register(one)\nif os.fork() == 0:\n    endings.register(other)\n"
            "    if os.fork() == 0:\n        sys.exit()\n    os.wait()\n    sys.exit()\nos.wait()"
        )
        assert done.stdout == "other: finished, None\none: finished, None\n"

    def test_of_a_thread_tells_nobody(self, run: Run) -> None:
        done = run(
            "import warnings; warnings.simplefilter('ignore')\nendings.register(one)\n"
            "def fork():\n    if os.fork() == 0:\n        sys.exit()\n    os.wait()\n"
            "thread = threading.Thread(target=fork)\nthread.start()\nthread.join()"
        )
        assert (done.stdout, done.stderr) == ("one: finished, None\n", "")

    def test_of_multiprocessing_tells_nobody(self, run: Run) -> None:
        done = run(
            "import multiprocessing\nendings.register(one)\ncontext = multiprocessing.get_context('fork')\n"
            "child = context.Process(target=sys.exit, args=(3,))\nchild.start()\nchild.join()\nprint(child.exitcode)"
        )
        assert done.stdout == "3\none: finished, None\n"

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    @pytest.mark.parametrize(
        ("end", "code", "told"),
        [
            ("pass", 0, "finished, None"),
            ("sys.exit()", 0, "finished, None"),
            ("raise ValueError('nan')", 1, "failed, ValueError: nan"),
            ("os.kill(os.getpid(), 15)", 143, "interrupted, SIGTERM"),
        ],
    )
    def test_of_multiprocessing_is_told_of_its_own_end(
        self, tmp_path: Path, method: str, end: str, code: int, told: str
    ) -> None:
        """Such a process runs no exit handlers."""
        (tmp_path / "train.py").write_text(
            BEGIN.replace("one, other", "name, _")
            + "import multiprocessing\n"
            + f"def train():\n    endings.register(say('child'))\n    {end}\n"
            + "if __name__ == '__main__':\n    endings.register(say('parent'))\n"
            + f"    child = multiprocessing.get_context('{method}').Process(target=train)\n"
            + "    child.start()\n    child.join()\n    print(child.exitcode)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(
            [sys.executable, "train.py"], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.stdout == f"child: {told}\n{code}\nparent: finished, None\n"

    def test_is_ended_by_a_sigterm_however_early_it_comes(self, run: Run) -> None:
        done = run(
            "import multiprocessing\nendings.register(one)\ncontext = multiprocessing.get_context('fork')\n"
            "for _ in range(10):\n"
            "    child = context.Process(target=time.sleep, args=(60,))\n    child.start()\n    child.terminate()\n"
            "    child.join(30)\n    lost = child.exitcode is None\n    child.kill()\n    child.join()\n"
            "    if lost:\n        sys.exit('it was lost')"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "one: finished, None\n", "")


class TestWhatIsRecorded:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (None, ("finished", None)),
            (SystemExit(), ("finished", None)),
            (SystemExit(None), ("finished", None)),
            (SystemExit(0), ("finished", None)),
            (SystemExit(3), ("failed", "SystemExit: 3")),
            (SystemExit("no data"), ("failed", "SystemExit: no data")),
            (Terminated(15), ("interrupted", "SIGTERM")),
            (KeyboardInterrupt(), ("interrupted", "KeyboardInterrupt")),
            (ValueError("a\nb"), ("failed", "ValueError: a\nb")),
            (GeneratorExit(), ("failed", "GeneratorExit")),
            (RuntimeError("\ud800"), ("failed", "RuntimeError: \\ud800")),
        ],
        ids=repr,
    )
    def test_is_type_and_message(self, error: BaseException | None, expected: tuple[str, str | None]) -> None:
        assert ending_of(error) == expected

    def test_a_trial_that_was_pruned_has_finished(self) -> None:
        pruned = type("TrialPruned", (Exception,), {"__module__": "optuna.exceptions"})
        of_users = type("Enough", (pruned,), {})
        assert ending_of(pruned("at step 3")) == ending_of(of_users()) == ("finished", None)
        assert ending_of(type("TrialPruned", (Exception,), {})()) == ("failed", "TrialPruned")

    def test_is_not_longer_than_anybody_reads(self) -> None:
        status, text = ending_of(ValueError("x" * 10 * ERROR_CHARACTERS))
        assert status == "failed"
        assert text is not None
        assert len(text) == ERROR_CHARACTERS

    def test_holds_no_credentials(self) -> None:
        _, text = ending_of(OSError("can't reach s3://key:geheim@bucket/path"))
        assert text is not None
        assert "geheim" not in text

    def test_is_there_though_the_message_cannot_be_made(self) -> None:
        class Strange(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no message")

        status, text = ending_of(Strange())
        assert status == "failed"
        assert text is not None
        assert text.startswith("Strange")
