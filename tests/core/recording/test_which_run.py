"""Which run a start goes on with: the same one by its name, its params, or an id; and which it never does."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupted_runs import flip, interrupted, killed, kinds, ran, save, seen, start, stored
from kit import steps, text_of
from machines import at

from replicate_core.errors import Corrupted, InvalidInput, NotFound
from replicate_core.format import record_codec
from replicate_core.format.records import Created, Edited, Resumed
from replicate_core.format.sealed import seal
from replicate_core.machine import environment
from replicate_core.recording import recording, resuming

pytestmark = pytest.mark.usefixtures("few_packages")

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


PARAMS = st.dictionaries(st.text(max_size=5) | st.sampled_from(["$float", "$a", "lr"]), VALUES, max_size=5)


@given(name=st.none() | st.text(max_size=8), command=st.none() | st.text(max_size=8), params=PARAMS)
def test_another_start_of_the_same_run_is_found_by_its_texts(
    name: str | None, command: str | None, params: dict[str, object]
) -> None:
    new = Created("1" * 32, NOW, name=name, command=command, params=params)
    backwards = json.loads(json.dumps(params), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    old = Created("2" * 32, NOW, name=name, command=command, params=backwards, notes="of another day")
    renamed = Edited("2" * 32, name=name, tags=None, notes=None)
    assert resuming.is_same_run(old, new)
    for record in (old, *([renamed] if name is not None else [])):
        line = seal(record_codec.encode(record)).decode()
        assert all(text in line for text in resuming._strings_of_same_run(new))


class TestWhichRun:
    def test_a_first_start_goes_on_with_nothing(self, project: Path) -> None:
        experiment = start()
        assert experiment.resumed_from is None
        save(experiment, 0)
        experiment.stop()
        assert steps(seen(experiment.id)) == [0]
        assert kinds(Resumed) == []

    def test_without_resume_every_run_is_a_new_one(self, project: Path) -> None:
        first, second = ran(1), start(resume=None)
        assert second.id != first.id
        assert second.resumed_from is None

    def test_the_same_name_is_the_same_run_whatever_its_command(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ran(2)
        monkeypatch.setattr(environment, "command_line", lambda: "python other.py")
        second = start()
        assert (second.id, second.resumed_from.step) == (first.id, 1)

    def test_another_name_is_another_run(self, project: Path) -> None:
        first = ran(2)
        for name in ("letters", None):
            other = start(name)
            assert other.id != first.id
            assert other.resumed_from is None
            killed(other)

    def test_without_names_the_same_params_and_command_are_the_same_run(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        params = {"lr": 0.1, "layers": (3, 4), "deep": {"er": None}}
        first, second = ran(2, name=None, params=params), start(None, params=params)
        assert second.id == first.id
        killed(second)
        assert start(None, params={"lr": 0.2}).id != first.id
        monkeypatch.setattr(environment, "command_line", lambda: "python other.py")
        assert start(None, params=params).id != first.id

    def test_an_unnamed_run_is_not_that_of_a_named_one(self, project: Path) -> None:
        first = ran(1, name=None)
        assert start("digits").id != first.id

    def test_another_project_at_the_same_storage_is_another_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids_ = []
        for name in ("one/digits", "other/letters", "third/digits"):
            at(tmp_path / name, monkeypatch)
            experiment = start()
            save(experiment, 0)
            ids_.append(interrupted(experiment).id)
        assert ids_[0] != ids_[1], "another directory"
        assert ids_[0] == ids_[2], "another checkout of the same"

    def test_of_several_the_latest_is_meant(self, project: Path) -> None:
        ran(1)
        second = ran(1, resume=None)
        ran(1, name="other", resume=None)
        assert start().id == second.id

    def test_a_deleted_run_is_not_gone_on_with(self, project: Path) -> None:
        first = ran(1)
        seen(first.id).delete()
        assert start().id != first.id

    def test_a_finished_run_is_never_resumed_by_itself(self, project: Path, said: list[str]) -> None:
        with start() as first:
            save(first, 0)
        second = start()
        assert (second.id != first.id, second.resumed_from) == (True, None)
        assert [seen(item).status for item in (first.id, second.id)] == ["finished", "running"]
        (line,) = said
        assert line == (
            f"a new experiment begins, because {first.short_id}, the latest named 'digits', has finished; "
            f'resume="{first.short_id}" would extend that one'
        )

    def test_it_is_extended_by_its_id(self, project: Path) -> None:
        with start() as first:
            save(first, 0)
        second = start(resume=first.short_id)
        assert (second.id, second.resumed_from.step) == (first.id, 0)
        assert second.status == seen(first.id).status == "running"
        save(second)
        second.stop()
        assert (steps(seen(first.id)), seen(first.id).status) == ([0, 1], "finished")

    def test_without_a_name_a_finished_run_is_not_resumed_either(self, project: Path, said: list[str]) -> None:
        with start(None) as first:
            save(first, 0)
        assert start(None).id != first.id
        assert "the latest with these params and command, has finished" in said[0]

    def test_what_came_before_a_finished_run_is_not_resumed(self, project: Path) -> None:
        first = ran(2)
        with start(resume=None) as second:
            save(second, 0)
        assert start().id not in (first.id, second.id)

    def test_once_the_resumed_run_has_finished_a_new_experiment_begins(self, project: Path) -> None:
        first = ran(2)
        with start() as second:
            assert second.id == first.id
        assert start().id != first.id

    def test_other_params_begin_a_new_experiment(self, project: Path, said: list[str]) -> None:
        first = ran(2, params={"lr": 0.1, "model": {"layers": 2}, "seed": 1})
        second = start(params={"lr": 0.2, "model": {"layers": 2}, "name": "x" * 40})
        assert (second.id != first.id, second.resumed_from) == (True, None)
        (line,) = said
        assert line == (
            f"a new experiment begins, because the params differ from those of {first.short_id}, the latest named "
            f"'digits': lr 0.1 → 0.2, seed 1 → nothing, name nothing → \"{'x' * 28}…; "
            f'resume="{first.short_id}" would extend that one'
        )

    def test_one_that_still_runs_is_not_offered(self, project: Path, said: list[str]) -> None:
        first = start(params={"lr": 0.1})
        killed(start(params={"lr": 0.2}))
        assert said[-1] == (
            f"a new experiment begins, because the params differ from those of {first.short_id}, the latest named "
            "'digits': lr 0.1 → 0.2; that one still runs"
        )
        killed(first)

    def test_the_latest_is_called_that_of_its_params_where_a_later_one_has_others(
        self, project: Path, said: list[str]
    ) -> None:
        with start(params={"lr": 0.1}) as first:
            save(first, 0)
        second = start(params={"lr": 0.2})
        start(params={"lr": 0.1}).stop()
        assert said[-1] == (
            f"a new experiment begins, because {first.short_id}, the latest named 'digits' with these params, has "
            f'finished; resume="{first.short_id}" would extend that one'
        )
        killed(second)

    def test_of_one_name_the_run_with_the_same_params_is_resumed(self, project: Path) -> None:
        """As the jobs of a sweep, which have one name, and are started again one by one."""
        first = ran(2, params={"lr": 0.1})
        second = ran(1, params={"lr": 0.2})
        assert killed(start(params={"lr": 0.1})).id == first.id
        assert start(params={"lr": 0.2}).id == second.id

    @pytest.mark.parametrize(
        "params",
        [
            {"lr": 0.1, "clip": float("nan"), "limit": float("inf")},
            {"sizes": np.array([3, 4]), "rate": np.float32(0.1), "seed": np.int64(7)},
            {"betas": (0.9, 0.999), "deep": {"er": {"still": (1, [2])}}, 7: None},
            {"text": "naïve", "flag": True, "huge": 10**30},
        ],
        ids=["nan", "numpy", "tuples", "plain"],
    )
    def test_params_are_compared_as_they_are_recorded(self, project: Path, params: dict[object, object]) -> None:
        first = ran(1, params=params)
        assert start(params=dict(reversed(params.items()))).id == first.id

    def test_a_start_that_names_no_params_has_those_that_were_recorded(self, project: Path) -> None:
        assert ran(1).id == start(params=None).id

    def test_one_that_ended_before_its_first_checkpoint_hides_no_older_one(self, project: Path) -> None:
        first = ran(2)
        broken = start(resume=None)
        broken.checkpoint(None, {"loss": 1})  # there is nothing in it to resume from
        broken._recorded.end("failed", "ValueError")
        killed(start(resume=None))
        second = start()
        assert (second.id, second.resumed_from.step) == (first.id, 1)

    def test_nor_does_it_where_the_files_still_wait(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
            first = ran(2)
        killed(start(resume=None))
        assert start().resumed_from.step == 1
        assert steps(seen(first.id)) == [0, 1]

    def test_one_that_ended_before_its_first_checkpoint_is_begun_again_where_the_older_one_finished(
        self, project: Path
    ) -> None:
        with start() as first:
            save(first, 0)
        second = ran(0)
        assert second.id != first.id
        assert killed(start()).id == second.id
        assert start().id == second.id

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_so_does_one_that_ended_otherwise(self, project: Path, status: str) -> None:
        first = start()
        save(first, 0)
        first._recorded.end(status, "why")
        assert seen(first.id).status == status
        with start() as second:
            assert second.resumed_from.step == 0
        assert (seen(first.id).status, seen(first.id).error) == ("finished", None)

    def test_params_that_are_nan_are_the_same(self, project: Path) -> None:
        first = ran(1, name=None, params={"clip": float("nan")})
        assert start(None, params={"clip": float("nan")}).id == first.id


class TestById:
    def test_an_experiment_goes_on_from_its_newest_checkpoint(self, project: Path) -> None:
        first = ran(3)
        ran(1, resume=None)  # a later one, of the same name
        second = start(resume=first.id[:9].upper() + " ")
        assert (second.id, second.resumed_from.step) == (first.id, 2)

    def test_a_checkpoint_is_gone_on_from_itself(self, project: Path) -> None:
        first = ran(3)
        wanted = stored(first.id, 1)
        second = start(name="whatever", resume=wanted.id[:10])
        assert (second.id, second.resumed_from.id) == (first.id, wanted.id)
        assert text_of(second.resumed_from) == "weights of step 1"
        assert steps(second) == [0, 1]
        assert save(second).step == 2

    @pytest.mark.parametrize("prefix", ["ffffffffff", "no id", "AUTO"])
    def test_an_unknown_one_is_not_found(self, project: Path, prefix: str) -> None:
        ran(1)
        before = kinds(Created, Resumed)
        with pytest.raises(NotFound, match=r"must be the prefix of one id, and matches nothing: `replicate ls`"):
            start(resume=prefix)
        assert kinds(Created, Resumed) == before

    def test_of_an_ambiguous_one_all_are_named(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recording, "new_id", lambda: "abc" + os.urandom(15).hex()[3:].ljust(29, "0")[:29])
        first = ran(2)
        made = [item.id for item in seen(first.id).checkpoints]
        with pytest.raises(NotFound) as caught:
            start(resume="abc")
        assert all(identifier in str(caught.value) for identifier in made)

    @pytest.mark.parametrize("given", ["", " ", 7, True, ["auto"]])
    def test_something_else_is_refused(self, project: Path, given: object) -> None:
        with pytest.raises(InvalidInput, match="resume must be a non-empty string"):
            start(resume=given)

    def test_a_checkpoint_without_files_is_refused(self, project: Path) -> None:
        first = start()
        point = first.checkpoint(None, {"loss": 1})
        killed(first)
        with pytest.raises(Corrupted, match="has no files to resume from"):
            start(resume=point.id)

    def test_a_damaged_checkpoint_is_refused_when_it_was_asked_for(self, project: Path) -> None:
        first = ran(2)
        seen(first.id)
        start(resume=first.id).stop()
        wanted = stored(first.id, 1)
        flip(wanted)
        before = len(kinds(Resumed))
        with pytest.raises(Corrupted):
            start(resume=wanted.id)
        assert len(kinds(Resumed)) == before

    def test_a_checkpoint_that_was_set_aside_is_not_found(self, project: Path) -> None:
        first = ran(3)
        later = first.checkpoints[2].id
        killed(start(resume=first.checkpoints[0].id))
        with pytest.raises(NotFound, match="nothing"):
            start(resume=later)
