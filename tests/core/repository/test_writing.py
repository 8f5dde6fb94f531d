"""Snapshots are stored as plain objects and tar packs, the manifest last; and every byte of them comes back."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import staged_of

from replicate_core.errors import StorageFailed
from replicate_core.format import chunks
from replicate_core.format.chunks import GRID_BYTES
from replicate_core.format.digest import digest
from replicate_core.format.encodings import Policy
from replicate_core.format.manifest import Encoding, Manifest
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Repacked
from replicate_core.machine.staging import SMALL_BYTES, Staged, StagedFile
from replicate_core.repository import chunk_index, writing
from replicate_core.repository.chunk_index import LIFETIME, ChunkIndex
from replicate_core.repository.reading import open_file
from replicate_core.repository.repository import Repository
from replicate_core.repository.writing import StoredSnapshot, publish, store_snapshot
from replicate_core.storage.local import LocalStore

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
EXPERIMENT, OTHER = "e" * 32, "f" * 32
SOURCE = Path(zipfile.__file__).read_bytes()
WEIGHTS = (np.random.default_rng(1).standard_normal(1 << 17) * 0.02).astype("<f4").tobytes()


class Watched(LocalStore):
    """A directory that remembers what is written, fails when it is told to, and where others are at work meanwhile."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []
        self.fails_at: int | None = None
        self.meanwhile: Callable[[str], object] = lambda key: None

    def put(self, key: str, data: bytes) -> None:
        self._writes(key)
        super().put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._writes(key)
        super().put_file(key, path)

    def _writes(self, key: str) -> None:
        if self.fails_at is not None and len(self.written) >= self.fails_at:
            raise StorageFailed("no more")
        self.written.append(key)
        self.meanwhile(key)

    def rooms(self) -> list[str]:
        return [key.partition("/")[0] for key in self.written]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(Watched(tmp_path / "storage"), now=lambda: NOW)


@pytest.fixture
def stage(tmp_path: Path):
    """Makes a staged snapshot of contents: in one copy what is small, in copies of their own what is large."""
    return lambda contents, **more: staged_of(tmp_path, contents, **more)


def store(repository: Repository, snapshot: Staged, policy: Policy = "auto") -> StoredSnapshot:
    """Store a snapshot as a process does that begins: it knows what manifests say."""
    return store_snapshot(repository, ChunkIndex(repository), snapshot, policy)


def publish_code(
    repository: Repository, snapshot: Staged, experiment: str = EXPERIMENT, known: ChunkIndex | None = None
) -> Created:
    """Publish a snapshot as the code of an experiment."""
    return publish(
        repository,
        known or ChunkIndex(repository),
        snapshot,
        "auto",
        lambda done: Created(experiment, repository.now(), manifest=done.manifest, stored_bytes=done.stored_bytes),
    )


def read_code(repository: Repository, experiment: str = EXPERIMENT) -> dict[str, bytes]:
    """The files of an experiment, as another process reads them."""
    repository = Repository(repository.store)
    (manifest,) = repository.manifests([repository.states()[experiment].created.manifest])
    return contents(repository, manifest)


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def stored(repository: Repository, snapshot: StoredSnapshot) -> Manifest:
    return Repository(repository.store).manifest(snapshot.manifest)


def contents(repository: Repository, manifest: Manifest) -> dict[str, bytes]:
    return {path: open_file(repository, file, name=path).read() for path, file in manifest.files.items()}


def objects(repository: Repository) -> dict[str, bytes]:
    return {entry.key: repository.store.get(entry.key) for entry in repository.store.list("data/")}


