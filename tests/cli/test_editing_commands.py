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


@pytest.mark.parametrize("length", [4, 7, 64])
def test_an_id_does_not_become_a_tag(cli, experiment: replicate.Experiment, length: int) -> None:
    other = replicate.init({}, path=None)
    other.checkpoint(None, {"loss": 0.5})
    other.stop()
    for taken in (other.id[:length], other.checkpoints[0].id[:length]):
        code, out, err = cli("tag", experiment.short_id, taken, "word")
        assert (code, out) == (2, "")
        assert f"'{taken}' begins the id of " in err
        assert "one experiment at a time, so give each one a command of its own" in err
    assert replicate.experiments.get(experiment.id).tags == ()
    experiment.tag(other.id[:length])  # Python takes any word
    assert cli("tag", experiment.short_id, other.id[:length], "word")[0] == 0, "it has that tag already"
    assert cli("tag", experiment.short_id, "--remove", other.id[:length])[1].endswith(": word\n")


def test_an_id_does_not_become_a_name_nor_a_note(cli, experiment: replicate.Experiment) -> None:
    other = replicate.init({}, path=None)
    other.stop()
    for command, method in (("name", "rename"), ("note", "note")):
        code, _, err = cli(command, experiment.short_id, other.short_id)
        assert code == 2
        assert f"stands where a {command} is expected" in err
        assert f"experiments.get(ID).{method}('{other.short_id}') in Python takes any word" in err
    assert cli("note", experiment.short_id, f"worse than {other.short_id}")[0] == 0


@pytest.mark.parametrize("word", ["bad", "cafe-au-lait", "2026", "v1", "deadbeef"])
def test_a_word_of_an_ids_characters_is_a_tag_where_no_id_begins_so(
    cli, experiment: replicate.Experiment, word: str
) -> None:
    if not experiment.id.startswith(word) and not experiment.checkpoints[0].id.startswith(word):
        assert cli("tag", experiment.short_id, word)[0] == 0


def test_a_blank_tag_is_wrong_usage(cli, experiment: replicate.Experiment) -> None:
    code, _, err = cli("tag", experiment.short_id, " ")
    assert (code, err) == (2, "replicate: a tag must be a non-empty string, got ' '\n")


def test_what_others_have_written_does_not_steer_the_terminal(cli, experiment: replicate.Experiment) -> None:
    experiment.tag("\x1b[2Jgone")
    assert "\x1b" not in cli("tag", experiment.short_id, "wide")[1]
