"""`ReplicateCallback`: translates Lightning's terms (epoch, global step, callback metrics) to replicate's.

Uses the public hooks of Lightning; `loading` holds what resuming needs beyond them. `saving` writes files, `state` adds
what else training depends on, and `measured` tells which metrics belong to a step.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import replicate_core
from replicate_core import Checkpoint, InvalidInput, PrimaryMetric, adapters
from replicate_core.adapters import (
    AUTO,
    EPOCH,
    Prepared,
    check_keep,
    check_overhead,
    check_path,
    check_period,
    check_primary_metric,
    check_resume,
    copy_for_training,
    discard,
    expand_template,
    warn,
    warn_only,
)
from replicate_lightning import averaging
from replicate_lightning import state as states
from replicate_lightning.arguments import check_params, check_save_freq, refuse_others
from replicate_lightning.describing import description, hyperparameters
from replicate_lightning.loading import (
    allow_config_overwrite,
    check_resumable,
    given_path,
    is_search_backup,
    load_plain,
    resume_from,
    searches,
    was_stopped,
)
from replicate_lightning.logger import ReplicateLogger
from replicate_lightning.measured import Measured
from replicate_lightning.namespaces import bases
from replicate_lightning.ranks import join_experiment, same_on_all_ranks, tell_other_ranks
from replicate_lightning.saving import check_filepath, save
from replicate_lightning.stepping import Stepping
from replicate_lightning.steps import Steps

MID_EPOCH_SECONDS = 300.0
"""With `save_freq="auto"`: minimum number of seconds between two saves inside an epoch."""


class _Saver(*bases("Checkpoint")):  # type: ignore[misc]  # the bases are those that are installed
    """Runs last: Lightning calls callbacks of this type after the module's hooks, when their metrics are complete.

    The owner is not a callback of this type itself, because Lightning would take it for its own `ModelCheckpoint`.
    """

    def __init__(self, owner: ReplicateCallback) -> None:
        super().__init__()
        self.owner = owner

    @property
    def best_model_path(self) -> str:
        """The path that `ckpt_path="best"` means, if Lightning has no checkpoint callback of its own."""
        return self.owner.best_model_path

    @property
    def last_model_path(self) -> str:
        """The last path, which Lightning's own checkpoint callback has, too."""
        return self.owner.last_model_path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.owner.after_batch(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_validation(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_epoch(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_training(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        self.owner.after_exception(trainer, exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        if stage == "fit":
            self.owner.after_fit(trainer)


class ReplicateCallback(*bases("Callback")):  # type: ignore[misc]  # the bases are those that are installed
    """Record training: begin an experiment when training begins, and save the model and its metrics along the way.

    Works beside Lightning's own `ModelCheckpoint` and without it, in `pytorch_lightning` and `lightning.pytorch`.

    Args:
        filepath: where the trainer's checkpoint is saved. May be a template, `"m-{epoch:02d}-{val_loss:.2f}.ckpt"`, of
            metrics, and of `epoch` and `step` as Lightning counts them, from 0. None saves no file, only metrics.
        params: hyperparameters to record, beside those of the module and of the data module; on a clash of names, these
            win. A warning names hyperparameters of the modules that can't be recorded: only numbers, strings, lists and
            dictionaries can.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`) by which checkpoints are compared.
        save_freq: `"epoch"`; a number of training steps; a `timedelta`; or `"auto"`: as often as `max_overhead` allows,
            only at the end of epochs if that is often enough. The step of a checkpoint is the epoch (from 0) with
            `"epoch"`. It is the trainer's global step with other values, beside a `ReplicateLogger`, and if validation
            runs inside epochs. The epoch of a checkpoint is always recorded.
        period: with `save_freq="epoch"`, save after every `period` epochs.
        save_weights_only: save the weights without optimizer and loops: nothing can be resumed from them.
        keep_best, keep_last: how many of the best checkpoints by the primary metric, and of the last ones, keep their
            files. Without both, all do; if only one is given, the other is 1. Metrics are always kept. See
            `Experiment.keep`.
        max_overhead: with `save_freq="auto"`, the share of training time that saving may take; default: 0.05.
        save_on_exception: save once more when an exception, Ctrl-C or SIGTERM ends the training. This needs a training
            with one process: others can't save without the one that failed.
        name, tags, notes: name, tags and notes of the experiment, as in `replicate.init`.
        resume: `"auto"` resumes the same run if it was killed, failed or was interrupted, with all that Lightning saves
            and the random states. To extend a finished run, give the beginning of the id of an experiment or
            checkpoint. See `replicate.init`. Only the first `fit` that is trained to its end resumes.
        experiment: a running experiment to record into; it does not end with the training. If it was resumed, so is
            the training.
        others: arguments of Lightning's `ModelCheckpoint`; each is refused with a message that says what to give here.

    Attributes:
        experiment: the experiment that is recorded into. None before the first training, and after one that failed
            before the end of its first batch without recording anything.

    Raises:
        InvalidInput: an argument is invalid; at construction.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = "model.ckpt",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: int | timedelta | str = EPOCH,  # LightningCLI reads "5" as a number because int is first
        *,
        period: int = 1,
        save_weights_only: bool = False,
        keep_best: int | None = None,
        keep_last: int | None = None,
        max_overhead: float | None = None,
        save_on_exception: bool = False,
        name: str | None = None,
        tags: Iterable[str] = (),
        notes: str | None = None,
        resume: str | None = None,
        experiment: replicate_core.Experiment | None = None,
        **others: NoReturn,
    ) -> None:
        refuse_others(others)
        super().__init__()
        self.filepath = check_filepath(filepath)
        self.save_freq = check_save_freq(save_freq)
        self.period = check_period(period, self.save_freq)
        self.save_weights_only = save_weights_only
        self.experiment = experiment
        self._is_given = experiment is not None
        self._params = check_params(params)
        self._labels: dict[str, Any] = {"name": name, "tags": tags, "notes": notes}
        self._resume = resume
        self._primary_metric = check_primary_metric(primary_metric)
        self._max_overhead = check_overhead(max_overhead, self.save_freq)
        self._saves_on_exception = save_on_exception
        self._keep = check_keep(keep_best, keep_last, self._primary_metric)
        if filepath is None and (save_on_exception or self._keep or resume is not None):
            raise InvalidInput("filepath=None saves no files, so nothing can be resumed or kept: give a filepath")
        check_resume(resume, experiment)
        if resume is not None and save_weights_only:
            raise InvalidInput(
                "save_weights_only leaves out what resuming needs: give either resume or save_weights_only"
            )
        self._has_trained = False
        self._reset()

    def _reset(self) -> None:
        """Reset the state to that before a training."""
        self._begins_late = True
        self._notes_again = False
        self._measured = Measured()
        self._stepping = Stepping()
        self._steps = Steps()
        self._is_training = self._is_in_batch = self._is_at_epoch_end = False
        self._logger: ReplicateLogger | None = None
        self._saved_step = self._due_step = self._recorded_step = self._validated_step = -1
        self._has_begun = False
        self._epoch = 0
        self._has_primary = False
        self._is_resuming = self._unsaved = self._has_saved = self._has_warned = self._is_described = False
        self._random: list[dict[str, Any]] | None = None
        self._plateaus: dict[str, float] = {}
        self._optimizers_now: list[dict[str, Any]] = []
        self._optimizers_before: list[dict[str, Any]] | None = None
        self._paths: tuple[str, str] | None = None
        self._changed_flags: dict[str, dict[str, bool]] = {}
        self._flags_before: dict[str, dict[str, bool]] | None = None
        self._has_started = self._is_over = self._has_average = False
        self._parent: dict[str, Any] | None = None
        self._prepared: Prepared | None = None
        self._began = self._due_at = time.monotonic()
        self._saving_seconds = self._save_seconds = 0.0
        self._sigterm: tuple[int, FrameType | None] | None = None
        self._sigterm_before: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the experiment: processes that a trainer spawns begin their own."""
        attached = ("log", "log_dict")  # methods of the module, which Lightning attaches here
        kept = {name: value for name, value in vars(self).items() if name not in attached}
        return kept | {"experiment": None, "_prepared": None, "_logger": None, "_sigterm_before": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicateCallback:
        """Copy for another training in this process, with a new experiment unless one was given."""
        copied: ReplicateCallback = copy_for_training(self, memo, given=self.experiment if self._is_given else None)
        return copied

    @property
    def best_model_path(self) -> str:
        """URL of the best checkpoint of this training, `"replicate://..."`; without a primary metric, of the last one.

        Lightning accepts it wherever it takes a path. Empty if there is no checkpoint, as in `ModelCheckpoint`.
        """
        if self._paths is not None:
            return self._paths[0]
        return _url(None if self.experiment is None else self.experiment.best_or_latest())

    @property
    def last_model_path(self) -> str:
        """URL of the last checkpoint of this training; see `best_model_path`."""
        if self._paths is not None:
            return self._paths[1]
        return _url(None if self.experiment is None else self.experiment.latest())

    # Hooks of Lightning.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: D102
        if stage != "fit" or trainer.fast_dev_run:
            return
        if not any(self._is_saver(callback) for callback in trainer.callbacks):
            trainer.callbacks.append(_Saver(self))
        self._reset()
        if self.filepath is not None:  # check again: the working directory may have changed
            check_path(self.filepath)
        self._begins_late = searches(trainer) or (self._resume is None and not self._is_given)
        if not self._begins_late:  # Lightning must know what to restore before it makes optimizers
            self._prepare(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002, D102
        if is_search_backup(trainer):
            return
        if (saved := checkpoint.get(states.NAME)) is not None:
            self._random, self._plateaus = saved.get("random"), saved.get("plateaus", {})
            self._changed_flags, self._has_average = saved.get("switched", {}), "averaged" in saved
            self._parent = {"experiment": saved.get("experiment"), "global_step": checkpoint["global_step"]}
            self._optimizers_before = saved.get("optimizers")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        random = states.random_states_of_all_ranks(trainer)  # every rank calls this
        identity = self.experiment.id if self.experiment is not None else None
        plateaus = states.plateaus(trainer) if self._is_at_epoch_end else {}
        saved: dict[str, Any] = {"random": random, "plateaus": plateaus, "experiment": identity}
        saved["optimizers"] = self._optimizers_now
        if self._flags_before is not None:
            saved["switched"] = states.changed_flags(pl_module, self._flags_before)
        if (by := averaging.averaged_by(trainer, is_over=self._is_over)) is not None:
            saved["averaged"] = {"by": by, "epochs": averaging.epochs(trainer)}
        checkpoint[states.NAME] = saved

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if trainer.fast_dev_run:
            return
        if self._begins_late:
            self._prepare(trainer, pl_module)
        self._optimizers_now = states.describe_optimizers(trainer.optimizers)
        if self._is_resuming:
            states.check_optimizers(self._optimizers_now, self._optimizers_before)
        self._begin()  # not earlier: if restoring the model fails, nothing is recorded
        if (told := given_path(trainer)) is not None and self._resume is not None and not self._has_trained:
            self._is_resuming = False
            warn(f"fit was given {told} to resume from, and uses it instead of what resume={self._resume!r} has found")
        self._flags_before = states.training_flags(pl_module)
        states.restore_flags(pl_module, self._changed_flags)  # after optimizers were made from the initial flags
        if self._random is not None and trainer.global_rank < len(self._random):
            states.restore_random_states(
                self._random[trainer.global_rank]
            )  # later would be too late: the loader draws next
        self._random = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        self._has_started = True
        self._steps.watch(trainer)
        states.step_plateaus(trainer, self._plateaus)
        self._plateaus = {}
        if self._is_resuming and was_stopped(trainer):
            trainer.should_stop = True
        if self._is_resuming and states.has_own_generator(trainer.train_dataloader):
            warn(
                "the data loader, or its dataset, holds a random generator of its own, of which nothing is saved: it "
                "draws from the beginning again, and training ends with other weights than it would have without the "
                "restart. Draw from torch's or NumPy's global generator instead"
            )
        self._epoch = trainer.current_epoch
        self._saved_step = self._due_step = self._steps.done(trainer)
        self._began = self._due_at = time.monotonic()
        if self._saves_on_exception and trainer.world_size == 1 and self._is_training:
            self._watch_sigterm()
            self._stepping.watch(trainer.optimizers)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002, D102
        self._is_in_batch = True
        self._stepping.begin_batch()
        self._epoch = trainer.current_epoch
        if self._notes_again:
            self._notes_again = False
            self._measured.note(trainer.callback_metrics, self._steps.done(trainer))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        if self._is_training and self._is_resuming and not self._has_started:
            averaging.finish(trainer)
            self._epoch = trainer.current_epoch - 1
            self.after_training(trainer)

    def _is_saver(self, callback: Any) -> bool:
        return isinstance(callback, _Saver) and callback.owner is self

    # Called by the saver, after all other callbacks.

    def after_batch(self, trainer: Any) -> None:
        """Save if the steps or the time of `save_freq` have passed."""
        self._is_in_batch = False
        self._epoch = trainer.current_epoch
        if not self._is_training:
            return
        self._unsaved = self._has_begun = True
        step = self._steps.done(trainer)
        if isinstance(self.save_freq, int):
            is_due = step // self.save_freq > self._due_step // self.save_freq  # two optimizers make two steps at once
        elif isinstance(self.save_freq, timedelta):
            is_due = self._first_rank_says(trainer, time.monotonic() - self._due_at >= self.save_freq.total_seconds())
        elif self.save_freq == AUTO:
            is_due = time.monotonic() - self._due_at > MID_EPOCH_SECONDS and self._is_affordable(2.0)
            is_due = self._first_rank_says(trainer, is_due)
        else:
            is_due = False
        if is_due and step != self._saved_step:  # whether or not that succeeds: the interval starts again
            self._due_step, self._due_at = step, time.monotonic()
            self._checkpoint(trainer, in_batch=True)
        if self._sigterm is not None:
            self._sigterm_before(*self._sigterm)

    def after_validation(self, trainer: Any) -> None:
        """Note the metrics of validation; save, unless the epoch is about to end."""
        if trainer.sanity_checking or not self._is_training:
            return
        self._validated_step = self._steps.done(trainer)
        self._note_metrics(trainer)
        if trainer.is_last_batch or _is_stopping(trainer):
            return  # the epoch is about to end, with all its metrics
        if self.save_freq == EPOCH:
            if self._is_period_end():
                self._checkpoint(trainer)
        else:
            self._add_primary(trainer)

    def after_epoch(self, trainer: Any) -> None:
        """Save at the end of an epoch, if `save_freq` says so."""
        if not self._is_training:
            return
        self._note_metrics(trainer)
        self._is_at_epoch_end = True
        try:
            if self.save_freq == EPOCH:
                if self._is_period_end():
                    self._checkpoint(trainer)
            elif self.save_freq == AUTO:
                self._checkpoint(trainer, with_files=self._first_rank_says(trainer, self._is_affordable()))
            else:
                self._add_primary(trainer)
        finally:
            self._is_at_epoch_end = False

    def after_training(self, trainer: Any) -> None:
        """Save what `fit` returns, unless it was saved last. All other callbacks have finished."""
        if self._is_training and self.filepath is not None:
            self._save_what_fit_returns(trainer)
        if self._is_training and trainer.world_size > 1:  # other ranks only see what is stored, which may be older
            own = (self.best_model_path, self.last_model_path) if trainer.is_global_zero else None
            self._paths = trainer.strategy.broadcast(own)

    def _save_what_fit_returns(self, trainer: Any) -> None:
        self._is_over = True
        by = averaging.averaged_by(trainer, is_over=True)
        is_new = by is not None and not self._has_average and not averaging.is_in_every_checkpoint(trainer)
        if is_new or (self._unsaved and (by is not None or self.save_freq == AUTO)):
            self._checkpoint(trainer)

    def after_exception(self, trainer: Any, exception: BaseException) -> None:
        """End the experiment with the exception; with `save_on_exception`, save the model first."""
        has_started = self._is_training and self._saved_step >= 0
        if has_started and self._saves_on_exception and trainer.world_size == 1:
            try:
                self._save_once_more(trainer)
            except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
                warn_only(f"the model could not be saved once more: {type(error).__name__}: {error}")
        self._end(exception)
        self._remove_saver(trainer)

    def after_fit(self, trainer: Any) -> None:
        """End the experiment: only the module's own `teardown` can still fail."""
        self._has_trained = True
        self._end(None)
        self._remove_saver(trainer)

    def _remove_saver(self, trainer: Any) -> None:
        """Remove the saver if there is another checkpoint callback; else keep it, to resolve `ckpt_path="best"`."""
        if len(trainer.checkpoint_callbacks) > 1:  # a new list: Lightning is iterating over the old one
            trainer.callbacks = [callback for callback in trainer.callbacks if not self._is_saver(callback)]

    def _note_metrics(self, trainer: Any) -> None:
        """Note metrics now and before the next batch, because Lightning recomputes those of an epoch after this."""
        self._measured.note(trainer.callback_metrics, self._steps.done(trainer))
        self._notes_again = True

    def _save_once_more(self, trainer: Any) -> None:
        if self._stepping.is_half_done:
            warn("training ended in the middle of a step, when only some weights were updated: nothing is saved")
        elif self._steps.done(trainer) != self._saved_step:
            self._checkpoint(trainer, in_batch=True)

    # Beginning and ending.

    def _prepare(self, trainer: Any, module: Any) -> None:
        """Find the experiment to begin or resume, and restore its training."""
        self._logger = next((one for one in trainer.loggers if isinstance(one, ReplicateLogger)), None)
        if self._is_given:
            self._take_given(trainer)
        else:
            self._prepare_own(
                trainer, hyperparameters(module, trainer.datamodule, warns=trainer.is_global_zero) | self._params
            )

    def _begin(self) -> None:
        """Begin to record the prepared experiment."""
        if self._prepared is not None:
            self.experiment, self._prepared = self._prepared.begin(), None
        assert self.experiment is not None, "it was begun, or given"
        if self._logger is not None and not self._is_given:
            self._logger.take(self.experiment, with_files=self.filepath is None)
        self._is_training = True
        if self._keep:
            self.experiment.keep(**self._keep)

    def _take_given(self, trainer: Any) -> None:
        """Record into the given experiment; all ranks use that of the first rank."""
        if self.experiment is None:
            raise InvalidInput(
                "the experiment was begun in another process than those that train: leave experiment out, or use "
                'strategy="ddp" instead of one that spawns'
            )
        self.experiment = same_on_all_ranks(trainer, self.experiment)
        if self._logger is not None:
            self._logger.join(self.experiment, with_files=self.filepath is None)
        self._restore(trainer, self.experiment.resumed_from)

    def _prepare_own(self, trainer: Any, params: dict[str, Any]) -> None:
        """Prepare an experiment, the same one on every rank."""
        if self._resume is not None:
            check_resumable(trainer, self._resume)
        ReplicateLogger.end_the_last(unless=self._logger)
        labels: dict[str, Any] = self._labels
        running = None
        if self._logger is not None:
            params, labels = self._logger.merged(params, labels)
            running = self._logger.running
        if not trainer.is_global_zero:
            self.experiment = join_experiment(trainer, running, params, labels)
            if self.experiment is not running:
                self._restore(trainer, self.experiment.resumed_from)
        elif running is not None:
            tell_other_ranks(trainer, running.id)
            self.experiment = running
        else:
            resume = None if self._has_trained else self._resume
            prepared = adapters.prepare(params, **labels, resume=resume)
            tell_other_ranks(trainer, prepared.id, prepared.resumed_from)
            self._restore(trainer, prepared.resumed_from)
            self._prepared = prepared
            if prepared.resumed_from is not None:
                allow_config_overwrite(trainer)
            if self._logger is not None and self._resume is not None:
                self._logger.expect(prepared.short_id)

    def _restore(self, trainer: Any, checkpoint: Checkpoint | None) -> None:
        """Restore the training, unless there is nothing to restore or `fit` was given a path."""
        if checkpoint is None or self._has_trained or (self._begins_late and given_path(trainer) is not None):
            return
        check_resumable(trainer, checkpoint.short_id)
        resume_from(trainer, checkpoint, is_late=self._begins_late)
        self._is_resuming = True

    def _end(self, error: BaseException | None) -> None:
        was_training, self._is_training = self._is_training, False
        self._stepping.stop()
        if not was_training or self.experiment is None or self._is_given or self._logger is not None:
            return
        if error is not None and not self._has_begun and discard(self.experiment):
            self.experiment = None
        else:
            self.experiment.end_training(error)

    def _watch_sigterm(self) -> None:
        """Defer a SIGTERM during a batch until its end, when the weights are consistent.

        When training is over, Lightning restores the handlers from before it began.
        """
        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            return

        def wait(number: int, frame: FrameType | None) -> None:
            if self._is_in_batch and self._sigterm is None:
                self._sigterm = (number, frame)
            else:
                before(number, frame)

        self._sigterm_before = before
        signal.signal(signal.SIGTERM, wait)

    # Saving.

    def _checkpoint(self, trainer: Any, *, in_batch: bool = False, with_files: bool = True) -> None:
        """Record a checkpoint. Every rank must call this: saving is collective, and so are metrics."""
        assert self.experiment is not None, "training began"
        step = self._steps.done(trainer)
        by = averaging.averaged_by(trainer, is_over=self._is_over)
        if by is not None and not (self._is_over or self._is_at_epoch_end):
            return  # BatchNorm statistics of the average are being computed: nothing could resume from here
        self._measured.note(trainer.callback_metrics, step)
        is_last = by is not None and self._is_over  # the average, for which no metrics were measured
        metrics = {} if is_last else self._measured.at(step)
        path = None
        if self.filepath is not None and with_files:
            values = {name: _number(value) for name, value in metrics.items()}
            path = self._saved(trainer, expand_template(self.filepath, values | {"epoch": self._epoch, "step": step}))
        self._recorded_step = step
        primary = None if is_last else self._primary_in(trainer, metrics, in_batch=in_batch)
        where = self._epoch if self._counts_epochs(trainer) else step
        extra = self._extra(trainer) if by is None else self._extra(trainer) | {"averaged": by}
        self._has_average = by is not None
        self.experiment.checkpoint(path, metrics, primary, where, **extra)

    def _saved(self, trainer: Any, path: str) -> str | None:
        """Save the training; returns its path, or None after a failure that training survives, such as a full disk."""
        began = time.monotonic()
        try:
            save(trainer, path, weights_only=self.save_weights_only)
        except Exception as error:
            # This training can never be saved this way, or other ranks wait for this one.
            if (not self._has_saved and not isinstance(error, OSError)) or trainer.world_size > 1:
                raise
            warn_only(f"the model could not be saved to {path}, only its metrics are: {type(error).__name__}: {error}")
            return None
        finally:  # a failed save takes time, too
            self._due_at = time.monotonic()
            self._save_seconds = self._due_at - began
            self._saving_seconds += self._save_seconds
        if self._resume is not None and not self._has_saved and trainer.is_global_zero and Path(path).is_file():
            try:
                load_plain(Path(path))
            except InvalidInput as error:  # warn now, not when it is too late
                warn(f"resume={self._resume!r} will not resume from {path}: it {error}")
        self._saved_step = self._steps.done(trainer)
        self._has_saved, self._unsaved = True, False
        return path

    def _is_period_end(self) -> bool:
        return (self._epoch + 1) % self.period == 0

    def _counts_epochs(self, trainer: Any) -> bool:
        """Tell whether the steps of the experiment are epochs: not if anything is recorded inside epochs."""
        # val_check_interval: 1.0 is after every epoch, 1 after every batch; with a time interval there is none.
        interval = getattr(trainer, "val_check_interval", None)
        is_whole = isinstance(interval, float) and interval == 1.0 and trainer.check_val_every_n_epoch is not None
        return self.save_freq == EPOCH and self._logger is None and (is_whole or not _validates(trainer))

    def _is_affordable(self, factor: float = 1.0) -> bool:
        """Tell whether another save, taking `factor` times the last one, stays within `max_overhead`."""
        seconds = self._saving_seconds + factor * self._save_seconds
        return seconds <= self._max_overhead * (time.monotonic() - self._began)

    def _first_rank_says(self, trainer: Any, is_due: bool) -> bool:  # noqa: FBT001
        """Return the first rank's value: clocks differ, but saving is collective."""
        return bool(trainer.strategy.broadcast(is_due))

    def _primary_in(self, trainer: Any, metrics: Mapping[str, Any], *, in_batch: bool) -> PrimaryMetric | None:
        """Return the primary metric if it is known by now: validation metrics are unknown until a validation."""
        primary = self._primary_metric
        self._has_primary = primary is not None and primary.name in metrics
        if primary is None or self._has_primary:
            return primary
        if in_batch and not self._has_warned:
            self._has_warned = True
            warn(
                f"{primary.name!r} is not known after a training step: checkpoints in between are recorded without a "
                "primary metric, and one more is saved where it is known"
            )
        is_due = not _validates(trainer) or self._validated_step == self._steps.done(trainer)
        return primary if is_due and not in_batch else None  # if it is due but missing, the core warns

    def _add_primary(self, trainer: Any) -> None:
        """Save once more if the primary metric, which was missing after training steps, is known now."""
        step = self._steps.done(trainer)
        is_recorded = self._recorded_step == step and self._has_primary
        if self._has_warned and not is_recorded and self._primary_metric.name in self._measured.at(step):  # type: ignore[union-attr]
            self._checkpoint(trainer)

    def _extra(self, trainer: Any) -> dict[str, Any]:
        """Return what is recorded beside the metrics: epoch and step; with the first checkpoint also a description."""
        extra: dict[str, Any] = {"epoch": self._epoch, "global_step": trainer.global_step}
        if not self._is_described:
            self._is_described = True
            extra["lightning"] = description(trainer, trainer.lightning_module)
            if self._parent is not None and self.experiment and self._parent["experiment"] != self.experiment.id:
                extra["parent"] = self._parent
        return extra


def _url(checkpoint: Checkpoint | None) -> str:
    """Return the URL of a checkpoint's files for fsspec, and so for Lightning; empty if it has none."""
    return "" if checkpoint is None or checkpoint.path is None else f"replicate://{checkpoint.id}/{checkpoint.path}"


def _number(value: Any) -> object:
    """Convert a tensor of one value to a number; return anything else unchanged."""
    return value.item() if hasattr(value, "item") and value.numel() == 1 else value


def _is_stopping(trainer: Any) -> bool:
    """Tell whether training ends after this batch, which also ends the epoch."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    has_all_epochs = trainer.current_epoch >= (trainer.min_epochs or 0)
    return bool(trainer.should_stop and has_all_epochs and trainer.global_step >= (trainer.min_steps or 0))


def _validates(trainer: Any) -> bool:
    """Tell whether there is validation data; if it is not loaded yet, assume so."""
    loaded = trainer.num_val_batches
    return bool(trainer.enable_validation and (not loaded or any(loaded)))
