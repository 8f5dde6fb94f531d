from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicate_core.format import chunks
from replicate_core.format.chunks import GRID_BYTES, GRID_BYTES_MAX, LARGE_FILE_BYTES, MEMBER_BYTES, cut, grid_bytes
from replicate_core.format.manifest import PART_BYTES_MAX

SIZES = st.integers(0, 4 * GRID_BYTES) | st.integers(0, 64 << 30)


def zeros(_: int, length: int) -> bytes:
    """A file of nothing but zeros, however large: it is no container."""
    return bytes(length)


def assert_covers(found, size):
    end = 0
    for offset, length in found:
        assert offset == end
        assert length > 0
        end = offset + length
    assert end == size


def cut_around(members, size):
    """Cut a file of which these are the members."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "members", lambda *_, **__: members)
        return list(cut(zeros, size))


@settings(max_examples=60)
@given(SIZES)
@example(0)
@example(GRID_BYTES)
@example(LARGE_FILE_BYTES)
@example(LARGE_FILE_BYTES + 1)
def test_the_chunks_of_a_file_cover_it_exactly_and_in_order(size):
    assert_covers(cut(zeros, size), size)


@settings(max_examples=60)
@given(SIZES)
def test_every_cut_of_a_file_without_members_lies_on_the_grid(size):
    assert all(offset % grid_bytes(size) == 0 for offset, _ in cut(zeros, size))
    assert all(length <= grid_bytes(size) for _, length in cut(zeros, size))


def test_an_empty_file_has_no_chunks():
    assert list(cut(zeros, 0)) == []


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MEMBER_BYTES", 8)
        patch.setattr(chunks, "GRID_BYTES", 16)
        found = list(cut(lambda offset, length: data[offset : offset + length], len(data)))
    assert_covers(found, len(data))
    assert all(length <= 16 for _, length in found)


def test_a_file_too_small_to_have_a_large_member_is_not_even_read():
    def unread(offset, length):
        raise AssertionError("it was read")

    assert list(cut(unread, MEMBER_BYTES)) == [(0, MEMBER_BYTES)]


# Members.


def test_the_grid_starts_anew_at_both_ends_of_a_member():
    start, end, size = 100, 100 + GRID_BYTES + 7, 3 * GRID_BYTES
    assert cut_around([(start, end)], size) == [
        (0, start), (start, GRID_BYTES), (start + GRID_BYTES, 7),
        (end, GRID_BYTES), (end + GRID_BYTES, size - end - GRID_BYTES),
    ]  # fmt: skip


def test_members_that_touch_each_other_and_the_ends_leave_no_empty_chunk():
    size = 2 * MEMBER_BYTES
    assert cut_around([(MEMBER_BYTES, size), (0, MEMBER_BYTES)], size) == [(0, size // 2), (size // 2, size // 2)]


def test_of_members_that_overlap_the_first_counts():
    size = 4 * MEMBER_BYTES
    members = [(10, 3 * MEMBER_BYTES), (20, MEMBER_BYTES + 20), (2 * MEMBER_BYTES, size), (10, size)]
    assert cut_around(members, size) == [(0, 10), (10, 3 * MEMBER_BYTES - 10), (3 * MEMBER_BYTES, MEMBER_BYTES)]


def test_a_member_that_ends_beyond_the_file_does_not_count():
    size = 2 * MEMBER_BYTES
    assert cut_around([(0, size + 1), (size, 9 * size), (10, size)], size) == [(0, 10), (10, size - 10)]


@given(
    st.integers(MEMBER_BYTES + 1, 3 * GRID_BYTES),
    st.lists(st.tuples(st.integers(0, 4 * GRID_BYTES), st.integers(0, 1 << 64)).map(sorted).map(tuple), max_size=6),
)
def test_whatever_members_are_found_the_chunks_cover_the_file(size, members):
    assert_covers(cut_around(members, size), size)


@settings(max_examples=40)
@given(
    st.lists(st.integers(MEMBER_BYTES, 2 * GRID_BYTES), min_size=1, max_size=4), st.integers(0, 99), st.integers(0, 99)
)
def test_a_member_is_cut_in_the_same_way_wherever_it_stands(lengths, before, after):
    def cuts(gap):
        starts = [gap * (number + 1) + sum(lengths[:number]) for number in range(len(lengths))]
        members = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        found = cut_around(members, members[-1][1] + gap)
        return [
            [(offset - start, length) for offset, length in found if start <= offset < end] for start, end in members
        ]

    assert cuts(before) == cuts(after)


# The width of the grid.


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
