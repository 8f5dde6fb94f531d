"""The byte seam on local disk, in memory and through an asynchronous driver; and what goes wrong there."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from store_suite import StoreSuite

from replicate_core.errors import ConfigInvalid, InvalidInput, MissingExtra, NotFound, StorageFailed
from replicate_core.redaction import without_credentials
from replicate_core.storage import fsspec_store as stores
from replicate_core.storage.drivers import Driver, told
from replicate_core.storage.fsspec_store import FsspecStore
from replicate_core.storage.local import LocalStore
from replicate_core.storage.opening import local_root, open_store, scheme
from replicate_core.storage.store import Entry, Store

HERE = Path("/nowhere")
PATH_MAX = os.pathconf("/", "PC_PATH_MAX")


@contextmanager
def place(path: Path, kind: str) -> Iterator[None]:
    """Put something at a path that is not a regular file."""
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            bound.bind(os.path.relpath(path))  # the whole path may be too long for one
        elif kind == "device":
            try:
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # that of zeros without end
            except PermissionError:
                pytest.skip("only root makes devices")
        else:
            targets = {"link": "kept", "link to nothing": "gone", "link to a device": "/dev/zero"}
            path.symlink_to(targets[kind])
        yield


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "storage")

    def test_a_key_is_a_path_below_its_directory(self, store: LocalStore) -> None:
        store.put("records/20261123/x.json", b"{}")
        assert (store.root / "records/20261123/x.json").read_bytes() == b"{}"
        assert store.url == str(store.root)

    def test_temporary_files_are_never_listed(self, store: LocalStore) -> None:
        store.put("key", b"data")
        (store.root / f".replicate-{'0' * 16}.tmp").write_bytes(b"half writ")
        assert store.list("") == [Entry("key", 4)]

    @pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link", "link to nothing", "link to a device"])
    def test_what_is_no_regular_file_is_no_key_and_nobody_waits_for_it(self, tmp_path: Path, kind: str) -> None:
        store = LocalStore(tmp_path / "storage")
        store.put("data/kept", b"data")
        strange = store.root / "data/strange"
        with place(strange, kind):
            assert store.list("") == store.list("data/") == [Entry("data/kept", 4)]
            assert store.names("data/") == ["kept"]
            assert store.sizes(["data/strange", "data/kept"]) == {"data/kept": 4}
            assert store.get_many(["data/strange", "data/kept"]) == {"data/kept": b"data"}
            for bounds in ((), (0, 1)):
                with pytest.raises(NotFound, match=r"data/strange is not in "):
                    store.get("data/strange", *bounds)
            store.put("data/strange", b"more")  # it is replaced
            assert store.get("data/strange") == b"more"
            assert store.list("") == [Entry("data/kept", 4), Entry("data/strange", 4)]

    def test_a_root_that_is_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "disk/storage").mkdir(parents=True)
        (tmp_path / "storage").symlink_to("disk/storage")
        store = LocalStore(tmp_path / "storage")
        store.put("data/key", b"data")
        assert store.get("data/key") == b"data"
        assert store.list("") == [Entry("data/key", 4)]
        assert store.names("") == ["data/"]
        assert store.sizes(["data/key"]) == {"data/key": 4}
        assert (tmp_path / "disk/storage/data/key").read_bytes() == b"data"

    def test_thousands_of_directories_inside_one_another_are_listed(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "s")
        key = "d/" * ((PATH_MAX - len(str(tmp_path)) - 60) // 2) + "key"
        assert key.count("/") > sys.getrecursionlimit()
        store.put(key, b"deep")
        assert store.list("") == [Entry(key, 4)]
        assert store.get(key) == b"deep"
        subprocess.run(["rm", "-r", store.root], check=True)  # `shutil.rmtree` of older Pythons is too deep for it

    def test_a_file_on_the_same_disk_becomes_the_object(self, store: LocalStore, tmp_path: Path) -> None:
        (tmp_path / "staged").write_bytes(b"data")
        number = (tmp_path / "staged").stat().st_ino
        store.put_file("key", tmp_path / "staged")
        assert (store.root / "key").stat().st_ino == number

    def test_a_file_on_another_disk_is_copied(self, store: LocalStore) -> None:
        other = Path("/dev/shm")
        if not other.is_dir() or other.stat().st_dev == store.root.parent.stat().st_dev:
            pytest.skip("there is no second file system here")
        staged = Path(tempfile.mkdtemp(dir=other)) / "staged"
        staged.write_bytes(b"data")
        try:
            store.put_file("data/key", staged)
        finally:
            shutil.rmtree(staged.parent)
        assert store.get("data/key") == b"data"
        assert os.listdir(store.root / "data") == ["key"]

    def test_a_copy_that_fails_leaves_nothing_behind(self, store: LocalStore, tmp_path: Path) -> None:
        (tmp_path / "staged").write_bytes(b"data")
        (store.root / "key").mkdir(parents=True)
        with pytest.raises(StorageFailed, match="key"):
            store.put_file("key", tmp_path / "staged")
        assert os.listdir(store.root) == ["key"]

    def test_a_file_where_a_directory_is_needed_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = LocalStore(tmp_path / "file/storage")
        (tmp_path / "staged").write_text("")
        for action in (lambda: store.put("a/b", b""), lambda: store.put_file("a/b", tmp_path / "staged")):
            with pytest.raises(StorageFailed, match=r"can't write a/b in .*/file/storage: .*A file stands where"):
                action()
        assert store.list("") == []

    def test_a_directory_where_a_file_must_go_says_so(self, store: LocalStore) -> None:
        store.put("a/b", b"")
        with pytest.raises(StorageFailed, match="can't write a in"):
            store.put("a", b"")
        with pytest.raises(StorageFailed, match="can't delete a in"):
            store.delete(["a"])

    def test_a_storage_that_may_not_be_written_says_what_to_do(self, open_directory: Path, as_nobody) -> None:
        store = LocalStore(open_directory / "storage")
        store.put("key", b"data")
        store.root.chmod(0o555)
        with as_nobody(), pytest.raises(StorageFailed, match=r"can't write new in .*Check that you may write there"):
            store.put("new", b"data")
        assert os.listdir(store.root) == ["key"]

    def test_a_storage_that_may_not_be_read_is_no_empty_one(self, open_directory: Path, as_nobody) -> None:
        store = LocalStore(open_directory / "storage")
        store.put("key", b"data")
        store.root.chmod(0)
        with as_nobody():
            for action in (lambda: store.list(""), lambda: store.get("key"), lambda: store.get_many(["key"])):
                with pytest.raises(StorageFailed, match="Permission denied"):
                    action()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_says_how_much_was_needed(self, store: LocalStore, monkeypatch, number: int) -> None:
        def full(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageFailed, match=r"the disk is full \(4 bytes were needed, \d+ are free\). Make room"):
            store.put("a/key", b"data")
        assert store.list("") == []

    def test_a_full_disk_is_seen_before_the_storage_exists(self, tmp_path: Path, monkeypatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "mkdir", full)
        with pytest.raises(StorageFailed, match="the disk is full"):
            LocalStore(tmp_path / "a/b").put("key", b"data")

    def test_a_read_only_disk_says_so(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def read_only(source: object, target: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "replace", read_only)
        with pytest.raises(StorageFailed, match="read-only: name another storage"):
            store.put("key", b"data")

    def test_a_disk_that_fails_is_an_error(self, store: LocalStore, tmp_path: Path, monkeypatch) -> None:
        def broken(source: object, target: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "replace", broken)
        (tmp_path / "staged").write_bytes(b"data")
        with pytest.raises(StorageFailed, match="Input/output error"):
            store.put_file("key", tmp_path / "staged")


class TestMemory(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"memory://{uuid.uuid4().hex}/a b", relative_to=HERE)

    def test_is_shared_in_this_process(self, store: Store) -> None:
        store.put("key", b"data")
        assert open_store(store.url, relative_to=HERE).get("key") == b"data"
        assert local_root(store.url, relative_to=HERE) is None


class TestRootOfMemory(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return FsspecStore(Alone(), "", "memory://")


class Alone(MemoryFileSystem):
    """A memory of its own: the common one belongs to every test."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]


