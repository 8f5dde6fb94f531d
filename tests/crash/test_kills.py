"""Killed at any moment: what `checkpoint()` has returned for is there once, and whole; so is whatever else is listed.

Real trainings (`training.py`) and their recorders are killed with SIGKILL: at every step of recording and of storing,
told by name (`killing/sitecustomize.py`), and at random moments. How many were killed is counted from exit statuses.

REPLICATE_KILLS: how many random kills to do at least, 12 if unset; from 300 on, every pair of steps is tried, too.
REPLICATE_KILLS_SEED: repeats the random moments, as far as processes can be repeated.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from kit import until

import replicate
from replicate_core.spool.spool import Spool
from replicate_core.workspace import Workspace

HERE = Path(__file__).parent
TASKS = Path("/proc/self/task")

pytestmark = pytest.mark.skipif(
    not (TASKS / str(os.getpid()) / "children").exists(),
    reason="only Linux tells how the child of a process that is gone has ended",
)

SECONDS_MAX = 90
"""Whatever takes longer hangs."""

KILLS = int(os.environ.get("REPLICATE_KILLS", "12"))
IS_LONG = KILLS >= 300
BATCHES = 8 if IS_LONG else 2

STARTS = 5
"""So often a recorder is started."""

CODE = {"model.py": b"layers = 3\n", "data/prepare.py": b"print('prepared')\n", "large.csv": bytes(400_000)}

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Kill:
    """A step at which a process is killed."""

    role: str
    """training, recorder, abandoned (a recorder that the next training starts), or taking up."""
    step: str
    """A function, `module:Class.method`; or the name of an audit event, which comes before what it tells of."""
    when: str = "before"
    """before or after the function, or half: for `os.write`, which writes only half then."""
    match: str = ""
    """Found in the arguments that are texts or paths."""
    let_pass: int = 0
    """So often the step is passed unharmed, in each process."""
    times: int = 1
    """So many processes are killed there."""
    victim: str = ""
    """`recorder`: that one is killed when the training comes to the step, and not the training."""


Step = tuple[str, str, str]
"""Step, when and match of a `Kill`."""


def before(step: str, match: str = "") -> Step:
    return step, "before", match


def after(step: str, match: str = "") -> Step:
    return step, "after", match


BEGINNING: dict[str, Step] = {
    "before there is a queue": before("replicate_core.spool.spool:Spool.begin"),
    "half a queue": before("os.rename", r"/\.new-"),
    "a queue": after("replicate_core.spool.spool:Spool.begin"),
    "the recorder started": after("replicate_core.recording.launching:start"),
    "a file of the code copied": after("replicate_core.machine.staging:read_steadily"),
    "the code copied": before("replicate_core.recording.launching:ChildRecorder.wait_until_ready"),
    "before the job of the experiment": before("replicate_core.spool.journal:Journal.append"),
}
"""Of the training, before there is an experiment."""

RECORDING: dict[str, Step] = {
    "the copies have a directory": before("replicate_core.machine.staging:stage", "/files/"),
    "room for a large copy": after("replicate_core.machine.steady:preallocate"),
    "a large file copied": after("replicate_core.machine.staging:copy_steadily"),
    "a small file read": after("replicate_core.machine.staging:read_steadily"),
    "all copied": after("replicate_core.spool.upload_queue:Queue.stage"),
    "before the job": before("replicate_core.spool.journal:Journal.append"),
    "half a job": ("os:write", "half", ""),
    "after the job": after("replicate_core.spool.journal:Journal.append"),
    "the storing looked after": after("replicate_core.recording.launching:ChildRecorder.ensure_running"),
}
"""Of the training, at each checkpoint; some of them at the beginning, too."""

STOPPING: dict[str, Step] = {
    "before the end is recorded": before("replicate_core.recording.recording:Recording.end"),
    "the end is recorded": before("replicate_core.spool.upload_queue:Queue.finish_appending"),
    "waiting for the rest": before("replicate_core.recording.recording:Recording._wait_until_stored"),
}

STORING: dict[str, Step] = {
    "before a job is claimed": before("replicate_core.spool.upload_queue:Queue.claim"),
    "a job claimed": after("replicate_core.spool.upload_queue:Queue.claim"),
    "files cut": before("replicate_core.repository.chunk_index:ChunkIndex.refresh"),
    "before an object": before("replicate_core.storage.local:LocalStore.put_file"),
    "an object not in place": after("replicate_core.storage.local:sync"),
    "between link and name": before("os.rename", r"/data/../"),
    "an object stored": after("replicate_core.storage.local:LocalStore.put_file"),
    "before the manifest": before("replicate_core.storage.local:LocalStore.put", "^manifests/"),
    "a manifest not in place": before("os.rename", "/manifests/"),
    "between manifest and record": after("replicate_core.storage.local:LocalStore.put", "^manifests/"),
    "before the record": before("replicate_core.storage.local:LocalStore.put", "^records/.*-checkpoints"),
    "a record not in place": before("os.rename", r"/records/.*-checkpoints"),
    "after the record": after("replicate_core.storage.local:LocalStore.put", "^records/.*-checkpoints"),
    "before it is done": before("replicate_core.spool.upload_queue:Queue.finish"),
    "half done": before("os.rename", r"/state\.json"),
    "done, copies left": before("replicate_core.spool.journal:Journal.forget"),
    "done, spares to keep": before("replicate_core.spool.upload_queue:Queue._keep_spares"),
    "copies being removed": before("shutil.rmtree", r"\.taken"),
    "done": after("replicate_core.spool.upload_queue:Queue.finish"),
}
"""Of who stores, at each checkpoint."""

CLOSING: dict[str, Step] = {
    "before closing": before("replicate_core.spool.uploading:Uploader.close"),
    "before the end is stored": before("replicate_core.storage.local:LocalStore.put", "-ended"),
    "the end is stored": after("replicate_core.storage.local:LocalStore.put", "-ended"),
    "before the signs of life stop": before("replicate_core.repository.heartbeats:stop"),
    "the signs of life have stopped": after("replicate_core.repository.heartbeats:stop"),
    "before the queue goes": before("os.rename", r"/\.scratch-"),
}
"""Of who stores, at the end, when the queue is still there after it."""

GONE: dict[str, Step] = {
    "the queue is half gone": before("shutil.rmtree", r"/\.scratch-"),
    "the queue is gone": after("replicate_core.spool.upload_queue:Queue.remove"),
}

OPENING: dict[str, Step] = {
    "before anything": before("replicate_core.spool.recorder:main"),
    "the queue taken": after("replicate_core.spool.upload_queue:Queue.take"),
    "before the storage is prepared": before("replicate_core.repository.repository:Repository.prepare"),
    "the storage half prepared": before("os.rename", r"/replicate\.json"),
    "the storage prepared": after("replicate_core.repository.repository:Repository.prepare"),
}
"""Of a recorder, before it is ready: `init()` has not returned."""


@dataclass
class Case:
    """A project whose processes are killed."""

    directory: Path
    project: Path = field(init=False)
    runs: list[str] = field(default_factory=list)
    ended: list[tuple[str, int | None]] = field(default_factory=list)
    """Role and exit status of each process; None if nobody could ask. Signals are negative."""
    statuses: dict[str, int] = field(default_factory=dict)
    """The exit statuses of the trainings."""

    def __post_init__(self) -> None:
        self._others = children()
        self._counted: set[int] = set()
        self.project = self.directory / "project"
        for path, data in CODE.items():
            (self.project / path).parent.mkdir(parents=True, exist_ok=True)
            (self.project / path).write_bytes(data)
        (self.directory / "plan").mkdir()
        self.plan()

    def plan(self, *kills: Kill, slow_seconds: float = 0.0) -> None:
        """Say where to kill from now on."""
        for old in (self.directory / "plan").glob("killed-*"):
            old.unlink()
        plan = {"kills": [asdict(kill) for kill in kills], "slow_seconds": slow_seconds}
        (self.directory / "plan" / "plan.json").write_text(json.dumps(plan))

    @property
    def kills_at_points(self) -> int:
        """How many processes came to where they were to be killed, by the last plan."""
        return len(list((self.directory / "plan").glob("killed-*")))

    def kills(self, role: str | None = None) -> int:
        """How many processes were killed, by their exit statuses."""
        return sum(status == -signal.SIGKILL for found, status in self.ended if role in (None, found))

    def start(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        with open(self.directory / "errors.txt", "ab") as errors:
            return subprocess.Popen(
                [sys.executable, str(HERE / program), *map(str, arguments)],
                cwd=self.project,
                env={**os.environ, "PYTHONPATH": str(HERE / "killing"), "KILL_PLAN": str(self.directory / "plan")},
                stdout=errors,
                stderr=errors,
            )

    def start_training(self, *, steps: int = 10, pause_seconds: float = 0.0) -> subprocess.Popen[bytes]:
        run = f"run-{len(self.runs)}"
        self.runs.append(run)
        return self.start("training.py", self.directory / run, run, steps, pause_seconds)

    def train(self, *, steps: int = 10) -> int:
        """Train until the end, whatever that is, and until no recorder lives; returns the exit status."""
        return self.wait(self.start_training(steps=steps))

    def wait(self, training: subprocess.Popen[bytes]) -> int:
        """Wait for the last training, and for its recorders, which outlive it."""
        try:
            status = training.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            training.kill()
            training.wait()
            raise
        self.statuses[self.runs[-1]] = status
        self.ended.append(("training", status))
        self._wait_for_orphans()
        return status

    def take_up(self, *, times_max: int = 60) -> None:
        """Store what is left in the spool, in processes of which any may be killed, until nothing is left."""
        for _ in range(times_max):
            self.ended.append(("taking up", self.start("taking_up.py", self.project).wait(SECONDS_MAX)))
            if self.ended[-1][1] == 0:
                return
        pytest.fail(f"what is left was not taken up within {times_max} times: {self.ended}")

    def processes(self, role: str) -> list[int]:
        """Those that were started, oldest first."""
        return [pid for found, pid in _lines(self.directory / "plan" / "processes.jsonl") if found == role]

    def told(self, run: str, event: str) -> list[dict]:
        """What a training has told."""
        return [told for told in _lines(self.directory / run) if told["event"] == event]

    def warnings(self) -> list[str]:
        """What the trainings have warned of."""
        return [told["text"] for run in self.runs for told in self.told(run, "warned")]

    def _wait_for_orphans(self) -> None:
        """Wait for what a training has left: that are children of this process now."""
        found: dict[int, int] = {}
        deadline = time.monotonic() + SECONDS_MAX
        while orphans := children() - self._others:
            assert time.monotonic() < deadline, f"a recorder does not end: {orphans}"
            for pid, status in (os.waitpid(orphan, os.WNOHANG) for orphan in orphans):
                found |= {pid: status} if pid else {}
            time.sleep(0.01)
        found |= dict(_lines(self.directory / "plan" / "ends.jsonl"))
        for role in ("recorder", "abandoned"):
            for pid in set(self.processes(role)) - self._counted:
                self._counted.add(pid)
                self.ended.append((role, os.waitstatus_to_exitcode(found[pid]) if pid in found else None))


def _lines(path: Path) -> list:
    """The lines of a file, as far as they are whole."""
    with suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return []


def children() -> set[int]:
    """The children of this process, those that have ended and were not asked yet among them."""
    found: set[int] = set()
    for task in TASKS.iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.fixture(autouse=True)
def orphans_come_here() -> Iterator[None]:
    """Recorders whose training was killed become children of this process, which so learns how they end."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def case(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[Case]:
    """A fresh project; what was killed is counted, and what was stored is removed."""
    case = Case(tmp_path)
    yield case
    count(case, record_property)
    shutil.rmtree(case.project)


