"""The contract of a `Store`, as a class that the tests of every storage inherit.

class TestMyStore(StoreSuite):
    @pytest.fixture
    def store(self): ...
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replicate_core.errors import NotFound
from replicate_core.storage.store import Entry, Store

HERE = Path("/nowhere")
"""The directory that relative paths would start from, and that none of these tests needs."""

LARGE = 3 * (1 << 20) + 7

NAMES = ["a b", "modèle 模型", "[0]", "what?", "star*", "x#y", "100%", "a+b", "a,b;c=d", "~", "{x}", ".hidden", "-"]
"""Names that some storage or other takes for something else than a name."""


def content(size: int) -> bytes:
    """Random but for its end: the emulator of Google Cloud takes a last carriage return for a part of its own."""
    return os.urandom(size)[:-1] + b"."[:size]


class StoreSuite:
    """What every store promises."""

    replaces_at_once = True
    """Whether a key that is being replaced is there at every moment. Only heartbeats are ever replaced."""

    @pytest.fixture
    def store(self) -> Store:
        """A fresh and empty store."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
    def test_what_is_put_is_got(self, store: Store, size: int) -> None:
        data = content(size)
        store.put("data/ab/object.bin", data)
        assert store.get("data/ab/object.bin") == data

    def test_a_key_that_exists_is_replaced(self, store: Store) -> None:
        store.put("heartbeats/x.json", b"the first, and longer one")
        store.put("heartbeats/x.json", b"second")
        assert store.get("heartbeats/x.json") == b"second"
        assert store.list("") == [Entry("heartbeats/x.json", 6)]

    @pytest.mark.parametrize("size", [0, 10, LARGE])
    def test_a_file_is_put_whole(self, store: Store, tmp_path: Path, size: int) -> None:
        data = content(size)
        (tmp_path / "staged").write_bytes(data)
        store.put_file("data/ab/object", tmp_path / "staged")
        assert store.get("data/ab/object") == data
        assert store.list("") == [Entry("data/ab/object", size)]

    @pytest.mark.parametrize(
        ("start", "end"), [(0, 4), (3, 7), (0, 10), (9, 10), (4, 4), (0, 99), (6, 99), (0, None), (6, None), (10, None)]
    )
    def test_a_range_is_the_bytes_from_start_up_to_end(self, store: Store, start: int, end: int | None) -> None:
        store.put("key", b"0123456789")
        assert store.get("key", start, end) == b"0123456789"[start:end]

    def test_a_missing_key_is_not_found_and_named(self, store: Store) -> None:
        store.put("there/key", b"")
        for missing in ("missing", "there/missing", "there", "there/key2", "a/b/c"):
            with pytest.raises(NotFound, match=missing):
                store.get(missing)
            with pytest.raises(NotFound, match=missing):
                store.get(missing, 0, 10)

    def test_many_keys_are_got_at_once_without_those_that_are_missing(self, store: Store) -> None:
        stored = {f"records/{number:03}.json": f"{number}".encode() for number in range(150)}
        for key, data in stored.items():
            store.put(key, data)
        assert store.get_many([*stored, "records/missing.json", "missing/x"]) == stored
        assert store.get_many(["missing"]) == {}
        assert store.get_many([]) == {}
        assert store.get_many(iter(["records/007.json"])) == {"records/007.json": b"7"}

    def test_a_listing_has_all_keys_below_a_prefix_in_order(self, store: Store) -> None:
        for key in ("b/2", "b/10", "a", "b/c/d/e", "B/1", "bb/1", "b.x/1", "é/1"):
            store.put(key, key.encode())
        everything = [
            Entry(key, len(key.encode())) for key in ("B/1", "a", "b.x/1", "b/10", "b/2", "b/c/d/e", "bb/1", "é/1")
        ]
        assert store.list("") == everything
        assert store.list("b/") == [entry for entry in everything if entry.key.startswith("b/")]
        assert store.list("b/c/") == [Entry("b/c/d/e", 7)]

    def test_a_listing_of_nothing_is_empty(self, store: Store) -> None:
        assert store.list("") == []
        store.put("key", b"data")
        assert store.list("missing/") == []
        assert store.list("missing/deeper/") == []
        assert store.list("key/") == []

    def test_a_listing_sees_at_once_what_changed(self, store: Store) -> None:
        store.put("a/1", b"")
        assert [entry.key for entry in store.list("a/")] == ["a/1"]
        store.put("a/2", b"")
        assert [entry.key for entry in store.list("a/")] == ["a/1", "a/2"]
        store.delete(["a/1"])
        assert [entry.key for entry in store.list("a/")] == ["a/2"]

    def test_deleted_keys_are_gone_and_missing_ones_are_fine(self, store: Store) -> None:
        for key in ("a/1", "a/2", "b/1"):
            store.put(key, b"data")
        store.delete(["a/1", "a/missing", "missing", "b/1"])
        store.delete(["a/1"])
        store.delete([])
        assert store.list("") == [Entry("a/2", 4)]
        assert store.get_many(["a/1", "a/2"]) == {"a/2": b"data"}
        with pytest.raises(NotFound, match="b/1"):
            store.get("b/1")

    @pytest.mark.parametrize("name", NAMES)
    def test_a_name_is_taken_as_it_is(self, store: Store, name: str) -> None:
        key = f"data/{name}/{name}.bin"
        store.put(key, b"data")
        store.put("data/0/0.bin", b"what a glob would find")
        assert store.get(key) == b"data"
        assert store.get_many([key]) == {key: b"data"}
        assert store.list(f"data/{name}/") == [Entry(key, 4)]
        assert Entry(key, 4) in store.list("")
        store.delete([key])
        assert [entry.key for entry in store.list("")] == ["data/0/0.bin"]

    def test_names_are_those_directly_below(self, store: Store) -> None:
        for key in ("records/2/b.json", "records/1/a.json", "records/1/deep/c.json", "records/loose.json", "other"):
            store.put(key, b"data")
        assert store.names("records/") == ["1/", "2/", "loose.json"]
        assert store.names("records/1/") == ["a.json", "deep/"]
        assert store.names("") == ["other", "records/"]
        assert store.names("nothing/") == []

    def test_many_threads_may_use_it_at_once(self, store: Store) -> None:
        def round_trip(number: int) -> bytes:
            store.put(f"records/{number % 7}/{number}.json", bytes([number]))
            return store.get(f"records/{number % 7}/{number}.json")

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(round_trip, range(200))) == [bytes([number]) for number in range(200)]
        assert len(store.list("records/")) == 200

    def test_readers_see_a_key_that_is_being_replaced_whole(self, store: Store) -> None:
        store.put("key", bytes(LARGE))
        over = threading.Event()

        def replace() -> None:
            number = 0
            while not over.is_set():
                number = (number + 1) % 256
                store.put("key", bytes([number]) * LARGE)

        writer = threading.Thread(target=replace)
        writer.start()
        try:
            for _ in range(20):
                try:
                    data = store.get("key")
                except NotFound:
                    assert not self.replaces_at_once
                else:
                    assert data.count(data[:1]) == LARGE
        finally:
            over.set()
            writer.join()

    def test_listings_are_never_disturbed_by_writers(self, store: Store) -> None:
        for number in range(50):
            store.put(f"records/kept-{number:02}", b"kept")
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                store.put("records/new", b"new")
                store.delete(["records/new"])

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(50):
                found = [entry.key for entry in store.list("records/")]
                assert [key for key in found if "kept" in key] == [f"records/kept-{number:02}" for number in range(50)]
                assert {key for key in found if "kept" not in key} <= {"records/new"}
        finally:
            over.set()
            for writer in writers:
                writer.join()
