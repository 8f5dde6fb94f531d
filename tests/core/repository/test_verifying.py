"""A check names whatever can't be read back, and whom it hurts; only a deep one reads every byte."""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stores import manifest_key, manifest_of

import replicate_core as replicate
from replicate_core.errors import Corrupted, NotFound, StorageFailed
from replicate_core.format import segments
from replicate_core.format.digest import digest
from replicate_core.format.manifest import Part
from replicate_core.format.record_codec import time_text
from replicate_core.format.records import Deleted
from replicate_core.format.sealed import seal, unseal
from replicate_core.format.segments import Group
from replicate_core.machine import environment
from replicate_core.repository import heartbeats
from replicate_core.repository.compacting import compact
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import Damage, VerifyReport, verify
from replicate_core.storage.local import LocalStore


@pytest.fixture
def storage(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow
    return project / ".replicate/storage"


class Pair:
    """Two experiments that share their code; each has a checkpoint with a file of its own, in an object of its own."""

    def __init__(self, project: Path, storage: Path) -> None:
        self.storage = storage
        self.experiments = []
        (project / "train.py").write_text("print('training')\n" * 20)
        (project / "README").write_text("read me\n")
        for number in range(2):
            experiment = replicate.init({"number": number}, path=None if number else ".")
            (project / "model.bin").write_bytes(b"weights %d" % number * 10)
            (project / "notes.txt").write_bytes(b"notes %d" % number)
            experiment.checkpoint("model.bin", {})
            experiment.checkpoint("notes.txt", {})
            experiment.stop()
            self.experiments.append(experiment)
        self.first, self.second = self.experiments

    def manifest_of(self, checkpoint: replicate.Checkpoint) -> Path:
        return self.storage / manifest_key(checkpoint, self.storage)

    def object_of(self, checkpoint: replicate.Checkpoint) -> Path:
        (key,) = manifest_of(checkpoint, self.storage).object_bytes
        return self.storage / key


@pytest.fixture
def pair(project: Path, storage: Path) -> Pair:
    return Pair(project, storage)


def check(storage: Path, **options: object) -> VerifyReport:
    return verify(Repository(LocalStore(storage)), **options)


def hurt(report: VerifyReport) -> list[tuple[str | None, str | None, str | None]]:
    return [(damage.experiment, damage.checkpoint, damage.path) for damage in report.damages]


class Resumed:
    """An experiment that was gone on with twice, each time with other code, and that has a checkpoint of each run."""

    def __init__(self, project: Path, storage: Path) -> None:
        self.storage = storage
        resume = None
        for number, name in enumerate(["first.py", "second.py", "third.py"]):
            for old in project.glob("*.py"):
                old.unlink()
            (project / name).write_text(f"print({number})\n" * 20)
            (project / "model.bin").write_bytes(os.urandom(100))
            with replicate.init({}, path=name, name="resumed", resume=resume) as experiment:
                experiment.checkpoint("model.bin", {})
            resume = experiment.id
        self.experiment = replicate.experiments.get(experiment.id)
        state = Repository(LocalStore(storage)).states()[experiment.id]
        self.codes = [state.created.manifest, state.checkpoints[1].code, state.code]

    def object_of(self, code: int) -> Path:
        (key,) = Repository(LocalStore(self.storage)).manifest(self.codes[code]).object_bytes
        return self.storage / key


@pytest.fixture
def resumed(project: Path, storage: Path) -> Resumed:
    return Resumed(project, storage)


DEPTHS = pytest.mark.parametrize("deep", [False, True])


@DEPTHS
class TestWhole:
    def test_a_whole_repository_has_no_damages(self, pair: Pair, deep: bool) -> None:
        report = check(pair.storage, deep=deep)
        assert report.damages == ()
        assert report.experiments == 2
        assert report.objects == len([path for path in pair.storage.rglob("data/*/*") if path.is_file()])
        sizes = {"train.py": 360, "README": 8, "weights": 2 * 90, "notes": 2 * 7}
        assert report.bytes_checked == (sum(sizes.values()) if deep else 0)

    def test_so_has_an_empty_one(self, project: Path, storage: Path, deep: bool) -> None:
        assert check(storage, deep=deep) == VerifyReport((), 0, 0, 0)
        assert replicate.Project().verify(deep=deep) == VerifyReport((), 0, 0, 0)
        assert not storage.exists(), "looking makes nothing"

    def test_and_one_without_files(self, project: Path, storage: Path, deep: bool) -> None:
        replicate.init({}, path=None).checkpoint(None, {"loss": 1})
        assert check(storage, deep=deep).damages == ()

    def test_what_nothing_refers_to_is_not_looked_at(self, pair: Pair, deep: bool) -> None:
        pair.object_of(pair.second.checkpoints[0]).write_bytes(b"damaged")
        pair.manifest_of(pair.second.checkpoints[1]).unlink()
        pair.second.delete()
        (pair.storage / "manifests/garbage.json").write_bytes(b"garbage")
        report = check(pair.storage, deep=deep)
        assert (report.damages, report.experiments) == ((), 1)


@DEPTHS
class TestDamages:
    def test_a_missing_object_is_named_with_whom_it_hurts(self, pair: Pair, deep: bool) -> None:
        checkpoint = pair.first.checkpoints[0]
        file = pair.object_of(checkpoint)
        file.unlink()
        report = check(pair.storage, deep=deep)
        key = file.relative_to(pair.storage).as_posix()
        assert report.damages == (Damage(f"the object {key} is missing", pair.first.id, checkpoint.id, "model.bin"),)

    def test_a_truncated_object_is_named_with_whom_it_hurts(self, pair: Pair, deep: bool) -> None:
        checkpoint = pair.second.checkpoints[1]
        file = pair.object_of(checkpoint)
        size = file.stat().st_size
        os.truncate(file, size - 1)
        (damage,) = check(pair.storage, deep=deep).damages
        assert (damage.experiment, damage.checkpoint, damage.path) == (pair.second.id, checkpoint.id, "notes.txt")
        assert f"has {size - 1} bytes, and should have {size}" in damage.problem

    def test_the_code_is_hurt_without_a_checkpoint(self, pair: Pair, deep: bool) -> None:
        (key,) = manifest_of(pair.first, pair.storage).object_bytes
        (pair.storage / key).unlink()
        assert set(hurt(check(pair.storage, deep=deep))) == {
            (pair.first.id, None, "README"),
            (pair.first.id, None, "train.py"),
        }

    def test_an_object_that_several_share_hurts_them_all(self, project: Path, storage: Path, deep: bool) -> None:
        (project / "train.py").write_text("print()" * 100)
        made = [replicate.init({}) for _ in range(3)]
        (file,) = (path for path in storage.rglob("data/*/*") if path.is_file())
        file.unlink()
        assert hurt(check(storage, deep=deep)) == [(experiment.id, None, "train.py") for experiment in made]

    def test_a_missing_manifest_hurts_a_whole_checkpoint(self, pair: Pair, deep: bool) -> None:
        checkpoint = pair.first.checkpoints[1]
        manifest = pair.manifest_of(checkpoint)
        manifest.unlink()
        report = check(pair.storage, deep=deep)
        assert hurt(report) == [(pair.first.id, checkpoint.id, None)]
        assert manifest.name in report.damages[0].problem
        assert "missing" in report.damages[0].problem

    def test_a_damaged_manifest_hurts_a_whole_checkpoint(self, pair: Pair, deep: bool) -> None:
        checkpoint = pair.first.checkpoints[1]
        manifest = pair.manifest_of(checkpoint)
        manifest.write_bytes(manifest.read_bytes().replace(b'"size":7', b'"size":8'))
        report = check(pair.storage, deep=deep)
        assert hurt(report) == [(pair.first.id, checkpoint.id, None)]
        assert manifest.name in report.damages[0].problem

    def test_an_experiment_of_which_the_beginning_is_lost_is_named(self, pair: Pair, deep: bool) -> None:
        (record,) = pair.storage.rglob(f"*{pair.first.id}-created.json")
        record.unlink()
        report = check(pair.storage, deep=deep)
        assert hurt(report) == [(pair.first.id, None, None)]
        assert "the record of its beginning is missing" in report.damages[0].problem
        assert report.experiments == 1
        Repository(LocalStore(pair.storage)).append(Deleted(pair.first.id))
        assert check(pair.storage, deep=deep).damages == ()

    def test_a_damaged_record_is_named_and_the_rest_is_checked(self, pair: Pair, deep: bool) -> None:
        (record,) = pair.storage.rglob(f"*{pair.first.id}-created.json")
        record.write_bytes(record.read_bytes()[:-3])
        pair.object_of(pair.second.checkpoints[0]).unlink()
        report = check(pair.storage, deep=deep)
        assert hurt(report) == [
            (None, None, None),
            (pair.first.id, None, None),
            (pair.second.id, pair.second.checkpoints[0].id, "model.bin"),
        ]
        assert record.name in report.damages[0].problem, "which has the id of the experiment in it"

    def test_several_are_all_named_once(self, pair: Pair, deep: bool) -> None:
        for experiment in pair.experiments:
            pair.object_of(experiment.checkpoints[0]).unlink()
            pair.manifest_of(experiment.checkpoints[1]).unlink()
        report = check(pair.storage, deep=deep)
        assert set(hurt(report)) == {
            (experiment.id, checkpoint.id, path)
            for experiment in pair.experiments
            for checkpoint, path in zip(experiment.checkpoints, ["model.bin", None], strict=True)
        }
        assert len(report.damages) == 4

    def test_a_storage_that_fails_is_no_damage(self, pair: Pair, deep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> None:
            raise StorageFailed("no answer")

        store = LocalStore(pair.storage)
        monkeypatch.setattr(store, "get", failing)
        with pytest.raises(StorageFailed, match="no answer"):
            verify(Repository(store), deep=deep)


@DEPTHS
class TestResumed:
    def test_the_code_of_every_run_is_checked(self, resumed: Resumed, deep: bool) -> None:
        assert len(set(resumed.codes)) == 3
        report = check(resumed.storage, deep=deep)
        assert report.damages == ()
        assert report.objects == 6
        assert report.bytes_checked == (3 * 180 + 3 * 100 if deep else 0)

    @pytest.mark.parametrize(("code", "name"), [*enumerate(["first.py", "second.py", "third.py"])])
    def test_that_of_each_is_named(self, resumed: Resumed, deep: bool, code: int, name: str) -> None:
        resumed.object_of(code).unlink()
        assert hurt(check(resumed.storage, deep=deep)) == [(resumed.experiment.id, None, name)]

    @pytest.mark.parametrize("code", range(3))
    def test_so_is_its_manifest(self, resumed: Resumed, deep: bool, code: int) -> None:
        (resumed.storage / resumed.codes[code]).unlink()
        assert hurt(check(resumed.storage, deep=deep)) == [(resumed.experiment.id, None, None)]

    def test_a_checkpoint_is_checked_with_the_code_that_made_it(self, resumed: Resumed, deep: bool) -> None:
        resumed.object_of(1).unlink()
        report = replicate.Project().verify([resumed.experiment.checkpoints[1].id], deep=deep)
        assert hurt(report) == [(resumed.experiment.id, None, "second.py")]


class TestDeep:
    def test_only_a_deep_check_finds_a_flipped_byte(self, pair: Pair) -> None:
        checkpoint = pair.second.checkpoints[0]
        file = pair.object_of(checkpoint)
        data = file.read_bytes()
        at = data.index(b"weights")
        file.write_bytes(data[:at] + b"W" + data[at + 1 :])
        assert check(pair.storage).damages == ()
        (damage,) = check(pair.storage, deep=True).damages
        assert (damage.experiment, damage.checkpoint, damage.path) == (pair.second.id, checkpoint.id, "model.bin")
        assert file.relative_to(pair.storage).as_posix() in damage.problem

    def test_every_flipped_byte_that_belongs_to_a_file_is_found_and_blamed_on_that_file(self, pair: Pair) -> None:
        repository = Repository(LocalStore(pair.storage))
        flipped = 0
        for owner, part in self.parts(repository, pair):
            file = pair.storage / part.object
            whole = file.read_bytes()
            for at in range(part.offset, part.offset + part.stored_bytes):
                damaged = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
                file.write_bytes(damaged)
                found = hurt(verify(repository, deep=True))
                if self.is_harmless(part, damaged):
                    assert found, (owner, at)
                    assert all(path is None for _, _, path in found), "no file is hurt, only the pack"
                else:
                    assert found == [owner], (owner, at)
                    flipped += 1
            file.write_bytes(whole)
        assert flipped > 200
        assert verify(repository, deep=True).damages == ()

    def test_every_flipped_byte_of_a_pack_is_found_between_its_members_too(self, pair: Pair) -> None:
        repository = Repository(LocalStore(pair.storage))
        packs = sorted(pair.storage.rglob("*.tar"))
        assert packs
        for pack in packs:
            whole = pack.read_bytes()
            for at in range(0, len(whole), 7):
                pack.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
                assert verify(repository, deep=True).damages, (pack.name, at)
            pack.write_bytes(whole)
        assert verify(repository, deep=True).damages == ()

    def parts(self, repository: Repository, pair: Pair) -> Iterator[tuple[tuple[str, str | None, str], Part]]:
        for experiment in pair.experiments:
            state = repository.states()[experiment.id]
            snapshots = [(None, state.created.manifest)]
            snapshots += [(facts.id, facts.manifest) for facts in state.checkpoints]
            for checkpoint, manifest in snapshots:
                for path, file in repository.manifest(manifest).files.items() if manifest else ():
                    for part in file.parts:
                        yield (experiment.id, checkpoint, path), part

    def is_harmless(self, part: Part, damaged: bytes) -> bool:
        """Tell whether gzip gives the same bytes nevertheless: its time stamp, or another way to say the same."""
        if part.encoding is None:
            return False
        try:
            data = gzip.decompress(damaged[part.offset : part.offset + part.stored_bytes])
        except (OSError, EOFError, zlib.error):
            return False
        return digest(data) == part.digest

    def test_a_part_that_many_share_is_read_once(self, project: Path, storage: Path) -> None:
        data = os.urandom(300_000)
        (project / "model").write_bytes(data)
        experiment = replicate.init({}, path=None)
        for _ in range(5):
            experiment.checkpoint("model", {})
        assert check(storage, deep=True).bytes_checked == len(data)
        parts: list[Part] = [
            part for one in experiment.checkpoints for part in manifest_of(one, storage).files["model"].parts
        ]
        assert len(set(parts)) == len(parts) / 5
        file = storage / parts[0].object
        file.write_bytes(b"?" + file.read_bytes()[1:])
        assert hurt(check(storage, deep=True)) == [
            (experiment.id, checkpoint.id, "model") for checkpoint in experiment.checkpoints
        ]

    def test_it_tells_how_far_it_is(self, pair: Pair) -> None:
        seen: list[tuple[int, int]] = []
        report = check(pair.storage, deep=True, progress=lambda done, total: seen.append((done, total)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (report.bytes_checked, report.bytes_checked)
        assert {total for _, total in seen} == {report.bytes_checked}

    def test_an_object_that_vanishes_meanwhile_is_damage(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = pair.first.checkpoints[0]
        file = pair.object_of(checkpoint)
        store = LocalStore(pair.storage)
        listed = store.list("data/")
        file.unlink()
        monkeypatch.setattr(
            store, "list", lambda prefix: listed if prefix == "data/" else LocalStore.list(store, prefix)
        )
        report = verify(Repository(store), deep=True)
        assert hurt(report) == [(pair.first.id, checkpoint.id, "model.bin")]
        assert "is missing" in report.damages[0].problem


class TestChosen:
    @pytest.fixture
    def broken(self, pair: Pair) -> Pair:
        for experiment in pair.experiments:
            for checkpoint in experiment.checkpoints:
                pair.object_of(checkpoint).unlink()
        return pair

    def test_an_experiment_is_checked_with_its_checkpoints(self, broken: Pair) -> None:
        report = replicate.Project().verify([broken.first.id])
        assert {damage.experiment for damage in report.damages} == {broken.first.id}
        assert len(report.damages) == 2
        assert report.experiments == 1

    def test_a_checkpoint_is_checked_with_the_code_it_needs(self, broken: Pair) -> None:
        chosen, other = broken.first.checkpoints
        report = replicate.Project().verify([chosen.short_id])
        assert hurt(report) == [(broken.first.id, chosen.id, "model.bin")]
        (key,) = manifest_of(broken.first, broken.storage).object_bytes
        (broken.storage / key).unlink()
        assert {damage.checkpoint for damage in replicate.Project().verify([chosen.id]).damages} == {chosen.id, None}
        assert other.id not in {damage.checkpoint for damage in replicate.Project().verify([chosen.id]).damages}

    def test_several_are_checked_together(self, broken: Pair) -> None:
        chosen = [broken.first.checkpoints[0].id, broken.second.id]
        report = replicate.Project().verify(chosen)
        assert {damage.checkpoint for damage in report.damages} == {
            chosen[0],
            *(checkpoint.id for checkpoint in broken.second.checkpoints),
        }

    def test_what_is_not_there_is_not_found(self, broken: Pair) -> None:
        with pytest.raises(NotFound, match="'zzz'"):
            replicate.Project().verify([broken.first.id, "zzz"])

    def test_without_any_all_are_checked(self, broken: Pair) -> None:
        assert len(replicate.Project().verify().damages) == 4


def keyless(path: Path) -> None:
    """Make a document what an earlier version wrote: one that does not say under which key it stands."""
    document = unseal(path.read_bytes(), key=path.name)
    assert isinstance(document, dict)
    del document["key"]
    path.write_bytes(seal(document))


class TestSwapped:
    """A whole document in the place of another one is found by whoever reads it."""

    @pytest.fixture
    def alike(self, project: Path, storage: Path) -> list[replicate.Checkpoint]:
        """Two checkpoints of equal size."""
        experiment = replicate.init({}, path=None)
        for number in range(2):
            (project / "model.bin").write_bytes(b"weights %d" % number * 10)
            experiment.checkpoint("model.bin", {})
        experiment.stop()
        return list(experiment.checkpoints)

    @pytest.mark.parametrize("deep", [False, True], ids=["sizes", "deep"])
    def test_a_manifest_in_the_place_of_another_is_damage(self, storage: Path, alike, deep: bool) -> None:
        first, second = alike
        shutil.copy(storage / manifest_key(first, storage), storage / manifest_key(second, storage))
        (damage,) = check(storage, deep=deep).damages
        assert (damage.experiment, damage.checkpoint) == (second.experiment_id, second.id)
        assert f"{manifest_key(second, storage)} holds what belongs under another key" in damage.problem

    def test_a_manifest_in_the_place_of_another_is_never_read(self, project: Path, storage: Path, alike) -> None:
        first, second = alike
        shutil.copy(storage / manifest_key(first, storage), storage / manifest_key(second, storage))
        later = replicate.experiments.get(second.experiment_id).checkpoints[1]
        with pytest.raises(Corrupted, match="belongs under another key"):
            later.open("model.bin")
        with pytest.raises(Corrupted, match="belongs under another key"):
            later.checkout(project / "out")
        assert replicate.experiments.get(second.experiment_id).checkpoints[0].open().read() == b"weights 0" * 10

    def test_a_record_in_the_place_of_another_is_damage(self, storage: Path, alike) -> None:
        first, second = sorted(storage.glob("records/*/*-checkpoints.json"))[:2]
        shutil.copy(first, second)
        for deep in (False, True):
            (damage,) = check(storage, deep=deep).damages
            assert f"{second.name} holds what belongs under another key" in damage.problem
        with pytest.warns(UserWarning, match="left out of the listing: .* belongs under another key"):
            (experiment,) = replicate.experiments.list()
        assert [checkpoint.id for checkpoint in experiment.checkpoints] == [alike[0].id]

    def test_of_an_earlier_version_a_record_must_be_of_the_experiment_and_kind_of_its_key(self, pair: Pair) -> None:
        for path in pair.storage.glob("records/*/*.json"):
            keyless(path)
        (created,) = pair.storage.glob(f"records/*/*-{pair.first.id}-created.json")
        (other,) = pair.storage.glob(f"records/*/*-{pair.second.id}-created.json")
        (ended,) = pair.storage.glob(f"records/*/*-{pair.second.id}-ended.json")
        shutil.copy(created, other)
        shutil.copy(ended, created)
        problems = [damage.problem for damage in check(pair.storage).damages]
        assert sum("it was copied or moved there" in problem for problem in problems) == 2
        with pytest.warns(UserWarning, match="copied or moved there"):
            assert len(replicate.experiments.list()) == 0

    def test_of_an_earlier_version_a_manifest_must_list_as_much_as_was_recorded(
        self, project: Path, pair: Pair
    ) -> None:
        for path in pair.storage.glob("manifests/*.json"):
            keyless(path)
        model, notes = pair.first.checkpoints
        shutil.copy(pair.manifest_of(model), pair.manifest_of(notes))
        (damage,) = check(pair.storage).damages
        assert (damage.checkpoint, "another snapshot" in damage.problem) == (notes.id, True)
        later = replicate.experiments.get(pair.first.id).checkpoints[1]
        for read in (later.open, lambda: later.checkout(project / "out")):
            with pytest.raises(Corrupted, match="90 bytes of files, but 7 were recorded"):
                read()

    def test_what_of_an_earlier_version_cannot_be_told_is_counted(self, storage: Path, alike) -> None:
        assert check(storage).keyless == 0
        documents = [*storage.glob("manifests/*.json"), *storage.glob("records/*/*.json")]
        for path in documents:
            keyless(path)
        assert check(storage) == replace(check(storage), damages=(), keyless=len(documents))

    def test_an_emptied_repository_is_not_one_of_another_kind(self, storage: Path, alike) -> None:
        (record, *_) = storage.glob("records/*/*.json")
        shutil.copy(record, storage / "replicate.json")
        with pytest.raises(Corrupted, match=r"replicate\.json in .* can't be understood"):
            replicate.experiments.list()


class TestWhatIsDerived:
    """Segments, tombstones and heartbeats: damage to them loses nothing, and is named."""

    def problem(self, storage: Path) -> str:
        (damage,) = check(storage).damages
        assert (damage.experiment, damage.checkpoint, damage.path) == (None, None, None)
        return damage.problem

    @pytest.fixture
    def segment(self, pair: Pair) -> Path:
        compact(Repository(LocalStore(pair.storage)))
        (segment,) = pair.storage.glob("segments/*")
        assert check(pair.storage).damages == ()
        return segment

    def test_every_damaged_byte_of_a_segment_that_matters_is_named(self, pair: Pair, segment: Path) -> None:
        whole = segment.read_bytes()
        for at in range(0, len(whole), 101):
            segment.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            damages = check(pair.storage).damages
            assert all(segment.name in damage.problem for damage in damages)
            assert damages or replicate.experiments.list(), "a byte that gzip does not look at"
        segment.write_bytes(whole[: len(whole) // 2])
        assert "replicate compact" in self.problem(pair.storage)

    def test_a_segment_that_says_what_the_records_do_not_say_is_named(self, pair: Pair, segment: Path) -> None:
        store = LocalStore(pair.storage)
        key = f"segments/{segment.name}"
        good = segments.decode(store.get(key), key=key)
        for summary in (None, next(iter(good.pieces.values())).summary):
            groups = [Group(piece.experiment, summary, good.lines(piece)) for piece in good.pieces.values()]
            store.put(key, segments.encode(key, groups))
            assert "its summary of the experiment" in self.problem(pair.storage)
        compact(Repository(store), rebuild=True)
        assert check(pair.storage).damages == ()

    def test_a_segment_that_holds_a_record_which_is_not_there_is_named(self, pair: Pair, segment: Path) -> None:
        next(pair.storage.glob("records/*/*-ended.json")).unlink()
        assert "says something else, or does not exist" in self.problem(pair.storage)

    def test_a_segment_that_holds_all_that_is_left_of_a_damaged_record_is_not_blamed(self, pair, segment) -> None:
        record = next(pair.storage.glob("records/*/*-ended.json"))
        record.write_bytes(b"")
        assert record.name in self.problem(pair.storage)

    def test_a_segment_of_another_format_is_left_to_those_who_know_it(self, pair: Pair, segment: Path) -> None:
        head = unseal(segments._unpack(segment.read_bytes(), 1 << 20, "")[0], key="")
        segment.write_bytes(gzip.compress(seal({**head, "format": 2})))
        assert check(pair.storage).damages == ()

    def test_nan_among_the_metrics_is_no_difference(self, project: Path, storage: Path) -> None:
        experiment = replicate.init({"nan": float("nan")}, path=None)
        experiment.checkpoint(None, {"loss": float("nan")})
        experiment.stop()
        compact(Repository(LocalStore(storage)))
        assert check(storage).damages == ()

    def test_a_tombstone_that_is_none_is_named(self, pair: Pair) -> None:
        repository = Repository(LocalStore(pair.storage))
        key = repository.put_tombstone([f"manifests/{'0' * 26}.json"])
        assert check(pair.storage).damages == ()
        shutil.copy(pair.storage / key, pair.storage / f"prune/{'0' * 26}.json")
        assert f"the tombstone prune/{'0' * 26}.json can't be used" in self.problem(pair.storage)
        assert "delete it" in self.problem(pair.storage)

    def test_a_heartbeat_in_the_place_of_another_is_named_and_not_believed(self, pair: Pair) -> None:
        repository = Repository(LocalStore(pair.storage))
        sign = Heartbeat(pair.first.id, None, repository.now(), "host", 1, 0)
        heartbeats.beat(repository, sign)
        assert check(pair.storage).damages == ()
        key = f"heartbeats/{pair.second.id}.json"
        for forged in (
            repository.store.get(f"heartbeats/{pair.first.id}.json"),
            seal({"experiment": pair.first.id, "time": time_text(sign.time), "host": "h", "process": 1, "waiting": 0}),
            seal({"experiment": pair.second.id}),
        ):
            repository.store.put(key, forged)
            assert key in self.problem(pair.storage)
            assert heartbeats.last(repository, {pair.second.id: None}) == {}

    def test_what_is_not_ours_is_not_looked_at(self, pair: Pair) -> None:
        for key in (
            "prune/x.json",
            "segments/mine.jsonl.gz",
            "heartbeats/x.json",
            "records/x.json",
            "records/d/x.json",
        ):
            LocalStore(pair.storage).put(key, b"theirs")
        assert check(pair.storage).damages == ()
        assert len(replicate.experiments.list()) == 2