class GoneInBetween(Alone):
    """Finds a key, and is answered that it is not there when it reads it: what WebDAV's driver does beside a writer."""

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        answer = type("Response", (), {"status_code": 404})()
        error = type("HTTPStatusError", (Exception,), {"response": answer})
        raise error(f"Client error '404 Not Found' for {path}")


def test_a_key_that_goes_between_looking_it_up_and_reading_it_is_not_there() -> None:
    store = FsspecStore(GoneInBetween(), "", "memory://")
    store.put("key", b"data")
    with pytest.raises(NotFound, match="key is not in"):
        store.get("key")
    assert store.get_many(["key"]) == {}


class Asynchronous(AsyncFileSystem):
    """A small driver that is asynchronous inside, as those of the object stores are."""

    cachable = False
    protocol = "small"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.at_once = self.most_at_once = 0
        self.fail: dict[str, BaseException] = {}
        self.failures: dict[str, int] = {}
        self.asked = 0
        self.ranges = True

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            self._fail(path)
            if path not in self.objects:
                raise FileNotFoundError(path)
            return self.objects[path][start:end] if self.ranges else self.objects[path]
        finally:
            self.at_once -= 1

    async def _pipe_file(self, path: str, value: bytes, **_: object) -> None:
        self._fail(path)
        self.objects[path] = value

    async def _put_file(self, lpath: str, rpath: str, **_: object) -> None:
        self._fail(rpath)
        self.objects[rpath] = Path(lpath).read_bytes()

    async def _rm_file(self, path: str, **_: object) -> None:
        self._fail(path)
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    async def _find(self, path: str, *_: object, prefix: str = "", **__: object) -> dict[str, dict[str, Any]]:
        self._fail(path)
        found = {key: {"size": len(data)} for key, data in self.objects.items() if f"{key}/".startswith(f"{path}/")}
        if not found:
            raise FileNotFoundError(path)
        return found

    async def _ls(self, path: str, *_: object, **__: object) -> list[dict[str, Any]]:
        self._fail(path)
        below = {key[len(path) + 1 :].partition("/") for key in self.objects if key.startswith(f"{path}/")}
        if not below:
            raise FileNotFoundError(path)
        types = {name: "directory" if slash else "file" for name, slash, _ in below}
        return [{"name": f"{path}/{name}", "type": type_} for name, type_ in types.items()]

    def _fail(self, path: str) -> None:
        self.asked += 1
        if self.failures.get(path):
            self.failures[path] -= 1
            raise ConnectionResetError("cut")
        if error := self.fail.get(path):
            raise error


