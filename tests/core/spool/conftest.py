"""What tests of the spool share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spooled import Queues

from replicate_core.spool.upload_queue import Queue


@pytest.fixture
def queues(project: Path) -> Iterator[Queues]:
    queues = Queues(project)
    yield queues
    for queue in queues.begun:
        queue.finish_appending()
        queue.release()


@pytest.fixture
def queue(queues: Queues) -> Queue:
    return queues.begin()
