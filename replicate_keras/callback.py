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
        period: with `save_freq="epoch"`, save after every so many epochs; metrics are recorded after each of them.
        save_weights_only: save the weights and the optimizer without the model.
        save_best_only: save a file only when what is monitored is better than ever; metrics are recorded anyway. What
            is not a single number, or was never there, can't be compared: then all are saved, with a warning.
        monitor: the metric for that; left out, the primary one, else `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`, as the primary metric or the name of the metric says.
        initial_value_threshold: the value of `monitor` to be better than from the beginning.
        verbose: 1 prints what is saved where, and with `save_best_only` why not, as `ModelCheckpoint` does.
        options: refused; of `ModelCheckpoint` before Keras 3.
        keep_best, keep_last: keep the files of so many of the best checkpoints by the primary metric, and of the last
            ones; left out, of all, or of one where the other is given. Metrics are always kept. See `Experiment.keep`.
        max_overhead: with `save_freq="auto"`, the share of the time of training that saving may take; left out, 0.05.
        save_on_exception: save once more when an exception, Ctrl-C or SIGTERM ends the training: at the end of a `with`
            block around `fit`, `with callback:`, or else of the process. Keras calls no hook then: elsewhere, and with
            the JAX backend in the midst of a step, there is nothing to save.
        name, tags, notes: of the experiment, as in `replicate.init`.
        resume: `"auto"` goes on where the same run was killed, failed or was interrupted: model, optimizer, epoch,
            random states, the best value so far, and what `EarlyStopping` and `ReduceLROnPlateau` remember. What has
            finished is extended by its id: how that of an experiment or checkpoint begins. See `replicate.init`. Only
            the first `fit` that is trained to its end resumes.
        experiment: one that the script has begun, to record into; it is not ended with the training. If it was resumed,
            so is the training.

    Attributes:
        experiment: what it records into; None before the first training, and after one that failed before the end of
            its first batch: nothing is left of that, unless something was recorded.

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
        check_params(params)  # first: what ModelCheckpoint takes second stands there
        self._primary_metric = check_primary_metric(primary_metric)
        self._best = Best(monitor, mode, self._primary_metric, initial_value_threshold)
        self._threshold = self._best.value
        # Its file is never written: ours is.
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
            self._best.is_less_better  # noqa: B018  # so that a metric without a known goal is an error now
        has_file_rule = save_best_only or save_on_exception or self._keep or self.period > 1
        if filepath is None and (has_file_rule or resume is not None):
            raise InvalidInput("filepath=None saves no files: nothing could be resumed or kept, or be the best one")
        check_resume(resume, experiment)
        self._has_trained = False
        self._forget()

    @property
    def best(self) -> float | None:
        """The best value of `monitor` of those with a file, with `save_best_only`; as of `ModelCheckpoint`."""
        return self._best.value

    @best.setter
    def best(self, value: float | None) -> None:
        self._best.value = value

    def _forget(self) -> None:
        """Be as before a training."""
        self._is_training = False
        self._epoch = self._batches = self._due_batches = 0
        self._last_batch = -1
        self._has_begun = self._is_told = False
        self._rate: float | None = None
        self._logs: dict[str, Any] = {}
        self._restored: State | None = None
        self._first_random: dict[str, Any] = {}
        self._siblings: list[Any] = []
        self._is_described = False
        self._told_of: set[str] = set()
        self._lacks_primary = self._is_undecided = self._has_compared = False
        self._best.value = self._threshold
        self._began = self._due_at = time.monotonic()
        self._saving_seconds = self._save_seconds = 0.0
        self._unsaved = self._has_saved = False

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, where they begin experiments of their own."""
        return vars(self) | {"_siblings": [], "experiment": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicateCallback:
        """A copy for another training of this process, with an experiment of its own unless one was given."""
        copied: ReplicateCallback = copy_for_training(self, memo, given=self.experiment if self._is_given else None)
        return copied

    # Hooks of Keras.

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        if self._is_training:  # an exception ended that training, and the process went on: in a notebook
            self._end(getattr(sys, "last_value", None) or KeyboardInterrupt())
        self._forget()
        if self.filepath is not None:  # once more: the script may have changed its directory
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
        self._siblings = states.come_last(self)
        if self._is_given and not self._has_trained and (checkpoint := self.experiment.resumed_from) is not None:
            restored = self._restore(checkpoint)
        if restored is not None:
            self._resume_at(restored)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002, D102
        self._epoch, self._last_batch = epoch, -1
        self._take_over()  # not before: until now Keras and other callbacks were still beginning

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        self._is_told = True
        if not self._has_begun:
            self._has_begun = True
            if not self._saves_on_exception:
                atexit.unregister(self._at_exit)
        if (steps := (self.params or {}).get("steps")) is not None:
            batch = min(batch, steps - 1)  # the last step of steps_per_execution may be shorter than it says
        self._batches += batch - self._last_batch
        self._last_batch = batch
        self._unsaved = True
        self._logs = dict(logs or {})
        if self.save_freq == AUTO:
            is_due = self._is_affordable(2.0) and time.monotonic() - self._due_at > MID_EPOCH_SECONDS
        else:
            is_due = isinstance(self.save_freq, int) and self._batches - self._due_batches >= self.save_freq
        if is_due:  # whether or not anything is saved now: the next moment is as far away
            self._due_batches, self._due_at = self._batches, time.monotonic()
            self._checkpoint(logs, batch=batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: D102
        self._is_told = self._has_begun = True
        self._logs = dict(logs or {})
        if self.save_freq == EPOCH:
            self._checkpoint(logs, with_files=(epoch + 1) % self.period == 0)
        elif self.save_freq == AUTO:
            self._checkpoint(logs, with_files=self._is_affordable())
        elif self._is_undecided or self._has_primary_now():
            self._checkpoint(logs)  # what batches do not know is known now
        self._is_undecided = False

    def _has_primary_now(self) -> bool:
        """Tell whether the primary metric is there that batches did not know."""
        return self._lacks_primary and self._primary_metric is not None and self._primary_metric.name in self._logs

    @contextmanager
    def told_in_any_case(self, hook: str, index: int, logs: Mapping[str, Any] | None) -> Iterator[None]:
        """Around the call of all callbacks at the end of a batch or an epoch: this one is called though one raises."""
        self._is_told = False
        try:
            yield
        finally:
            if self._is_training and not self._is_told:
                self._tell_late(hook, index, logs)

    def _tell_late(self, hook: str, index: int, logs: Mapping[str, Any] | None) -> None:
        try:
            getattr(self, hook)(index, logs)
        except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
            warn_only(f"a callback raised, and so this moment could not be recorded: {type(error).__name__}: {error}")

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

    def _at_exit(self) -> None:
        assert self.experiment is not None, "training began"
        if self._is_training and self.experiment.is_recorded_here:  # else this process has resumed it since
            self._save_once_more()
            self._discard()

    def _discard(self) -> bool:
        """Leave nothing of a training that failed before it began; tells whether it did."""
        if self._has_begun or self._is_given or self.experiment is None or not discard(self.experiment):
            return False
        self.experiment = None
        return True

    def _save_once_more(self) -> None:
        """Save in the midst of a training that is over."""
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
        if self.save_best_only and with_files:
            with_files = self._is_wanted(metrics, batch) or is_last
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
        self._say(f"saving model to {path}")
        try:
            self._save(path, is_whole=is_whole)
        except Exception as error:
            if not self._has_saved and not isinstance(error, OSError):  # this model can't be saved so, now or ever
                raise
            warn_only(f"the model could not be saved to {path}, only its metrics are: {type(error).__name__}: {error}")
            return None
        self._has_saved = True
        self._say(f"finished saving model to {path}")
        return path

    def _save(self, path: str, *, is_whole: bool) -> None:
        assert self.experiment is not None, "training began"
        began = time.monotonic()
        model = self.model  # with JAX this fetches the weights, which every process of a distributed run must do
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
                    callbacks=states.remembered(self._siblings),
                    due=self._due_batches,
                    rate=self._rate,
                    **variables.told_of(model, with_optimizers=is_legacy),
                )
                save(model, path, weights_only=self.save_weights_only, state=here)
        finally:  # what failed took its time as well
            self._due_at = time.monotonic()
            self._save_seconds = self._due_at - began
            self._saving_seconds += self._save_seconds
        self._unsaved = False

    def _say(self, text: str) -> None:
        if self.verbose:
            say(f"\nEpoch {self._epoch + 1}: {text}")

    def _warn_once(self, topic: str, text: str) -> None:
        """Warn once in a training."""
        if topic not in self._told_of:
            self._told_of.add(topic)
            warn(text)

    def _is_affordable(self, factor: float = 1.0) -> bool:
        """Tell whether saving would not take more of the time than it may, and some."""
        seconds = self._saving_seconds + factor * self._save_seconds
        return seconds <= self._max_overhead * (time.monotonic() - self._began)

    def _is_wanted(self, metrics: Mapping[str, Any], batch: int | None) -> bool:
        """Tell whether `save_best_only` lets this moment be saved."""
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
                f"save_best_only compares numbers, and {monitor!r} is {_described(metrics[monitor])}, no single number:"
                " every model is saved. Monitor a metric that is one, such as the mean over the classes",
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
        if self._has_compared:  # one of those that were is the best
            return False
        self._warn_once(
            f"where {monitor} is",
            f"save_best_only looks at {monitor!r}, which is not among the metrics ({', '.join(metrics)}): every model "
            "is saved until it is",
        )
        return True

    def _primary_in(self, metrics: Mapping[str, Any], batch: int | None) -> PrimaryMetric | None:
        """The primary metric, if it is known by now: batches know nothing of validation."""
        primary = self._primary_metric
        if primary is None or primary.name in metrics:
            return primary
        if batch is None:
            fit = current_fit(self.model) if primary.name.startswith("val_") else None
            return primary if fit is None or fit.validates(self._epoch) else None  # not due yet: nothing to warn of
        self._lacks_primary = True
        self._warn_once(
            f"{primary.name} after batches",
            f"{primary.name!r} is not known after a batch, only at the end of an epoch: checkpoints in between are "
            "recorded without a primary metric, and one more is saved at the end of each epoch",
        )
        return None

    def _extra(self) -> dict[str, Any]:
        """What is recorded beside the metrics: the epoch; and once, with the first checkpoint, what is trained."""
        extra: dict[str, Any] = {"epoch": self._epoch}
        if not self._is_described:
            self._is_described = True
            extra["keras"] = states.description(self.model, self.params or {})
        return extra

    # Resuming.

    def _begin_own(self) -> State | None:
        """Begin an experiment, or resume one; returns the state of training that was restored.

        The model is restored first: if that fails, nothing was recorded, and what was to be resumed is as it was.
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
        """Restore the model; returns the state of training that was saved with it, if any was."""
        fit = current_fit(self.model)
        with local_copy(checkpoint) as path:
            restored = restore(self.model, path, None if fit is None else fit.epochs)
        if restored is None:
            warn(
                f"the checkpoint {checkpoint.short_id} was not saved by this callback: its weights are gone on with, "
                "from epoch 0"
            )
        return restored

    def _resume_at(self, restored: State) -> None:
        """Let training continue where it was."""
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
        states.swap(self._siblings, restored)
        epochs = (self.params or {}).get("epochs")
        is_over = states.was_stopped(self._siblings, restored.callbacks) and epochs
        self._begin_at(is_over or restored.epoch)
        if epochs is not None and restored.epoch < epochs and not is_over:
            self._draw_again(restored.epoch)

    def _draw_again(self, until: int) -> None:
        """Bring data that depends on what was drawn from it to where it was."""
        fit = current_fit(self.model)
        if fit is None or not fit.remembers or until <= fit.initial_epoch:
            return
        states.restore_random_states(self.model, self._first_random)  # as the first start had them
        if not fit.draw_again(until):
            warn(
                f"the data of {until} epochs could not be drawn again within {MAX_SECONDS:.0f} seconds: training goes "
                "on with other batches than it would have without the restart. A keras.utils.PyDataset with "
                "fit(shuffle=True), or arrays, can be resumed without that"
            )

    def _keep_rate(self, restored: State) -> None:
        """Say so if the script asks for another learning rate than the run was begun with, and does not get it."""
        now, then, self._rate = self._rate, restored.rate, restored.rate
        has_schedule = any(isinstance(one, keras.callbacks.LearningRateScheduler) for one in self._siblings)
        if None in (now, then) or now == then or has_schedule:
            return
        warn(
            f"the optimizer was compiled with the learning rate {now:g}, and with {then:g} when this run began: "
            f"training goes on with that of the checkpoint, {states.learning_rate(self.model):g}. Should it be the new "
            f"one, let keras.callbacks.LearningRateScheduler(lambda epoch: {now:g}) set it"
        )

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
                    warn(
                        f"{type(callback).__name__} can't restore the weights of epoch {callback.best_epoch}, its best "
                        "one before the restart: there is no checkpoint of it with files"
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


def _described(value: Any) -> str:
    """What a metric is that is not a number: its shape, or what it reads."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"an array of shape {tuple(shape)}"
