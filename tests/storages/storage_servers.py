"""Servers of other storages, started on the loopback with free ports, each below a directory of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from replicate_core.storage.opening import open_store
from replicate_core.storage.store import Store

SECONDS = 60
"""How long a server may take to start."""


class Place:
    """A storage on a server: its URL, and what its driver must be told."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = options
        self.opened: list[Store] = []

    def open(self, *, below: str = "", **more: Any) -> Store:
        options = {**self.options, **more}
        self.opened.append(
            open_store(f"{self.url}{below}", relative_to=Path("/nowhere"), options=options, patient=True)
        )
        return self.opened[-1]


class Missing(Exception):
    """The program of a server is not on this machine."""


def program(name: str, *places: str) -> str:
    """Where a program is: named by `REPLICATE_<NAME>`, on the path, or where servers use to be."""
    named = os.environ.get(f"REPLICATE_{name.upper().replace('-', '_')}")
    found = named or shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))
    if not found or not Path(found).exists():
        raise Missing(name)
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(arguments: list[str], port: int, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers until it is stopped."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _wait_for(port, process, log)
        yield process
    finally:
        with_children(process, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            with_children(process, signal.SIGKILL)
            process.wait(60)


def with_children(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a server and to all that it has started: sshd leaves its connections open otherwise."""
    for child in (*_children(process.pid), process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, number)


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == parent:
                child = int(entry.parent.name)
                yield from _children(child)
                yield child


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{process.args} did not start: {log.read_text('utf-8', 'replace')}") from error
            time.sleep(0.05)


def azurite(directory: Path, port: int) -> list[str]:
    return [
        program("azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port),
        "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent",
    ]  # fmt: skip


def rclone(directory: Path, port: int, service: str, *options: str) -> list[str]:
    return [program("rclone"), "serve", service, "--addr", f"127.0.0.1:{port}", *options, str(directory)]


def google(directory: Path, port: int) -> list[str]:
    return [program("gcp-storage-emulator"), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]


def sshd(directory: Path, port: int) -> list[str]:
    """Debian's sshd, for this user alone, with keys of its own."""
    found = program("sshd", "/usr/sbin", "/usr/local/sbin")
    directory.chmod(0o700)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
    for name in ("host", "user"):
        if not (directory / name).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(directory / "user.pub", directory / "authorized")
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    (directory / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
        f"AllowUsers {getpass.getuser()}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\n"
        f"StrictModes no\nPidFile none\nMaxStartups 100\nMaxSessions 100\nSubsystem sftp internal-sftp\n"
    )
    return [found, "-D", "-e", "-f", str(directory / "config")]


Command = Callable[[Path, int], list[str]]
