"""What is known of experiments: stored, waiting or both, each is there once, with what it is up to."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import NotFound, StorageFailed
from replicate_core.experiment import Experiment
from replicate_core.format import records
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Deleted,
    Edited,
    Ended,
    Record,
    Resumed,
)
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.repository import catalogue, heartbeats
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.heartbeats import LOST_AFTER, Heartbeat
from replicate_core.repository.repository import Repository
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import wait_until_stored
from replicate_core.spool.upload_queue import Origin, Queue, State, Trouble
from replicate_core.spool.uploading import Uploader
from replicate_core.storage.local import LocalStore
from replicate_core.views import source
from replicate_core.views.source import Source

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ONE, OTHER = "1" * 32, "2" * 32
SECOND = timedelta(seconds=1)


class Lab:
    """A project with a storage and a spool, whose queues are drained by hand."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.now = NOW
        self.opened = 0
        self.begun: list[Queue] = []
        self.spool = Spool(project)

    @property
    def source(self) -> Source:
        """What a process knows that looks now."""
        return Source(self.repository, self.spool)

    def repository(self) -> Repository:
        self.opened += 1
        return Repository(LocalStore(self.project / "storage"), now=self.tick)

    def tick(self) -> datetime:
        """A millisecond later: records of two processes within one have no order."""
        self.now += timedelta(milliseconds=1)
        return self.now

    def begin(self, experiment: str = ONE) -> Queue:
        queue = self._queue(experiment, None)
        queue.append(Created(experiment, NOW))
        return queue

    def resume(self, previous: Queue, checkpoint: str | None) -> Queue:
        """Go on with an experiment whose process has died."""
        previous.finish_appending()
        queue = self._queue(previous.experiment, f"{len(self.begun):032}")
        assert queue.session is not None
        queue.append(Resumed(queue.experiment, NOW, queue.session, previous.session, checkpoint))
        return queue

    def _queue(self, experiment: str, session: str | None) -> Queue:
        origin = Origin(experiment, "storage", str(self.project), "auto", os.getpid(), socket.gethostname(), session)
        queue = self.spool.begin(origin, f"01J{len(self.begun):023}")
        self.begun.append(queue)
        return queue

    def save(self, queue: Queue, number: int, **contents: bytes) -> str:
        """Make a checkpoint with these files; returns its id."""
        for name, data in contents.items():
            (self.project / name).write_bytes(data)
        tree = Tree({name: self.project / name for name in contents})
        facts = replace(checkpoint(number), path="." if contents else None)
        record = Checkpointed(queue.experiment, (facts,), queue.session)
        queue.append(record, queue.stage(tree) if contents else None)
        return facts.id

    def drain(self, queue: Queue, count: int | None = None) -> None:
        """Store what waits, or only the first jobs of it."""
        repository = self.repository()
        drain = Uploader(queue, repository, ChunkIndex(repository), "auto")
        for job in queue.waiting(count_max=count):
            drain._store([job])

    def only(self) -> source.ExperimentView:
        (listed,) = self.source.all().values()
        return listed

    def checkpoint(self, identifier: str, experiment: str = ONE) -> Checkpoint:
        source = self.source
        listed = source.one(experiment)
        assert listed is not None
        (found,) = (item for item in Experiment(listed, source).checkpoints if item.id == identifier)
        return found


def checkpoint(number: int) -> CheckpointFacts:
    return CheckpointFacts(f"{number:032}", NOW + number * SECOND, number, {"loss": 1.0})


def stored_state(source: Source, experiment: str) -> records.ExperimentState:
    """What is known once all is stored, as whoever checks out wants it."""
    wait_until_stored(source.spool, experiment)
    return source.state(experiment)


def read(checkpoint: Checkpoint) -> bytes:
    """The content of its only file."""
    with checkpoint.open() as stream:
        return stream.read()


@pytest.fixture
def lab(project: Path) -> Iterator[Lab]:
    lab = Lab(project)
    yield lab
    for queue in lab.begun:
        queue.finish_appending()
        queue.release()


