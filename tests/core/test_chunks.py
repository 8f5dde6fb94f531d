from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicate_core.chunks import GRID_BYTES, GRID_BYTES_MAX, LARGE_FILE_BYTES, cut, grid_bytes
from replicate_core.manifest import PART_BYTES_MAX

SIZES = st.integers(0, 4 * GRID_BYTES) | st.integers(0, 64 << 30)


@settings(max_examples=60)
@given(SIZES)
@example(0)
@example(GRID_BYTES)
@example(LARGE_FILE_BYTES)
@example(LARGE_FILE_BYTES + 1)
def test_the_chunks_of_a_file_cover_it_exactly_and_in_order(size):
    end = 0
    for offset, length in cut(size):
        assert offset == end
        assert length > 0
        end = offset + length
    assert end == size


@settings(max_examples=60)
@given(SIZES)
def test_every_cut_lies_on_the_grid(size):
    assert all(offset % grid_bytes(size) == 0 for offset, _ in cut(size))
    assert all(length <= grid_bytes(size) for _, length in cut(size))


def test_an_empty_file_has_no_chunks():
    assert list(cut(0)) == []


@given(st.integers(0, LARGE_FILE_BYTES), st.integers(0, LARGE_FILE_BYTES))
def test_a_file_that_grew_is_cut_where_it_was_cut_before(size, grown):
    assert grid_bytes(size) == grid_bytes(grown) == GRID_BYTES


@pytest.mark.parametrize(
    ("size", "width"),
    [
        (0, GRID_BYTES),
        (LARGE_FILE_BYTES, GRID_BYTES),
        (LARGE_FILE_BYTES + 1, 2 * GRID_BYTES),
        (2 * LARGE_FILE_BYTES, 2 * GRID_BYTES),
        (2 * LARGE_FILE_BYTES + 1, 4 * GRID_BYTES),
        (1 << 53, GRID_BYTES_MAX),
    ],
)
def test_the_grid_doubles_with_every_doubling_of_a_large_file(size, width):
    assert grid_bytes(size) == width


@given(st.integers(0, 1 << 53), st.integers(0, 1 << 53))
def test_the_grid_of_a_larger_file_is_never_finer(one, other):
    smaller, larger = sorted([one, other])
    assert grid_bytes(smaller) <= grid_bytes(larger) <= GRID_BYTES_MAX


def test_readers_take_the_longest_chunk_that_writers_cut():
    assert GRID_BYTES_MAX <= PART_BYTES_MAX
