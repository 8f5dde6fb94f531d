"""Whichever way a training ends that stores on S3: the tests of `tests/exits`, with another storage."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_surroundings
from kit import until
from s3_faults import FaultS3
from storage_servers import Place
from test_child_processes import TestForks, TestRanks  # noqa: F401  # pytest runs the classes that are named here
from test_signals import TestAtOnce, TestByCtrlC, TestBySigterm  # noqa: F401
from test_surroundings import TestInATerminal, TestNotebooks, TestWithoutARecorder  # noqa: F401
from test_ways_to_end import TestByAnException, TestByItself, TestBySysExit  # noqa: F401
from trainings import INIT, Training, assert_ended, own


class TestAround(test_surroundings.TestAround):
    """Without those that are about a storage on this disk."""

    test_strange_names_of_the_project = None
    """It is a directory within one that names the storage."""
    test_such_a_backup_is_a_project_itself = None
    """The gate at the server is shut for the backup, too."""
    test_switches_of_python = None
    """With `PYTHONDEVMODE` aiohttp refuses the answers of moto, which name the server twice."""


class TrainingOnS3(Training):
    """A project that stores on S3. The gate is at the server; the file only tells the training that it is shut."""

    server: FaultS3

    def with_gate(self) -> Training:
        self.environment["REPLICATE_TEST_GATE"] = str(self._gate)
        return self

    def shut(self) -> None:
        self.server.gate.clear()
        super().shut()

    def open(self) -> None:
        super().open()
        self.server.gate.set()

    def wait_until_settled(self) -> None:
        until(
            lambda: not self.queues(), "nothing is left in the spool", seconds=300
        )  # all by HTTP, one after the other
        super().wait_until_settled()


@pytest.fixture
def training(
    project: Path, s3: FaultS3, on_s3: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Training]:
    monkeypatch.setenv("TEST_S3_SECRET", on_s3.options["secret"])
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    options = {**on_s3.options, "secret": "${TEST_S3_SECRET}"}
    (project / "replicate.yaml").write_text(f"storage: {on_s3.url}\nstorage_options: {json.dumps(options)}\n")
    found = TrainingOnS3(project, sys.executable)
    found.server = s3
    found.environment["REPLICATE_CACHE"] = str(tmp_path / "cache")
    found.environment["REPLICATE_TRUST"] = str(project)
    yield found
    found.clean_up()


@pytest.mark.parametrize("recorder", ["", "none"])
def test_connections_that_were_closed_meanwhile_are_made_again_at_the_end(training: Training, recorder: str) -> None:
    """By then the interpreter starts no threads any more, which looking up the name of a host takes."""
    training.environment["REPLICATE_RECORDER"] = recorder
    run = training.run(INIT + "save(experiment, 0)\ntime.sleep(31)\n", seconds=120)
    assert (run.code, own(run.err)) == (0, "")
    assert_ended(training.only(run), "finished")
