"""Each test here runs a script in a process of its own, by each Python that is to be tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trainings import PYTHONS, Training


@pytest.fixture(params=PYTHONS, ids=[Path(python).parent.parent.name for python in PYTHONS])
def python(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def training(project: Path, python: str) -> Iterator[Training]:
    found = Training(project, python)
    yield found
    found.clean_up()
