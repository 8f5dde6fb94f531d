"""Names that are unique without coordination: random ids, and ULIDs, which sort by time.

Pure: the clock and the randomness come in as arguments.
"""

from __future__ import annotations

import re

from replicate_core.errors import InvalidInput

SHORT_LENGTH = 7
"""Number of characters of an id that are shown to people."""

ID_BYTES = 16
"""Number of random bytes in the id of an experiment or a checkpoint: 32 hexadecimal characters."""

ULID_BYTES = 10
"""Number of random bytes in a ULID, beside its 6 bytes of milliseconds."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID = re.compile(r"[0-9a-f]{16,64}")


def random_id(randomness: bytes) -> str:
    """Make the id of an experiment or a checkpoint from `ID_BYTES` random bytes."""
    if len(randomness) != ID_BYTES:
        raise ValueError(f"an id takes {ID_BYTES} random bytes, got {len(randomness)}")
    return randomness.hex()


def is_id(text: object) -> bool:
    """Tell whether `text` is a whole id: 16 to 64 lower-case hexadecimal characters."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def short(identifier: str) -> str:
    """Shorten an id for people: its first `SHORT_LENGTH` characters."""
    return identifier[:SHORT_LENGTH]


def ulid(milliseconds: int, randomness: bytes) -> str:
    """Make a ULID: 26 characters that sort by time.

    Args:
        milliseconds: since 1970 in UTC, below 2**48.
        randomness: `ULID_BYTES` random bytes.

    Source: https://github.com/ulid/spec
    """
    if not 0 <= milliseconds < 1 << 48:
        raise ValueError(f"the time of a ULID is a number of milliseconds below 2**48, got {milliseconds}")
    if len(randomness) != ULID_BYTES:
        raise ValueError(f"a ULID takes {ULID_BYTES} random bytes, got {len(randomness)}")
    number = milliseconds << 80 | int.from_bytes(randomness, "big")
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def ulid_after(previous: str, milliseconds: int, randomness: bytes) -> str:
    """Make a ULID that sorts after `previous`, even within one millisecond or when the clock went back."""
    fresh = ulid(milliseconds, randomness)
    if fresh > previous:
        return fresh
    number = ulid_number(previous) + 1
    return ulid(number >> 80, (number & (1 << 80) - 1).to_bytes(ULID_BYTES, "big"))


def ulid_number(text: str) -> int:
    """The 128-bit number behind a ULID; its top 48 bits are milliseconds since 1970."""
    if len(text) != 26 or text[0] > "7" or any(character not in _CROCKFORD for character in text):
        raise InvalidInput(f"{text!r} is not a ULID: it must be 26 characters of {_CROCKFORD}")
    number = 0
    for character in text:
        number = number << 5 | _CROCKFORD.index(character)
    return number
