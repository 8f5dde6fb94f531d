"""`replicate sync SOURCE TARGET` and `replicate cp`, through the real entry point, on experiments really recorded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import manifest_of

import replicate

Cli = Callable[..., tuple[int, str, str]]
HERE = ".replicate/storage"


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    made = []
    for number in range(2):
        experiment = replicate.init({"number": number}, path=None)
        (project / "model.bin").write_bytes(os.urandom(300_000))
        experiment.checkpoint("model.bin", {"loss": 1.0}, ("loss", "minimize"))
        experiment.stop()
        made.append(experiment)
    return made


def listed(cli: Cli, storage: str) -> list[str]:
    return cli("-S", storage, "ls", "-q")[1].split()


class TestSync:
    def test_copies_all_and_says_so(self, cli: Cli, experiments, project: Path) -> None:
        code, out, err = cli("sync", HERE, "backup")
        assert (code, err) == (0, "")
        assert out == "Copied 2 experiments: 6 records, 2 objects, 600 kB.\n"
        assert listed(cli, "backup") == [experiment.id for experiment in experiments]
        assert cli("-S", "backup", "verify", "--deep")[0] == 0
        assert cli("sync", HERE, "backup") == (0, "2 experiments were there already.\n", "")

    def test_says_what_was_deleted(self, cli: Cli, experiments, project: Path) -> None:
        cli("sync", HERE, "backup")
        cli("rm", "-f", experiments[0].id)
        assert cli("sync", HERE, "backup") == (
            0,
            "Copied the deletion of 1 experiment.\n1 experiment was there already.\n",
            "",
        )
        assert listed(cli, "backup") == [experiments[1].id]

    def test_takes_files_that_name_a_storage_and_its_options(self, cli: Cli, experiments, project: Path) -> None:
        (project / "elsewhere").mkdir()
        (project / "elsewhere/backup.yml").write_text("storage: backup\n")
        (project / "here.yaml").write_text(f"storage: {HERE}\n")
        code, _, err = cli("sync", "here.yaml", "elsewhere/backup.yml")
        assert (code, err) == (0, "")
        assert len(listed(cli, "elsewhere/backup")) == len(listed(cli, "elsewhere/backup.yml")) == 2

    def test_says_which_file_is_missing(self, cli: Cli, experiments, project: Path) -> None:
        code, _, err = cli("sync", HERE, "backup.yaml")
        assert code == 2
        assert err.startswith("replicate: backup.yaml can't be read: ")
        assert not (project / "backup.yaml").exists()

    def test_without_storages_empties_the_spool_as_before(self, cli: Cli, project: Path) -> None:
        assert cli("sync") == (0, "Nothing is waiting: all that was saved here is stored.\n", "")

    def test_anew_is_for_the_spool_alone(self, cli: Cli, project: Path) -> None:
        code, _, err = cli("sync", HERE, "backup", "--anew")
        assert code == 2
        assert "--anew and --accept are for what waits on this machine" in err
        assert cli("sync", "--anew")[0] == 0

    def test_with_one_storage_is_wrong(self, cli: Cli, project: Path) -> None:
        code, _, err = cli("sync", "s3://key:SECRET@backup")
        assert code == 2
        assert "give two storages" in err
        assert "SECRET" not in err

    def test_of_a_storage_to_itself_is_wrong(self, cli: Cli, experiments, project: Path) -> None:
        (project / "alias").symlink_to(HERE)
        code, _, err = cli("sync", HERE, "alias")
        assert code == 2
        assert "are the same repository" in err

    def test_of_nothing_is_not_found(self, cli: Cli, project: Path) -> None:
        code, _, err = cli("sync", "nowhere", "backup")
        assert code == 1
        assert "nothing to copy" in err
        assert not (project / "backup").exists()

    def test_of_an_empty_repository_says_so(self, cli: Cli, experiments, project: Path) -> None:
        cli("cp", experiments[0].id, "other")
        for record in (project / "other/records").rglob("*.json"):
            record.unlink()
        assert cli("sync", "other", "backup") == (0, "Nothing to copy: there are no experiments.\n", "")

    def test_names_what_is_damaged_and_copies_the_rest(self, cli: Cli, experiments, project: Path) -> None:
        (key,) = manifest_of(experiments[0].latest(), project / HERE).object_bytes
        (project / HERE / key).write_bytes(bytes(300_000))
        (record, *_) = sorted((project / HERE / "records").rglob("*-ended.json"))
        record.with_name(record.name.replace("-ended", "-edited")).write_text("damaged")
        code, out, err = cli("sync", HERE, "backup")
        assert code == 4
        assert out.startswith("Copied 1 experiment: 3 records")
        assert f"{experiments[0].short_id}  not copied: " in err
        assert "left out: " in err
        assert listed(cli, "backup") == [experiments[1].id]

    def test_prints_json(self, cli: Cli, experiments) -> None:
        report = json.loads(cli("sync", HERE, "backup", "--json")[1])
        assert sorted(report["experiments"]) == sorted(experiment.id for experiment in experiments)
        assert (report["records"], report["objects"], report["failed"]) == (6, 2, {})


class TestCp:
    def test_copies_the_experiments_that_are_named(self, cli: Cli, experiments) -> None:
        code, out, err = cli("cp", experiments[1].short_id, "published")
        assert (code, err) == (0, "")
        assert out.startswith("Copied 1 experiment: 3 records")
        assert listed(cli, "published") == [experiments[1].id]
        cli("cp", *(experiment.short_id for experiment in experiments), "published")
        assert listed(cli, "published") == [experiment.id for experiment in experiments]

    def test_refuses_checkpoints_and_what_is_not_there(self, cli: Cli, experiments, project: Path) -> None:
        code, _, err = cli("cp", experiments[0].latest().short_id, "published")
        assert code == 1
        assert "experiments are copied whole" in err
        assert cli("cp", "fffffff", "published")[0] == 1
        assert not (project / "published").exists()
