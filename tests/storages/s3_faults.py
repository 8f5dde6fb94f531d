"""An S3 server in this process: moto, behind what checks signatures, counts requests, and fails on demand."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>(?P<date>\d+)/(?P<region>[^/]+)/s3/aws4_request), ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]+)"
)


@dataclass
class Fault:
    """What happens to some requests instead of, or before, what they ask for."""

    method: str = ".*"
    path: str = ""
    """A pattern that is looked for in path and query."""
    status: int = 0
    """What is answered; 0: what was asked for."""
    code: str = "InternalError"
    seconds: float = 0.0
    """How long the answer waits."""
    cuts: bool = False
    """Whether the connection is cut instead."""
    is_done_first: bool = False
    """Whether the server did what was asked for, and only its answer is lost."""
    times: int = 1 << 30
    """How many requests it happens to."""
    skip: int = 0
    """How many of them are let through first."""


@dataclass
class FaultS3:
    """The server: `with FaultS3() as s3`."""

    keys: dict[str, str] = field(default_factory=lambda: {"test-key": "test-secret"})
    """Access keys and their secrets. Who signs with another one is refused."""
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path with query, and status of every request; 0 where the connection was cut."""

    def __post_init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.gate = threading.Event()
        """Nothing is written while it is shut."""
        self.gate.set()

    def __enter__(self) -> FaultS3:  # noqa: PYI034  # nobody inherits it
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def options(self) -> dict[str, Any]:
        """What replicate must be told to use it."""
        key, secret = next(iter(self.keys.items()))
        return {"key": key, "secret": secret, "endpoint_url": self.url, "client_kwargs": {"region_name": "us-east-1"}}

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        self.faults.extend(faults)
        try:
            yield
        finally:
            for fault in faults:
                self.faults.remove(fault)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Counts requests, by what they do to which kind of key: `PUT data`, `LIST records`."""
        begin = len(self.log)
        counts: Counter[str] = Counter()
        yield counts
        counts.update(kind(method, path) for method, path, _ in self.log[begin:])

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["RAW_URI"]
        fault = self._fault(method, path)
        if method in ("PUT", "POST"):
            self.gate.wait()
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
        if fault is not None and not fault.is_done_first:
            if fault.cuts:
                return self._cut(environ, start)
            if fault.status:
                return self._refuse(environ, start, fault.status, fault.code)
        if (refused := self._refused(environ)) is not None:
            return self._refuse(environ, start, 403, refused)
        if fault is not None and fault.is_done_first:
            b"".join(self._application(environ, lambda *_: None))
            return self._cut(environ, start)

        def answer(status: str, headers: list[tuple[str, str]], error: object = None) -> Any:
            self.log.append((method, path, int(status[:3])))
            return start(status, headers)

        return self._application(environ, answer)

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _cut(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.log.append((environ["REQUEST_METHOD"], environ["RAW_URI"], 0))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start("200 OK", [("Content-Length", "10")])
        return [b""]

    def _refuse(self, environ: dict[str, Any], start: Callable[..., Any], status: int, code: str) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.log.append((method, environ["RAW_URI"], status))
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        start(f"{status} Refused", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

    def _refused(self, environ: dict[str, Any]) -> str | None:
        """What is wrong with the signature of a request, if anything is."""
        found = _AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
        if found is None:
            return "AccessDenied"
        if found["key"] not in self.keys:
            return "InvalidAccessKeyId"
        path, _, query = environ["RAW_URI"].partition("?")
        names = found["headers"].split(";")
        canonical = [
            environ["REQUEST_METHOD"],
            path,
            "&".join(sorted(part if "=" in part else f"{part}=" for part in query.split("&"))) if query else "",
            *(f"{name}:{' '.join(_header(environ, name).split())}" for name in names),
            "",
            found["headers"],
            _header(environ, "x-amz-content-sha256"),
        ]
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        signed = "\n".join(["AWS4-HMAC-SHA256", _header(environ, "x-amz-date"), found["scope"], digest])
        key = f"AWS4{self.keys[found['key']]}".encode()
        for part in (found["date"], found["region"], "s3", "aws4_request", signed):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return None if key.hex() == found["signature"] else "SignatureDoesNotMatch"


def kind(method: str, path: str) -> str:
    """What a request does, and to which kind of key: the first part of it below `storage/`."""
    path, _, query = path.partition("?")
    if "list-type=2" in query:
        method, path = "LIST", re.sub(r".*prefix=([^&]*).*", r"/\1", query).replace("%2F", "/")
    below = path.partition("/storage/")[2]
    return f"{method} {below.partition('/')[0] or 'everything'}"


def _header(environ: dict[str, Any], name: str) -> str:
    special = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
    return str(environ.get(special.get(name) or "HTTP_" + name.upper().replace("-", "_"), ""))


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # otherwise each request opens a connection of its own

    def log(self, *_: object, **__: object) -> None:
        """Say nothing."""
