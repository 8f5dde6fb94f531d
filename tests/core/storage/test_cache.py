"""Documents are fetched once and then come from a local file, which may be gone or broken at any time."""

from __future__ import annotations

import os
import pwd
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import fsspec
import pytest

import replicate_core as replicate
from replicate_core.errors import Corrupted, NotFound
from replicate_core.format.records import Created
from replicate_core.format.sealed import seal, seal_under
from replicate_core.repository.repository import Repository
from replicate_core.storage import cache
from replicate_core.storage.cache import CachedStore, cache_directory, cached
from replicate_core.storage.fsspec_store import FsspecStore
from replicate_core.storage.local import LocalStore
from replicate_core.storage.opening import open_store
from replicate_core.storage.store import Store

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
RECORD, MANIFEST, OTHER = "records/20261123/a.json", "manifests/b.json", "data/00/c.tar"
ONE, TWO = seal({"number": 1}), seal({"number": 2})


class Remote(FsspecStore):
    """A storage that is not on this disk (it only looks so), and remembers what is read."""

    def __init__(self, directory: Path) -> None:
        super().__init__(fsspec.filesystem("file"), str(directory), "test://remote")
        self.asked: list[str] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.asked.append(key)
        return super().get(key, start, end)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        names = list(keys)
        found = super().get_many(names)  # asks `get` for each
        assert self.asked[len(self.asked) - len(names) :] == names
        return found


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    store = Remote(tmp_path / "remote")
    for key, data in {RECORD: ONE, MANIFEST: TWO, OTHER: b"bytes"}.items():
        store.put(key, data)
    return store


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(remote: Remote, directory: Path) -> Store:
    return cached(remote, directory=directory)


