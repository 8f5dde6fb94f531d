"""Whichever way a training ends that stores on S3: the tests of `tests/exits`, with another storage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_faults import FaultS3
from storage_servers import Place
from test_exits import (  # noqa: F401  # pytest runs the classes that are named here
    TestAtOnce,
    TestByCtrlC,
    TestByItself,
    TestBySigterm,
    TestForks,
    TestWithoutARecorder,
    Training,
    python,
)


class TrainingOnS3(Training):
    """A project that stores on S3. The gate is at the server."""

    server: FaultS3

    def with_gate(self) -> Training:
        return self

    def shut(self) -> None:
        self.server.gate.clear()

    def open(self) -> None:
        self.server.gate.set()


@pytest.fixture
def training(
    project: Path, s3: FaultS3, on_s3: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Training]:
    monkeypatch.setenv("TEST_S3_SECRET", on_s3.options["secret"])
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    options = {**on_s3.options, "secret": "${TEST_S3_SECRET}"}
    (project / "replicate.yaml").write_text(f"storage: {on_s3.url}\nstorage_options: {json.dumps(options)}\n")
    found = TrainingOnS3(project, __import__("sys").executable)
    found.server = s3
    found.environment["REPLICATE_CACHE"] = str(tmp_path / "cache")
    yield found
    found.clean_up()
