"""Which project and which storage a command means, and what it says of one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import replicate

READING = (
    ("ls",),
    ("ls", "-q"),
    ("ls", "--json"),
    ("ls", "-f", "loss < 1"),
    ("ps",),
    ("show", "3fa2c1b"),
    ("diff", "3fa2c1b", "9d01e77"),
    ("checkout", "3fa2c1b", "-o", "out"),
    ("export",),
    ("tag", "3fa2c1b", "word"),
    ("note", "3fa2c1b", "word"),
    ("name", "3fa2c1b", "word"),
    ("rm", "-f", "3fa2c1b"),
    ("whence", "train.py"),
    ("verify",),
    ("verify", "3fa2c1b"),
    ("prune",),
    ("compact",),
    ("cp", "3fa2c1b", "backup"),
)


def made(directory: Path, **facts: object) -> replicate.Experiment:
    (directory / "train.py").write_text("1")
    experiment = replicate.Project(directory=directory).experiments.create({"lr": 0.1}, **facts)
    experiment.checkpoint(None, {"loss": 0.5})
    experiment.stop()
    return experiment


class TestAStorageThatIsNotThere:
    @pytest.mark.parametrize("command", READING, ids=" ".join)
    def test_to_read_from_it_is_not_found(self, cli, project: Path, command: tuple[str, ...]) -> None:
        (project / "train.py").touch()
        (project / "runs").mkdir()
        code, out, err = cli("-S", "runs/../run", *command)
        assert (code, out) == (1, "")
        assert (
            f"there is no repository at {project / 'run'}: there is no such directory; similar in {project}: runs"
            in err
        )
        assert not (project / "run").exists(), "reading makes nothing"

    def test_what_stands_there_is_said(self, cli, project: Path) -> None:
        (project / "data").mkdir()
        for number in range(7):
            (project / "data" / f"{number}.csv").touch()
        (project / "empty").mkdir()
        made(project)

        def error(storage: str) -> str:
            code, out, err = cli("-S", storage, "ls")
            assert (code, out) == (1, "")
            return err

        assert "it holds 0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more, and no replicate.json. Check its path" in error(
            "data"
        )
        assert "nothing is stored there. Check its path" in error("empty")
        assert "nothing is stored there" in error("memory://nothing/here")
        assert f"it is a project, which keeps its experiments in {project / '.replicate/storage'}: name that" in error(
            "."
        )
        assert "there is no such directory; check its path" in error("nowhere/at/all")

    def test_a_file_may_have_named_it(self, cli, project: Path) -> None:
        (project / "archive.yaml").write_text("storage: gone\n")
        code, _, err = cli("-S", "archive.yaml", "ls")
        assert code == 1
        assert f"there is no repository at {project / 'gone'}" in err

    def test_the_default_storage_may_be_empty(self, cli, project: Path) -> None:
        for command in (("ls",), ("verify",), ("prune",), ("compact",)):
            assert cli(*command)[0] == 0
        (project / "replicate.yaml").write_text("storage: later\n")
        assert "No experiments in" in cli("ls")[1]

    def test_one_of_which_all_was_deleted_is_there(self, cli, project: Path) -> None:
        experiment = made(project)
        cli("rm", "-f", experiment.id)
        code, out, _ = cli("-S", ".replicate/storage", "ls")
        assert code == 0
        assert "No experiments in" in out

    def test_what_makes_a_storage_makes_it(self, cli, project: Path) -> None:
        experiment = made(project)
        assert cli("cp", experiment.short_id, "published")[0] == 0
        assert cli("sync", ".replicate/storage", "backup")[0] == 0
        assert cli("-S", "imported", "status")[0] == 0
        for storage in ("published", "backup"):
            assert cli("-S", storage, "ls", "-q")[1].split() == [experiment.id]


class TestTheProjectAbove:
    @pytest.fixture
    def sub(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (project / "sub").mkdir()
        return project / "sub"

    def test_commands_below_it_use_it_and_say_so(self, cli, sub: Path, project: Path, monkeypatch) -> None:
        experiment = made(project)
        monkeypatch.chdir(sub)
        code, out, err = cli("ls", "-q")
        assert (code, out.split()) == (0, [experiment.id])
        assert err == f"replicate: no replicate.yaml here: this is the project above, {project}\n"
        assert cli("show", experiment.short_id)[0] == 0
        assert list(sub.iterdir()) == [], "nothing is made here"

    def test_nothing_is_said_where_the_project_or_the_storage_is_named(
        self, cli, sub: Path, project, monkeypatch
    ) -> None:
        made(project)
        monkeypatch.chdir(sub)
        assert cli("-D", "..", "ls", "-q")[2] == ""
        assert cli("-S", "../.replicate/storage", "ls", "-q")[2] == ""
        (project / "replicate.yaml").touch()
        assert cli("ls", "-q")[2] == ""

    def test_a_checkout_goes_where_the_code_was(self, cli, sub: Path, project: Path, monkeypatch) -> None:
        above = made(project)
        monkeypatch.chdir(sub)
        (sub / "deep.py").write_text("2")
        below = replicate.init({})
        below.stop()
        (project / "train.py").unlink()
        (sub / "deep.py").unlink()
        for experiment in (above, below):
            assert cli("checkout", experiment.short_id, "--code-only")[0] == 0
        assert (project / "train.py").read_text() == "1"
        assert (sub / "deep.py").read_text() == "2"
        assert not (sub / "train.py").exists()
