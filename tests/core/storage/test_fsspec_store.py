"""The byte seam in memory and through drivers, asynchronous and not; and what goes wrong there."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from store_suite import HERE, StoreSuite

from replicate_core.errors import InvalidInput, NotFound, StorageFailed
from replicate_core.storage import fsspec_store as stores
from replicate_core.storage.drivers import Driver
from replicate_core.storage.fsspec_store import FsspecStore
from replicate_core.storage.opening import local_root, open_store
from replicate_core.storage.store import Entry, Store


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
        with pytest.raises(StorageFailed, match="returned nothing"):
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
        with pytest.raises(InvalidInput, match="names there can't contain '#'"):
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
