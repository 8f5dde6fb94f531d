"""Queues of a spool, and jobs in them, as tests of the spool make them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from replicate_core.format.records import Checkpointed, CheckpointFacts, Created
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import SMALL_BYTES, Staged
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Job, Origin, Queue

EXPERIMENT = "e" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
LARGE = SMALL_BYTES + 1
Start = Callable[..., "subprocess.Popen[str]"]
BEGINNING = (
    "import sys, pathlib, socket\n"
    "from replicate_core.spool.spool import Origin, Spool\n"
    "project = pathlib.Path(sys.argv[1])\n"
    "origin = Origin(sys.argv[2] * 32, 'storage', str(project), 'auto', 1, socket.gethostname())\n"
    "queue = Spool(project).begin(origin, '01J' + sys.argv[2].upper() * 23)\n"
    "print(queue.directory, flush=True)\n"
    "sys.stdin.readline()\n"
)


class Queues:
    """A spool, and the queues that this process has in it."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.spool = Spool(project)
        self.begun: list[Queue] = []

    def origin(self, experiment: str = EXPERIMENT) -> Origin:
        return Origin(experiment, "storage", str(self.project), "auto", os.getpid(), socket.gethostname())

    def begin(self, experiment: str = EXPERIMENT) -> Queue:
        queue = self.spool.begin(self.origin(experiment), f"01J{len(self.begun):023}")
        self.begun.append(queue)
        return queue


def created() -> Created:
    return Created(EXPERIMENT, NOW, params={"lr": 0.1})


def checkpointed(number: int) -> Checkpointed:
    return Checkpointed(EXPERIMENT, (CheckpointFacts(f"{number:032}", NOW, number, {"loss": 0.5}),))


def stage(queue: Queue, **contents: bytes) -> Staged:
    project = queue.directory.parents[2]
    for name, data in contents.items():
        (project / name).write_bytes(data)
    return queue.stage(Tree({name: project / name for name in contents}))


def append(queue: Queue, number: int, **contents: bytes) -> Job:
    """Append a checkpoint with these files, and return it as a reader sees it."""
    queue.append(checkpointed(number), stage(queue, **contents) if contents else None)
    return Queue(queue.directory).jobs()[-1]
