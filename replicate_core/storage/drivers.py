"""What is particular to each fsspec driver: who installs it, what it must be told, how its bucket is probed and made.

No driver is imported here; `fsspec_store` uses them, the same way for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_core.format.values import Value

SMALL_REQUESTS_AT_ONCE = 64
LARGE_REQUESTS_AT_ONCE = 4
PART_BYTES = 16 << 20
"""Large files go in parts of this size, so many at once: 64 MiB of memory."""

PARTS_MAX = 9000
"""S3 takes 10,000 parts of one object: those of a larger file are larger."""

CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 3

Probe = Callable[[Any, str, str], Awaitable[object]]
"""Asks for one key: the file system, the container, and what its keys begin with."""

Options = dict[str, Any]


def _nothing(_: Options, __: str, ___: float) -> Options:
    return {}


async def _move_sftp(file_system: Any, source: str, target: str) -> None:
    await file_system._mv(source, target)  # noqa: SLF001  # fsspec's way for asynchronous callers


def _move_webdav(file_system: Any, source: str, target: str) -> None:
    file_system.client.move(source, target, overwrite=True)


@dataclass(frozen=True, slots=True)
class Driver:
    """A kind of storage."""

    extra: str | None = None
    """The extra of this package that installs it."""
    package: str | None = None
    """What that brings. On PyPI `replicate` is somebody else's: only this name leads to the driver."""
    options: Callable[[Options, str, float], Options] = _nothing
    """What it is told besides: made of what the user tells it, of what stands in the URL between `://` and `/`, and of
    how many seconds it may be silent."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """What is told to a request that reads a key."""
    writing: Callable[[int], Options] = lambda _: {}
    """What is told to one that writes so many bytes."""
    attempts: int = 1
    """So often a request is made that fails by chance. Where more than once, the driver is told not to do so itself."""
    probe: Probe | None = None
    """Fails where the container is missing. None: there are no containers, only directories, which are made."""
    move: Callable[[Any, str, str], Any] | None = None
    """Replaces one key by another, where half of a key can be seen while it is written: `put` writes to another name.
    """
    make: Callable[[Any, str], Awaitable[object]] | None = None
    """Makes a container; None: as fsspec does."""
    ignores_ranges: bool = False
    """Whether it answers a request for a range with everything."""
    refuses: str = ""
    """Characters that it can't have in names: no key of a repository has any of them, but the path of one may."""
    refuses_in_url: str = ""
    """Characters that the path in its URL can't have besides, because fsspec cuts it there."""
    needs: str = ""
    """What must stand between `://` and `/`, as an example in capitals shows it; nothing: it may be left out."""
    knows_listings_cache: bool = True
    """Whether it takes the word that listings must not be cached; two drivers have no such cache."""
    notices_silence: bool = False
    """Whether it fails by itself, and at once, where nothing comes for as long as a small request may take."""
    is_one_connection: bool = False
    """Whether all goes through one connection, which does not come back by itself."""


def _s3(given: Options, _: str, seconds: float) -> Options:
    """One attempt a request, or s3fs' five would be made of botocore's five; and no checksums that only AWS knows."""
    config = {
        "max_pool_connections": SMALL_REQUESTS_AT_ONCE,
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": seconds,
        "retries": {"total_max_attempts": 1},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return {"config_kwargs": config | given.get("config_kwargs", {})}


async def _probe_s3(file_system: Any, bucket: str, prefix: str) -> object:
    file_system.retries = 1
    return await file_system._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)  # noqa: SLF001  # fsspec's way for asynchronous callers


async def _make_s3(file_system: Any, bucket: str) -> object:
    """By the region of the client: s3fs names it as a constraint even where that is the default, which AWS refuses."""
    region = (await file_system.set_session()).meta.region_name
    place = {} if region in (None, "us-east-1", "aws-global") else {"LocationConstraint": region}
    more = {"CreateBucketConfiguration": place} if place else {}
    return await file_system._call_s3("create_bucket", Bucket=bucket, **more)  # noqa: SLF001  # as above


