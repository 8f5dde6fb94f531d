"""Any fsspec file system as a store. The only module, beside `opening`, that knows fsspec and its traps."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from replicate_core.errors import NotFound
from replicate_core.store import Entry, check_key, translated

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

REQUEST_SECONDS = 120
"""How long a small request to a storage may take before it counts as failed."""

BYTES_PER_SECOND_MIN = 50_000
"""How slow the transfer of a large one may be."""

SMALL_REQUESTS_AT_ONCE = 64


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
                raise translated(result, self.url, f"{verb} {name}") from result
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
        check_key(key, self.url)
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
            raise translated(error, self.url, action) from error
        except Exception as error:  # drivers raise anything; this is where it gets one name
            raise translated(error, self.url, action) from error


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
