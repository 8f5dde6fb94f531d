"""What the callbacks of all frameworks take is checked when they are made, not in the midst of training."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import replicate
from replicate_core.adapters import (
    check_experiment,
    check_keep,
    check_overhead,
    check_resume,
    check_template,
    copy_for_training,
    discard,
    expand_template,
    whole_from_1,
)
from replicate_core.errors import InvalidInput
from replicate_core.format.records import PrimaryMetric

LOSS = PrimaryMetric("loss", "minimize")


def template(filepath: object) -> str | None:
    return check_template(filepath, places=("epoch", "step"), example="m-{epoch:02d}.ckpt")


class TestTemplates:
    @pytest.mark.parametrize("filepath", ["m.ckpt", "out/m-{epoch:02d}-{val_loss:.2f}.ckpt", "{{m}}", Path("m.ckpt")])
    def test_that_can_be_filled_in_are_taken(self, filepath: str | Path) -> None:
        assert template(filepath) == str(filepath)

    def test_may_be_none(self) -> None:
        assert template(None) is None

    @pytest.mark.parametrize("filepath", [3, "s3://bucket/m.ckpt", b"m.ckpt"])
    def test_name_a_path_of_this_machine(self, filepath: object) -> None:
        with pytest.raises(InvalidInput, match="filepath must be a local path in the project, or None"):
            template(filepath)

    @pytest.mark.parametrize("filepath", ["m-{}.ckpt", "m-{epoch.ckpt", "m-{epoch:%Y}", "m-{loss.real.no}", "m-{a[0]}"])
    def test_that_cannot_be_filled_in_are_refused_with_an_example(self, filepath: str) -> None:
        with pytest.raises(InvalidInput, match=r"can't be filled in \(.*\): name epoch or step or metrics, as in 'm-"):
            template(filepath)

    def test_are_filled_in_whatever_is_missing(self) -> None:
        values = {"epoch": 3, "loss": 0.125, "word": "good"}
        assert expand_template("m-{epoch:02d}-{loss:.2f}-{word:.1f}-{none}", values) == "m-03-0.12-nan-nan"


@pytest.mark.parametrize(
    ("value", "found"), [(1, 1), (np.int64(7), 7), (0, None), (-1, None), (True, None), (1.0, None), ("1", None)]
)
def test_whole_numbers_are_those_of_any_library(value: object, found: int | None) -> None:
    assert whole_from_1(value) == found


class TestOverhead:
    def test_is_a_share_of_the_time(self) -> None:
        assert (check_overhead(None, "epoch"), check_overhead(0.2, "auto")) == (0.05, 0.2)

    @pytest.mark.parametrize("share", [0, 1, 1.5, True, "0.1"])
    def test_is_nothing_else(self, share: object) -> None:
        with pytest.raises(InvalidInput, match="max_overhead must be a share of the time between 0 and 1"):
            check_overhead(share, "auto")  # type: ignore[arg-type]  # what is tested

    def test_says_when_to_save_where_nothing_else_does(self) -> None:
        with pytest.raises(InvalidInput, match="got save_freq=100"):
            check_overhead(0.1, 100)


class TestKeep:
    def test_is_all_or_what_is_given(self) -> None:
        assert check_keep(None, None, None) == {}
        assert check_keep(2, None, LOSS) == {"best": 2}
        assert check_keep(2, 3, LOSS) == {"best": 2, "last": 3}

    @pytest.mark.parametrize("number", [0, -1, 1.5, True, "1"])
    def test_is_a_number_of_checkpoints(self, number: object) -> None:
        with pytest.raises(InvalidInput, match="keep_last must be a number of checkpoints from 1"):
            check_keep(None, number, LOSS)  # type: ignore[arg-type]  # what is tested

    def test_of_the_best_needs_a_metric(self, project: Path) -> None:
        with pytest.raises(InvalidInput, match=r"keep_best needs primary_metric, here or in replicate\.yaml"):
            check_keep(1, None, None)
        (project / "replicate.yaml").write_text("metrics:\n  loss: {goal: minimize, primary: true}\n")
        assert check_keep(1, None, None) == {"best": 1}


class TestResume:
    @pytest.mark.parametrize("resume", [None, "auto", "3fa2c1b"])
    def test_is_a_word_or_an_id(self, resume: str | None) -> None:
        check_resume(resume, None)

    @pytest.mark.parametrize("resume", ["", 3, True])
    def test_is_nothing_else(self, resume: object) -> None:
        with pytest.raises(
            InvalidInput, match='resume must be "auto" or the first characters of the id of an experiment'
        ):
            check_resume(resume, None)

    def test_and_an_experiment_are_one_too_many(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        check_experiment(experiment)
        check_resume(None, experiment)
        with pytest.raises(InvalidInput, match=r"give resume to replicate\.init, which"):
            check_resume("auto", experiment)

    def test_of_no_experiment_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match=r"experiment must be one that replicate\.init returned, got 'name'"):
            check_experiment("name")


class TestDiscarding:
    def test_leaves_nothing_of_what_has_only_begun(self, project: Path) -> None:
        experiment = replicate.init({"lr": 1})
        assert discard(experiment)
        assert len(replicate.experiments.list()) == 0
        assert not list(Path(".replicate/spool").glob("*-*")), "no recorder goes on for it"

    def test_leaves_alone_what_has_more(self, project: Path) -> None:
        experiment = replicate.init()
        experiment.checkpoint(None, {"loss": 1.0})
        assert not discard(experiment)
        assert experiment.is_running()
        experiment.stop()

    def test_leaves_alone_what_was_resumed_or_is_not_recorded_here(self, project: Path) -> None:
        first = replicate.init(name="a")
        first.checkpoint(None, {"loss": 1.0})
        first.stop()
        assert not discard(first)
        again = replicate.init(name="a", resume=first.id)
        assert not discard(again)
        again.stop()
        assert not discard(replicate.experiments.get(first.id))
        assert len(replicate.experiments.list()) == 1


class Recorder:
    """A callback with something that is not pickled."""

    def __init__(self, experiment: object) -> None:
        self.experiment, self.params, self.lock, self.me = experiment, {"sizes": [1]}, object(), self

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"lock": None, "experiment": None}

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        return copy_for_training(self, memo, given=self.experiment)


def test_a_copy_shares_the_experiment_and_nothing_else() -> None:
    original = Recorder(experiment=object())
    copied = copy.deepcopy(original)
    assert copied.experiment is original.experiment
    assert copied.params == original.params
    assert copied.params["sizes"] is not original.params["sizes"]
    assert copied.me is copied
    assert copied.lock is None