def members(pack: bytes) -> dict[str, bytes]:
    """What `tar` takes out of a pack."""
    with tarfile.open(fileobj=io.BytesIO(pack)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_large_file_is_one_object_byte_for_byte(repository: Repository, stage) -> None:
    data = os.urandom(2 * GRID_BYTES + 5)
    manifest = stored(repository, store(repository, stage({"out/model.safetensors": data})))
    ((key, found),) = objects(repository).items()
    assert found == data
    assert key.endswith(".safetensors")
    assert manifest.object_bytes == {key: len(data)}
    parts = manifest.files["out/model.safetensors"].parts
    assert [(part.offset, part.length) for part in parts] == [
        (0, GRID_BYTES), (GRID_BYTES, GRID_BYTES), (2 * GRID_BYTES, 5),
    ]  # fmt: skip
    assert [part.digest for part in parts] == [digest(data[part.offset : part.offset + part.length]) for part in parts]


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.bin", ".bin"), ("a.tar.gz", ".gz"), ("none", ""), (".hidden", ""), ("a.b c", ""), ("a.é", ""), ("a.b/c", "")],
)
def test_an_object_has_the_extension_of_its_file_where_that_is_plain(repository, stage, name, extension) -> None:
    store(repository, stage({name: noise(1, SMALL_BYTES + 1)}))
    (key,) = objects(repository)
    assert key.rpartition("/")[2].partition("-")[2][16:] == extension


def test_small_files_are_members_of_a_tar_that_any_tool_reads(repository: Repository, stage) -> None:
    files = {"train.py": b"print()\n", "données/模型.bin": noise(1, 700), "long/" * 40 + "name": b"deep", "empty": b""}
    manifest = stored(repository, store(repository, stage(files, mode=0o755)))
    ((key, pack),) = objects(repository).items()
    assert key.endswith(".tar")
    with tarfile.open(fileobj=io.BytesIO(pack)) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == {
            path: data for path, data in files.items() if data
        }
        assert {member.mode for member in tar} == {0o755}
    assert contents(repository, manifest) == files
    assert list(manifest.files) == list(files)


def test_empty_files_need_no_object(repository: Repository, stage) -> None:
    snapshot = store(repository, stage({"a": b"", "b": b""}))
    assert objects(repository) == {}
    assert (snapshot.size_bytes, snapshot.stored_bytes) == (0, 0)
    assert contents(repository, stored(repository, snapshot)) == {"a": b"", "b": b""}


def test_a_snapshot_of_nothing_is_a_manifest_of_nothing(repository: Repository, stage) -> None:
    assert stored(repository, store(repository, stage({}))) == Manifest()


def test_links_and_empty_directories_are_in_the_manifest(repository: Repository, stage) -> None:
    snapshot = store(repository, stage({"a": b"1"}, links={"b": "a"}, directories=("c/d",)))
    manifest = stored(repository, snapshot)
    assert (manifest.links, manifest.directories) == ({"b": "a"}, ("c/d",))


def test_sizes_are_those_of_the_files_and_of_the_objects(repository: Repository, stage) -> None:
    snapshot = store(repository, stage({"small": b"123", "large": bytes(SMALL_BYTES + 1)}))
    assert snapshot.size_bytes == 3 + SMALL_BYTES + 1
    assert snapshot.stored_bytes == sum(map(len, objects(repository).values()))


