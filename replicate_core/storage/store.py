"""The byte seam: keys to bytes. Those of a local directory are in `local`, of other file systems in `fsspec_store`.

Foreign errors are translated there, and nowhere else: whatever a storage raises leaves as `StorageFailed`,
`NotFound`, `MissingExtra` or `InvalidInput`. What the keys mean is in `repository`.
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
    """A key that is there."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)
    """When it was written, by the clock of the store; None where the store does not tell."""


class Store(Protocol):
    """Keys to bytes. Keys are relative, with `/` between their names; every call may be made again.

    Every method raises `StorageFailed` when the storage can't be reached or refuses.
    """

    url: str
    """Where it is, without credentials: for messages and records."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a key, or the bytes of it from `start` up to `end`. Raises `NotFound` if it is missing."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Read many small keys at once; those that are missing are left out."""

    def put(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all. A key that exists is replaced."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a key from a local file, whole or not at all.

        The file itself may become the object, as a second name of it: it must never be changed then.
        """

    def names(self, prefix: str) -> list[str]:
        """The names directly below `prefix`, in order; those that more stands below end in `/`. None are no error.

        What it costs does not depend on how much stands below those.
        """

    def list(self, prefix: str) -> list[Entry]:
        """All keys that begin with `prefix`, which is empty or ends in `/`, in order. Empty if there are none."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """The sizes of many keys at once; those that are missing are left out."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys; those that are missing are fine."""


def check_key(key: str, url: str) -> None:
    """Make sure that a key stays inside its store. Raises `InvalidInput`."""
    if key.startswith("/") or ".." in key.split("/"):
        raise InvalidInput(f"{key!r} is not a key: it leads out of {url}")
