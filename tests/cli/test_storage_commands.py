"""`replicate rm`, `verify` and `prune`, through the real entry point, on experiments that were really recorded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import manifest_key, manifest_of

import replicate
from replicate_core.format.sealed import seal

Cli = Callable[..., tuple[int, str, str]]
KINDS = ("records", "manifests", "data")


@pytest.fixture
def storage(project: Path) -> Path:
    return project / ".replicate/storage"


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Two experiments of two checkpoints each, every file of them in an object of its own."""
    made = []
    for number in range(2):
        (project / "train.py").write_text(f"number = {number}\n")
        experiment = replicate.init({"number": number}, path="train.py", name=f"number {number}")
        for step in range(2):
            (project / "model.bin").write_bytes(os.urandom(300_000))
            experiment.checkpoint("model.bin", {"loss": 1.0 - step}, ("loss", "minimize"))
        experiment.stop()
        made.append(experiment)
    return made


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: text)


def keys(storage: Path, *kinds: str) -> set[str]:
    return {
        path.relative_to(storage).as_posix()
        for kind in kinds or KINDS
        for path in (storage / kind).rglob("*")
        if path.is_file()
    }


def age(storage: Path, days: int = 2) -> None:
    for path in storage.rglob("*"):
        if path.is_file():
            moment = path.stat().st_mtime - days * 86400
            os.utime(path, (moment, moment))


def listed(cli: Cli) -> list[str]:
    return cli("ls", "-q")[1].split()


def object_of(storage: Path, checkpoint: replicate.Checkpoint) -> Path:
    (key,) = manifest_of(checkpoint, storage).object_bytes
    return storage / key


class TestRm:
    def test_asks_and_says_what_goes(self, cli: Cli, experiments, storage: Path, monkeypatch) -> None:
        before = keys(storage)
        answer(monkeypatch, "n")
        code, out, err = cli("rm", experiments[0].short_id, experiments[1].checkpoints[0].short_id)

        assert code == 1
        assert out == ""
        assert f"experiment {experiments[0].short_id} 'number 0' with 2 checkpoints" in err
        checkpoint = experiments[1].checkpoints[0]
        assert f"checkpoint {checkpoint.short_id} (step 0) of experiment {experiments[1].short_id}" in err
        assert "Nothing was deleted." in err
        assert keys(storage) == before

    def test_deletes_when_the_answer_is_yes(self, cli: Cli, experiments, monkeypatch) -> None:
        answer(monkeypatch, "y")
        code, out, _ = cli("rm", experiments[0].id)

        assert code == 0
        assert "Deleted 1" in out
        assert "replicate prune" in out
        assert listed(cli) == [experiments[1].id]

    def test_an_answer_that_never_comes_deletes_nothing(self, cli: Cli, experiments, monkeypatch) -> None:
        def closed(_: str) -> str:
            raise EOFError

        monkeypatch.setattr("click.termui.visible_prompt_func", closed)
        assert cli("rm", experiments[0].id)[0] == 1
        assert len(listed(cli)) == 2

    @pytest.mark.parametrize("flag", ["-f", "--force"])
    def test_does_not_ask_when_forced(self, cli: Cli, experiments, monkeypatch, flag: str) -> None:
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: pytest.fail("it asked"))
        assert cli("rm", flag, *(experiment.id for experiment in experiments))[0] == 0
        assert listed(cli) == []

    def test_a_deleted_checkpoint_is_gone_from_everything_that_is_shown(self, cli: Cli, experiments) -> None:
        kept, gone = experiments[0].checkpoints
        assert cli("rm", "-f", gone.short_id)[0] == 0

        (shown, other) = json.loads(cli("ls", "--json")[1])
        assert shown["num_checkpoints"] == 1
        assert shown["best_checkpoint"]["id"] == shown["latest_checkpoint"]["id"] == kept.id
        assert other["num_checkpoints"] == 2
        assert gone.short_id not in cli("ls")[1]
        assert gone.short_id not in cli("show", experiments[0].id)[1]
        assert cli("show", gone.id)[0] == 1
        assert cli("checkout", gone.id)[0] == 1
        assert cli("checkout", kept.id, "-o", "out")[0] == 0

    def test_an_unknown_id_deletes_nothing_at_all(self, cli: Cli, experiments, storage: Path) -> None:
        before = keys(storage)
        code, _, err = cli("rm", "-f", experiments[0].id, "zzzz", experiments[1].id)

        assert code == 1
        assert "'zzzz'" in err
        assert keys(storage) == before
        assert len(listed(cli)) == 2

    def test_an_empty_id_is_none(self, cli: Cli, experiments) -> None:
        assert cli("rm", "-f", "")[0] == 1
        assert len(listed(cli)) == 2

    def test_an_experiment_and_its_own_checkpoint_together(self, cli: Cli, experiments) -> None:
        assert cli("rm", "-f", experiments[0].latest().id, experiments[0].id)[0] == 0
        assert listed(cli) == [experiments[1].id]

    def test_the_same_id_twice_counts_once(self, cli: Cli, experiments) -> None:
        code, out, _ = cli("rm", "-f", experiments[0].id, experiments[0].short_id)
        assert code == 0
        assert "Deleted 1" in out

    def test_needs_an_id(self, cli: Cli, experiments) -> None:
        assert cli("rm", "-f")[0] == 2

    def test_control_characters_in_a_name_do_not_reach_the_terminal(self, cli: Cli, project: Path) -> None:
        experiment = replicate.init({}, path=None, name="\x1b[2Jred\x07")
        _, out, err = cli("rm", "-f", experiment.id)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
        assert "red" in err