def test_a_pack_that_is_full_is_closed(repository: Repository, stage, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{number}.txt": bytes([number]) * 60 for number in range(5)}
    monkeypatch.setattr(writing, "PACK_BYTES", 1100)
    manifest = stored(repository, store(repository, stage(files)))
    assert len(objects(repository)) == len(manifest.object_bytes) == 3
    assert contents(repository, manifest) == files


def test_a_small_file_with_a_copy_of_its_own_is_stored_all_the_same(repository, tmp_path: Path) -> None:
    grown, small = os.urandom(SMALL_BYTES + 1), b"small"
    (tmp_path / "grown").write_bytes(grown)
    (tmp_path / "copy").write_bytes(small)
    files = (
        StagedFile("grown", 0o644, tmp_path / "grown", 0, len(grown)),
        StagedFile("small", 0o600, tmp_path / "copy", 0, 5),
    )
    snapshot = store(repository, Staged(tmp_path, files, {}, ()))
    assert contents(repository, stored(repository, snapshot)) == {"grown": grown, "small": small}


def test_a_large_file_within_a_shared_copy_is_stored_without_what_surrounds_it(repository, tmp_path: Path) -> None:
    """As a version before this one may have left it in a spool: the file grew while it was read."""
    first, grown = noise(1, 1000), noise(2, 400_000)
    (tmp_path / "small").write_bytes(first + grown)
    files = (
        StagedFile("a", 0o644, tmp_path / "small", 0, 1000),
        StagedFile("log", 0o644, tmp_path / "small", 1000, 400_000),
    )
    snapshot = store(repository, Staged(tmp_path, files, {}, ()))
    assert contents(repository, stored(repository, snapshot)) == {"a": first, "log": grown}


@pytest.mark.parametrize("size", [1000, 2 * SMALL_BYTES], ids=["packed", "as it is"])
def test_no_manifest_tells_of_bytes_that_were_changed_after_they_were_digested(
    repository: Repository, stage, size: int
) -> None:
    before, after = noise(1, size), noise(2, size)
    snapshot = stage({"model": before})
    copy = snapshot.files[0].copy

    def change(key: str) -> None:
        if copy.read_bytes() != after:
            copy.unlink()
            copy.write_bytes(after)
            os.utime(copy, ns=(1, 1))

    repository.store.meanwhile = change
    process = ChunkIndex(repository)
    manifest = stored(repository, store_snapshot(repository, process, snapshot, "auto"))
    assert contents(repository, manifest) == {"model": after}
    again = store_snapshot(repository, process, stage({"model": before}), "auto")
    assert contents(repository, stored(repository, again)) == {"model": before}, "nothing wrong is known"


# What is known already is not stored again.


@pytest.mark.parametrize("fresh", [False, True], ids=["the same process", "another process"])
def test_a_file_that_is_there_already_costs_nothing(repository: Repository, stage, fresh) -> None:
    files = {"model.pt": noise(1, 2 * GRID_BYTES + 5), "train.py": SOURCE}
    process = ChunkIndex(repository)
    publish_code(repository, stage(files), known=process)
    before = objects(repository)
    again = store_snapshot(repository, ChunkIndex(repository) if fresh else process, stage(files), "auto")
    assert again.stored_bytes == 0
    assert again.size_bytes == sum(map(len, files.values()))
    assert objects(repository) == before
    assert set(again.objects) == set(before)
    assert contents(repository, stored(repository, again)) == files


def test_of_a_file_that_changed_a_little_only_the_chunks_that_did_are_stored(repository: Repository, stage) -> None:
    data = noise(1, 4 * GRID_BYTES)
    publish_code(repository, stage({"model.pt": data}))
    (first,) = objects(repository)
    changed = data[:GRID_BYTES] + noise(2, GRID_BYTES) + data[2 * GRID_BYTES :]
    snapshot = store(repository, stage({"model.pt": changed}))
    pack = next(found for key, found in objects(repository).items() if key != first)
    assert members(pack) == {f"model.pt@{GRID_BYTES}": changed[GRID_BYTES : 2 * GRID_BYTES]}
    assert snapshot.stored_bytes == len(pack) < 1.02 * GRID_BYTES
    manifest = stored(repository, snapshot)
    assert [part.object == first for part in manifest.files["model.pt"].parts] == [True, False, True, True]
    assert contents(repository, manifest) == {"model.pt": changed}


@pytest.mark.parametrize("frozen_percent", [0, 3, 25, 40, 60, 75])
def test_a_file_costs_at_most_a_twentieth_more_than_its_new_chunks(
    repository: Repository, stage, frozen_percent
) -> None:
    data = noise(1, 8 * GRID_BYTES)
    frozen = frozen_percent * len(data) // 100 // GRID_BYTES * GRID_BYTES
    publish_code(repository, stage({"model.pt": data}))
    changed = data[:frozen] + noise(2, len(data) - frozen)
    snapshot = store(repository, stage({"model.pt": changed}))
    assert snapshot.stored_bytes <= 1.05 * (len(changed) - frozen)
    assert contents(repository, stored(repository, snapshot)) == {"model.pt": changed}


@pytest.mark.parametrize(("known_chunks", "whole"), [(0, True), (1, True), (2, False), (8, False)])
def test_a_file_that_is_almost_all_new_is_an_object_byte_for_byte(
    repository: Repository, stage, known_chunks, whole
) -> None:
    data = noise(1, 32 * GRID_BYTES)
    publish_code(repository, stage({"model.pt": data}))
    changed = data[: known_chunks * GRID_BYTES] + noise(2, (32 - known_chunks) * GRID_BYTES)
    manifest = stored(repository, store(repository, stage({"model.pt": changed})))
    assert (changed in objects(repository).values()) == whole
    assert len(manifest.object_bytes) == 2 - whole
    assert contents(repository, manifest) == {"model.pt": changed}


def test_a_zip_whose_first_member_grew_costs_that_member(repository: Repository, stage) -> None:
    def checkpoint(history: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, content in (("data.pkl", history), ("data/0", WEIGHTS), ("data/1", WEIGHTS[::-1])):
                archive.writestr(zipfile.ZipInfo(f"m/{name}"), content)  # a name alone would store the time of day
        return stream.getvalue()

    publish_code(repository, stage({"m.pt": checkpoint(b"")}))
    snapshot = store(repository, stage({"m.pt": checkpoint(noise(1, 1001))}))
    assert snapshot.stored_bytes < 8 << 10
    assert contents(repository, stored(repository, snapshot)) == {"m.pt": checkpoint(noise(1, 1001))}


def test_what_is_there_twice_in_one_snapshot_is_stored_once(repository: Repository, stage) -> None:
    large, small = noise(1, 2 * GRID_BYTES), noise(2, 5000)
    files = {"a.bin": large, "b.bin": large, "c": small, "d": small, "e": small + b"!"}
    snapshot = store(repository, stage(files))
    assert snapshot.stored_bytes < len(large) + 2 * len(small) + 5000
    assert contents(repository, stored(repository, snapshot)) == files


def test_what_is_there_twice_in_one_file_is_stored_once(repository: Repository, stage) -> None:
    data = noise(1, GRID_BYTES) * 4
    snapshot = store(repository, stage({"a": data}))
    assert snapshot.stored_bytes < 1.02 * GRID_BYTES
    assert contents(repository, stored(repository, snapshot)) == {"a": data}
    twice = noise(2, GRID_BYTES) * 2
    assert store(repository, stage({"a": twice})).stored_bytes < 1.02 * GRID_BYTES


def test_a_file_that_was_in_a_pack_is_known_in_another_one_of_the_same_snapshot(repository, stage, monkeypatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 100)
    files = {"a": noise(1, 200), "b": noise(2, 200), "c": noise(1, 200)}
    snapshot = store(repository, stage(files))
    assert len(snapshot.objects) == 2
    assert contents(repository, stored(repository, snapshot)) == files


def test_what_nothing_refers_to_any_more_is_stored_again(repository: Repository, stage) -> None:
    data = noise(1, GRID_BYTES)
    publish_code(repository, stage({"a.bin": data}))
    repository.append(Deleted(EXPERIMENT))
    assert store(repository, stage({"a.bin": data})).stored_bytes == len(data)


def test_more_chunks_than_are_remembered_are_stored_all_the_same(repository, stage, monkeypatch) -> None:
    files = {str(number): noise(number, 100) for number in range(6)}
    publish_code(repository, stage(files))
    monkeypatch.setattr(chunk_index, "CHUNKS_MAX", 4)
    files |= {f"new {number}": noise(10 + number, 100) for number in range(6)}
    snapshot = store(repository, stage(files))
    assert contents(repository, stored(repository, snapshot)) == files


# Encoding.


def test_text_is_compressed_and_gzip_opens_it(repository: Repository, stage) -> None:
    files = {"zipfile.py": SOURCE, "weights.bin": WEIGHTS[: 64 << 10], "short.py": b"print()\n"}
    snapshot = store(repository, stage(files))
    (pack,) = objects(repository).values()
    found = members(pack)
    assert list(found) == ["zipfile.py.gz", "weights.bin", "short.py"]
    assert gzip.decompress(found["zipfile.py.gz"]) == SOURCE
    manifest = stored(repository, snapshot)
    (part,) = manifest.files["zipfile.py"].parts
    assert part.encoding == Encoding("gzip", len(found["zipfile.py.gz"]))
    assert (part.length, part.digest) == (len(SOURCE), digest(SOURCE))
    assert contents(repository, manifest) == files


def test_what_is_compressed_is_referred_to_as_it_is(repository: Repository, stage) -> None:
    publish_code(repository, stage({"zipfile.py": SOURCE}))
    snapshot = store(repository, stage({"zipfile.py": SOURCE}), "none")
    assert snapshot.stored_bytes == 0
    assert contents(repository, stored(repository, snapshot)) == {"zipfile.py": SOURCE}


def test_nothing_is_compressed_where_the_policy_is_none(repository: Repository, stage) -> None:
    files = {"zipfile.py": SOURCE, "zeros": bytes(100_000)}
    manifest = stored(repository, store(repository, stage(files), "none"))
    (pack,) = objects(repository).values()
    assert members(pack) == files
    assert all(part.encoding is None for file in manifest.files.values() for part in file.parts)


def test_the_chunks_of_a_large_text_that_changed_are_compressed(repository: Repository, stage) -> None:
    lines = b"".join(b"%d,%d\n" % (number, number * number) for number in range(300_000))
    publish_code(repository, stage({"table.csv": lines}))
    changed = lines[: 2 * GRID_BYTES] + b"x" + lines[2 * GRID_BYTES + 1 :]
    snapshot = store(repository, stage({"table.csv": changed}))
    pack = next(found for key, found in objects(repository).items() if key.endswith(".tar"))
    ((name, data),) = members(pack).items()
    assert name == f"table.csv@{2 * GRID_BYTES}.gz"
    assert gzip.decompress(data) == changed[2 * GRID_BYTES : 3 * GRID_BYTES]
    assert contents(repository, stored(repository, snapshot)) == {"table.csv": changed}


@pytest.mark.parametrize(("policy", "left"), [("none", 1.0), ("auto", 1.0), ("max", 0.9)])
def test_weights_are_one_plain_object_unless_all_is_asked_for(repository: Repository, stage, policy, left) -> None:
    snapshot = store(repository, stage({"model.bin": WEIGHTS}), policy)
    assert snapshot.stored_bytes <= left * len(WEIGHTS) + 2048
    (data,) = objects(repository).values()
    assert (data == WEIGHTS) == (policy != "max")
    assert contents(repository, stored(repository, snapshot)) == {"model.bin": WEIGHTS}
    if policy == "max":
        assert list(members(data)) == ["model.bin.planes4.gz"]


def test_what_does_not_get_smaller_is_a_plain_object_whatever_the_policy(repository: Repository, stage) -> None:
    data = noise(1, GRID_BYTES)
    store(repository, stage({"model.bin": data}), "max")
    assert list(objects(repository).values()) == [data]


# Order, and a storage that fails.


def test_objects_come_first_then_the_manifest_then_the_record(repository: Repository, stage) -> None:
    publish_code(repository, stage({"large": noise(1, SMALL_BYTES + 1), "small": b"1"}))
    assert repository.store.rooms() == ["data", "data", "manifests", "records"]


def test_when_a_manifest_is_written_every_object_it_names_is_there(repository: Repository, stage, monkeypatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 2000)
    seen = []

    def look(key: str) -> None:
        if key.startswith("manifests/"):
            seen.append(set(objects(repository)))

    repository.store.meanwhile = look
    snapshot = store(repository, stage({str(number): noise(number, 900) for number in range(7)}))
    assert seen == [set(snapshot.objects)]


@pytest.mark.parametrize("allowed", range(6))
@pytest.mark.parametrize("again", ["the same process", "another process"])
def test_a_storage_that_fails_on_the_way_gets_no_record_and_later_everything(
    repository, stage, monkeypatch, allowed: int, again: str
) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 1000)
    files = {"a.bin": noise(1, SMALL_BYTES + 1), "b.bin": noise(2, SMALL_BYTES + 1), "c": noise(3, 999), "d": b"1"}
    process, snapshot = ChunkIndex(repository), stage(files)
    repository.store.fails_at = allowed
    with pytest.raises(StorageFailed, match="no more"):
        publish_code(repository, snapshot, known=process)
    assert repository.store.list("records/") == []
    assert len(repository.store.list("manifests/")) == max(0, allowed - 4)
    assert len(objects(repository)) == min(allowed, 4)
    repository.store.fails_at = None
    publish_code(repository, snapshot, known=process if again == "the same process" else None)
    if again == "the same process":
        assert len(objects(repository)) == 4
    assert read_code(repository) == files


# Objects of others that vanish.


@pytest.fixture
def theirs(repository: Repository, stage) -> dict[str, bytes]:
    """Files that another process has stored: two large ones, and a small one."""
    files = {"a.bin": noise(1, SMALL_BYTES + 1), "b.bin": noise(2, SMALL_BYTES + 1), "c": noise(3, 999)}
    publish_code(repository, stage(files), OTHER)
    repository.store.written.clear()
    return files


def object_of(repository: Repository, data: bytes) -> str:
    return next(key for key, found in objects(repository).items() if data in found)


def test_an_object_that_vanished_before_the_manifest_is_stored_anew(repository, stage, theirs) -> None:
    process = ChunkIndex(repository)
    process.refresh()
    repository.store.delete([object_of(repository, theirs["a.bin"])])
    record = publish_code(repository, stage(theirs), known=process)
    assert record.stored_bytes == len(theirs["a.bin"])
    assert repository.store.rooms() == ["data", "manifests", "records"]
    assert read_code(repository) == theirs


def test_all_objects_that_vanished_before_the_manifest_are_stored_anew(repository, stage, theirs) -> None:
    process = ChunkIndex(repository)
    process.refresh()
    repository.store.delete(list(objects(repository)))
    publish_code(repository, stage(theirs), known=process)
    assert repository.store.rooms() == ["data", "data", "data", "manifests", "records"]
    assert read_code(repository) == theirs


@pytest.mark.parametrize("room", ["manifests/", "records/"])
def test_an_object_that_vanishes_while_publishing_is_healed(repository, stage, theirs, room) -> None:
    doomed = object_of(repository, theirs["a.bin"])

    def delete(key: str) -> None:
        if key.startswith(room):
            repository.store.delete([doomed])

    repository.store.meanwhile = delete
    record = publish_code(repository, stage(theirs))
    assert repository.store.rooms() == ["manifests", "records", "data", "manifests", "records"]
    repacked = [item for item in repository.read_records() if isinstance(item, Repacked)]
    assert [(item.experiment, list(item.manifests.values())) for item in repacked] == [(EXPERIMENT, [record.manifest])]
    assert read_code(repository) == theirs


def test_objects_that_vanish_one_after_the_other_are_all_healed(repository, stage, theirs) -> None:
    doomed = [object_of(repository, data) for data in theirs.values()]

    def delete_one(key: str) -> None:
        if key.startswith("records/") and doomed:
            repository.store.delete([doomed.pop()])

    repository.store.meanwhile = delete_one
    publish_code(repository, stage(theirs))
    assert repository.store.rooms().count("records") == 4
    assert read_code(repository) == theirs


def test_the_files_of_a_checkpoint_are_healed_too(repository, stage, theirs) -> None:
    publish_code(repository, stage({}))
    doomed = object_of(repository, theirs["c"])
    repository.store.meanwhile = lambda key: key.startswith("records/") and repository.store.delete([doomed])
    publish(
        repository,
        ChunkIndex(repository),
        stage(theirs),
        "auto",
        lambda done: Checkpointed(EXPERIMENT, (CheckpointFacts("c" * 32, NOW, 1, {}, manifest=done.manifest),)),
    )
    (item,) = Repository(repository.store).states()[EXPERIMENT].checkpoints
    assert contents(repository, Repository(repository.store).manifest(item.manifest)) == theirs


def test_an_object_that_is_doomed_is_not_referred_to(repository, stage, theirs) -> None:
    doomed = object_of(repository, theirs["a.bin"])
    repository.put_tombstone([doomed])
    repository.store.written.clear()
    publish_code(repository, stage(theirs))
    repository.store.delete([doomed])
    assert repository.store.rooms() == ["data", "manifests", "records"]
    assert read_code(repository) == theirs


def test_what_became_old_while_files_were_stored_is_looked_up_again(tmp_path, stage) -> None:
    clock = [NOW]
    repository = Repository(Watched(tmp_path / "storage"), now=lambda: clock[0])
    files = {"a.bin": noise(1, SMALL_BYTES + 1), "b.bin": noise(2, SMALL_BYTES + 1)}
    publish_code(repository, stage({"a.bin": files["a.bin"]}), OTHER)
    doomed = object_of(repository, files["a.bin"])

    def pass_time(key: str) -> None:
        if key.startswith("data/") and len(repository.store.rooms()) == 1:
            clock[0] += LIFETIME + timedelta(seconds=1)
            repository.put_tombstone([doomed])

    repository.store.written.clear()
    repository.store.meanwhile = pass_time
    publish_code(repository, stage(files))
    repository.store.delete([doomed])
    assert repository.store.rooms() == ["data", "prune", "data", "manifests", "records"]
    assert read_code(repository) == files


# Any trees.

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and name.casefold() not in (".git", ".replicate")
)
DATA = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 200)).map(lambda pair: pair[0] * pair[1]),
    st.tuples(st.integers(0, 3), st.integers(0, 900)).map(lambda pair: noise(*pair)),
    st.integers(0, 9).map(lambda seed: noise(0, 700) + noise(seed, 100) + noise(1, 300)),
)
TREES = st.dictionaries(NAMES, DATA, max_size=5)


