"""How many steps a training has made, where Lightning does not count them, too."""

from __future__ import annotations

from typing import Any


class Steps:
    """Counts as Lightning does: steps of optimizers. Batches, where a module steps the optimizers of torch themselves.

    Those Lightning does not see: with manual optimization, and `optimizers(use_pl_optimizer=False)`, `global_step`
    stays 0.
    """

    def __init__(self) -> None:
        self._are_made = False

    def watch(self, trainer: Any) -> None:
        """To be called where training begins, or goes on."""
        if trainer.lightning_module.automatic_optimization:
            return
        self._are_made = _batches(trainer) > 0

        def note(*_: object) -> None:
            self._are_made = True

        if not _changes_weights(trainer):  # the module holds optimizers of its own, which are not seen here
            self._are_made = True
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "register_step_post_hook"):  # what wraps one (DeepSpeed's) has no such hook
                optimizer.register_step_post_hook(note)

    def done(self, trainer: Any) -> int:
        """So many are done."""
        counted = int(trainer.global_step)
        return counted if counted or not self._are_made else _batches(trainer)


def _changes_weights(trainer: Any) -> bool:
    """Whether an optimizer that Lightning knows has weights of the module; for none it makes one that has not."""
    held = {id(parameter) for parameter in trainer.lightning_module.parameters()}
    groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return any(id(parameter) in held for group in groups for parameter in group["params"])


def _batches(trainer: Any) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)
