"""A local directory as a store: keys are files, and each is written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from replicate_core.errors import NotFound, StorageFailed
from replicate_core.machine.files import (
    make_directories,
    names_below,
    open_regular,
    regular_files,
    sync,
    sync_directory,
    temporary_beside,
    write_atomically,
)
from replicate_core.storage.diagnosis import translated
from replicate_core.storage.store import Entry, check_key


class LocalStore:
    """A directory on this machine. Files are written under a temporary name, flushed to disk, and then renamed.

    Keys are regular files: links, pipes, sockets and devices in their places are ignored. The root may be a link.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = str(self.root)
        self._is_there = False

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Store.get`."""
        with self._translating(f"read {key}", key), open_regular(self._path(key)) as file:
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`. Keys are read one after the other: threads would make local reads slower."""
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
        """See `Store.put_file`. On the same file system the object is a hard link to the file: nothing is copied."""
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

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        with self._translating(f"list {prefix or 'everything'}"):
            return names_below(self.root / prefix)

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
                status = self._path(key).lstat()
                if stat.S_ISREG(status.st_mode):
                    found[key] = status.st_size
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """See `Store.delete`."""
        for key in keys:
            with self._translating(f"delete {key}"):
                self._path(key).unlink(missing_ok=True)

    def release_memory(self, keys: Iterable[str]) -> None:
        """Drop these keys from the system's page cache: they will not be read soon."""
        if not hasattr(os, "posix_fadvise"):
            return
        for key in keys:
            with (
                suppress(OSError, NotFound),
                self._translating(f"read {key}", key),
                open_regular(self._path(key)) as file,
            ):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _path(self, key: str) -> Path:
        check_key(key, self.url)
        return self.root / key

    def _prepared(self, key: str) -> Path:
        path = self._path(key)
        if self._is_there and not self.root.is_dir():  # if its disk was unmounted, it must not be made on another one
            raise FileNotFoundError(errno.ENOENT, "the directory is gone", str(self.root))
        make_directories(path.parent)
        self._is_there = True
        return path

    @contextmanager
    def _translating(self, action: str, key: str | None = None, *, needed_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            if key is not None:
                raise NotFound(f"{key} is not in {self.url}") from error
            raise translated(error, self.url, action) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFailed(
                    f"can't {action} in {self.url}: the disk is full ({needed_bytes} bytes were needed, "
                    f"{_free_bytes(self.root)} are free). Make room, then try again",
                    permanent=True,
                ) from error
            raise translated(error, self.url, action) from error


def _link_or_copy(path: Path, target: Path) -> None:
    """Make a hard link to a file, or copy it where that is not possible."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(path, target)


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
