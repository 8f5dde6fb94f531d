"""Going on with a run: which one is meant, from which checkpoint, and never beside one that still runs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import steps, until
from misbehaving import Storage, fails

import replicate_core as replicate
from replicate_core import adapters, starting
from replicate_core.errors import Corrupted, InvalidInput, NotFound, StorageFailed
from replicate_core.format import record_codec
from replicate_core.format.records import Checkpointed, Created, Edited, Ended, Record, Resumed
from replicate_core.format.sealed import seal
from replicate_core.machine import environment
from replicate_core.recording import notices, recording, resuming
from replicate_core.repository import heartbeats
from replicate_core.repository.heartbeats import Heartbeat
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import sync
from replicate_core.storage.local import LocalStore
from replicate_core.workspace import Workspace

ROOT = Path(replicate.__file__).parents[1]
NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "2.0"})  # hundreds would only make it slow


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said that is neither trouble nor a result."""
    lines: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", lines.append)
    return lines


def start(name: str | None = "digits", *, resume: str | None = "auto", **options: object) -> replicate.Experiment:
    """What the training script does first."""
    return replicate.init(options.pop("params", {"lr": 0.1}), name=name, resume=resume, **options)


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
        assert all(text in line for text in resuming._texts_of_same_run(new))


def save(experiment: replicate.Experiment, step: int | None = None) -> replicate.Checkpoint:
    """A checkpoint whose file says its step."""
    Path("model.txt").write_text(f"weights of step {step}")
    return experiment.checkpoint("model.txt", {"loss": -1 if step is None else 1 / (step + 1)}, step=step)


def killed(experiment: replicate.Experiment) -> replicate.Experiment:
    """As after a SIGKILL: nobody owns its queue any more."""
    experiment._recorded._queue.finish_appending()
    return experiment


def interrupted(experiment: replicate.Experiment) -> replicate.Experiment:
    """As after a Ctrl-C: its end is recorded, and it did not finish."""
    experiment._recorded.end("interrupted", "KeyboardInterrupt")
    return experiment


def ran(steps: int, **options: object) -> replicate.Experiment:
    """A run that was killed after so many steps."""
    experiment = start(**options)
    for step in range(steps):
        save(experiment, step)
    return killed(experiment)


def seen(identifier: str) -> replicate.Experiment:
    """As everybody else sees an experiment."""
    return replicate.experiments.get(identifier)


def repository(storage: Path | str = ".replicate/storage") -> Repository:
    return Repository(LocalStore(Path(storage)))


def kinds(*types: type[Record], storage: Path | str = ".replicate/storage") -> list[Record]:
    """The stored records of some kinds."""
    return [record for record in repository(storage).read_records() if isinstance(record, types)]


def text_of(checkpoint: replicate.Checkpoint | None) -> str:
    assert checkpoint is not None
    with checkpoint.open("model.txt") as file:
        return file.read().decode()


