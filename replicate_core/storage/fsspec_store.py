"""Any fsspec file system as a store. Beside `opening`, only this module knows fsspec and its pitfalls.

`drivers` has what is special about each driver.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from replicate_core.errors import InvalidInput, NotFound, StorageFailed
from replicate_core.machine.files import is_temporary
from replicate_core.storage.diagnosis import diagnose, is_gone, shown_cause, translated
from replicate_core.storage.drivers import LARGE_REQUESTS_AT_ONCE, OTHER, PART_BYTES, SMALL_REQUESTS_AT_ONCE, Driver
from replicate_core.storage.exit_threads import ExitProofThreads
from replicate_core.storage.store import Entry, check_key

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

REQUEST_SECONDS = 120.0
"""Maximum number of seconds for a small request to a storage, with all its attempts, if nobody waits for it."""

HASTY_SECONDS = 10.0
"""Maximum number of seconds for a small request if somebody waits for it."""

PROBE_SECONDS = 30.0
"""Maximum number of seconds for probing a storage, even in recorders: they probe again, and `init` waits for them."""

LONG_SECONDS = 600.0
"""Additional seconds for requests of any length (a listing, a whole key), as long as data arrives."""

HASTY_LONG_SECONDS = 60.0
"""Additional seconds for a listing if somebody waits for it and the driver does not notice silence."""

BYTES_PER_SECOND_MIN = 50_000
"""Minimum transfer rate: a slower transfer counts as failed."""

PAUSE_SECONDS = 0.2
"""Maximum number of seconds between the first two attempts; it doubles after each further attempt."""


class BucketNotFound(FileNotFoundError):
    """The bucket does not exist, which each driver says in its own way."""


class FsspecStore:
    """Any fsspec file system below one root.

    Asynchronous drivers are called through their own event loop, because fsspec's synchronous calls treat a cancelled
    request as a success. They are called with one key at a time, because fsspec's bulk calls treat names as patterns.

    Args:
        file_system: the driver.
        root: the path below which everything is stored.
        url: the URL of that, without credentials.
        driver: what is special about the driver.
        reopen: makes the driver anew, in a forked child and when its only connection was lost.
        request_seconds: maximum number of seconds for a small request; by default `REQUEST_SECONDS`.
        hidden: secrets that no message may show.
    """

    def __init__(
        self,
        file_system: AbstractFileSystem,
        root: str,
        url: str,
        *,
        driver: Driver = OTHER,
        reopen: Callable[[], AbstractFileSystem] | None = None,
        request_seconds: float | None = None,
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")
        self.url = url
        self._driver = driver
        self._reopen = reopen
        self._request_seconds = request_seconds
        self._hidden = hidden
        self._process = os.getpid()
        self._is_disconnected = False
        self._large = threading.BoundedSemaphore(LARGE_REQUESTS_AT_ONCE)
        self._made: set[str] = set()
        if file_system.async_impl:
            ExitProofThreads.serve(file_system.loop)

    def probe(self, *, create: bool = False) -> None:
        """Ask for one key, to fail early if the storage can't be reached or the bucket is missing.

        Args:
            create: whether to make the bucket if it is missing.

        Raises:
            StorageFailed: it can't be used.
        """
        bucket, _, below = self._root.partition("/")
        less = min(0.0, PROBE_SECONDS - self._seconds())
        try:
            with self._translating("open the storage"):
                if self._driver.probe is None:  # not `exists`, which returns False on any error
                    with suppress(FileNotFoundError):  # directories are made
                        self._call("info", self._root or "/", more_seconds=less)
                else:
                    self._request(
                        lambda fs: self._probe_bucket(fs, bucket, f"{below}/" if below else ""), more_seconds=less
                    )
        except StorageFailed as error:
            if not (create and error.bucket_is_missing):
                raise
            with (
                self._translating(f"make the bucket {bucket}"),
                suppress(FileExistsError),
            ):  # somebody else made it meanwhile
                if (make := self._driver.make) is not None:
                    self._request(lambda fs: make(fs, bucket))
                else:
                    self._call("mkdir", bucket)

    async def _probe_bucket(self, file_system: AbstractFileSystem, bucket: str, prefix: str) -> None:
        assert self._driver.probe is not None, "the caller looked"
        try:
            await self._driver.probe(file_system, bucket, prefix)
        except FileNotFoundError as error:
            raise BucketNotFound(f"the bucket {bucket} does not exist") from error

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Store.get`."""
        if end is not None and end <= start:  # drivers disagree about empty ranges
            return self.get(key, start, start + 1)[:0]
        size = 0 if end is None else end - start
        with self._translating(f"read {key}", key), self._bounded(size):
            try:
                data = self._read(key, start, end, size)
            except Exception as error:
                if (start or end is not None) and diagnose(error).is_empty_range:
                    data = b""  # the range begins at the end or after it
                elif self._is_directory(key):
                    raise FileNotFoundError(key) from error
                else:
                    raise
            if not isinstance(data, bytes):
                raise ConnectionError("the driver returned nothing")
        return _checked_range(data, start, end)

    def _is_directory(self, key: str) -> bool:
        """Tell whether a key that can't be read is a directory, if there are any: each server has its own error."""
        try:
            return self._driver.move is not None and self._call("info", self._path(key))["type"] == "directory"
        except Exception:  # noqa: BLE001  # the first error is more useful
            return False

    def _read(self, key: str, start: int, end: int | None, size: int) -> Any:
        path = self._path(key)
        if start == 0 and end is None:
            return self._call("cat_file", path, more_seconds=self._long_seconds(0), **self._driver.reading)
        if self._driver.ignores_ranges:
            return self._request(lambda fs: _read_at(fs, path, start, end), transfer_bytes=size)
        return self._call("cat_file", path, start=start, end=end, transfer_bytes=size, **self._driver.reading)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        names = list(keys)
        if not self._fs.async_impl:
            return {name: data for name in names if (data := self._get_or_none(name)) is not None}
        return self._request_many(lambda fs, path: fs._cat_file(path, **self._driver.reading), names, "read")  # noqa: SLF001  # fsspec's way for asynchronous callers

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """See `Store.sizes`."""
        names = list(keys)
        if self._fs.async_impl:
            infos = self._request_many(lambda fs, path: fs._info(path), names, "look up")  # noqa: SLF001  # as above
            return {name: int(info["size"]) for name, info in infos.items()}
        found: dict[str, int] = {}
        for name in names:
            with self._translating(f"look up {name}"), suppress(FileNotFoundError):
                found[name] = int(self._call("info", self._path(name))["size"])
        return found

    def _get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except NotFound:
            return None

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        with self._translating(f"write {key}"), self._bounded(len(data)):
            self._write(key, "pipe_file", data, len(data))

    def put_file(self, key: str, path: Path) -> None:
        """See `Store.put_file`."""
        with self._translating(f"write {key}"):
            size = path.stat().st_size
            with self._bounded(size):
                self._write(key, "put_file", str(path), size)

    def _write(self, key: str, method: str, content: bytes | str, size: int) -> None:
        """Write a key, under another name first where it would be visible half-written."""
        self._make_parent(key)
        path = self._path(key)
        target = path
        if self._driver.move is not None:
            target = f"{path.rpartition('/')[0]}/.replicate-{os.urandom(8).hex()}.tmp"
        arguments = (content, target) if method == "put_file" else (target, content)
        try:
            self._call(method, *arguments, transfer_bytes=size, **self._driver.writing(size))
            if self._driver.move is not None:
                move = self._driver.move
                self._request(lambda fs: move(fs, target, path))
        except BaseException as error:
            self._made.clear()  # somebody may have removed the directories
            if target != path and not isinstance(error, (FileNotFoundError, PermissionError)):
                with suppress(Exception):
                    self._call("rm_file", target)
            raise

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        above = self._path(prefix.rstrip("/"))
        with self._translating(f"list {prefix or 'everything'}"):
            try:
                found = self._call("ls", above, detail=True)
            except FileNotFoundError:
                return []
        inside = (
            (info["name"].rstrip("/").rpartition("/")[2], info["type"]) for info in found if info["name"] != above
        )
        return sorted(f"{name}/" if type_ == "directory" else name for name, type_ in inside if name)

    def list(self, prefix: str) -> list[Entry]:
        """See `Store.list`."""
        with self._translating(f"list {prefix or 'everything'}"):
            try:
                found = self._find(prefix)
            except FileNotFoundError as error:
                if diagnose(error).is_missing_bucket:
                    raise
                return []
        above = self._root.strip("/") + "/" if self._root else ""
        names = ((name.lstrip("/").removeprefix(above), info) for name, info in found.items())
        entries = (
            Entry(name, int(info["size"]), _modified(info))
            for name, info in names
            if name.startswith(prefix) and not is_temporary(name.rpartition("/")[2])
        )
        return sorted(entries, key=lambda entry: entry.key)

    def _find(self, prefix: str) -> Mapping[str, Mapping[str, Any]]:
        is_hasty = self._seconds() < HASTY_LONG_SECONDS
        longer = self._long_seconds(HASTY_LONG_SECONDS if is_hasty else LONG_SECONDS)
        if self._driver.probe is None:
            found = self._call("find", self._path(prefix.rstrip("/")), detail=True, more_seconds=longer)
        else:  # a bucket lists names by prefix: there is no need to ask what is a directory
            bucket, _, below = self._path(prefix).partition("/")
            below = f"{below}/" if below and not below.endswith("/") else below
            found = self._call("find", bucket, prefix=below, detail=True, more_seconds=longer)
        return found if isinstance(found, Mapping) else {}

    def delete(self, keys: Iterable[str]) -> None:
        """See `Store.delete`."""
        names = list(keys)
        if self._fs.async_impl:
            self._request_many(lambda fs, path: fs._rm_file(path), names, "delete")  # noqa: SLF001  # as above
            return
        for name in names:
            with self._translating(f"delete {name}"), suppress(FileNotFoundError):
                self._call("rm_file", self._path(name))

    def _path(self, key: str) -> str:
        """The driver's path of a key."""
        check_key(key, self.url)
        path = f"{self._root}/{key}" if key else self._root
        if strange := next((character for character in self._driver.refuses if character in path), None):
            raise InvalidInput(f"{path!r} can't be used in {self.url}: names there can't contain {strange!r}")
        return path

    def _make_parent(self, key: str) -> None:
        """Make the directory of a key, except in object stores, which have none."""
        parent = self._path(key).rpartition("/")[0]
        if parent in self._made or (self._fs.async_impl and self._driver.move is None):
            return
        self._call("makedirs", parent, exist_ok=True)
        self._made.add(parent)

    def _bounded(self, size: int) -> AbstractContextManager[object]:
        return self._large if size > PART_BYTES else nullcontext()

    def _request_many(
        self, request: Callable[[AbstractFileSystem, str], Awaitable[T]], names: Sequence[str], verb: str
    ) -> dict[str, T]:
        """Make one request for each name, many at a time; missing names are left out."""
        found: dict[str, T] = {}
        left = [(name, self._path(name)) for name in names]
        retry_deadline = time.monotonic() + self._seconds()
        seconds = self._seconds() + self._long_seconds(0)
        for attempt in range(1, self._driver.attempts + 1):
            file_system = self._file_system()
            with self._translating(f"{verb} {len(left)} keys"):
                answers = self._run(_gather(request, file_system, [path for _, path in left], seconds))
            again = []
            for (name, path), answer in zip(left, answers, strict=True):
                if not isinstance(answer, Exception):
                    found[name] = answer
                elif is_gone(answer) and not diagnose(answer).is_missing_bucket:
                    continue
                elif (
                    self._is_transient(answer) and attempt < self._driver.attempts and time.monotonic() < retry_deadline
                ):
                    again.append((name, path))
                else:
                    raise translated(answer, self.url, f"{verb} {name}", self._hidden) from shown_cause(
                        answer, self._hidden
                    )
            if not again:
                break
            left = again
            time.sleep(_pause(attempt))
        return found

    def _call(
        self, method: str, *arguments: object, transfer_bytes: int = 0, more_seconds: float = 0, **options: object
    ) -> Any:
        def request(file_system: AbstractFileSystem) -> Any:
            return getattr(file_system, f"_{method}" if file_system.async_impl else method)(*arguments, **options)

        return self._request(request, transfer_bytes=transfer_bytes, more_seconds=more_seconds)

    def _request(
        self,
        request: Callable[[AbstractFileSystem], Any],
        *,
        transfer_bytes: int = 0,
        more_seconds: float = 0,
    ) -> Any:
        """Make a request, and retry it after a transient failure if the driver does not retry itself."""
        began = time.monotonic()
        deadline = began + self._seconds() + more_seconds + transfer_bytes / BYTES_PER_SECOND_MIN
        attempt = 1
        while True:
            try:
                answer = request(self._file_system())
                if asyncio.iscoroutine(answer):
                    answer = self._run(asyncio.wait_for(answer, max(0.0, deadline - time.monotonic())))
                return answer
            except Exception as error:
                pause = _pause(attempt)
                is_transient = self._is_transient(error)
                # Not by `deadline`, which includes the time for the transfer.
                is_late = time.monotonic() + pause >= began + self._seconds()
                if not is_transient or attempt >= self._driver.attempts or is_late:
                    raise
                time.sleep(pause)
                attempt += 1

    def _is_transient(self, error: Exception) -> bool:
        """Tell whether a failure is transient. If it is, a driver's only connection may be lost."""
        is_transient = diagnose(error).is_transient
        self._is_disconnected |= is_transient and self._driver.is_one_connection
        return is_transient

    def _long_seconds(self, otherwise: float) -> float:
        """Additional seconds for requests of any length; `otherwise` if the driver does not notice silence."""
        return LONG_SECONDS if self._driver.notices_silence else otherwise

    def _seconds(self) -> float:
        return REQUEST_SECONDS if self._request_seconds is None else self._request_seconds

    def _file_system(self) -> AbstractFileSystem:
        """The driver for this process: it is made anew in a forked child, and when it was disconnected."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._large = threading.BoundedSemaphore(LARGE_REQUESTS_AT_ONCE)
            self._is_disconnected = True
        if self._is_disconnected and self._reopen is not None:
            self._fs = self._reopen()
        self._is_disconnected = False
        return self._fs

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
        except InvalidInput:
            raise
        except Exception as error:
            if key is not None and is_gone(error) and not diagnose(error).is_missing_bucket:
                raise NotFound(f"{key} is not in {self.url}") from error
            raise translated(error, self.url, action, self._hidden) from shown_cause(error, self._hidden)


def _read_at(file_system: AbstractFileSystem, path: str, start: int, end: int | None) -> bytes:
    """Read a range with a driver that answers a request for a range with the whole file."""
    with file_system.open(path, "rb") as file:
        file.seek(start)
        data: bytes = file.read() if end is None else file.read(end - start)
    return data


def _pause(attempt: int) -> float:
    longest: float = PAUSE_SECONDS * 2 ** (attempt - 1)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # only spreads clients, no secret


_MODIFIED_WORDS = ("mtime", "LastModified", "last_modified", "updated", "created", "modified")
"""Drivers' names for the time when a key was written."""


