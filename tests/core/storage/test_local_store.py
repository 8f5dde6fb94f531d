"""The byte seam on local disk, and what goes wrong there."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_suite import StoreSuite

from replicate_core.errors import NotFound, StorageFailed
from replicate_core.storage.local import LocalStore
from replicate_core.storage.store import Entry, Store

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
            with pytest.raises(StorageFailed, match=r"can't write a/b in .*/file/storage: .*There is a file where"):
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


def test_memory_that_was_given_back_costs_no_byte(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "storage")
    (tmp_path / "model").write_bytes(bytes(range(256)) * 8192)
    store.put_file("data/model", tmp_path / "model")
    store.release_memory(["data/model", "data/missing"])
    assert store.get("data/model") == (tmp_path / "model").read_bytes()


def test_memory_is_kept_where_the_system_can_not_give_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    LocalStore(tmp_path).release_memory(["missing"])
