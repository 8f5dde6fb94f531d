"""What the tests of all commands share: a command line that runs in this process, and one in a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest

from replicate.cli import run


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """Tests of the recorder undo it: `monkeypatch.delenv("REPLICATE_RECORDER")`."""


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process: its exit code, what it printed, what it said on standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(arguments)
        return code, *capsys.readouterr()

    return call


Terminal = Callable[..., str]

_IN_TERMINAL = """
import sys
from replicate.cli import listing, main
listing.TERMINAL_ROWS = int(sys.argv.pop(1))
main()
"""
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def terminal() -> Terminal:
    """Run a command line in a process of its own, in a terminal of so many columns: what the terminal shows.

    `raw`: with its control characters; `rows`: how many experiments it lists; `answer`: what is typed; the rest is
    environment.
    """

    def call(
        *arguments: str, columns: int = 80, rows: int = 50, raw: bool = False, answer: str = "", **environment: str
    ) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        left_out = ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
        inherited = {name: value for name, value in os.environ.items() if name not in left_out}
        with subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, str(rows), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**inherited, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment},
        ) as process:
            os.close(theirs)
            os.write(ours, answer.encode())
            shown = b""
            while data := _read(ours):
                shown += data
        os.close(ours)
        assert process.returncode in (0, 1)
        text = shown.decode().replace("\r\n", "\n")
        return text if raw else _STYLES.sub("", text)

    return call


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other side is closed
        return b""
