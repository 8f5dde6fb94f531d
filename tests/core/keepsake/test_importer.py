"""Repositories of Keepsake 0.4 and of the first replicate are taken over: ids kept, files whole, nothing twice."""

import gzip
import io
import json
import math
import os
import shutil
import tarfile
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import fsspec
import pytest

import replicate_core as replicate
from replicate_core.format.records import Released
from replicate_core.keepsake import importer
from replicate_core.repository import compacting
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore
from replicate_core.workspace import Workspace

DATA = Path(__file__).parents[2] / "data"
ONE, MADE = "a1" * 32, "b2" * 32


@pytest.fixture
def keepsake(tmp_path: Path) -> Path:
    """A copy of what Keepsake 0.4.2 itself has written."""
    return Path(shutil.copytree(DATA / "keepsake", tmp_path / "keepsake"))


@pytest.fixture
def of_2020(tmp_path: Path) -> Path:
    """A copy of a repository of 2020."""
    return Path(shutil.copytree(DATA / "replicate-2020", tmp_path / "replicate-2020"))


def take_over(source: object, **options: object) -> list[replicate.ImportResult]:
    return replicate.Project().import_from(str(source), **options)


def only(**fields: object) -> replicate.ImportResult:
    """What came of a repository of one experiment with one checkpoint, written here."""
    (found,) = take_over(fields.pop("source", "old"), **fields)
    return found


