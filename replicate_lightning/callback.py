"""`ReplicateCallback`: Lightning's words (epoch, global step, callback metrics) in replicate's.

Uses the public hooks of Lightning; what it takes to go on, beyond them, is in `loading`. How a training becomes a file
is in `saving`; what it depends on beside that, in `state`; which metrics belong to a moment, in `measured`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

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
from replicate_lightning import state as states
from replicate_lightning.arguments import EPOCH, check_params, check_period, check_save_freq
from replicate_lightning.describing import description, hyperparameters
from replicate_lightning.loading import go_on_from, load_plain, puts_back, told_path, tunes, was_stopped
from replicate_lightning.logger import ReplicateLogger
from replicate_lightning.measured import Measured
from replicate_lightning.namespaces import bases
from replicate_lightning.saving import check_filepath, save

MID_EPOCH_SECONDS = 300.0
"""With `save_freq="auto"`: no more often than this is anything saved inside an epoch."""


class _Saver(*bases("Checkpoint")):  # type: ignore[misc]  # the bases are those that are installed
    """Runs last: Lightning calls callbacks of this type after the module's own hooks, whose metrics are there then.

    Its owner is no such callback itself, because Lightning would take it for its own `ModelCheckpoint`.
    """

    best_model_path = ""  # what Lightning asks of its checkpoint callback
    last_model_path = ""

    def __init__(self, owner: ReplicateCallback) -> None:
        super().__init__()
        self.owner = owner

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.owner.after_batch(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_validation(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.owner.after_epoch(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        self.owner.after_exception(trainer, exception)


class ReplicateCallback(*bases("Callback")):  # type: ignore[misc]  # the bases are those that are installed
    """Record training: begin an experiment when it begins, and save model and metrics as it goes on.

    Works beside Lightning's own `ModelCheckpoint` and without it, in `pytorch_lightning` and `lightning.pytorch`.

    Args:
        filepath: where the trainer's checkpoint is saved. May hold names to fill in,
            `"m-{epoch:02d}-{val_loss:.2f}.ckpt"`: `epoch` and `step` as Lightning counts them, from 0, and metrics.
            None saves no file, only metrics.
        params: hyperparameters to record, beside those of the module and of the data module that are JSON; of the same
            name, these win.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`) by which checkpoints are compared.
        save_freq: `"epoch"`; a number of training steps; a `timedelta`; or `"auto"`: as often as `max_overhead` allows,
            at the end of epochs where that is often enough. The step of a checkpoint is the epoch (from 0) with
            `"epoch"`, else the trainer's global step, as it is beside a `ReplicateLogger` and where validation runs
            inside of epochs; its epoch is recorded in any case.
        period: with `save_freq="epoch"`, after every how many epochs.
        save_weights_only: save the weights without optimizer and loops: nothing to go on from.
        keep_best, keep_last: keep the files of so many of the best checkpoints by the primary metric, and of the last
            ones; left out, of all, or of one where the other is given. Metrics are always kept. See `Experiment.keep`.
        max_overhead: with `save_freq="auto"`, the share of the time of training that saving may take; left out, 0.05.
        save_on_exception: save once more when an exception, Ctrl-C or SIGTERM ends the training; not where several
            processes train: those that are left can't save without the one that failed.
        name, tags, notes: of the experiment, as in `replicate.init`.
        resume: `"auto"` goes on where the same run was killed, with all that Lightning saves and the random states. Or
            how the id of an experiment or checkpoint begins. See `replicate.init`. Only the first `fit` that is trained
            to its end resumes.
        experiment: one that the script has begun, to record into; it is not ended with the training. If it was resumed,
            so is the training.

    Attributes:
        experiment: what it records into; None before the first training.

    Raises:
        InvalidInput: an argument can't be taken; at construction.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = "model.ckpt",
        params: Mapping[str, object] | None = None,
        primary_metric: tuple[str, str] | None = None,
        save_freq: str | int | timedelta = EPOCH,
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
    ) -> None:
        super().__init__()
        self.filepath = check_filepath(filepath)
        self.save_freq = check_save_freq(save_freq)
        self.period = check_period(period, self.save_freq)
        self.save_weights_only = save_weights_only
        self.experiment = experiment
        self._is_given = experiment is not None
        self._params = check_params(params)
        self._labels = {"name": name, "tags": tags, "notes": notes}
        self._resume = resume
        self._primary_metric = PrimaryMetric.parse(primary_metric)
        self._max_overhead = check_overhead(max_overhead, self.save_freq)
        self._saves_on_exception = save_on_exception
        self._keep = check_keep(keep_best, keep_last, self._primary_metric)
        if filepath is None and (save_on_exception or self._keep or resume is not None):
            raise InvalidInput("filepath=None saves no files: nothing could be resumed or kept, or be the best one")
        check_resume(resume, experiment)
        if resume is not None and save_weights_only:
            raise InvalidInput("save_weights_only leaves out what a training goes on with: leave one of both out")
        self._has_trained = False
        self._forget()

    def _forget(self) -> None:
        """Be as before a training."""
        self._begins_late = True
        self._looks_again = False
        self._measured = Measured()
        self._is_training = self._is_in_batch = self._is_stepping = self._is_at_epoch_end = False
        self._logger: ReplicateLogger | None = None
        self._saved_step = self._recorded_step = self._validated_step = -1
        self._epoch = 0
        self._has_primary = False
        self._goes_on = self._unsaved = self._has_saved = self._has_warned = self._is_described = False
        self._random: list[dict[str, Any]] | None = None
        self._plateaus: dict[str, float] = {}
        self._parent: dict[str, Any] | None = None
        self._began = self._saved_at = time.monotonic()
        self._saving_seconds = self._save_seconds = 0.0
        self._sigterm: tuple[int, FrameType | None] | None = None
        self._sigterm_before: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """For the processes that a trainer spawns, and for copies: they begin experiments of their own."""
        attached = ("log", "log_dict")  # of the module: Lightning puts them here
        kept = {name: value for name, value in vars(self).items() if name not in attached}
        return kept | {"experiment": None, "_logger": None, "_sigterm_before": None}

    # Hooks of Lightning.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: D102
        if stage != "fit" or trainer.fast_dev_run:
            return
        if not any(self._is_saver(callback) for callback in trainer.callbacks):
            trainer.callbacks.append(_Saver(self))
        self._forget()
        if self.filepath is not None:
            replicate_core.Project().check_path(self.filepath)
        self._begins_late = tunes(trainer) or (self._resume is None and not self._is_given)
        if not self._begins_late:  # what is to be restored must be known before optimizers are made
            self._begin(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002, D102
        if puts_back(trainer):
            return
        if (saved := checkpoint.get(states.NAME)) is not None:
            self._random, self._plateaus = saved.get("random"), saved.get("plateaus", {})
            self._parent = {"experiment": saved.get("experiment"), "global_step": checkpoint["global_step"]}

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002, D102
        random = states.of_all_ranks(trainer)  # every rank calls this
        identity = self.experiment.id if self.experiment is not None else None
        plateaus = states.plateaus(trainer) if self._is_at_epoch_end else {}
        checkpoint[states.NAME] = {"random": random, "plateaus": plateaus, "experiment": identity}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if trainer.fast_dev_run:
            return
        if self._begins_late:
            self._begin(trainer, pl_module)
        if (told := told_path(trainer)) is not None and self._resume is not None and not self._has_trained:
            self._goes_on = False
            warnings.warn(
                f"fit was told to go on from {told}, and does, whatever resume={self._resume!r} has found",
                stacklevel=2,
            )
        if self._random is not None and trainer.global_rank < len(self._random):
            states.restore_random_states(self._random[trainer.global_rank])  # later the loader has drawn already
        self._random = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        states.tell_plateaus(trainer, self._plateaus)
        self._plateaus = {}
        if self._goes_on and was_stopped(trainer):
            trainer.should_stop = True
        self._epoch, self._saved_step = trainer.current_epoch, trainer.global_step
        self._began = self._saved_at = time.monotonic()
        if self._saves_on_exception and trainer.world_size == 1 and self._is_training:
            self._watch_sigterm()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002, D102
        self._is_in_batch = True
        if self._looks_again:
            self._looks_again = False
            self._measured.look(trainer.callback_metrics, trainer.global_step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002, D102
        self._is_stepping = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        if self._is_training and self.save_freq == AUTO and self._unsaved and self.filepath is not None:
            self._checkpoint(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002, D102
        self._has_trained = True
        self._end(None)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002, D102
        # A new list: the old one is being gone through. Left there, the saver would be one more "ModelCheckpoint".
        trainer.callbacks = [callback for callback in trainer.callbacks if not self._is_saver(callback)]

    def _is_saver(self, callback: Any) -> bool:
        return isinstance(callback, _Saver) and callback.owner is self

    # What the saver calls, last.

    def after_batch(self, trainer: Any) -> None:
        """Save if so many training steps, or so much time, have passed."""
        self._is_in_batch = self._is_stepping = False
        self._epoch = trainer.current_epoch
        if not self._is_training:
            return
        self._unsaved = True
        step = trainer.global_step
        if isinstance(self.save_freq, int):
            is_due = step // self.save_freq > self._saved_step // self.save_freq  # two optimizers make two at once
        elif isinstance(self.save_freq, timedelta):
            is_due = self._agreed(trainer, time.monotonic() - self._saved_at >= self.save_freq.total_seconds())
        elif self.save_freq == AUTO:
            is_due = time.monotonic() - self._saved_at > MID_EPOCH_SECONDS and self._is_affordable(2.0)
            is_due = self._agreed(trainer, is_due)
        else:
            is_due = False
        if is_due and step != self._saved_step:
            self._checkpoint(trainer, in_batch=True)
        if self._sigterm is not None:
            self._sigterm_before(*self._sigterm)

    def after_validation(self, trainer: Any) -> None:
        """Note the metrics of validation; save, where it is not the end of an epoch that it was made at."""
        if trainer.sanity_checking or not self._is_training:
            return
        self._validated_step = trainer.global_step
        self._look(trainer)
        if trainer.is_last_batch or _is_stopping(trainer):
            return  # the epoch is about to end, and then there are all metrics
        if self.save_freq == EPOCH:
            if self._is_counted():
                self._checkpoint(trainer)
        else:
            self._add_primary(trainer)

    def after_epoch(self, trainer: Any) -> None:
        """Save if it is done at the end of epochs."""
        if not self._is_training:
            return
        self._look(trainer)
        self._is_at_epoch_end = True
        try:
            if self.save_freq == EPOCH:
                if self._is_counted():
                    self._checkpoint(trainer)
            elif self.save_freq == AUTO:
                self._checkpoint(trainer, with_files=self._agreed(trainer, self._is_affordable()))
            else:
                self._add_primary(trainer)
        finally:
            self._is_at_epoch_end = False

    def after_exception(self, trainer: Any, exception: BaseException) -> None:
        """End the experiment as the training ended; with `save_on_exception`, save what there is."""
        if self._is_training and self._saves_on_exception and trainer.world_size == 1 and self._unsaved:
            try:
                self._save_once_more(trainer)
            except Exception as error:  # noqa: BLE001  # whatever it is: the one that ended the training counts
                warnings.warn(f"the model could not be saved once more: {type(error).__name__}: {error}", stacklevel=2)
        self._end(exception)

    def _look(self, trainer: Any) -> None:
        """Note metrics; and again before the next batch: Lightning computes those of an epoch once more after this."""
        self._measured.look(trainer.callback_metrics, trainer.global_step)
        self._looks_again = True

    def _save_once_more(self, trainer: Any) -> None:
        if self._is_stepping:
            warnings.warn(
                "training ended in the midst of a step, when some weights were new and some were not: nothing is saved",
                stacklevel=2,
            )
        elif trainer.global_step != self._saved_step:
            self._checkpoint(trainer, in_batch=True)

    # Beginning and ending.

    def _begin(self, trainer: Any, module: Any) -> None:
        self._logger = next((one for one in trainer.loggers if isinstance(one, ReplicateLogger)), None)
        if not self._is_given:
            self._begin_own(trainer, hyperparameters(module, trainer.datamodule) | self._params)
        if self.experiment is None:
            raise InvalidInput(
                "the experiment was begun in another process than those that train: leave experiment out, or use "
                'strategy="ddp" instead of one that spawns'
            )
        if self._is_given and self._logger is not None:
            self._logger.join(self.experiment, with_files=self.filepath is None)
        self._is_training = True
        if self._keep:
            self.experiment.keep(**self._keep)
        checkpoint = None if self._has_trained else self.experiment.resumed_from
        if checkpoint is not None and not (self._begins_late and told_path(trainer) is not None):
            self._go_on_from(trainer, checkpoint)

    def _begin_own(self, trainer: Any, params: dict[str, Any]) -> None:
        """Begin an experiment, or go on with one, every rank with the same."""
        ReplicateLogger.end_the_last(unless=self._logger)
        begin: Callable[..., replicate_core.Experiment] = replicate_core.init
        if self._logger is not None:
            begin = partial(self._logger.begin, with_files=self.filepath is None)
        came_from = None
        if trainer.is_global_zero:
            resume = None if self._has_trained else self._resume
            self.experiment = begin(params, **self._labels, resume=resume)
            came_from = self.experiment.resumed_from
        resume = trainer.strategy.broadcast(None if came_from is None else came_from.id)
        if not trainer.is_global_zero:
            self.experiment = begin(params, **self._labels, resume=resume)

    def _go_on_from(self, trainer: Any, checkpoint: Checkpoint) -> None:
        if trainer.strategy.restore_checkpoint_after_setup:
            raise InvalidInput(
                f"resume does not work with {type(trainer.strategy).__name__}: check the checkpoint "
                f"{checkpoint.short_id} out, and give its path to fit(ckpt_path=...)"
            )
        go_on_from(trainer, checkpoint, is_late=self._begins_late)
        self._goes_on = True

    def _end(self, error: BaseException | None) -> None:
        was_training, self._is_training = self._is_training, False
        if was_training and self.experiment is not None and not self._is_given and self._logger is None:
            self.experiment.__exit__(type(error), error, None)

    def _watch_sigterm(self) -> None:
        """Let a SIGTERM in the midst of a batch wait until its end: the weights are whole then.

        When training is over, Lightning puts back the handlers that were there before it began.
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
        """Record where training is, and save it. Every rank takes part: saving is collective, and so are metrics."""
        assert self.experiment is not None, "training began"
        step = trainer.global_step
        self._measured.look(trainer.callback_metrics, step)
        metrics = self._measured.at(step)
        path = None
        if self.filepath is not None and with_files:
            values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
            path = self._saved(trainer, expand_template(self.filepath, values | {"epoch": self._epoch, "step": step}))
        self._recorded_step = step
        primary = self._primary_in(trainer, metrics, in_batch=in_batch)
        where = self._epoch if self._counts_epochs(trainer) else step
        self.experiment.checkpoint(path, metrics, primary, where, **self._extra(trainer))

    def _saved(self, trainer: Any, path: str) -> str | None:
        """Save the training; returns where. None if that failed by chance: training goes on then."""
        began = time.monotonic()
        try:
            save(trainer, path, weights_only=self.save_weights_only)
        except Exception as error:
            # A training that can't be saved so, now or ever; or other ranks, which wait for this one.
            if (not self._has_saved and not isinstance(error, OSError)) or trainer.world_size > 1:
                raise
            warnings.warn(
                f"the model could not be saved to {path}, only its metrics are: {type(error).__name__}: {error}",
                stacklevel=4,
            )
            return None
        if self._resume is not None and not self._has_saved and trainer.is_global_zero and Path(path).is_file():
            try:
                load_plain(Path(path))
            except InvalidInput as error:  # better told now than when it is too late
                warnings.warn(f"resume={self._resume!r} will not go on from {path}: it {error}", stacklevel=4)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
        self._saving_seconds += self._save_seconds
        self._saved_step = trainer.global_step
        self._has_saved, self._unsaved = True, False
        return path

    def _is_counted(self) -> bool:
        return (self._epoch + 1) % self.period == 0

    def _counts_epochs(self, trainer: Any) -> bool:
        """Whether epochs are the steps of the experiment: not where something else happens inside of them, too."""
        # 1.0 is after every epoch, and 1 after every batch; there is none where it is a time.
        interval = getattr(trainer, "val_check_interval", None)
        is_whole = isinstance(interval, float) and interval == 1.0 and trainer.check_val_every_n_epoch is not None
        return self.save_freq == EPOCH and self._logger is None and (is_whole or not _validates(trainer))

    def _is_affordable(self, factor: float = 1.0) -> bool:
        """Tell whether saving would not take more of the time than it may, and some."""
        seconds = self._saving_seconds + factor * self._save_seconds
        return seconds <= self._max_overhead * (time.monotonic() - self._began)

    def _agreed(self, trainer: Any, is_due: bool) -> bool:  # noqa: FBT001
        """What the first rank says: clocks differ, and saving is collective."""
        return bool(trainer.strategy.broadcast(is_due))

    def _primary_in(self, trainer: Any, metrics: Mapping[str, Any], *, in_batch: bool) -> PrimaryMetric | None:
        """The primary metric, if it is known by now: steps know nothing of validation, nor epochs without one."""
        primary = self._primary_metric
        self._has_primary = primary is not None and primary.name in metrics
        if primary is None or self._has_primary:
            return primary
        if in_batch and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{primary.name!r} is not known after a training step: checkpoints in between are recorded without a "
                "primary metric, and one more is saved where it is known",
                stacklevel=4,
            )
        is_due = not _validates(trainer) or self._validated_step == trainer.global_step
        return primary if is_due and not in_batch else None  # where it should be known, the core warns

    def _add_primary(self, trainer: Any) -> None:
        """Save once more where the primary metric is known that training steps did not know."""
        step = trainer.global_step
        is_recorded = self._recorded_step == step and self._has_primary
        if self._has_warned and not is_recorded and self._primary_metric.name in self._measured.at(step):  # type: ignore[union-attr]
            self._checkpoint(trainer)

    def _extra(self, trainer: Any) -> dict[str, Any]:
        """What is recorded beside the metrics: where it is; and once, with the first checkpoint, what is trained."""
        extra: dict[str, Any] = {"epoch": self._epoch, "global_step": trainer.global_step}
        if not self._is_described:
            self._is_described = True
            extra["lightning"] = description(trainer, trainer.lightning_module)
            if self._parent is not None and self.experiment and self._parent["experiment"] != self.experiment.id:
                extra["parent"] = self._parent
        return extra


def _is_stopping(trainer: Any) -> bool:
    """Tell whether training ends after this batch, in the midst of an epoch, which ends with it."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    has_all_epochs = trainer.current_epoch >= (trainer.min_epochs or 0)
    return bool(trainer.should_stop and has_all_epochs and trainer.global_step >= (trainer.min_steps or 0))


def _validates(trainer: Any) -> bool:
    """Tell whether there is anything to validate with."""
    batches = trainer.num_val_batches
    return bool(sum(batches) if isinstance(batches, (list, tuple)) else batches)