def count(case: Case, record_property: Callable[[str, object], None]) -> None:
    """Hand on what was killed."""
    record_property("kills", dict(Counter(role for role, status in case.ended if status == -signal.SIGKILL)))


# What must hold.


def check(case: Case) -> None:
    """What was told to be safe is there, once, whole; so is whatever else is listed; nothing is left over."""
    check_listed(case)
    project = replicate.Project(directory=case.project)
    report = project.verify(deep=True)
    assert report.damages == ()
    assert Spool(case.project).queues() == []
    for experiment in project.experiments.list():
        run = experiment.params["run"]
        assert experiment.status in _statuses(case, run), run
        assert experiment.heartbeat is None
        assert all(checkpoint.is_stored for checkpoint in experiment.checkpoints)
        target = case.directory / "checked-out" / run
        for checkpoint in [*experiment.checkpoints[-1:], *experiment.checkpoints[2:3]]:
            checkpoint.checkout(target, what="code")
            if checkpoint.has_files:
                checkpoint.checkout(target, what="files")
        for path, data in CODE.items() if len(experiment.checkpoints) else ():
            assert (target / path).read_bytes() == data
    keys = [entry.key for entry in Workspace(directory=project.directory).store.list("")]
    assert not [key for key in keys if ".tmp" in key]


