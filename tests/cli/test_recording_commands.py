"""`replicate sync` and `replicate ps`: what became of what waits here, and what runs now; and other users' commands."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import replicate
from replicate_core.format import ids
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Ended
from replicate_core.machine import boot
from replicate_core.machine.files import Tree
from replicate_core.recording import launching
from replicate_core.repository.repository import utc_now
from replicate_core.spool import syncing, upload_queue
from replicate_core.spool.spool import Spool
from replicate_core.spool.upload_queue import Origin, Queue
from replicate_core.spool.uploading import open_queue
from replicate_core.workspace import Workspace

Cli = Callable[..., tuple[int, str, str]]

ONE, OTHER = "1" * 32, "2" * 32


class Killed:
    """What a training that was killed has left in the spool of a project.

    Args:
        project: its directory.
        experiment: its id.
        storage: where it was to be stored.
    """

    def __init__(self, project: Path, experiment: str = ONE, storage: str = "../storage") -> None:
        self.project = project
        origin = Origin(experiment, storage, str(project), "auto", os.getpid(), socket.gethostname())
        self.queue = Spool(project).begin(origin, ids.ulid(int(time.time() * 1000), os.urandom(ids.ULID_BYTES)))
        self.queue.append(Created(experiment, utc_now(), name=f"of {experiment[:3]}"))

    def save(self, step: int, *, model: bytes | None = None) -> str:
        facts = CheckpointFacts(f"{step:032x}", utc_now(), step, {"loss": 0.5}, path=None if model is None else "model")
        staged = None
        if model is not None:
            (self.project / "model").write_bytes(model)
            staged = self.queue.stage(Tree({"model": self.project / "model"}))
        self.queue.append(Checkpointed(self.queue.experiment, (facts,)), staged)
        return facts.id

    def leave(self) -> Killed:
        self.queue.finish_appending()
        return self


@pytest.fixture
def project(project: Path) -> Path:
    (project / "replicate.yaml").write_text("storage: ../storage\n")
    return project


class TestSync:
    def test_with_nothing_to_do_says_so(self, cli: Cli, project: Path) -> None:
        assert cli("sync") == (0, "Nothing is waiting: all that was saved here is stored.\n", "")

    def test_stores_what_waits_and_says_so(self, cli: Cli, project: Path) -> None:
        killed = Killed(project)
        killed.save(0, model=b"weights")
        killed.leave()
        Killed(project, OTHER).leave()
        assert cli("sync") == (0, "1111111  stored (2 jobs)\n2222222  stored (1 job)\n", "")
        assert [experiment.status for experiment in replicate.experiments.list()] == ["killed", "killed"]
        assert replicate.experiments.get(ONE).checkpoints[0].open().read() == b"weights"
        assert cli("sync")[1].startswith("Nothing is waiting")

    def test_of_an_experiment_that_had_ended_says_how_it_did(self, cli: Cli, project: Path) -> None:
        killed = Killed(project)
        killed.queue.append(Ended(ONE, utc_now(), "failed", "ValueError: nan"))
        killed.leave()
        assert cli("sync")[0] == 0
        (experiment,) = replicate.experiments.list()
        assert (experiment.status, experiment.error) == ("failed", "ValueError: nan")

    def test_leaves_what_runs_to_itself(self, cli: Cli, project: Path) -> None:
        running = Killed(project)
        running.save(0)
        line = "1111111  is running, and stores what it saves itself (2 jobs waiting)\n"
        assert cli("sync") == (0, line, "")
        assert len(running.queue.waiting()) == 2
        running.leave()

    def test_leaves_what_may_run_on_another_machine(
        self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed = Killed(project).leave()
        monkeypatch.setattr(upload_queue.socket, "gethostname", lambda: "another")
        assert "is running" in cli("sync")[1]
        for path in (killed.queue.directory / "owner", killed.queue.directory / "recorder"):
            os.utime(path, (1, 1))
        for path in killed.queue.directory.glob("journal/*"):
            os.utime(path, (1, 1))
        assert cli("sync")[1] == "1111111  stored (1 job)\n"

    def test_exits_with_3_where_something_stays_and_says_why(self, cli: Cli, project: Path) -> None:
        (project.parent / "file").touch()
        stays = Killed(project, storage="../file/\x1b[31mstorage").leave()
        Killed(project, OTHER).leave()
        code, out, err = cli("sync")
        first, second = sorted(out.splitlines())
        assert (code, err) == (3, "")
        assert first.startswith("1111111  not stored (1 job waiting): ")
        assert "\x1b" not in first
        assert second == "2222222  stored (1 job)", "the others are"
        assert len(stays.queue.waiting()) == 1
        assert cli("sync")[0] == 3

    def test_one_that_cannot_be_read_stays_and_the_others_are_stored(self, cli: Cli, project: Path) -> None:
        """A later version has been at work, say."""
        strange = Killed(project)
        strange.queue._journal.append({"record": {"kind": "of a later version", "experiment": ONE}})
        strange.leave()
        Killed(project, OTHER).leave()
        code, out, _ = cli("sync")
        assert "2222222  stored (1 job)" in out
        assert code != 0
        assert strange.queue.directory.is_dir()

    def test_tells_of_files_that_may_be_torn(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        killed = Killed(project)
        made = killed.save(0, model=b"weights")
        killed.leave()
        monkeypatch.setattr(boot, "boot_id", lambda: "another start of the machine")
        code, out, err = cli("sync")
        assert (code, out) == (0, "1111111  stored (2 jobs)\n")
        kept = project / ".replicate" / "spool" / f"torn-{killed.queue.directory.name}-1"
        assert err.startswith(
            "replicate: warning: the machine stopped, maybe before model of the experiment 1111111 had "
        )
        assert str(kept) in err.replace("\n", "")
        assert [path.read_bytes() for path in kept.iterdir()] == [b"weights"]
        (checkpoint,) = replicate.experiments.get(ONE).checkpoints
        assert (checkpoint.id, checkpoint.metrics, checkpoint.size_bytes) == (made, {"loss": 0.5}, 0)
        assert cli("sync") == (0, "Nothing is waiting: all that was saved here is stored.\n", "")
        assert kept.is_dir(), "it is for its owner to say what becomes of it"

    def test_waits_for_who_is_storing_already(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        killed = Killed(project).leave()
        code = (
            "import pathlib, sys, time\nfrom replicate_core.spool.uploading import open_queue\n"
            "from replicate_core.spool.spool import Queue\nqueue = Queue(pathlib.Path(sys.argv[1]))\n"
            "print(queue.take(), flush=True)\nsys.stdin.readline()\nopen_queue(queue).upload_all()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(killed.queue.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(replicate.__file__).parents[1])},
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"

            def sleep(seconds: float) -> None:
                if not other.stdin.closed:  # it was seen at work: now it may go on
                    other.stdin.close()
                time.sleep(seconds)

            monkeypatch.setattr(syncing, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
            assert cli("sync") == (0, "1111111  stored (1 job)\n", "")
        assert replicate.experiments.get(ONE).status == "killed"

    def test_in_a_terminal_shows_how_far_it_is(self, project: Path) -> None:
        killed = Killed(project)
        for step in range(30):
            killed.save(step, model=b"%d" % step)
        killed.leave()
        reader, writer = pty.openpty()
        done = subprocess.Popen(
            [sys.executable, "-m", "replicate", "-D", str(project), "sync"],
            stdout=subprocess.PIPE,
            stderr=writer,
            env={**os.environ, "PYTHONPATH": str(Path(replicate.__file__).parents[1]), "TERM": "xterm"},
        )
        os.close(writer)
        shown = b""
        try:
            while select.select([reader], [], [], 30)[0] and (data := os.read(reader, 4096)):
                shown += data
        except OSError:  # Linux: the other side is closed
            pass
        finally:
            os.close(reader)
        out, _ = done.communicate(timeout=120)
        assert (done.returncode, out) == (0, b"1111111  stored (31 jobs)\n")
        assert b"storing" in shown
        assert b"31/31" in shown


class TestPs:
    def test_with_nothing_to_show_says_so(self, cli: Cli, project: Path) -> None:
        with replicate.init(path=None):
            pass
        assert cli("ps") == (0, "No experiments are running. `replicate ls` shows those that have ended.\n", "")
        assert cli("ps", "--json") == (0, "[]\n", "")
        assert cli("ps", "-q") == (0, "", "")

    @pytest.fixture
    def running(self, project: Path) -> Iterator[replicate.Experiment]:
        with replicate.init({"lr": 0.1}, path=None, name="ended"):
            pass
        experiment = replicate.init({"lr": 0.1}, path=None, name="at it")
        experiment.checkpoint(None, {"loss": 0.25}, ("loss", "minimize"), step=7)
        experiment.refresh()
        yield experiment
        experiment.stop()

    def test_shows_what_runs_and_when_it_was_last_heard_of(self, cli: Cli, running: replicate.Experiment) -> None:
        code, out, err = cli("ps")
        heading, line = out.splitlines()
        assert (code, err) == (0, "")
        for column in ("EXPERIMENT", "NAME", "STARTED", "HOST", "LAST SIGN OF LIFE", "LATEST CHECKPOINT"):
            assert column in heading
        assert line.startswith(running.short_id)
        for cell in ("at it", socket.gethostname(), "ago", "(step 7) loss=0.25"):
            assert cell in line
        assert "ended" not in out

    def test_shows_how_many_checkpoints_wait(self, cli: Cli, project: Path) -> None:
        running = Killed(project)
        for step in range(3):
            running.save(step)
        _, out, _ = cli("ps")
        assert out.splitlines()[0].count("WAITING") == 1
        assert "  3  " in out.splitlines()[1]
        assert "LAST SIGN OF LIFE" not in out, "it gave none yet"
        running.leave()

    def test_json_is_for_programs(self, cli: Cli, running: replicate.Experiment) -> None:
        code, out, err = cli("ps", "--json")
        (found,) = json.loads(out)
        assert (code, err) == (0, "")
        assert (found["id"], found["name"], found["status"]) == (running.id, "at it", "running")
        assert (found["waiting"], found["heartbeat"]) == (0, running.heartbeat.isoformat())
        assert found["latest_checkpoint"]["metrics"] == {"loss": 0.25}

    def test_quiet_prints_whole_ids(self, cli: Cli, running: replicate.Experiment) -> None:
        assert cli("ps", "--quiet") == (0, f"{running.id}\n", "")
        assert cli("ps", "-q")[1] == f"{running.id}\n"

    def test_an_experiment_that_was_killed_does_not_run(self, cli: Cli, project: Path) -> None:
        Killed(project).leave()
        assert cli("ps")[1].startswith("No experiments are running")


AS_NOBODY = """
import contextlib, io, os, sys
from replicate.cli import run
with contextlib.redirect_stdout(io.StringIO()):
    for warm_up in (["ls"], ["ps"], ["sync"], ["show", "2"], ["checkout", "-f", "-o", "../out", "2"]):
        assert run(["-D", "../other", *warm_up]) == 0  # what is imported on the way may not be readable for all
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
os.environ["HOME"] = "/nonexistent"
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
class TestAnotherUser:
    """May read the storage, and nothing of the spool; is told so in words, and soon."""

    @pytest.fixture
    def project(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Where everybody may write; `tmp_path` is its owner's alone."""
        directory = Path(tempfile.mkdtemp(prefix="replicate-tests-")).resolve()
        directory.chmod(0o777)
        for name in ("other", "project"):
            (directory / name).mkdir()
            (directory / name / "replicate.yaml").write_text(f"storage: ../storage-of-{name}\n")
        monkeypatch.chdir(directory / "other")
        other = Killed(directory / "other", OTHER, "../storage-of-other")
        other.save(1, model=b"other")
        drain(other.leave().queue)
        monkeypatch.chdir(directory / "project")
        yield directory / "project"
        shutil.rmtree(directory)

    @pytest.fixture
    def running(self, project: Path) -> Iterator[Killed]:
        """An experiment of which one checkpoint is stored, and one is not; somebody is about to store it."""
        found = Killed(project, storage="../storage-of-project")
        found.save(1, model=b"first")
        drain(found.queue)
        found.save(2, model=b"second")
        assert found.queue.take()
        yield found
        found.queue.release()
        found.leave()

    def call(self, *arguments: str) -> tuple[int, str, str]:
        # What measures coverage wants to write where only root may.
        without_coverage = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**without_coverage, "PYTHONPATH": str(Path(replicate.__file__).parents[1])},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def test_lists_what_is_stored(self, running: Killed) -> None:
        code, out, err = self.call("ls", "--json")
        (found,) = json.loads(out)
        assert (code, err) == (0, "")
        assert (found["id"], found["status"]) == (ONE, "running")
        code, out, _ = self.call("ls")
        assert (code, ONE[:7] in out) == (0, True)
        assert self.call("ps", "-q") == (0, f"{ONE}\n", "")

    def test_gets_what_is_stored(self, running: Killed, project: Path) -> None:
        code, _, err = self.call("checkout", "-o", "../checked-out", ONE)
        assert (code, err) == (0, "")
        assert (project.parent / "checked-out" / "model").read_bytes() == b"first"

    def test_does_not_get_what_is_not(self, running: Killed) -> None:
        code, out, err = self.call("checkout", "-o", "../checked-out", f"{2:032x}")
        assert (code, out) == (1, "")
        assert err.startswith("replicate: ")

    def test_is_not_held_up_by_what_he_sees_waiting_and_touches_nothing_of_it(
        self, running: Killed, project: Path
    ) -> None:
        """The spool of an earlier version, or of somebody who opened it to others."""
        running.queue.directory.parent.chmod(0o755)
        running.queue.directory.chmod(0o755)
        running.queue.release()
        (path,) = running.queue.directory.glob("files/*")
        for directory in (running.queue.directory / "files", path):
            directory.chmod(0o755)
        code, _, err = self.call("checkout", "-o", "../checked-out", ONE)
        assert (code, err) == (0, "")
        assert (project.parent / "checked-out" / "model").read_bytes() == b"first"
        assert len(running.queue.waiting()) == 1

    @pytest.mark.parametrize("mode", [0o700, 0o755])
    def test_syncs_nothing(self, running: Killed, mode: int) -> None:
        """A queue is its owner's to store, and is named where it can be seen."""
        running.queue.directory.parent.chmod(mode)
        running.queue.directory.chmod(mode)
        running.queue.release()
        running.queue.finish_appending()
        code, out, err = self.call("sync")
        assert (code, err) == (0, "")
        if mode == 0o755:
            assert out.startswith(
                f"{ONE[:7]}  is left alone: {running.queue.directory.parent} belongs to the user root. "
            )
        else:
            assert out.startswith("Nothing is waiting")
        assert len(running.queue.waiting()) == 1