def flip(checkpoint: replicate.Checkpoint) -> None:
    """Change a bit of the last file of a checkpoint, where that is stored."""
    part = list(checkpoint._manifest().files.values())[-1].parts[-1]
    path = Path(".replicate/storage", part.object)
    data = bytearray(path.read_bytes())
    assert part.encoding is None, "as it is, so that every bit counts"
    data[part.offset + part.length // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def stored(experiment: str, step: int) -> replicate.Checkpoint:
    return next(item for item in seen(experiment).checkpoints if item.step == step)


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
        with pytest.raises(NotFound, match=r"begins the id of nothing: `replicate ls`"):
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
        with pytest.raises(InvalidInput, match="resume must be a text"):
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


class TestFromWhichCheckpoint:
    def test_the_newest_one_with_its_files(self, project: Path) -> None:
        ran(3)
        assert text_of(start().resumed_from) == "weights of step 2"

    def test_those_without_files_are_passed_over_and_set_aside(self, project: Path) -> None:
        first = start()
        save(first, 0)
        for step in (1, 2):
            first.checkpoint(None, {"loss": 1}, step=step)
        killed(first)
        second = start()
        assert second.resumed_from.step == 0
        assert steps(second) == steps(seen(first.id)) == [0]

    def test_a_run_without_files_begins_at_its_beginning(self, project: Path) -> None:
        first = start()
        first.checkpoint(None, {"loss": 1}, step=5)
        killed(first)
        second = start()
        assert (second.id, second.resumed_from) == (first.id, None)
        assert second.checkpoint(None, {}).step == 0
        second.stop()
        assert steps(seen(first.id)) == [0]
        assert seen(first.id).resumed_from is None

    def test_so_does_one_that_was_killed_before_its_first_checkpoint(self, project: Path) -> None:
        first = ran(0)
        second = start()
        assert (second.id, second.resumed_from) == (first.id, None)

    @pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "no manifest"])
    def test_of_a_damaged_one_a_warning_tells_and_the_one_before_is_taken(self, project: Path, harm: str) -> None:
        first = ran(3)
        killed(start())
        newest = stored(first.id, 2)
        (path,) = (Path(".replicate/storage", key) for key in newest._manifest().object_bytes)
        if harm == "flipped":
            flip(newest)
        elif harm == "cut":
            path.chmod(0o644)
            os.truncate(path, 3)
        elif harm == "missing":
            path.unlink()
        else:
            Path(".replicate/storage", newest._facts.manifest).unlink()
        with pytest.warns(UserWarning, match=rf"{newest.short_id} \(step 2\) can't be resumed from") as told:
            second = start()
        assert len(told) == 1
        assert told[0].filename == __file__, "the line that called init()"
        assert second.resumed_from.step == 1
        assert text_of(second.resumed_from) == "weights of step 1"
        assert steps(second) == [0, 1]
        save(second)
        second.stop()
        assert steps(seen(first.id)) == [0, 1, 2]
        assert text_of(stored(first.id, 2)) == "weights of step None", "the new one"

    def test_a_part_of_a_directory_is_enough_to_damage_it(self, project: Path) -> None:
        first = start()
        Path("model").mkdir()
        for step in range(2):
            for name in "abc":
                Path("model", name).write_bytes(os.urandom(50_000))
            first.checkpoint("model", {}, step=step)
        killed(first)
        killed(start())
        flip(stored(first.id, 1))
        with pytest.warns(UserWarning, match=r"\(step 1\) can't be resumed from"):
            assert start().resumed_from.step == 0

    def test_if_all_are_damaged_it_begins_at_its_beginning(self, project: Path) -> None:
        first = ran(2)
        killed(start())
        for checkpoint in seen(first.id).checkpoints:
            flip(checkpoint)
        with pytest.warns(UserWarning, match="can't be resumed from") as told:
            second = start()
        assert len(told) == 2
        assert (second.id, second.resumed_from, steps(second)) == (first.id, None, [])
        assert save(second).step == 0
        second.stop()
        assert steps(seen(first.id)) == [0]

    def test_a_storage_that_fails_is_no_damage(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the newest checkpoint would be set aside because the network was down for a moment."""
        first = ran(2)
        killed(start())
        whole = LocalStore.get

        def get(self: LocalStore, key: str, start: int = 0, end: int | None = None) -> bytes:
            if key.startswith("data/"):
                raise StorageFailed("the network is down")
            return whole(self, key, start, end)

        before = kinds(Resumed)
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "get", get)
            with pytest.raises(StorageFailed, match="the network is down"):
                start()
        assert kinds(Resumed) == before
        assert steps(seen(first.id)) == [0, 1]


class TestHistory:
    def test_has_no_double_steps_however_often_it_was_killed(self, project: Path) -> None:
        first = start()
        save(first, 0)
        for begin in (1, 3, 5):
            for step in (begin, begin + 1):
                save(first, step)
            for step in range(begin + 2, begin + 5):  # these are done again
                first.checkpoint(None, {"loss": -step}, step=step)
            killed(first)
            first = start()
            assert first.resumed_from.step == begin + 1
        assert steps(first) == list(range(7))
        assert [item.metrics["loss"] for item in seen(first.id).checkpoints] == [1 / (step + 1) for step in range(7)]
        assert len({record.created for record in kinds(Resumed)}) == 3

    def test_steps_are_counted_on(self, project: Path) -> None:
        ran(3)
        second = start()
        assert [save(second).step, second.checkpoint(None, {}).step, save(second).step] == [3, 4, 5]

    def test_the_experiment_is_the_one_that_began(self, project: Path) -> None:
        first = ran(1, tags=["old"], notes="old")
        second = start(resume=first.id, tags=["new"], notes="new", params={"lr": 0.2})
        assert (second.created, second.params) == (seen(first.id).created, {"lr": 0.1})
        assert second.checkpoints[0].id == second.resumed_from.id
        assert second.resumed_from.is_stored

    def test_everybody_sees_what_it_goes_on_from(self, project: Path) -> None:
        first = ran(2)
        second = start()
        save(second)
        second.stop()
        assert seen(first.id).resumed_from.id == second.resumed_from.id == seen(first.id).checkpoints[1].id

    def test_the_end_of_the_run_before_is_known_as_a_kill(self, project: Path) -> None:
        first = ran(1)
        second = start()
        assert [record.status for record in kinds(Ended)] == ["killed"]
        assert seen(first.id).status == "running"
        killed(second)
        sync(Spool(Path.cwd()))
        assert seen(first.id).status == "killed"

    def test_best_looks_at_all_of_it(self, project: Path) -> None:
        first = start()
        for step, loss in enumerate([3, 1, 2]):
            Path("model.txt").write_text(str(loss))
            first.checkpoint("model.txt", {"loss": loss}, primary_metric=("loss", "minimize"), step=step)
        killed(first)
        second = start()
        second.checkpoint(None, {"loss": 2.5}, primary_metric=("loss", "minimize"))
        assert second.best().step == 1


class TestCode:
    def test_a_checkpoint_comes_back_with_the_code_that_made_it(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = start()
        save(first, 0)
        save(first, 1)
        killed(first)
        Path("train.py").write_text("new")
        Path("added.py").write_text("added")
        second = start()
        save(second)
        second.stop()
        Path("train.py").write_text("newest")
        third = start(resume=first.id)
        before_any = third.checkpoints[-1]
        save(third)
        third.stop()

        for step, wanted in enumerate([("old", None), ("old", None), ("new", "added"), ("newest", "added")]):
            checkpoint = stored(first.id, step)
            there = tmp_path / f"out-{step}"
            checkpoint.checkout(there)
            assert (there / "train.py").read_text() == wanted[0]
            assert (there / "added.py").exists() is (wanted[1] is not None)
            assert (there / "model.txt").exists()
        before_any.checkout(tmp_path / "again")
        assert (tmp_path / "again/train.py").read_text() == "new"

    def test_without_checkpoints_the_code_is_the_one_it_goes_on_with(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = ran(0)
        Path("train.py").write_text("new")
        start().stop()
        seen(first.id).checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "new"

    def test_of_no_code_the_last_one_stays(self, project: Path, tmp_path: Path) -> None:
        Path("train.py").write_text("old")
        first = ran(1)
        second = start(path=None)
        save(second)
        second.stop()
        stored(first.id, 1).checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "old"

    def test_a_run_that_saved_no_code_may_save_it_later(self, project: Path, tmp_path: Path) -> None:
        first = ran(1, path=None)
        Path("train.py").write_text("new")
        second = start()
        save(second)
        second.stop()
        stored(first.id, 0).checkout(tmp_path / "zero")
        stored(first.id, 1).checkout(tmp_path / "one")
        assert sorted(path.name for path in (tmp_path / "zero").iterdir()) == ["model.txt"]
        assert (tmp_path / "one/train.py").read_text() == "new"

    def test_while_it_waits_the_files_are_already_there(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkout waits until the code is stored, so it never comes with the code of the run before."""
        Path("train.py").write_text("old")
        first = ran(1)
        Path("train.py").write_text("new")
        monkeypatch.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
        second = start()
        made = save(second)
        assert kinds(Resumed) == []
        assert made.files == {"model.txt": len("weights of step None")}
        seen(first.id).checkpoints[-1].checkout(tmp_path / "out")
        assert (tmp_path / "out/train.py").read_text() == "new"

    def test_what_cannot_be_saved_sets_nothing_aside(self, project: Path) -> None:
        first = ran(2)
        wanted = first.checkpoints[0].id
        with pytest.raises(InvalidInput, match="does not exist"):
            start(resume=wanted, path="missing")
        assert steps(seen(first.id)) == [0, 1]
        assert Spool(Path.cwd()).queues() == []


class TestWhatIsSaid:
    def test_what_is_gone_on_with_and_why(
        self, project: Path, said: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        first = ran(2)
        assert said == []
        newest = first.checkpoints[1]
        killed(start())
        killed(start(resume=first.id))
        killed(start(resume=newest.id))
        about = f"resuming the experiment {first.short_id} from its checkpoint {newest.short_id} (step 1), because "
        assert said == [
            about + "it has the same name, 'digits'",
            about + "its id was given",
            about + "its checkpoint was given",
        ]
        assert capfd.readouterr() == ("", ""), "the core is silent"

    def test_which_params_are_others_now(self, project: Path, said: list[str]) -> None:
        first = killed(start(params={"lr": 0.1, "model": {"layers": 2}, "seed": 1}))
        killed(start(resume=first.id, params={"lr": 0.2, "model": {"layers": 2}, "name": "x" * 40}))
        killed(start(resume=first.id, params={}))
        assert said[0].partition(", because ")[2] == (
            "its id was given. Its params stay as they were recorded; now they are others: "
            f'lr 0.1 → 0.2, seed 1 → nothing, name nothing → "{"x" * 28}…'
        )
        assert said[1].endswith("its id was given")

    def test_how_many_later_checkpoints_are_set_aside(self, project: Path, said: list[str]) -> None:
        with start() as first:
            save(first, 18)
            first.checkpoint(None, {"loss": 1}, step=19)
        second = start(resume=first.id)
        assert said.pop().endswith(
            "(step 18), because its id was given; 1 later checkpoint (step 19), which has no files, is set aside"
        )
        for step in (19, 20):
            second.checkpoint(None, {"loss": 1}, step=step)
        killed(second)
        third = start()
        assert said.pop().endswith("; 2 later checkpoints (steps 19 to 20), which have no files, are set aside")
        save(third, 19), save(third, 20)
        killed(third)
        killed(start(resume=third.checkpoints[0].id))
        assert said.pop().endswith("its checkpoint was given; 2 later checkpoints (steps 19 to 20) are set aside")

    def test_at_its_beginning_all_of_them_are(self, project: Path, said: list[str]) -> None:
        first = start()
        first.checkpoint(None, {"loss": 1}, step=5)
        killed(first)
        killed(start())
        assert said[-1].endswith("; 1 checkpoint (step 5), which has no files, is set aside")

    def test_that_there_was_nothing_to_go_on_from(self, project: Path, said: list[str]) -> None:
        first = ran(0, name=None)
        killed(start(None))
        (line,) = said
        assert line == (
            f"resuming the experiment {first.short_id} at its beginning: no checkpoint of it has files to resume "
            "from, because it has the same params and command"
        )

    def test_the_face_prints_it(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from replicate.progress import say

        monkeypatch.setattr(notices.notifier(), "inform", say)
        first = ran(1)
        killed(start())
        newest = seen(first.id).checkpoints[0].short_id
        assert capsys.readouterr().err == (
            f"replicate: resuming the experiment {first.short_id} from its checkpoint {newest} (step 0), because "
            "it has the same name, 'digits'\n"
        )
        (project / "replicate.yaml").write_text("quiet: true\n")
        killed(start())
        assert capsys.readouterr().err == ""


class TestOtherWays:
    def test_a_storage_in_memory(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("storage: memory://resuming\n")
        first = start()
        save(first, 0)
        killed(first)
        second = start()
        assert text_of(second.resumed_from) == "weights of step 0"
        save(second)
        second.stop()
        assert steps(seen(first.id)) == [0, 1]

    def test_strict_goes_on_being_strict(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran(1)
        storage = Storage()
        storage.install(monkeypatch)
        second = start(strict=True)
        assert second.resumed_from.step == 0
        storage.before = fails(permanent=True)
        save(second)
        until(lambda: second._recorded._queue.state().trouble is not None)
        with pytest.raises(StorageFailed, match="the network is down"):
            save(second)
        storage.before = fails(0)
        killed(second)
        for one in storage.recorders:
            one.thread.join(10)

    def test_a_storage_that_can_not_be_written_sets_nothing_aside(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ran(2)
        killed(start())
        wanted = seen(first.id).checkpoints[0].id
        sync(Spool(Path.cwd()))
        before = len(kinds(Resumed))

        def full(*_: object) -> None:
            raise StorageFailed("the disk is full", permanent=True)

        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "put", full)
            with pytest.raises(StorageFailed, match="the disk is full"):
                start(resume=wanted)
        assert Spool(Path.cwd()).queues() == []
        assert len(kinds(Resumed)) == before
        assert steps(seen(first.id)) == [0, 1]

    def test_ranks_other_than_0_go_on_from_the_same_and_record_nothing(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        first = ran(3)
        zero = start()
        before = [path for path in Path(".replicate").rglob("*") if "heartbeats" not in path.parts]
        for rank in (1, 2):
            monkeypatch.setenv("RANK", str(rank))
            other = start()
            assert (other.id, other.resumed_from.id) == (first.id, zero.resumed_from.id)
            assert text_of(other.resumed_from) == "weights of step 2"
            save(other)
            other.stop()
        assert [path for path in Path(".replicate").rglob("*") if "heartbeats" not in path.parts] == before
        assert zero.is_running()

    def test_a_rank_that_comes_first_gets_the_same_too(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran(3)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        other = start()
        monkeypatch.setenv("RANK", "0")
        zero = start()
        assert other.resumed_from.id == zero.resumed_from.id
        assert len(kinds(Resumed)) == 1

    def test_a_rank_that_comes_late_gets_the_same_too(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        ran(2)
        zero = start()
        save(zero)
        monkeypatch.setenv("RANK", "1")
        assert start().resumed_from.id == zero.resumed_from.id

    def test_a_rank_that_comes_while_the_first_one_begins_gets_the_same_too(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        ran(3)
        launch, others = recording.launch, []

        def meanwhile(*arguments: object) -> object:
            monkeypatch.setattr(recording, "launch", launch)
            monkeypatch.setenv("RANK", "1")
            others.append(start())
            monkeypatch.delenv("RANK")
            return launch(*arguments)

        monkeypatch.setattr(recording, "launch", meanwhile)
        zero = start()
        (other,) = others
        assert other.resumed_from is not None
        assert other.resumed_from.id == zero.resumed_from.id


# Several processes on one machine.


TRAINING = """
import os, sys, time
import replicate
options = dict(part.split("=") for part in sys.argv[1:])
if "go" in options:
    print("there", flush=True)
    while not os.path.exists(options["go"]):
        time.sleep(0.001)
try:
    experiment = replicate.init({"lr": 0.1}, name="digits", resume=options.get("resume", "auto"))
except replicate.InvalidInput as error:
    print("refused:", error, flush=True)
    sys.exit(0)
begin = 0
if experiment.resumed_from is not None:
    step = experiment.resumed_from.step
    with experiment.resumed_from.open("model.txt") as file:
        assert file.read() == b"weights of step %d" % step * 1000, step
    begin = step + 1
print("begun", experiment.id, begin, flush=True)
if "wait" in options:
    sys.stdin.readline()
for step in range(begin, int(options["steps"])):
    path = "model.txt" if step % int(options.get("every", 1)) == 0 else None
    if path is not None:
        with open(path, "w") as file:
            file.write(f"weights of step {step}" * 1000)
    made = experiment.checkpoint(path, {"loss": 1 / (step + 1)}, step=step)
    print("made", step, made.id, flush=True)
    time.sleep(float(options.get("pause", 0)))
if "stay" in options:
    time.sleep(600)
"""


class Training:
    """A training script in a process of its own."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, *(f"{name}={value}" for name, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def line(self) -> list[str]:
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.split()

    def begun(self) -> tuple[str, int]:
        word, experiment, begin = self.line()
        assert word == "begun"
        return experiment, int(begin)

    def made(self, step: int) -> str:
        """Wait for the acknowledgement of a step; returns the id of its checkpoint."""
        found = self.line()
        assert found[:2] == ["made", str(step)], found
        return found[2]

    def tell(self) -> None:
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def rest(self) -> list[list[str]]:
        """All that it still says until its end."""
        return [line.split() for line in self.process.stdout.read().splitlines()]

    def recorders(self) -> list[int]:
        """The processes that store what this one records."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if any(word.startswith(os.fsencode(self.directory / ".replicate/spool/")) for word in words):
                    found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def train(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Training]]:
    """Starts training scripts; they and their recorders are killed after the test."""
    monkeypatch.delenv("REPLICATE_RECORDER")
    started: list[Training] = []

    def begin(directory: Path = project, **options: object) -> Training:
        started.append(Training(directory, **options))
        return started[-1]

    yield begin
    for training in started:
        training.kill()
        for process in training.recorders():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds recorders in /proc")


class TestKilled:
    def test_started_again_and_again_it_comes_to_its_end(self, train: Callable[..., Training]) -> None:
        newest = -1
        identifiers = set()
        for target in (2, 3, 6):
            training = train(steps=target, stay=1)
            experiment, begin = training.begun()
            identifiers.add(experiment)
            assert begin == newest + 1, "from the newest that was acknowledged"
            for step in range(begin, target):
                training.made(step)
            newest = target - 1
            training.kill()
        last = train(steps=7)
        assert last.begun()[1] == 6
        _, errors = last.process.communicate(timeout=60)
        assert last.process.returncode == 0, errors
        assert errors.startswith("replicate: resuming the experiment ")
        (experiment,) = identifiers
        found = seen(experiment)
        assert (steps(found), found.status) == (list(range(7)), "finished")

    @linux
    def test_the_recorder_was_killed_too_and_all_still_waits(self, train: Callable[..., Training]) -> None:
        training = train(steps=5, wait=1, stay=1)
        experiment, _ = training.begun()
        (recorder,) = training.recorders()
        os.kill(recorder, signal.SIGSTOP)  # it stores nothing any more
        training.tell()
        acknowledged = [training.made(step) for step in range(5)]
        training.kill()
        os.kill(recorder, signal.SIGKILL)
        assert kinds(Checkpointed) == []

        again = train(steps=6, stay=1)
        assert again.begun() == (experiment, 5)
        again.made(5)
        assert [item.id for item in seen(experiment).checkpoints][:5] == acknowledged
        assert steps(seen(experiment)) == [0, 1, 2, 3, 4, 5]

    @linux
    def test_its_recorder_still_stores(self, train: Callable[..., Training]) -> None:
        """Then it is waited for."""
        training = train(steps=5, wait=1, stay=1)
        experiment, _ = training.begun()
        (recorder,) = training.recorders()
        os.kill(recorder, signal.SIGSTOP)
        training.tell()
        acknowledged = [training.made(step) for step in range(5)]
        training.kill()
        again = train(steps=6)
        time.sleep(1)
        assert again.process.poll() is None
        os.kill(recorder, signal.SIGCONT)
        assert again.begun() == (experiment, 5)
        again.made(5)
        assert again.process.wait(60) == 0
        assert [item.id for item in seen(experiment).checkpoints][:5] == acknowledged

    def test_killed_while_it_goes_on_it_goes_on_all_the_same(self, train: Callable[..., Training]) -> None:
        first = train(steps=3, stay=1)
        experiment, _ = first.begun()
        for step in range(3):
            first.made(step)
        first.kill()
        for seconds in (0.2, 0.35, 0.5, 0.65, 0.8):
            restarted = train(steps=3, stay=1)
            time.sleep(seconds)
            restarted.kill()
        last = train(steps=4)
        assert last.begun() == (experiment, 3)
        last.made(3)
        assert last.process.wait(60) == 0
        assert steps(seen(experiment)) == [0, 1, 2, 3]

    @linux
    def test_at_any_moment_nothing_is_lost_that_it_could_go_on_from(self, train: Callable[..., Training]) -> None:
        """REPLICATE_KILLS_SEED: repeats the random moments, as far as processes can be repeated."""
        seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
        print(f"REPLICATE_KILLS_SEED={seed}")
        chance = random.Random(seed)
        identifiers: set[str] = set()
        history: dict[int, str] = {}  # what was acknowledged, and not set aside

        def follow(said: list[list[str]]) -> None:
            for word, *found in said:
                if word == "begun":
                    identifiers.add(found[0])
                    begin = int(found[1])
                    assert begin > max((step for step in history if step % 2 == 0), default=-1)
                    for step in [step for step in history if step >= begin]:
                        del history[step]
                else:
                    assert word == "made"
                    history[int(found[0])] = found[1]

        for _ in range(8):
            training = train(steps=10**6, every=2, pause=0.002)
            said = [training.line()] if chance.random() < 0.7 else []  # else while it begins
            time.sleep(chance.uniform(0, 0.3 if said else 0.8))
            recorders = training.recorders() if chance.random() < 0.5 else []
            training.process.kill()
            for recorder in recorders:
                with suppress(ProcessLookupError):
                    os.kill(recorder, signal.SIGKILL)
            follow([*said, *training.rest()])
        last = max(history, default=-1) + 3
        training = train(steps=last)
        said = training.rest()
        assert training.process.wait(60) == 0
        follow(said)

        (experiment,) = identifiers
        found = seen(experiment)
        assert found.status == "finished"
        assert steps(found) == list(range(last)), "each step once"
        assert [item.id for item in found.checkpoints if history.get(item.step) == item.id] == list(history.values())
        assert found.resumed_from is None or found.resumed_from.step == int(said[0][2]) - 1
        for item in found.checkpoints:
            if item.path is not None:
                assert text_of(item) == f"weights of step {item.step}" * 1000

    @linux
    def test_one_that_has_ended_and_waits_for_its_recorder_does_not_run_any_more(
        self, train: Callable[..., Training]
    ) -> None:
        first = train(steps=3, wait=1)
        experiment, _ = first.begun()
        (recorder,) = first.recorders()
        os.kill(recorder, signal.SIGSTOP)
        first.tell()
        for step in range(3):
            first.made(step)
        (queue,) = Spool(Path.cwd()).queues()
        until(lambda: not queue.is_owned())
        assert first.process.poll() is None, "it waits until all is stored"
        second = train(steps=4, resume=experiment)
        os.kill(recorder, signal.SIGCONT)
        assert second.begun() == (experiment, 3)
        second.made(3)
        assert [first.process.wait(60), second.process.wait(60)] == [0, 0]
        assert (steps(seen(experiment)), seen(experiment).status) == ([0, 1, 2, 3], "finished")


REFUSED = "is still being recorded by another process of this machine"


class TestTwoAtOnce:
    def test_a_run_that_still_runs_can_not_be_gone_on_with(self, train: Callable[..., Training]) -> None:
        first = train(steps=2, stay=1)
        experiment, _ = first.begun()
        first.made(0), first.made(1)
        for wanted in ("auto", experiment):
            with pytest.raises(InvalidInput, match=REFUSED) as caught:
                start(resume=wanted)
            assert experiment[:7] in str(caught.value)
            assert "resume=None begins another" in str(caught.value)
        assert kinds(Resumed) == []
        assert len(Spool(Path.cwd()).queues()) == 1
        assert first.process.poll() is None
        first.kill()
        with start() as again:
            assert again.resumed_from.step == 1

    def test_nor_by_a_process_of_its_own(self, train: Callable[..., Training]) -> None:
        first = train(steps=2, wait=1)
        experiment, _ = first.begun()
        second = train(steps=2)
        said = " ".join(second.line())
        assert said.startswith(f"refused: the experiment {experiment[:7]} {REFUSED}: wait until that has ended")
        assert second.process.wait(60) == 0
        first.tell()
        first.made(0), first.made(1)
        assert first.process.wait(60) == 0
        assert (steps(seen(experiment)), seen(experiment).status) == ([0, 1], "finished")
        assert kinds(Resumed) == []

    def test_of_several_that_start_at_the_same_moment_exactly_one_goes_on(
        self, train: Callable[..., Training], tmp_path: Path
    ) -> None:
        first = train(steps=2, stay=1)
        experiment, _ = first.begun()
        first.made(0), first.made(1)
        first.kill()
        sync(Spool(Path.cwd()))
        rivals = [train(go=tmp_path / "go", steps=3, stay=1) for _ in range(5)]
        for rival in rivals:
            assert rival.line() == ["there"]
        (tmp_path / "go").touch()
        said = [rival.line() for rival in rivals]
        winners = [words for words in said if words[0] == "begun"]
        losers = [words for words in said if words[0] == "refused:"]
        assert winners == [["begun", experiment, "2"]], said
        assert len(losers) == 4
        assert all(
            re.search("recorded by another process|another process resumed", " ".join(loser)) for loser in losers
        )
        rivals[said.index(winners[0])].made(2)
        until(lambda: len(kinds(Resumed)) == 1 and steps(seen(experiment)) == [0, 1, 2])
        assert len(kinds(Created)) == 1
        assert [record.status for record in kinds(Ended)] == ["killed"], "that of the first; the losers have none"
        assert len(Spool(Path.cwd()).queues()) == 1

    def test_nor_do_two_that_found_it_over_before_either_began(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran(1)
        sync(Spool(Path.cwd()))
        monkeypatch.setattr(resuming, "wait_until_over", lambda *_: None)  # both came past it
        monkeypatch.setattr(Spool, "is_recorded_by_this_process", lambda *_: False)  # they are two
        start()
        with pytest.raises(InvalidInput, match="another process resumed the experiment"):
            start()
        assert len(Spool(Path.cwd()).queues()) == 1
        assert len(kinds(Resumed)) == 1

    def test_nor_one_that_chose_before_another_one_had_come_and_gone(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ran(1)
        choose = resuming.choose

        def slowly(*arguments: object) -> resuming.Start:
            chosen = choose(*arguments)
            monkeypatch.setattr(resuming, "choose", choose)
            with start() as other:
                save(other, 1)
            return chosen

        monkeypatch.setattr(resuming, "choose", slowly)
        with pytest.raises(InvalidInput, match="another process resumed the experiment"):
            start()
        assert steps(seen(first.id)) == [0, 1]

    def test_who_does_not_come_to_begin_alone_begins_nothing(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ran(1)
        sync(Spool(Path.cwd()))
        monkeypatch.setattr("replicate_core.spool.spool.GUARD_SECONDS", 0.1)
        with Spool(Path.cwd()).alone(), pytest.raises(StorageFailed, match=r"guard locked for 0\.1 seconds: end it"):
            start()
        assert Spool(Path.cwd()).queues() == []
        assert kinds(Resumed) == []
        assert start().id == first.id

    def test_who_can_not_look_for_rivals_can_begin_again(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a notebook, where the process does not end with the error."""
        first = ran(1)

        def fail(*_: object) -> None:
            raise StorageFailed("the network is down")

        with monkeypatch.context() as patched:
            patched.setattr(resuming, "check_unrivalled", fail)
            with pytest.raises(StorageFailed, match="the network is down"):
                start()
        assert start().id == first.id


class TestOneProcess:
    """Cells of a notebook that are run again, folds of a cross-validation: one process, many runs."""

    def test_what_it_left_open_is_ended_and_resumed(self, project: Path, said: list[str]) -> None:
        first = start()
        save(first, 0)
        second = start()
        assert (second.id, second.resumed_from.step) == (first.id, 0)
        assert said[-1].startswith(f"resuming the experiment {first.short_id} from its checkpoint")
        save(second)
        with pytest.raises(InvalidInput, match=f"the experiment {first.short_id} was resumed by this process: use the"):
            save(first)
        assert (first.is_recorded_here, second.is_recorded_here) == (False, True)
        first.stop()  # nothing is left of it to stop
        assert seen(first.id).status == "running"
        second.stop()
        assert (steps(seen(first.id)), seen(first.id).status) == ([0, 1], "finished")
        assert Spool(Path.cwd()).queues() == []

    @pytest.mark.parametrize("kind", ["experiment", "checkpoint"])
    def test_by_its_id_too(self, project: Path, kind: str) -> None:
        first = start()
        made = [save(first, step) for step in range(3)]
        second = start(resume=first.id if kind == "experiment" else made[1].id)
        assert (second.id, second.resumed_from.step) == (first.id, 2 if kind == "experiment" else 1)
        second.stop()
        assert steps(seen(first.id)) == list(range(second.resumed_from.step + 1))

    def test_again_and_again(self, project: Path) -> None:
        for step in range(5):
            experiment = start()
            assert (experiment.resumed_from is None) == (step == 0)
            save(experiment)
        experiment.stop()
        (found,) = replicate.experiments.list()
        assert (steps(found), found.status) == ([0, 1, 2, 3, 4], "finished")

    def test_beside_its_recorder(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REPLICATE_RECORDER")
        first = start()
        save(first, 0)
        second = start()
        assert second.resumed_from.step == 0
        save(second)
        second.stop()
        assert (steps(seen(first.id)), seen(first.id).status) == ([0, 1], "finished")

    def test_what_it_finished_is_not_resumed(self, project: Path) -> None:
        """Folds of a cross-validation, each with the same name and params."""
        folds = []
        for _ in range(3):
            with start() as experiment:
                assert experiment.resumed_from is None
                save(experiment, 0)
            folds.append(experiment.id)
        assert len(set(folds)) == 3

    @pytest.mark.parametrize("damage", ["checkpoint", "code", "storage"])
    def test_if_that_fails_it_goes_on_as_before(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        first = start()
        made = [save(first, step) for step in range(3)]
        before = kinds(Record)

        def full(*_: object) -> None:
            raise StorageFailed("the disk is full", permanent=True)

        with monkeypatch.context() as patched:
            options: dict[str, object] = {}
            if damage == "checkpoint":
                flip(stored(first.id, 1))
            elif damage == "code":
                options["path"] = "missing"
            else:
                patched.setattr(LocalStore, "put", full)
            with pytest.raises(replicate.ReplicateError):
                start(resume=made[1].id, **options)
        assert kinds(Record) == before, "no session, no end, and nothing set aside"
        assert len(Spool(Path.cwd()).queues()) == 1
        save(first, 3)
        first.stop()
        assert (steps(seen(first.id)), seen(first.id).status) == ([0, 1, 2, 3], "finished")

    def test_what_is_prepared_and_not_begun_changes_nothing(self, project: Path, said: list[str]) -> None:
        """An adapter could not restore the model."""
        first = ran(3)
        sync(Spool(Path.cwd()))
        before = kinds(Record)
        prepared = adapters.prepare({"lr": 0.1}, name="digits", resume=first.checkpoints[1].id)
        assert (prepared.id, prepared.resumed_from.step) == (first.id, 1)
        assert text_of(prepared.resumed_from) == "weights of step 1"
        assert (kinds(Record), said, Spool(Path.cwd()).queues()) == (before, [], [])
        assert steps(prepared.begin()) == [0, 1]

    def test_another_rank_stands_beside_what_the_first_one_records(self, project: Path) -> None:
        first = ran(2)
        zero = start()
        one = adapters.join(zero.id, zero.resumed_from.id, {"lr": 0.1}, name="digits")
        assert (one.id, one.resumed_from.id, steps(one)) == (first.id, zero.resumed_from.id, [0, 1])
        assert not one.is_recorded_here
        save(one, 7)
        assert steps(zero) == [0, 1]
        with pytest.raises(NotFound, match="give all of them the same storage"):
            adapters.join("f" * 32, "e" * 32)

    def test_a_new_one_need_not_be_there_yet(self, project: Path) -> None:
        one = adapters.join("f" * 32, None, {"lr": 0.1}, name="digits", tags=["new"])
        assert (one.short_id, one.params, one.name, one.tags) == ("f" * 7, {"lr": 0.1}, "digits", ("new",))
        assert one.resumed_from is None
        assert one.best() is one.latest() is None


# Several machines.


def at(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project directory whose storage is shared with others; its spool is its own."""
    if not directory.is_dir():
        directory.mkdir(parents=True)
        (directory / "replicate.yaml").write_text(f"storage: {json.dumps(str(directory.parents[1] / 'storage'))}\n")
    monkeypatch.chdir(directory)
    monkeypatch.setattr(environment, "host", lambda: directory.parent.name)
    return directory


class Machines:
    """Machines with a spool each, and the storage that they share; waiting for one another takes no time."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self.waited = 0.0
        """How many seconds signs of life were waited for."""
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while they are waited for, again and again."""
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(resuming, "LOOK_SECONDS", 10.0)
        monkeypatch.setattr(resuming, "time", SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.waited))

    def on(self, name: str) -> Path:
        return at(self.directory / name / "digits", self._monkeypatch)

    def repository(self) -> Repository:
        return repository(self.storage)

    def beat(self, experiment: str, *, ago: timedelta = timedelta(0), host: str = "one") -> None:
        sign = Heartbeat(experiment, self.session_of(experiment), utc_now() - ago, host, 4242, 0)
        heartbeats.beat(self.repository(), sign)

    def beats(self, experiment: str) -> Heartbeat | None:
        return heartbeats.last(self.repository(), {experiment: self.session_of(experiment)}).get(experiment)

    def session_of(self, experiment: str) -> str | None:
        return self.repository().states()[experiment].session

    def kinds(self, *types: type[Record]) -> list[Record]:
        return kinds(*types, storage=self.storage)

    def _sleep(self, seconds: float) -> None:
        self.waited += seconds
        self.meanwhile()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


SILENCE_SECONDS = resuming.SILENCE.total_seconds()


@pytest.fixture
def elsewhere(machines: Machines) -> replicate.Experiment:
    """A run on another machine that has made two checkpoints; this one is `two`."""
    machines.on("one")
    experiment = start()
    save(experiment, 0)
    save(experiment, 1)
    machines.on("two")
    return experiment


class TestAnotherMachine:
    def test_that_gives_signs_of_life_still_runs(self, machines: Machines, elsewhere: replicate.Experiment) -> None:
        machines.beat(elsewhere.id)
        machines.meanwhile = lambda: machines.beat(elsewhere.id)
        with pytest.raises(resuming.StillRuns, match=r"is running on one: stop it there") as caught:
            start()
        assert elsewhere.short_id in str(caught.value)
        assert Spool(Path.cwd()).queues() == []
        assert machines.kinds(Resumed) == []

    def test_that_stores_checkpoints_still_runs(self, machines: Machines, elsewhere: replicate.Experiment) -> None:
        """Though its signs of life do not come through."""

        def reopen() -> None:
            machines.on("one")
            save(elsewhere)
            machines.on("two")

        machines.meanwhile = reopen
        with pytest.raises(resuming.StillRuns, match="is running on"):
            start()
        assert machines.kinds(Resumed) == []

    def test_that_was_heard_of_lately_is_waited_for(
        self, machines: Machines, elsewhere: replicate.Experiment, said: list[str]
    ) -> None:
        machines.beat(elsewhere.id)
        second = start()
        assert machines.waited >= SILENCE_SECONDS
        assert (second.id, second.resumed_from.step) == (elsewhere.id, 1)
        assert said[0] == f"waiting to see whether the experiment {elsewhere.short_id} still runs on one"
        assert len(said) == 2

    def test_that_is_lost_is_not_waited_for(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.beat(elsewhere.id)
        Clock(monkeypatch).off = heartbeats.LOST_AFTER + timedelta(seconds=1)
        assert start().resumed_from.step == 1
        assert machines.waited == 0

    def test_that_never_gave_a_sign_and_began_lately_is_waited_for(
        self, machines: Machines, elsewhere: replicate.Experiment, said: list[str]
    ) -> None:
        heartbeats.stop(machines.repository(), elsewhere.id, None)
        assert start().resumed_from.step == 1
        assert machines.waited >= SILENCE_SECONDS
        assert said[0].endswith("still runs on another machine")

    def test_where_it_has_ended_is_not(self, machines: Machines, elsewhere: replicate.Experiment) -> None:
        machines.on("one")
        interrupted(elsewhere)
        machines.on("two")
        machines.beat(elsewhere.id)  # it came after the last word
        assert start().resumed_from.step == 1
        assert machines.waited == 0

    def test_that_ends_while_it_is_waited_for_is_gone_on_with_at_once(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        machines.beat(elsewhere.id)
        machines.meanwhile = lambda: machines.repository().append(Ended(elsewhere.id, utc_now(), "failed"))
        assert start().resumed_from.step == 1
        assert machines.waited == resuming.LOOK_SECONDS

    def test_what_it_stored_while_it_was_waited_for_is_gone_on_from(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        machines.beat(elsewhere.id)

        def reopen() -> None:
            machines.on("one")
            save(elsewhere, 2)
            interrupted(elsewhere)
            machines.on("two")

        machines.meanwhile = reopen
        assert start().resumed_from.step == 2
        assert steps(seen(elsewhere.id)) == [0, 1, 2]

    def test_that_finishes_while_it_is_waited_for_is_not_resumed(
        self, machines: Machines, elsewhere: replicate.Experiment, said: list[str]
    ) -> None:
        machines.beat(elsewhere.id)

        def finish() -> None:
            machines.on("one")
            elsewhere.stop()
            machines.on("two")

        machines.meanwhile = finish
        assert start().id != elsewhere.id
        assert "has finished" in said[-1]
        assert (steps(seen(elsewhere.id)), seen(elsewhere.id).status) == ([0, 1], "finished")

    def test_that_is_deleted_while_it_is_waited_for_is_not_found(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        machines.beat(elsewhere.id)
        machines.meanwhile = lambda: seen(elsewhere.id).delete()
        with pytest.raises(NotFound, match=rf"{elsewhere.short_id} was deleted"):
            start()
        assert Spool(Path.cwd()).queues() == []

    def test_whose_clock_is_behind_still_runs(self, machines: Machines, elsewhere: replicate.Experiment) -> None:
        """By less than `LOST_AFTER`, which listings allow for."""
        behind = timedelta(minutes=4)
        machines.beat(elsewhere.id, ago=behind)
        machines.meanwhile = lambda: machines.beat(elsewhere.id, ago=behind)
        with pytest.raises(resuming.StillRuns, match="is running on one"):
            start()

    def test_whose_clock_is_ahead_is_not_waited_for_longer(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        machines.beat(elsewhere.id, ago=-timedelta(hours=1))
        assert start().resumed_from.step == 1
        assert machines.waited <= SILENCE_SECONDS + resuming.LOOK_SECONDS

    def test_where_the_first_process_goes_on_gives_the_others_the_same(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A late process of a distributed run, on a machine of its own."""
        interrupted(elsewhere)
        monkeypatch.setenv("WORLD_SIZE", "2")
        zero = start()
        save(zero, 2)
        machines.on("three")
        monkeypatch.setenv("RANK", "1")
        machines.meanwhile = lambda: machines.beat(elsewhere.id, host="two")
        other = start()
        assert (other.id, other.resumed_from.step) == (elsewhere.id, 1)
        assert other.resumed_from.id == zero.resumed_from.id
        assert not other.is_recorded_here
        assert Spool(Path.cwd()).queues() == []
        assert len(machines.kinds(Resumed)) == 1

    def test_whose_spool_is_stored_afterwards_has_that_set_aside(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.on("one")
        with monkeypatch.context() as patched:
            patched.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
            late = [save(elsewhere, 2).id, elsewhere.checkpoint(None, {"loss": 9}, step=3).id]
        killed(elsewhere)

        machines.on("two")
        second = start()
        assert second.resumed_from.step == 1, "this machine can't know of more"
        save(second, 2)
        machines.on("one")
        (synced,) = sync(Spool(Path.cwd()))
        assert (synced.outcome, synced.jobs) == ("stored", 2)
        machines.on("two")
        save(second, 3)
        stored_late = {item.id for record in machines.kinds(Checkpointed) for item in record.checkpoints}
        assert set(late) <= stored_late, "they were stored"
        found = seen(elsewhere.id)
        assert steps(found) == [0, 1, 2, 3]
        assert not set(late) & {item.id for item in found.checkpoints}
        assert found.status == "running"
        second.stop()
        assert seen(elsewhere.id).status == "finished"

    def test_whose_spool_is_stored_after_the_end_changes_nothing(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.on("one")
        with monkeypatch.context() as patched:
            patched.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
            save(elsewhere, 2)
        killed(elsewhere)
        machines.on("two")
        with start() as second:
            save(second, 2)
        assert seen(elsewhere.id).status == "finished"
        machines.on("one")
        sync(Spool(Path.cwd()))
        machines.on("two")
        assert steps(seen(elsewhere.id)) == [0, 1, 2]
        assert seen(elsewhere.id).status == "finished"

    def test_that_comes_back_sees_that_the_run_goes_on_here(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        """A spot machine is back with its disk, and starts the same command."""
        killed(elsewhere)
        heartbeats.stop(machines.repository(), elsewhere.id, None)
        second = start()
        save(second, 2)
        machines.on("one")
        sync(Spool(Path.cwd()))
        assert machines.beats(elsewhere.id) is not None, "that of the machine `two`"

    def test_that_comes_back_does_not_go_on_beside_it(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        killed(elsewhere)
        heartbeats.stop(machines.repository(), elsewhere.id, None)
        second = start()
        save(second, 2)
        machines.meanwhile = lambda: machines.beat(elsewhere.id, host="two")
        machines.on("one")
        with pytest.raises(resuming.StillRuns, match="is running on two"):
            start()

    def test_that_goes_on_is_listed_as_running_where_it_was_killed(
        self, machines: Machines, elsewhere: replicate.Experiment
    ) -> None:
        killed(elsewhere)
        heartbeats.stop(machines.repository(), elsewhere.id, None)
        save(start(), 2)
        machines.on("one")
        assert seen(elsewhere.id).status == "running"

    @linux
    def test_that_was_killed_and_says_so_later_does_not_end_what_goes_on_here(
        self, train: Callable[..., Training], machines: Machines
    ) -> None:
        there = machines.on("one")
        first = train(there, steps=3, wait=1)
        experiment, _ = first.begun()
        (queue,) = Spool(there).queues()
        until(lambda: queue.state().done)
        (recorder,) = first.recorders()
        os.kill(recorder, signal.SIGSTOP)
        first.tell()
        late = {first.made(step) for step in range(3)}
        until(lambda: not queue.is_owned())  # its end waits there, too
        first.kill()
        os.kill(recorder, signal.SIGKILL)

        machines.on("two")
        second = start()
        assert (second.id, second.resumed_from) == (experiment, None), "this machine can't know of more"
        save(second, 0)
        machines.on("one")
        (synced,) = sync(Spool(there))
        assert (synced.outcome, synced.jobs) == ("stored", 4)
        assert Spool(there).queues() == []
        machines.on("two")
        assert [record.session for record in machines.kinds(Ended)] == [None], "it is known"
        assert seen(experiment).status == "running"
        save(second, 1)
        second.stop()
        found = seen(experiment)
        assert (steps(found), found.status) == ([0, 1], "finished")
        assert not late & {item.id for item in found.checkpoints}


@pytest.fixture
def winner(
    machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
) -> replicate.Experiment:
    """The run on the machine `three`, which went on while `two` was about to; `two` has been refused."""
    interrupted(elsewhere)
    choose = resuming.choose
    begun: list[replicate.Experiment] = []

    def slowly(*arguments: object) -> resuming.Start:
        """Choose, and be overtaken."""
        patched.setattr(resuming, "choose", choose)
        chosen = choose(*arguments)
        machines.on("three")
        begun.append(start())
        machines.on("two")
        return chosen

    with monkeypatch.context() as patched:
        patched.setattr(resuming, "choose", slowly)
        patched.setattr(resuming, "check_alone", lambda *_: None)  # it was early, too
        with pytest.raises(resuming.StillRuns, match="another process resumed the experiment"):
            start()
    return begun[0]


class TestTwoMachinesAtOnce:
    def test_who_looks_later_withdraws(self, machines: Machines, winner: replicate.Experiment) -> None:
        assert Spool(Path.cwd()).queues() == []
        machines.on("three")
        assert winner.is_running()
        save(winner, 2)
        winner.stop()
        first, second = (record.session for record in machines.kinds(Resumed))
        assert [record.session for record in machines.kinds(Ended)] == [None, second, first]
        found = seen(winner.id)
        assert (steps(found), found.status) == ([0, 1, 2], "finished")
        assert found.resumed_from.id == winner.resumed_from.id
        with start(resume=winner.id) as last:
            assert last.resumed_from.step == 2

    def test_if_both_withdraw_either_can_start_again(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupted(elsewhere)
        check = resuming.check_unrivalled

        def late(*arguments: object) -> None:
            """Look for rivals once both have begun."""
            patched.setattr(resuming, "check_unrivalled", check)
            machines.on("three")
            with pytest.raises(resuming.StillRuns, match="another process resumed"):
                start()
            machines.on("two")
            check(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(resuming, "check_unrivalled", late)
            patched.setattr(resuming, "check_alone", lambda *_: None)
            patched.setattr(resuming, "wait_until_over", lambda *_: None)
            listed = Workspace().source.one(elsewhere.id)  # both looked before either began
            choose = resuming.choose
            patched.setattr(resuming, "choose", lambda *arguments: replace(choose(*arguments), listed=listed))
            with pytest.raises(resuming.StillRuns, match="another process resumed"):
                start()
        assert seen(elsewhere.id).status == "interrupted"
        with start() as again:
            assert again.resumed_from.step == 1
            save(again, 2)
        found = seen(elsewhere.id)
        assert (steps(found), found.status) == ([0, 1, 2], "finished")

    @pytest.mark.parametrize("resume", ["id", "auto"])
    def test_one_that_begins_once_the_other_has_looked_wins(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch, resume: str
    ) -> None:
        """What the other one goes on from is looked up anew: so it sees the winner, and must not go on from there."""
        interrupted(elsewhere)
        wanted = elsewhere.id if resume == "id" else "auto"
        choose = resuming.choose
        begun: list[replicate.Experiment] = []

        def late(*arguments: object) -> resuming.Start:
            monkeypatch.setattr(resuming, "choose", choose)
            machines.on("three")
            begun.append(start(resume=wanted))
            begun[0].heartbeat  # noqa: B018  # others can see that it has begun
            machines.on("two")
            return choose(*arguments)

        monkeypatch.setattr(resuming, "choose", late)
        with pytest.raises(resuming.StillRuns, match="another process resumed"):
            start(resume=wanted)
        machines.on("three")
        save(begun[0], 2)
        begun[0].stop()
        assert (steps(seen(elsewhere.id)), seen(elsewhere.id).status) == ([0, 1, 2], "finished")

    def test_real_ones_never_both_go_on(self, train: Callable[..., Training], machines: Machines) -> None:
        first = train(machines.on("one"), steps=2)
        experiment, _ = first.begun()
        assert first.process.wait(60) == 0
        go = machines.directory / "go"
        rivals = [train(machines.on(name), go=go, steps=3, resume=experiment) for name in ("one", "two")]
        for rival in rivals:
            assert rival.line() == ["there"]
        go.touch()
        said = [rival.line() for rival in rivals]
        starts = sorted(words[2] for words in said if words[0] == "begun")
        assert starts in ([], ["2"], ["2", "3"]), said  # the last of these: one was over before the other looked
        assert [rival.process.wait(60) for rival in rivals] == [0, 0]
        last = train(machines.on("three"), steps=4, resume=experiment)
        assert last.begun() == (experiment, 3 if ["begun", experiment, "2"] in said else 2)
        assert last.process.wait(60) == 0
        assert (steps(seen(experiment)), seen(experiment).status) == ([0, 1, 2, 3], "finished")

    def test_the_run_that_goes_on_is_listed_as_running(self, machines: Machines, winner: replicate.Experiment) -> None:
        """Before its first checkpoint, too."""
        assert seen(winner.id).status == "running"

    def test_who_withdrew_and_is_started_again_does_not_go_on_beside_the_other(
        self, machines: Machines, winner: replicate.Experiment
    ) -> None:
        """As a scheduler does with a job that failed, while the other one is in its first epoch."""
        machines.meanwhile = lambda: machines.beat(winner.id, host="three")
        with pytest.raises(resuming.StillRuns):
            start()

    def test_one_that_nobody_could_know_of_does_not_undo_what_was_stored_before(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was cut off from the network as it went on, killed, and came back days later."""
        interrupted(elsewhere)
        machines.on("one")
        with monkeypatch.context() as patched:
            patched.setattr(starting, "KNOWN_SECONDS", 0.0)
            patched.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda self: False)
            lonely = start()
            save(lonely, 2)
        killed(lonely)
        machines.on("two")
        with start() as second:
            for step in (2, 3, 4):
                save(second, step)
        acknowledged = [item.id for item in seen(elsewhere.id).checkpoints]
        machines.on("one")
        sync(Spool(Path.cwd()))
        machines.on("two")
        found = seen(elsewhere.id)
        assert ([item.id for item in found.checkpoints], found.status) == (acknowledged, "finished")


class Clock:
    """Sets the clock of this machine wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = timedelta(0)
        for module in ("starting", "recording.recording"):
            monkeypatch.setattr(f"replicate_core.{module}.utc_now", self.now)
        plain = Repository.__init__
        monkeypatch.setattr(Repository, "__init__", lambda one, store, **_: plain(one, store, now=self.now))

    def now(self) -> datetime:
        return utc_now() + self.off


class TestClocks:
    """Machines' clocks differ, and are set: what was acknowledged must not depend on it."""

    def test_a_clock_that_is_set_back_while_it_runs_loses_no_checkpoint(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a machine that has just booted: its clock is set a few seconds after the training began."""
        first = ran(1)
        second = start()
        Clock(monkeypatch).off = -timedelta(seconds=30)
        save(second, 1)
        save(second, 2)
        second.stop()
        assert steps(seen(first.id)) == [0, 1, 2]

    def test_nor_the_end(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = ran(1)
        second = start()
        Clock(monkeypatch).off = -timedelta(seconds=30)
        second.stop()
        assert seen(first.id).status == "finished"

    def test_a_clock_that_is_behind_that_of_the_machine_before_loses_no_history(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        machines.on("one")
        clock.off = -timedelta(minutes=10)
        with start(resume=None) as first:
            save(first, 0)
            clock.off = timedelta(0)
            save(first, 1)
        machines.on("two")
        clock.off = -timedelta(minutes=2)  # less than `LOST_AFTER`, which listings allow for
        with start(resume=first.id) as second:
            assert second.resumed_from.step == 1
            save(second, 2)
        assert steps(seen(first.id)) == [0, 1, 2]
        with start(resume=first.id) as third:
            assert third.resumed_from.step == 2

    def test_one_that_is_ahead_does_not(
        self, machines: Machines, elsewhere: replicate.Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        elsewhere.stop()
        for off, step in ((timedelta(minutes=2), 2), (timedelta(minutes=4), 3)):
            clock.off = off
            with start(resume=elsewhere.id) as again:
                assert again.resumed_from.step == step - 1
                save(again, step)
        assert steps(seen(elsewhere.id)) == [0, 1, 2, 3]


class TestWhatStays:
    def test_a_resumed_experiment_comes_back_whole_from_another_directory(
        self, machines: Machines, elsewhere: replicate.Experiment, tmp_path: Path
    ) -> None:
        killed(elsewhere)
        shutil.rmtree(tmp_path / "one")  # that machine is gone for good
        second = start()
        assert second.resumed_from.step == 1
        save(second, 2)
        second.stop()
        machines.on("three")
        found = seen(elsewhere.id)
        assert [text_of(item) for item in found.checkpoints] == [f"weights of step {step}" for step in range(3)]
