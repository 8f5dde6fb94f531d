"""Digests of bytes, in the stored form: sha256, at once or piece by piece."""

from __future__ import annotations

import hashlib

DIGEST_NAME = "sha256"


def digest(data: bytes | bytearray | memoryview) -> str:
    """The digest of some bytes, in the stored form: `sha256:` and 64 hexadecimal characters."""
    return f"{DIGEST_NAME}:{hashlib.sha256(data).hexdigest()}"


class Digest:
    """The digest of bytes that arrive piece by piece."""

    def __init__(self) -> None:
        self._hash = hashlib.new(DIGEST_NAME)

    def update(self, data: bytes) -> None:
        """Append bytes."""
        self._hash.update(data)

    def __str__(self) -> str:
        """The digest so far, in the form of `digest`."""
        return f"{DIGEST_NAME}:{self._hash.hexdigest()}"