@pytest.fixture
def remote() -> Asynchronous:
    return Asynchronous()


class TestAsynchronous(StoreSuite):
    @pytest.fixture
    def store(self, remote: Asynchronous) -> Store:
        return FsspecStore(remote, "bucket/path/", "small://bucket/path")

    def test_keys_lie_below_its_root(self, store: Store, remote: Asynchronous) -> None:
        remote.objects["bucket/path2/other"] = b""
        store.put("records/x", b"data")
        assert sorted(remote.objects) == ["bucket/path/records/x", "bucket/path2/other"]
        assert store.list("") == [Entry("records/x", 4)]

    def test_many_keys_are_asked_for_together_but_not_too_many(self, store: Store, remote: Asynchronous) -> None:
        remote.objects = {f"bucket/path/{number}": b"" for number in range(300)}
        assert len(store.get_many([str(number) for number in range(300)])) == 300
        assert remote.most_at_once == stores.SMALL_REQUESTS_AT_ONCE

    def test_a_driver_that_ignores_ranges_makes_no_difference(self, store: Store, remote: Asynchronous) -> None:
        remote.ranges = False
        store.put("key", b"0123456789")
        assert store.get("key", 3, 6) == b"345"
        assert store.get("key", 0, 10) == b"0123456789"

    def test_whatever_the_driver_raises_has_one_name(self, store: Store, remote: Asynchronous, tmp_path: Path) -> None:
        failing = {f"bucket/path{below}" for below in ("", "/a", "/a/b")}
        (tmp_path / "staged").touch()
        for error in (RuntimeError("no credentials"), PermissionError("no credentials"), ValueError("no credentials")):
            remote.fail = dict.fromkeys(failing, error)
            for action in (
                lambda: store.get("a/b"),
                lambda: store.get_many(["a/b"]),
                lambda: store.put("a/b", b""),
                lambda: store.put_file("a/b", tmp_path / "staged"),
                lambda: store.list("a/"),
                lambda: store.list(""),
                lambda: store.delete(["a/b"]),
            ):
                with pytest.raises(StorageFailed, match=r"in small://bucket/path: no credentials\. Check") as caught:
                    action()
                assert caught.value.__cause__ is error

    def test_an_error_without_a_text_shows_its_type(self, store: Store, remote: Asynchronous) -> None:
        remote.fail["bucket/path/a"] = RuntimeError()
        with pytest.raises(StorageFailed, match="can't read a in small://bucket/path: RuntimeError"):
            store.get("a")

    def test_writing_to_a_bucket_that_is_missing_is_no_missing_key(self, store: Store, remote: Asynchronous) -> None:
        remote.fail["bucket/path/a"] = FileNotFoundError("no such bucket")
        with pytest.raises(StorageFailed, match=r"can't write a in .*no such bucket"):
            store.put("a", b"")

    def test_a_cancelled_request_is_an_error(self, store: Store, remote: Asynchronous) -> None:
        remote.fail["bucket/path/a"] = asyncio.CancelledError()
        for action in (
            lambda: store.put("a", b""),
            lambda: store.get("a"),
            lambda: store.get_many(["a", "b"]),
            lambda: store.delete(["a"]),
        ):
            with pytest.raises(StorageFailed, match="cancelled"):
                action()

    def test_a_request_that_is_never_answered_is_an_error(self, store: Store, remote, monkeypatch) -> None:
        async def never(path: str, **_: object) -> bytes:
            await asyncio.sleep(60)
            raise AssertionError

        monkeypatch.setattr(stores, "REQUEST_SECONDS", 0.05)
        monkeypatch.setattr(remote, "_cat_file", never)
        with pytest.raises(StorageFailed, match="can't read a in"):
            store.get("a")
        with pytest.raises(StorageFailed, match="can't read"):
            store.get_many(["a"])


