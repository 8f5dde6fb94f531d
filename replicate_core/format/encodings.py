"""How the bytes of a part are stored: as they are, compressed, or split into planes first and then compressed.

Pure. Whether compression pays is measured on a sample of the bytes, never guessed from a name. Only parts in packs are
encoded: a file that is stored as an object of its own stays as it is.

`gzip` is the format of the tool of that name, which can open a compressed member of a pack. `planes2+gzip` and
`planes4+gzip` store the first bytes of all 2-byte or 4-byte numbers, then the second bytes, and so on: the exponents of
floats compress, their mantissas do not. HDF5 and Blosc call this the shuffle filter,
https://www.blosc.org/posts/new-bitshuffle-filter/.
"""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias

from replicate_core.errors import Corrupted

Policy: TypeAlias = Literal["none", "auto", "max"]

CODECS = {"gzip": 1, "planes2+gzip": 2, "planes4+gzip": 4}
"""Number of planes of each codec, by name."""

ENCODED_BYTES_MIN = 256
"""Minimum size of a part that is encoded: less is not worth the extra field in the manifest."""

RATIO_MAX: dict[Policy, float] = {"none": 0.0, "auto": 0.7, "max": 0.92}
"""Maximum ratio of encoded to plain size at which a part is encoded, by policy.

The default encodes text, tables and zeros, and leaves floats alone: fp32 weights keep 93 % and bf16 weights 79 %.
"""

SAMPLE_BYTES = 9 << 10
"""Size of the sample that shows whether compression pays: for floats, often 200 KiB a part, it does not."""

_GZIP = 16 + zlib.MAX_WBITS  # how zlib is told to use the gzip format


def encode(data: bytes, policy: Policy) -> tuple[str, bytes] | None:
    """Encode a part if that pays; returns the codec and the encoded bytes, or None.

    Args:
        data: the part.
        policy: `"none"` encodes nothing, `"auto"` what compresses well, `"max"` what compresses at all.
    """
    if len(data) < ENCODED_BYTES_MIN or policy == "none":
        return None
    codecs = CODECS if policy == "max" else ("gzip",)
    sample = _sample(data)
    ratio_max = RATIO_MAX[policy]
    ratio, codec = min((len(_encoded(sample, codec, level=1)) / len(sample), codec) for codec in codecs)
    if ratio > ratio_max:
        return None
    # A slow search gains nothing on planes of floats: exponents compress at any level, mantissas at none.
    encoded = _encoded(data, codec, level=6 if CODECS[codec] == 1 else 1)
    return (codec, encoded) if len(encoded) <= ratio_max * len(data) else None


def decode(codec: str, stored: bytes, length: int) -> bytes:
    """Undo `encode`, without allocating much more than the length of the part.

    Raises:
        Corrupted: the bytes were not encoded by this codec, or are too few.
    """
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        data = decompressor.decompress(stored, max(1, length))  # 0 would mean no limit
        more = decompressor.decompress(decompressor.unconsumed_tail, 1)  # also reads the checksum at the end
    except zlib.error as error:
        raise Corrupted(f"it can't be decoded as {codec}: {error}") from error
    if len(data) != length or more or not decompressor.eof or decompressor.unused_data:
        raise Corrupted(f"it is not {length} bytes long when decoded as {codec}")
    return _joined(data, CODECS[codec])


def _encoded(data: bytes, codec: str, level: int) -> bytes:
    planes = CODECS[codec]
    compressor = zlib.compressobj(level, wbits=_GZIP)
    split = data if planes == 1 else b"".join(data[plane::planes] for plane in range(planes))
    return compressor.compress(split) + compressor.flush()


def _joined(data: bytes, planes: int) -> bytes:
    if planes == 1:
        return data
    joined = bytearray(len(data))
    start = 0
    for plane in range(planes):
        count = len(range(plane, len(data), planes))
        joined[plane::planes] = data[start : start + count]
        start += count
    return bytes(joined)


def _sample(data: bytes) -> bytes:
    """Bytes from the beginning, the middle and the end; each piece begins at a multiple of 4, as floats do."""
    if len(data) <= SAMPLE_BYTES:
        return data
    piece = SAMPLE_BYTES // 3
    return b"".join(data[start : start + piece] for start in (0, len(data) // 8 * 4, (len(data) - piece) // 4 * 4))
