"""The repository: what stands under which key of a store, and how documents are written and read there.

Records and manifests go through here, sealed; the bytes of files go through `writing` and `reading`. What records
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
"""Maximum number of manifests kept in memory: that of a large file takes some 100 kB."""

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
        key = record_key(RecordName(f"{day:%Y%m%d}", ulid, record.experiment, record_codec.kind(record)))
        self.store.put(key, seal_under(key, record_codec.encode(record)))
        return key

    def read_records(self, unusable: Unusable | None = None, *, experiment: str | None = None) -> list[Record]:
        """All records, in the order of their keys.

        Args:
            experiment: only those of this one; None: all.
            unusable: called with the error of each record that can't be used, which is left out: `Corrupted`, or
                `TooNew` for a kind that only later versions know. By default a damaged one is warned of, because it
                hides only what it says itself, and a newer kind is passed over.
        """
        keys = [key for key in self.record_keys() if not experiment or f"-{experiment}-" in key]
        return list(self.records_at(keys, unusable).values())

    def record_keys(self) -> list[str]:
        """The keys of all records, in order. Errors as of `check_format`."""
        self.check_format()
        return [entry.key for entry in self.store.list(RECORDS) if is_record_key(entry.key)]

    def records_at(self, keys: Sequence[str], unusable: Unusable | None = None) -> dict[str, Record]:
        """The records under these keys, in their order; `unusable` as in `read_records`."""
        found = self.store.get_many(keys)
        read: dict[str, Record] = {}
        for key in keys:
            try:
                if key not in found and unusable is None:  # someone removed it meanwhile
                    continue
                read[key] = decode_record(key, found.get(key))
            except (Corrupted, TooNew) as error:
                (unusable or warn)(error)
        return read

    def put_tombstone(self, keys: Iterable[str]) -> str:
        """Announce that these keys will be deleted. Returns the key of the announcement."""
        key = tombstone_key(self.new_ulid())
        self.store.put(key, seal_under(key, {"keys": list(keys)}))
        return key

    def tombstone(self, key: str) -> list[str]:
        """The keys that an announcement dooms.

        Raises:
            NotFound: it has been deleted meanwhile.
            Corrupted: it is none, or dooms what no announcement of replicate does.
        """
        return _tombstone_keys(key, self.store.get(key))

    def tombstoned(self) -> set[str]:
        """All keys whose deletion is announced: nothing may refer to them any more.

        An announcement that can't be read is passed over, as `prune` does: what it dooms is never deleted.
        """
        listed = (entry.key for entry in self.store.list(TOMBSTONES))
        doomed: set[str] = set()
        for key, data in self.store.get_many(key for key in listed if is_tombstone_key(key)).items():
            with suppress(Corrupted):
                doomed.update(_tombstone_keys(key, data))
        return doomed

    def states(self, unusable: Unusable | None = None) -> dict[str, ExperimentState]:
        """Every experiment that is not deleted, by id, in the order they began; `unusable` as in `read_records`."""
        return records.by_age(records.fold(self.read_records(unusable)))

    def put_manifest(self, content: Manifest) -> str:
        """Store a manifest, after all the objects it names. Returns its key."""
        key = manifest_key(self.new_ulid())
        self.store.put(key, seal_under(key, manifest.encode(content)))
        return key

    def manifest(self, key: str, *, size_bytes: int | None = None) -> Manifest:
        """Read a manifest, verified.

        Args:
            key: its key.
            size_bytes: the size of its files together, as the record says that names it; None where that is not known.

        Raises:
            Corrupted: it is damaged or missing, or another one than the record means.
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
        """Read a manifest as plain data, which is that of this key, and not yet checked any further; see `manifest`."""
        try:
            return unseal_under(key, self.store.get(key))
        except NotFound as error:
            raise Corrupted(f"the manifest {key} is missing from {self.store.url}") from error

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
                    if not is_sealed_under(key, found[key]) or size_field.search(found[key]):
                        yield key, manifest.decode(unseal_under(key, found[key]), key=key)
                except (Corrupted, TooNew) as error:
                    user_warnings.warn(f"not looked into: {error}")

    def manifests(self, keys: Iterable[str | None]) -> list[Manifest]:
        """Read several manifests; None stands for no files."""
        return [self.manifest(key) for key in keys if key is not None]


def decode_record(key: str, data: bytes | None) -> Record:
    """What the record under a key says; None stands for one that was listed and is not there.

    Raises:
        Corrupted: it is damaged or gone, or another one than its key says.
        TooNew: it is of a kind that only later versions know.
    """
    if data is None:
        raise Corrupted(f"the record {key} is listed, and can't be read")
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


def warn(error: Corrupted | TooNew) -> None:
    """Warn of what is damaged: it hides only what it says itself. A kind that only later versions know is no damage."""
    if isinstance(error, Corrupted):
        user_warnings.warn(f"left out of the listing: {error}")
