"""Emptying a queue: in order, each job once, wherever the one before was interrupted."""

from __future__ import annotations

import os
import shutil
import socket
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from misbehaving import Died, Misbehaving, Storage, fails

from replicate_core.errors import Corrupted, InvalidInput, StorageFailed
from replicate_core.format import ids
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Ended, ExperimentState
from replicate_core.machine import boot
from replicate_core.machine.files import Tree
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.reading import open_file
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool import uploading
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Origin, Queue
from replicate_core.spool.uploading import Uploader, open_queue
from replicate_core.storage.local import LocalStore

EXPERIMENT = "e" * 32


def new_queue(project: Path) -> Queue:
    origin = Origin(EXPERIMENT, "../storage", str(project), "auto", os.getpid(), socket.gethostname())
    return Spool(project).begin(origin, ids.ulid(int(time.time() * 1000), os.urandom(ids.ULID_BYTES)))


@pytest.fixture
def queue(project: Path) -> Queue:
    found = new_queue(project)
    yield found
    found.finish_appending()
    found.release()


def append_all(queue: Queue, project: Path, kinds: str) -> list[str]:
    """Append a job for each letter: `c` created, `f` with a file, `p` without, `e` ended."""
    made = []
    for step, kind in enumerate(kinds):
        if kind == "c":
            (project / "code.py").write_text("pass\n")
            queue.append(Created(EXPERIMENT, utc_now(), path="."), queue.stage(tree(project, "code.py")))
        elif kind == "e":
            queue.append(Ended(EXPERIMENT, utc_now(), "finished"))
        else:
            made.append(ids.random_id(os.urandom(ids.ID_BYTES)))
            path, staged = None, None
            if kind == "f":
                path = "model"
                (project / "model").write_bytes(b"%d" % step * (SMALL_BYTES if step % 2 else 9))
                staged = queue.stage(tree(project, "model"))
            facts = CheckpointFacts(made[-1], utc_now(), step, {"loss": step}, path=path)
            queue.append(Checkpointed(EXPERIMENT, (facts,)), staged, blocked_seconds=float(step))
    return made


def tree(project: Path, name: str) -> Tree:
    return Tree({name: project / name})


def drain(queue: Queue, project: Path, storage: Storage | None = None) -> Uploader:
    store = LocalStore(project.parent / "storage")
    repository = Repository(store if storage is None else Misbehaving(store, storage))
    repository.prepare()
    queue.take()
    return Uploader(queue, repository, ChunkIndex(repository), "auto")


def state(project: Path) -> ExperimentState:
    return Repository(LocalStore(project.parent / "storage")).states()[EXPERIMENT]


def contents(project: Path) -> list[bytes | None]:
    """What the files of the checkpoints hold; None where there are none."""
    repository = Repository(LocalStore(project.parent / "storage"))
    found: list[bytes | None] = []
    for facts in state(project).checkpoints:
        files = repository.manifest(facts.manifest).files if facts.manifest else {}
        found += [open_file(repository, file, name=path).read() for path, file in files.items()] or [None]
    return found


class TestOrder:
    def test_jobs_are_stored_as_they_were_appended(self, queue: Queue, project: Path) -> None:
        kinds = "cppfpffppppfpe"
        made = append_all(queue, project, kinds)
        storage = Storage()
        drain(queue, project, storage).run()
        assert [facts.id for facts in state(project).checkpoints] == made
        shapes = [key.rpartition("-")[2].removesuffix(".json") for key in storage.written if key.startswith("records/")]
        assert shapes == ["created"] + ["checkpoints"] * 8 + ["ended"]  # pp f p f f pppp f p
        assert [data is not None for data in contents(project)] == [kind == "f" for kind in kinds[1:-1]]

    def test_points_are_merged_up_to_a_limit(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploading, "JOBS_AT_ONCE", 10)
        made = append_all(queue, project, "c" + "p" * 95 + "e")
        storage = Storage()
        counts: list[int] = []
        drain(queue, project, storage).run(progress=counts.append)
        assert [facts.id for facts in state(project).checkpoints] == made
        assert counts[-1] == 97, "the number done so far"
        assert all(0 < later - earlier <= 10 for earlier, later in pairwise([0, *counts]))
        assert len(storage.records("checkpoints")) == 10

    def test_what_comes_meanwhile_is_left_to_the_next_time(self, queue: Queue, project: Path) -> None:
        """A storage that is slower than a step would get a record of each, and whoever waits would wait for ever."""
        append_all(queue, project, "cpp")
        storage = Storage()
        found = drain(queue, project, storage)
        came: list[str] = []

        def comes(verb: str, key: str) -> None:
            came.extend(append_all(queue, project, "p") if key.startswith("records/") else ())

        storage.before = comes
        found.run()
        assert len(came) == 2, "one while the experiment was stored, and one while its checkpoints were"
        assert len(queue.waiting()) == 2
        storage.before = lambda *_: None
        found.run()
        assert [facts.id for facts in state(project).checkpoints][2:] == came

    def test_an_empty_queue_is_nothing_to_do(self, queue: Queue, project: Path) -> None:
        storage = Storage()
        found = drain(queue, project, storage)
        storage.written.clear()
        found.run()
        assert storage.written == []


