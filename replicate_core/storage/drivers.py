"""What is special about each fsspec driver: its package, its options, how its bucket is probed and made.

No driver is imported here; `fsspec_store` uses all of them in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_core.format.values import Value

SMALL_REQUESTS_AT_ONCE = 64
LARGE_REQUESTS_AT_ONCE = 4
PART_BYTES = 16 << 20
"""Size of the parts in which large files are sent; with `LARGE_REQUESTS_AT_ONCE`, that takes 64 MiB of memory."""

PARTS_MAX = 9000
"""Maximum number of parts of one file, whose parts become larger instead: S3 accepts 10,000."""

CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 3

Probe = Callable[[Any, str, str], Awaitable[object]]
"""Asks for one key; called with the file system, the container, and the prefix of the keys."""

Options = dict[str, Any]


async def _move_sftp(file_system: Any, source: str, target: str) -> None:
    await file_system._mv(source, target)  # noqa: SLF001  # fsspec's way for asynchronous callers


def _move_webdav(file_system: Any, source: str, target: str) -> None:
    file_system.client.move(source, target, overwrite=True)


@dataclass(frozen=True, slots=True)
class Driver:
    """What we know about an fsspec driver."""

    extra: str | None = None
    """The extra of our package that installs it."""
    package: str | None = None
    """The package on PyPI that it is in. Messages name it because `replicate` on PyPI is somebody else's package."""
    options: Callable[[Options, str, float], Options] = lambda *_: {}
    """Returns further options for it, from the user's options, the part of the URL between `://` and `/`, and the
    number of seconds for which it may be silent."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a request that reads a key."""
    writing: Callable[[int], Options] = lambda _: {}
    """Returns the arguments of a request that writes so many bytes."""
    attempts: int = 1
    """Maximum number of attempts at a request with transient failures. If it is more than 1, the driver's own retries
    are switched off."""
    probe: Probe | None = None
    """Fails if the container is missing. None: there are no containers, only directories, which are made."""
    move: Callable[[Any, str, str], Any] | None = None
    """Replaces one key by another. Needed where a partly written key is visible: `put` then writes to another name.
    """
    make: Callable[[Any, str], Awaitable[object]] | None = None
    """Makes a container; None to use fsspec's way."""
    ignores_ranges: bool = False
    """Whether it answers a request for a range with the whole file."""
    refuses: str = ""
    """Characters that names can't contain: no key of a repository has them, but the path of a repository may."""
    refuses_in_url: str = ""
    """Further characters that the path in its URL can't contain, because fsspec cuts the path there."""
    needs: str = ""
    """What must be between `://` and `/`, as a word in capitals; empty if it may be left out."""
    knows_listings_cache: bool = True
    """Whether it has the option to switch off its cache of listings; two drivers have no such cache."""
    notices_silence: bool = False
    """Whether it fails by itself if nothing arrives for as long as a small request may take."""
    is_one_connection: bool = False
    """Whether all requests use one connection, which does not recover by itself."""


def _s3(given: Options, _: str, seconds: float) -> Options:
    """One attempt per request, because s3fs and botocore would each make five; and no checksums that only AWS knows."""
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
    """Make a bucket in the client's region: s3fs would pass even the default one as a constraint, which AWS refuses."""
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
    """Check the host's key against `~/.ssh/known_hosts`: by default, sshfs accepts any."""
    known = {} if "known_hosts" in given else {"known_hosts": ()}
    return {"connect_timeout": CONNECT_SECONDS, "keepalive_interval": seconds / 3, **known}  # it gives up after three


def _webdav(given: Options, host: str, seconds: float) -> Options:
    """The server comes from the URL, its password from the options: `auth: [user, ${PASSWORD}]`."""
    scheme = "http" if given.get("scheme") == "http" else "https"
    auth = tuple(given["auth"]) if isinstance(given.get("auth"), list) else given.get("auth")
    return {"base_url": f"{scheme}://{host}", "auth": auth, "timeout": seconds}


S3 = Driver(
    "s3",
    "s3fs",
    _s3,
    reading={"max_concurrency": 1},  # one request: with more, it asks for the size first
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
    attempts=5,  # a key is locked while another client writes it
    move=_move_webdav,
    refuses="#?%",
    needs="HOST",
    knows_listings_cache=False,
)
OTHER = Driver()
"""Any other driver, about which nothing is known."""

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
"""Drivers by the scheme of the URL."""

OURS: Mapping[str, tuple[str, ...]] = {"webdav": ("scheme",)}
"""Names of our own options for a scheme, which the driver would not understand."""


def driver_of(scheme: str) -> Driver:
    """The driver of a scheme; `OTHER` if it is unknown."""
    return DRIVERS.get(scheme, OTHER)


def driver_options(scheme: str, host: str, given: Mapping[str, Value], seconds: float = READ_SECONDS) -> Options:
    """All options with which the driver of a scheme is made.

    Args:
        scheme: the scheme of the URL.
        host: the part of the URL between `://` and `/`.
        given: the user's options, with references resolved.
        seconds: how long a small request may take. The driver may be silent for that long, but for `READ_SECONDS` at
            most.
    """
    own = dict(given)
    added = driver_of(scheme).options(own, host, min(seconds, READ_SECONDS))
    for name in OURS.get(scheme, ()):
        own.pop(name, None)
    cache = {"use_listings_cache": False} if driver_of(scheme).knows_listings_cache else {}
    return {"skip_instance_cache": True, **cache, **own, **added}
