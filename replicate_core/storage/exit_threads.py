"""Threads that an event loop can still use while the interpreter exits, when those of `asyncio` refuse work.

A connection that is made at exit needs one to look up the name of its host.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

THREADS = 4

_served: dict[int, asyncio.AbstractEventLoop] = {}
_lock = threading.Lock()


class ExitProofThreads(ThreadPoolExecutor):
    """Daemon threads that are started at once, because none can be started late in the exit of an interpreter."""

    def __init__(self) -> None:
        super().__init__(1)
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for _ in range(THREADS):
            threading.Thread(target=self._work, name="replicate", daemon=True).start()

    @classmethod
    def serve(cls, loop: asyncio.AbstractEventLoop) -> None:
        """Make an event loop use such threads; does nothing the second time."""
        with _lock:
            if _served.get(id(loop)) is not loop:
                _served[id(loop)] = loop
                loop.call_soon_threadsafe(loop.set_default_executor, cls())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[Any] = Future()
        self._waiting.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _work(self) -> None:
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  # raised in the thread that waits for it
                    future.set_exception(error)
            del future, work
