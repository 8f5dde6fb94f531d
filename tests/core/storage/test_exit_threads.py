"""Threads that an event loop may use while the interpreter ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from replicate_core.storage.exit_threads import ExitProofThreads

SCRIPT = """
import asyncio, atexit, threading
from replicate_core.storage.exit_threads import ExitProofThreads

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
if {serve}:
    ExitProofThreads.serve(loop)

async def look_up():
    return await loop.run_in_executor(None, lambda: "found")

def at_exit():
    print(asyncio.run_coroutine_threadsafe(look_up(), loop).result(10))

atexit.register(at_exit)
"""


@pytest.mark.parametrize(("serve", "said"), [(True, "found"), (False, "")])
def test_work_is_taken_while_the_interpreter_ends(serve: bool, said: str) -> None:
    code = SCRIPT.format(serve=serve)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == said, done.stderr


def test_a_result_or_an_error_comes_back() -> None:
    threads = ExitProofThreads()
    assert threads.submit(divmod, 7, 2).result(10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 7, 0).result(10)


def test_a_loop_is_served_once() -> None:
    loop = asyncio.new_event_loop()
    ExitProofThreads.serve(loop)
    ExitProofThreads.serve(loop)
    assert len([handle for handle in loop._ready if not handle.cancelled()]) == 1  # type: ignore[attr-defined]
    loop.close()
