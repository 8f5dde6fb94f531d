"""The repository: what stands under which key of a store, and how documents are written and read there.

Records and manifests go through here, sealed; the bytes of files go through `writing` and `reading`. What records
mean is in `records`.
"""

from __future__ import annotations

import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone

from replicate_core import ids, manifest, record_format, records, segments
from replicate_core.documents import (
    DIGEST_NAME,
    FORMAT,
    expect_count,
    expect_list,
    expect_mapping,
    expect_text,
    is_sealed,
    seal,
    unseal,
)
from replicate_core.errors import Corrupted, NotFound, TooNew
from replicate_core.manifest import Manifest, is_manifest_key, is_object_key
from replicate_core.records import ExperimentState, Record
from replicate_core.store import Store
from replicate_core.values import loads

FORMAT_KEY = "replicate.json"
RECORDS = segments.RECORDS
SEGMENTS = "segments/"
MANIFESTS = "manifests/"
DATA = "data/"
TOMBSTONES = "prune/"
HEARTBEATS = "heartbeats/"

MANIFESTS_MAX = 64
"""So many manifests are kept in memory: that of a large file takes some 100 kB."""

MANIFESTS_AT_ONCE = 256

Clock = Callable[[], datetime]
Randomness = Callable[[int], bytes]
Unusable = Callable[[Corrupted | TooNew], None]


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(timezone.utc)