class TestAttempts:
    """What fails by chance is tried again, in one place; so drivers are told not to."""

    @pytest.fixture(autouse=True)
    def hurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stores, "PAUSE_SECONDS", 0.001)

    @pytest.fixture
    def store(self, remote: Asynchronous) -> FsspecStore:
        return FsspecStore(remote, "bucket/path", "small://bucket/path", driver=Driver(attempts=3))

    def test_what_passes_goes_unnoticed(self, store: FsspecStore, remote: Asynchronous) -> None:
        remote.objects["bucket/path/a"] = b"data"
        for action, result in (
            (lambda: store.get("a"), b"data"),
            (lambda: store.get_many(["a", "b"]), {"a": b"data"}),
            (lambda: store.put("c", b""), None),
            (lambda: store.delete(["c"]), None),
        ):
            remote.failures = {"bucket/path/a": 2, "bucket/path/c": 2}
            assert action() == result

    def test_what_does_not_pass_is_given_up(self, store: FsspecStore, remote: Asynchronous) -> None:
        remote.objects["bucket/path/a"] = b"data"
        for action in (lambda: store.get("a"), lambda: store.get_many(["a"])):
            remote.failures = {"bucket/path/a": 5}
            with pytest.raises(StorageFailed, match="can't read a in"):
                action()
            assert remote.failures == {"bucket/path/a": 2}

    def test_what_will_not_pass_is_not_tried_again(self, store: FsspecStore, remote: Asynchronous) -> None:
        remote.fail["bucket/path/a"] = PermissionError("no")
        remote.failures = {"bucket/path/a": 0}
        with pytest.raises(StorageFailed, match="no"):
            store.get("a")
        assert remote.asked == 1

    def test_an_only_connection_that_was_lost_is_made_again(self, remote: Asynchronous) -> None:
        other = Asynchronous()
        other.objects["bucket/a"] = b"data"
        driver = Driver(attempts=2, is_one_connection=True)
        store = FsspecStore(remote, "bucket", "small://bucket", driver=driver, reopen=lambda: other)
        remote.failures = {"bucket/a": 9}
        assert store.get("a") == b"data"

    def test_a_forked_child_makes_a_driver_of_its_own(self, remote: Asynchronous, monkeypatch) -> None:
        other = Asynchronous()
        other.objects["bucket/a"] = b"data"
        store = FsspecStore(remote, "bucket", "small://bucket", reopen=lambda: other)
        monkeypatch.setattr(store, "_process", -1)
        assert store.get("a") == b"data"
        assert store.get("a") == b"data"

    def test_an_answer_that_is_none_is_a_failure(self, store: FsspecStore, remote: Asynchronous, monkeypatch) -> None:
        async def nothing(*_: object, **__: object) -> None:
            return None

        monkeypatch.setattr(remote, "_cat_file", nothing)
        with pytest.raises(StorageFailed, match="answered with nothing"):
            store.get("a")


