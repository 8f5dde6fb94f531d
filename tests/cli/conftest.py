"""What the tests of all commands share: a command line that runs in this process."""

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
