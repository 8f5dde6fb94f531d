"""Words of Keepsake and of the first replicate are taken as they were, and say what became of what is gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

import replicate
from replicate.cli import cli as commands
from replicate.cli.former import spelled_out

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    with replicate.init({"lr": 0.1}, path=None) as experiment:
        experiment.checkpoint(None, {"loss": 0.5, "accuracy": 0.9}, ("loss", "minimize"))
    return experiment


class TestOptions:
    @pytest.mark.parametrize("option", ["--storage-url", "--repository", "-R"])
    def test_the_storage_has_its_former_names(self, cli: Cli, experiment: replicate.Experiment, option: str) -> None:
        for arguments in ((option, "other", "ls"), ("ls", option, "other")):
            code, _, err = cli(*arguments)
            assert code == 1
            assert "other" in err
        assert cli(option, ".replicate/storage", "ls", "-q") == (0, f"{experiment.id}\n", "")
        assert cli("ls", "-q", f"{option}=.replicate/storage" if option != "-R" else "-R.replicate/storage")[0] == 0

    @pytest.mark.parametrize("option", ["-v", "--verbose"])
    def test_to_be_verbose_changes_nothing(self, cli: Cli, experiment: replicate.Experiment, option: str) -> None:
        plain = cli("ls", "-q")
        assert cli(option, "ls", "-q") == cli("ls", "-q", option) == plain

    @pytest.mark.parametrize("option", ["-p", "--all-params", "--all"])
    def test_all_params_are_shown(self, cli: Cli, experiment: replicate.Experiment, option: str) -> None:
        assert "accuracy" not in cli("ls")[1]
        assert "lr=0.1" in cli("ls", option)[1]
        assert "accuracy=0.9" in cli("ls", option)[1]

    def test_ps_shows_all_too(self, cli: Cli, project: Path) -> None:
        with replicate.init({"lr": 0.1}, path=None) as running:
            running.checkpoint(None, {"loss": 0.5, "accuracy": 0.9}, ("loss", "minimize"))
            assert "accuracy" not in cli("ps")[1]
            for option in ("--all", "-p"):
                out = cli("ps", option)[1]
                assert "lr=0.1" in out
                assert "accuracy=0.9" in out

    def test_colours_may_be_true_or_false_and_take_no_command_for_a_value(
        self, cli: Cli, experiment: replicate.Experiment
    ) -> None:
        for arguments in (("--color", "ls"), ("ls", "--color"), ("--color=true", "ls"), ("--color", "true", "ls")):
            code, out, _ = cli(*arguments)
            assert code == 0
            assert "\x1b[" in out
        for arguments in (("--color=false", "ls"), ("ls", "--color=false"), ("--color", "false", "ls")):
            assert "\x1b[" not in cli(*arguments)[1]
        code, _, err = cli("ls", "--color=blue")
        assert code == 2
        assert "true" not in err

    def test_behind_two_dashes_nothing_is_spelled_out(self) -> None:
        assert spelled_out(["note", "--", "--color"]) == ["note", "--", "--color"]
        assert spelled_out(["ls", "--color"]) == ["ls", "--color=always"]

    def test_they_are_in_no_help(self, cli: Cli) -> None:
        for name in (*commands.commands, ""):
            out = cli(*filter(None, [name]), "--help")[1]
            assert not any(word in out for word in ("--storage-url", "--repository", "--verbose", "--all-params"))


class TestFilters:
    def test_stopped_is_what_does_not_run(self, cli: Cli, experiment: replicate.Experiment) -> None:
        with replicate.init({}, path=None) as running:
            assert cli("ls", "-q", "-f", "status = stopped")[1] == f"{experiment.id}\n"
            assert cli("ls", "-q", "-f", "status != stopped")[1] == f"{running.id}\n"


class TestCommands:
    def test_help_is_shown_as_a_command_too(self, cli: Cli) -> None:
        assert cli("help") == cli("--help")
        assert cli("help", "ls") == cli("ls", "--help")
        code, _, err = cli("help", "nothing")
        assert code == 2
        assert "No such command 'nothing'" in err

    @pytest.mark.parametrize("rest", [(), ("python", "train.py", "--lr", "0.1"), ("--help",)])
    def test_run_says_how_to_run(self, cli: Cli, rest: tuple[str, ...]) -> None:
        code, out, err = cli("run", *rest)
        assert (code, out) == (2, "")
        assert "start the script yourself, `python train.py`" in err

    @pytest.mark.parametrize("command", [("analytics", "off"), ("analytics",), ("feedback",), ("feedback", "--nice")])
    def test_what_sent_something_says_that_nothing_is_sent(self, cli: Cli, command: tuple[str, ...]) -> None:
        code, out, err = cli(*command)
        assert (code, err) == (0, "")
        assert out.lower().count("nothing") == 1
        assert "sent" in out

    def test_the_help_of_all_commands_does_not_list_them(self, cli: Cli) -> None:
        out = cli("--help")[1]
        assert not any(f"\n  {word} " in out for word in ("run", "analytics", "feedback", "help"))