class TestInterruptions:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(kinds=st.text("fp", max_size=6), places=st.lists(st.integers(0, 12), max_size=4), kill=st.booleans())
    def test_anywhere_leave_what_an_undisturbed_run_leaves(
        self, tmp_path_factory: pytest.TempPathFactory, kinds: str, places: list[int], kill: bool
    ) -> None:
        """Whichever writes fail, before or after they were done: each checkpoint is there, once and whole."""
        project = tmp_path_factory.mktemp("x") / "project"
        project.mkdir()
        queue = new_queue(project)
        kinds = f"c{kinds}e"
        made = append_all(queue, project, kinds)
        wanted = [(project / "model", kind) for kind in kinds]
        error = Died if kill else StorageFailed
        for place in places:
            storage = Storage()
            left = [place]

            def before(verb: str, key: str, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0 and not key.endswith("repository.json"):
                    raise error("no")

            try:
                found = drain(queue, project, storage)
                storage.before = before
                found.run()
            except error:
                pass
            finally:
                queue.release()
        drain(queue, project).run()
        assert [facts.id for facts in state(project).checkpoints] == made
        assert len(wanted) == len(kinds)
        expected = [
            b"%d" % step * (SMALL_BYTES if step % 2 else 9) if kind == "f" else None
            for step, kind in enumerate(kinds)
            if kind in "fp"
        ]
        assert contents(project) == expected
        assert state(project).ended.status == "finished"
        assert queue.waiting() == []
        assert list((queue.directory / "files").iterdir()) == []
        queue.finish_appending()
        queue.release()

    def test_after_the_record_and_before_the_mark_counts_once(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A recorder that is killed there does the job again."""
        made = append_all(queue, project, "cfp")

        def dies(self: Queue, *arguments: object) -> None:
            raise Died

        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(Queue, "finish", dies)
                with pytest.raises(Died):
                    drain(queue, project).run()
        drain(queue, project).run()
        assert [facts.id for facts in state(project).checkpoints] == made
        assert len(contents(project)) == 2


class TestReaching:
    def test_prepares_the_storage_of_a_queue_that_is_fresh(self, queue: Queue, project: Path) -> None:
        queue.take()
        open_queue(queue).reach()
        assert (project.parent / "storage" / "replicate.json").exists()

    def test_does_not_where_something_was_stored_before(self, queue: Queue, project: Path) -> None:
        """Its disk is not mounted: nothing may be written to where it was."""
        append_all(queue, project, "cp")
        drain(queue, project).run()
        append_all(queue, project, "p")
        (project.parent / "storage").rename(project.parent / "away")
        with pytest.raises(StorageFailed, match="no longer holds anything") as raised:
            open_queue(queue).reach()
        assert raised.value.permanent
        assert not (project.parent / "storage").exists()
        (project.parent / "away").rename(project.parent / "storage")
        open_queue(queue).upload_all()
        assert len(state(project).checkpoints) == 2

    def test_does_not_where_others_began_anew_what_was_emptied(self, queue: Queue, project: Path) -> None:
        """What came before is gone: checkpoints alone would be in no listing."""
        append_all(queue, project, "cfp")
        drain(queue, project).run()
        made = append_all(queue, project, "fp")
        shutil.rmtree(project.parent / "storage")
        Repository(LocalStore(project.parent / "storage")).prepare()
        with pytest.raises(StorageFailed, match="no longer holds the experiment eeeeeee") as raised:
            open_queue(queue).reach()
        assert raised.value.permanent
        with pytest.raises(StorageFailed, match="replicate sync --anew"):
            open_queue(queue).upload_all()
        assert len(queue.waiting()) == 2
        again = open_queue(queue)
        again.begin_again()
        again.upload_all()
        assert [facts.id for facts in state(project).checkpoints] == made
        assert contents(project)[0] is not None
        assert queue.waiting() == []

    def test_where_the_journal_has_forgotten_the_beginning_takes_what_it_knows(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append_all(queue, project, "cp")
        drain(queue, project).run()
        made = append_all(queue, project, "p")
        shutil.rmtree(project.parent / "storage")
        monkeypatch.setattr(queue, "jobs", lambda **_: [])
        again = open_queue(queue)
        again.begin_again()
        monkeypatch.undo()
        again.upload_all()
        assert [facts.id for facts in state(project).checkpoints] == made

    def test_of_a_deleted_experiment_is_as_before(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cp")
        drain(queue, project).run()
        Repository(LocalStore(project.parent / "storage")).append(Deleted(EXPERIMENT))
        append_all(queue, project, "p")
        open_queue(queue).upload_all()
        assert queue.waiting() == []

    def test_of_a_directory_is_seen_to_before_anything_is_stored(self, queue: Queue, project: Path) -> None:
        """Nothing fails there: what is missing is made."""
        append_all(queue, project, "cp")
        stored = drain(queue, project)
        stored.run()
        shutil.rmtree(project.parent / "storage")
        append_all(queue, project, "p")
        with pytest.raises(StorageFailed, match="no longer holds anything"):
            stored.run()
        assert not (project.parent / "storage").exists()


class TestEmptying:
    def test_closes_a_queue_whose_process_is_gone(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cp")
        queue.finish_appending()
        died_at = queue.last_sign()
        drain(queue, project).upload_all()
        assert not queue.directory.exists()
        assert (state(project).ended.status, state(project).ended.created) == ("killed", died_at)

    def test_closes_a_queue_that_has_ended(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cpe")
        drain(queue, project).upload_all()
        assert not queue.directory.exists()
        assert state(project).ended.status == "finished"

    def test_leaves_a_queue_whose_process_lives(self, queue: Queue, project: Path) -> None:
        made = append_all(queue, project, "cpf")
        counts: list[int] = []
        drain(queue, project).upload_all(progress=counts.append)
        assert queue.waiting() == []
        assert queue.directory.is_dir()
        assert [facts.id for facts in state(project).checkpoints] == made
        assert state(project).ended is None
        assert counts == [1, 2, 3]

    def test_of_a_process_that_dies_meanwhile_leaves_the_queue_to_the_next_one(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have appended more before it died."""
        append_all(queue, project, "cp")
        plain = Uploader.run

        def dies(self: Uploader, **options: object) -> None:
            plain(self, **options)
            append_all(queue, project, "p")
            queue.finish_appending()

        monkeypatch.setattr(Uploader, "run", dies)
        drain(queue, project).upload_all()
        assert len(queue.waiting()) == 1
        monkeypatch.undo()
        drain(queue, project).upload_all()
        assert len(state(project).checkpoints) == 2


class TestCopies:
    def test_of_which_no_pack_could_be_stored_are_all_that_is_left(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cff")
        storage = Storage()
        found = drain(queue, project, storage)
        for of in ("data/", "manifests/", "records/"):
            storage.before = fails(of=of)
            for _ in range(3):
                with pytest.raises(StorageFailed):
                    found.run()
            names = [path.name for path in (queue.directory / "files").rglob("*") if path.is_file()]
            assert sorted(names) == ["small"] * 3 + ["whole"] * 3

    def test_that_were_withdrawn_leave_the_metrics(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cff")
        first = queue.waiting()[1]
        assert queue.withdraw(first.staged)
        assert not queue.withdraw(first.staged)
        drain(queue, project).run()
        assert [facts.metrics for facts in state(project).checkpoints] == [{"loss": 1}, {"loss": 2}]
        assert [facts.size_bytes for facts in state(project).checkpoints] == [0, 9]
        assert contents(project) == [None, b"2" * 9]

    def test_that_are_being_stored_are_not_withdrawn(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "f")
        (job,) = queue.waiting()
        assert queue.claim(job) is not None
        assert not queue.withdraw(job.staged)

    def test_that_a_dead_machine_never_wrote_to_disk_are_left_out(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Their names are there, and what they hold is anybody's guess."""
        made = append_all(queue, project, "cff")
        monkeypatch.setattr(boot, "boot_id", lambda: "another")
        with pytest.warns(UserWarning, match="had reached its disk") as told:
            drain(queue, project).run()
        assert [facts.id for facts in state(project).checkpoints] == made
        assert contents(project) == [None, None]
        assert state(project).created.manifest is None
        assert [facts.size_bytes for facts in state(project).checkpoints] == [0, 0]
        kept = sorted(queue.directory.parent.glob("torn-*"))
        assert [path.name for path in kept] == [f"torn-{queue.directory.name}-{job}" for job in (1, 2, 3)]
        assert (kept[1] / "small").read_bytes() == b"1" * SMALL_BYTES
        assert [str(path) in str(warning.message) for path, warning in zip(kept, told, strict=True)] == [True] * 3

    def test_that_were_synced_outlive_the_machine(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append_all(queue, project, "cff")
        queue.sync()
        monkeypatch.setattr(boot, "boot_id", lambda: "another")
        drain(queue, project).run()
        assert contents(project) == [b"1" * SMALL_BYTES, b"2" * 9]

    def test_that_were_synced_once_storing_them_had_failed_outlive_it_as_well(
        self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append_all(queue, project, "cff")
        storage = Storage()
        found = drain(queue, project, storage)
        storage.before = fails(of="data/")
        with pytest.raises(StorageFailed):
            found.run()
        queue.sync()
        monkeypatch.setattr(boot, "boot_id", lambda: "another")
        drain(queue, project).run()
        assert state(project).created.manifest is not None
        assert contents(project) == [b"1" * SMALL_BYTES, b"2" * 9]

    def test_that_are_shorter_than_they_were_are_left_out(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cf")
        (copy,) = (file.copy for file in queue.waiting()[1].staged.files)
        os.truncate(copy, 3)
        with pytest.warns(UserWarning, match="maybe before model of the experiment eeeeeee had reached its disk"):
            drain(queue, project).run()
        assert contents(project) == [None]


class TestClosing:
    def test_says_that_the_training_was_killed(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cpp")
        found = drain(queue, project)
        found.run()
        died_at = utc_now()
        found.close(died_at=died_at)
        ended = state(project).ended
        assert (ended.status, ended.created, ended.blocked_seconds) == ("killed", died_at, 2.0)
        assert not queue.directory.exists()

    def test_leaves_what_the_training_said(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cpe")
        found = drain(queue, project)
        found.run()
        found.close(died_at=utc_now())
        assert state(project).ended.status == "finished"

    def test_says_nothing_of_what_never_began(self, queue: Queue, project: Path) -> None:
        found = drain(queue, project)
        found.run()
        found.close(died_at=utc_now())
        assert found.repository.states() == {}
        assert not queue.directory.exists()

    def test_keeps_the_queue_if_the_last_word_can_not_be_said(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cp")
        storage = Storage()
        found = drain(queue, project, storage)
        found.run()

        def refuses(verb: str, key: str) -> None:
            raise StorageFailed("no")

        storage.before = refuses
        with pytest.raises(StorageFailed):
            found.close(died_at=utc_now())
        assert queue.directory.exists()


class TestOpening:
    def test_a_project_that_was_moved(self, project: Path) -> None:
        queue = new_queue(project)
        append_all(queue, project, "cf")
        queue.finish_appending()
        moved = project.parent / "moved"
        project.rename(moved)
        (queue,) = Spool(moved).queues()
        assert queue.take()
        open_queue(queue).repository.prepare()
        open_queue(queue).run()
        assert contents(moved) == [b"1" * SMALL_BYTES]
        queue.release()

    def test_what_is_said_of_it_is_damaged(self, queue: Queue) -> None:
        (queue.directory / "origin.json").write_bytes(b"{}")
        with pytest.raises(Corrupted):
            open_queue(queue)

    def test_its_storage_is_none(self, queue: Queue, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        origin = Origin(EXPERIMENT, "nosuch://x", str(project), "auto", 1, socket.gethostname())
        monkeypatch.setattr(Queue, "origin", lambda self: origin)
        with pytest.raises(InvalidInput, match="nosuch"):
            open_queue(queue)

    def test_it_is_gone(self, project: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            open_queue(Queue(project / ".replicate" / "spool" / "x-y"))


class TestDamage:
    def test_a_torn_line_hides_itself_alone(self, queue: Queue, project: Path) -> None:
        made = append_all(queue, project, "cppp")
        (journal,) = (queue.directory / "journal").iterdir()
        data = journal.read_bytes()
        journal.write_bytes(data.replace(made[1].encode(), b"X" * 32))
        with pytest.warns(UserWarning, match=r"[0-9]+ bytes of the journal .* can't be read: .* They are kept in "):
            drain(queue, project).run()
        assert [facts.id for facts in state(project).checkpoints] == [made[0], made[2]]
        assert queue.waiting() == []
        (kept,) = queue.kept_aside()
        assert b"X" * 32 in kept.read_bytes(), "nothing that was saved is ever thrown away without a word"
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_at_the_end_of_the_journal_is_kept_when_the_queue_is_removed(self, queue: Queue, project: Path) -> None:
        append_all(queue, project, "cpp")
        (journal,) = (queue.directory / "journal").iterdir()
        data = journal.read_bytes()
        journal.write_bytes(data[:-20] + b"#" * 19 + b"\n")
        queue.finish_appending()
        assert queue.take()
        with pytest.warns(UserWarning, match="can't be read"):
            drain(queue, project).upload_all()
        assert not queue.directory.exists()
        (kept,) = queue.kept_aside()
        assert kept.read_bytes().endswith(b"#" * 19 + b"\n")

    def test_half_a_line_is_not_there_yet(self, queue: Queue, project: Path) -> None:
        made = append_all(queue, project, "cpp")
        (journal,) = (queue.directory / "journal").iterdir()
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-10])
        found = drain(queue, project)
        found.run()
        assert [facts.id for facts in state(project).checkpoints] == made[:1]
        journal.write_bytes(whole)
        found.run()
        assert [facts.id for facts in state(project).checkpoints] == made
