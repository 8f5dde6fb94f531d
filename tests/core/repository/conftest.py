"""What tests of pruning share."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import Site
from stores import MemoryStore


@pytest.fixture
def shelf() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def site(shelf: MemoryStore, tmp_path: Path) -> Site:
    return Site(shelf, tmp_path)
