"""Opening files above the standard streams: what other code prints never lands in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate_core.machine import descriptors
from replicate_core.machine.descriptors import Anchor

PROGRAM = """
import os, sys
from replicate_core.machine.descriptors import STANDARD, open_above, opener
for number in {closed}:
    os.close(number)
with open(sys.argv[1], "rb", opener=opener) as file:
    opened = [file.fileno(), open_above(sys.argv[1], os.O_RDONLY)]
os.fstat(0), os.fstat(1), os.fstat(2)
sys.exit(9 if set(opened) & set(STANDARD) else 0)
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=repr)
def test_whichever_standard_stream_is_closed_no_file_takes_its_place(tmp_path: Path, closed: tuple[int, ...]) -> None:
    path = tmp_path / "file"
    path.touch()
    program = [sys.executable, "-c", PROGRAM.format(closed=closed), path]
    assert subprocess.run(program, cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_where_none_is_closed_nothing_is_opened_but_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    plain = os.open
    monkeypatch.setattr(os, "open", lambda path, *more: opened.append(path) or plain(path, *more))
    os.close(descriptors.open_above(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    assert opened == [tmp_path / "file"]


class TestAnAnchor:
    @pytest.fixture
    def anchor(self, tmp_path: Path) -> Iterator[Anchor]:
        (tmp_path / "project").mkdir()
        anchor = Anchor(tmp_path / "project")
        yield anchor
        anchor.close()

    def test_finds_its_directory_where_it_was_moved(self, anchor: Anchor, tmp_path: Path) -> None:
        assert not anchor.follow()
        (tmp_path / "project").rename(tmp_path / "other")
        assert anchor.follow()
        assert anchor.path == tmp_path / "other"
        assert not anchor.follow()

    def test_follows_a_directory_above(self, tmp_path: Path) -> None:
        (tmp_path / "project" / "spool").mkdir(parents=True)
        anchor = Anchor(tmp_path / "project" / "spool")
        (tmp_path / "project").rename(tmp_path / "other")
        assert anchor.follow()
        assert anchor.path == tmp_path / "other" / "spool"
        anchor.close()

    def test_is_not_taken_in_by_what_took_its_place(self, anchor: Anchor, tmp_path: Path) -> None:
        (tmp_path / "project").rename(tmp_path / "other")
        (tmp_path / "project").mkdir()
        assert anchor.follow()
        assert anchor.path == tmp_path / "other"

    def test_finds_nothing_where_it_was_deleted(self, anchor: Anchor, tmp_path: Path) -> None:
        (tmp_path / "project").rmdir()
        assert not anchor.follow()
        (tmp_path / "project").mkdir()
        assert not anchor.follow()
        assert anchor.path == tmp_path / "project"

    def test_finds_nothing_where_the_system_does_not_tell(
        self, anchor: Anchor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(path: str) -> str:
            raise FileNotFoundError(path)

        monkeypatch.setattr(descriptors, "_GET_PATH", None)
        monkeypatch.setattr(os, "readlink", unknown)
        (tmp_path / "project").rename(tmp_path / "other")
        assert not anchor.follow()

    def test_is_needed_where_something_is(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Anchor(tmp_path / "nothing")
