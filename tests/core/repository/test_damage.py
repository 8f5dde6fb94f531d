"""Flip any byte of a repository: reading says so, or nothing was lost; and no file with wrong content ever appears."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.format.manifest import Part
from replicate_core.machine import environment
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore

CONTENTS = {"train.py": "print('training')\n" * 3, "empty": "", "model.bin": "the weights, all of them"}
METRICS = {"loss": 0.25}


@pytest.fixture
def storage(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage of one small experiment with one checkpoint, which has ended."""
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow
    monkeypatch.setattr(environment, "system", lambda: {"machine": "x86_64"})
    (project / "train.py").write_text(CONTENTS["train.py"])
    (project / "empty").touch()
    (project / "link").symlink_to("train.py")
    experiment = replicate.init({"lr": 0.1})
    (project / "model.bin").write_text(CONTENTS["model.bin"])
    experiment.checkpoint("model.bin", METRICS, ("loss", "minimize"))
    experiment.stop()
    return project / ".replicate/storage"


@dataclass
class Outcome:
    """What reading everything came to."""

    error: replicate.ReplicateError | None
    warned: bool
    complete: bool
    """Whether everything that was recorded was seen."""


def read_everything(output: Path) -> Outcome:
    """List, and check the experiment out; whatever appears must be right."""
    error, seen = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for experiment in replicate.experiments.list():
                seen = (experiment.params, [item.metrics for item in experiment.checkpoints], experiment.status)
                experiment.checkout(output)
        except replicate.ReplicateError as raised:
            error = raised
    appeared = {path.name: path.read_text() for path in output.rglob("*") if path.is_file()} if output.exists() else {}
    assert appeared == {name: (CONTENTS | {"link": CONTENTS["train.py"]})[name] for name in appeared}
    assert not appeared or error is None
    shutil.rmtree(output, ignore_errors=True)
    return Outcome(error, bool(caught), seen == ({"lr": 0.1}, [METRICS], "finished") and len(appeared) == 4)


def flipped(file: Path) -> Iterator[int]:
    """Flip one byte of a file after the other, and put each back; gives where."""
    whole = file.read_bytes()
    for at in range(len(whole)):
        for mask in (0x01, 0x20) if at % 8 == 0 else (0x01,):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            yield at
    file.write_bytes(whole)


def test_undamaged_everything_is_there(storage: Path, tmp_path: Path) -> None:
    assert read_everything(tmp_path / "out") == Outcome(None, warned=False, complete=True)


@pytest.mark.parametrize("kind", ["created", "checkpoints", "ended"])
def test_a_flipped_byte_of_a_record_leaves_it_out_with_a_warning(storage: Path, tmp_path: Path, kind: str) -> None:
    (file,) = storage.rglob(f"records/*/*-{kind}.json")
    for at in flipped(file):
        outcome = read_everything(tmp_path / "out")
        assert outcome.error is None, at
        assert outcome.warned, at
        assert not outcome.complete, at
    assert read_everything(tmp_path / "out").complete


def test_a_flipped_byte_of_a_manifest_is_an_error(storage: Path, tmp_path: Path) -> None:
    manifests = sorted((storage / "manifests").iterdir())
    assert len(manifests) == 2
    for file in manifests:
        for at in flipped(file):
            outcome = read_everything(tmp_path / "out")
            assert isinstance(outcome.error, replicate.Corrupted), at
            assert file.name in str(outcome.error), at
    assert read_everything(tmp_path / "out").complete


def test_a_flipped_byte_of_the_format_is_an_error(storage: Path, tmp_path: Path) -> None:
    for at in flipped(storage / "replicate.json"):
        assert isinstance(read_everything(tmp_path / "out").error, (replicate.Corrupted, replicate.TooNew)), at
    assert read_everything(tmp_path / "out").complete


def test_a_flipped_byte_of_an_object_is_an_error_where_it_belongs_to_a_file(storage: Path, tmp_path: Path) -> None:
    repository = Repository(LocalStore(storage))
    parts = [part for one in repository.store.list("manifests/") for part in parts_of(repository, one.key)]
    assert sum(part.length for part in parts) == sum(map(len, CONTENTS.values()))
    for key in {part.object for part in parts}:
        inside = {at for part in parts if part.object == key for at in range(part.offset, part.offset + part.length)}
        for at in flipped(storage / key):
            if at not in inside and at % 64:  # headers and filling of the tar, of which nothing is read
                continue
            outcome = read_everything(tmp_path / "out")
            if at in inside:
                assert isinstance(outcome.error, replicate.Corrupted), at
                assert key in str(outcome.error), at
            else:
                assert outcome == Outcome(None, warned=False, complete=True), at


def parts_of(repository: Repository, key: str) -> list[Part]:
    return [part for file in repository.manifest(key).files.values() for part in file.parts]


@pytest.mark.parametrize("name", ["replicate.json", "records/*/*", "manifests/*", "data/*/*"])
def test_a_file_that_is_cut_short_is_noticed_or_nothing_is_lost(storage: Path, tmp_path: Path, name: str) -> None:
    for file in sorted(storage.glob(name)):
        whole = file.read_bytes()
        for length in (0, 1, *range(50, len(whole), 50), len(whole) - 1):
            file.write_bytes(whole[:length])
            outcome = read_everything(tmp_path / "out")
            noticed = outcome.error is not None or outcome.warned
            assert noticed or (outcome.complete and length > 1), (file, length)
        file.write_bytes(whole)
    assert read_everything(tmp_path / "out").complete


@pytest.mark.parametrize("name", ["manifests/*", "data/*/*"])
def test_a_file_that_is_gone_is_corrupted(storage: Path, tmp_path: Path, name: str) -> None:
    for file in sorted(storage.glob(name)):
        file.rename(tmp_path / "away")
        outcome = read_everything(tmp_path / "out")
        assert isinstance(outcome.error, replicate.Corrupted)
        assert f"{file.name} is missing" in str(outcome.error)
        (tmp_path / "away").rename(file)
    assert read_everything(tmp_path / "out").complete
