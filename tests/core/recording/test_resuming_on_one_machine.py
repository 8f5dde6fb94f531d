"""A run goes on after a kill at any moment, never beside itself, and within one process again and again."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from interrupted_runs import Training, flip, kinds, linux, ran, save, seen, start, stored
from kit import steps, text_of, until

import replicate_core as replicate
from replicate_core import adapters
from replicate_core.errors import InvalidInput, NotFound, StorageFailed
from replicate_core.format.records import Checkpointed, Created, Ended, Record, Resumed
from replicate_core.recording import resuming
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import sync
from replicate_core.storage.local import LocalStore

pytestmark = pytest.mark.usefixtures("few_packages")


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
        with pytest.raises(NotFound, match="give all processes the same storage"):
            adapters.join("f" * 32, "e" * 32)

    def test_a_new_one_need_not_be_there_yet(self, project: Path) -> None:
        one = adapters.join("f" * 32, None, {"lr": 0.1}, name="digits", tags=["new"])
        assert (one.short_id, one.params, one.name, one.tags) == ("f" * 7, {"lr": 0.1}, "digits", ("new",))
        assert one.resumed_from is None
        assert one.best() is one.latest() is None