def _modified(info: Mapping[str, object]) -> datetime | None:
    found = next((info[word] for word in _MODIFIED_WORDS if info.get(word)), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found.replace("Z", "+00:00"))
    if isinstance(found, (int, float)):
        return datetime.fromtimestamp(found, timezone.utc)
    if isinstance(found, datetime):
        return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return None


async def _gather(
    request: Callable[[AbstractFileSystem, str], Awaitable[T]],
    file_system: AbstractFileSystem,
    paths: list[str],
    seconds: float,
) -> list[T | Exception]:
    """Make a request for each path, `SMALL_REQUESTS_AT_ONCE` at a time; returns answers and errors, in order."""
    results: list[T | Exception] = [TimeoutError("no request was made")] * len(paths)
    waiting = iter(enumerate(paths))

    async def work() -> None:
        for index, path in waiting:
            try:
                results[index] = await asyncio.wait_for(request(file_system, path), seconds)
            except Exception as error:  # noqa: BLE001  # the caller raises or ignores it
                results[index] = error

    await asyncio.gather(*(work() for _ in range(min(SMALL_REQUESTS_AT_ONCE, len(paths)))))
    return results


def _checked_range(data: bytes, start: int, end: int | None) -> bytes:
    """The requested range: a driver may answer with the whole file."""
    if end is not None and len(data) > end - start:
        return data[start:end]
    return data