class TestProbing:
    """A bucket that is missing is no empty storage, whatever the driver makes of it."""

    @pytest.fixture
    def buckets(self) -> set[str]:
        return set()

    @pytest.fixture
    def store(self, remote: Asynchronous, buckets: set[str]) -> FsspecStore:
        async def probe(_: object, bucket: str, prefix: str) -> None:
            assert prefix == "path/"
            if bucket not in buckets:
                raise FileNotFoundError(bucket)

        async def make(_: object, bucket: str) -> None:
            buckets.add(bucket)

        return FsspecStore(remote, "bucket/path", "small://bucket/path", driver=Driver(probe=probe, make=make))

    def test_a_bucket_that_is_missing_is_named(self, store: FsspecStore) -> None:
        with pytest.raises(StorageFailed, match=r"the bucket bucket does not exist.*create: true") as caught:
            store.probe()
        assert caught.value.permanent
        assert caught.value.bucket_is_missing

    def test_it_is_made_where_that_is_asked_for(self, store: FsspecStore, buckets: set[str]) -> None:
        store.probe(create=True)
        store.probe()
        assert buckets == {"bucket"}

    def test_one_that_is_gone_is_no_missing_key(self, store: FsspecStore, remote: Asynchronous) -> None:
        gone = stores.BucketNotFound("the bucket is gone")
        remote.fail = {"bucket/path/a": gone, "bucket": gone}
        for action in (lambda: store.get("a"), lambda: store.get_many(["a"]), lambda: store.list("")):
            with pytest.raises(StorageFailed, match="the bucket is gone"):
                action()

    def test_a_key_is_listed_by_what_it_begins_with(self, store: FsspecStore, remote: Asynchronous) -> None:
        store.put("a/b", b"data")
        store.put("ab", b"data")
        assert [entry.key for entry in store.list("a/")] == ["a/b"]
        assert [entry.key for entry in store.list("")] == ["a/b", "ab"]