def check_listed(case: Case) -> None:
    """The same of what is listed, whether it is stored yet or waits."""
    listed = list(replicate.Project(directory=case.project).experiments.list())
    by_run = {experiment.params["run"]: experiment for experiment in listed}
    assert len(by_run) == len(listed), "an experiment is there twice"
    assert [run for run in case.runs if run in by_run] == list(by_run)
    for run in case.runs:
        begun = [told["experiment"] for told in case.told(run, "begun")]
        if run not in by_run:
            assert not begun, f"{run} is lost"
            continue
        experiment = by_run[run]
        assert begun in ([], [experiment.id])
        assert not experiment.is_running()
        check_checkpoints(case, run, experiment)


def check_checkpoints(case: Case, run: str, experiment: replicate.Experiment) -> None:
    """What was told to be safe, and at most one more, in the order in which it was made."""
    saved = [(told["step"], told["checkpoint"]) for told in case.told(run, "saved")]
    found = [(checkpoint.step, checkpoint.id) for checkpoint in experiment.checkpoints]
    assert found[: len(saved)] == saved
    assert len(found) - len(saved) in (0, 1)
    wanted = {told["step"]: told for told in case.told(run, "saves")}
    for checkpoint in experiment.checkpoints:
        told = wanted[checkpoint.step]
        assert checkpoint.path == told["path"]
        assert checkpoint.metrics == {"loss": 1 / (1 + checkpoint.step)}
        assert {path: _digest(checkpoint, path) for path in checkpoint.files} == told["files"], checkpoint.step


