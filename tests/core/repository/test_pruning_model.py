"""Writers, deleters, pruners and compactors at once, in every order hypothesis thinks of: nothing listed is missing.

The code is the real one; only the store and the clock are the test's. Each actor is a thread that stops before every
request to the store, and goes on when it is its turn: one at a time, so every run can be repeated.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stores import MemoryStore

from replicate_core.errors import Corrupted
from replicate_core.format import record_codec, records
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted
from replicate_core.format.sealed import unseal
from replicate_core.machine.staging import Staged, StagedFile
from replicate_core.repository import catalogue
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.compacting import compact
from replicate_core.repository.pruning import prune
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of
from replicate_core.repository.writing import publish

GRACE = timedelta(seconds=1200)
CONTENTS = [bytes([number]) * 300 for number in range(8)]
"""The files that writers save: few, so that they share them."""

PATIENCE = GRACE / 4
"""No writer is kept waiting longer in the midst of its work: that is what a grace must be longer than."""


class Over(BaseException):
    """Ends the thread of an actor."""


class World:
    """The store, the clock, and whose turn it is."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=timezone.utc)
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.actors: list[Actor] = []
        self.over = False
        self.steps = 0
        self.deleted = 0
        self.counter = itertools.count(1)

    def randomness(self, count: int) -> bytes:
        return next(self.counter).to_bytes(count, "big")

    def turn(self, index: int) -> None:
        """Let one actor make one request; one that waits for too long in the midst of its work goes first."""
        late = [actor for actor in self.actors if actor.busy_since and self.now - actor.busy_since > PATIENCE]
        actor = late[0] if late else self.actors[index % len(self.actors)]
        self.now += timedelta(seconds=1)
        self.steps += 1
        actor.step()

    def end(self) -> None:
        self.over = True
        for actor in self.actors:
            actor.step()
            actor.thread.join(10)

    def states(self) -> dict[str, records.ExperimentState]:
        names = sorted(name for name in self.objects if name.startswith("records/"))
        read = (record_codec.decode(unseal(self.objects[name][0], key=name), key=name) for name in names)
        return records.fold(record for record in read if record is not None)

    def seen_through_segments(self) -> dict[str, records.ExperimentState]:
        found = catalogue.read(Repository(store_of(self, None))).experiments
        return {experiment: stored.state for experiment, stored in found.items()}

    def dangling(self) -> list[str]:
        """What is referred to, and not there."""
        repository = Repository(store_of(self, None))
        missing = []
        for snapshot in snapshots_of(self.states()):
            try:
                content = repository.manifest(snapshot.manifest)
            except Corrupted:
                missing.append(snapshot.manifest)
            else:
                missing += [key for key in content.object_bytes if key not in self.objects]
        return missing


class Actor:
    """A process that does one thing after the other."""

    def __init__(self, world: World, work: Callable[[Actor], None]) -> None:
        self.busy_since: datetime | None = None
        self.error: BaseException | None = None
        self._world = world
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()
        self._stopped.acquire()

    def pause(self) -> None:
        """Called before each request."""
        self._stopped.release()
        self._go.acquire()
        if self._world.over:
            raise Over

    def step(self) -> None:
        if self.thread.is_alive():
            self._go.release()
            assert self._stopped.acquire(timeout=60), "an actor hangs"

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.busy_since = self._world.now
        try:
            yield
        finally:
            self.busy_since = None

    def _run(self, work: Callable[[Actor], None]) -> None:
        try:
            self.pause()
            while True:
                work(self)
        except Over:
            pass
        except BaseException as error:  # noqa: BLE001  # the model looks at it
            self.error = error
        finally:
            self._stopped.release()


def store_of(world: World, actor: Actor | None) -> MemoryStore:
    """The store of the world as an actor sees it, or nobody: each request takes a turn, and the world has the clock."""
    store = MemoryStore()
    store.objects = world.objects

    def take_turn(verb: str, key: str) -> None:
        if actor is not None:
            actor.pause()
        store.now = world.now
        world.deleted += verb == "delete" and key.startswith("data/")

    store.before = take_turn
    return store


def writer(world: World, scratch: Path, seed: int) -> Callable[[Actor], None]:
    """A training run after the other: each saves a few files several times."""
    chance = random.Random(seed)
    copies = scratch / f"copies of {seed}"
    copies.write_bytes(b"".join(CONTENTS))

    def work(actor: Actor) -> None:
        repository = Repository(store_of(world, actor), now=lambda: world.now, randomness=world.randomness)
        known = ChunkIndex(repository, lifetime=GRACE / 4)
        experiment = repository.new_id()
        repository.append(Created(experiment, world.now))
        for step in range(chance.randrange(1, 30)):
            with actor.busy():
                save(repository, known, experiment, step)
            for _ in range(chance.randrange(40)):  # training goes on
                actor.pause()

    def save(repository: Repository, known: ChunkIndex, experiment: str, step: int) -> None:
        chosen = chance.sample(range(len(CONTENTS)), chance.randrange(1, 4))
        files = tuple(StagedFile(str(number), 0o644, copies, 300 * number, 300) for number in chosen)
        facts = CheckpointFacts(repository.new_id(), world.now, step, {})
        publish(
            repository,
            known,
            Staged(scratch, files, {}, ()),
            "none",
            lambda snapshot: Checkpointed(
                experiment, (records.replace(facts, manifest=snapshot.manifest, size_bytes=snapshot.size_bytes),)
            ),
        )

    return work


