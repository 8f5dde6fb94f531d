"""How the bytes of a part are stored: as they are, compressed, or split into planes first and then compressed.

Pure. Whether it pays is measured on a sample of the very bytes, never guessed from a name. What is encoded is always a
part in a pack: a file that is stored as an object of its own stays as it is.

`gzip` is the format of that tool, so that it opens a compressed member of a pack. `planes2+gzip` and `planes4+gzip` put
the first bytes of all numbers of 2 or 4 bytes first, then the second ones, and so on: the exponents of floats compress,
their mantissas do not. The idea is that of the shuffle filter of HDF5 and Blosc,
https://www.blosc.org/posts/new-bitshuffle-filter/.
"""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias

from replicate_core.errors import Corrupted

Policy: TypeAlias = Literal["none", "auto", "max"]

CODECS = {"gzip": 1, "planes2+gzip": 2, "planes4+gzip": 4}
"""Name of a codec to the number of planes."""

ENCODED_BYTES_MIN = 256
"""Less is not worth the words in the manifest."""

WORTH: dict[Policy, float] = {"none": 0.0, "auto": 0.7, "max": 0.92}
"""What is left of a part when it is encoded, at most, for it to be encoded.

By default that takes text, tables and zeros, and leaves floats alone: fp32 weights keep 93 % and bf16 weights 79 %.
"""

SAMPLE_BYTES = 9 << 10
"""How much of a part is compressed to see whether that pays: a part is often 200 KiB of floats, where it does not."""

_GZIP = 16 + zlib.MAX_WBITS  # the gzip format, in the words of zlib


def encode(data: bytes, policy: Policy) -> tuple[str, bytes] | None:
    """Encode a part, if it pays: the codec and the encoded bytes, or None.

    Args:
        data: the part.
        policy: `"none"` never encodes, `"auto"` what compresses well, `"max"` what compresses at all.
    """
    if len(data) < ENCODED_BYTES_MIN or policy == "none":
        return None
    codecs = CODECS if policy == "max" else ("gzip",)
    sample = _sample(data)
    worth = WORTH[policy]
    left, codec = min((len(_encoded(sample, codec, level=1)) / len(sample), codec) for codec in codecs)
    if left > worth:
        return None
    # Planes of floats have nothing to find for a slow search: exponents compress at once, mantissas never.
    encoded = _encoded(data, codec, level=6 if CODECS[codec] == 1 else 1)
    return (codec, encoded) if len(encoded) <= worth * len(data) else None


def decode(codec: str, stored: bytes, length: int) -> bytes:
    """Undo `encode`, without ever allocating much more than the part is long.

    Raises:
        Corrupted: the bytes were not encoded so, or are too few.
    """
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        data = decompressor.decompress(stored, max(1, length))  # 0 would be without a limit
        more = decompressor.decompress(decompressor.unconsumed_tail, 1)  # reads the checksum at the end, too
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
    """Bytes from the beginning, the middle and the end; each piece begins at a multiple of 4, where a float may."""
    if len(data) <= SAMPLE_BYTES:
        return data
    piece = SAMPLE_BYTES // 3
    return b"".join(data[start : start + piece] for start in (0, len(data) // 8 * 4, (len(data) - piece) // 4 * 4))
