"""What is encoded comes back, it pays, and what was not encoded so is refused."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.errors import Corrupted
from replicate_core.format.encodings import CODECS, ENCODED_BYTES_MIN, RATIO_MAX, SAMPLE_BYTES, decode, encode

POLICIES = tuple(RATIO_MAX)
FP32 = (np.random.default_rng(1).standard_normal(1 << 18) * 0.02).astype("<f4").tobytes()
BF16 = b"".join(FP32[at : at + 2] for at in range(2, len(FP32), 4))
"""The upper halves of the same numbers."""

SOURCE = Path(zipfile.__file__).read_bytes()

REPEATED = st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1])
DATA = st.binary(max_size=3000) | REPEATED | st.integers(0, 5000).map(lambda length: FP32[:length])


def encoded_by_hand(data: bytes, planes: int) -> bytes:
    """What the codecs mean, in one line."""
    return gzip.compress(b"".join(data[plane::planes] for plane in range(planes)))


class TestRoundTrip:
    @given(DATA, st.sampled_from(POLICIES))
    def test_whatever_is_encoded_comes_back_and_is_smaller(self, data, policy) -> None:
        encoded = encode(data, policy)
        if encoded is not None:
            codec, stored = encoded
            assert decode(codec, stored, len(data)) == data
            assert len(stored) <= RATIO_MAX[policy] * len(data)

    @pytest.mark.parametrize("codec", CODECS)
    @given(data=st.binary(min_size=1, max_size=50) | REPEATED)
    def test_every_codec_brings_back_any_bytes(self, codec, data) -> None:
        assert decode(codec, encoded_by_hand(data, CODECS[codec]), len(data)) == data

    @pytest.mark.parametrize("more", [0, 1, 2, 3, 5])
    @pytest.mark.parametrize(("data", "codec"), [(FP32, "planes4+gzip"), (BF16, "planes2+gzip"), (SOURCE, "gzip")])
    def test_each_codec_is_chosen_for_what_it_is_made_for(self, data, codec, more) -> None:
        data += b"\x3c" * more
        found, stored = encode(data, "max")
        assert found == codec
        assert decode(codec, stored, len(data)) == data

    def test_a_gzip_part_is_opened_by_gzip(self) -> None:
        codec, stored = encode(SOURCE, "auto")
        assert codec == "gzip"
        assert gzip.decompress(stored) == SOURCE

    def test_the_same_bytes_are_always_encoded_the_same(self) -> None:
        for policy in ("auto", "max"):
            assert encode(SOURCE, policy) == encode(SOURCE, policy)


class TestPolicy:
    def test_auto_leaves_weights_alone(self) -> None:
        assert encode(FP32, "auto") is None
        assert encode(BF16, "auto") is None
        assert encode(random.Random(1).randbytes(1 << 20), "auto") is None

    @pytest.mark.parametrize(("data", "left"), [(SOURCE, 0.35), (bytes(1 << 20), 0.01), (b"1.25,3.5,a\n" * 999, 0.1)])
    def test_auto_encodes_text_and_zeros(self, data, left) -> None:
        codec, stored = encode(data, "auto")
        assert codec == "gzip"
        assert len(stored) <= left * len(data)

    @pytest.mark.parametrize(("data", "left"), [(FP32, 0.90), (BF16, 0.75), (SOURCE, 0.35), (bytes(1 << 20), 0.01)])
    def test_max_makes_floats_smaller_too(self, data, left) -> None:
        _, stored = encode(data, "max")
        assert len(stored) <= left * len(data)

    def test_max_leaves_alone_what_does_not_get_smaller(self) -> None:
        assert encode(random.Random(2).randbytes(1 << 20), "max") is None

    @given(DATA)
    def test_none_never_encodes(self, data) -> None:
        assert encode(data, "none") is None

    @pytest.mark.parametrize("policy", POLICIES)
    def test_very_little_is_not_worth_it(self, policy) -> None:
        assert encode(bytes(ENCODED_BYTES_MIN - 1), policy) is None
        assert (encode(bytes(ENCODED_BYTES_MIN), policy) is None) == (policy == "none")

    def test_what_is_seen_of_a_part_does_not_speak_for_all_of_it(self) -> None:
        piece, noise = bytes(SAMPLE_BYTES), random.Random(3).randbytes(8 * SAMPLE_BYTES)
        assert encode(piece + noise + piece + noise + piece, "auto") is None

    def test_only_a_sample_is_looked_at_where_it_does_not_pay(self) -> None:
        noise, middle = random.Random(4).randbytes(SAMPLE_BYTES), random.Random(5).randbytes(SAMPLE_BYTES)
        assert encode(noise + bytes(SAMPLE_BYTES) + middle + bytes(SAMPLE_BYTES) + noise, "auto") is None


class TestBadBytes:
    @pytest.mark.parametrize("codec", CODECS)
    def test_garbage_is_refused(self, codec) -> None:
        for garbage in (b"", b"this is no gzip", b"\x1f\x8b", random.Random(6).randbytes(1000)):
            with pytest.raises(Corrupted):
                decode(codec, garbage, 100)

    def test_the_error_names_the_codec(self) -> None:
        with pytest.raises(Corrupted, match=r"it can't be decoded as planes2\+gzip: "):
            decode("planes2+gzip", b"garbage", 100)

    def test_too_few_bytes_are_refused(self) -> None:
        with pytest.raises(Corrupted, match="it is not 501 bytes long when decoded"):
            decode("gzip", gzip.compress(bytes(500)), 501)

    @pytest.mark.parametrize("codec", CODECS)
    def test_what_is_cut_short_is_refused_or_whole_all_the_same(self, codec) -> None:
        data = SOURCE[:3000]
        stored = encoded_by_hand(data, CODECS[codec])
        refused = 0
        for length in range(len(stored)):
            try:
                assert decode(codec, stored[:length], len(data)) == data
            except Corrupted:
                refused += 1
        assert refused >= len(stored) - 12  # without the checksum and the length at its end, every byte is there

    @given(st.binary(max_size=300), st.sampled_from(sorted(CODECS)), st.integers(1, 1000))
    def test_any_bytes_are_refused_or_as_long_as_they_should_be(self, stored, codec, length) -> None:
        with suppress(Corrupted):
            assert len(decode(codec, stored, length)) == length

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("length", [0, 1, 1000, 100_000])
    def test_a_bomb_allocates_no_more_than_the_part_is_long(self, codec, length) -> None:
        bomb = gzip.compress(bytes(64 << 20))
        tracemalloc.start()
        try:
            with suppress(Corrupted):  # as good: whoever reads compares the digest
                assert decode(codec, bomb, length) == bytes(length)
            assert tracemalloc.get_traced_memory()[1] < 4 * length + 2 * len(bomb) + (64 << 10)
        finally:
            tracemalloc.stop()
