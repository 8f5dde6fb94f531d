"""One experiment for all ranks: the first rank records it, and broadcasts its id to the others.

The broadcast is collective: each rank must call the function for its side at the same point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicate_core import Checkpoint, Experiment, adapters


def tell_other_ranks(trainer: Any, experiment: str, resumed_from: Checkpoint | None = None) -> None:
    """On the first rank: broadcast the id of the experiment, and that of the checkpoint it resumes from."""
    trainer.strategy.broadcast((experiment, None if resumed_from is None else resumed_from.id))


def join_experiment(
    trainer: Any, running: Experiment | None, params: Mapping[str, object], labels: Mapping[str, Any]
) -> Experiment:
    """On another rank: return the first rank's experiment; this rank records nothing.

    Args:
        trainer: the trainer of this rank.
        running: the experiment that this rank has already; returned if it is the first rank's.
        params: the params of a new experiment.
        labels: name, tags and notes of a new experiment.
    """
    experiment, resumed_from = trainer.strategy.broadcast(None)
    if running is not None and running.id == experiment:
        return running
    return adapters.join(experiment, resumed_from, params, **labels)


def same_on_all_ranks(trainer: Any, experiment: Experiment) -> Experiment:
    """Return the first rank's experiment on every rank, for a script that has begun one on each."""
    if trainer.is_global_zero:
        tell_other_ranks(trainer, experiment.id, experiment.resumed_from)
        return experiment
    labels = {"name": experiment.name, "tags": experiment.tags, "notes": experiment.notes}
    return join_experiment(trainer, experiment, experiment.params, labels)
