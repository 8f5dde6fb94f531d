"""Runs programs in processes of their own without paying for the import of Keras each time.

A server imports Keras once and forks a process for each program, in the directory that it is told, with standard output
and standard error in files there. It is run as a script; `ForkServer` is its other end.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

OUTPUT, ERRORS = "stdout.txt", "stderr.txt"


class Ended(NamedTuple):
    """How a program ended: its exit status, negative for a signal, and what it wrote."""

    status: int
    stdout: str
    stderr: str


class ForkServer:
    """Starts the server, and stops it at the end of a `with` block."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=60)

    def run(self, program: Path, directory: Path, *arguments: object) -> Ended:
        """Run a program in a directory, which is made if need be, and wait until it has ended."""
        directory.mkdir(exist_ok=True)
        print(json.dumps([str(program), str(directory), *map(str, arguments)]), file=self._server.stdin, flush=True)
        status = int(self._server.stdout.readline())
        return Ended(status, (directory / OUTPUT).read_text(), (directory / ERRORS).read_text())


def _serve() -> None:
    for line in sys.stdin:
        program, directory, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(directory)
            for descriptor, name in ((1, OUTPUT), (2, ERRORS)):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            sys.argv = [program, *arguments]
            try:
                runpy.run_path(program, run_name="__main__")
            except Exception:  # noqa: BLE001  # as the interpreter does
                traceback.print_exc()
                sys.exit(1)
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as for a program that is run by its name
    import keras  # noqa: F401  # once, for all

    _serve()
