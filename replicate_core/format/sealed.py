"""Stored documents: one line of JSON each, which carries the digest of its own bytes.

Pure. `records` and `manifest` define what the documents say, `repository` where they are stored.

A sealed document is `{"digest":"sha256:<64 hex>","document":<JSON>}`, without white space between the parts: the
digest is that of the bytes of the inner JSON. Any JSON tool can read it, and every flipped bit is detected.

A document that is stored under a key of a repository names that key: its inner JSON begins with `"key"`. So a document
that was put in the place of another one is detected, too. Documents of earlier versions lack the field.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicate_core.errors import Corrupted
from replicate_core.format.digest import DIGEST_NAME, digest
from replicate_core.format.values import Value, dumps, loads

FORMAT = 1
"""The storage format that this version writes, and the newest that it reads."""

COUNT_MAX = 1 << 53
"""Largest whole number that a document may hold: all JSON tools keep it exact."""

DIGEST_LENGTH = len(DIGEST_NAME) + 1 + 64

KEY = "key"
"""The field that holds the key under which a document is stored."""

HEAD = b'{"digest":"'
"""How a sealed document begins."""

_MIDDLE = b'","document":'
_TAIL = b"}"
_BODY_AT = len(HEAD) + DIGEST_LENGTH + len(_MIDDLE)
_KEY_HEAD = f'{{"{KEY}":'.encode()


def seal(document: Value) -> bytes:
    """Write a document with its digest, as one line of UTF-8 that ends in a line break."""
    body = dumps(document).encode()
    return b"".join((HEAD, digest(body).encode(), _MIDDLE, body, _TAIL, b"\n"))


def unseal(data: bytes, *, key: str) -> Value:
    """Read what `seal` wrote.

    Args:
        data: the stored bytes.
        key: where they came from, for the error.

    Raises:
        Corrupted: the bytes are not those that were written.
    """
    framed = _body(data)
    if framed is None:
        raise Corrupted(f"{key} is not a document of replicate: it begins with {data[:40]!r}")
    wanted, body = framed
    if digest(body).encode() != wanted:
        raise Corrupted(
            f"{key} was changed after it was written: its digest does not match. Restore it from a copy of the "
            "repository; `replicate verify` lists everything that is damaged"
        )
    return loads(body)


def seal_under(key: str, document: Mapping[str, Value]) -> bytes:
    """Write a document that names the key of the repository under which it is stored; see `seal`."""
    return seal({KEY: key, **document})


def unseal_under(key: str, data: bytes) -> dict[str, Value]:
    """Read a document that is stored under a key of a repository.

    Its field `key` is left in it; a document from before there was such a field is accepted as it is.

    Raises:
        Corrupted: the bytes are not those that were written, or they belong under another key.
    """
    document = expect_mapping(unseal(data, key=key))
    if document.get(KEY, key) != key:
        raise Corrupted(
            f"{key} holds what belongs under another key, {document[KEY]!r}: it was copied or moved there. Restore it "
            "from a copy of the repository; `replicate verify` lists everything that is damaged"
        )
    return document


def names_key(data: bytes) -> bool:
    """Tell whether an undamaged document names the key under which it is stored."""
    framed = _body(data)
    return framed is not None and framed[1].startswith(_KEY_HEAD)


def is_sealed_under(key: str, data: bytes) -> bool:
    """Tell whether bytes are an undamaged document that `seal_under` wrote for this key, or that names no key."""
    framed = _body(data)
    if framed is None or digest(framed[1]).encode() != framed[0]:
        return False
    return not framed[1].startswith(_KEY_HEAD) or framed[1].startswith(_KEY_HEAD + dumps(key).encode())


def _body(data: bytes) -> tuple[bytes, bytes] | None:
    """The digest and the inner document; None if the bytes are not framed as a document."""
    line = data.removesuffix(b"\n")
    framed = line[: len(HEAD)] == HEAD and line[_BODY_AT - len(_MIDDLE) : _BODY_AT] == _MIDDLE
    if not framed or not line.endswith(_TAIL):
        return None
    return line[len(HEAD) : _BODY_AT - len(_MIDDLE)], line[_BODY_AT : -len(_TAIL)]


def expect_count(value: Value) -> int:
    """The value, if it is a whole number from 0 to `COUNT_MAX`; else `Corrupted`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise Corrupted(f"{value!r} is not a whole number from 0 to {COUNT_MAX}")
    return value


def expect_text(value: Value) -> str:
    """The value, if it is text; else `Corrupted`."""
    if not isinstance(value, str):
        raise Corrupted(f"{value!r} is not a string")
    return value


def expect_list(value: Value) -> list[Value]:
    """The value, if it is a list; else `Corrupted`."""
    if not isinstance(value, list):
        raise Corrupted(f"{value!r} is not a list")
    return value


def expect_mapping(value: Value) -> dict[str, Value]:
    """The value, if it is a mapping; else `Corrupted`."""
    if not isinstance(value, dict):
        raise Corrupted(f"{value!r} is not a mapping")
    return value


def what_is_wrong(error: Exception) -> str:
    """What an error says is wrong with a document."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
