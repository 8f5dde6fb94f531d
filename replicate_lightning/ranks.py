"""One experiment for all ranks: the first one records it, and tells the others which one it is.

Telling is collective: each rank calls the function for its side, at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicate_core import Checkpoint, Experiment, adapters


def tell_other_ranks(trainer: Any, experiment: str, resumed_from: Checkpoint | None = None) -> None:
    """On the first rank: tell the others the id of the experiment, and the checkpoint that it resumes from."""
    trainer.strategy.broadcast((experiment, None if resumed_from is None else resumed_from.id))


def joined(
    trainer: Any, running: Experiment | None, params: Mapping[str, object], labels: Mapping[str, Any]
) -> Experiment:
    """On another rank: the first rank's experiment; nothing is recorded here.

    Args:
        trainer: whose ranks they are.
        running: the one that this rank has; it stays, if it is the one.
        params: of an experiment that is new.
        labels: its name, tags and notes.
    """
    experiment, resumed_from = trainer.strategy.broadcast(None)
    if running is not None and running.id == experiment:
        return running
    return adapters.join(experiment, resumed_from, params, **labels)


def same_on_all_ranks(trainer: Any, experiment: Experiment) -> Experiment:
    """The experiment that the script has begun on every rank; on the others that of the first one takes its place."""
    if trainer.is_global_zero:
        tell_other_ranks(trainer, experiment.id, experiment.resumed_from)
        return experiment
    labels = {"name": experiment.name, "tags": experiment.tags, "notes": experiment.notes}
    return joined(trainer, experiment, experiment.params, labels)