class Repository:
    """Everything stored at one storage URL.

    Args:
        store: where the bytes go.
        now: the clock.
        randomness: gives as many random bytes as it is asked for.
    """

    def __init__(self, store: Store, *, now: Clock = utc_now, randomness: Randomness = os.urandom) -> None:
        self.store = store
        self.now = now
        self._randomness = randomness
        self._last_ulid = ""
        self._lock = threading.Lock()
        self._manifests: dict[str, Manifest] = {}

    def check_format(self) -> bool:
        """Tell whether a repository is there already.

        Raises:
            TooNew: it was made by a newer version.
            Corrupted: what stands there is something else.
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
            raise Corrupted(f"{FORMAT_KEY} in {self.store.url} names the format {format_}, which there never was")
        return True

    def prepare(self) -> None:
        """Make sure that a repository is there and can be written to."""
        if not self.check_format():
            document = json.dumps({"format": FORMAT, "digest": DIGEST_NAME}).encode() + b"\n"
            self.store.put(FORMAT_KEY, document)

    def new_id(self) -> str:
        """A fresh id for an experiment or a checkpoint."""
        return ids.random_id(self._randomness(ids.ID_BYTES))

    def new_ulid(self) -> str:
        """A fresh ULID, later than every other one that this object has made."""
        with self._lock:
            milliseconds = int(self.now().timestamp() * 1000)
            self._last_ulid = ids.ulid_after(self._last_ulid, milliseconds, self._randomness(ids.ULID_BYTES))
            return self._last_ulid

    def new_object_key(self, digest: str, extension: str) -> str:
        """A fresh key for an object: named by a digest, and never used before, whatever its digest."""
        digits = manifest.digest_hex(digest)
        return f"{DATA}{digits[:2]}/{digits}-{self._randomness(8).hex()}{extension}"

    def append(self, record: Record) -> str:
        """Publish a record: from now on everybody sees what it says. Returns its key."""
        ulid = self.new_ulid()
        day = datetime.fromtimestamp((ids.ulid_number(ulid) >> 80) / 1000, timezone.utc)
        key = f"{RECORDS}{day:%Y%m%d}/{ulid}-{record.experiment}-{record_format.kind(record)}.json"
        self.store.put(key, seal(record_format.encode(record)))
        return key

    def read_records(self, unusable: Unusable | None = None, *, experiment: str | None = None) -> list[Record]:
        """All records, in the order of their keys.

        Args:
            experiment: only those of this one; None: all.
            unusable: called with the error of each record that can't be used, which is left out: `Corrupted`, or
                `TooNew` for a kind that only later versions know. By default a damaged one is warned of, because it
                hides only what it says itself, and a newer kind is passed over.
        """
        self.check_format()
        listed = (entry.key for entry in self.store.list(RECORDS) if entry.key.endswith(".json"))
        keys = [key for key in listed if not experiment or f"-{experiment}-" in key]
        return list(self.records_at(keys, unusable).values())

    def records_at(self, keys: Sequence[str], unusable: Unusable | None = None) -> dict[str, Record]:
        """The records under these keys, in their order; `unusable` as in `read_records`."""
        found = self.store.get_many(keys)
        read: dict[str, Record] = {}
        for key in keys:
            try:
                if key not in found:
                    if unusable is None:  # someone removed it meanwhile
                        continue
                    raise Corrupted(f"the record {key} is listed, and can't be read")
                record = record_format.decode(unseal(found[key], key=key), key=key)
                if record is None:
                    raise TooNew(f"the record {key} is of a kind that this version does not know: upgrade replicate")
                read[key] = record
            except (Corrupted, TooNew) as error:
                (unusable or warn)(error)
        return read

    def put_tombstone(self, keys: Iterable[str]) -> str:
        """Announce that these keys will be deleted. Returns the key of the announcement."""
        key = f"{TOMBSTONES}{self.new_ulid()}.json"
        self.store.put(key, seal({"keys": list(keys)}))
        return key

    def tombstone(self, key: str) -> list[str]:
        """The keys that an announcement dooms. Raises `NotFound` when they have been deleted meanwhile."""
        return _tombstone_keys(key, self.store.get(key))

    def tombstoned(self) -> set[str]:
        """All keys whose deletion is announced: nothing may refer to them any more."""
        listed = (entry.key for entry in self.store.list(TOMBSTONES))
        found = self.store.get_many(key for key in listed if key.endswith(".json"))
        return {doomed for key, data in found.items() for doomed in _tombstone_keys(key, data)}

    def states(self, unusable: Unusable | None = None) -> dict[str, ExperimentState]:
        """Every experiment that is not deleted, by id, in the order they began; `unusable` as in `read_records`."""
        return records.by_age(records.fold(self.read_records(unusable)))

    def put_manifest(self, content: Manifest) -> str:
        """Store a manifest, after all the objects it names. Returns its key."""
        key = f"{MANIFESTS}{self.new_ulid()}.json"
        self.store.put(key, seal(manifest.encode(content)))
        return key

    def manifest(self, key: str) -> Manifest:
        """Read a manifest, verified.

        Raises:
            Corrupted: it is damaged or missing.
        """
        if key not in self._manifests:
            while len(self._manifests) >= MANIFESTS_MAX:
                del self._manifests[next(iter(self._manifests))]
            try:
                data = self.store.get(key)
            except NotFound as error:
                raise Corrupted(f"the manifest {key} is missing from {self.store.url}") from error
            self._manifests[key] = manifest.decode(unseal(data, key=key), key=key)
        return self._manifests[key]

    def manifests_with(self, keys: Iterable[str], size: int) -> Iterator[tuple[str, Manifest]]:
        """Of many manifests those that list a file of `size` bytes, and maybe others; the rest is not even parsed.

        What is missing or damaged is warned of: what it lists is not known.
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
                    if not is_sealed(found[key]) or size_field.search(found[key]):
                        yield key, manifest.decode(unseal(found[key], key=key), key=key)
                except (Corrupted, TooNew) as error:
                    warnings.warn(f"not looked into: {error}", stacklevel=4)

    def manifests(self, keys: Iterable[str | None]) -> list[Manifest]:
        """Read several manifests; None stands for no files."""
        return [self.manifest(key) for key in keys if key is not None]


def _tombstone_keys(key: str, data: bytes) -> list[str]:
    keys = expect_mapping(unseal(data, key=key)).get("keys")
    doomed = [expect_text(item) for item in expect_list(keys)]
    strange = next((item for item in doomed if not (is_object_key(item) or is_manifest_key(item))), None)
    if strange is not None:
        raise Corrupted(f"{key} dooms {strange!r}, which is neither an object nor a manifest")
    return doomed


def warn(error: Corrupted | TooNew) -> None:
    """Warn of what is damaged: it hides only what it says itself. A kind that only later versions know is no damage."""
    if isinstance(error, Corrupted):
        warnings.warn(f"left out of the listing: {error}", stacklevel=4)