def _parts(size_bytes: int) -> Options:
    part = max(PART_BYTES, -(-size_bytes // PARTS_MAX))
    return {"chunksize": part, "max_concurrency": LARGE_REQUESTS_AT_ONCE}


async def _probe_gcs(file_system: Any, bucket: str, prefix: str) -> object:
    return await file_system._call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1, json_out=True)  # noqa: SLF001  # as above


def _azure(given: Options, _: str, seconds: float) -> Options:
    return {"connection_timeout": CONNECT_SECONDS, "read_timeout": seconds, "blocksize": PART_BYTES} | given


async def _probe_azure(file_system: Any, container: str, prefix: str) -> object:
    async with file_system.service_client.get_container_client(container) as client:
        async for page in client.list_blobs(name_starts_with=prefix, results_per_page=1).by_page():
            return page
    return None


def _sftp(given: Options, _: str, seconds: float) -> Options:
    """The key of the host is checked against `~/.ssh/known_hosts`: sshfs by itself takes any."""
    known = {} if "known_hosts" in given else {"known_hosts": ()}
    return {"connect_timeout": CONNECT_SECONDS, "keepalive_interval": seconds / 3, **known}  # it asks three times


def _webdav(given: Options, host: str, seconds: float) -> Options:
    """The server is in the URL; its password, in the options: `auth: [user, ${PASSWORD}]`."""
    scheme = "http" if given.get("scheme") == "http" else "https"
    auth = tuple(given["auth"]) if isinstance(given.get("auth"), list) else given.get("auth")
    return {"base_url": f"{scheme}://{host}", "auth": auth, "timeout": seconds}


S3 = Driver(
    "s3",
    "s3fs",
    _s3,
    reading={"max_concurrency": 1},  # one request: otherwise it asks for the size first
    writing=_parts,
    attempts=ATTEMPTS,
    probe=_probe_s3,
    make=_make_s3,
    needs="BUCKET",
    notices_silence=True,
)
GCS = Driver(
    "gcs",
    "gcsfs",
    writing=lambda _: {"chunksize": PART_BYTES},
    probe=_probe_gcs,
    needs="BUCKET",
)
AZURE = Driver(
    "azure",
    "adlfs",
    _azure,
    writing=lambda _: {"max_concurrency": LARGE_REQUESTS_AT_ONCE},
    probe=_probe_azure,
    needs="BUCKET",
)
SFTP = Driver(
    "sftp",
    "sshfs",
    _sftp,
    attempts=ATTEMPTS,
    move=_move_sftp,
    refuses_in_url="#?",
    needs="HOST",
    ignores_ranges=True,
    knows_listings_cache=False,
    is_one_connection=True,
)
WEBDAV = Driver(
    "webdav",
    "webdav4",
    _webdav,
    attempts=5,  # a key that another one writes is locked meanwhile
    move=_move_webdav,
    refuses="#?%",
    needs="HOST",
    knows_listings_cache=False,
)
OTHER = Driver()
"""Any other: nothing is known of it."""

DRIVERS: Mapping[str, Driver] = {
    "s3": S3,
    "s3a": S3,
    "gs": GCS,
    "gcs": GCS,
    "az": AZURE,
    "abfs": AZURE,
    "abfss": AZURE,
    "sftp": SFTP,
    "ssh": SFTP,
    "webdav": WEBDAV,
}
"""By the scheme of the URL."""

OURS: Mapping[str, tuple[str, ...]] = {"webdav": ("scheme",)}
"""Options that are ours, and that the driver would not understand."""


def driver_of(scheme: str) -> Driver:
    """The driver of a scheme; `OTHER` where nothing is known of it."""
    return DRIVERS.get(scheme, OTHER)


def told(scheme: str, host: str, given: Mapping[str, Value], seconds: float = READ_SECONDS) -> Options:
    """All that the driver of a scheme is told when it is made.

    Args:
        scheme: of the URL.
        host: what stands in the URL between `://` and `/`.
        given: what the user tells it, references resolved.
        seconds: how long a small request may take; it may be silent for so long, and `READ_SECONDS` at most.
    """
    own = dict(given)
    added = driver_of(scheme).options(own, host, min(seconds, READ_SECONDS))
    for name in OURS.get(scheme, ()):
        own.pop(name, None)
    cache = {"use_listings_cache": False} if driver_of(scheme).knows_listings_cache else {}
    return {"skip_instance_cache": True, **cache, **own, **added}
