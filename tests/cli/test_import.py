"""`replicate import`, through the real entry point, on what Keepsake and the first replicate have written."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

import replicate
from replicate_core.storage.local import LocalStore

Cli = Callable[..., tuple[int, str, str]]

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def keepsake(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "keepsake", tmp_path / "keepsake"))


def test_says_what_came(cli: Cli, keepsake: Path) -> None:
    code, out, err = cli("import", str(keepsake))
    assert (code, err) == (0, "")
    first, second = replicate.experiments.list()
    assert sorted(out.splitlines()) == sorted(
        [
            f"{first.short_id}  imported: 5 checkpoints, 410 B",
            f"{second.short_id}  imported: 0 checkpoints, 0 B",
            "Imported 2 experiments with 5 checkpoints, of 2 found.",
        ]
    )
    code, out, _ = cli("import", str(keepsake))
    assert code == 0
    assert f"{first.short_id}  is here already" in out
    assert "Imported 0 experiments with 0 checkpoints, of 2 found." in out


def test_shows_of_an_experiment_what_was_recorded_then(cli: Cli, keepsake: Path) -> None:
    cli("import", str(keepsake))
    for experiment in replicate.experiments.list():
        _, out, _ = cli("show", experiment.id)
        assert "None" not in out
        assert "null" not in out.replace('"none": null', "")  # a param


def test_a_trial_says_what_would_come(cli: Cli, keepsake: Path, project: Path) -> None:
    code, out, _ = cli("import", "--dry-run", str(keepsake))
    assert code == 0
    assert "would be imported: 5 checkpoints" in out
    assert "Would import 2 experiments with 5 checkpoints, of 2 found." in out
    assert not (project / ".replicate/storage").exists()


def test_what_lacks_and_what_is_damaged_is_named_and_exits_with_4(cli: Cli, keepsake: Path) -> None:
    first, second, *_ = sorted((keepsake / "checkpoints").iterdir())
    first.unlink()
    second.write_bytes(b"damaged")
    code, out, _ = cli("import", str(keepsake))
    assert code == 4
    assert f"note: the files of the checkpoint {first.name[:7]} are not there" in out
    assert f"damaged: the files of the checkpoint {second.name[:7]} can't be read" in out


def test_missing_code_is_told_by_verify_show_and_checkout_and_comes_once_it_is_mended(
    cli: Cli, keepsake: Path, tmp_path: Path
) -> None:
    (archive,) = (keepsake / "experiments").iterdir()
    content = archive.read_bytes()
    archive.write_bytes(b"damaged")
    code, out, _ = cli("import", str(keepsake))
    assert code == 4
    assert "damaged: the files of the code can't be read, and are missing here" in out
    lack = f"the files of the code of the experiment {archive.name[:7]} are missing: damaged where they were imported"
    code, out, _ = cli("verify", "--deep")
    assert code == 0, "what is stored is whole"
    assert f"note: {lack}" in out
    assert lack in cli("show", archive.name[:7])[1]
    assert json.loads(cli("show", archive.name[:7], "--json")[1])["code_problem"].startswith(lack)
    code, _, err = cli("checkout", archive.name[:7], "-o", str(tmp_path / "out"))
    assert code == 0
    assert lack in err
    code, _, err = cli("checkout", archive.name[:7], "-o", str(tmp_path / "out"), "--code-only")
    assert code == 1
    assert lack in err

    archive.write_bytes(content)
    code, out, _ = cli("import", str(keepsake))
    assert code == 0
    assert "imported: 0 checkpoints, 349 B, the rest was here already" in out
    assert "note: the files of the code were missing here, and are imported now" in out
    assert "note" not in cli("verify", "--deep")[1]
    assert cli("checkout", archive.name[:7], "-o", str(tmp_path / "out"))[2] == ""
    assert (tmp_path / "out/train.py").is_file()


def test_an_empty_heartbeat_and_an_empty_version_cost_only_what_they_say(cli: Cli, keepsake: Path) -> None:
    (archive,) = (keepsake / "experiments").iterdir()
    beat = keepsake / "metadata/heartbeats" / archive.name.replace(".tar.gz", ".json")
    beat.parent.mkdir()
    beat.touch()
    (keepsake / "repository.json").write_bytes(b"")
    code, out, _ = cli("import", str(keepsake))
    assert code == 4
    assert f"{archive.name[:7]}  imported: 5 checkpoints" in out
    assert "damaged: its heartbeat can't be read" in out
    assert "repository  can't be read" in out
    assert len(replicate.experiments.list()) == 2


class TestWhereNothingIsImportedYet:
    @pytest.mark.parametrize("place", [".keepsake", ".replicate/storage"])
    def test_ls_status_and_show_name_the_old_repository_until_it_is(self, cli: Cli, project: Path, place: str) -> None:
        shutil.copytree(DATA / "keepsake", project / place)
        hint = (
            f"{place} holds 2 experiments of Keepsake or of the first replicate that are not here: "
            f"`replicate import {place}` takes them over.\n"
        )
        assert cli("ls")[2] == hint
        assert cli("status")[2] == hint
        code, _, err = cli("show", "f4dc797")
        assert (code, err.startswith(hint)) == (1, True)
        assert json.loads(cli("ls", "--json")[1]) == []

        assert cli("import", place)[0] == 0
        for command in ("ls", "status", "show f4dc797"):
            assert cli(*command.split())[::2] == (0, "")

    def test_one_that_does_not_come_is_named_and_one_that_was_deleted_here_is_not(
        self, cli: Cli, project: Path
    ) -> None:
        shutil.copytree(DATA / "keepsake", ".keepsake")
        (damaged, whole) = sorted(Path(".keepsake/metadata/experiments").iterdir())
        content = damaged.read_text()
        damaged.write_text("{")
        cli("import", ".keepsake")
        assert ".keepsake holds 1 experiment of Keepsake or of the first replicate that is not here" in cli("ls")[2]
        damaged.write_text(content)
        cli("import", ".keepsake")
        cli("rm", "-f", whole.stem)
        assert cli("ls")[2] == ""

    def test_the_storage_of_the_project_is_looked_into(self, cli: Cli, project: Path, tmp_path: Path) -> None:
        shutil.copytree(DATA / "replicate-2020", tmp_path / "old")
        (project / "replicate.yaml").write_text("storage: ../old\n")
        err = cli("ls")[2]
        assert "../old holds 2 experiments" in err
        assert "`replicate import ../old` takes them over" in err

    def test_one_elsewhere_is_looked_into_where_nothing_was_found(self, cli: Cli, project: Path) -> None:
        name = uuid.uuid4().hex
        memory = fsspec.filesystem("memory")
        memory.put(f"{DATA / 'keepsake'}/", f"/{name}/old/", recursive=True)
        (project / "replicate.yaml").write_text(f"storage: memory://{name}/old\n")
        assert f"memory://{name}/old holds 2 experiments" in cli("ls")[2]
        assert "holds 2 experiments" in cli("show", "f4dc797")[2]
        with replicate.init({}, path=None):
            pass
        assert cli("ls")[2] == "", "a listing that is not empty makes no further request"
        assert "holds 2 experiments" in cli("status")[2]

    def test_one_that_is_named_as_the_storage_is_called_what_it_is(self, cli: Cli, keepsake: Path) -> None:
        code, _, err = cli("ls", "-S", str(keepsake))
        assert code == 1
        assert "holds a repository of Keepsake or of the first replicate: `replicate import` and this URL" in err

    def test_from_below_the_project_the_whole_path_is_named(
        self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "replicate.yaml").touch()
        shutil.copytree(DATA / "keepsake", ".keepsake")
        Path("sub").mkdir()
        monkeypatch.chdir("sub")
        assert f"`replicate import {project / '.keepsake'}`" in cli("ls")[2]

    def test_a_storage_that_fails_only_for_the_hint_fails_nothing(
        self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = LocalStore.names

        def names(self: LocalStore, prefix: str) -> list[str]:
            if prefix.startswith("metadata/"):
                raise replicate.StorageFailed(f"can't list {prefix}")
            return plain(self, prefix)

        monkeypatch.setattr(LocalStore, "names", names)
        assert cli("ls")[::2] == (0, "")


def test_json_is_for_programs(cli: Cli, keepsake: Path) -> None:
    code, out, err = cli("import", "--json", str(keepsake))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {item["outcome"] for item in found} == {"imported"}
    assert found[0].keys() == {"experiment", "outcome", "checkpoints", "size_bytes", "notes", "damages"}


def test_what_is_no_repository_exits_with_1(cli: Cli, project: Path) -> None:
    code, out, err = cli("import", "nothing")
    assert (code, out) == (1, "")
    assert "is not a repository of Keepsake" in err


def test_control_characters_do_not_reach_the_terminal(cli: Cli, keepsake: Path) -> None:
    (document, _) = sorted((keepsake / "metadata/experiments").iterdir())
    content = json.loads(document.read_text())
    document.write_text(json.dumps({**content, "\x1b[2Jred": 1}))
    _, out, _ = cli("import", str(keepsake))
    assert "\x1b" not in out
    assert "red" in out
