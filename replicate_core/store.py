"""The byte seam: keys to bytes, in a local directory or in any fsspec file system.

The only module that knows fsspec, and the only one that translates foreign errors: whatever a storage raises leaves
here as `StorageFailed`, `NotFound`, `MissingExtra` or `InvalidInput`. What the keys mean is in `repository`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import errno
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from replicate_core.errors import InvalidInput, MissingExtra, NotFound, StorageFailed
from replicate_core.files import regular_files, sync, sync_directory, temporary_beside, write_atomically
from replicate_core.redaction import redact, without_credentials

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

REQUEST_SECONDS = 120
"""How long a small request to a storage may take before it counts as failed."""

BYTES_PER_SECOND_MIN = 50_000
"""How slow the transfer of a large one may be."""

SMALL_REQUESTS_AT_ONCE = 64

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

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/*(.*)")  # two letters or more: C:\ is no scheme


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that is there."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)
    """When it was written, by the clock of the store; None where the store does not tell."""


class Store(Protocol):
    """Keys to bytes. Keys are relative, with `/` between their names; every call may be made again.

    Every method raises `StorageFailed` when the storage can't be reached or refuses.
    """

    url: str
    """Where it is, without credentials: for messages and records."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a key, or the bytes of it from `start` up to `end`. Raises `NotFound` if it is missing."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Read many small keys at once; those that are missing are left out."""

    def put(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all. A key that exists is replaced."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a key from a local file, whole or not at all.

        The file itself may become the object, as a second name of it: it must never be changed then.
        """

    def list(self, prefix: str) -> list[Entry]:
        """All keys that begin with `prefix`, which is empty or ends in `/`, in order. Empty if there are none."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The sizes of many keys at once; those that are missing are left out."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys; those that are missing are fine."""


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
        return relative_to / Path(location).expanduser()
    if scheme[1] in ("file", "local"):
        return relative_to / Path(location[scheme.end() :]).expanduser()
    return None


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
        raise _translated(error, shown, "open the storage") from error
    return FsspecStore(file_system, root, shown)


