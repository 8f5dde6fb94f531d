"""Emptying a spool on demand: what nobody else will store is stored, and whoever stores already is waited for."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace

import pytest
from kit import until

from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.format import ids
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool import syncing, upload_queue
from replicate_core.spool.spool import Spool
from replicate_core.spool.syncing import SyncResult, sync
from replicate_core.spool.upload_queue import Origin, Queue, State, Trouble
from replicate_core.spool.uploading import Uploader, open_queue
from replicate_core.storage.local import LocalStore
from replicate_core.views.source import Source

ONE, OTHER = "1" * 32, "2" * 32


class Lab:
    """A project whose trainings were killed."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.spool = Spool(project)
        self.begun: list[Queue] = []
        self.last = ids.ulid(0, bytes(ids.ULID_BYTES))

    def killed(self, experiment: str, checkpoints: int = 0) -> Queue:
        origin = Origin(experiment, "../storage", str(self.project), "auto", os.getpid(), socket.gethostname())
        self.last = ids.ulid_after(self.last, int(time.time() * 1000), os.urandom(ids.ULID_BYTES))
        queue = self.spool.begin(origin, self.last)
        queue.append(Created(experiment, utc_now()))
        for step in range(checkpoints):
            facts = CheckpointFacts(ids.random_id(os.urandom(ids.ID_BYTES)), utc_now(), step, {})
            queue.append(Checkpointed(experiment, (facts,)))
        queue.finish_appending()
        self.begun.append(queue)
        return queue

    def stored(self) -> list[str]:
        return list(Repository(LocalStore(self.project.parent / "storage")).states())


@pytest.fixture
def lab(project: Path) -> Iterator[Lab]:
    found = Lab(project)
    yield found
    for queue in found.begun:
        queue.release()


def test_what_was_stored_and_is_gone_is_done_without_only_where_that_is_said(lab: Lab) -> None:
    queue = lab.killed(ONE, 1)
    queue.take()
    open_queue(queue).reach()
    open_queue(queue).run()
    facts = CheckpointFacts(OTHER, utc_now(), 1, {})
    queue.append(Checkpointed(ONE, (facts,)))
    queue.release()
    shutil.rmtree(lab.project.parent / "storage")
    (failed,) = sync(lab.spool)
    assert (failed.outcome, failed.jobs) == ("failed", 1)
    assert "`replicate sync --anew` stores what waits without it" in failed.error
    assert sync(lab.spool, anew=True) == [SyncResult(ONE, "stored", 1)]
    assert lab.stored() == [ONE]
    assert lab.spool.queues() == []


def test_tells_what_became_of_each_and_how_far_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate_core.spool.uploading.JOBS_AT_ONCE", 2)
    lab.killed(ONE, 5)
    lab.killed(OTHER, 2)
    shown: list[tuple[int, int]] = []
    report = sync(lab.spool, progress=lambda done, total: shown.append((done, total)))
    assert report == [SyncResult(ONE, "stored", 6), SyncResult(OTHER, "stored", 3)]
    assert shown[-1] == (9, 9)
    assert {total for _, total in shown} == {9}
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(shown))
    assert lab.stored() == [ONE, OTHER]
    assert lab.spool.queues() == []
    assert sync(lab.spool) == []