def write(members: dict[str, object] | None = None, *, checkpoint: dict | None = None, root: str = "old") -> Path:
    """Write a repository whose checkpoint has an archive of these members: a path to bytes, or to a `TarInfo`."""
    made = {"id": MADE, "created": "2021-01-01T00:01:00Z", "path": "out", "step": 3, "metrics": {"loss": 0.5}}
    document = {"id": ONE, "created": "2021-01-01T00:00:00Z", "checkpoints": [{**made, **(checkpoint or {})}]}
    target = Path(root, "metadata/experiments", f"{ONE}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document))
    archive = Path(root, "checkpoints", f"{MADE}.tar.gz")
    if members is not None:
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:gz") as tar:
            for name, content in members.items():
                if isinstance(content, bytes):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                else:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = content
                    tar.addfile(info)
    return archive


def code_of_one(members: dict[str, bytes]) -> Path:
    """Write an archive of the code of that experiment, and say in its document that it was saved."""
    document = Path("old/metadata/experiments", f"{ONE}.json")
    document.write_text(json.dumps({**json.loads(document.read_text()), "path": "."}))
    archive = Path("old/experiments", f"{ONE}.tar.gz")
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive


def links_to(target: str) -> tuple[bytes, str]:
    return tarfile.SYMTYPE, target


class TestKeepsake:
    def test_everything_comes_over(self, keepsake: Path, project: Path, tmp_path: Path) -> None:
        results = {result.checkpoints: result for result in take_over(keepsake)}
        assert [result.outcome for result in results.values()] == ["imported", "imported"]
        assert all(not result.notes and not result.damages for result in results.values())
        first, second = replicate.experiments.list()

        assert (results[5].experiment, results[0].experiment) == (first.id, second.id)
        assert len(first.id) == 64
        assert first.created.isoformat().startswith("2026-11-24T09:20:07")
        assert first.params == {"lr": 0.1, "layers": [64, 32], "deep": '{"none": null, "inf": Infinity}'}
        assert (first.status, first.path, first.python_version) == ("finished", ".", "3.11.7")
        assert first.packages == {"keepsake": "0.4.2"}
        assert first.config["imported"] == {"from": str(keepsake), "program": "keepsake", "version": "0.4.2"}
        assert (second.params, second.path, len(second.checkpoints)) == ({}, None, 0)

        steps = [(item.step, item.path) for item in first.checkpoints]
        assert steps == [(0, "model.txt"), (10, "model.txt"), (20, "model.txt"), (21, None), (22, "logs")]
        assert [item.metrics.get("loss") for item in first.checkpoints[:2]] == [0.5, 0.25]
        assert math.isnan(first.checkpoints[2].metrics["loss"])
        assert first.best().step == 10
        assert first.best().open().read() == b"weights of step 1\n"
        assert first.latest().files == {"logs/first.log": 7}
        first.best().checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "import keepsake\n" * 20
        assert sorted(os.listdir(tmp_path / "out")) == ["keepsake.yaml", "model.txt", "notes", "train.py"]

    def test_a_file_may_name_where_it_lies(self, keepsake: Path, project: Path, tmp_path: Path) -> None:
        (tmp_path / "old.yaml").write_text(f"storage: {keepsake}\n")
        results = replicate.Project().import_from("../old.yaml")
        assert [result.outcome for result in results] == ["imported", "imported"]

    def test_again_nothing_comes_twice(self, keepsake: Path, project: Path) -> None:
        take_over(keepsake)
        before = sorted(project.rglob("*"))
        assert {result.outcome for result in take_over(keepsake)} == {"present"}
        assert sorted(project.rglob("*")) == before
        assert replicate.Project().verify(deep=True).damages == ()

    def test_what_was_broken_off_is_completed(self, keepsake: Path, project: Path, monkeypatch) -> None:
        plain, left = Repository.append, iter(range(5))

        def append(self: Repository, record: object) -> str:
            if next(left, None) is None:
                raise replicate.StorageFailed("the network is down")
            return plain(self, record)

        with monkeypatch.context() as patched:
            patched.setattr(Repository, "append", append)
            with pytest.raises(replicate.StorageFailed):
                take_over(keepsake)
        results = take_over(keepsake)
        assert sorted(result.outcome for result in results) == ["completed", "present"]
        (first, _) = replicate.experiments.list()
        assert [item.step for item in first.checkpoints] == [0, 10, 20, 21, 22]
        assert first.status == "finished"
        assert replicate.Project().verify(deep=True).damages == ()

    def test_what_has_grown_since_is_completed(self, project: Path) -> None:
        write()
        only()
        document = Path("old/metadata/experiments", f"{ONE}.json")
        content = json.loads(document.read_text())
        later = {**content["checkpoints"][0], "id": "c3" * 32, "created": "2021-01-01T00:02:00Z", "path": None}
        document.write_text(json.dumps({**content, "checkpoints": [*content["checkpoints"], later]}))
        result = only()
        assert (result.outcome, result.checkpoints) == ("completed", 1)
        experiment = replicate.experiments.get(ONE)
        assert [item.id for item in experiment.checkpoints] == [MADE, "c3" * 32]
        assert (experiment.status, experiment.duration) == ("finished", timedelta(minutes=2))
        assert only().outcome == "present"

    def test_what_was_deleted_here_stays_deleted(self, keepsake: Path, project: Path) -> None:
        take_over(keepsake)
        first, second = replicate.experiments.list()
        first.checkpoints[0].delete()
        second.delete()
        outcomes = {result.experiment: result.outcome for result in take_over(keepsake)}
        assert outcomes == {first.id: "present", second.id: "deleted"}
        (left,) = replicate.experiments.list()
        assert len(left.checkpoints) == 4

    def test_nothing_is_changed_where_it_came_from(self, keepsake: Path, project: Path) -> None:
        def content() -> dict[Path, bytes]:
            return {path: path.read_bytes() for path in keepsake.rglob("*") if path.is_file()}

        before = content()
        take_over(keepsake)
        assert content() == before

    def test_a_trial_stores_nothing(self, keepsake: Path, project: Path) -> None:
        results = take_over(keepsake, dry_run=True)
        assert sorted(result.checkpoints for result in results) == [0, 5]
        assert max(result.size_bytes for result in results) == 410
        assert not (project / ".replicate/storage").exists()

    def test_what_others_share_is_stored_once(self, project: Path) -> None:
        data = os.urandom(1 << 20)
        write({f"{MADE}/out/model": data})
        Path("model").write_bytes(data)
        replicate.init({}, path=None).checkpoint("model", {})
        only()
        assert sum(path.stat().st_size for path in project.glob(".replicate/storage/data/*/*")) < 1.1 * len(data)

    def test_from_any_storage_to_any_storage(self, keepsake: Path, project: Path) -> None:
        name = uuid.uuid4().hex
        memory = fsspec.filesystem("memory")
        memory.put(f"{keepsake}/", f"/{name}/old/", recursive=True)
        here = replicate.Project(storage=f"memory://{name}/new")
        here.import_from(f"memory://{name}/old")
        assert here.experiments.list()[0].best().open().read() == b"weights of step 1\n"
        assert here.experiments.list()[0].config["imported"]["from"] == f"memory://{name}/old"

    def test_with_what_the_driver_of_the_project_is_told(self, project: Path) -> None:
        told = {"secret": "${REPLICATE_TEST_UNSET}"}
        here = replicate.Project(storage="s3://bucket", storage_options=told)
        with pytest.raises(replicate.ConfigInvalid, match="REPLICATE_TEST_UNSET"):
            here.import_from("s3://old")

    def test_many_records_are_put_together(self, keepsake: Path, project: Path, monkeypatch) -> None:
        monkeypatch.setattr(compacting, "UNCOVERED_MAX", 2)
        take_over(keepsake, dry_run=True)
        take_over(keepsake)
        assert len(list(project.glob(".replicate/storage/segments/*"))) == 1
        assert len(replicate.experiments.list()) == 2

    def test_how_far_it_is(self, keepsake: Path, project: Path) -> None:
        seen: list[tuple[int, int]] = []
        take_over(keepsake, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 2), (2, 2)]