class LocalStore:
    """A directory on this machine. Writes go to a temporary name first, to disk, and then into place."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = str(self.root)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Store.get`."""
        with self._translating(f"read {key}", key), open(self._path(key), "rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`. One after the other: threads only make local reads slower."""
        found: dict[str, bytes] = {}
        for key in keys:
            try:
                found[key] = self.get(key)
            except NotFound:
                continue
        return found

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        with self._translating(f"write {key}", needed_bytes=len(data)):
            path = self._prepared(key)
            write_atomically(path, data)

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`. On the same file system the object is a second name of the file: nothing is copied."""
        with self._translating(f"write {key}", needed_bytes=path.stat().st_size):
            target = self._prepared(key)
            temporary = temporary_beside(target)
            try:
                _link_or_copy(path, temporary)
                sync(temporary)
                os.replace(temporary, target)
                sync_directory(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[Entry]:
        """See `Store.list`."""
        with self._translating(f"list {prefix or 'everything'}"):
            found = []
            for entry in regular_files(self.root / prefix):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # deleted meanwhile
                    continue
                modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
                found.append(Entry(Path(entry.path).relative_to(self.root).as_posix(), status.st_size, modified))
        return sorted(found, key=lambda entry: entry.key)

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """See `Store.sizes`."""
        found: dict[str, int] = {}
        for key in keys:
            with self._translating(f"look up {key}"), suppress(FileNotFoundError, NotADirectoryError):
                found[key] = self._path(key).stat().st_size
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """See `Store.delete`."""
        for key in keys:
            with self._translating(f"delete {key}"):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        _check_key(key, self.url)
        return self.root / key

    def _prepared(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _translating(self, action: str, key: str | None = None, *, needed_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            if key is not None:
                raise NotFound(f"{key} is not in {self.url}") from error
            raise _translated(error, self.url, action) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFailed(
                    f"can't {action} in {self.url}: the disk is full ({needed_bytes} bytes were needed, "
                    f"{_free_bytes(self.root)} are free). Make room, then try again",
                    permanent=True,
                ) from error
            raise _translated(error, self.url, action) from error


def _link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that can't be done."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(path, target)


def _check_key(key: str, url: str) -> None:
    if key.startswith("/") or ".." in key.split("/"):
        raise InvalidInput(f"{key!r} is no key: it leads out of {url}")


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


class FsspecStore:
    """Any fsspec file system below one root.

    Drivers that are asynchronous inside are called through their own event loop, because fsspec's synchronous calls
    take a cancelled request for a success.
    """

    def __init__(self, file_system: AbstractFileSystem, root: str, url: str) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")
        self.url = url

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Store.get`."""
        ranged = {} if start == 0 and end is None else {"start": start, "end": end}
        with self._translating(f"read {key}", key):
            data = self._call("cat_file", self._path(key), transfer_bytes=(end or 0) - start, **ranged)
        return _checked_range(data, start, end)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        names = list(keys)
        if not self._fs.async_impl:
            return {name: data for name in names if (data := self._get_or_none(name)) is not None}
        return self._many(self._cat, names, "read")

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """See `Store.sizes`."""
        names = list(keys)
        if self._fs.async_impl:
            return {name: int(info["size"]) for name, info in self._many(self._info, names, "look up").items()}
        found: dict[str, int] = {}
        for name in names:
            with self._translating(f"look up {name}"), suppress(FileNotFoundError):
                found[name] = int(self._fs.info(self._path(name))["size"])
        return found

    def _many(self, request: Callable[[str], Awaitable[T]], names: list[str], verb: str) -> dict[str, T]:
        """Make one request for each name; what is missing is left out."""
        with self._translating(f"{verb} {len(names)} keys"):
            results = self._run(_gather(request, names))
        found: dict[str, T] = {}
        for name, result in zip(names, results, strict=True):
            if not isinstance(result, Exception):
                found[name] = result
            elif not isinstance(result, FileNotFoundError):
                raise _translated(result, self.url, f"{verb} {name}") from result
        return found

    def _info(self, key: str) -> Awaitable[dict[str, Any]]:
        return self._fs._info(self._path(key))  # type: ignore[no-any-return]  # noqa: SLF001  # as `_cat`

    def _cat(self, key: str) -> Awaitable[bytes]:
        return self._fs._cat_file(self._path(key))  # type: ignore[no-any-return]  # noqa: SLF001  # fsspec's way for asynchronous callers

    def _get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except NotFound:
            return None

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        with self._translating(f"write {key}"):
            self._make_parent(key)
            self._call("pipe_file", self._path(key), data, transfer_bytes=len(data))

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        with self._translating(f"write {key}"):
            self._make_parent(key)
            self._call("put_file", str(path), self._path(key), transfer_bytes=path.stat().st_size)

    def list(self, prefix: str) -> list[Entry]:
        """See `Store.list`."""
        with self._translating(f"list {prefix or 'everything'}"):
            try:
                found = self._call("find", self._path(prefix.rstrip("/")), detail=True)
            except FileNotFoundError:
                return []
        above = self._root.strip("/") + "/" if self._root else ""
        names = ((name.lstrip("/").removeprefix(above), info) for name, info in found.items())
        entries = (Entry(name, int(info["size"]), _modified(info)) for name, info in names if name.startswith(prefix))
        return sorted(entries, key=lambda entry: entry.key)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Store.delete`."""
        for key in keys:
            with self._translating(f"delete {key}"):
                try:
                    self._call("rm_file", self._path(key))
                except FileNotFoundError:
                    continue

    def _path(self, key: str) -> str:
        _check_key(key, self.url)
        return f"{self._root}/{key}" if key else self._root

    def _make_parent(self, key: str) -> None:
        if not self._fs.async_impl:  # object stores have no directories to make
            self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    def _call(self, method: str, *arguments: object, transfer_bytes: int = 0, **options: object) -> Any:
        if self._fs.async_impl:
            seconds = REQUEST_SECONDS + max(0, transfer_bytes) / BYTES_PER_SECOND_MIN
            return self._run(asyncio.wait_for(getattr(self._fs, f"_{method}")(*arguments, **options), seconds))
        return getattr(self._fs, method)(*arguments, **options)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise ConnectionError("the request was cancelled before it was answered") from error
        except BaseException:
            future.cancel()
            raise

    @contextmanager
    def _translating(self, action: str, key: str | None = None) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if key is not None:
                raise NotFound(f"{key} is not in {self.url}") from error
            raise _translated(error, self.url, action) from error
        except Exception as error:  # drivers raise anything; this is where it gets one name
            raise _translated(error, self.url, action) from error


_MODIFIED_WORDS = ("mtime", "LastModified", "last_modified", "updated", "created", "modified")
"""What drivers call the time at which a key was written."""


def _modified(info: Mapping[str, object]) -> datetime | None:
    found = next((info[word] for word in _MODIFIED_WORDS if info.get(word)), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found.replace("Z", "+00:00"))
    if isinstance(found, (int, float)):
        return datetime.fromtimestamp(found, timezone.utc)
    if isinstance(found, datetime):
        return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return None


async def _gather(request: Callable[[str], Awaitable[T]], names: list[str]) -> list[T | Exception]:
    """Make a request for each name, `SMALL_REQUESTS_AT_ONCE` at a time; an error takes the place of its answer."""
    results: list[T | Exception] = [TimeoutError("it was never asked")] * len(names)
    waiting = iter(enumerate(names))

    async def work() -> None:
        for index, name in waiting:
            try:
                results[index] = await asyncio.wait_for(request(name), REQUEST_SECONDS)
            except Exception as error:  # noqa: BLE001  # handed to the caller, who raises or leaves out
                results[index] = error

    await asyncio.gather(*(work() for _ in range(min(SMALL_REQUESTS_AT_ONCE, len(names)))))
    return results


def _checked_range(data: bytes, start: int, end: int | None) -> bytes:
    """What was asked for: some drivers (sshfs) answer a request for a range with the whole file."""
    if end is not None and len(data) > end - start:
        return data[start:end]
    return data


def _translated(error: BaseException, url: str, action: str) -> StorageFailed:
    """A foreign error as one of ours: what was tried, where, why, and what to do."""
    reason = redact(str(error)) or type(error).__name__
    if isinstance(error, PermissionError):
        todo = "Check that you may write there, or name another storage in replicate.yaml"
    elif isinstance(error, OSError) and error.errno == errno.EROFS:
        todo = "It is read-only: name another storage in replicate.yaml"
    elif isinstance(error, (NotADirectoryError, FileExistsError)):
        todo = "A file stands where a directory is needed: name another storage in replicate.yaml"
    else:
        todo = "Check the storage named in replicate.yaml, the network and your credentials"
    permanent = isinstance(error, (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError))
    permanent = permanent or (isinstance(error, OSError) and error.errno == errno.EROFS)
    return StorageFailed(f"can't {action} in {url}: {reason}. {todo}", permanent=permanent)