class TestWhatWaits:
    def test_is_listed_and_marked(self, lab: Lab) -> None:
        queue = lab.begin()
        made = lab.save(queue, 1)
        listed = lab.only()
        assert listed.state.created == Created(ONE, NOW)
        assert [facts.id for facts in listed.state.checkpoints] == [made]
        assert listed.waiting == {ONE, made}
        assert listed.status == "running"

    def test_is_listed_once_while_more_and_more_of_it_is_stored(self, lab: Lab) -> None:
        queue = lab.begin()
        made = [lab.save(queue, number, model=b"%d" % number) for number in range(3)]
        for stored in range(5):
            listed = lab.only()
            assert [facts.id for facts in listed.state.checkpoints] == made
            assert listed.waiting == {ONE, *made} - {ONE, *made[: stored - 1]} if stored else {ONE, *made}
            lab.drain(queue, 1)
        assert lab.only().waiting == frozenset()

    def test_is_listed_once_though_it_is_stored_and_not_noted_as_done(self, lab: Lab) -> None:
        """Its recorder was killed between the two."""
        queue = lab.begin()
        made = lab.save(queue, 1)
        queue.append(Ended(ONE, NOW + 9 * SECOND, "finished"))
        repository = lab.repository()
        for job in queue.waiting():
            repository.append(job.record)
        listed = lab.only()
        assert [facts.id for facts in listed.state.checkpoints] == [made]
        assert listed.waiting == frozenset()
        assert listed.status == "finished"
        lab.drain(queue)
        again = lab.only()
        assert (again.state.checkpoints, again.status) == (listed.state.checkpoints, "finished")

    def test_is_found_by_its_experiment_alone(self, lab: Lab) -> None:
        one, other = lab.begin(ONE), lab.begin(OTHER)
        lab.save(one, 1)
        lab.save(other, 2)
        lab.drain(one)
        for experiment, number in ((ONE, 1), (OTHER, 2)):
            listed = lab.source.one(experiment)
            assert listed is not None
            assert [facts.step for facts in listed.state.checkpoints] == [number]
        assert lab.source.one("3" * 32) is None
        assert list(lab.source.all()) == [ONE, OTHER]

    def test_of_a_deleted_experiment_is_not_listed(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.drain(queue)
        lab.repository().append(Deleted(ONE))
        lab.save(queue, 1)
        assert lab.source.all() == {}
        assert lab.source.one(ONE) is None

    def test_of_a_queue_that_ended_and_one_that_follows_it_is_one_experiment(self, lab: Lab) -> None:
        """It was resumed, and nothing of either run is stored yet."""
        queue = lab.begin()
        made = [lab.save(queue, number) for number in range(3)]
        queue.append(Ended(ONE, NOW + 9 * SECOND, "killed"))
        later = lab.resume(queue, made[1])
        again = lab.save(later, 7)
        for _ in range(2):
            listed = lab.only()
            assert [facts.id for facts in listed.state.checkpoints] == [*made[:2], again]
            assert listed.status == "running"
            lab.drain(queue)
            lab.drain(later)

    @pytest.mark.parametrize("ending", [False, True], ids=["goes on", "ended"])
    def test_a_resumption_in_both_places_counts_once(self, lab: Lab, ending: bool) -> None:
        queue = lab.begin()
        made = [lab.save(queue, number) for number in range(2)]
        queue.append(Ended(ONE, NOW + 5 * SECOND, "killed"))
        later = lab.resume(queue, made[0])
        made.append(lab.save(later, 2))
        if ending:
            later.append(Ended(ONE, NOW + 9 * SECOND, "finished", session=later.session))
        repository = lab.repository()
        for job in [*queue.waiting(), *later.waiting()]:
            listed = lab.only()
            assert [facts.id for facts in listed.state.checkpoints] == [made[0], made[2]]
            assert listed.status == ("finished" if ending else "running")
            repository.append(job.record)

    def test_other_records_in_both_places_count_once(self, lab: Lab) -> None:
        queue = lab.begin()
        queue.append(Edited(ONE, name="first"))
        lab.drain(queue)
        lab.repository().append(Edited(ONE, name="second"))
        (queue.directory / "state.json").unlink()
        assert lab.only().state.created.name == "second", "what is stored already does not come last once more"

    def test_a_checkpoint_that_was_withdrawn_is_listed_without_files(self, lab: Lab) -> None:
        queue = lab.begin()
        made = lab.save(queue, 1, model=b"m")
        queue.withdraw(queue.jobs()[-1].staged)
        found = lab.checkpoint(made)
        assert found.files == {}
        with pytest.raises(NotFound, match="could not be saved"):
            found.open()
        lab.drain(queue)
        with pytest.raises(NotFound, match="could not be saved"):
            found.open()

    def test_a_queue_that_nobody_can_read_does_not_hide_the_others(self, lab: Lab) -> None:
        lab.begin(OTHER)
        queue = lab.begin(ONE)
        queue._journal.append({"record": {"kind": "of a later version", "experiment": ONE}})
        assert OTHER in lab.source.all(lambda *_: None)


class TestTheStatus:
    def stored(self, lab: Lab, *more: Record) -> None:
        """An experiment that another machine recorded."""
        repository = lab.repository()
        for record in (Created(ONE, NOW), *more):
            repository.append(record)

    def test_is_running_while_a_process_of_this_machine_is_at_it_however_long(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.drain(queue)
        lab.now = NOW + timedelta(days=30)
        assert lab.only().status == "running"

    def test_is_running_while_only_its_recorder_is_left(self, lab: Lab) -> None:
        queue = lab.begin()
        queue.take()
        queue.finish_appending()
        assert lab.only().status == "running"
        queue.release()
        assert lab.only().status == "lost"

    def test_is_running_where_its_recorder_goes_while_somebody_looks(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It noted how all ended a moment too late to be read, and was gone a moment too early to be seen."""
        queue = lab.begin()
        lab.drain(queue)
        queue.take()
        queue.finish_appending()

        def read_and_end(repository: Repository, *arguments: object, **options: object) -> catalogue.Catalogue:
            found = plain(repository, *arguments, **options)
            repository.append(Ended(ONE, NOW, "killed"))
            queue.release()
            return found

        plain = catalogue.read
        with monkeypatch.context() as patch:
            patch.setattr(catalogue, "read", read_and_end)
            assert lab.only().status == "running"
        assert lab.only().status == "killed"

    @pytest.mark.parametrize("ending", ["finished", "failed", "interrupted", "killed"])
    def test_is_how_it_ended_wherever_that_is_known(self, lab: Lab, ending) -> None:
        queue = lab.begin()
        queue.append(Ended(ONE, NOW, ending))
        assert lab.only().status == ending
        lab.drain(queue)
        assert lab.only().status == ending
        queue.remove()
        lab.now = NOW + timedelta(days=30)
        assert lab.only().status == ending

    def test_of_another_machine_is_running_for_a_while(self, lab: Lab) -> None:
        self.stored(lab)
        assert lab.only().status == "running"
        lab.now = NOW + LOST_AFTER - SECOND
        assert lab.only().status == "running"
        lab.now = NOW + LOST_AFTER + SECOND
        assert lab.only().status == "lost"

    def test_any_sign_of_life_counts(self, lab: Lab) -> None:
        self.stored(lab)
        lab.now = NOW + LOST_AFTER
        lab.repository().append(Checkpointed(ONE, (replace(checkpoint(1), created=lab.now),)))
        assert lab.only().status == "running"
        lab.now += LOST_AFTER + SECOND
        assert lab.only().status == "lost"
        sign = Heartbeat(ONE, None, lab.now - SECOND, "host", 1, 3)
        heartbeats.beat(lab.repository(), sign)
        assert lab.only().status == "running"
        assert lab.only().heartbeat == sign
        lab.now += LOST_AFTER + SECOND
        assert lab.only().status == "lost"
        lab.repository().append(Ended(ONE, lab.now, "killed"))
        assert lab.only().status == "killed"
        assert lab.only().heartbeat is None

    def test_a_clock_that_is_ahead_is_no_harm(self, lab: Lab) -> None:
        self.stored(lab)
        lab.now = NOW - timedelta(hours=1)
        assert lab.only().status == "running"

    def test_where_all_have_ended_no_signs_of_life_are_asked_for(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.stored(lab, Ended(ONE, NOW, "finished"))
        plain, asked = LocalStore.list, []
        monkeypatch.setattr(LocalStore, "list", lambda self, prefix: asked.append(prefix) or plain(self, prefix))
        assert lab.only().status == "finished"
        assert "heartbeats/" not in asked


class TestFilesThatWait:
    def test_are_listed_and_opened(self, lab: Lab) -> None:
        queue = lab.begin()
        files = {"a": b"first", "b": b"second", "model": os.urandom(SMALL_BYTES + 9)}
        found = lab.checkpoint(lab.save(queue, 1, **files))
        assert not found.is_stored
        assert found.files == {name: len(data) for name, data in files.items()}
        for name, data in files.items():
            with found.open(name) as stream:
                assert stream.read() == data
                assert stream.seek(2) == 2
                assert stream.read(3) == data[2:5]
                assert stream.readable()
                assert not stream.writable()

    def test_are_opened_by_an_object_from_before_they_were_stored(self, lab: Lab) -> None:
        queue = lab.begin()
        made = lab.save(queue, 1, model=b"weights")
        found = [lab.checkpoint(made) for _ in range(2)]
        lab.drain(queue)
        assert read(found[0]) == b"weights"
        assert found[0].is_stored
        assert found[1].files == {"model": 7}
        queue.finish_appending()
        queue.remove()
        assert read(lab.checkpoint(made)) == b"weights"

    def test_stay_open_when_they_are_stored_removed_and_written_over(self, lab: Lab) -> None:
        queue = lab.begin()
        data = os.urandom(3 * SMALL_BYTES)
        with lab.checkpoint(lab.save(queue, 1, model=data)).open() as stream:
            assert stream.read(10) == data[:10]
            lab.drain(queue)
            lab.save(queue, 2, model=b"x" * 3 * SMALL_BYTES)
            queue.finish_appending()
            queue.remove()
            assert stream.read() == data[10:]

    def test_are_opened_while_somebody_claims_them(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Storing begins between finding the copy and opening it: its directory has another name then."""
        queue = lab.begin()
        found = lab.checkpoint(lab.save(queue, 1, model=b"weights"))
        plain, jobs = Queue.copy_of, queue.jobs()

        def claimed_meanwhile(self: Queue, job, path):
            copy = plain(self, job, path)
            queue.claim(jobs[-1])
            return copy

        monkeypatch.setattr(Queue, "copy_of", claimed_meanwhile)
        assert read(found) == b"weights"

    def test_are_opened_though_they_are_claimed_while_they_are_read(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = lab.begin()
        found = lab.checkpoint(lab.save(queue, 1, model=b"weights"))
        plain, jobs = source._private_copy, queue.jobs()

        def claimed_meanwhile(file):
            copy = plain(file)
            queue.claim(jobs[-1])
            return copy

        monkeypatch.setattr(source, "_private_copy", claimed_meanwhile)
        assert read(found) == b"weights"

    def test_are_opened_though_they_are_stored_while_they_are_read(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = lab.begin()
        found = lab.checkpoint(lab.save(queue, 1, model=b"weights"))
        plain = source._private_copy

        def stored_meanwhile(file):
            copy = plain(file)
            lab.drain(queue)
            return copy

        monkeypatch.setattr(source, "_private_copy", stored_meanwhile)
        assert read(found) == b"weights"
        assert found.is_stored

    def test_are_whole_whoever_stores_them_meanwhile(self, lab: Lab) -> None:
        queue = lab.begin()
        for number in range(15):
            data = bytes([number]) * (SMALL_BYTES + 7)
            found = lab.checkpoint(lab.save(queue, number, model=data))
            storing = threading.Thread(target=lab.drain, args=(queue,))
            storing.start()
            try:
                with found.open() as stream:
                    assert stream.read() == data
            finally:
                storing.join()

    def test_of_checkpoints_without_any_are_none(self, lab: Lab) -> None:
        found = lab.checkpoint(lab.save(lab.begin(), 1))
        assert found.files == {}
        with pytest.raises(NotFound, match="has no files: none were given"):
            found.open()

    def test_of_a_copy_that_was_cut_short_are_not_opened(self, lab: Lab) -> None:
        queue = lab.begin()
        found = lab.checkpoint(lab.save(queue, 1, model=b"weights"))
        os.truncate(queue.jobs()[-1].staged.files[0].copy, 3)
        assert found.files == {}
        with pytest.raises(NotFound, match="could not be saved"):
            found.open()


class TestCheckingOut:
    def test_waits_for_nothing_but_stores_it_where_nobody_else_does(self, lab: Lab, tmp_path: Path) -> None:
        queue = lab.begin()
        found = lab.checkpoint(lab.save(queue, 1, model=b"weights"))
        found.checkout(tmp_path / "out")
        assert (tmp_path / "out/model").read_bytes() == b"weights"
        assert queue.waiting() == []
        assert not queue.is_taken(), "and the next recorder may go on"
        assert lab.only().waiting == frozenset()

    def test_stores_what_was_left_behind(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.save(queue, 1, model=b"weights")
        queue.finish_appending()
        state = stored_state(lab.source, ONE)
        assert [facts.manifest is not None for facts in state.checkpoints] == [True]
        assert not queue.directory.exists(), "nothing more will come"
        assert lab.only().status == "killed"

    def test_waits_for_who_is_storing(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.save(queue, 1, model=b"weights")
        assert queue.take()
        storing = threading.Timer(0.2, lab.drain, args=(queue,))
        storing.start()
        state = stored_state(lab.source, ONE)
        storing.join()
        assert [facts.manifest is not None for facts in state.checkpoints] == [True]

    def test_says_why_who_is_storing_cannot(self, lab: Lab) -> None:
        queue = lab.begin()
        queue.take()
        queue.set_state(State(trouble=Trouble("StorageFailed", "the bucket is gone", permanent=True)))
        with pytest.raises(StorageFailed, match="not stored yet: the bucket is gone"):
            stored_state(lab.source, ONE)

    def test_says_that_this_user_may_not(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        lab.begin()

        def refuse(self: Queue) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Queue, "take", refuse)
        with pytest.raises(StorageFailed, match=r"not stored yet, and this user can't store it: .*Permission denied"):
            stored_state(lab.source, ONE)

    def test_says_that_there_is_no_room_for_its_notes(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk of the spool is full: it is stored, and can't be noted as done."""
        queue = lab.begin()

        def full(self: Queue, state: State) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Queue, "set_state", full)
        with pytest.raises(StorageFailed, match="No space left on device"):
            stored_state(lab.source, ONE)
        assert not queue.is_taken()

    def test_takes_up_where_who_was_storing_was_killed(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.save(queue, 1, model=b"weights")
        queue.take()
        queue.claim(queue.jobs()[-1])
        threading.Timer(0.2, queue.release).start()
        state = stored_state(lab.source, ONE)
        assert [facts.manifest is not None for facts in state.checkpoints] == [True]

    def test_a_queue_that_vanishes_meanwhile_is_stored(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        queue = lab.begin()
        lab.save(queue, 1, model=b"weights")

        def too_late(self: Queue) -> bool:
            lab.drain(queue)
            shutil.rmtree(queue.directory)
            raise FileNotFoundError

        monkeypatch.setattr(Queue, "take", too_late)
        state = stored_state(lab.source, ONE)
        assert [facts.manifest is not None for facts in state.checkpoints] == [True]

    def test_of_what_is_nowhere_says_so(self, lab: Lab) -> None:
        with pytest.raises(NotFound, match=f"{'3' * 7} is no longer in "):
            stored_state(lab.source, "3" * 32)

    def test_gives_the_queue_back_though_the_storage_fails(self, lab: Lab) -> None:
        queue = lab.begin()
        (lab.project / "storage").write_text("a file where the storage is needed")
        with pytest.raises(StorageFailed):
            stored_state(lab.source, ONE)
        assert not queue.is_taken()


class TestTheStorage:
    def test_is_opened_when_it_is_first_needed_and_once(self, lab: Lab) -> None:
        source = lab.source
        assert lab.opened == 0
        source.all()
        source.one(ONE)
        assert lab.opened == 1

    def test_what_is_unusable_there_is_left_out(self, lab: Lab) -> None:
        queue = lab.begin()
        lab.save(queue, 1)
        lab.drain(queue)
        (record,) = (lab.project / "storage").rglob(f"*{ONE}-checkpoint*.json")
        record.write_bytes(b"damaged")
        said: list[str] = []
        (listed,) = lab.source.all(lambda *what: said.append(str(what))).values()
        assert listed.state.checkpoints == ()
        assert len(said) == 1


STEPS = st.lists(st.sampled_from(["save", "save files", "drain", "drain all", "end", "resume"]), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_whatever_is_stored_already_the_listing_says_the_same(tmp_path_factory, steps: list[str]) -> None:
    """And it says what it will say once all is stored, but for what only storing can tell."""
    project = tmp_path_factory.mktemp("project")
    lab = Lab(project)
    queues = [lab.begin()]
    expected: list[Record] = [Created(ONE, NOW)]
    number = 0
    for number, step in enumerate(steps, 1):
        match step:
            case "save" | "save files":
                lab.save(queues[-1], number, **({"model": b"%d" % number} if step == "save files" else {}))
                expected.append(queues[-1].jobs()[-1].record)
            case "drain" | "drain all":
                for queue in queues if step == "drain all" else queues[-1:]:  # a later one may be stored before
                    lab.drain(queue, 1 if step == "drain" else None)
            case "end":
                ended = Ended(ONE, NOW + number * SECOND, "interrupted", session=queues[-1].session)
                if not any(isinstance(item, Ended) and item.session == ended.session for item in expected):
                    expected.append(ended)
                    queues[-1].append(ended)
            case "resume":
                made = [
                    item.id for record in expected if isinstance(record, Checkpointed) for item in record.checkpoints
                ]
                queues.append(lab.resume(queues[-1], made[len(made) // 2] if made else None))
                expected.append(queues[-1].jobs()[-1].record)
        (state,) = records.fold(expected).values()
        listed = lab.only()
        assert [facts.id for facts in listed.state.checkpoints] == [facts.id for facts in state.checkpoints]
        assert listed.state.ended == state.ended
        assert listed.status == ("running" if state.ended is None else "interrupted")
        jobs = [job for queue in queues for job in queue.waiting()]
        assert listed.waiting - {ONE} == {item.id for job in jobs for item in getattr(job.record, "checkpoints", ())}
    queues[-1].finish_appending()
