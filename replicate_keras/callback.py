"""`ReplicateCallback`: Keras' words (epoch, batch, logs) in replicate's (step, metrics, checkpoint).

Uses the public hooks of Keras only. How a model becomes a file is in `saving`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras

import replicate_core
from replicate_core import InvalidInput, PrimaryMetric
from replicate_keras.saving import check_filepath, expand, save


class ReplicateCallback(keras.callbacks.ModelCheckpoint):
    """Record training: begin an experiment when it begins, and save model and metrics as it goes on.

    It behaves like Keras' own `ModelCheckpoint`, and is one; and each file it saves becomes a checkpoint of an
    experiment, with the metrics of that moment.

    Args:
        filepath: where the model is saved: `.keras` (recommended), `.h5` or `.hdf5`; with `save_weights_only` it must
            end in `.weights.h5`. May hold names to fill in, `"m-{epoch:02d}-{loss:.2f}.keras"`. None saves no file,
            only metrics.
        params: hyperparameters to record.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`) by which checkpoints are compared.
        save_freq: `"epoch"`, or a number of batches. The step of a checkpoint is the epoch (from 0), or the batches
            seen since training began.
        save_weights_only: save the weights without model and optimizer.

    Raises:
        InvalidInput: an argument can't be taken; at construction.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = "model.hdf5",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: str | int = "epoch",
        *,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__("unused.weights.h5", save_weights_only=True)  # its file is never written: ours is
        self.save_weights_only = save_weights_only
        self.save_freq = _checked_save_freq(save_freq)
        places = ("epoch",) if self.save_freq == "epoch" else ("epoch", "batch")
        self.filepath = check_filepath(filepath, save_weights_only=save_weights_only, places=places)
        self.experiment: replicate_core.Experiment | None = None
        self._experiment_params = params
        self._primary_metric = PrimaryMetric.parse(primary_metric)
        self._epoch = 0
        self._last_batch = -1
        self._batches = 0
        self._saved_batches = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102  # a hook of Keras
        self._batches = self._saved_batches = 0
        if self.filepath is not None:
            replicate_core.Project().check_path(self.filepath)
        self.experiment = replicate_core.init(self._experiment_params)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        self._epoch, self._last_batch = epoch, -1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        self._batches += batch - self._last_batch  # more than one with steps_per_execution
        self._last_batch = batch
        if isinstance(self.save_freq, int) and self._batches - self._saved_batches >= self.save_freq:
            self._saved_batches = self._batches
            self._checkpoint(self._batches, {"epoch": self._epoch + 1, "batch": batch + 1}, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        if self.save_freq == "epoch":
            self._checkpoint(epoch, {"epoch": epoch + 1}, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        if self.experiment is not None:
            self.experiment.stop()

    def _checkpoint(self, step: int, place: Mapping[str, int], logs: Mapping[str, Any] | None) -> None:
        assert self.experiment is not None, "training began"
        metrics = dict(logs or {})
        path = None
        if self.filepath is not None:
            path = expand(self.filepath, {**metrics, **place})
            save(self.model, path, weights_only=self.save_weights_only)
        primary = self._primary_metric
        if self.save_freq != "epoch" and primary is not None and primary.name not in metrics:
            primary = None  # batches know no validation metrics
        self.experiment.checkpoint(path, metrics, primary, step, epoch=self._epoch)


def _checked_save_freq(save_freq: object) -> str | int:
    if save_freq == "epoch":
        return "epoch"
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq
    raise InvalidInput(f'save_freq must be "epoch" or a number of batches from 1, got {save_freq!r}')