@settings(max_examples=60)
@given(st.lists(st.tuples(TREES, st.sampled_from(["none", "auto", "max"])), min_size=1, max_size=4), st.booleans())
def test_whatever_is_stored_comes_back(snapshots, fresh) -> None:
    """Chunks of 64 bytes, packs of 1.5 KB and large files of 256: small trees have everything that large ones have."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "GRID_BYTES", 64)
        patch.setattr(chunks, "MEMBER_BYTES", 32)
        patch.setattr(writing, "SMALL_BYTES", 256)
        patch.setattr(writing, "PACK_BYTES", 1500)
        repository = Repository(LocalStore(Path(name) / "storage"))
        process, done = ChunkIndex(repository), []
        for number, (files, policy) in enumerate(snapshots):
            links = {f"to/{number}/{at}": f"../../{path}" for at, path in enumerate(files)}
            tree = staged_of(
                Path(name), files, links, ("nothing/here",) if not files.keys() & {"to", "nothing"} else ()
            )
            links = {} if "to" in files else links
            tree = Staged(tree.directory, tree.files, links, tree.directories)
            snapshot = store_snapshot(repository, ChunkIndex(repository) if fresh else process, tree, policy)
            repository.append(Created(f"{number:032}", repository.now(), manifest=snapshot.manifest))
            done.append((snapshot, files, links, tree.directories))
        for snapshot, files, links, directories in done:
            manifest = stored(repository, snapshot)
            assert contents(repository, manifest) == files
            assert (manifest.links, manifest.directories) == (links, directories)
            assert set(snapshot.objects) <= {entry.key for entry in repository.store.list("data/")}


@settings(max_examples=8)
@given(st.dictionaries(NAMES, st.integers(0, 3).map(lambda n: bytes([n]) * 300_000) | DATA))
def test_large_files_come_back(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        repository = Repository(LocalStore(Path(name) / "storage"))
        snapshot = store(repository, staged_of(Path(name), files))
        assert contents(repository, stored(repository, snapshot)) == files