class TestTheFirstReplicate:
    def test_everything_comes_over(self, of_2020: Path, project: Path, tmp_path: Path) -> None:
        assert [result.outcome for result in take_over(of_2020)] == ["imported", "imported"]
        older, newer = replicate.experiments.list()
        assert (older.id, newer.id) == ("b2" * 32, "a1" * 32)
        assert (newer.params, newer.user, newer.host) == ({"learning_rate": 0.2}, "ben", "10.1.1.1")
        assert newer.command == "train.py --password=[redacted]"
        assert "secret" not in str(newer.config)
        assert newer.duration == timedelta(minutes=30, microseconds=499_999), "until its last heartbeat"
        assert [(item.step, item.path) for item in newer.checkpoints] == [(0, "weights"), (1, "data"), (2, None)]
        assert newer.best().metrics == {"loss": 0.25}
        newer.checkout(tmp_path / "out")
        files = {path.name: path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert files == {"train.py": "print(1 + 1)\n", "model.py": "layers = 3\n", "weights": "1.3kg"}

    def test_before_checkpoints_had_metrics_they_had_labels(self, of_2020: Path, project: Path) -> None:
        take_over(of_2020)
        older = replicate.experiments.list()[0]
        assert older.primary_metric == ("accuracy", "maximize")
        assert older.best().metrics == {"accuracy": 0.9, "loss": 0.1}
        assert older.path == ".", "all of the project was saved, without saying so"

    def test_its_storage_may_be_ours(self, of_2020: Path, project: Path) -> None:
        shutil.copytree(of_2020, ".replicate/storage")
        take_over(".replicate/storage")
        assert {result.outcome for result in take_over(".replicate/storage")} == {"present"}
        assert len(replicate.experiments.list()) == 2

    def test_checkpoints_that_can_not_be_read_are_named(self, of_2020: Path, project: Path) -> None:
        (of_2020 / f"metadata/checkpoints/{'c3' * 32}.json").write_text("{")
        failed = take_over(of_2020)[-1]
        assert (failed.experiment, failed.outcome) == ("c3" * 32, "failed")
        assert "can't be understood" in failed.damages[0]
        assert len(replicate.experiments.get("a1").checkpoints) == 2

    def test_a_file_that_shrinks_meanwhile_is_damage(self, of_2020: Path, project: Path, monkeypatch) -> None:
        plain = importer._OldRepository.of

        def of(store: object) -> importer._OldRepository:
            old = plain(store)
            (of_2020 / f"checkpoints/{'c3' * 32}/weights").write_text("1")
            (of_2020 / f"checkpoints/{'d4' * 32}/data/weights").unlink()
            return old

        monkeypatch.setattr(importer._OldRepository, "of", of)
        result = take_over(of_2020)[0]
        assert "has 1 bytes, but was listed with 5" in result.damages[0]
        assert "was listed, and is not there" in result.damages[1]


class TestWhatLacks:
    def test_files_that_were_deleted_are_noted_and_the_metrics_kept(self, project: Path) -> None:
        write()
        result = only()
        assert (result.outcome, result.damages) == ("imported", ())
        assert result.notes == (
            "the files of the checkpoint b2b2b2b are not there: they were deleted, or never stored",
        )
        (made,) = replicate.experiments.get(ONE).checkpoints
        assert (made.metrics, made.lacks_files) == ({"loss": 0.5}, True)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data[:9000] + bytes([data[9000] ^ 1]) + data[9001:],
            lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:],
            lambda data: b"no archive",
            lambda data: b"",
            lambda data: gzip.compress(b"no tar" * 1000),
            lambda data: gzip.compress(gzip.decompress(data)[:15_000]) + b"something else",
        ],
        ids=["cut", "a flipped bit", "another checksum", "another file", "empty", "no tar", "half"],
    )
    def test_damaged_files_are_named_and_the_metrics_kept(self, project: Path, spoil) -> None:
        archive = write({f"{MADE}/out/model": os.urandom(20_000)})
        archive.write_bytes(spoil(archive.read_bytes()))
        result = only()
        assert "the files of the checkpoint b2b2b2b can't be read, and are missing here" in result.damages[0]
        (made,) = replicate.experiments.get(ONE).checkpoints
        assert (made.metrics, made.lacks_files) == ({"loss": 0.5}, True)
        again = only()
        assert (again.outcome, again.damages) == ("present", result.damages), "and it is named again"

    def test_once_mended_they_come_over(self, project: Path, tmp_path: Path) -> None:
        archive = write({f"{MADE}/out/model": b"weights"})
        code = code_of_one({f"{ONE}/train.py": b"print(1)"})
        whole = {path: path.read_bytes() for path in (archive, code)}
        for path in whole:
            path.write_bytes(b"damaged")
        assert len(only().damages) == 2
        for path, content in whole.items():
            path.write_bytes(content)
        assert only(dry_run=True).outcome == "completed"
        result = only()
        assert (result.outcome, result.checkpoints, result.damages) == ("completed", 0, ())
        assert result.notes == (
            "the files of the code were missing here, and are imported now",
            "the files of the checkpoint b2b2b2b were missing here, and are imported now",
        )
        experiment = replicate.experiments.get(ONE)
        experiment.checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_bytes() == b"print(1)"
        assert (tmp_path / "out/out/model").read_bytes() == b"weights"
        assert (experiment.code_problem, experiment.latest().lacks_files) == (None, False)
        assert experiment.size_bytes == 15
        assert (only().outcome, only().notes) == ("present", ())
        report = replicate.Project().verify(deep=True)
        assert (report.damages, report.lacking) == ((), ())
        replicate.Project().prune(grace=timedelta(0))
        replicate.Project().prune(grace=timedelta(0))
        assert replicate.experiments.get(ONE).latest().open().read() == b"weights"
        other = replicate.Project(storage=str(tmp_path / "other"))
        assert replicate.Project().copy_to(other).failed == {}
        assert other.experiments.get(ONE).latest().open().read() == b"weights"

    def test_code_that_is_missing_is_told_at_every_checkout_and_by_verify(self, project: Path, tmp_path: Path) -> None:
        write({f"{MADE}/out/model": b"weights"})
        code_of_one({f"{ONE}/train.py": b"print(1)"}).unlink()
        only()
        experiment = replicate.experiments.get(ONE)
        assert experiment.code_problem is not None
        why = "the code of the experiment a1a1a1a are missing: deleted, or never stored, where they were imported from"
        for checkpoint in (experiment, experiment.latest()):
            with pytest.warns(UserWarning, match=why):
                checkpoint.checkout(tmp_path / "out")
            with pytest.raises(replicate.NotFound, match=why):
                checkpoint.checkout(tmp_path / "out", what="code")
        report = replicate.Project().verify()
        assert report.damages == (), "what is stored is whole"
        assert [(item.experiment, item.checkpoint) for item in report.lacking] == [(ONE, None)]
        assert report.lacking[0].problem == experiment.code_problem

    def test_an_experiment_of_code_alone_that_is_missing_can_not_be_checked_out(self, project: Path) -> None:
        write()
        document = Path("old/metadata/experiments", f"{ONE}.json")
        document.write_text(json.dumps({**json.loads(document.read_text()), "path": ".", "checkpoints": []}))
        only()
        with pytest.raises(replicate.NotFound, match="the code of the experiment a1a1a1a are missing"):
            replicate.experiments.get(ONE).checkout("out")

    def test_files_that_an_import_could_not_read_are_named_by_verify(self, project: Path) -> None:
        write({f"{MADE}/out/model": b"weights"}).write_bytes(b"damaged")
        only()
        (lack,) = replicate.Project().verify([MADE[:7]]).lacking
        assert (lack.experiment, lack.checkpoint) == (ONE, MADE)
        assert (
            "the files of the checkpoint b2b2b2b are missing: damaged where they were imported from: " in lack.problem
        )

    def test_what_was_let_go_here_does_not_come_again(self, project: Path) -> None:
        write({f"{MADE}/out/model": b"weights"})
        only()
        Workspace().repository.append(Released(ONE, (MADE,)))
        assert only().outcome == "present"
        assert replicate.experiments.get(ONE).latest().is_released

    @pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b'{"last_heartbeat": "soon"}', b"\xff\x00"])
    def test_a_heartbeat_that_can_not_be_read_costs_only_what_it_says(self, project: Path, content: bytes) -> None:
        write({f"{MADE}/out/model": b"weights"})
        beat = Path("old/metadata/heartbeats", f"{ONE}.json")
        beat.parent.mkdir()
        beat.write_bytes(content)
        result = only()
        assert (result.outcome, result.checkpoints) == ("imported", 1)
        (damage,) = result.damages
        assert "its heartbeat can't be read, so the time of its last checkpoint counts as its end" in damage
        assert f"metadata/heartbeats/{ONE}.json" in damage
        experiment = replicate.experiments.get(ONE)
        assert (experiment.status, experiment.duration) == ("finished", timedelta(minutes=1))
        assert experiment.latest().open().read() == b"weights"
        beat.write_text('{"last_heartbeat": "2021-01-01T00:02:00Z"}')
        assert (only().outcome, only().outcome) == ("completed", "present"), "once it was mended"
        assert replicate.experiments.get(ONE).duration == timedelta(minutes=2)

    def test_a_version_that_can_not_be_read_costs_nothing_else(self, keepsake: Path, project: Path) -> None:
        (keepsake / "repository.json").write_bytes(b"")
        results = {result.experiment: result for result in take_over(keepsake)}
        assert "is assumed to be 1: repository.json can't be understood" in results.pop("repository").damages[0]
        assert {result.outcome for result in results.values()} == {"imported"}
        assert len(replicate.experiments.list()) == 2

    @pytest.mark.parametrize("place", ["metadata/experiments", "metadata/heartbeats", "repository.json"])
    def test_a_document_that_vanishes_meanwhile_costs_only_what_it_says(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        write({f"{MADE}/out/model": b"weights"})
        Path("old/metadata/heartbeats").mkdir()
        Path("old/metadata/heartbeats", f"{ONE}.json").write_text('{"last_heartbeat": "2021-01-01T00:02:00Z"}')
        Path("old/repository.json").write_text('{"version": 1}')
        plain = LocalStore.get

        def get(self: LocalStore, key: str, *range_: int) -> bytes:
            if key.startswith(place):
                raise replicate.NotFound(f"{key} is gone")
            return plain(self, key, *range_)

        monkeypatch.setattr(LocalStore, "get", get)
        results = take_over("old")
        assert any("was listed, and is not there" in damage for result in results for damage in result.damages)
        assert len(replicate.experiments.list()) == (0 if place == "metadata/experiments" else 1)

    def test_a_checkpoint_of_2020_that_makes_no_sense_costs_only_itself(self, of_2020: Path, project: Path) -> None:
        document = of_2020 / f"metadata/checkpoints/{'c3' * 32}.json"
        whole = document.read_text()
        document.write_text(json.dumps({**json.loads(whole), "created": "yesterday"}))
        (result,) = [result for result in take_over(of_2020) if result.experiment == ONE]
        assert "'yesterday' is not a time in UTC" in result.damages[0]
        assert "c3" * 32 in result.damages[0]
        assert (result.outcome, result.checkpoints) == ("imported", 2)
        document.write_text(whole)
        (result,) = [result for result in take_over(of_2020) if result.experiment == ONE]
        assert (result.outcome, result.checkpoints, result.damages) == ("completed", 1, ())
        assert {item.step for item in replicate.experiments.get(ONE).checkpoints} == {0, 1, 2}

    def test_an_experiment_that_can_not_be_read_does_not_stop_the_others(self, keepsake: Path, project: Path) -> None:
        (keepsake / f"metadata/experiments/{ONE}.json").write_text('{"id": ')
        (keepsake / f"metadata/experiments/{MADE}.json").write_text(
            json.dumps({"id": ONE, "created": "2021-01-01T00:00:00Z"})
        )
        results = {result.experiment: result for result in take_over(keepsake)}
        assert "can't be understood" in results[ONE].damages[0]
        assert "describes another experiment" in results[MADE].damages[0]
        assert len(replicate.experiments.list()) == 2

    def test_a_storage_that_fails_is_no_damage(self, project: Path, monkeypatch) -> None:
        write({f"{MADE}/out/model": b"weights"})
        plain = LocalStore.get

        def get(self: LocalStore, key: str, *range_: int) -> bytes:
            if key.endswith(".tar.gz"):
                raise replicate.StorageFailed("the network is down")
            return plain(self, key, *range_)

        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "get", get)
            with pytest.raises(replicate.StorageFailed, match="the network is down"):
                only()
        assert only().outcome == "completed"
        assert replicate.experiments.get(ONE).latest().files == {"out/model": 7}

    def test_a_full_disk_is_a_failure(self, project: Path, monkeypatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        write({f"{MADE}/out/model": b"weights"})
        monkeypatch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(replicate.StorageFailed, match="Make room there"):
            only()


class TestWhatIsLeftAlone:
    def test_an_experiment_that_still_runs(self, project: Path) -> None:
        write({f"{MADE}/out/model": b"weights"})
        beat = Path("old/metadata/heartbeats", f"{ONE}.json")
        beat.parent.mkdir()

        def beats(moment: datetime) -> None:
            text = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            beat.write_text(json.dumps({"experiment_id": ONE, "last_heartbeat": text}))

        beats(datetime.now(timezone.utc))
        assert only().outcome == "running"
        assert len(replicate.experiments.list()) == 0
        beats(datetime.now(timezone.utc) - timedelta(minutes=1))
        assert only().outcome == "imported"
        assert replicate.experiments.get(ONE).status == "finished"

    def test_what_is_no_old_repository(self, project: Path) -> None:
        with pytest.raises(replicate.NotFound, match=r"is not a repository of Keepsake or of the first replicate"):
            take_over("nothing")
        replicate.init({}, path=None)
        with pytest.raises(replicate.NotFound, match="a repository of this replicate, and needs no import"):
            take_over(".replicate/storage")

    def test_a_later_keepsake(self, keepsake: Path, project: Path) -> None:
        (keepsake / "repository.json").write_text('{"version": 2}')
        with pytest.raises(replicate.TooNew, match=r"has version 2; Keepsake 0\.4 wrote 1"):
            take_over(keepsake)


class TestArchivesOfStrangers:
    @pytest.mark.parametrize(
        "name",
        ["../outside", "/etc/passwd", f"{MADE}/../../outside", f"{MADE}/out/.git/config", f"{MADE}/out/\udce9"],
        ids=["above", "absolute", "above the prefix", "git", "no unicode"],
    )
    def test_names_that_lead_elsewhere_are_left_out(self, project: Path, tmp_path: Path, name: str) -> None:
        write({name: b"evil", f"{MADE}/out/model": b"weights"})
        result = only()
        assert "of the checkpoint b2b2b2b is left out: it " in result.notes[0]
        (made,) = replicate.experiments.get(ONE).checkpoints
        assert made.files == {"out/model": 7}
        assert not (tmp_path / "outside").exists()

    def test_what_no_snapshot_can_have_is_left_out_of_directories_too(self, of_2020: Path, project: Path) -> None:
        for directory, name in ((".git", "config"), ("lib", "more.py")):
            (of_2020 / "experiments" / ONE / directory).mkdir(exist_ok=True)
            (of_2020 / "experiments" / ONE / directory / name).write_text("x")
        result = next(result for result in take_over(of_2020) if result.experiment == ONE)
        assert result.notes == ("'.git/config' of the code is left out: it has the name '.git' in it",)

    def test_what_stands_behind_an_archive_does_no_harm(self, project: Path) -> None:
        archive = write({f"{MADE}/out/model": b"weights"})
        archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()) + bytes(100_000)))
        assert (only().damages, replicate.experiments.get(ONE).latest().open().read()) == ((), b"weights")

    def test_links_come_over_unless_they_lead_out(self, project: Path, tmp_path: Path) -> None:
        write(
            {
                f"{MADE}": (tarfile.DIRTYPE, ""),
                f"{MADE}/out": (tarfile.DIRTYPE, ""),
                f"{MADE}/out/empty": (tarfile.DIRTYPE, ""),
                f"{MADE}/out/model": b"weights",
                f"{MADE}/out/last": links_to("model"),
                f"{MADE}/out/evil": links_to("../../../etc/passwd"),
                f"{MADE}/out/hard": (tarfile.LNKTYPE, f"{MADE}/out/model"),
                f"{MADE}/out/pipe": (tarfile.FIFOTYPE, ""),
            }
        )
        notes = "\n".join(only().notes)
        for name in ("evil", "hard", "pipe"):
            assert f"'out/{name}' of the checkpoint b2b2b2b is left out" in notes
        (made,) = replicate.experiments.get(ONE).checkpoints
        assert made.links == {"out/last": "model"}
        made.checkout(tmp_path / "out")
        assert sorted(os.listdir(tmp_path / "out/out")) == ["empty", "last", "model"]

    def test_a_file_below_a_file_is_damage(self, project: Path) -> None:
        write({f"{MADE}/out": b"a file", f"{MADE}/out/model": b"weights"})
        assert "lies below 'out', which is not a directory" in only().damages[0]

    def test_nothing_of_a_pickle_is_carried_out(self, project: Path, tmp_path: Path) -> None:
        evil = b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(tmp_path / "touched")
        write({f"{MADE}/out/model.pkl": evil})
        only()
        assert replicate.experiments.get(ONE).latest().open().read() == evil
        assert not (tmp_path / "touched").exists()
