"""Name, tags and notes: given at the beginning, changed while it runs and later, and read by everybody at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.format.records import Edited
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    """As others load it."""
    replicate.init({"lr": 0.1}, path=None, name="digits", tags=["baseline"], notes="the first one").stop()
    (loaded,) = replicate.experiments.list()
    return loaded


def seen(experiment: replicate.Experiment) -> tuple[str | None, tuple[str, ...], str | None]:
    """What everybody else sees."""
    found = replicate.experiments.get(experiment.id)
    assert isinstance(found, replicate.Experiment)
    return found.name, found.tags, found.notes


def edits() -> list[Edited]:
    records = Repository(LocalStore(Path(".replicate/storage"))).read_records()
    return [record for record in records if isinstance(record, Edited)]


def test_a_new_name_takes_the_place_of_the_old_one(experiment: replicate.Experiment) -> None:
    experiment.rename("letters")
    assert experiment.name == "letters"
    assert seen(experiment) == ("letters", ("baseline",), "the first one")


def test_notes_are_written_anew(experiment: replicate.Experiment) -> None:
    experiment.note("diverges\nafter step 9000")
    assert experiment.notes == seen(experiment)[2] == "diverges\nafter step 9000"


def test_an_empty_text_takes_name_and_notes_away(experiment: replicate.Experiment) -> None:
    experiment.rename("")
    experiment.note("")
    assert (experiment.name, experiment.notes) == (None, None)
    assert seen(experiment) == (None, ("baseline",), None)


def test_tags_are_added_beside_those_that_are_there_and_none_twice(experiment: replicate.Experiment) -> None:
    experiment.tag("wide", "baseline", "wide")
    assert experiment.tags == seen(experiment)[1] == ("baseline", "wide")


def test_tags_are_taken_away(experiment: replicate.Experiment) -> None:
    experiment.tag("wide", "deep")
    experiment.untag("baseline", "deep", "never there")
    assert experiment.tags == seen(experiment)[1] == ("wide",)


def test_an_edit_starts_from_what_others_have_written_meanwhile(experiment: replicate.Experiment) -> None:
    other = replicate.experiments.get(experiment.id)
    other.tag("wide")
    other.rename("letters")
    experiment.tag("deep")
    assert experiment.tags == seen(experiment)[1] == ("baseline", "wide", "deep")
    assert experiment.name == "letters"


def test_what_changes_nothing_is_not_recorded(experiment: replicate.Experiment) -> None:
    experiment.tag("baseline")
    experiment.untag("never there")
    experiment.rename("digits")
    experiment.note("the first one")
    assert edits() == []


def test_an_experiment_is_edited_while_it_runs(project: Path) -> None:
    experiment = replicate.init({}, path=None)
    experiment.tag("watch this")
    experiment.checkpoint(None, {"loss": 1})
    assert experiment.tags == seen(experiment)[1] == ("watch this",)
    experiment.stop()
    assert experiment.tags == ("watch this",)
    assert len(experiment.checkpoints) == 1


def test_a_deleted_experiment_is_not_edited(experiment: replicate.Experiment) -> None:
    replicate.experiments.get(experiment.id).delete()
    calls: list[Callable[[], None]] = [
        lambda: experiment.tag("wide"),
        lambda: experiment.untag("baseline"),
        lambda: experiment.rename("letters"),
        lambda: experiment.note("gone"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="is no longer in"):
            call()
    assert edits() == []


@pytest.mark.parametrize(
    ("method", "given", "match"),
    [
        ("tag", ("",), "a tag must be a non-empty string"),
        ("tag", (3,), "a tag must be a non-empty string"),
        ("untag", (["baseline"],), "a tag must be a non-empty string"),
        ("rename", (" ",), "name must be a non-empty string"),
        ("rename", (None,), "name must be a non-empty string"),
        ("note", (5,), "notes must be a non-empty string"),
    ],
    ids=["empty tag", "number", "list", "blank name", "no name", "number as notes"],
)
def test_what_is_no_text_is_refused(
    experiment: replicate.Experiment, method: str, given: tuple[object, ...], match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        getattr(experiment, method)(*given)
    assert edits() == []


def test_other_ranks_of_a_distributed_run_edit_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    experiment = replicate.init({}, path=None)
    experiment.tag("wide")
    experiment.rename("letters")
    assert (experiment.tags, experiment.name) == ((), None)
