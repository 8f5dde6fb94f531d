"""Snapshots are stored as plain objects and tar packs, the manifest last; and every byte of them comes back."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core import writing
from replicate_core.chunks import GRID_BYTES
from replicate_core.documents import digest
from replicate_core.errors import StorageFailed
from replicate_core.manifest import Manifest
from replicate_core.reading import read_parts
from replicate_core.repository import Repository
from replicate_core.spool import SMALL_BYTES, Staged, StagedFile
from replicate_core.store import LocalStore
from replicate_core.writing import Snapshot, store_snapshot


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(LocalStore(tmp_path / "storage"))


@pytest.fixture
def stage(tmp_path: Path):
    """Makes a staged snapshot of contents: in memory what is small, on disk what is large."""
    return lambda contents, **more: staged(tmp_path, contents, **more)


def staged(tmp_path: Path, contents: dict[str, bytes], links=None, directories=(), mode: int = 0o644) -> Staged:
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    files = []
    for number, (path, data) in enumerate(contents.items()):
        content: bytes | Path = data
        if len(data) > SMALL_BYTES:
            content = directory / str(number)
            content.write_bytes(data)
        files.append(StagedFile(path, mode, content, len(data)))
    return Staged(directory, tuple(files), links or {}, directories)


def stored(repository: Repository, snapshot: Snapshot) -> Manifest:
    return Repository(repository.store).manifest(snapshot.manifest)


def contents(repository: Repository, manifest: Manifest) -> dict[str, bytes]:
    return {path: b"".join(read_parts(repository, file)) for path, file in manifest.files.items()}


def objects(repository: Repository) -> dict[str, bytes]:
    return {entry.key: repository.store.get(entry.key) for entry in repository.store.list("data/")}


def test_a_large_file_is_one_object_byte_for_byte(repository: Repository, stage) -> None:
    data = os.urandom(2 * GRID_BYTES + 5)
    manifest = stored(repository, store_snapshot(repository, stage({"out/model.safetensors": data})))
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
    store_snapshot(repository, stage({name: bytes(SMALL_BYTES + 1)}))
    (key,) = objects(repository)
    assert key.rpartition("/")[2].partition("-")[2][16:] == extension


def test_small_files_are_members_of_a_tar_that_any_tool_reads(repository: Repository, stage) -> None:
    files = {"train.py": b"print()\n", "données/模型.txt": b"x" * 700, "long/" * 40 + "name": b"deep", "empty": b""}
    manifest = stored(repository, store_snapshot(repository, stage(files, mode=0o755)))
    ((key, pack),) = objects(repository).items()
    assert key.endswith(".tar")
    with tarfile.open(fileobj=io.BytesIO(pack)) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == files
        assert {member.mode for member in tar} == {0o755}
    assert contents(repository, manifest) == files
    assert list(manifest.files) == list(files)


def test_empty_files_need_no_object(repository: Repository, stage) -> None:
    snapshot = store_snapshot(repository, stage({"a": b"", "b": b""}))
    assert objects(repository) == {}
    assert (snapshot.size_bytes, snapshot.stored_bytes) == (0, 0)
    assert contents(repository, stored(repository, snapshot)) == {"a": b"", "b": b""}


def test_a_snapshot_of_nothing_is_a_manifest_of_nothing(repository: Repository, stage) -> None:
    assert stored(repository, store_snapshot(repository, stage({}))) == Manifest()


def test_links_and_empty_directories_are_in_the_manifest(repository: Repository, stage) -> None:
    snapshot = store_snapshot(repository, stage({"a": b"1"}, links={"b": "a"}, directories=("c/d",)))
    manifest = stored(repository, snapshot)
    assert (manifest.links, manifest.directories) == ({"b": "a"}, ("c/d",))


def test_sizes_are_those_of_the_files_and_of_the_objects(repository: Repository, stage) -> None:
    snapshot = store_snapshot(repository, stage({"small": b"123", "large": bytes(SMALL_BYTES + 1)}))
    assert snapshot.size_bytes == 3 + SMALL_BYTES + 1
    assert snapshot.stored_bytes == sum(map(len, objects(repository).values()))


def test_a_pack_that_is_full_is_closed(repository: Repository, stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 100)
    files = {f"{number}.txt": bytes([number]) * 60 for number in range(5)}
    manifest = stored(repository, store_snapshot(repository, stage(files)))
    assert len(objects(repository)) == len(manifest.object_bytes) == 3
    assert contents(repository, manifest) == files


def test_a_large_file_in_memory_and_a_small_one_on_disk_are_stored_all_the_same(repository, tmp_path: Path) -> None:
    grown, small = os.urandom(SMALL_BYTES + 1), b"small"
    (tmp_path / "copy").write_bytes(small)
    files = (StagedFile("grown", 0o644, grown, len(grown)), StagedFile("small", 0o600, tmp_path / "copy", 5))
    snapshot = store_snapshot(repository, Staged(tmp_path, files, {}, ()))
    assert contents(repository, stored(repository, snapshot)) == {"grown": grown, "small": small}


def test_the_manifest_is_written_after_every_object(repository: Repository, stage, monkeypatch) -> None:
    written: list[str] = []
    put, put_file = repository.store.put, repository.store.put_file
    monkeypatch.setattr(repository.store, "put", lambda key, data: (written.append(key), put(key, data)))
    monkeypatch.setattr(repository.store, "put_file", lambda key, path: (written.append(key), put_file(key, path)))
    store_snapshot(repository, stage({"large": bytes(SMALL_BYTES + 1), "small": b"1"}))
    assert [key.partition("/")[0] for key in written] == ["data", "data", "manifests"]


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_storage_that_fails_on_the_way_gets_no_manifest(repository, stage, monkeypatch, allowed: int) -> None:
    put_file, calls = repository.store.put_file, []

    def failing(key: str, path: Path) -> None:
        calls.append(key)
        if len(calls) > allowed:
            raise StorageFailed("no more")
        put_file(key, path)

    monkeypatch.setattr(repository.store, "put_file", failing)
    with pytest.raises(StorageFailed, match="no more"):
        store_snapshot(repository, stage({"large": bytes(SMALL_BYTES + 1), "small": b"1"}))
    assert repository.store.list("manifests/") == []
    assert len(objects(repository)) == allowed


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=25)
@given(
    st.dictionaries(NAMES, st.one_of(st.binary(max_size=700), st.integers(0, 3).map(lambda n: bytes([n]) * 300_000)))
)
def test_whatever_is_stored_comes_back(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        repository = Repository(LocalStore(Path(name) / "storage"))
        snapshot = store_snapshot(repository, staged(Path(name), files))
        assert contents(repository, stored(repository, snapshot)) == files
