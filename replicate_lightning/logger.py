"""`ReplicateLogger`: records the metrics that Lightning logs, step by step, in an experiment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import replicate_core
from replicate_core import InvalidInput
from replicate_core.adapters import check_experiment, copy_for_training, warn
from replicate_lightning.arguments import check_params
from replicate_lightning.describing import Plain
from replicate_lightning.namespaces import bases
from replicate_lightning.ranks import join_experiment, tell_other_ranks
from replicate_lightning.saving import wait_for_async


class ReplicateLogger(*bases("Logger", module="loggers")):  # type: ignore[misc]  # the bases are those that are installed
    """Record every metric that is logged, as often as `log_every_n_steps` says.

    A `ReplicateCallback` beside it records into the same experiment. Without one, the files of every `ModelCheckpoint`
    are recorded, too. A logger has one experiment, for several calls of `fit` and `test`. The experiment ends with the
    process, with the next recorded training, with an exception, or by `logger.experiment.stop()`.

    Args:
        params: hyperparameters to record, beside those that the module logs; on a clash of names, these win.
        name, tags, notes: name, tags and notes of the experiment, as in `replicate.init`; those of a callback win.
        experiment: a running experiment to record into.
        save_dir: the directory for Lightning's own files: the configuration of LightningCLI, and the files of a
            `ModelCheckpoint` without a directory. They go into a subdirectory named by the first characters of the
            experiment's id.

    Attributes:
        experiment: the experiment that is recorded into; None until training begins, when hyperparameters are known.
    """

    _last: ClassVar[replicate_core.Experiment | None] = None
    """The experiment whose training is over, but that may still be tested."""

    def __init__(
        self,
        params: Mapping[str, object] | None = None,
        *,
        name: str | None = None,
        tags: Iterable[str] = (),
        notes: str | None = None,
        experiment: replicate_core.Experiment | None = None,
        save_dir: str | os.PathLike[str] = "replicate_logs",
    ) -> None:
        super().__init__()
        check_experiment(experiment)
        self._root_dir = os.fspath(save_dir)
        self.experiment: replicate_core.Experiment | None = experiment
        self._is_given = experiment is not None
        self._params = check_params(params)
        self._labels: dict[str, Any] = {"name": name, "tags": tags, "notes": notes}
        self._hyperparameters = Plain()
        self._version: str | None = None
        self._place: dict[str, Any] = {}
        self._step = 0
        self._saves = True
        self._checkpoint_io: Any = None
        self._recorded: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the experiment: processes that a trainer spawns begin their own."""
        return vars(self) | {"experiment": None, "_checkpoint_io": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicateLogger:
        """Copy for another training in this process, with a new experiment unless one was given."""
        copied: ReplicateLogger = copy_for_training(self, memo, given=self.experiment if self._is_given else None)
        return copied

    @property
    def name(self) -> str:
        """Empty: Lightning puts it between `save_dir` and `version`, where no directory is needed."""
        return ""

    @property
    def save_dir(self) -> str:
        """The directory for Lightning's files of this training alone: LightningCLI refuses to overwrite its files."""
        return os.path.join(self._root_dir, self.version)  # may be a URL

    @property
    def root_dir(self) -> str:
        """The directory that holds the directories of all trainings."""
        return self._root_dir

    @property
    def log_dir(self) -> str:
        """The same as `save_dir`, under the name that TensorBoard's logger has."""
        return self.save_dir

    @property
    def version(self) -> str:
        """The beginning of the experiment's id if that is known so early, as with `resume`; else random characters."""
        if self._version is None:
            self._version = os.urandom(4).hex() if self.experiment is None else self.experiment.short_id
        return self._version

    @property
    def running(self) -> replicate_core.Experiment | None:
        """The experiment while it is running; else None."""
        return self.experiment if self.experiment is not None and self.experiment.is_running() else None

    def merged(
        self, params: Mapping[str, object], labels: Mapping[str, Any]
    ) -> tuple[dict[str, object], dict[str, Any]]:
        """Merge the params and labels of a `ReplicateCallback` with its own; the callback's labels win."""
        given = {label: value for label, value in labels.items() if value}
        return {**params, **self._params}, self._labels | given

    def expect(self, version: str) -> None:
        """Name the directory of this training after the experiment that a `ReplicateCallback` is about to begin.

        Nothing was saved under the previous name; only profilers have read it.
        """
        self._version = version

    def take(self, experiment: replicate_core.Experiment, *, with_files: bool) -> None:
        """Record into the experiment that a `ReplicateCallback` has begun.

        `with_files` records the files of `ModelCheckpoint`, for a callback that saves none.
        """
        self.experiment, self._saves = experiment, with_files

    def join(self, experiment: replicate_core.Experiment, *, with_files: bool) -> None:
        """Record into the experiment given to a `ReplicateCallback`, unless the logger has one. See `take`."""
        self._saves = with_files
        if self.experiment is None:
            self.experiment, self._is_given = experiment, True

    def log_hyperparams(self, params: Any = None, *_: Any, **__: Any) -> None:
        """Keep hyperparameters until the experiment begins."""
        logged = Plain()
        logged.add(params)
        self._hyperparameters.values |= logged.values
        self._hyperparameters.left_out += [one for one in logged.left_out if one not in self._hyperparameters.left_out]

    def log_graph(self, model: Any, input_array: Any = None) -> None:  # noqa: ARG002
        """Begin the experiment: Lightning calls this once, after `log_hyperparams` and before training."""
        params = {**self._hyperparameters.values, **self._params}
        trainer = None if model is None else model.trainer
        if trainer is not None:
            self._checkpoint_io = trainer.strategy.checkpoint_io
        if trainer is not None and not trainer.is_global_zero:
            self.experiment = join_experiment(trainer, self.running, params, self._labels)
            return
        if self.running is None:
            self._hyperparameters.warn()
            self.end_the_last(unless=self)
            self.experiment = replicate_core.init(params, **self._labels)
        if trainer is not None and self.experiment is not None:
            tell_other_ranks(trainer, self.experiment.id)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record metrics without files: fast enough for every step."""
        if self.experiment is None:
            self.log_graph(None)
        assert self.experiment is not None, "it has begun"
        self._step = self._step if step is None else step
        found = dict(metrics)
        if "epoch" in found:
            self._place = {"epoch": int(found.pop("epoch"))}
        if found:
            self.experiment.checkpoint(None, found, step=self._step, **self._place)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Record the files that a `ModelCheckpoint` has just saved, with its monitored metric."""
        if not self._saves or self.experiment is None:
            return
        wait_for_async(self._checkpoint_io)
        scores = dict(checkpoint_callback.best_k_models)
        for path in (checkpoint_callback.best_model_path, checkpoint_callback.last_model_path):
            if path:
                scores.setdefault(path, checkpoint_callback.current_score)
        for path, score in scores.items():
            file = Path(path)
            if file.is_symlink() or not file.exists():  # a link to another checkpoint, or on another machine
                continue
            if self._recorded.get(path) != (saved_at := file.stat().st_mtime):
                self._recorded[path] = saved_at
                self._record(file, checkpoint_callback, score)

    def finalize(self, status: str) -> None:
        """End the experiment if training failed; otherwise it may still be tested."""
        if self.experiment is None or self._is_given:
            return
        if status == "failed":
            error = sys.exc_info()[1] or RuntimeError("training failed")  # Lightning is handling it
            self.experiment.__exit__(type(error), error, None)
        else:
            ReplicateLogger._last = self.experiment

    @classmethod
    def end_the_last(cls, *, unless: ReplicateLogger | None = None) -> None:
        """End the last experiment whose training is over, because another one begins."""
        last = ReplicateLogger._last
        if last is not None and (unless is None or unless.experiment is not last):
            ReplicateLogger._last = None
            last.stop()

    def _record(self, path: Path, saved_by: Any, score: Any) -> None:
        """Record a file. If it is outside of the project, warn and record no more files."""
        assert self.experiment is not None, "it has begun"
        monitor = saved_by.monitor
        goal = "minimize" if saved_by.mode == "min" else "maximize"
        metrics = {} if monitor is None or score is None else {monitor: score}
        primary = (monitor, goal) if metrics else None
        try:
            self.experiment.checkpoint(path, metrics, primary, self._step, **self._place)
        except InvalidInput as error:
            self._saves = False
            warn(f"the files of ModelCheckpoint are not recorded: {error}")