class TestWritingBeside:
    """A driver that shows half of a key while it is written gets another name to write to."""

    class Moving(Alone):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []
            self.refuses = False

        def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
            self.seen.append(path)
            super().pipe_file(path, value[: len(value) // 2] if self.refuses else value, **options)
            if self.refuses:
                raise ConnectionResetError("cut")

    @pytest.fixture
    def moving(self) -> Moving:
        return self.Moving()

    @pytest.fixture
    def store(self, moving: Moving) -> FsspecStore:
        driver = Driver(move=lambda fs, source, target: fs.mv(source, target), refuses="#", ignores_ranges=True)
        return FsspecStore(moving, "/root", "small://root", driver=driver)

    def test_it_is_moved_when_it_is_whole(self, store: FsspecStore, moving: Moving) -> None:
        store.put("a/key", b"data")
        assert store.get("a/key") == b"data"
        assert store.get("a/key", 1, 3) == b"at"
        assert store.get("a/key", 2) == b"ta"
        assert [path.rpartition("/")[0] for path in moving.seen] == ["/root/a"]
        assert "/root/a/key" not in moving.seen

    def test_what_is_not_whole_is_neither_seen_nor_left(self, store: FsspecStore, moving: Moving) -> None:
        store.put("key", b"before")
        moving.refuses = True
        with pytest.raises(StorageFailed, match="can't write key"):
            store.put("key", b"after")
        assert store.get("key") == b"before"
        assert list(moving.store) == ["/root/key"]

    def test_what_is_still_being_written_is_not_listed(self, store: FsspecStore, moving: Moving) -> None:
        store.put("key", b"data")
        moving.pipe_file(f"/root/.replicate-{'0' * 16}.tmp", b"half")
        assert [entry.key for entry in store.list("")] == ["key"]

    def test_names_that_it_would_take_for_something_else_are_refused(self, store: FsspecStore) -> None:
        with pytest.raises(InvalidInput, match="no name may have a '#'"):
            store.put("a#b", b"")

    def test_a_directory_is_no_key(self, store: FsspecStore, moving: Moving, monkeypatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError("Failure")

        store.put("a/key", b"data")
        monkeypatch.setattr(moving, "cat_file", fail)
        with pytest.raises(NotFound, match="a is not in"):
            store.get("a")
        with pytest.raises(StorageFailed, match="can't read a/key"):
            store.get("a/key")
        monkeypatch.setattr(moving, "info", fail)
        with pytest.raises(StorageFailed, match="can't read a in"):
            store.get("a")


class TestSynchronousDriver:
    def test_whatever_it_raises_has_one_name(self) -> None:
        class Refusing(Alone):
            def _refuse(self, *_: object, **__: object) -> None:
                raise RuntimeError("no")

            cat_file = pipe_file = find = rm_file = _refuse

        store = FsspecStore(Refusing(), "/root", "sftp://host/root")
        for action in (
            lambda: store.get("key"),
            lambda: store.get_many(["key"]),
            lambda: store.put("key", b""),
            lambda: store.list(""),
            lambda: store.delete(["key"]),
        ):
            with pytest.raises(StorageFailed, match="in sftp://host/root: no"):
                action()


class TestOpening:
    def test_a_path_is_a_local_directory(self, tmp_path: Path) -> None:
        for location in (
            "storage",
            "./storage",
            f"{tmp_path}/storage",
            f"file://{tmp_path}/storage",
            "local://storage",
        ):
            store = open_store(location, relative_to=tmp_path)
            assert local_root(location, relative_to=tmp_path) == tmp_path / "storage"
            assert store.url == str(tmp_path / "storage")

    def test_a_path_may_begin_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert local_root("~/storage", relative_to=HERE) == tmp_path / "storage"

    def test_a_path_may_have_a_colon(self, tmp_path: Path) -> None:
        assert local_root("runs:2026", relative_to=tmp_path) == tmp_path / "runs:2026"
        assert local_root("C:/runs", relative_to=tmp_path) == tmp_path / "C:/runs"

    def test_opening_makes_nothing(self, tmp_path: Path) -> None:
        open_store("storage", relative_to=tmp_path)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("location", ["s3//bucket/runs", "s3 ://bucket/runs", "S3//bucket/runs"])
    def test_a_url_without_its_colon_is_no_path(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"did you mean s3://bucket/runs \?"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize("location", ["", " ", " /tmp/runs"])
    def test_what_nobody_means_is_no_path(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="is neither a path nor a URL"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize("location", ["${RUNS}/here", "s3://bucket/${RUN}", "s3://${BUCKET}/run"])
    def test_references_are_for_options(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="has a reference to the environment in it, which only storage_options"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize(
        ("location", "problem"),
        [
            ("sftp:///path", "names no host: write sftp://HOST/PATH"),
            ("webdav://", "names no host: write webdav://HOST/PATH"),
            ("webdav://me:hunter22@host/path", r"has a login in it: give it as an option, auth: \[USER"),
            ("s3://bucket/a/../b", r"has '\.' or '\.\.' in its path"),
            ("sftp://host/what#", r"has '#' in its path"),
            ("webdav://host/50%", "has '%' in its path"),
        ],
    )
    def test_what_can_be_no_url_is_refused_before_anybody_is_asked(self, location: str, problem: str) -> None:
        with pytest.raises(InvalidInput, match=problem) as caught:
            open_store(location, relative_to=HERE)
        assert "hunter22" not in str(caught.value)

    def test_several_slashes_are_one(self) -> None:
        name = f"double-{os.urandom(8).hex()}"
        store = open_store(f"memory://{name}//runs///of/", relative_to=HERE)
        store.put("a/key", b"data")
        assert [entry.key for entry in store.list("")] == ["a/key"]
        assert store.names("a/") == ["key"]
        assert open_store(f"memory://{name}/runs/of", relative_to=HERE).get("a/key") == b"data"

    def test_what_a_driver_says_of_secrets_is_in_no_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = "hunter" + str(22)  # which no line of this test says

        def fails(*_: object, **__: object) -> None:
            raise TypeError(f"no such option, beside {secret}")

        monkeypatch.setattr("fsspec.core.url_to_fs", fails)
        with pytest.raises(InvalidInput) as caught:
            open_store("memory://x", relative_to=HERE, options={"secret": secret})
        assert secret not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(InvalidInput) as caught:
            open_store("memory://x", relative_to=HERE, options={"profile": "research"})
        assert isinstance(caught.value.__cause__, TypeError), "nothing is hidden that need not be"

    @pytest.mark.parametrize(
        ("location", "meant"),
        [
            ("s3:/bucket/key", "s3://bucket/key"),
            ("s3:bucket", "s3://bucket"),
            ("GS:/bucket", "gs://bucket"),
            ("memory:/here", "memory://here"),
            ("file:/tmp/storage", "file:///tmp/storage"),
        ],
    )
    def test_a_url_with_a_slash_missing_is_no_path(self, location: str, meant: str) -> None:
        with pytest.raises(InvalidInput, match="a slash missing: did you mean") as caught:
            open_store(location, relative_to=HERE)
        assert f"did you mean {meant} ?" in str(caught.value)

    @pytest.mark.parametrize(
        ("location", "hint"),
        [
            ("s33://bucket/x", "did you mean s3://bucket/x"),
            ("S3://bucket/x", "did you mean s3://bucket/x"),
            ("gcss://bucket", "did you mean gcs://bucket"),
            ("s4://bucket/x", "did you mean s3://bucket/x"),
            ("qqqqqqqq://bucket", "s3, gs, az, sftp, webdav and a local directory are known"),
        ],
    )
    def test_an_unknown_scheme_has_a_nearest_one(self, location: str, hint: str) -> None:
        with pytest.raises(InvalidInput, match="which nothing here can open") as caught:
            open_store(location, relative_to=HERE)
        assert hint in str(caught.value)

    def test_letters_of_windows_drives_are_no_schemes(self, tmp_path: Path) -> None:
        for location in ("C:\\runs\\storage", "c:/runs", "D:"):
            assert local_root(location, relative_to=tmp_path) == tmp_path / location
            assert scheme(location) == ""

    def test_the_kind_of_a_storage_is_its_scheme(self) -> None:
        assert [scheme(location) for location in ("s3://b", "memory://x", "runs", "/runs", "file:///x")] == [
            "s3", "memory", "", "", "file",
        ]  # fmt: skip

    @pytest.mark.parametrize("location", ["s3://", "gs:///path", "az://", "abfs:///x"])
    def test_a_url_without_a_bucket_is_refused(self, location: str) -> None:
        with pytest.raises(InvalidInput, match=r"names no bucket: write \w+://BUCKET/PATH"):
            open_store(location, relative_to=HERE)

    def test_an_option_may_refer_to_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigInvalid, match="NO_SUCH"):
            open_store("memory://x", relative_to=HERE, options={"a": "${NO_SUCH}"})

    def test_an_option_that_the_driver_does_not_know_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise TypeError("__init__() got an unexpected keyword argument 'profil', beside s3cret")

        monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
        with pytest.raises(InvalidInput, match=r"storage_options of memory://x can't be used: .*'profil'") as caught:
            open_store("memory://x", relative_to=HERE, options={"profil": "mine", "password": "s3cret"})
        assert "s3cret" not in str(caught.value)

    def test_a_driver_that_takes_too_long_to_begin_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stores, "HASTY_SECONDS", 0.05)
        monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: time.sleep(2))
        with pytest.raises(StorageFailed, match=r"can't open the storage in memory://x: no answer within"):
            open_store("memory://x", relative_to=HERE)

    def test_what_drivers_are_told_besides(self) -> None:
        s3 = told("s3", "bucket", {"config_kwargs": {"connect_timeout": 1}, "anon": True})
        assert s3["use_listings_cache"] is False
        assert (s3["anon"], s3["config_kwargs"]["connect_timeout"]) == (True, 1)
        assert s3["config_kwargs"]["retries"] == {"total_max_attempts": 1}
        assert told("webdav", "host:1", {"scheme": "http", "auth": ["me", "word"]}) == {
            "skip_instance_cache": True, "base_url": "http://host:1", "auth": ("me", "word"), "timeout": 30,
        }  # fmt: skip
        assert told("webdav", "host", {})["base_url"] == "https://host"
        assert told("sftp", "host", {})["known_hosts"] == ()
        assert told("sftp", "host", {"known_hosts": "file"})["known_hosts"] == "file"
        assert told("az", "box", {"read_timeout": 3})["read_timeout"] == 3
        assert told("ftp", "host", {"tls": True}) == {
            "skip_instance_cache": True, "use_listings_cache": False, "tls": True,
        }  # fmt: skip

    def test_a_chain_of_urls_is_no_path(self) -> None:
        with pytest.raises(InvalidInput, match="simplecache::s3://bucket"):
            open_store("simplecache::s3://bucket/x", relative_to=HERE)

    @pytest.mark.parametrize(
        ("location", "package", "extra"),
        [
            ("s3://bucket", "s3fs", "s3"),
            ("gs://bucket", "gcsfs", "gcs"),
            ("az://container", "adlfs", "azure"),
            ("abfs://container", "adlfs", "azure"),
        ],
    )
    def test_a_driver_that_is_missing_names_the_extra(self, location, package, extra, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, location.partition(":")[0], raising=False)  # imported by another test
        with pytest.raises(MissingExtra, match=rf'{location} needs .*: pip install {package} .*"replicate\[{extra}\]"'):
            open_store(location, relative_to=HERE)

    def test_a_missing_driver_without_an_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "libarchive", None)
        with pytest.raises(MissingExtra, match="install its driver"):
            open_store("libarchive://x", relative_to=HERE)

    def test_a_driver_that_cannot_connect_is_an_error_that_hides_the_password(self) -> None:
        with pytest.raises(
            StorageFailed, match=r"can't open the storage in ftp://127\.0\.0\.1:1/x: .*the port and the network"
        ) as caught:
            open_store("ftp://me:s3cret@127.0.0.1:1/x", relative_to=HERE)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("s3://key:s3cret@bucket/path", "s3://bucket/path"),
            ("sftp://me@host/path", "sftp://host/path"),
            ("sftp://me:s3@cret@host/path", "sftp://host/path"),
            ("az://container/path?sig=s3cret", "az://container/path"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("/plain/path", "/plain/path"),
        ],
    )
    def test_urls_are_shown_without_credentials(self, url: str, shown: str) -> None:
        assert without_credentials(url) == shown


@pytest.fixture(autouse=True)
def no_leftovers_in_memory() -> Iterator[None]:
    before = set(MemoryFileSystem.store)
    yield
    for key in set(MemoryFileSystem.store) - before:
        del MemoryFileSystem.store[key]


def test_memory_that_was_given_back_costs_no_byte(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "storage")
    (tmp_path / "model").write_bytes(bytes(range(256)) * 8192)
    store.put_file("data/model", tmp_path / "model")
    store.release_memory(["data/model", "data/missing"])
    assert store.get("data/model") == (tmp_path / "model").read_bytes()


def test_memory_is_kept_where_the_system_can_not_give_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    LocalStore(tmp_path).release_memory(["missing"])
