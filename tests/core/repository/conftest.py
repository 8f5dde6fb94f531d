"""What tests of pruning share."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import Shelf, Site


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def site(shelf: Shelf, tmp_path: Path) -> Site:
    return Site(shelf, tmp_path)
