"""`ReplicateCallback`: Keras' words (epoch, batch, logs) in replicate's (step, metrics, checkpoint).

Uses the public hooks of Keras, and one attribute that is not documented: `model._initial_epoch`, of which Keras' source
says that callbacks may set it. How a model becomes a file is in `saving`, and a model again in `loading`; what training
depends on beside it in `state`.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import keras

import replicate_core
from replicate_core import (
    AUTO,
    Checkpoint,
    InvalidInput,
    PrimaryMetric,
    check_keep,
    check_overhead,
    check_resume,
    expand_template,
)
from replicate_keras import state as states
from replicate_keras.arguments import EPOCH, Best, check_save_freq
from replicate_keras.loading import local_copy, restore, weights_of
from replicate_keras.saving import check_filepath, number, save
from replicate_keras.state import State

MID_EPOCH_SECONDS = 300.0
"""With `save_freq="auto"`: no more often than this is anything saved inside an epoch."""


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
        save_freq: `"epoch"`; a number of batches; or `"auto"`: as often as `max_overhead` allows, at the end of epochs
            where that is often enough. The step of a checkpoint is the epoch (from 0) with `"epoch"`, else the batches
            seen since training began; its epoch is recorded in any case.
        save_weights_only: save the weights and the optimizer without the model.
        save_best_only: save a file only when what is monitored is better than ever; metrics are recorded anyway.
        monitor: the metric for that; left out, the primary one, else `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`, as the primary metric or the name of the metric says.
        initial_value_threshold: the value of `monitor` to be better than from the beginning.
        keep_best, keep_last: keep the files of so many of the best checkpoints by the primary metric, and of the last
            ones; left out, of all, or of one where the other is given. Metrics are always kept. See `Experiment.keep`.
        max_overhead: with `save_freq="auto"`, the share of the time of training that saving may take; left out, 0.05.
        save_on_exception: save once more when an exception, Ctrl-C or SIGTERM ends the training: at the end of a `with`
            block around `fit`, `with callback:`, or else of the process. Keras calls no hook then: elsewhere, and with
            the JAX backend in the midst of a step, there is nothing to save.
        name, tags, notes: of the experiment, as in `replicate.init`.
        resume: `"auto"` goes on where the same run was killed: model, optimizer, epoch, random states, the best value
            so far, and what `EarlyStopping` and `ReduceLROnPlateau` remember. Or how the id of an experiment or
            checkpoint begins. See `replicate.init`. Only the first `fit` that is trained to its end resumes.
        experiment: one that the script has begun, to record into; it is not ended with the training. If it was resumed,
            so is the training.

    Attributes:
        experiment: what it records into; None before the first training.

    Raises:
        InvalidInput: an argument can't be taken; at construction.
    """

    def __init__(  # Keras' words, and ours
        self,
        filepath: str | os.PathLike[str] | None = "model.hdf5",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: str | int = EPOCH,
        *,
        save_weights_only: bool = False,
        save_best_only: bool = False,
        monitor: str | None = None,
        mode: str = "auto",
        initial_value_threshold: float | None = None,
        keep_best: int | None = None,
        keep_last: int | None = None,
        max_overhead: float | None = None,
        save_on_exception: bool = False,
        name: str | None = None,
        tags: Iterable[str] = (),
        notes: str | None = None,
        resume: str | None = None,
        experiment: replicate_core.Experiment | None = None,
    ) -> None:
        super().__init__("unused.weights.h5", save_weights_only=True)  # its file is never written: ours is
        self.save_weights_only = save_weights_only
        self.save_best_only = save_best_only
        self.save_freq = check_save_freq(save_freq)
        places = ("epoch",) if self.save_freq == EPOCH else ("epoch", "batch")
        self.filepath = check_filepath(filepath, save_weights_only=save_weights_only, places=places)
        self.experiment = experiment
        self._is_given = experiment is not None
        self._begin = {"params": params, "name": name, "tags": tags, "notes": notes}
        self._resume = resume
        self._primary_metric = PrimaryMetric.parse(primary_metric)
        self._best = Best(monitor, mode, self._primary_metric, initial_value_threshold)
        self._threshold = initial_value_threshold
        self._max_overhead = check_overhead(max_overhead, self.save_freq)
        self._saves_on_exception = save_on_exception
        self._keep = check_keep(keep_best, keep_last, self._primary_metric)
        if save_best_only:
            self._best.is_less_better  # noqa: B018  # so that a name that says nothing is told of now
        if filepath is None and (save_best_only or save_on_exception or self._keep or resume is not None):
            raise InvalidInput("filepath=None saves no files: nothing could be resumed or kept, or be the best one")
        check_resume(resume, experiment)
        self._has_trained = False
        self._forget()

    def _forget(self) -> None:
        """Be as before a training."""
        self._is_training = False
        self._epoch = self._batches = self._saved_batches = 0
        self._last_batch = -1
        self._logs: dict[str, Any] = {}
        self._restored: State | None = None
        self._siblings: list[Any] = []
        self._is_described = False
        self._has_warned = False
        self._best.value = self._threshold
        self._began = self._saved_at = time.monotonic()
        self._saving_seconds = self._save_seconds = 0.0
        self._unsaved = self._has_saved = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which record experiments of their own."""
        return vars(self) | {"_siblings": [], "experiment": self.experiment if self._is_given else None}

    # Hooks of Keras.

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        if self._is_training:  # an exception ended that training, and the process went on: in a notebook
            self._end(getattr(sys, "last_value", None) or KeyboardInterrupt())
        self._forget()
        if self.filepath is not None:
            replicate_core.Project().check_path(self.filepath)
        if not self._is_given:
            self.experiment = replicate_core.init(
                **self._begin,  # type: ignore[arg-type]  # each value belongs to the argument of its name
                resume=None if self._has_trained else self._resume,
            )
        self._is_training = True
        if self._saves_on_exception:
            atexit.register(self._save_at_exit)
        assert self.experiment is not None, "it was begun, or given"
        if self._keep:
            self.experiment.keep(**self._keep)
        self._siblings = states.come_last(self)
        if not self._has_trained and (checkpoint := self.experiment.resumed_from) is not None:
            self._go_on_from(checkpoint)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        self._epoch, self._last_batch = epoch, -1
        self._take_over()  # not before: until now Keras and other callbacks were still beginning

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        if (steps := (self.params or {}).get("steps")) is not None:
            batch = min(batch, steps - 1)  # the last step of steps_per_execution may be shorter than it says
        self._batches += batch - self._last_batch
        self._last_batch = batch
        self._unsaved = True
        self._logs = dict(logs or {})
        if self.save_freq == AUTO:
            is_due = self._is_affordable(2.0) and time.monotonic() - self._saved_at > MID_EPOCH_SECONDS
        else:
            is_due = isinstance(self.save_freq, int) and self._batches - self._saved_batches >= self.save_freq
        if is_due:
            self._checkpoint(logs, batch=batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        self._logs = dict(logs or {})
        if self.save_freq == EPOCH:
            self._checkpoint(logs)
        elif self.save_freq == AUTO:
            self._checkpoint(logs, with_files=self._is_affordable())
        elif self._primary_metric is not None and self._has_warned and self._primary_metric.name in self._logs:
            self._checkpoint(logs)  # what batches do not know is known now

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        for callback in self._take_over():  # no epoch was left: what it would have done now is still to be done
            if getattr(callback, "restore_best_weights", False) and callback.best_weights is not None:
                self.model.set_weights(callback.best_weights)
        if self.save_freq == AUTO and self._unsaved and self._batches:
            self._checkpoint(self._logs)
        self._begin_at(None)
        self._has_trained = True
        self._end(None)

    # What `tf_keras` asks of a callback: Keras 2, whose models may be trained beside Keras 3.

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False

    # Around `fit`.

    def __enter__(self) -> ReplicateCallback:  # noqa: PYI034  # Self came with Python 3.11
        """Return itself: what ends the `with` block is noted as what ended the training."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the training as the block ended; with `save_on_exception`, save what there is."""
        if self._is_training:
            self._save_once_more()
            self._end(error)

    def _save_at_exit(self) -> None:
        if self._is_training:
            self._save_once_more()

    def _save_once_more(self) -> None:
        """Save in the midst of a training that is over."""
        if not self._saves_on_exception or not self._unsaved:
            return
        try:
            self._checkpoint(self._logs, batch=max(self._last_batch, 0), is_last=True)
        except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
            warnings.warn(f"the model could not be saved once more: {type(error).__name__}: {error}", stacklevel=3)

    def _end(self, error: BaseException | None) -> None:
        self._is_training = False
        self._siblings = []
        atexit.unregister(self._save_at_exit)
        if self.experiment is not None and not self._is_given:
            self.experiment.__exit__(type(error), error, None)

    # Saving.

    def _checkpoint(
        self,
        logs: Mapping[str, Any] | None,
        *,
        batch: int | None = None,
        with_files: bool = True,
        is_last: bool = False,
    ) -> None:
        """Record where training is.

        Args:
            logs: the metrics.
            batch: the index of the batch after which this is; None at the end of an epoch.
            with_files: whether to save the model, too.
            is_last: whether it is saved because training ends here: then it need not be the best one.
        """
        assert self.experiment is not None, "training began"
        before = self._best.value
        metrics = {name: number(value) for name, value in (logs or {}).items()}
        if self.save_best_only:
            with_files = self._is_best(metrics) or is_last
        path = None
        if self.filepath is not None and with_files:
            place = {"epoch": self._epoch + 1} if batch is None else {"epoch": self._epoch + 1, "batch": batch + 1}
            is_whole = batch is None or batch + 1 == (self.params or {}).get("steps")
            path = self._saved(expand_template(self.filepath, {**metrics, **place}), is_whole=is_whole)
            if path is None:
                self._best.value = before
        step = self._epoch if self.save_freq == EPOCH else self._batches
        self.experiment.checkpoint(path, metrics, self._primary_in(metrics, batch), step, **self._extra())

    def _saved(self, path: str, *, is_whole: bool) -> str | None:
        """Save the model; returns where. None if that failed by chance: training goes on then."""
        try:
            self._save(path, is_whole=is_whole)
        except Exception as error:
            if not self._has_saved and not isinstance(error, OSError):  # this model can't be saved so, now or ever
                raise
            warnings.warn(
                f"the model could not be saved to {path}, only its metrics are: {type(error).__name__}: {error}",
                stacklevel=4,
            )
            return None
        self._has_saved = True
        return path

    def _save(self, path: str, *, is_whole: bool) -> None:
        assert self.experiment is not None, "training began"
        began = time.monotonic()
        model = self.model  # with JAX this fetches the weights, which every process of a distributed run must do
        if self.experiment.is_recorded_here:
            here = State(
                epoch=self._epoch + 1 if is_whole else self._epoch,
                batches=self._batches,
                is_whole=is_whole,
                best=self._best.value,
                build=states.build_config_of(model),
                random=states.random_states(model),
                callbacks=states.remembered(self._siblings),
            )
            save(model, path, weights_only=self.save_weights_only, state=here)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
        self._saving_seconds += self._save_seconds
        self._saved_batches = self._batches
        self._unsaved = False

    def _is_affordable(self, factor: float = 1.0) -> bool:
        """Tell whether saving would not take more of the time than it may, and some."""
        seconds = self._saving_seconds + factor * self._save_seconds
        return seconds <= self._max_overhead * (time.monotonic() - self._began)

    def _is_best(self, metrics: Mapping[str, Any]) -> bool:
        if self._best.monitor not in metrics and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"save_best_only looks at {self._best.monitor!r}, which is not among the metrics "
                f"({', '.join(metrics)}): nothing is saved without it",
                stacklevel=4,
            )
        return self._best.improves(metrics.get(self._best.monitor))

    def _primary_in(self, metrics: Mapping[str, Any], batch: int | None) -> PrimaryMetric | None:
        """The primary metric, if it is known by now: batches know nothing of validation."""
        primary = self._primary_metric
        if primary is None or batch is None or primary.name in metrics:
            return primary
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{primary.name!r} is not known after a batch, only at the end of an epoch: checkpoints in between are "
                "recorded without a primary metric, and one more is saved at the end of each epoch",
                stacklevel=4,
            )
        return None

    def _extra(self) -> dict[str, Any]:
        """What is recorded beside the metrics: the epoch; and once, with the first checkpoint, what is trained."""
        extra: dict[str, Any] = {"epoch": self._epoch}
        if not self._is_described:
            self._is_described = True
            extra["keras"] = states.description(self.model, self.params or {})
        return extra

    # Going on.

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        with local_copy(checkpoint) as path:
            restored = states.read(path)
            restore(self.model, path, None if restored is None else restored.build)
        if restored is None:
            warnings.warn(
                f"the checkpoint {checkpoint.short_id} was not saved by this callback: its weights are gone on with, "
                "from epoch 0",
                stacklevel=3,
            )
            return
        self._restored = restored
        self._batches = self._saved_batches = restored.batches
        if restored.best is not None:
            self._best.value = restored.best
        is_over = states.was_stopped(self._siblings, restored.callbacks) and (self.params or {}).get("epochs")
        self._begin_at(is_over or restored.epoch)

    def _begin_at(self, epoch: int | None) -> None:
        """Let `fit` begin at an epoch; None: at the one that it was told."""
        self.model._initial_epoch = epoch  # noqa: SLF001  # its source says "Can be set by callbacks in on_train_begin"

    def _take_over(self) -> list[Any]:
        """Go on as that moment was, if there is one; returns the callbacks that were reminded."""
        if self._restored is None:
            return []
        restored, self._restored = self._restored, None
        self._begin_at(None)  # else every later `fit` would begin there
        reminded = self._remind(restored)
        states.restore_random_states(self.model, restored.random)
        return reminded

    def _remind(self, restored: State) -> list[Any]:
        """Give the callbacks beside this one back what they remembered; returns those."""
        reminded = states.remind(self._siblings, restored.callbacks)
        for callback in reminded:
            if getattr(callback, "restore_best_weights", False) and callback.best is not None:
                callback.best_weights = self._weights_of_epoch(callback.best_epoch)
                if callback.best_weights is None:
                    warnings.warn(
                        f"{type(callback).__name__} can't restore the weights of epoch {callback.best_epoch}, its best "
                        "one before the restart: there is no checkpoint of it with files",
                        stacklevel=3,
                    )

        return reminded

    def _weights_of_epoch(self, epoch: int) -> list[Any] | None:
        """The weights at the end of an epoch, if they were saved."""
        assert self.experiment is not None, "training began"
        for checkpoint in reversed(self.experiment.checkpoints):
            if checkpoint.extra.get("epoch") == epoch and checkpoint.path is not None and self.save_freq == EPOCH:
                with suppress(replicate_core.ReplicateError), local_copy(checkpoint) as path:
                    return weights_of(self.model, path)
        return None
