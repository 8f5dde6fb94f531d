from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.errors import InvalidInput
from replicate_core.format.ids import (
    ID_BYTES,
    SHORT_LENGTH,
    ULID_BYTES,
    is_id,
    random_id,
    short,
    ulid,
    ulid_after,
    ulid_number,
)

MILLISECONDS = st.integers(0, (1 << 48) - 1)
ID_RANDOMNESS = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)
ULID_RANDOMNESS = st.binary(min_size=ULID_BYTES, max_size=ULID_BYTES)
ULIDS = st.builds(ulid, MILLISECONDS, ULID_RANDOMNESS)
LARGEST = ulid((1 << 48) - 1, b"\xff" * ULID_BYTES)


@given(ID_RANDOMNESS)
def test_a_random_id_is_an_id_that_holds_all_the_randomness(randomness):
    assert is_id(random_id(randomness))
    assert bytes.fromhex(random_id(randomness)) == randomness


@pytest.mark.parametrize("count", [0, ID_BYTES - 1, ID_BYTES + 1])
def test_an_id_takes_no_other_amount_of_randomness(count):
    with pytest.raises(ValueError, match=f"takes {ID_BYTES} random bytes, got {count}"):
        random_id(bytes(count))


@pytest.mark.parametrize("text", ["0" * 16, "0123456789abcdef" * 2, "f" * 64])
def test_ids_have_16_to_64_hexadecimal_characters(text):
    assert is_id(text)


@pytest.mark.parametrize("other", ["", "0" * 15, "0" * 65, "A" * 32, "g" * 32, "0" * 32 + "\n", b"0" * 32, None, 7])
def test_nothing_else_is_an_id(other):
    assert not is_id(other)


@given(ID_RANDOMNESS)
def test_a_short_id_is_the_beginning_of_the_id(randomness):
    identifier = random_id(randomness)
    assert len(short(identifier)) == SHORT_LENGTH
    assert identifier.startswith(short(identifier))


def test_a_ulid_is_the_one_of_its_specification():
    assert ulid(1469918176385, bytes(ULID_BYTES)) == "01ARYZ6S410000000000000000"


@given(MILLISECONDS, ULID_RANDOMNESS)
def test_a_ulid_holds_its_time_and_its_randomness(milliseconds, randomness):
    number = ulid_number(ulid(milliseconds, randomness))
    assert number >> 80 == milliseconds
    assert (number & (1 << 80) - 1).to_bytes(ULID_BYTES, "big") == randomness


@given(MILLISECONDS, MILLISECONDS, ULID_RANDOMNESS, ULID_RANDOMNESS)
def test_ulids_sort_by_time(one, other, one_randomness, other_randomness):
    earlier, later = sorted([(one, one_randomness), (other, other_randomness)])
    assert ulid(*earlier) <= ulid(*later)
    assert (ulid(*earlier) < ulid(*later)) == (earlier < later)


@pytest.mark.parametrize("milliseconds", [-1, 1 << 48])
def test_a_ulid_takes_no_time_beyond_its_48_bits(milliseconds):
    with pytest.raises(ValueError, match="below 2\\*\\*48"):
        ulid(milliseconds, bytes(ULID_BYTES))


@pytest.mark.parametrize("count", [0, ULID_BYTES - 1, ULID_BYTES + 1])
def test_a_ulid_takes_no_other_amount_of_randomness(count):
    with pytest.raises(ValueError, match=f"takes {ULID_BYTES} random bytes, got {count}"):
        ulid(0, bytes(count))


@given(ULIDS.filter(lambda previous: previous != LARGEST), MILLISECONDS, ULID_RANDOMNESS)
def test_the_next_ulid_sorts_after_the_previous_one_whatever_the_clock_says(previous, milliseconds, randomness):
    following = ulid_after(previous, milliseconds, randomness)
    assert following > previous
    assert ulid_number(following) > ulid_number(previous)


def test_the_next_ulid_carries_over_into_the_time():
    assert ulid_after(ulid(7, b"\xff" * ULID_BYTES), 0, bytes(ULID_BYTES)) == ulid(8, bytes(ULID_BYTES))


@given(ULIDS, ULID_RANDOMNESS)
def test_a_ulid_of_a_later_moment_is_taken_as_it_is(previous, randomness):
    later = min((ulid_number(previous) >> 80) + 1, (1 << 48) - 1)
    fresh = ulid(later, randomness)
    assert fresh < previous or fresh == previous or ulid_after(previous, later, randomness) == fresh


@pytest.mark.parametrize("text", ["", "0" * 25, "0" * 27, "I" * 26, "0" * 25 + "u", "0" * 25 + "-"])
def test_what_is_no_ulid_is_refused(text):
    with pytest.raises(InvalidInput, match="is not a ULID"):
        ulid_number(text)


def test_a_ulid_beyond_128_bits_is_refused():
    assert ulid_number(LARGEST) == (1 << 128) - 1
    with pytest.raises(InvalidInput, match="is not a ULID"):
        ulid_number("8" + "0" * 25)
