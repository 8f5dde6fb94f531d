"""`ReplicateCallback`: Lightning's words (epoch, global step, callback metrics) in replicate's.

Uses the public hooks of Lightning only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import replicate_core
from replicate_core import InvalidInput, PrimaryMetric
from replicate_lightning.namespaces import bases


class _Saver(*bases("Checkpoint")):  # type: ignore[misc]  # the bases are those that are installed
    """Runs last: Lightning calls callbacks of this type after the module's own hooks, whose metrics are there then.

    Its owner is no such callback itself, because Lightning would take it for its own `ModelCheckpoint`.
    """

    best_model_path = ""
    last_model_path = ""

    def __init__(self, owner: ReplicateCallback) -> None:
        super().__init__()
        self.owner = owner

    @property
    def state_key(self) -> str:
        return f"ReplicateSaver{{{self.owner.filepath!r}}}"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.owner.after_batch(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_epoch(trainer)


class ReplicateCallback(*bases("Callback")):  # type: ignore[misc]  # the bases are those that are installed
    """Record training: begin an experiment when it begins, and save model and metrics as it goes on.

    Works beside Lightning's own `ModelCheckpoint` and without it, in `pytorch_lightning` and `lightning.pytorch`.

    Args:
        filepath: where the trainer's checkpoint is saved. None saves no file, only metrics.
        params: hyperparameters to record.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`) by which checkpoints are compared.
        save_freq: `"epoch"`, or a number of training steps. The step of a checkpoint is the epoch (from 0), or the
            trainer's global step.
        save_weights_only: save the weights without optimizer and loops.

    Raises:
        InvalidInput: an argument can't be taken; at construction.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = "model.ckpt",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: str | int = "epoch",
        *,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__()
        self.filepath = None if filepath is None else os.fspath(filepath)
        if self.filepath == "":
            raise InvalidInput("filepath is '': give the name of a file, or None to save no files")
        self.save_freq = _checked_save_freq(save_freq)
        self.save_weights_only = save_weights_only
        self.experiment: replicate_core.Experiment | None = None
        self._params = params
        self._primary_metric = PrimaryMetric.parse(primary_metric)
        self._saved_step = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002, D102  # a hook of Lightning
        if not any(isinstance(callback, _Saver) and callback.owner is self for callback in trainer.callbacks):
            trainer.callbacks.append(_Saver(self))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        self._saved_step = trainer.global_step
        if trainer.is_global_zero and not trainer.fast_dev_run:
            if self.filepath is not None:
                replicate_core.Project().check_path(self.filepath)
            self.experiment = replicate_core.init(self._params)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        if self.experiment is not None:
            self.experiment.stop()

    def after_batch(self, trainer: Any) -> None:
        """Save if so many training steps have passed."""
        step = trainer.global_step
        if isinstance(self.save_freq, int) and step // self.save_freq > self._saved_step // self.save_freq:
            self._checkpoint(trainer, step)

    def after_epoch(self, trainer: Any) -> None:
        """Save if it is done at the end of epochs."""
        if self.save_freq == "epoch":
            self._checkpoint(trainer, trainer.current_epoch)

    def _checkpoint(self, trainer: Any, step: int) -> None:
        if trainer.fast_dev_run:
            return
        self._saved_step = trainer.global_step
        if self.filepath is not None:
            trainer.save_checkpoint(self.filepath, self.save_weights_only)  # collective: every rank takes part
        if self.experiment is None:
            return
        metrics = dict(trainer.callback_metrics)
        primary = self._primary_metric
        if self.save_freq != "epoch" and primary is not None and primary.name not in metrics:
            primary = None  # steps before the first validation know none of its metrics
        self.experiment.checkpoint(
            self.filepath, metrics, primary, step, epoch=trainer.current_epoch, global_step=trainer.global_step
        )


def _checked_save_freq(save_freq: object) -> str | int:
    if save_freq == "epoch":
        return "epoch"
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq
    raise InvalidInput(f'save_freq must be "epoch" or a number of training steps from 1, got {save_freq!r}')
