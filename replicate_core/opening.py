"""Opening the storage that a user named: a path, or the URL of any fsspec file system."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from replicate_core.errors import InvalidInput, MissingExtra
from replicate_core.redaction import without_credentials
from replicate_core.store import LocalStore, Store, translated

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
"""Scheme of a URL to the extra of this package that installs its driver."""

DRIVERS = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs", "sftp": "sshfs"}
"""Extra to the package that it brings. On PyPI `replicate` is somebody else's: only this name leads to the driver."""

PROTOCOL = "replicate"
"""The scheme of our own URLs, which `protocol` opens: a storage in a storage."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/*(.*)")  # two letters or more: C:\ is no scheme


def open_store(location: str, *, relative_to: Path) -> Store:
    """Open the storage that a user named.

    Args:
        location: a URL (`s3://bucket/path`), or the path of a local directory.
        relative_to: the directory that a relative path starts from.

    Raises:
        InvalidInput: the URL can't be one.
        MissingExtra: the driver for its scheme is not installed.
        StorageFailed: the driver refuses it.
    """
    root = local_root(location, relative_to=relative_to)
    return _open_fsspec(location) if root is None else LocalStore(root)


def local_root(location: str, *, relative_to: Path) -> Path | None:
    """The directory that a storage is, if it is one on this machine's disks; arguments as of `open_store`.

    Raises:
        InvalidInput: it is neither a path nor a URL.
    """
    if "::" in location:
        shown = without_credentials(location)
        raise InvalidInput(f"the storage {shown!r} is a chain of URLs: name the last one alone, without '::'")
    scheme = _SCHEME.match(location)
    if scheme is None:
        _check_is_path(location)
        return relative_to / _expanded(location)
    if scheme[1].lower() == PROTOCOL:
        raise InvalidInput(
            f"the storage {without_credentials(location)!r} can't be one: {PROTOCOL}:// reads what checkpoints hold, "
            "and writes nothing. Name where it is stored: a path, or a URL such as s3://bucket/path"
        )
    if scheme[1] in ("file", "local"):
        return relative_to / _expanded(location[scheme.end() :])
    return None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"the storage {path!r} can't be found: {error}") from error


def _check_is_path(location: str) -> None:
    """Refuse a path that is most likely a mistyped URL: fsspec would take `s3:/b/k` as a local file."""
    found = _ONE_SLASH.fullmatch(location)
    shown = re.sub(r"(:/*)[^/]*@", r"\1", location)
    if found and (found[1].lower() in EXTRAS or location[len(found[1]) + 1 :].startswith("/")):
        scheme = found[1].lower()
        rest = found[2].rpartition("@")[2]
        meant = f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"
        raise InvalidInput(f"the storage {shown!r} looks like a URL with a slash missing: did you mean {meant} ?")


def _open_fsspec(url: str) -> Store:
    from fsspec.core import url_to_fs  # noqa: PLC0415  # 0.1 s, and a local directory needs none of it
    from fsspec.registry import available_protocols  # noqa: PLC0415

    from replicate_core.fsspec_store import FsspecStore  # noqa: PLC0415

    shown = without_credentials(url)
    scheme = url.partition("://")[0]
    if scheme not in available_protocols():
        near = difflib.get_close_matches(scheme.lower(), sorted({*EXTRAS, *available_protocols()}), n=1)
        hint = f"did you mean {near[0]}://{shown.partition('://')[2]} ?" if near else "s3, gs, az and sftp are known"
        raise InvalidInput(f"the storage {shown!r} has the scheme {scheme!r}, which nothing here can open: {hint}")
    try:
        file_system, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        todo = (
            f'pip install {DRIVERS[extra]} (the extra "replicate[{extra}]" of this package)'
            if extra
            else f"install its driver ({error})"
        )
        raise MissingExtra(f"the storage {shown} needs a driver that is not installed: {todo}") from error
    except Exception as error:  # a driver may raise anything; all of it means the same
        raise translated(error, shown, "open the storage") from error
    return FsspecStore(file_system, root, shown)
