"""The servers that the tests of this directory use. What can't be had is said at the end, in capitals."""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_faults import FaultS3
from storage_servers import Command, Missing, Place, azurite, free_port, google, rclone, running, sshd

REQUIRED = os.environ.get("REPLICATE_STORAGES_REQUIRED", "").split()
"""Servers without which the tests fail: those that a run of all checks must have."""

NOT_TESTED = "NOT TESTED"

AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Those that everybody's Azurite has."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which storages were not tested: nobody reads the reasons of skipped tests."""
    reasons = {
        str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        for report in terminalreporter.stats.get("skipped", ())
    }
    for reason in sorted(reason for reason in reasons if NOT_TESTED in reason):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), red=True, bold=True)


def not_tested(name: str, why: str) -> None:
    message = f"{NOT_TESTED}: {name}: {why}"
    if name in REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs tests is busy: what is to be given up soon says so in its test."""
    for name in ("HASTY_SECONDS", "PROBE_SECONDS"):
        monkeypatch.setattr(f"replicate_core.storage.fsspec_store.{name}", 120.0)


@pytest.fixture(autouse=True)
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests write as the configuration of their project refers to the environment, and is their own."""
    monkeypatch.setenv("REPLICATE_TRUST", os.pathsep.join([str(tmp_path), str(tmp_path / "project")]))


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts a server: a context manager that gives its directory and port."""
    from contextlib import contextmanager

    @contextmanager
    def serve(name: str, command: Command, **environment: str) -> Iterator[tuple[Path, int]]:
        directory = tmp_path_factory.mktemp(name)
        port = free_port()
        try:
            arguments = command(directory, port)
        except Missing as missing:
            not_tested(name, f"the program {missing} is not on this machine")
        with running(arguments, port, directory.parent / f"{name}.log", **environment):
            yield directory, port

    return serve


@pytest.fixture(scope="session")
def s3() -> Iterator[FaultS3]:
    with FaultS3() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_port(serve: Callable[..., Any]) -> Iterator[int]:
    with serve("azurite", azurite) as (_, port):
        yield port


@pytest.fixture(scope="session")
def ssh_server(serve: Callable[..., Any]) -> Iterator[tuple[Path, int]]:
    with serve("sshd", sshd) as found:
        yield found


@pytest.fixture(scope="session")
def webdav_port(serve: Callable[..., Any]) -> Iterator[int]:
    def command(directory: Path, port: int) -> list[str]:
        return rclone(directory, port, "webdav", "--user", "me", "--pass", "webdav-secret")

    with serve("webdav", command) as (_, port):
        yield port


@pytest.fixture(scope="session")
def weak_s3_port(serve: Callable[..., Any]) -> Iterator[int]:
    """An S3 that knows no conditions."""

    def command(directory: Path, port: int) -> list[str]:
        return rclone(directory, port, "s3", "--auth-key", "test-key,test-secret")

    with serve("weak-s3", command) as (_, port):
        yield port


@pytest.fixture(scope="session")
def google_port(serve: Callable[..., Any]) -> Iterator[int]:
    with serve("google", google) as (_, port):
        yield port


@pytest.fixture
def bucket() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def on_s3(s3: FaultS3, bucket: str) -> Place:
    place = Place(f"s3://{bucket}/storage", **s3.options)
    place.open(create=True)
    return place


@pytest.fixture
def on_weak_s3(weak_s3_port: int, bucket: str) -> Place:
    place = Place(
        f"s3://{bucket}/storage",
        key="test-key",
        secret="test-secret",
        endpoint_url=f"http://127.0.0.1:{weak_s3_port}",
        client_kwargs={"region_name": "us-east-1"},
    )
    place.open(create=True)
    return place


@pytest.fixture
def on_azure(azurite_port: int, bucket: str) -> Place:
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
        f"BlobEndpoint=http://127.0.0.1:{azurite_port}/{AZURITE_ACCOUNT};"
    )
    place = Place(f"az://{bucket}/storage", connection_string=connection)
    place.open(create=True)
    return place


@pytest.fixture
def on_sftp(ssh_server: tuple[Path, int], tmp_path: Path) -> Place:
    directory, port = ssh_server
    return Place(
        f"sftp://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/remote/storage",
        client_keys=[str(directory / "user")],
        known_hosts=str(directory / "known_hosts"),
    )


@pytest.fixture
def on_webdav(webdav_port: int, bucket: str) -> Iterator[Place]:
    url = f"webdav://127.0.0.1:{webdav_port}/{bucket}/storage"
    place = Place(url, scheme="http", auth=["me", "webdav-secret"])
    yield place
    for store in place.opened:
        store._fs.client.http.close()  # type: ignore[attr-defined]  # it would warn that it was left open


@pytest.fixture
def on_google(google_port: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else each request waits for a gRPC server
    place = Place(
        f"gs://{bucket}/storage", endpoint_url=f"http://127.0.0.1:{google_port}", token="anon", project="test"
    )
    place.open(create=True)
    return place
