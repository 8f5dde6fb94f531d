"""The repository: which keys of a store hold what, and how documents are written and read.

This module seals and unseals records and manifests; `writing` and `reading` handle the bytes of files. What records
mean is in `records`.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone

from replicate_core import user_warnings
from replicate_core.errors import Corrupted, NotFound, TooNew
from replicate_core.format import ids, manifest, record_codec, records
from replicate_core.format.digest import DIGEST_NAME
from replicate_core.format.keys import (
    DATA,
    FORMAT_KEY,
    RECORDS,
    TOMBSTONES,
    RecordName,
    is_manifest_key,
    is_object_key,
    is_record_key,
    is_tombstone_key,
    manifest_key,
    record_key,
    tombstone_key,
)
from replicate_core.format.manifest import Manifest
from replicate_core.format.records import ExperimentState, Record
from replicate_core.format.sealed import (
    FORMAT,
    expect_count,
    expect_list,
    expect_mapping,
    expect_text,
    is_sealed_under,
    seal_under,
    unseal_under,
)
from replicate_core.format.values import Value, loads
from replicate_core.storage.store import Store

MANIFESTS_MAX = 64
"""Maximum number of manifests cached in memory: the manifest of a large file takes about 100 kB."""

MANIFESTS_AT_ONCE = 256

Clock = Callable[[], datetime]
Randomness = Callable[[int], bytes]
Unusable = Callable[[Corrupted | TooNew], None]


def utc_now() -> datetime:
    """The current time in UTC, as an aware datetime."""
    return datetime.now(timezone.utc)


class Repository:
    """Everything stored at one storage URL.

    Args:
        store: holds the bytes.
        now: the clock.
        randomness: returns the given number of random bytes.
    """

    def __init__(self, store: Store, *, now: Clock = utc_now, randomness: Randomness = os.urandom) -> None:
        self.store = store
        self.now = now
        self._randomness = randomness
        self._last_ulid = ""
        self._lock = threading.Lock()
        self._manifests: dict[str, Manifest] = {}

    def check_format(self) -> bool:
        """Tell whether the store holds a repository already.

        Raises:
            TooNew: a newer version made the repository.
            Corrupted: the document that names the format is something else.
            StorageFailed: the storage can't be reached.
        """
        try:
            data = self.store.get(FORMAT_KEY)
        except NotFound:
            return False
        try:
            found = expect_mapping(loads(data))
            format_, digest = expect_count(found["format"]), expect_text(found["digest"])
        except (Corrupted, KeyError) as error:
            raise Corrupted(f"{FORMAT_KEY} in {self.store.url} can't be understood: {data[:80]!r}") from error
        if format_ > FORMAT or (format_ == FORMAT and digest != DIGEST_NAME):
            raise TooNew(
                f"the repository at {self.store.url} has format {format_} with {digest} digests; this version of "
                f"replicate reads up to format {FORMAT} with {DIGEST_NAME}: upgrade replicate"
            )
        if format_ < FORMAT:
            raise Corrupted(f"{FORMAT_KEY} in {self.store.url} names the format {format_}, which never existed")
        return True

    def prepare(self) -> None:
        """Make sure that the repository exists and can be written to."""
        if not self.check_format():
            document = json.dumps({"format": FORMAT, "digest": DIGEST_NAME}).encode() + b"\n"
            self.store.put(FORMAT_KEY, document)

    def new_id(self) -> str:
        """A new id for an experiment or a checkpoint."""
        return ids.random_id(self._randomness(ids.ID_BYTES))

    def new_ulid(self) -> str:
        """A new ULID, later than every other one that this object made."""
        with self._lock:
            milliseconds = int(self.now().timestamp() * 1000)
            self._last_ulid = ids.ulid_after(self._last_ulid, milliseconds, self._randomness(ids.ULID_BYTES))
            return self._last_ulid

    def new_object_key(self, digest: str, extension: str) -> str:
        """A new key for an object: it contains the digest, and is unique even if an object with that digest exists."""
        digits = manifest.digest_hex(digest)
        return f"{DATA}{digits[:2]}/{digits}-{self._randomness(8).hex()}{extension}"

    def append(self, record: Record) -> str:
        """Publish a record: from now on, every reader sees it. Returns its key."""
        ulid = self.new_ulid()
        day = datetime.fromtimestamp((ids.ulid_number(ulid) >> 80) / 1000, timezone.utc)
        key = record_key(RecordName(f"{day:%Y%m%d}", ulid, record.experiment, record_codec.kind(record)))
        self.store.put(key, seal_under(key, record_codec.encode(record)))
        return key

    def read_records(self, unusable: Unusable | None = None, *, experiment: str | None = None) -> list[Record]:
        """All records, in the order of their keys.

        Args:
            experiment: only the records of this experiment; None: all.
            unusable: called with the error of each record that is left out: `Corrupted`, or `TooNew` for a kind that
                only later versions know. By default, a damaged record causes only a warning, because the other records
                are not affected, and a newer kind is ignored.
        """
        keys = [key for key in self.record_keys() if not experiment or f"-{experiment}-" in key]
        return list(self.records_at(keys, unusable).values())

    def record_keys(self) -> list[str]:
        """The keys of all records, in order. Raises what `check_format` raises."""
        self.check_format()
        return [entry.key for entry in self.store.list(RECORDS) if is_record_key(entry.key)]

    def records_at(self, keys: Sequence[str], unusable: Unusable | None = None) -> dict[str, Record]:
        """The records with these keys, in the same order; `unusable` is as in `read_records`."""
        found = self.store.get_many(keys)
        read: dict[str, Record] = {}
        for key in keys:
            try:
                if key not in found and unusable is None:  # another process deleted it meanwhile
                    continue
                read[key] = decode_record(key, found.get(key))
            except (Corrupted, TooNew) as error:
                (unusable or warn)(error)
        return read

    def put_tombstone(self, keys: Iterable[str]) -> str:
        """Announce that these keys will be deleted. Returns the key of the tombstone."""
        key = tombstone_key(self.new_ulid())
        self.store.put(key, seal_under(key, {"keys": list(keys)}))
        return key

    def tombstone(self, key: str) -> list[str]:
        """The keys that a tombstone dooms.

        Raises:
            NotFound: the tombstone was deleted meanwhile.
            Corrupted: it is not a tombstone, or dooms something that is neither an object nor a manifest.
        """
        return _tombstone_keys(key, self.store.get(key))

    def tombstoned(self) -> set[str]:
        """All keys whose deletion is announced: nothing new may refer to them.

        A tombstone that can't be read is ignored, as in `prune`: what it dooms is never deleted.
        """
        listed = (entry.key for entry in self.store.list(TOMBSTONES))
        doomed: set[str] = set()
        for key, data in self.store.get_many(key for key in listed if is_tombstone_key(key)).items():
            with suppress(Corrupted):
                doomed.update(_tombstone_keys(key, data))
        return doomed

    def states(self, unusable: Unusable | None = None) -> dict[str, ExperimentState]:
        """Every experiment that is not deleted, by id, in the order they began; `unusable` is as in `read_records`."""
        return records.by_age(records.fold(self.read_records(unusable)))

    def put_manifest(self, content: Manifest) -> str:
        """Store a manifest, whose objects must be stored already. Returns its key."""
        key = manifest_key(self.new_ulid())
        self.store.put(key, seal_under(key, manifest.encode(content)))
        return key

    def manifest(self, key: str, *, size_bytes: int | None = None) -> Manifest:
        """Read and verify a manifest.

        Args:
            key: its key.
            size_bytes: the total size of its files, from the record that names the manifest; None if it is not known.

        Raises:
            Corrupted: the manifest is damaged or missing, or is not the one that the record means.
        """
        if key not in self._manifests:
            while len(self._manifests) >= MANIFESTS_MAX:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[key] = manifest.decode(self.manifest_document(key), key=key)
        content = self._manifests[key]
        if problem := manifest.size_problem(content, size_bytes):
            raise Corrupted(f"the manifest {key} {problem}")
        return content

    def manifest_document(self, key: str) -> dict[str, Value]:
        """Read a manifest as plain data: checked to be that of this key, but no further; see `manifest`."""
        try:
            return unseal_under(key, self.store.get(key))
        except NotFound as error:
            raise Corrupted(f"the manifest {key} is missing from {self.store.url}") from error

    def manifests_with(self, keys: Iterable[str], size: int) -> Iterator[tuple[str, Manifest]]:
        """The manifests that list a file of `size` bytes, and maybe some more; the others are not even parsed.

        Warns of manifests that are missing or damaged: the files that they list are not known.
        """
        size_field = re.compile(rb'"size"\s*:\s*%d\b' % size)
        names = list(keys)
        for start in range(0, len(names), MANIFESTS_AT_ONCE):
            some = names[start : start + MANIFESTS_AT_ONCE]
            found = self.store.get_many(some)
            for key in some:
                try:
                    if key not in found:
                        raise Corrupted(f"the manifest {key} is missing from {self.store.url}")
                    if not is_sealed_under(key, found[key]) or size_field.search(found[key]):
                        yield key, manifest.decode(unseal_under(key, found[key]), key=key)
                except (Corrupted, TooNew) as error:
                    user_warnings.warn(f"not searched: {error}")

    def manifests(self, keys: Iterable[str | None]) -> list[Manifest]:
        """Read several manifests; a key of None stands for no files and is skipped."""
        return [self.manifest(key) for key in keys if key is not None]


def decode_record(key: str, data: bytes | None) -> Record:
    """Decode the record of a key; `data` is None if the key was listed, but is gone.

    Raises:
        Corrupted: the record is damaged or gone, or does not fit its key.
        TooNew: it is of a kind that only later versions know.
    """
    if data is None:
        raise Corrupted(f"the record {key} is listed, but can't be read")
    record = record_codec.read(key, data)
    if record is None:
        raise TooNew(f"the record {key} is of a kind that this version does not know: upgrade replicate")
    return record


def _tombstone_keys(key: str, data: bytes) -> list[str]:
    try:
        doomed = [expect_text(item) for item in expect_list(unseal_under(key, data).get("keys"))]
    except Corrupted as error:
        raise Corrupted(f"the tombstone {key} can't be used: {error}") from None
    strange = next((item for item in doomed if not (is_object_key(item) or is_manifest_key(item))), None)
    if strange is not None:
        raise Corrupted(f"the tombstone {key} dooms {strange!r}, which is neither an object nor a manifest")
    return doomed


def ignore(_: Corrupted | TooNew) -> None:
    """Do nothing: listings and `verify` report the error."""


def warn(error: Corrupted | TooNew) -> None:
    """Warn of a damaged record: the others are not affected. A record of a newer version is not damaged."""
    if isinstance(error, Corrupted):
        user_warnings.warn(f"left out of the listing: {error}")
