"""Letting go of files: the best and the last stay, nothing that is needed goes, and space is free at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupted_runs import repository

import replicate_core as replicate
from replicate_core.errors import StorageFailed
from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Ended,
    Keep,
    PrimaryMetric,
    Released,
    Resumed,
    fold,
    superseded,
)
from replicate_core.machine import process_exit
from replicate_core.machine.staging import SMALL_BYTES
from replicate_core.repository import retention
from replicate_core.storage.local import LocalStore

MOMENT = datetime(2026, 11, 23, 6, 28, tzinfo=timezone.utc)
LOSS = PrimaryMetric("loss", "minimize")


# Which ones, and what is left of them.


def made(
    number: int, loss: object = 1.0, *, files: bool = True, primary: PrimaryMetric | None = LOSS
) -> CheckpointFacts:
    manifest = f"m{number}" if files else None
    return CheckpointFacts(
        str(number), MOMENT, number, {"loss": loss}, primary, path="m", manifest=manifest, size_bytes=7
    )


def left(items: list[CheckpointFacts], best: int, last: int) -> str:
    gone = {item.id for item in superseded(items, Keep(best, last))}
    return "".join(item.id for item in items if item.id not in gone and item.manifest)


def test_the_best_and_the_last_are_kept() -> None:
    items = [made(number, loss) for number, loss in enumerate([5, 1, 3, 2, 6, 7])]
    assert left(items, 1, 1) == "15"
    assert left(items, 2, 1) == "135"
    assert left(items, 1, 3) == "1345"
    assert left(items, 9, 1) == "012345"


def test_which_way_is_better_is_what_the_goal_says() -> None:
    items = [made(number, loss, primary=PrimaryMetric("loss", "maximize")) for number, loss in enumerate([5, 6, 3])]
    assert left(items, 1, 1) == "12"


def test_of_equals_the_first_is_kept() -> None:
    assert left([made(number, 1.0) for number in range(4)], 1, 1) == "03"


def test_without_a_primary_metric_the_last_are_kept() -> None:
    assert left([made(number, primary=None) for number in range(4)], 1, 2) == "23"
    assert left([made(number, float("nan")) for number in range(4)], 1, 1) == "3"


def test_where_nobody_knows_which_are_the_best_nothing_is_let_go() -> None:
    assert left([made(number, primary=None) for number in range(4)], 2, 1) == "0123"
    mistyped = PrimaryMetric("los", "minimize")
    assert left([made(number, primary=mistyped) for number in range(4)], 1, 1) == "0123"


def test_where_only_metrics_say_which_are_the_best_no_files_are_let_go() -> None:
    """Nobody knows which ones of those with files are the best."""
    measured = [made(number, number, files=False) for number in range(4)]
    saved = [replace(made(number, primary=None), metrics={}) for number in range(4, 8)]
    assert left([*measured, *saved], 1, 1) == "4567"


def test_where_the_primary_metric_is_no_single_number_no_files_are_let_go() -> None:
    items = [replace(made(number), metrics={"loss": [0.5, 0.25]}) for number in range(4)]
    assert left(items, 1, 1) == left(items, 2, 1) == "0123"


def test_what_has_no_files_takes_nobodys_place() -> None:
    items = [made(0, 2), made(1, 1, files=False), made(2, 5), made(3, 0, files=False)]
    assert left(items, 1, 1) == "02"


@given(st.lists(st.tuples(st.floats() | st.none(), st.booleans()), max_size=8), st.integers(1, 4), st.integers(1, 4))
def test_so_many_are_kept_the_last_one_and_the_best_one_among_them(items, best, last) -> None:
    found = [made(number, loss, files=files) for number, (loss, files) in enumerate(items)]
    with_files = [item for item in found if item.manifest]
    gone = superseded(found, Keep(best, last))
    kept = [item for item in with_files if item not in gone]
    assert with_files[-last:] == kept[-last:]
    assert len(kept) <= best + last
    numbers = [item.metrics["loss"] for item in with_files if isinstance(item.metrics["loss"], float)]
    numbers = sorted(number for number in numbers if number == number)  # noqa: PLR0124  # NaN
    of_kept = sorted(item.metrics["loss"] for item in kept if item.metrics["loss"] in numbers)
    assert of_kept[: min(best, len(numbers))] == numbers[:best]


def test_of_a_released_checkpoint_all_but_its_files_is_left() -> None:
    item = replace(made(1), keep=Keep())
    state = fold([Created("e", MOMENT), Checkpointed("e", (item,)), Released("e", ("1",)), Released("e", ("1",))])["e"]
    assert state.checkpoints == (replace(item, manifest=None, size_bytes=0, is_private=True, is_released=True),)


def test_what_is_made_under_a_rule_is_private_until_its_session_has_ended() -> None:
    first, second = replace(made(1), keep=Keep()), replace(made(2), keep=Keep())
    history = [Created("e", MOMENT), Checkpointed("e", (first, made(3)))]
    assert [item.is_private for item in fold(history)["e"].checkpoints] == [True, False]
    history += [Resumed("e", MOMENT, "s", None, "1"), Checkpointed("e", (second,), "s")]
    assert [item.is_private for item in fold(history)["e"].checkpoints] == [True, True]
    history += [Ended("e", MOMENT, "killed")]
    assert [item.is_private for item in fold(history)["e"].checkpoints] == [False, True]
    history += [Ended("e", MOMENT, "finished", session="s")]
    assert [item.is_private for item in fold(history)["e"].checkpoints] == [False, False]


# With a storage.


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0.0)


def content(step: int) -> bytes:
    return random.Random(step).randbytes(3 * SMALL_BYTES)


def start(name: str = "kept", **options: object) -> replicate.Experiment:
    return replicate.init(name=name, path=None, **options)


def save(
    experiment: replicate.Experiment, step: int, loss: float = 1.0, data: bytes | None = None
) -> replicate.Checkpoint:
    Path("model.bin").write_bytes(content(step) if data is None else data)
    return experiment.checkpoint("model.bin", {"loss": loss}, ("loss", "minimize"), step=step)


def killed(experiment: replicate.Experiment) -> None:
    """The process is gone; what it left waits."""
    recording = experiment._recorded
    process_exit.unregister(recording.end_with_process)
    recording._queue.finish_appending()
    recording._launched.detach()
    replicate.Project().sync()


def with_files(experiment: replicate.Experiment) -> list[int]:
    """The steps whose files come back, whole."""
    experiment.refresh()
    found = [item for item in experiment.checkpoints if not item.lacks_files]
    for item in found:
        with item.open() as stream:
            assert stream.read() == content(item.step)
    return [item.step for item in found]


def stored_bytes() -> int:
    return sum(path.stat().st_size for path in Path(".replicate/storage/data").rglob("*") if path.is_file())


LOSSES = [5, 1, 3, 2, 6, 7, 8, 9]


def test_space_is_free_at_once_and_metrics_stay(project: Path) -> None:
    experiment = start()
    experiment.keep(best=2, last=1)
    for step, loss in enumerate(LOSSES):
        save(experiment, step, loss)
        assert stored_bytes() <= 4.1 * 3 * SMALL_BYTES
    experiment.stop()
    assert with_files(experiment) == [1, 3, 7]
    assert stored_bytes() < 3.1 * 3 * SMALL_BYTES
    assert [item.metrics["loss"] for item in experiment.checkpoints] == LOSSES
    assert experiment.best().step == 1
    report = replicate.Project().verify(deep=True)
    assert (report.damages, report.objects) == ((), 3)


def test_only_what_is_made_from_then_on_goes_at_once(project: Path) -> None:
    """Others may refer to what was made before; `prune` frees that."""
    experiment = start()
    for step in range(3):
        save(experiment, step)
    experiment.keep(last=1)
    for step in range(3, 6):
        save(experiment, step)
    experiment.stop()
    assert with_files(experiment) == [0, 5]
    assert 4 * 3 * SMALL_BYTES <= stored_bytes() < 4.1 * 3 * SMALL_BYTES


def test_what_a_kept_checkpoint_shares_with_a_released_one_stays(project: Path) -> None:
    frozen = random.Random(0).randbytes(4 << 20)
    experiment = start()
    experiment.keep()
    for step in range(4):
        save(experiment, step, data=frozen + b"%d" % step)
    experiment.stop()
    experiment.refresh()
    assert [item.lacks_files for item in experiment.checkpoints] == [False, True, True, False]
    assert experiment.latest().open().read() == frozen + b"3"
    assert replicate.Project().verify(deep=True).damages == ()


def test_what_the_code_needs_stays(project: Path) -> None:
    Path("data.bin").write_bytes(content(0))
    experiment = replicate.init(name="kept")
    experiment.keep()
    save(experiment, 1, 9.0, content(0))
    save(experiment, 2, 5.0)
    save(experiment, 3, 4.0)
    experiment.stop()
    experiment.checkout("../back")
    assert Path("../back/data.bin").read_bytes() == content(0)
    assert replicate.Project().verify(deep=True).damages == ()


def test_a_released_one_says_so(project: Path) -> None:
    experiment = start()
    experiment.keep()
    for step in range(3):
        save(experiment, step, 5 - step)
    experiment.stop()
    experiment.refresh()
    gone = experiment.checkpoints[0]
    assert (gone.lacks_files, gone.is_released, gone.size_bytes) == (True, True, 0)
    assert gone.files == {}
    with pytest.raises(replicate.NotFound, match=r"step 0\) were deleted, as experiment.keep\(\) asked"):
        gone.open()
    kept = [experiment.checkpoints[-1].short_id]
    with pytest.raises(
        replicate.NotFound,
        match=rf"were deleted, as experiment.keep.* nearest with files: {kept[0]} \(step 2\)\. .*--code-only",
    ):
        gone.checkout("../back")
    assert not Path("../back").exists()
    with pytest.raises(replicate.Corrupted, match="has no files to resume from"):
        start(resume=gone.id)


def test_what_is_best_survives_a_restart(project: Path) -> None:
    first = start()
    first.keep(best=1, last=1)
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        save(first, step, loss)
    killed(first)
    second = start(resume="auto")
    assert second.resumed_from.step == 2
    second.keep(best=1, last=1)
    for step, loss in enumerate([4.0, 5.0], 3):
        save(second, step, loss)
    second.stop()
    assert with_files(second) == [1, 4]
    assert second.status == "finished"


def test_without_a_rule_a_later_session_keeps_all_that_it_makes(project: Path) -> None:
    first = start()
    first.keep()
    save(first, 0), save(first, 1)
    killed(first)
    second = start(resume="auto")
    for step in range(2, 5):
        save(second, step)
    second.stop()
    assert with_files(second) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "given", [{"best": 0}, {"last": 0}, {"best": True}, {"last": 1.5}, {"best": "3"}, {"last": None}]
)
def test_a_number_that_is_none_is_refused(project: Path, given: dict) -> None:
    experiment = start()
    with pytest.raises(replicate.InvalidInput, match="must be a number of checkpoints from 1"):
        experiment.keep(**given)


def test_who_does_not_record_gives_no_rules(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = start()
    save(experiment, 0)
    experiment.stop()
    with pytest.raises(replicate.InvalidInput, match="was loaded, and is not recorded by this process"):
        replicate.experiments.get(experiment.id).keep()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    start("other").keep()  # the first process says so, too


# Beside others.


def test_nobody_else_refers_to_what_may_go(project: Path) -> None:
    one = start("one")
    one.keep()
    save(one, 0)
    other = start("other")
    save(other, 0)
    (mine,), (theirs,) = (repository().states()[item.id].checkpoints for item in (one, other))
    objects = [set(repository().manifest(item.manifest).object_bytes) for item in (mine, theirs)]
    assert not objects[0] & objects[1], "the same bytes, stored twice"
    save(one, 1, 0.5), save(one, 2, 0.4)
    assert with_files(one) == [2]
    assert with_files(other) == [0]
    one.stop(), other.stop()
    last = start("last")
    before = stored_bytes()
    save(last, 2)
    assert stored_bytes() == before, "what has ended is shared"
    assert with_files(last) == [2]


def test_a_session_that_others_have_gone_on_from_lets_go_of_nothing(project: Path) -> None:
    experiment = start()
    experiment.keep()
    save(experiment, 0, 3.0)
    at = repository().states()[experiment.id]
    repository().append(Resumed(experiment.id, MOMENT, "5" * 32, None, at.checkpoints[-1].id))
    save(experiment, 1, 2.0), save(experiment, 2, 1.0)
    experiment.stop()
    state = repository().states()[experiment.id]
    assert [(item.step, item.is_released) for item in state.checkpoints] == [(0, False)]
    assert with_files(experiment) == [0]


@pytest.mark.parametrize("verb", ["delete", "released"])
def test_a_storage_that_refuses_stops_nothing(project: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    plain_put, plain_delete = LocalStore.put, LocalStore.delete

    def refuse(*_: object) -> None:
        raise StorageFailed("no right to do that", permanent=True)

    def put(store: LocalStore, key: str, data: bytes) -> None:
        refuse() if "released" in key else plain_put(store, key, data)

    def delete(store: LocalStore, keys: object) -> None:
        keys = list(keys)
        refuse() if any(key.startswith("data/") for key in keys) else plain_delete(store, keys)

    monkeypatch.setattr(LocalStore, *(("put", put) if verb == "released" else ("delete", delete)))
    experiment = start()
    experiment.keep()
    for step in range(3):
        save(experiment, step, 3 - step)
    experiment.stop()
    assert experiment.status == "finished"
    assert with_files(experiment) == ([0, 1, 2] if verb == "released" else [2])
    assert stored_bytes() >= 3 * 3 * SMALL_BYTES
    assert replicate.Project().verify(deep=True).damages == ()


def test_where_a_record_can_not_be_read_nothing_is_let_go(project: Path) -> None:
    experiment = start()
    experiment.keep()
    save(experiment, 0, 3.0)
    (record,) = Path(".replicate/storage/records").rglob("*-checkpoints.json")
    record.write_bytes(b"damaged")
    save(experiment, 1, 2.0), save(experiment, 2, 1.0)
    assert not list(Path(".replicate/storage/records").rglob("*-released.json"))
    with pytest.warns(UserWarning, match="left out of the listing"):
        assert with_files(experiment) == [1, 2]
    killed(experiment)


def test_a_job_that_is_done_twice_loses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replicate_core.spool.upload_queue import Queue

    experiment = start()
    experiment.keep()
    finish, failed = Queue.finish, []

    def once(queue: Queue, *arguments: object) -> None:
        if len(failed) < 3:
            failed.append(1)
            raise OSError("the disk is full")
        finish(queue, *arguments)

    monkeypatch.setattr(Queue, "finish", once)
    with pytest.warns(UserWarning, match="can't be stored for now"):
        save(experiment, 0, 3.0)
    for step in (1, 2):
        save(experiment, step, 3.0 - step)
    experiment.stop()
    assert with_files(experiment) == [2]
    assert replicate.Project().verify(deep=True).damages == ()


# Killed.

TRAINING = """
import random, sys
import replicate_core as replicate
from replicate_core.repository import retention
retention.PAUSE_SECONDS = 0
experiment = replicate.init(name="kept", path=None, resume="auto")
experiment.keep(best=2, last=1)
begin = 0 if experiment.resumed_from is None else experiment.resumed_from.step + 1
for step in range(begin, begin + 200):
    with open("model.bin", "wb") as file:
        file.write(random.Random(step).randbytes(SIZE))
    experiment.checkpoint("model.bin", {"loss": (step * 7919) % 101}, ("loss", "minimize"), step=step)
    print(step, flush=True)
""".replace("SIZE", str(3 * SMALL_BYTES))


def recorders(directory: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(directory / ".replicate/spool/") in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it is gone
            continue
    return found


def test_killed_at_any_moment_what_is_kept_is_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    chance = random.Random(seed)
    monkeypatch.delenv("REPLICATE_RECORDER")
    acknowledged = -1
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True)
        for _ in range(chance.randint(1, 12)):
            acknowledged = int(process.stdout.readline())
            if chance.random() < 0.2:
                for recorder in recorders(project):
                    os.kill(recorder, signal.SIGKILL)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        rest = process.communicate()[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        replicate.Project().sync()
        (experiment,) = replicate.experiments.list()
        kept = with_files(experiment)
        steps = [item.step for item in experiment.checkpoints]
        assert steps == list(range(len(steps)))
        assert acknowledged <= steps[-1] <= acknowledged + 1, "one more may have been made, and not been told of"
        assert kept[-1] == steps[-1]
        assert experiment.best().step in kept
    assert replicate.Project().verify(deep=True).damages == ()
