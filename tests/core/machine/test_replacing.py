"""A file that takes the place of another one, and what of the work is done before and after."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from kit import until

from replicate_core.adapters import put_in_place, written_ahead
from replicate_core.machine import replacing

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is written ahead")


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "LARGE_BYTES", 1)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """What a file takes the place of."""
    (tmp_path / "old").write_bytes(b"old")
    return tmp_path / "old"


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


class TestWrittenAhead:
    @linux
    def test_what_there_is_goes_to_the_disk_while_it_is_written(self, tmp_path: Path, old: Path, monkeypatch) -> None:
        path, synced = tmp_path / "model", []
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
        with written_ahead(path, old), path.open("wb") as file:
            file.write(b"first")
            file.flush()
            until(lambda: 5 in synced)
            file.write(b" and second")
            file.flush()
            until(lambda: 16 in synced)
        assert path.read_bytes() == b"first and second"

    @linux
    def test_what_is_no_file_is_left_alone(self, tmp_path: Path, old: Path, monkeypatch) -> None:
        """It is looked at again and again: a first look that failed would have ended the thread."""
        looked, synced = [], []
        monkeypatch.setattr(replacing, "_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(os, "fdatasync", synced.append)
        plain = replacing.open_above

        def look(path: Path, flags: int) -> int:
            looked.append(path)
            return plain(path, flags)

        monkeypatch.setattr(replacing, "open_above", look)
        for path in (tmp_path, tmp_path / "not written"):
            with written_ahead(path, old):
                until(lambda path=path: looked.count(path) > 1)
        assert synced == []

    def test_its_thread_ends_and_an_error_passes(self, tmp_path: Path, old: Path) -> None:
        before = threads()
        with pytest.raises(RuntimeError, match="no model"), written_ahead(tmp_path / "model", old):
            raise RuntimeError("no model")
        until(lambda: threads() <= before)

    def test_without_threads_it_is_written_all_the_same(self, tmp_path: Path, old: Path, monkeypatch) -> None:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with written_ahead(tmp_path / "model", old):
            (tmp_path / "model").write_bytes(b"new")
        put_in_place(tmp_path / "model", old)
        assert old.read_bytes() == b"new"

    @pytest.mark.parametrize("name", ["old", "no such file", "."])
    def test_what_is_small_or_no_file_takes_no_thread(self, tmp_path: Path, old: Path, monkeypatch, name: str) -> None:
        monkeypatch.setattr(replacing, "LARGE_BYTES", 4)
        monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread"))
        with written_ahead(tmp_path / "model", tmp_path / name):
            (tmp_path / "model").write_bytes(b"new")
        put_in_place(tmp_path / "model", tmp_path / "model2")
        put_in_place(tmp_path / "model2", old)
        assert old.read_bytes() == b"new"


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class TestPutInPlace:
    def test_takes_the_place_of_what_was_there_and_lets_that_go(self, tmp_path: Path) -> None:
        before = set(os.listdir("/dev/fd"))
        for text in ("first", "second", "third"):
            (tmp_path / "new").write_text(text)
            put_in_place(tmp_path / "new", tmp_path / "model")
            assert (tmp_path / "model").read_text() == text
        assert os.listdir(tmp_path) == ["model"]
        until(lambda: len(set(os.listdir("/dev/fd"))) <= len(before))

    def test_a_link_is_replaced_and_what_it_names_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("kept")
        (tmp_path / "model").symlink_to("kept")
        (tmp_path / "new").write_text("new")
        put_in_place(tmp_path / "new", tmp_path / "model")
        assert (tmp_path / "model").read_text() == "new"
        assert (tmp_path / "kept").read_text() == "kept"

    def test_what_can_not_be_done_is_an_error_and_nothing_is_lost(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "new").write_text("new")
        with pytest.raises(IsADirectoryError):
            put_in_place(tmp_path / "new", tmp_path / "model")
        assert (tmp_path / "new").read_text() == "new"