def drain(queue: Queue) -> None:
    """Store what waits."""
    assert queue.take()
    open_queue(queue).upload_all()
    queue.release()


class TestWhatSomebodyElsePutIntoTheSpool:
    """A cloned project may bring a queue: it says what to read, where to send it, and what to tell the driver."""

    @pytest.fixture
    def planted(self, project: Path) -> Path:
        """A queue as an earlier version left it, or as git checks one out: it has no proof."""
        killed = Killed(project)
        killed.save(1, model=b"model")
        killed.leave()
        clone = project.parent / "clone"
        shutil.copytree(project, clone)
        (clone / "replicate.yaml").write_text("storage: ../storage\n")
        (queue,) = (clone / ".replicate/spool").glob("*-*")
        (queue / "proof").unlink()
        return queue

    def test_is_named_and_left_alone(self, cli: Cli, planted: Path, project: Path) -> None:
        clone = str(planted.parents[2])
        code, out, _ = cli("-D", clone, "sync")
        assert code == 3
        assert f"{planted} is left alone: an earlier version of replicate has left it, or somebody" in out
        assert f"`replicate sync --accept {planted.name}`" in out
        assert f"Left alone: {planted}: " in cli("-D", clone, "status")[1].replace("\n", " ")
        (left,) = json.loads(cli("-D", clone, "status", "--json")[1])["left_alone"]
        assert left["directory"] == str(planted)
        assert not (project.parent / "storage").exists()
        assert (planted / "files/1/small").read_bytes() == b"model"

    def test_is_stored_once_the_user_has_seen_what_it_is_and_says_so(
        self, cli: Cli, planted: Path, project: Path
    ) -> None:
        code, out, _ = cli("-D", str(planted.parents[2]), "sync", "--accept", planted.name[:8], "--yes")
        assert code == 0
        for shown in (
            "Experiment  1111111 of",
            "Waiting     2 jobs, 5 B",
            "Files       model",
            "Storage     ../storage",
        ):
            assert shown in out
        assert "1111111  stored (2 jobs)" in out
        assert not planted.exists()
        assert (project.parent / "storage").is_dir()

    def test_is_not_accepted_where_nobody_says_yes(
        self, cli: Cli, planted: Path, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("click.confirm", lambda _question: False)
        code, out, _ = cli("-D", str(planted.parents[2]), "sync", "--accept", planted.name)
        assert (code, "stored (" in out) == (1, False)
        assert planted.is_dir()
        assert not (project.parent / "storage").exists()

    def test_is_not_accepted_with_a_link_in_it(self, cli: Cli, planted: Path, project: Path) -> None:
        (planted / "files/1/small").unlink()
        (planted / "files/1/small").symlink_to("/etc/passwd")
        code, _, err = cli("-D", str(planted.parents[2]), "sync", "--accept", planted.name, "--yes")
        assert code == 2
        assert "small is not part of a queue: those are files and directories of this user" in err
        assert not (project.parent / "storage").exists()

    def test_a_name_that_is_none_says_which_there_are(self, cli: Cli, planted: Path) -> None:
        code, _, err = cli("-D", str(planted.parents[2]), "sync", "--accept", "nothing")
        assert code == 1
        assert planted.name in err

    def test_what_is_kept_aside_is_shown(self, cli: Cli, project: Path) -> None:
        killed = Killed(project)
        kept = killed.queue.directory.parent / f"torn-{killed.queue.directory.name}-1"
        kept.mkdir()
        killed.leave()
        assert json.loads(cli("status", "--json")[1])["kept_aside"] == [str(kept)]
        assert "KEPT ASIDE" in cli("status")[1]

    def test_is_told_once_when_the_next_experiment_begins(self, planted: Path, project: Path) -> None:
        place = Workspace(directory=planted.parents[2]).spool
        with pytest.warns(UserWarning, match=f"{planted} is left alone: .* `replicate sync --accept {planted.name}`"):
            launching.start_for_abandoned(place, planted.parents[2])
        launching.start_for_abandoned(place, planted.parents[2])
        assert not (project.parent / "storage").exists()
