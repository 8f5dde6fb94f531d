"""The interface of stores, which map keys to bytes: `local` for a directory, `fsspec_store` for other file systems.

Errors of drivers are translated there, and nowhere else: whatever a storage raises becomes `StorageFailed`,
`NotFound`, `MissingExtra` or `InvalidInput`. `repository` knows what the keys mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from replicate_core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Entry:
    """A key in a listing."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)
    """When it was written, by the store's clock; None where the store does not tell."""


class Store(Protocol):
    """Maps keys to bytes. Keys are relative, with `/` between their names. Every call may be repeated.

    Every method raises `StorageFailed` if the storage can't be reached or refuses.
    """

    url: str
    """Where it is, without credentials: for messages and records."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a key, or its bytes from `start` up to `end`. Raises `NotFound` if it is missing."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Read many small keys at once; missing ones are left out."""

    def put(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all. A key that exists is replaced."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a key from a local file, whole or not at all.

        The object may become a hard link to the file, so the file must never be changed afterwards.
        """

    def names(self, prefix: str) -> list[str]:
        """The names directly below `prefix`, in order; those with keys below them end in `/`. Empty if there are none.

        Its cost does not depend on how many keys are below those.
        """

    def list(self, prefix: str) -> list[Entry]:
        """All keys that begin with `prefix`, which is empty or ends in `/`, in order. Empty if there are none."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The sizes of many keys at once; missing ones are left out."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys; missing ones are ignored."""


def check_key(key: str, url: str) -> None:
    """Make sure that a key stays inside its store. Raises `InvalidInput`."""
    if key.startswith("/") or ".." in key.split("/"):
        raise InvalidInput(f"{key!r} is not a key: it leads out of {url}")