class TestVerify:
    def test_a_whole_repository_is_fine(self, cli: Cli, experiments) -> None:
        code, out, err = cli("verify")
        assert (code, err) == (0, "")
        assert out == "2 experiments, 6 objects, sizes compared: no problems.\n"
        code, out, _ = cli("verify", "--deep")
        assert code == 0
        assert out.startswith("2 experiments, 6 objects, 1.2 MB read: no problems.")

    def test_an_empty_project_is_fine(self, cli: Cli, project: Path) -> None:
        assert cli("verify")[0] == 0
        assert not (project / ".replicate").exists(), "looking changes nothing"

    def test_damage_is_named_with_whom_it_hurts_and_exits_with_4(self, cli: Cli, experiments, storage: Path) -> None:
        checkpoint = experiments[1].checkpoints[0]
        file = object_of(storage, checkpoint)
        file.unlink()
        code, out, _ = cli("verify")

        assert code == 4
        (row,) = [line for line in out.splitlines() if "missing" in line]
        for expected in (experiments[1].short_id, checkpoint.short_id, "model.bin", file.name):
            assert expected in row
        assert experiments[0].short_id not in out
        assert out.endswith("1 problem.\n")

    def test_damaged_code_and_records_are_named(self, cli: Cli, experiments, storage: Path) -> None:
        (record,) = storage.rglob(f"*{experiments[0].id}-created.json")
        record.write_bytes(b"damaged")
        (storage / manifest_key(experiments[1], storage)).unlink()
        code, out, _ = cli("verify")

        assert code == 4
        assert record.name in out
        (row,) = [line for line in out.splitlines() if "manifests/" in line]
        assert experiments[1].short_id in row
        assert "code" in row
        assert "the record of its beginning is missing" in out
        assert "3 problems" in out

    def test_only_a_deep_check_finds_a_flipped_byte(self, cli: Cli, experiments, storage: Path) -> None:
        file = object_of(storage, experiments[0].checkpoints[1])
        data = bytearray(file.read_bytes())
        data[1000] ^= 1
        file.write_bytes(data)

        assert cli("verify")[0] == 0
        code, out, _ = cli("verify", "--deep")
        assert code == 4
        assert experiments[0].checkpoints[1].short_id in out
        assert experiments[0].checkpoints[0].short_id not in out

    def test_only_what_is_chosen_is_checked(self, cli: Cli, experiments, storage: Path) -> None:
        object_of(storage, experiments[0].checkpoints[0]).unlink()
        assert cli("verify", experiments[0].short_id)[0] == 4
        assert cli("verify", experiments[0].checkpoints[0].id)[0] == 4
        assert cli("verify", experiments[0].checkpoints[1].id)[0] == 0
        assert cli("verify", experiments[1].id)[0] == 0
        assert cli("verify", experiments[1].id, experiments[0].id)[0] == 4

    def test_an_unknown_id_exits_with_1(self, cli: Cli, experiments) -> None:
        code, out, err = cli("verify", "zzzz")
        assert (code, out) == (1, "")
        assert "'zzzz'" in err

    @pytest.mark.parametrize("deep", [(), ("--deep",)])
    def test_json_is_for_programs(self, cli: Cli, experiments, storage: Path, deep: tuple[str, ...]) -> None:
        code, out, err = cli("verify", "--json", *deep)
        assert (code, err) == (0, "")
        assert json.loads(out)["damages"] == []

        checkpoint = experiments[1].checkpoints[0]
        object_of(storage, checkpoint).unlink()
        code, out, _ = cli("verify", "--json", *deep)
        report = json.loads(out)
        assert code == 4
        (damage,) = report.pop("damages")
        assert "is missing" in damage.pop("problem")
        assert damage == {"experiment": experiments[1].id, "checkpoint": checkpoint.id, "path": "model.bin"}
        assert report.keys() == {"experiments", "objects", "bytes_checked", "lacking", "keyless"}
        assert report["experiments"] == 2

    def test_what_of_an_earlier_version_cannot_be_checked_is_counted(
        self, cli: Cli, experiments, storage: Path
    ) -> None:
        assert "note" not in cli("verify")[1]
        document = min(storage.glob("manifests/*.json"))
        plain = json.loads(document.read_text())["document"]
        document.write_bytes(seal({name: value for name, value in plain.items() if name != "key"}))
        code, out, _ = cli("verify")
        assert code == 0
        assert "note: 1 document of an earlier version can't be checked for standing in the place of another" in out

    def test_a_damaged_segment_is_named_with_what_mends_it(self, cli: Cli, experiments, storage: Path) -> None:
        cli("compact")
        (segment,) = storage.glob("segments/*")
        segment.write_bytes(segment.read_bytes()[:-20])
        code, out, _ = cli("verify")
        assert code == 4
        assert segment.name in "".join(out.split())
        cli("compact")
        assert cli("verify")[0] == 0


