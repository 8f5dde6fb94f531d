"""A run of another machine goes on here once that one is silent, and never on two; whatever their clocks say."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from interrupted_runs import Training, interrupted, killed, linux, ran, save, seen, start
from kit import steps, text_of, until
from machines import Clock, Machines

import replicate_core as replicate
from replicate_core import starting
from replicate_core.errors import NotFound
from replicate_core.format.records import Checkpointed, Ended, Resumed
from replicate_core.recording import resuming
from replicate_core.repository import heartbeats
from replicate_core.repository.repository import utc_now
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import sync
from replicate_core.workspace import Workspace

pytestmark = pytest.mark.usefixtures("few_packages")

SILENCE_SECONDS = resuming.SILENCE.total_seconds()


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
