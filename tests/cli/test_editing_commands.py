"""`replicate tag`, `note` and `name`, on an experiment of a real run."""

from __future__ import annotations

from pathlib import Path

import pytest

import replicate


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    experiment = replicate.init({"lr": 0.1}, path=None)
    experiment.checkpoint(None, {"loss": 0.5})
    experiment.stop()
    return experiment


def test_tags_are_given_and_taken_away(cli, experiment: replicate.Experiment) -> None:
    shown = f"Tags of the experiment {experiment.short_id}: "
    assert cli("tag", experiment.short_id, "baseline", "wide net") == (0, f"{shown}baseline, wide net\n", "")
    assert cli("tag", experiment.short_id, "--remove", "baseline") == (0, f"{shown}wide net\n", "")
    assert cli("tag", experiment.short_id, "-r", "wide net") == (0, f"{shown}none\n", "")
    cli("tag", experiment.short_id, "kept")
    assert "Tags:" in cli("show", experiment.short_id)[1]


def test_notes_are_written_added_to_and_taken_away(cli, experiment: replicate.Experiment) -> None:
    shown = f"Notes of the experiment {experiment.short_id}: "
    assert cli("note", experiment.short_id, "diverges") == (0, f"{shown}diverges\n", "")
    assert cli("note", experiment.short_id, "--append", "or not") == (0, f"{shown}diverges\nor not\n", "")
    assert cli("note", experiment.short_id, "") == (0, f"{shown}none\n", "")
    assert cli("note", experiment.short_id, "-a", "first") == (0, f"{shown}first\n", "")


def test_a_name_is_given_and_taken_away(cli, experiment: replicate.Experiment) -> None:
    shown = f"Name of the experiment {experiment.short_id}: "
    assert cli("name", experiment.short_id, "digits") == (0, f"{shown}digits\n", "")
    assert "digits" in cli("ls")[1]
    assert cli("name", experiment.short_id, "") == (0, f"{shown}none\n", "")


@pytest.mark.parametrize("command", ["tag", "note", "name"])
def test_only_experiments_are_edited(cli, experiment: replicate.Experiment, command: str) -> None:
    code, out, err = cli(command, experiment.checkpoints[0].short_id, "text")
    assert (code, out) == (2, "")
    assert f"is a checkpoint of the experiment {experiment.short_id}" in err


@pytest.mark.parametrize("command", ["tag", "note", "name"])
def test_what_is_not_there_is_not_found(cli, experiment: replicate.Experiment, command: str) -> None:
    experiment.delete()
    assert cli(command, experiment.short_id, "text")[0] == 1


def test_a_blank_tag_is_wrong_usage(cli, experiment: replicate.Experiment) -> None:
    code, _, err = cli("tag", experiment.short_id, " ")
    assert (code, err) == (2, "replicate: a tag must be a text that is not empty, got ' '\n")


def test_what_others_have_written_does_not_steer_the_terminal(cli, experiment: replicate.Experiment) -> None:
    experiment.tag("\x1b[2Jgone")
    assert "\x1b" not in cli("tag", experiment.short_id, "wide")[1]