def _digest(checkpoint: replicate.Checkpoint, path: str) -> str:
    with checkpoint.open(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _statuses(case: Case, run: str) -> set[str]:
    """What the status of a training may be."""
    if case.statuses[run] == 0 or case.told(run, "stopped"):
        return {"finished"}
    assert case.statuses[run] == -signal.SIGKILL, "it was killed, and nothing else"
    return {"finished", "killed"} if case.told(run, "stops") else {"killed"}


# Killed at every step.


def passing(steps: dict[str, Step], let_pass: int) -> dict[str, tuple[Step, int]]:
    return {f"{name}, {let_pass} passed": (step, let_pass) for name, step in steps.items()}


TRAINING = passing(BEGINNING | RECORDING | STOPPING, 0) | passing(RECORDING, 3)


@pytest.mark.parametrize(("step", "let_pass"), TRAINING.values(), ids=TRAINING)
def test_the_training_is_killed(case: Case, step: Step, let_pass: int) -> None:
    case.plan(Kill("training", *step, let_pass))
    assert case.train() == -signal.SIGKILL
    assert case.kills() == 1
    if not case.processes("recorder"):
        case.take_up()
    check(case)


def test_an_end_that_was_recorded_is_no_kill(case: Case) -> None:
    case.plan(Kill("training", *STOPPING["the end is recorded"]))
    case.train()
    check(case)
    (experiment,) = replicate.Project(directory=case.project).experiments.list()
    assert experiment.status == "finished"


STORAGE_STEPS = list((STORING | CLOSING).items())
GROUPS = [STORAGE_STEPS[start : start + STARTS - 1] for start in range(0, len(STORAGE_STEPS), STARTS - 1)]


@pytest.mark.parametrize("group", GROUPS, ids=[" + ".join(name for name, _ in group) for group in GROUPS])
def test_the_recorder_is_killed_again_and_again_while_training_goes_on(
    case: Case, group: Sequence[tuple[str, Step]]
) -> None:
    let_pass = dict.fromkeys(STORING, 1)
    case.plan(*(Kill("recorder", *step, let_pass.get(name, 0)) for name, step in group))
    assert case.train(steps=14) == 0
    assert case.kills("recorder") == len(group)
    assert len(case.warnings()) == 1
    assert "nothing is lost" in case.warnings()[0]
    check(case)


@pytest.mark.parametrize("step", GONE.values(), ids=GONE)
def test_the_recorder_is_killed_when_all_is_stored(case: Case, step: Step) -> None:
    case.plan(Kill("recorder", *step))
    assert case.train() == 0
    assert case.kills("recorder") == 1
    assert case.warnings() == []
    check(case)


@pytest.mark.parametrize("step", OPENING.values(), ids=OPENING)
def test_the_recorder_is_killed_before_there_is_an_experiment(case: Case, step: Step) -> None:
    case.plan(Kill("recorder", *step))
    assert case.train() == 1
    assert case.kills("recorder") == 1
    assert b"StorageFailed" in (case.directory / "errors.txt").read_bytes()
    assert list(replicate.Project(directory=case.project).experiments.list()) == []
    assert Spool(case.project).queues() == []


@pytest.mark.parametrize("step", OPENING.values(), ids=OPENING)
def test_both_are_killed_before_there_is_an_experiment(case: Case, step: Step) -> None:
    case.plan(Kill("training", *BEGINNING["the code copied"]), Kill("recorder", *step, times=99))
    assert case.train() == -signal.SIGKILL
    assert case.kills("recorder") == 1
    case.take_up()
    check(case)
    assert list(replicate.Project(directory=case.project).experiments.list()) == []


def test_the_recorder_is_killed_between_two_looks_at_the_end(case: Case) -> None:
    case.plan(Kill("training", "replicate_core.recording.backlog:Backlog.waiting", victim="recorder"))
    assert case.train(steps=0) == 0
    assert case.kills("recorder") == 1
    assert Spool(case.project).queues() == []
    assert [text for text in case.warnings() if "nothing is lost" not in text] == []
    check(case)


def test_the_recorder_is_killed_while_a_checkpoint_waits_for_room(case: Case) -> None:
    (case.project / "replicate.yaml").write_text("spool: {limit: 1 MB}")
    look = "replicate_core.recording.backlog:Backlog.waiting"
    case.plan(Kill("training", look, let_pass=3, victim="recorder"), slow_seconds=0.3)
    assert case.train(steps=4) == 0
    assert case.kills("recorder") == 1
    assert [text for text in case.warnings() if "not saved" in text] == []
    check(case)


def test_the_recorder_is_killed_while_somebody_else_stores(case: Case) -> None:
    case.plan(slow_seconds=0.05)
    training = case.start_training(steps=10, pause_seconds=0.3)
    until(lambda: case.told(case.runs[-1], "saved"))
    (queue,) = Spool(case.project).queues()
    training.send_signal(signal.SIGSTOP)  # else the next recorder may come first
    kill_recorder(case)
    until(queue.take)
    training.send_signal(signal.SIGCONT)
    try:
        until(lambda: len(case.processes("recorder")) > 1)
        time.sleep(1.0)  # the second one sees that the queue is taken
    finally:
        queue.release()
    assert case.wait(training) == 0
    assert case.kills("recorder") == 1
    assert Spool(case.project).queues() == []
    check(case)


def test_the_recorder_is_killed_more_often_than_it_is_started_again(case: Case) -> None:
    case.plan(Kill("recorder", *STORING["before the manifest"], let_pass=1, times=99))
    assert case.train(steps=20) == 0
    assert case.kills("recorder") == case.kills_at_points == STARTS
    assert [text for text in case.warnings() if "replicate sync" in text]
    check_listed(case)
    case.take_up()
    check(case)


def pairs() -> Iterator[tuple[str, str]]:
    """A step of the training, and one of the recorder; in the short session each of the first once."""
    if IS_LONG:
        yield from ((one, other) for one in RECORDING for other in STORING)
        yield from ((one, other) for one in STOPPING for other in STORING)
        return
    yield from zip(RECORDING | STOPPING, STORING, strict=False)


@pytest.mark.parametrize(("one", "other"), list(pairs()))
def test_both_are_killed(case: Case, one: str, other: str) -> None:
    step, let_pass = (RECORDING[one], 3) if one in RECORDING else (STOPPING[one], 0)
    said = 1 if other == "half done" else 0  # that it is ready; only then is it about jobs
    case.plan(Kill("training", *step, let_pass), Kill("recorder", *STORING[other], said, times=99))
    assert case.train() == -signal.SIGKILL
    assert case.kills("recorder") >= 1
    assert case.kills() == case.kills_at_points
    check_listed(case)
    case.take_up()
    check(case)


@pytest.mark.parametrize(("let_pass", "steps"), [(0, 10), (1, 40)])
def test_taking_up_is_killed_at_every_step(case: Case, let_pass: int, steps: int) -> None:
    case.plan(
        Kill("training", *RECORDING["after the job"], let_pass=steps),
        Kill("recorder", *STORING["before a job is claimed"], times=99),
    )
    assert case.train(steps=steps) == -signal.SIGKILL
    while_storing = [Kill("taking up", *step, let_pass) for step in STORING.values()]
    closing = [Kill("taking up", *step) for step in [*CLOSING.values(), GONE["the queue is half gone"]]]
    case.plan(*while_storing, *closing)
    case.take_up()
    assert case.kills("taking up") == len(while_storing) + len(closing)
    check(case)


@pytest.mark.parametrize("step", ["an object stored", "between manifest and record", "after the record"])
def test_the_next_training_takes_up_what_is_left(case: Case, step: str) -> None:
    case.plan(
        Kill("training", *RECORDING["after the job"], let_pass=3),
        Kill("recorder", *STORING["before a job is claimed"], times=99),
    )
    assert case.train() == -signal.SIGKILL
    for name in ("model.bin", "small.txt"):  # else the next one saves them with its code, and has them stored first
        (case.project / name).unlink()
    shutil.rmtree(case.project / "state")
    case.plan(Kill("abandoned", *STORING[step]))
    assert case.train() == 0
    assert case.kills("abandoned") == 1
    assert case.train() == 0
    assert case.kills("abandoned") == 1
    check(case)


# Killed at random moments.


@pytest.fixture(scope="session")
def seed() -> str:
    return os.environ.get("REPLICATE_KILLS_SEED") or os.urandom(4).hex()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_killed_at_random_moments(
    tmp_path: Path, batch: int, seed: str, record_property: Callable[[str, object], None]
) -> None:
    kills: Counter[str] = Counter()
    wanted = -(-KILLS // BATCHES)
    for number in range(10 * wanted):
        moment = f"{seed} {batch} {number}"
        print(f"REPLICATE_KILLS_SEED={seed}, batch {batch}, number {number}")
        directory = tmp_path / str(number)
        case = Case(directory)
        kill_at_random(case, random.Random(moment))
        check(case)
        shutil.rmtree(directory)
        kills.update(role for role, status in case.ended if status == -signal.SIGKILL)
        if kills.total() >= wanted:
            break
    record_property("kills", dict(kills))
    assert kills.total() >= wanted


def kill_at_random(case: Case, choice: random.Random) -> None:
    """Train on a slow storage; kill the recorder, the training and who takes up, in any order that comes."""
    case.plan(slow_seconds=choice.choice([0.0, 0.002, 0.01]))
    training = case.start_training(steps=choice.choice([4, 30]), pause_seconds=choice.choice([0.0, 0.02]))
    for _ in range(choice.choice([0, 1, 1, 2, 5])):
        time.sleep(choice.uniform(0.0, 0.5))
        kill_recorder(case)
    time.sleep(choice.uniform(0.0, 0.8))
    victims = [training.kill, lambda: kill_recorder(case)]
    choice.shuffle(victims)
    for kill in victims[: choice.choice([1, 2, 2])]:
        kill()
        time.sleep(choice.choice([0.0, 0.0, 0.2]))
    case.wait(training)
    check_listed(case)
    for _ in range(choice.choice([0, 1, 3])):
        process = case.start("taking_up.py", case.project)
        with suppress(subprocess.TimeoutExpired):
            process.wait(choice.uniform(0.1, 0.8))
        process.kill()
        case.ended.append(("taking up", process.wait()))
    case.take_up()


def kill_recorder(case: Case) -> None:
    """Kill the recorder that was started last, if it lives."""
    for pid in case.processes("recorder")[-1:]:
        with suppress(ProcessLookupError, FileNotFoundError):
            if os.fsencode(case.project) in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
