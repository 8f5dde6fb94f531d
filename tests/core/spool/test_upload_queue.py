"""A queue: jobs are read as they were appended, copies belong to who claims them, and finished ones leave nothing."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshots import contents
from spooled import EXPERIMENT, LARGE, NOW, Queues, append, checkpointed, created, stage

from replicate_core.errors import Corrupted
from replicate_core.format.records import Ended
from replicate_core.machine import boot as boots
from replicate_core.machine import staging
from replicate_core.machine.files import Tree
from replicate_core.spool import upload_queue
from replicate_core.spool.journal import START, Position
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import SPARES_MAX, Queue, State, Trouble


class TestJobs:
    def test_are_read_as_they_were_appended(self, queue: Queue) -> None:
        queue.append(created(), stage(queue, train=b"print()"))
        queue.append(checkpointed(1), blocked_seconds=0.25)
        queue.append(Ended(EXPERIMENT, NOW, "failed", "ValueError: x", 1.5))
        begun, made, ended = Queue(queue.directory).jobs()
        assert begun.record == created()
        assert begun.staged is not None
        assert contents(begun.staged) == {"train": b"print()"}
        assert begun.boot == boots.boot_id()
        assert (made.record, made.staged, made.blocked_seconds) == (checkpointed(1), None, 0.25)
        assert ended.record == Ended(EXPERIMENT, NOW, "failed", "ValueError: x", 1.5)

    def test_wait_until_they_are_finished(self, queue: Queue) -> None:
        for number in range(4):
            queue.append(checkpointed(number))
        jobs = queue.jobs()
        assert queue.waiting() == jobs
        queue.finish(jobs[:1])
        assert queue.waiting() == jobs[1:]
        assert queue.waiting(count_max=2) == jobs[1:3]
        assert queue.jobs(after=jobs[2].after) == jobs[3:]
        queue.finish(jobs[1:])
        assert queue.waiting() == []
        assert queue.state().done == 4

    def test_of_a_journal_that_is_long_are_forgotten_behind_the_mark(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("replicate_core.spool.journal.SEGMENT_BYTES", 0)
        for number in range(4):
            queue.append(checkpointed(number))
        for job in queue.waiting():
            queue.finish([job])
        assert len(os.listdir(queue.directory / "journal")) == 1
        queue.append(checkpointed(4))
        (left,) = queue.waiting()
        assert left.record == checkpointed(4)

    def test_that_no_version_knows_are_corrupted(self, queue: Queue) -> None:
        queue._journal.append({"record": {"kind": "something new", "experiment": EXPERIMENT}, "blocked_seconds": 0.0})
        with pytest.raises(Corrupted):
            queue.jobs()

    def test_before_one_that_makes_no_sense_are_not_held_up_by_it(self, queue: Queue) -> None:
        for number in (1, 2):
            queue.append(checkpointed(number))
        queue._journal.append("senseless")
        queue.append(checkpointed(3))
        jobs = queue.waiting()
        assert [job.record for job in jobs] == [checkpointed(1), checkpointed(2)]
        queue.finish(jobs)
        with pytest.raises(Corrupted):
            queue.waiting()

    @pytest.mark.parametrize("job", [None, [], "x", 5])
    def test_that_are_none_are_corrupted(self, queue: Queue, job) -> None:
        queue._journal.append(job)
        with pytest.raises(Corrupted):
            queue.jobs()

    def test_that_lack_what_is_not_needed_are_jobs_all_the_same(self, queue: Queue) -> None:
        queue.append(checkpointed(1))
        (line,) = queue._journal.read()
        queue._journal.append({"record": line.document["record"], "blocked_seconds": "long", "boot": 5})
        job = queue.jobs()[1]
        assert (job.record, job.blocked_seconds, job.boot) == (checkpointed(1), 0.0, None)

    def test_a_checkpoint_without_room_leaves_no_copies(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "model").write_bytes(b"x")
        (project / "large").write_bytes(bytes(LARGE))

        def full(source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device", str(target))

        tree = Tree({"model": project / "model", "large": project / "large"})
        monkeypatch.setattr(staging, "copy_steadily", full)
        with pytest.raises(OSError, match="No space left"):
            queue.stage(tree)
        assert os.listdir(queue.directory / "files") == []
        assert contents(stage(queue, model=b"y")) == {"model": b"y"}, "the next one has a directory of its own"


class TestClaims:
    def test_copies_belong_to_who_claims_them(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}
        assert claimed.directory.name == "1.taken"
        assert os.listdir(queue.directory / "files") == ["1.taken"]
        assert job.staged is not None
        assert not queue.withdraw(job.staged), "they are being stored"
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}

    def test_claiming_again_after_a_kill_returns_them_again(self, queue: Queue) -> None:
        job = append(queue, 1, model=b"m")
        assert queue.claim(job) == Queue(queue.directory).claim(job) is not None

    def test_copies_that_were_withdrawn_are_not_there(self, queue: Queue) -> None:
        job = append(queue, 1, model=b"m")
        assert job.staged is not None
        assert queue.withdraw(job.staged)
        assert os.listdir(queue.directory / "files") == []
        assert queue.claim(job) is None
        assert not queue.withdraw(job.staged), "twice is once too often"
        assert queue.waiting() == [job], "the job is there without them"

    def test_when_both_try_exactly_one_wins(self, queue: Queue) -> None:
        for number in range(60):
            job = append(queue, number, model=b"m")
            assert job.staged is not None
            ready, claimed, withdrawn = threading.Barrier(2), [], []

            def claim(job=job, ready=ready, claimed=claimed) -> None:
                ready.wait()
                claimed.append(Queue(queue.directory).claim(job))

            thread = threading.Thread(target=claim)
            thread.start()
            ready.wait()
            withdrawn.append(queue.withdraw(job.staged))
            thread.join()
            assert (claimed[0] is None) == withdrawn[0]
            assert claimed[0] is None or contents(claimed[0]) == {"model": b"m"}

    def test_copies_that_are_cut_short_are_not_stored(self, queue: Queue) -> None:
        job = append(queue, 1, a=b"12345", b=b"67890")
        small = queue.directory / "files" / "1" / "small"
        os.truncate(small, 9)
        with pytest.warns(
            UserWarning, match=r"a, b of the experiment eeeeeee .*the files are not stored, and are kept in"
        ):
            assert queue.claim(job) is None
        kept = queue.directory.parent / f"torn-{queue.directory.name}-1"
        assert (kept / "small").read_bytes() == b"123456789", "they are kept for a user who knows that they are whole"
        assert os.listdir(queue.directory / "files") == []
        assert queue.claim(job) is None, "and is told once"
        assert [other.directory for other in Spool(queue.directory.parents[2]).queues()] == [queue.directory]

    def test_copies_that_are_missing_are_not_stored(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        (queue.directory / "files" / "1" / "0").unlink()
        with pytest.warns(UserWarning, match="model, notes of the experiment"):
            assert queue.claim(job) is None

    def test_copies_of_empty_files_are_whole(self, queue: Queue) -> None:
        job = append(queue, 1, empty=b"")
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"empty": b""}

    def test_a_job_of_directories_and_links_alone_is_claimed(self, queue: Queue) -> None:
        queue.append(checkpointed(1), queue.stage(Tree({}, {"link": "target"}, ("logs",))))
        claimed = queue.claim(queue.jobs()[0])
        assert claimed is not None
        assert (claimed.links, claimed.directories) == ({"link": "target"}, ("logs",))


class TestAnotherStartOfTheMachine:
    """What was not synced may be torn, however long it looks."""

    def test_may_not_have_the_copies(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: "one")
        job = append(queue, 1, model=b"m")
        assert job.boot == "one"
        monkeypatch.setattr(boots, "boot_id", lambda: "two")
        assert queue.copy_of(job, "model") is None
        with pytest.warns(UserWarning, match="the machine stopped, maybe before model of the experiment"):
            assert queue.claim(job) is None

    @pytest.mark.parametrize("boot", ["two", None], ids=["another", "an unknown one"])
    def test_has_those_that_were_synced(self, queue: Queue, monkeypatch: pytest.MonkeyPatch, boot: str | None) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: "one")
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        queue.sync()
        monkeypatch.setattr(boots, "boot_id", lambda: boot)
        claimed = queue.claim(job)
        assert claimed is not None
        assert contents(claimed) == {"model": bytes(LARGE), "notes": b"n"}

    def test_where_the_system_does_not_tell_they_are_taken_as_they_are(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(boots, "boot_id", lambda: None)
        assert queue.claim(append(queue, 1, model=b"m")) is not None

    def test_is_told_by_the_system_or_not_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = boots.boot_id()
        assert told is None or len(told) == 36
        assert boots.boot_id() is told, "it does not change, and is asked for with every job"
        monkeypatch.setattr(boots, "Path", lambda _: Path("/does/not/exist"))
        assert boots.boot_id.__wrapped__() is None

    def test_is_told_by_another_command_on_macos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []
        monkeypatch.setattr(boots.sys, "platform", "darwin")
        monkeypatch.setattr(boots.subprocess, "check_output", lambda command, text: asked.append(command) or "one\n")
        assert boots.boot_id.__wrapped__() == "one"
        assert asked == [["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]]

        def fail(command: list[str], text: bool) -> str:
            raise subprocess.CalledProcessError(1, command)

        monkeypatch.setattr(boots.subprocess, "check_output", fail)
        assert boots.boot_id.__wrapped__() is None


class TestSyncing:
    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        synced: list[str] = []
        monkeypatch.setattr(upload_queue, "sync", lambda path: synced.append(path.name))
        monkeypatch.setattr("replicate_core.spool.journal.sync", lambda path: synced.append(path.name))
        return synced

    def test_takes_every_copy_once_and_the_journal(self, queue: Queue, synced: list[str]) -> None:
        append(queue, 1, model=bytes(LARGE), a=b"a", b=b"b")
        append(queue, 2)
        queue.sync()
        assert sorted(synced) == ["0", "00000001.jsonl", "small"]
        queue.sync()
        assert sorted(synced)[:3] == ["0", "00000001.jsonl", "00000001.jsonl"], "the copies are safe already"

    def test_takes_what_was_claimed_and_passes_over_what_was_withdrawn(self, queue: Queue, synced: list[str]) -> None:
        claimed, withdrawn = append(queue, 1, model=b"m"), append(queue, 2, model=b"m")
        queue.claim(claimed)
        queue.withdraw(withdrawn.staged)
        queue.sync()
        assert synced == ["small", "00000001.jsonl"]

    def test_leaves_what_is_young(self, queue: Queue, synced: list[str]) -> None:
        append(queue, 1, model=b"m")
        append(queue, 2, notes=b"n")
        os.utime(queue.directory / "files" / "1", (1, 1))
        queue.sync(older_than_seconds=60)
        assert [(queue.directory / "files" / job / "synced").exists() for job in "12"] == [True, False]
        assert synced == ["small", "00000001.jsonl"]

    def test_leaves_what_is_still_being_copied(self, queue: Queue, project: Path) -> None:
        """A large file takes longer than a copy may wait: what is written after the sync is not safe."""

        class Slow(type(project)):  # type: ignore[misc]
            def stat(self, **_: bool) -> os.stat_result:
                (copying,) = (queue.directory / "files").iterdir()
                os.utime(copying, (1, 1))
                queue.sync(older_than_seconds=5)
                return super().stat()

        (project / "model").write_bytes(bytes(LARGE))
        tree = Tree({"a": project / "model", "b": Slow(project / "model")})
        queue.append(checkpointed(1), queue.stage(tree))
        assert not list(queue.directory.glob("files/*/synced"))

    def test_of_a_queue_without_copies_is_fine(self, queue: Queue, synced: list[str]) -> None:
        (queue.directory / "files").rmdir()
        (queue.directory / "spares").touch()
        queue.sync()
        assert synced == []

    def test_copies_that_are_withdrawn_meanwhile_are_no_trouble(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = append(queue, 1, model=b"m")
        plain = upload_queue.sync

        def late(path: Path) -> None:
            queue.withdraw(job.staged)
            plain(path)

        monkeypatch.setattr(upload_queue, "sync", late)
        queue.sync()
        assert not job.staged.directory.exists()


class TestFinishing:
    def test_removes_the_copies(self, queue: Queue) -> None:
        job = append(queue, 1, notes=b"n")
        queue.finish([job], queue.claim(job))
        assert os.listdir(queue.directory / "files") == []
        assert os.listdir(queue.directory / "spares") == [], "a small copy is not worth keeping"

    def test_keeps_a_few_large_copies_to_be_written_over(self, queue: Queue) -> None:
        for number in range(3):
            files = {f"{number}-{name}": bytes([number]) * (LARGE + number) for name in "abc"}
            job = append(queue, number, **files)
            claimed = queue.claim(job)
            assert claimed is not None
            assert contents(claimed) == files
            queue.finish([job], claimed)
            assert len(os.listdir(queue.directory / "spares")) == SPARES_MAX
        assert os.listdir(queue.directory / "files") == []

    def test_an_object_is_never_written_over(self, queue: Queue, project: Path) -> None:
        """Storing on the same disk makes the copy itself the object, as a second name of it."""
        job = append(queue, 1, model=b"1" * LARGE, other=b"o" * LARGE)
        claimed = queue.claim(job)
        assert claimed is not None
        os.link(claimed.files[0].copy, project / "object")
        queue.finish([job], claimed)
        assert len(os.listdir(queue.directory / "spares")) == 1
        append(queue, 2, model=b"2" * LARGE, other=b"p" * LARGE)
        assert (project / "object").read_bytes() == b"1" * LARGE
        assert (project / "object").stat().st_nlink == 1

    def test_is_no_failure_though_the_spares_cannot_be_kept(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE))
        claimed = queue.claim(job)
        (queue.directory / "spares").rmdir()
        queue.finish([job], claimed)
        assert queue.state().done == 1
        append(queue, 2, model=bytes(LARGE))

    def test_notes_whether_the_experiment_has_ended_and_how_long_it_was_held_up(self, queue: Queue) -> None:
        for blocked, record in enumerate([created(), Ended(EXPERIMENT, NOW, "finished"), checkpointed(1)]):
            queue.append(record, blocked_seconds=float(blocked))
        states = []
        for job in queue.waiting():
            queue.finish([job])
            states.append(queue.state())
        assert [state.ended for state in states] == [False, True, True]
        assert [state.blocked_seconds for state in states] == [0.0, 1.0, 2.0]
        assert all(state.ready and state.trouble is None for state in states)

    def test_ends_what_was_in_the_way(self, queue: Queue) -> None:
        job = append(queue, 1)
        queue.set_state(State(trouble=Trouble("StorageFailed", "no", permanent=False, attempts=2)))
        queue.finish([job])
        assert queue.state().trouble is None


class TestReadingAlong:
    def test_the_copy_of_a_file_is_found_until_it_is_stored(self, queue: Queue) -> None:
        job = append(queue, 1, model=bytes(LARGE), notes=b"n")
        for _ in range(2):
            for path, data in (("model", bytes(LARGE)), ("notes", b"n")):
                found = queue.copy_of(job, path)
                assert found is not None
                assert found.copy.read_bytes()[found.offset :][: found.size] == data
            assert queue.copy_of(job, "other") is None
            claimed = queue.claim(job)
        queue.finish([job], claimed)
        assert queue.copy_of(job, "model") is None


class TestTheState:
    @pytest.mark.parametrize(
        "state",
        [
            State(),
            State(ready=True, done=7, mark=Position(3, 1234), ended=True, blocked_seconds=1.25),
            State(trouble=Trouble("StorageFailed", "can't write: é", permanent=True, attempts=9)),
        ],
        ids=["the first", "the last", "trouble"],
    )
    def test_comes_back(self, queue: Queue, state: State) -> None:
        queue.set_state(state)
        assert Queue(queue.directory).state() == state
        assert not list(queue.directory.glob("*.tmp"))

    def test_is_the_first_one_where_none_was_written_or_all_is_gone(self, queue: Queue) -> None:
        assert queue.state() == State()
        queue.set_state(State(ready=True))
        queue.remove()
        assert queue.state() == State()

    @pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"{}", b"\xff", b'{"mark": [1]}', b"\0" * 100])
    def test_that_was_damaged_is_the_first_one_so_that_all_is_stored_again(self, queue: Queue, data: bytes) -> None:
        job = append(queue, 1)
        queue.finish([job])
        (queue.directory / "state.json").write_bytes(data)
        assert queue.state() == State()
        assert queue.waiting() == [job]

    def test_that_could_not_be_written_whole_leaves_the_one_before(self, queue: Queue) -> None:
        """Of a file that may not become so large, the system writes the beginning, and says so without an error."""
        resource = pytest.importorskip("resource")
        before = State(ready=True, done=7, mark=Position(3, 1234))
        queue.set_state(before)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                queue.set_state(replace(before, trouble=Trouble("StorageFailed", "x" * 5000, permanent=True)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert queue.state() == before

    def test_is_never_seen_half_written(self, queue: Queue) -> None:
        stopped = threading.Event()
        states = [State(ready=True, done=n, mark=Position(1, n), blocked_seconds=n / 3) for n in range(1, 50)]
        queue.set_state(states[0])

        def write() -> None:
            while not stopped.is_set():
                for state in states:
                    queue.set_state(state)

        writer = threading.Thread(target=write)
        writer.start()
        reader = Queue(queue.directory)
        found = [reader.state() for _ in range(500)]
        stopped.set()
        writer.join()
        assert set(found) <= set(states)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_state_with_anything_in_it_is_a_state(queue: Queue, damaged, data) -> None:
    trouble = Trouble("StorageFailed", "no", permanent=True)
    whole = upload_queue._encode_state(State(ready=True, done=1, mark=Position(1, 2), trouble=trouble))
    document = data.draw(damaged(whole))
    (queue.directory / "state.json").write_text(upload_queue.dumps(document))
    state = queue.state()
    assert isinstance(state.mark, Position)
    queue.set_state(state)
    assert queue.state() == state or state.blocked_seconds != state.blocked_seconds


@given(
    st.builds(
        State,
        st.booleans(),
        st.integers(0, 1 << 53),
        st.builds(Position, st.integers(0, 1 << 30), st.integers(0, 1 << 53)),
        st.booleans(),
        st.floats(0, 1e9),
        st.none() | st.builds(Trouble, st.text(), st.text(), st.booleans(), st.integers(0, 1 << 53)),
    )
)
def test_whatever_the_state_it_comes_back(state: State) -> None:
    assert (
        upload_queue._decode_state(upload_queue.loads(upload_queue.dumps(upload_queue._encode_state(state)))) == state
    )


RECORDS = st.one_of(
    st.just(created()),
    st.integers(0, 99).map(checkpointed),
    st.sampled_from(["finished", "failed", "interrupted"]).map(lambda status: Ended(EXPERIMENT, NOW, status)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=st.lists(st.tuples(RECORDS, st.dictionaries(st.sampled_from("abc"), st.binary(max_size=9)), st.floats(0, 9)))
)
def test_whatever_is_appended_is_read_as_it_was(queues: Queues, jobs) -> None:
    queue = queues.begin()
    for record, files, blocked in jobs:
        queue.append(record, stage(queue, **files) if files else None, blocked_seconds=blocked)
    read = Queue(queue.directory).jobs()
    assert [(job.record, job.blocked_seconds) for job in read] == [(record, blocked) for record, _, blocked in jobs]
    assert [contents(job.staged) if job.staged else {} for job in read] == [files for _, files, _ in jobs]
    assert [job.after for job in read] == sorted({job.after for job in read} - {START})
    for number, job in enumerate(read):
        claimed = None if job.staged is None else queue.claim(job)
        queue.finish([job], claimed)
        assert queue.waiting() == read[number + 1 :]
    assert replace(queue.state(), ready=True).done == len(jobs)
    queue.finish_appending()
    queue.remove()
