"""What lies in a spool is stored only if this user has saved it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from spooled import BEGINNING, EXPERIMENT, Queues, Start, append, checkpointed

from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.format import record_codec
from replicate_core.spool import upload_queue
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Origin, Queue


class TestWhoseItIs:
    """What lies in a spool is stored by anybody who finds it: so it must be what this user has saved."""

    def copied(self, queue: Queue, tmp_path: Path) -> Queue:
        """The queue as an archive brings it to another user, with all that it says of itself."""
        spool = tmp_path / "elsewhere" / ".replicate" / "spool"
        shutil.copytree(queue.directory, spool / queue.directory.name)
        return Queue(spool / queue.directory.name)

    def test_the_spool_is_private(self, queue: Queue) -> None:
        assert queue.directory.parent.stat().st_mode & 0o777 == 0o700

    def test_a_queue_is_known_to_other_processes_of_this_user(self, queues: Queues, another_process: Start) -> None:
        another_process(BEGINNING, queues.project, "a")
        assert [found.experiment for found in queues.spool.queues()] == ["a" * 32]
        assert queues.spool.strangers() == []

    def test_a_copy_is_known_by_the_key_of_this_user(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = self.copied(queue, tmp_path)
        assert copy.distrust() is None
        monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "another home"))
        assert copy.distrust() is not None

    def test_an_origin_that_was_changed_is_not_believed(self, queue: Queue, tmp_path: Path) -> None:
        copy = self.copied(queue, tmp_path)
        origin = copy.directory / "origin.json"
        document = json.loads(origin.read_bytes())["document"] | {"storage": "ftp://example.org/loot"}
        origin.write_bytes(upload_queue.seal(document))
        spool = Spool(tmp_path / "elsewhere")
        assert spool.queues() == []
        (stranger,) = spool.strangers()
        assert (stranger.queue.directory, stranger.is_own) == (copy.directory, True)

    @pytest.mark.parametrize("what", ["queue", "spool"])
    def test_a_directory_that_others_may_write_to_is_not_believed(
        self, queue: Queue, tmp_path: Path, what: str
    ) -> None:
        copy = self.copied(queue, tmp_path)
        opened = copy.directory if what == "queue" else copy.directory.parent
        opened.chmod(0o770)
        assert Spool(tmp_path / "elsewhere").queues() == []
        (stranger,) = Spool(tmp_path / "elsewhere").strangers()
        assert stranger.why == f"other users may write to {opened}"

    def test_of_what_processes_have_left_only_that_is_removed_which_has_our_names(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, tmp_path / "shared")
        ours = [f".scratch-{'0' * 16}", ".new-01ABC-" + "a" * 32, ".scratch-01ABC-" + "a" * 32]
        theirs = [".scratch-notes", ".new-thesis", "work"]
        for name in (*ours, *theirs):
            (spool.directory / name).mkdir(parents=True)
            os.utime(spool.directory / name, (1, 1))
        with spool.scratch():
            assert sorted(name for name in os.listdir(spool.directory) if name in {*ours, *theirs}) == sorted(theirs)

    def test_a_link_to_a_queue_is_none(self, queue: Queue, tmp_path: Path) -> None:
        (tmp_path / "elsewhere/.replicate/spool").mkdir(parents=True, mode=0o700)
        (tmp_path / "elsewhere/.replicate/spool" / queue.directory.name).symlink_to(queue.directory)
        assert Spool(tmp_path / "elsewhere").queues() == []
        (stranger,) = Spool(tmp_path / "elsewhere").strangers()
        assert not stranger.is_own
        with pytest.raises(InvalidInput, match="is not a directory"):
            Spool(tmp_path / "elsewhere").accept(stranger)

    def test_what_an_earlier_version_left_is_accepted_once_the_user_says_so(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = self.copied(queue, tmp_path)
        (copy.directory / "proof").unlink()
        spool = Spool(tmp_path / "elsewhere")
        (stranger,) = spool.strangers()
        assert stranger.why.startswith("an earlier version of replicate has left it")
        assert spool.accept(stranger).directory == copy.directory
        monkeypatch.setattr(upload_queue, "_trusted", set())  # another process
        assert [found.directory for found in spool.queues()] == [copy.directory]
        assert spool.strangers() == []

    def test_what_an_earlier_version_is_at_is_no_stranger(self, project: Path, another_process: Start) -> None:
        process = another_process(BEGINNING, project, "a")
        (queue,) = Spool(project).queues()
        (queue.directory / "proof").unlink()
        assert Spool(project).queues() == Spool(project).strangers() == []
        process.kill()
        process.wait()
        assert [found.queue.directory for found in Spool(project).strangers()] == [queue.directory]

    def test_a_spool_that_others_may_write_to_is_closed_to_them(self, queues: Queues) -> None:
        """As earlier versions made it, where the group may write to what a user makes."""
        queues.spool.directory.mkdir(parents=True)
        queues.spool.directory.chmod(0o775)
        queues.begin()
        assert queues.spool.directory.stat().st_mode & 0o777 == 0o755

    def test_another_user_has_a_spool_beside_it(
        self, open_directory: Path, as_nobody: Callable[[], AbstractContextManager[None]]
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root becomes another user")
        (open_directory / ".replicate").mkdir()
        (open_directory / ".replicate").chmod(0o777)
        first = Spool(open_directory)
        first.begin(
            Origin(EXPERIMENT, "storage", str(open_directory), "auto", 1, socket.gethostname()), "01A"
        ).finish_appending()
        with as_nobody():
            second = Spool(open_directory)
            origin = Origin("a" * 32, "storage", str(open_directory), "auto", 1, socket.gethostname())
            queue = second.begin(origin, "01B")
            assert queue.directory.parent.name == f"spool-{os.geteuid()}"
            assert queue.project(origin) == open_directory
            assert [found.experiment for found in second.queues()] == ["a" * 32]
            queue.finish_appending()
        assert [found.experiment for found in first.queues()] == [EXPERIMENT]

    @pytest.mark.parametrize("name", ["/etc", "../../secret", "1/..", "", "."])
    def test_a_line_of_the_journal_names_no_directory_outside_of_the_queue(self, queue: Queue, name: str) -> None:
        staged = {"files": [["a", 0o644, "0", 0, 1]], "links": {}, "directories": []}
        record = record_codec.encode(checkpointed(1))
        queue._journal.append({"record": record, "blocked_seconds": 0.0, "staged": staged, "files": name})
        with pytest.raises(Corrupted, match="would lie outside of the queue"):
            queue.jobs()

    def test_a_copy_that_is_a_link_is_kept_aside_and_not_followed(self, queue: Queue, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"12345")
        job = append(queue, 1, model=b"model")
        copy = queue.directory / "files/1/small"
        copy.unlink()
        copy.symlink_to(tmp_path / "secret")
        assert queue.copy_of(job, "model") is None
        with pytest.warns(UserWarning, match="the files are not stored, and are kept in"):
            assert queue.claim(job) is None
        (kept,) = queue.kept_aside()
        assert kept.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "secret").read_bytes() == b"12345"

    def test_a_link_in_place_of_the_gitignore_is_not_written_through(self, queues: Queues, tmp_path: Path) -> None:
        (queues.project / ".replicate").mkdir()
        (queues.project / ".replicate/.gitignore").symlink_to(tmp_path / "elsewhere")
        queues.begin()
        assert not (tmp_path / "elsewhere").exists()