def deleter(world: World, seed: int) -> Callable[[Actor], None]:
    """Deletes a checkpoint or an experiment now and then."""
    chance = random.Random(seed)

    def work(actor: Actor) -> None:
        for _ in range(chance.randrange(40)):
            actor.pause()
        states = world.states()
        if states:
            experiment, state = chance.choice(sorted(states.items()))
            some = tuple(item.id for item in state.checkpoints if chance.random() < 0.5)
            repository = Repository(store_of(world, actor), now=lambda: world.now, randomness=world.randomness)
            repository.append(Deleted(experiment, some if chance.random() < 0.7 else None))
        actor.pause()

    return work


def pruner(world: World, scratch: Path, seed: int, grace: timedelta) -> Callable[[Actor], None]:
    """Prunes again and again."""
    chance = random.Random(seed)

    def work(actor: Actor) -> None:
        repository = Repository(store_of(world, actor), now=lambda: world.now, randomness=world.randomness)
        prune(repository, scratch=scratch, grace=grace, repack=chance.random() < 0.5)
        for _ in range(chance.randrange(30)):
            actor.pause()

    return work


def compactor(world: World, seed: int) -> Callable[[Actor], None]:
    """Puts records together now and then, and some of the time anew."""
    chance = random.Random(seed)

    def work(actor: Actor) -> None:
        repository = Repository(store_of(world, actor), now=lambda: world.now, randomness=world.randomness)
        compact(repository, rebuild=chance.random() < 0.3)
        for _ in range(chance.randrange(200)):
            actor.pause()

    return work


def populate(world: World, scratch: Path, seed: int, *, grace: timedelta = GRACE, compactors: int = 2) -> None:
    works = [writer(world, scratch, seed * 10 + number) for number in range(3)]
    works += [deleter(world, seed * 10 + 3), deleter(world, seed * 10 + 4)]
    works += [pruner(world, scratch, seed * 10 + 5, grace), pruner(world, scratch, seed * 10 + 6, grace)]
    works += [compactor(world, seed * 10 + 7 + number) for number in range(compactors)]
    world.actors = [Actor(world, work) for work in works]


class Model(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.scratch = TemporaryDirectory()
        self.world = World()
        populate(self.world, Path(self.scratch.name), seed)

    @rule(turns=st.lists(st.integers(0, 8), min_size=20, max_size=60))
    def work(self, turns: list[int]) -> None:
        for index in turns:
            self.world.turn(index)

    @rule(seconds=st.integers(1, int(GRACE.total_seconds() / 8)))
    def wait(self, seconds: int) -> None:
        later = self.world.now + timedelta(seconds=seconds)
        if not any(actor.busy_since and later - actor.busy_since > PATIENCE for actor in self.world.actors):
            self.world.now = later
        assert self.world.seen_through_segments() == self.world.states()

    @invariant()
    def nothing_that_is_listed_is_missing(self) -> None:
        assert self.world.dangling() == []

    @invariant()
    def nobody_failed(self) -> None:
        assert [actor.error for actor in self.world.actors if actor.error] == []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()
            self.scratch.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=25,
    stateful_step_count=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make a failure smaller takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def run(
    scratch: Path, seed: int, steps: int, *, grace: timedelta = GRACE, compactors: int = 2
) -> tuple[list[str], World]:
    """Random turns, and now and then some time; ends with the first thing that dangles."""
    world = World()
    chance = random.Random(seed)
    populate(world, scratch, seed, grace=grace, compactors=compactors)
    try:
        for step in range(steps):
            world.turn(chance.randrange(len(world.actors)))
            if chance.random() < 0.02:
                world.now += timedelta(seconds=chance.randrange(100))
            if step % 500 == 0:
                assert world.seen_through_segments() == world.states()
            if step % 10 == 0 and (missing := world.dangling()):
                return missing, world
        assert [actor.error for actor in world.actors if actor.error] == []
        return [], world
    finally:
        world.end()


def test_many_thousand_steps_leave_nothing_dangling_and_do_prune(tmp_path: Path) -> None:
    for seed in range(3):
        missing, world = run(tmp_path, seed, 6000)

        assert missing == []
        assert world.steps == 6000
        assert world.deleted > 10, "hardly anything was ever pruned"


def test_without_a_grace_the_model_finds_the_harm(tmp_path: Path) -> None:
    found = (run(tmp_path, seed, 3000, grace=timedelta(0), compactors=0)[0] for seed in range(10))

    assert any(found), "the model is too weak: it should have found a dangling reference"
