"""What all tests share: an empty project to work in, and a process that has ended for every experiment of a test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicate_core import endings, recording


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project directory, and the working directory of the test."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(autouse=True)
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[..., object]]]:
    """What would run when the process ends: only kept, since pytest's own process outlives the projects."""
    pending: list[Callable[..., object]] = []
    monkeypatch.setattr(endings, "register", pending.append)
    monkeypatch.setattr(recording, "complain", recording._complain)  # whether or not a test imported the face
    monkeypatch.setattr(endings, "unregister", lambda one: one in pending and pending.remove(one))
    yield pending
    for callback in pending:
        callback.__self__._queue.leave()  # its files stay open otherwise, for as long as pytest runs
        callback.__self__._launched.leave()


@pytest.fixture
def no_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store within this process: it is quicker, and what is recorded is the same."""
    monkeypatch.setenv("REPLICATE_RECORDER", "none")
