"""What tests of the byte seam share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem


@pytest.fixture(autouse=True)
def no_leftovers_in_memory() -> Iterator[None]:
    before = set(MemoryFileSystem.store)
    yield
    for key in set(MemoryFileSystem.store) - before:
        del MemoryFileSystem.store[key]
