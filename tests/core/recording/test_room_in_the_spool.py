"""A slow storage slows training down before the spool is full; and what is given up then is never the best."""

from __future__ import annotations

import email.parser  # noqa: F401  # another user may not be able to import these from this Python
import encodings.ascii  # noqa: F401
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kit import texts, until
from misbehaving import Gate, Storage, fails, nothing, takes
from stored_checkpoints import begin, queues, stored

import replicate_core as replicate


class TestWaitingForRoom:
    SIZE = 300_000

    def limit(self, project: Path, **options: str) -> None:
        lines = "".join(f", {name}: {value}" for name, value in options.items())
        (project / "replicate.yaml").write_text(f"spool: {{limit: 1 MB, keep_free: 0 MB{lines}}}\n")

    def save(self, experiment: replicate.Experiment, step: int, **options: float) -> str:
        """Random content: equal chunks would be stored once."""
        Path("model.bin").write_bytes(os.urandom(self.SIZE))
        return experiment.checkpoint("model.bin", {"loss": options.get("loss", 1.0)}, ("loss", "minimize"), step).id

    def test_a_slow_storage_slows_training_down(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = takes(0.2)
        began = time.monotonic()
        largest = 0
        for step in range(8):
            self.save(experiment, step)
            largest = max(largest, sum(_sizes_below(queues()[0].directory / "files")))
        took = time.monotonic() - began
        experiment.stop()
        assert took > 0.8
        assert [text.startswith("storing is slower than training") for text in texts(told)] == [True]
        assert told[0].filename == __file__
        assert 0.5 < experiment.blocked.total_seconds() <= took
        assert largest < 2_000_000
        assert [checkpoint.size_bytes for checkpoint in stored().checkpoints] == [self.SIZE] * 8
        assert all(len(checkpoint.open().read()) == self.SIZE for checkpoint in stored().checkpoints)

    def test_a_checkpoint_larger_than_the_limit_waits_until_it_is_alone(
        self, project: Path, storage: Storage, told: list
    ) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = takes(0.1)
        for step in range(3):
            Path("model.bin").write_bytes(os.urandom(2_000_000))
            experiment.checkpoint("model.bin", {}, step=step)
        experiment.stop()
        assert [len(checkpoint.open().read()) for checkpoint in stored().checkpoints] == [2_000_000] * 3

    def test_metrics_alone_never_wait(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project)
        storage.before = gate = Gate()
        self.save(experiment, 0)
        self.save(experiment, 1)
        began = time.monotonic()
        for step in range(2, 500):
            experiment.checkpoint(None, {"loss": step}, step=step)
        assert time.monotonic() - began < 2
        gate.open()
        experiment.stop()
        assert len(stored().checkpoints) == 500

    def test_a_storage_in_trouble_is_not_waited_for(self, project: Path, storage: Storage, told: list) -> None:
        """What has no room is recorded without its files, and that is said."""
        self.limit(project)
        experiment = begin(project)
        storage.before = fails(permanent=True, text="access denied")
        began = time.monotonic()
        for step in range(6):
            self.save(experiment, step)
        assert time.monotonic() - began < 5
        assert sum("only its metrics" in text for text in texts(told)) == 3
        storage.before = nothing
        experiment.stop()
        found = stored().checkpoints
        assert [checkpoint.metrics["loss"] for checkpoint in found] == [1.0] * 6
        assert [checkpoint.size_bytes for checkpoint in found] == [self.SIZE] * 3 + [0] * 3
        with pytest.raises(replicate.NotFound, match="could not be saved when it was made"):
            found[5].open()

    def test_strict_raises_where_there_is_no_room(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project)
        experiment = begin(project, strict=True)
        storage.before = fails(permanent=True, text="access denied")

        def train() -> None:
            for step in range(6):
                self.save(experiment, step)

        with pytest.raises(replicate.StorageFailed, match="access denied"):
            train()
        storage.before = nothing
        experiment.stop()

    def test_one_that_waits_is_given_up_for_a_newer_one(self, project: Path, storage: Storage, told: list) -> None:
        self.limit(project, when_full="replace")
        experiment = begin(project)
        storage.before = gate = Gate("data/")
        losses = [5.0, 1.0, 4.0, 3.0, 2.0, 6.0]
        ids = []
        for step, loss in enumerate(losses):
            ids.append(self.save(experiment, step, loss=loss))
            until(lambda: gate.held_up)  # the first one is being stored, and can't be given up
        gate.open()
        experiment.stop()
        found = stored().checkpoints
        assert [checkpoint.id for checkpoint in found] == ids
        assert [checkpoint.metrics["loss"] for checkpoint in found] == losses
        kept = [checkpoint.step for checkpoint in found if checkpoint.size_bytes and _is_readable(checkpoint)]
        assert 0 in kept, "it was being stored"
        assert 1 in kept, "it is the best"
        assert stored().best().step == 1
        assert len(stored().best().open().read()) == self.SIZE

    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_the_best_is_never_given_up(self, project: Path, storage: Storage, told: list, goal: str) -> None:
        self.limit(project, when_full="replace")
        for losses in itertools.islice(itertools.permutations([1.0, 2.0, 3.0, 4.0]), 0, 24, 5):
            experiment = begin(project)
            storage.before = gate = Gate("data/")
            for step, loss in enumerate([9.0 if goal == "minimize" else -9.0, *losses]):
                Path("model.bin").write_bytes(os.urandom(self.SIZE))
                experiment.checkpoint("model.bin", {"loss": loss}, ("loss", goal), step)
                until(lambda gate=gate: gate.held_up)
            gate.open()
            experiment.stop()
            experiment.refresh()
            assert len(experiment.best().open().read()) == self.SIZE


def _is_readable(checkpoint: replicate.Checkpoint) -> bool:
    try:
        return len(checkpoint.open().read()) > 0
    except replicate.NotFound:
        return False


def _sizes_below(directory: Path) -> Iterator[int]:
    for found, _, names in os.walk(directory):  # passes over directories that vanish meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(found, name)).st_size