def file_of(directory: Path) -> Path:
    (file,) = directory.glob("*.sqlite")
    return file


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for locks."""
    connect = sqlite3.connect
    monkeypatch.setattr(cache.sqlite3, "connect", lambda path, timeout=0: connect(path, timeout=0.05))


class TestDocuments:
    def test_are_fetched_once(self, store: Store, remote: Remote) -> None:
        for _ in range(3):
            assert store.get(RECORD) == ONE
        assert remote.asked == [RECORD]

    def test_are_there_though_the_storage_has_lost_them(self, store: Store, remote: Remote, directory: Path) -> None:
        assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}
        remote.delete([RECORD, MANIFEST])
        later = cached(remote, directory=directory)
        assert later.get(RECORD) == ONE
        assert later.get_many([MANIFEST, RECORD]) == {RECORD: ONE, MANIFEST: TWO}

    def test_of_which_some_are_known_are_fetched_for_the_rest(self, store: Store, remote: Remote) -> None:
        store.get(RECORD)
        remote.asked.clear()
        assert store.get_many([RECORD, MANIFEST, "records/gone.json"]) == {RECORD: ONE, MANIFEST: TWO}
        assert remote.asked == [MANIFEST, "records/gone.json"]

    def test_that_are_missing_are_asked_for_every_time(self, store: Store, remote: Remote) -> None:
        with pytest.raises(NotFound):
            store.get("records/later.json")
        assert store.get_many(["records/later.json"]) == {}
        remote.put("records/later.json", ONE)
        assert store.get("records/later.json") == ONE
        assert store.get_many([]) == {}

    def test_are_no_other_keys(self, store: Store, remote: Remote, directory: Path) -> None:
        for key in (OTHER, "replicate.json", "heartbeats/e.json", "prune/t.json", "segments/s.jsonl"):
            remote.put(key, b"first")
            assert store.get(key) == b"first"
            assert store.get_many([key]) == {key: b"first"}
            remote.put(key, b"then")
            assert store.get(key) == b"then"
            assert store.get_many([key]) == {key: b"then"}
        assert not directory.exists()

    def test_are_whole_or_read_from_the_storage(self, store: Store, remote: Remote, directory: Path) -> None:
        assert store.get(RECORD, 1, 4) == ONE[1:4]
        assert store.get(RECORD, 3) == ONE[3:]
        assert not directory.exists()

    def test_of_one_storage_are_not_those_of_another(self, store: Store, tmp_path: Path, directory: Path) -> None:
        store.get(RECORD)
        other = Remote(tmp_path / "other")
        other.url = "test://other"
        with pytest.raises(NotFound):
            cached(other, directory=directory).get(RECORD)

    def test_everything_else_goes_to_the_storage(self, store: Store, remote: Remote, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"12345")
        store.put("records/x.json", ONE)
        store.put_file("data/00/x", tmp_path / "file")
        assert remote.get("records/x.json") == ONE
        assert store.sizes(["data/00/x", "gone"]) == {"data/00/x": 5}
        assert [entry.key for entry in store.list("data/")] == [OTHER, "data/00/x"]
        store.delete(["data/00/x"])
        assert store.list("data/") == remote.list("data/") == [entry for entry in remote.list("") if entry.key == OTHER]
        assert store.url == remote.url


class TestABrokenCache:
    @pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
    def test_is_made_anew(self, store: Store, remote: Remote, directory: Path, content: bytes) -> None:
        store.get(RECORD)
        file_of(directory).write_bytes(content)
        assert store.get(RECORD) == ONE
        assert store.get(MANIFEST) == TWO
        remote.asked.clear()
        assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}
        assert len(remote.asked) <= 1

    def test_that_is_cut_short_anywhere_never_hurts(self, store: Store, remote: Remote, directory: Path) -> None:
        store.get_many([RECORD, MANIFEST])
        whole = file_of(directory).read_bytes()
        for length in range(0, len(whole), 509):
            file_of(directory).write_bytes(whole[:length])
            for suffix in ("-wal", "-shm"):
                Path(f"{file_of(directory)}{suffix}").unlink(missing_ok=True)
            assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}
            assert store.get(RECORD) == ONE

    def test_of_which_any_byte_is_flipped_never_hurts(self, tmp_path: Path, directory: Path) -> None:
        remote = Remote(tmp_path / "remote")
        moment = Created("e" * 32, NOW)
        key = Repository(remote).append(moment)
        Repository(cached(remote, directory=directory)).read_records()
        file = file_of(directory)
        whole = file.read_bytes()
        used = [at for at, byte in enumerate(whole) if byte]
        assert key.encode() in whole
        for at in used[:: max(1, len(used) // 300)]:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            for suffix in ("-wal", "-shm"):
                Path(f"{file}{suffix}").unlink(missing_ok=True)
            wrong: list[Corrupted] = []
            repository = Repository(cached(remote, directory=directory))
            repository.store.get(key)  # made good at the latest here
            found = [record for record in repository.read_records(wrong.append) if record == moment]
            assert found == [moment], (at, [str(error) for error in wrong])

    def test_with_another_table_inside_is_made_anew(self, store: Store, directory: Path) -> None:
        store.get(RECORD)
        with closing(sqlite3.connect(file_of(directory))) as database, database:
            database.execute("DROP TABLE documents")
            database.execute("CREATE TABLE documents (name TEXT)")
        assert store.get(RECORD) == ONE
        assert store.get(RECORD) == ONE

    def test_a_value_of_another_type_is_no_document(self, store: Store, directory: Path) -> None:
        store.get(RECORD)
        with closing(sqlite3.connect(file_of(directory))) as database, database:
            database.execute("UPDATE documents SET data = 7")
        assert store.get(RECORD) == ONE
        assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}

    def test_a_document_that_was_changed_in_it_is_fetched_again(
        self, store: Store, remote: Remote, directory: Path
    ) -> None:
        store.get_many([RECORD, MANIFEST])
        with closing(sqlite3.connect(file_of(directory))) as database, database:
            database.execute("UPDATE documents SET data = ?", (ONE.replace(b'"number":1', b'"number":7'),))
        assert store.get(RECORD) == ONE, "the storage has it right"
        assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}
        remote.asked.clear()
        assert store.get(RECORD) == ONE
        assert remote.asked == [], "the cache was mended"

    def test_what_belongs_under_another_key_is_not_kept_nor_believed(self, store, remote, directory: Path) -> None:
        right, other = seal_under(RECORD, {"number": 1}), seal_under(MANIFEST, {"number": 2})
        remote.put(RECORD, other)
        assert store.get(RECORD) == other
        remote.put(RECORD, right)  # somebody has mended it
        assert store.get(RECORD) == right
        remote.asked.clear()
        assert cached(remote, directory=directory).get(RECORD) == right
        assert remote.asked == []

    def test_what_is_damaged_in_the_storage_is_not_kept(self, store: Store, remote: Remote) -> None:
        for damaged in (ONE[:-5], ONE.replace(b"1}", b"3}"), b""):
            remote.put(RECORD, damaged)
            assert store.get(RECORD) == damaged
            assert store.get_many([RECORD, MANIFEST])[RECORD] == damaged
        remote.put(RECORD, ONE)  # restored from a copy
        assert store.get(RECORD) == ONE
        assert store.get_many([RECORD, MANIFEST])[RECORD] == ONE

    def test_that_another_process_has_locked_is_waited_for_or_done_without(
        self, store: Store, remote: Remote, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.get(RECORD)
        file = file_of(directory)
        identity = file.stat().st_ino
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            impatient(monkeypatch)
            assert store.get(RECORD) == ONE
            assert store.get(MANIFEST) == TWO
            assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}
            assert file.exists(), "it is in use, not broken"
            assert file.stat().st_ino == identity
            other.execute("COMMIT")
        assert store.get(RECORD) == ONE

    def test_leaves_no_log_of_the_old_file_beside_the_new_one(self, store: Store, directory: Path) -> None:
        store.get(RECORD)
        file = file_of(directory)
        file.write_bytes(b"no database")
        Path(f"{file}-wal").write_bytes(b"the log of another file")
        store._discard(sqlite3.DatabaseError("file is not a database"))
        assert list(directory.iterdir()) == []

    def test_a_cache_directory_that_is_a_file_is_done_without(self, remote: Remote, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for directory in (tmp_path / "file", tmp_path / "file" / "below"):
            store = cached(remote, directory=directory)
            assert store.get(RECORD) == ONE
            assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}

    def test_a_directory_in_the_place_of_the_file_is_done_without(self, remote: Remote, directory: Path) -> None:
        store = cached(remote, directory=directory)
        store._path.mkdir(parents=True)
        assert store.get(RECORD) == ONE
        assert store.get(RECORD) == ONE

    @pytest.mark.parametrize("mode", [0o000, 0o444, 0o555])
    def test_that_may_not_be_written_or_entered_is_done_without(self, open_directory, as_nobody, mode: int) -> None:
        remote = Remote(open_directory / "remote")
        remote.put(RECORD, ONE)
        directory = open_directory / "cache"
        directory.mkdir()
        directory.chmod(mode)
        with as_nobody():
            store = cached(remote, directory=directory)
            assert store.get(RECORD) == ONE
            assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE}

    @pytest.mark.parametrize("mode", [0o000, 0o444])
    def test_whose_file_may_not_be_written_is_done_without(self, open_directory, as_nobody, mode: int) -> None:
        remote = Remote(open_directory / "remote")
        remote.put(RECORD, ONE)
        remote.put(MANIFEST, TWO)
        directory = open_directory / "cache"
        store = cached(remote, directory=directory)
        store.get(RECORD)
        file_of(directory).chmod(mode)
        directory.chmod(0o555)
        with as_nobody():
            assert store.get(RECORD) == ONE
            assert store.get(MANIFEST) == TWO
            assert store.get_many([RECORD, MANIFEST]) == {RECORD: ONE, MANIFEST: TWO}


class TestWhatIsCached:
    def test_a_local_directory_is_not(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path)
        assert cached(store) is store

    def test_memory_is_not(self, tmp_path: Path) -> None:
        store = open_store("memory://not-cached", relative_to=tmp_path)
        assert cached(store) is store

    def test_everything_else_is(self, remote: Remote, directory: Path) -> None:
        assert isinstance(cached(remote, directory=directory), CachedStore)

    def test_a_project_lists_from_the_cache_and_verifies_without(
        self, project: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REPLICATE_CACHE", str(directory))
        monkeypatch.setattr("replicate_core.workspace.open_store", lambda *_, **__: Remote(tmp_path / "there"))
        (project / "train.py").write_text("print()")
        experiment = replicate.init({"lr": 0.1})
        assert [item.id for item in replicate.experiments.list()] == [experiment.id]
        replicate.experiments.get(experiment.id).checkout("out")
        for manifest in (tmp_path / "there/manifests").iterdir():
            manifest.unlink()
        replicate.experiments.get(experiment.id).checkout("again")
        (damage,) = replicate.Project().verify().damages
        assert damage.experiment == experiment.id


class TestWhere:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.delenv("REPLICATE_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_by_default_in_the_home_directory(self, tmp_path: Path) -> None:
        assert cache_directory() == tmp_path / ".cache/replicate"

    def test_xdg_cache_home_is_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert cache_directory() == Path("/somewhere/replicate")

    def test_replicate_cache_comes_first(self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "mine"))
        assert cache_directory() == tmp_path / "mine"
        cached(remote).get(RECORD)
        assert file_of(tmp_path / "mine").is_file()

    def test_an_empty_one_says_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("REPLICATE_CACHE", "")
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        assert cache_directory() == tmp_path / ".cache/replicate"

    def test_other_systems_have_their_own(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        assert cache_directory() == tmp_path / "Library/Caches/replicate"
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setenv("LOCALAPPDATA", "/local")
        assert cache_directory() == Path("/local/replicate/cache")
        monkeypatch.delenv("LOCALAPPDATA")
        assert cache_directory() == tmp_path / "replicate/cache"

    def test_a_user_without_a_home_does_without(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        def unknown(_: object) -> None:
            raise KeyError("no such user")

        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)  # a container that runs under any number
        store = cached(remote)
        assert store.get(RECORD) == ONE
        assert store.get(RECORD) == ONE


READER = """
import sys
sys.path[:0] = {path!r}
import fsspec
from pathlib import Path
from replicate_core.storage.cache import cached
from replicate_core.storage.fsspec_store import FsspecStore
store = cached(FsspecStore(fsspec.filesystem("file"), {remote!r}, "test://remote"), directory=Path({directory!r}))
keys = [f"records/{{number}}.json" for number in range(200)]
for key in keys[::7]:
    store.get(key)
assert len(store.get_many(keys)) == 200
print("done")
"""


def test_two_processes_at_once_do_not_hurt_each_other(remote: Remote, directory: Path, tmp_path: Path) -> None:
    for number in range(200):
        remote.put(f"records/{number}.json", seal({"number": number}))
    script = READER.format(path=sys.path, remote=str(tmp_path / "remote"), directory=str(directory))
    readers = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [reader.communicate(timeout=60) for reader in readers] == [("done\n", "")] * 3
    remote.delete([f"records/{number}.json" for number in range(200)])
    store = cached(remote, directory=directory)
    assert store.get_many(f"records/{number}.json" for number in range(200)) == {
        f"records/{number}.json": seal({"number": number}) for number in range(200)
    }
    assert os.listdir(directory) == [file_of(directory).name]