class TestPrune:
    def test_passes_over_what_it_must_not_obey_and_names_it(self, cli: Cli, experiments, storage: Path) -> None:
        tombstone = storage / f"prune/{'0' * 26}.json"
        tombstone.parent.mkdir(exist_ok=True)
        tombstone.write_bytes(seal({"keys": ["replicate.json"]}))
        for _ in range(2):
            age(storage)
            code, out, _ = cli("prune", "--yes")
            assert code == 0
            assert f"Skipped: the tombstone prune/{tombstone.name} dooms 'replicate.json'" in out
        assert "the tombstone" in json.loads(cli("prune", "--json")[1])["passed_over"][0]
        for options in ((), ("--yes",)):
            assert "Skipped: the tombstone" in cli("prune", "--alone", *options)[1]
        assert cli("ls")[0] == 0

    def test_by_default_only_says_what_would_be_done(self, cli: Cli, experiments, storage: Path) -> None:
        cli("rm", "-f", experiments[0].id)
        age(storage)
        before = keys(storage, *KINDS, "prune")
        code, out, _ = cli("prune")

        assert code == 0
        assert "Would announce for deletion: 6 objects, 6" in out
        assert "replicate prune --yes" in out
        assert keys(storage, *KINDS, "prune") == before

    def test_announces_and_deletes_a_grace_later(self, cli: Cli, experiments, storage: Path) -> None:
        cli("rm", "-f", experiments[0].id)
        age(storage)
        code, out, _ = cli("prune", "--yes", "--no-repack")
        assert code == 0
        assert "Announced for deletion: 6 objects" in out
        assert "24 hours" in out

        code, out, _ = cli("prune", "--yes", "--no-repack")
        assert "Announced before, and not due yet: 6 objects" in out
        assert len(keys(storage, "data")) == 6

        age(storage)
        code, out, _ = cli("prune", "--yes", "--no-repack")
        assert code == 0
        assert "Deleted: 6 objects" in out
        assert len(keys(storage, "data")) == 3
        assert cli("verify", "--deep")[0] == 0
        assert cli("prune", "--yes", "--no-repack")[1] == "Everything in the storage is needed.\n"

    def test_what_is_young_is_not_announced(self, cli: Cli, experiments) -> None:
        cli("rm", "-f", experiments[0].id)
        out = cli("prune", "--yes")[1]
        assert out.startswith("Not needed, but written within the last 24 hours: ")
        assert out.endswith("Nothing to do yet.\n")

    def test_alone_deletes_at_once(self, cli: Cli, experiments, storage: Path) -> None:
        cli("rm", "-f", experiments[0].id, experiments[1].checkpoints[0].id)
        age(storage)
        code, out, _ = cli("prune", "--yes", "--alone")

        assert code == 0
        assert "Deleted: " in out
        assert "Announced" not in out
        assert keys(storage, "prune") == set()
        assert cli("verify", "--deep")[0] == 0
        assert len(keys(storage, "data")) == 2, "the code and a model of the second experiment"
        assert cli("checkout", experiments[1].id, "-o", "out")[0] == 0
        assert Path("out/model.bin").read_bytes() == Path("model.bin").read_bytes()

    def test_alone_without_yes_changes_nothing(self, cli: Cli, experiments, storage: Path) -> None:
        cli("rm", "-f", experiments[0].id)
        age(storage)
        before = keys(storage, *KINDS, "prune")
        out = cli("prune", "--alone")[1]
        assert out.startswith("Would delete: ")
        assert "replicate prune --alone --yes" in out
        assert keys(storage, *KINDS, "prune") == before

    def test_what_is_mostly_dead_is_packed_anew_unless_told_not_to(
        self, cli: Cli, project: Path, storage: Path
    ) -> None:
        model = project / "model"
        model.mkdir()
        for number in range(10):
            (model / f"{number}.bin").write_bytes(os.urandom(100_000))
        gone = replicate.init({}, path=None)
        gone.checkpoint("model", {})
        for number in range(1, 10):
            (model / f"{number}.bin").unlink()
        kept = replicate.init({}, path=None)
        kept.checkpoint("model", {})
        gone.delete()
        age(storage)

        assert "Would repack: 1 object, 1" in cli("prune")[1]
        assert "pack" not in cli("prune", "--no-repack")[1]
        assert "Repacked" in cli("prune", "--yes", "--alone")[1]
        assert sum((storage / key).stat().st_size for key in keys(storage, "data")) < 110_000
        assert cli("checkout", kept.id, "-o", "out")[0] == 0
        assert Path("out/model/0.bin").read_bytes() == (model / "0.bin").read_bytes()

    def test_json_is_for_programs(self, cli: Cli, experiments, storage: Path) -> None:
        assert json.loads(cli("prune", "--json", "--no-repack")[1]) == {
            "dry_run": True, "deleted": {}, "doomed": {}, "waiting": {}, "young": {}, "repacked": {}, "passed_over": [],
        }  # fmt: skip
        cli("rm", "-f", experiments[0].id)
        age(storage)
        report = json.loads(cli("prune", "--json", "--yes", "--no-repack")[1])
        assert report["dry_run"] is False
        assert report["doomed"].keys() < keys(storage, "data", "manifests")
        assert all(report["doomed"][key] == (storage / key).stat().st_size for key in report["doomed"])

    def test_what_can_not_be_read_stops_it_with_4(self, cli: Cli, experiments, storage: Path) -> None:
        cli("rm", "-f", experiments[0].id)
        age(storage)
        (record,) = storage.rglob(f"*{experiments[1].id}-created.json")
        record.write_bytes(b"damaged")
        before = keys(storage, *KINDS, "prune")
        code, _, err = cli("prune", "--yes", "--alone")

        assert code == 4
        assert "nothing was pruned" in err
        assert record.name in err
        assert keys(storage, *KINDS, "prune") == before

    def test_a_project_without_experiments_has_nothing_to_prune(self, cli: Cli, project: Path) -> None:
        assert cli("prune") == (0, "Everything in the storage is needed.\n", "")


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    for command in ("rm", "verify", "prune"):
        assert "Example: replicate" in cli(command, "--help")[1]
