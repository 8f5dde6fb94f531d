"""Counts training steps, also those that Lightning does not count."""

from __future__ import annotations

from typing import Any


class Steps:
    """Counts steps of optimizers, as Lightning does; or batches, if a module steps torch's optimizers directly.

    Lightning does not see such steps: with manual optimization and `optimizers(use_pl_optimizer=False)`, `global_step`
    stays 0.
    """

    def __init__(self) -> None:
        self._are_made = False

    def watch(self, trainer: Any) -> None:
        """Start counting; call it when training begins or resumes."""
        if trainer.lightning_module.automatic_optimization:
            return
        self._are_made = _batches(trainer) > 0

        def note(*_: object) -> None:
            self._are_made = True

        if not _changes_weights(trainer):  # the module has optimizers of its own, unknown to Lightning
            self._are_made = True
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "register_step_post_hook"):  # what wraps one (DeepSpeed's) has no such hook
                optimizer.register_step_post_hook(note)

    def done(self, trainer: Any) -> int:
        """Return the number of steps done."""
        counted = int(trainer.global_step)
        return counted if counted or not self._are_made else _batches(trainer)


def _changes_weights(trainer: Any) -> bool:
    """Tell whether an optimizer of the trainer has weights of the module; Lightning's placeholder has none."""
    held = {id(parameter) for parameter in trainer.lightning_module.parameters()}
    groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return any(id(parameter) in held for group in groups for parameter in group["params"])


def _batches(trainer: Any) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)
