"""`ReplicateCallback`: translates Keras' terms (epoch, batch, logs) to replicate's (step, metrics, checkpoint).

Uses the public hooks of Keras and one undocumented attribute, `model._initial_epoch`: Keras' source says that callbacks
may set it. `saving` writes model files, `loading` reads them; `state` holds what else training depends on.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import keras

import replicate_core
from replicate_core import Checkpoint, InvalidInput, PrimaryMetric, adapters
from replicate_core.adapters import (
    AUTO,
    EPOCH,
    check_keep,
    check_overhead,
    check_path,
    check_period,
    check_primary_metric,
    check_resume,
    copy_for_training,
    discard,
    expand_template,
    is_number,
    warn,
    warn_only,
)
from replicate_keras import state as states
from replicate_keras import variables
from replicate_keras.arguments import Best, check_options, check_params, check_save_freq, check_verbose
from replicate_keras.data import MAX_SECONDS, current_fit
from replicate_keras.loading import local_copy, restore, weights_of
from replicate_keras.saving import check_filepath, number, quietly, save, say
from replicate_keras.state import State

MID_EPOCH_SECONDS = 300.0
"""With `save_freq="auto"`: minimum number of seconds between two saves inside an epoch."""


class ReplicateCallback(keras.callbacks.ModelCheckpoint):
    """Record training: begin an experiment when training begins, and save the model and its metrics along the way.

    It is a `ModelCheckpoint` of Keras and behaves like one. In addition, each file that it saves becomes a checkpoint
    of an experiment, with the metrics at that time.

    Args:
        filepath: where the model is saved: `.keras` (recommended), `.h5` or `.hdf5`; with `save_weights_only` it must
            end in `.weights.h5`. May be a template, `"m-{epoch:02d}-{loss:.2f}.keras"`. None saves no file, only
            metrics.
        params: hyperparameters to record.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`) by which checkpoints are compared.
        save_freq: `"epoch"`; a number of batches; or `"auto"`: as often as `max_overhead` allows, only at the end of
            epochs if that is often enough. The step of a checkpoint is the epoch (from 0) with `"epoch"`, else the
            number of batches since training began; its epoch is always recorded.
        period: with `save_freq="epoch"`, save after every `period` epochs; metrics are recorded after each epoch.
        save_weights_only: save the weights and the optimizer without the model.
        save_best_only: save a file only when the monitored metric is the best so far; metrics are always recorded. A
            metric that is missing or not a single number can't be compared: then every model is saved, with a warning.
        monitor: the metric that `save_best_only` compares; default: the primary one, else `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`: decided by the primary metric, else by the name of the metric.
        initial_value_threshold: the initial best value of `monitor`.
        verbose: 1 prints what is saved and where, and with `save_best_only` what is not, as `ModelCheckpoint` does.
        options: refused; an argument of `ModelCheckpoint` before Keras 3.
        keep_best, keep_last: how many of the best checkpoints by the primary metric, and of the last ones, keep their
            files. Without both, all do; if only one is given, the other is 1. Metrics are always kept. See
            `Experiment.keep`.
        max_overhead: with `save_freq="auto"`, the share of training time that saving may take; default: 0.05.
        save_on_exception: save once more when an exception, Ctrl-C or SIGTERM ends the training. Keras calls no hook
            then, so this happens at the end of a `with callback:` block around `fit`, else at the end of the process.
            Elsewhere, and with the JAX backend in the middle of a step, there is nothing to save.
        name, tags, notes: name, tags and notes of the experiment, as in `replicate.init`.
        resume: `"auto"` resumes the same run if it was killed, failed or was interrupted: model, optimizer, epoch,
            random states, the best value so far, and the states of `EarlyStopping` and `ReduceLROnPlateau`. To extend
            a finished run, give the beginning of the id of an experiment or checkpoint. See `replicate.init`. Only the
            first `fit` that is trained to its end resumes.
        experiment: a running experiment to record into; it does not end with the training. If it was resumed, so is
            the training.

    Attributes:
        experiment: the experiment that is recorded into. None before the first training, and after one that failed
            before the end of its first batch without recording anything.

    Raises:
        InvalidInput: an argument is invalid; at construction.
    """

    def __init__(  # the arguments of ModelCheckpoint, and more
        self,
        filepath: str | os.PathLike[str] | None = "model.hdf5",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: str | int = EPOCH,
        *,
        period: int = 1,
        save_weights_only: bool = False,
        save_best_only: bool = False,
        monitor: str | None = None,
        mode: str = "auto",
        initial_value_threshold: float | None = None,
        verbose: int = 0,
        options: None = None,
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
        check_params(params)  # first: ModelCheckpoint's second argument, monitor, may be here
        self._primary_metric = check_primary_metric(primary_metric)
        self._best = Best(monitor, mode, self._primary_metric, initial_value_threshold)
        self._threshold = self._best.value
        # Keras never writes this file: this class saves its own.
        super().__init__("unused.weights.h5", monitor=self._best.monitor, save_weights_only=True)
        self.save_weights_only = save_weights_only
        self.save_best_only = save_best_only
        self.save_freq = check_save_freq(save_freq)
        self.period = check_period(period, self.save_freq)
        self.verbose = check_verbose(verbose)
        check_options(options)
        places = ("epoch",) if self.save_freq == EPOCH else ("epoch", "batch")
        self.filepath = check_filepath(filepath, save_weights_only=save_weights_only, places=places)
        self.experiment = experiment
        self._is_given = experiment is not None
        self._begin = {"params": params, "name": name, "tags": tags, "notes": notes}
        self._resume = resume
        self._max_overhead = check_overhead(max_overhead, self.save_freq)
        self._saves_on_exception = save_on_exception
        self._keep = check_keep(keep_best, keep_last, self._primary_metric)
        if save_best_only:
            self._best.is_less_better  # noqa: B018  # raises now if the metric has no known goal
        has_file_rule = save_best_only or save_on_exception or self._keep or self.period > 1
        if filepath is None and (has_file_rule or resume is not None):
            raise InvalidInput("filepath=None saves no files, so nothing can be resumed, kept or best: give a filepath")
        check_resume(resume, experiment)
        self._has_trained = False
        self._reset()

    @property
    def best(self) -> float | None:
        """The best value of `monitor` that was saved with `save_best_only`, as in `ModelCheckpoint`."""
        return self._best.value

    @best.setter
    def best(self, value: float | None) -> None:
        self._best.value = value

    def _reset(self) -> None:
        """Reset the state to that before a training."""
        self._is_training = False
        self._epoch = self._batches = self._due_batches = 0
        self._last_batch = -1
        self._has_begun = self._was_called = False
        self._rate: float | None = None
        self._logs: dict[str, Any] = {}
        self._restored: State | None = None
        self._first_random: dict[str, Any] = {}
        self._siblings: list[Any] = []
        self._is_described = False
        self._warned_of: set[str] = set()
        self._lacks_primary = self._is_undecided = self._has_compared = False
        self._best.value = self._threshold
        self._began = self._due_at = time.monotonic()
        self._saving_seconds = self._save_seconds = 0.0
        self._unsaved = self._has_saved = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the experiment: another process begins its own."""
        return vars(self) | {"_siblings": [], "experiment": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicateCallback:
        """Copy for another training in this process, with a new experiment unless one was given."""
        copied: ReplicateCallback = copy_for_training(self, memo, given=self.experiment if self._is_given else None)
        return copied

    # Hooks of Keras.

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        if self._is_training:  # an exception ended the last training, but not the process, as in a notebook
            self._end(getattr(sys, "last_value", None) or KeyboardInterrupt())
        self._reset()
        if self.filepath is not None:  # check again: the working directory may have changed
            check_path(self.filepath)
        with quietly():
            self._rate = states.compiled_rate(self.model)
        restored = None
        self._first_random = states.random_states(self.model) if isinstance(self.model, keras.Model) else {}
        if not self._is_given:
            restored = self._begin_own()
        elif self.experiment is None:
            raise InvalidInput(
                "the experiment was begun in another process than the one that trains: leave experiment out, or call "
                "replicate.init() there"
            )
        self._is_training = True
        atexit.register(self._at_exit)
        assert self.experiment is not None, "it was begun, or given"
        if self._keep:
            self.experiment.keep(**self._keep)
        self._siblings = states.call_last(self)
        if self._is_given and not self._has_trained and (checkpoint := self.experiment.resumed_from) is not None:
            restored = self._restore(checkpoint)
        if restored is not None:
            self._resume_at(restored)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        self._epoch, self._last_batch = epoch, -1
        self._apply_restored()  # not earlier: Keras and other callbacks were still initializing

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        self._was_called = True
        if not self._has_begun:
            self._has_begun = True
            if not self._saves_on_exception:
                atexit.unregister(self._at_exit)
        if (steps := (self.params or {}).get("steps")) is not None:
            batch = min(
                batch, steps - 1
            )  # the last step of steps_per_execution may hold fewer batches than Keras reports
        self._batches += batch - self._last_batch
        self._last_batch = batch
        self._unsaved = True
        self._logs = dict(logs or {})
        if self.save_freq == AUTO:
            is_due = self._is_affordable(2.0) and time.monotonic() - self._due_at > MID_EPOCH_SECONDS
        else:
            is_due = isinstance(self.save_freq, int) and self._batches - self._due_batches >= self.save_freq
        if is_due:  # whether or not a file is saved now: the interval starts again
            self._due_batches, self._due_at = self._batches, time.monotonic()
            self._checkpoint(logs, batch=batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        self._was_called = self._has_begun = True
        self._logs = dict(logs or {})
        if self.save_freq == EPOCH:
            self._checkpoint(logs, with_files=(epoch + 1) % self.period == 0)
        elif self.save_freq == AUTO:
            self._checkpoint(logs, with_files=self._is_affordable())
        elif self._is_undecided or self._has_primary_now():
            self._checkpoint(logs)  # metrics that were missing after batches are known now
        self._is_undecided = False

    def _has_primary_now(self) -> bool:
        """Tell whether the primary metric, which was missing after batches, is known now."""
        return self._lacks_primary and self._primary_metric is not None and self._primary_metric.name in self._logs

    @contextmanager
    def ensure_called(self, hook: str, index: int, logs: Mapping[str, Any] | None) -> Iterator[None]:
        """Wrap a call of all callbacks after a batch or epoch, so that this one is called even if another raises."""
        self._was_called = False
        try:
            yield
        finally:
            if self._is_training and not self._was_called:
                self._call_late(hook, index, logs)

    def _call_late(self, hook: str, index: int, logs: Mapping[str, Any] | None) -> None:
        try:
            getattr(self, hook)(index, logs)
        except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
            warn_only(f"a callback raised, and so this moment could not be recorded: {type(error).__name__}: {error}")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        for callback in self._apply_restored():  # no epoch was left: do now what EarlyStopping would have done
            if getattr(callback, "restore_best_weights", False) and callback.best_weights is not None:
                self.model.set_weights(callback.best_weights)
        if self.save_freq == AUTO and self._unsaved and self._batches:
            self._checkpoint(self._logs)
        self._set_initial_epoch(None)
        self._has_trained = True
        self._end(None)

    # Hooks that `tf_keras` (Keras 2) calls: its models may be trained beside Keras 3.

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False

    # Around `fit`.

    def __enter__(self) -> ReplicateCallback:  # noqa: PYI034  # Self came with Python 3.11
        """Return the callback: an exception that ends the `with` block ends the training with it."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the training with the block's exception, if any; with `save_on_exception`, save the model first."""
        if self._is_training:
            self._save_once_more()
            self._end(error)

    def _at_exit(self) -> None:
        assert self.experiment is not None, "training began"
        if self._is_training and self.experiment.is_recorded_here:  # else this process has resumed it meanwhile
            self._save_once_more()
            self._discard()

    def _discard(self) -> bool:
        """Discard the experiment if training failed before it began; returns whether it did."""
        if self._has_begun or self._is_given or self.experiment is None or not discard(self.experiment):
            return False
        self.experiment = None
        return True

    def _save_once_more(self) -> None:
        """Save the model after the training ended early."""
        if not self._saves_on_exception or not self._unsaved:
            return
        try:
            self._checkpoint(self._logs, batch=max(self._last_batch, 0), is_last=True)
        except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
            warn_only(f"the model could not be saved once more: {type(error).__name__}: {error}")

    def _end(self, error: BaseException | None) -> None:
        self._is_training = False
        self._siblings = []
        atexit.unregister(self._at_exit)
        if error is not None and self._discard():
            return
        if self.experiment is not None and not self._is_given:
            self.experiment.end_training(error)

    # Saving.

    def _checkpoint(
        self,
        logs: Mapping[str, Any] | None,
        *,
        batch: int | None = None,
        with_files: bool = True,
        is_last: bool = False,
    ) -> None:
        """Record a checkpoint.

        Args:
            logs: the metrics.
            batch: the index of the last batch; None at the end of an epoch.
            with_files: whether to save the model, too.
            is_last: whether training ends here: then the model is saved even if it is not the best.
        """
        assert self.experiment is not None, "training began"
        before = self._best.value
        metrics = {name: number(value) for name, value in (logs or {}).items()}
        if self.save_best_only and with_files:
            with_files = self._should_save(metrics, batch) or is_last
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
        """Save the model; returns its path, or None after a failure that training survives, such as a full disk."""
        self._say(f"saving model to {path}")
        try:
            self._save(path, is_whole=is_whole)
        except Exception as error:
            if not self._has_saved and not isinstance(error, OSError):  # this model can never be saved this way
                raise
            warn_only(f"the model could not be saved to {path}, only its metrics are: {type(error).__name__}: {error}")
            return None
        self._has_saved = True
        self._say(f"finished saving model to {path}")
        return path

    def _save(self, path: str, *, is_whole: bool) -> None:
        assert self.experiment is not None, "training began"
        began = time.monotonic()
        model = self.model  # with JAX this gathers the weights, so every process of a distributed run must do it
        try:
            if self.experiment.is_recorded_here:
                is_legacy = not self.save_weights_only and not path.endswith(".keras")
                here = State(
                    epoch=self._epoch + 1 if is_whole else self._epoch,
                    batches=self._batches,
                    is_whole=is_whole,
                    best=self._best.value,
                    build=states.build_config_of(model),
                    random=states.random_states(model),
                    callbacks=states.callback_states(self._siblings),
                    due=self._due_batches,
                    rate=self._rate,
                    **variables.extra_state(model, with_optimizers=is_legacy),
                )
                save(model, path, weights_only=self.save_weights_only, state=here)
        finally:  # a failed save takes time, too
            self._due_at = time.monotonic()
            self._save_seconds = self._due_at - began
            self._saving_seconds += self._save_seconds
        self._unsaved = False

    def _say(self, text: str) -> None:
        if self.verbose:
            say(f"\nEpoch {self._epoch + 1}: {text}")

    def _warn_once(self, topic: str, text: str) -> None:
        """Warn once in each training."""
        if topic not in self._warned_of:
            self._warned_of.add(topic)
            warn(text)

    def _is_affordable(self, factor: float = 1.0) -> bool:
        """Tell whether another save, taking `factor` times the last one, stays within `max_overhead`."""
        seconds = self._saving_seconds + factor * self._save_seconds
        return seconds <= self._max_overhead * (time.monotonic() - self._began)

    def _should_save(self, metrics: Mapping[str, Any], batch: int | None) -> bool:
        """Tell whether `save_best_only` allows saving the model now."""
        monitor, value, best = self._best.monitor, metrics.get(self._best.monitor), self._best.value
        if is_number(value):
            if value != value and not self._has_compared:  # noqa: PLR0124  # NaN
                self._warn_once(
                    f"{monitor} is NaN",
                    f"save_best_only compares numbers, and {monitor!r} is NaN: every model is saved until it is a "
                    "number",
                )
                return True
            self._has_compared = True
            is_better = self._best.improves(value)
            than = f"from {'None' if best is None else format(best, '.5f')}"
            self._say(f"{monitor} improved {than} to {value:.5f}" if is_better else f"{monitor} did not improve {than}")
            return is_better
        if monitor in metrics:
            self._warn_once(
                f"what {monitor} is",
                f"save_best_only compares numbers, and {monitor!r} is {_described(metrics[monitor])}, not a single "
                "number: every model is saved. Monitor a metric that is one, such as the mean over the classes",
            )
            return True
        if batch is not None:
            self._is_undecided = True
            self._warn_once(
                f"{monitor} after batches",
                f"save_best_only looks at {monitor!r}, which is not known after a batch: what is saved is decided at "
                "the end of an epoch",
            )
            return False
        if self._has_compared:  # an earlier model is the best
            return False
        self._warn_once(
            f"where {monitor} is",
            f"save_best_only looks at {monitor!r}, which is not among the metrics ({', '.join(metrics)}): every model "
            "is saved until it is",
        )
        return True

    def _primary_in(self, metrics: Mapping[str, Any], batch: int | None) -> PrimaryMetric | None:
        """Return the primary metric if it is known by now: validation metrics are unknown after batches."""
        primary = self._primary_metric
        if primary is None or primary.name in metrics:
            return primary
        if batch is None:
            fit = current_fit(self.model) if primary.name.startswith("val_") else None
            return (
                primary if fit is None or fit.validates(self._epoch) else None
            )  # no validation was due: nothing to warn about
        self._lacks_primary = True
        self._warn_once(
            f"{primary.name} after batches",
            f"{primary.name!r} is not known after a batch, only at the end of an epoch: checkpoints in between are "
            "recorded without a primary metric, and one more is saved at the end of each epoch",
        )
        return None

    def _extra(self) -> dict[str, Any]:
        """Return what is recorded beside the metrics: the epoch; with the first checkpoint also a description."""
        extra: dict[str, Any] = {"epoch": self._epoch}
        if not self._is_described:
            self._is_described = True
            extra["keras"] = states.description(self.model, self.params or {})
        return extra

    # Resuming.

    def _begin_own(self) -> State | None:
        """Begin or resume an experiment; returns the restored state of training.

        The model is restored first: if that fails, nothing is recorded, and the run to resume is unchanged.
        """
        prepared = adapters.prepare(
            **self._begin,  # type: ignore[arg-type]  # each value belongs to the argument of its name
            resume=None if self._has_trained else self._resume,
        )
        checkpoint = prepared.resumed_from
        restored = None if checkpoint is None else self._restore(checkpoint)
        self.experiment = prepared.begin()
        return restored

    def _restore(self, checkpoint: Checkpoint) -> State | None:
        """Restore the model; returns the state of training that was saved with it, if any."""
        fit = current_fit(self.model)
        with local_copy(checkpoint) as path:
            restored = restore(self.model, path, None if fit is None else fit.epochs)
        if restored is None:
            warn(
                f"the checkpoint {checkpoint.short_id} was not saved by this callback: training starts at "
                "epoch 0 with its weights"
            )
        return restored

    def _resume_at(self, restored: State) -> None:
        """Continue training from a restored state."""
        self._restored = restored
        self._batches = restored.batches
        self._due_batches = restored.batches if restored.due is None else restored.due
        if restored.best is not None:
            self._has_compared = restored.best != self._threshold
            self._best.value = restored.best
        self._keep_rate(restored)
        if states.loses_layer_states(self.model):
            self._warn_once(
                "states of layers",
                "the states of layers with stateful=True are not saved by Keras: they begin at zero, and training ends "
                "with other weights than it would have without the restart",
            )
        states.prepare_swapping(self._siblings, restored)
        epochs = (self.params or {}).get("epochs")
        is_over = states.was_stopped(self._siblings, restored.callbacks) and epochs
        self._set_initial_epoch(is_over or restored.epoch)
        if epochs is not None and restored.epoch < epochs and not is_over:
            self._replay_data(restored.epoch)

    def _replay_data(self, until: int) -> None:
        """Replay stateful data up to an epoch."""
        fit = current_fit(self.model)
        if fit is None or not fit.is_stateful or until <= fit.initial_epoch:
            return
        states.restore_random_states(self.model, self._first_random)  # those of the first start
        if not fit.replay(until):
            warn(
                f"the data of {until} epochs could not be drawn again within {MAX_SECONDS:.0f} seconds: training "
                "continues with other batches than it would have without the restart. A keras.utils.PyDataset with "
                "fit(shuffle=True), or arrays, can be resumed without that"
            )

    def _keep_rate(self, restored: State) -> None:
        """Warn if the script compiled another learning rate than at the start of the run: the restored one is used."""
        now, then, self._rate = self._rate, restored.rate, restored.rate
        has_schedule = any(isinstance(one, keras.callbacks.LearningRateScheduler) for one in self._siblings)
        if None in (now, then) or now == then or has_schedule:
            return
        warn(
            f"the optimizer was compiled with the learning rate {now:g}, and with {then:g} when this run began: "
            f"training resumes with that of the checkpoint, {states.learning_rate(self.model):g}. To use the new "
            f"one, give fit keras.callbacks.LearningRateScheduler(lambda epoch: {now:g})"
        )

    def _set_initial_epoch(self, epoch: int | None) -> None:
        """Let `fit` begin at an epoch; None: at its argument `initial_epoch`."""
        self.model._initial_epoch = epoch  # noqa: SLF001  # its source says "Can be set by callbacks in on_train_begin"

    def _apply_restored(self) -> list[Any]:
        """Apply the restored state, if there is one; returns the callbacks whose state was restored."""
        if self._restored is None:
            return []
        restored, self._restored = self._restored, None
        self._set_initial_epoch(None)  # else later calls of `fit` would begin there, too
        restored_callbacks = self._restore_siblings(restored)
        states.restore_random_states(self.model, restored.random)
        return restored_callbacks

    def _restore_siblings(self, restored: State) -> list[Any]:
        """Restore the states of the other callbacks; returns the callbacks that were restored."""
        restored_callbacks = states.restore_callback_states(self._siblings, restored.callbacks)
        for callback in restored_callbacks:
            if getattr(callback, "restore_best_weights", False) and callback.best is not None:
                callback.best_weights = self._weights_of_epoch(callback.best_epoch)
                if callback.best_weights is None:
                    warn(
                        f"{type(callback).__name__} can't restore the weights of epoch {callback.best_epoch}, its best "
                        "one before the restart: there is no checkpoint of it with files"
                    )

        return restored_callbacks

    def _weights_of_epoch(self, epoch: int) -> list[Any] | None:
        """Return the weights at the end of an epoch, if they were saved."""
        assert self.experiment is not None, "training began"
        for checkpoint in reversed(self.experiment.checkpoints):
            if checkpoint.extra.get("epoch") == epoch and checkpoint.path is not None and self.save_freq == EPOCH:
                with suppress(replicate_core.ReplicateError), local_copy(checkpoint) as path:
                    return weights_of(self.model, path)
        return None


def _described(value: Any) -> str:
    """Describe a metric that is not a number: by its shape, or its repr."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"an array of shape {tuple(shape)}"