class TestSomethingStrangeInAQueue:
    """This user has made the queue, and what stands in it now is not part of it: the others are not hindered."""

    PARTS = ("state.json", "owner", "recorder", "journal/00000001.jsonl")

    @pytest.mark.parametrize(
        ("part", "kind"),
        [("journal", "link"), ("journal", "pipe"), *product(PARTS, ["link", "pipe", "directory"])],
    )
    def test_is_named_and_left_alone(
        self, lab: Lab, part: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, _ = lab.killed(ONE, 1), lab.killed(OTHER, 1)
        monkeypatch.setattr(upload_queue, "_trusted", set())  # another process
        path = queue.directory / part
        kept = tmp_path / "kept"
        if path.exists():
            path.rename(kept)
        strange = {"link": lambda: path.symlink_to(kept), "pipe": lambda: os.mkfifo(path), "directory": path.mkdir}
        strange[kind]()

        source = Source(lambda: Repository(LocalStore(lab.project.parent / "storage")), lab.spool)
        assert list(source.all()) == [OTHER]
        assert [one.experiment for one in syncing.queued(lab.spool)] == [OTHER]
        stored, refused = sync(lab.spool)
        assert stored == SyncResult(OTHER, "stored", 2)
        assert (refused.experiment, refused.outcome) == (ONE, "refused")
        assert f"{path} is a link, a pipe or the like, which no queue contains. Put back" in refused.error
        with pytest.raises(InvalidInput, match="is not part of a queue: those are files and directories of this user"):
            lab.spool.accept(lab.spool.strangers()[0])

        path.rmdir() if kind == "directory" else path.unlink()
        if kept.exists():
            kept.rename(path)
        assert sync(lab.spool) == [SyncResult(ONE, "stored", 2)]

    def test_a_journal_that_is_a_link_to_itself_is_named(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        queue = lab.killed(ONE, 1)
        monkeypatch.setattr(upload_queue, "_trusted", set())
        journal = queue.directory / "journal"
        journal.rename(queue.directory / "kept")
        journal.symlink_to("journal")
        (refused,) = sync(lab.spool)
        assert f"{journal} is a link, a pipe or the like" in refused.error

    @pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
    def test_to_the_process_that_made_it_it_says_nothing(self, lab: Lab, kind: str, tmp_path: Path) -> None:
        """A part that was replaced while it is at it: how far storing has come is not known, and nothing hangs."""
        queue = lab.killed(ONE, 1)
        for part in ("state.json", "journal/00000001.jsonl"):
            path = queue.directory / part
            path.unlink(missing_ok=True)
            if kind == "link":
                path.symlink_to(tmp_path)
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.mkdir()
        assert queue.state() == State()
        with pytest.raises(
            Corrupted, match=r"00000001\.jsonl is not a file of a journal, but a link, a pipe or the like"
        ):
            queue.waiting()


class TestSomebodyElseWhoIsAtIt:
    def test_is_waited_for(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """As long as it takes, where jobs get stored: altogether four times as long as one that stands still."""
        monkeypatch.setattr("replicate_core.spool.uploading.JOBS_AT_ONCE", 1)
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=lambda _: time.sleep(0.001))
        monkeypatch.setattr(syncing, "time", clock)
        queue = lab.killed(ONE, 5)
        assert queue.take()
        plain = Uploader._store
        shown: list[int] = []

        def looked_at() -> None:
            """Wait for a look that began after this."""
            seen = len(shown)
            until(lambda: len(shown) > seen + 1)

        def slow(self: Uploader, group: list) -> None:
            looked_at()
            clock.now += syncing.STALLED_SECONDS * 0.7
            looked_at()
            plain(self, group)

        monkeypatch.setattr(Uploader, "_store", slow)
        thread = threading.Thread(target=open_queue(queue).upload_all)
        thread.start()
        assert sync(lab.spool, progress=lambda done, _: shown.append(done)) == [SyncResult(ONE, "stored", 6)]
        thread.join()
        assert clock.now > 4 * syncing.STALLED_SECONDS
        assert shown == sorted(shown)
        assert set(shown) == set(range(7))

    def test_in_trouble_is_not(self, lab: Lab) -> None:
        queue = lab.killed(ONE)
        assert queue.take()
        queue.set_state(type(queue.state())(trouble=Trouble("StorageFailed", "access denied", permanent=True)))
        assert sync(lab.spool) == [SyncResult(ONE, "failed", 1, "access denied")]

    def test_who_does_not_get_on_is_not(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syncing, "STALLED_SECONDS", 0.2)
        queue = lab.killed(ONE)
        assert queue.take()
        (synced,) = sync(lab.spool)
        assert (synced.outcome, synced.jobs) == ("failed", 1)
        assert synced.error is not None
        assert synced.error.startswith("another process is storing it, and has stored nothing for")
        assert len(queue.waiting()) == 1

    def test_who_is_stopped_is_named_once_while_it_is_waited_for(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
        monkeypatch.setattr(syncing, "time", clock)
        monkeypatch.setattr(syncing, "STALLED_SECONDS", 2 * syncing.PATIENCE_SECONDS)
        assert lab.killed(ONE).take()
        told: list[str] = []
        sync(lab.spool, tell=told.append)
        (text,) = told
        assert text.startswith(f"waiting for another process, which is storing the experiment {ONE[:7]}")

    def test_who_is_killed_is_followed(self, lab: Lab) -> None:
        queue = lab.killed(ONE)
        assert queue.take()
        threading.Timer(0.3, queue.release).start()
        assert sync(lab.spool) == [SyncResult(ONE, "stored", 1)]
        assert lab.stored() == [ONE]

    def test_who_had_stored_the_last_of_it_a_moment_before_is_believed(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = lab.killed(ONE)
        plain = Queue.take

        def too_late(self: Queue) -> bool:
            monkeypatch.undo()
            assert queue.take()
            open_queue(queue).upload_all()
            return plain(self)

        monkeypatch.setattr(Queue, "take", too_late)
        assert sync(lab.spool) == [SyncResult(ONE, "stored", 1)]
        until(lambda: lab.stored() == [ONE])


def test_a_queue_that_this_user_may_not_take_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = lab.killed(ONE)
    lab.killed(OTHER)
    take = Queue.take

    def refuse(self: Queue) -> bool:
        if self.experiment == ONE:
            raise PermissionError(13, "Permission denied")
        return take(self)

    monkeypatch.setattr(Queue, "take", refuse)
    found = {synced.experiment: synced for synced in sync(lab.spool)}
    assert (found[ONE].outcome, found[OTHER].outcome) == ("failed", "stored")
    assert "Permission denied" in str(found[ONE].error)
    assert queue.directory.is_dir()
