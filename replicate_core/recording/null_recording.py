"""The null recorder: takes the place of a recording in a process that must not record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from replicate_core.format.records import CheckpointFacts, Ended, Ending, Keep, PrimaryMetric
from replicate_core.machine.fresh_ids import new_id
from replicate_core.recording.inputs import checked_step
from replicate_core.repository.repository import utc_now


class Recorded(Protocol):
    """What an `Experiment` calls to be recorded."""

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],
    ) -> CheckpointFacts:
        """Record a checkpoint; see `Experiment.checkpoint`."""

    def keep(self, rule: Keep) -> None:
        """Set which checkpoints keep their files; see `Experiment.keep`."""

    def end(self, status: Ending = "finished", error: str | None = None, *, waits: bool = True) -> Ended | None:
        """Record that the experiment is over; None if that is already recorded.

        Args:
            status: how it ended.
            error: what ended it.
            waits: whether to wait until everything is stored. If not, the wait may be deferred to the end of the
                process.
        """

    @property
    def is_running(self) -> bool:
        """Whether the experiment is not over yet."""


class NullRecording:
    """A recorder that records nothing, for each process of a distributed run but the first."""

    def __init__(self) -> None:
        self.is_running = True
        self._next_step = 0

    def checkpoint(
        self,
        path: str | os.PathLike[str] | None,
        metrics: Mapping[str, object] | None,  # noqa: ARG002
        primary_metric: tuple[str, str] | None,
        step: int | None,
        extra: Mapping[str, object],  # noqa: ARG002
    ) -> CheckpointFacts:
        """See `Recorded.checkpoint`. Nothing is recorded, and metrics are not checked."""
        counted = self._next_step if step is None else checked_step(step)
        self._next_step = counted + 1
        saved = None if path is None else os.fspath(path)
        return CheckpointFacts(new_id(), utc_now(), counted, {}, PrimaryMetric.parse(primary_metric), saved)

    def keep(self, rule: Keep) -> None:
        """See `Recorded.keep`."""

    def end(self, status: Ending = "finished", error: str | None = None, *, waits: bool = True) -> None:  # noqa: ARG002
        """See `Recorded.end`."""
        self.is_running = False
