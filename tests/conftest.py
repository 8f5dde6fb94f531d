"""What all tests share: an empty project to work in, and a process that has ended for every experiment of a test."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicate_core.machine import process_exit
from replicate_core.recording import notices

pytest.register_assert_rewrite("trainings")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under `nohup` and `&`: trainings that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project directory, and the working directory of the test."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(scope="session", autouse=True)
def key_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The key that queues are signed with is none of the user's who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[..., object]]]:
    """What would run when the process ends: only kept, since pytest's own process outlives the projects."""
    pending: list[Callable[..., object]] = []
    monkeypatch.setattr(process_exit, "register", pending.append)
    monkeypatch.setattr(
        notices.notifier(), "report_problem", notices.warn_only
    )  # whether or not a test imported the face
    monkeypatch.setattr(process_exit, "unregister", lambda one: one in pending and pending.remove(one))
    yield pending
    for callback in pending:  # its files stay open otherwise, for as long as pytest runs
        callback.__self__._queue.finish_appending()
        callback.__self__._queue.unwatch()
        callback.__self__._project.close()
        callback.__self__._launched.detach()


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[str]]:
    """What was logged in place of a warning that a filter made an error: nothing, unless a test takes it out of here.

    Here warnings are errors, so a warning that no test expects fails it, wherever it comes from.
    """
    found: list[str] = []

    def keep(record: logging.LogRecord) -> None:
        if record.name == "replicate" and record.levelno == logging.WARNING:  # a recorder has a logger of its own
            found.append(record.getMessage())

    handler = logging.Handler()
    handler.emit = keep  # type: ignore[method-assign]
    logging.getLogger("replicate").addHandler(handler)
    yield found
    logging.getLogger("replicate").removeHandler(handler)
    assert not found, "a warning that no test expects"


@pytest.fixture
def no_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store within this process: it is quicker, and what is recorded is the same."""
    monkeypatch.setenv("REPLICATE_RECORDER", "none")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said that is neither trouble nor a result."""
    lines: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", lines.append)
    return lines
