"""`ReplicateLogger`: what Lightning logs, step by step, in the records of an experiment."""

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
from replicate_lightning.ranks import joined, tell_other_ranks
from replicate_lightning.saving import wait_for_async


class ReplicateLogger(*bases("Logger", room="loggers")):  # type: ignore[misc]  # the bases are those that are installed
    """Record every metric that is logged, as often as `log_every_n_steps` says.

    A `ReplicateCallback` beside it records into the same experiment. Without one, the files of every `ModelCheckpoint`
    are recorded, too. One logger is one experiment, of several calls of `fit` and of `test`; it ends with the process,
    with the next training that is recorded, with an exception, or by `logger.experiment.stop()`.

    Args:
        params: hyperparameters to record, beside those that the module logs; of the same name, these win.
        name, tags, notes: of the experiment, as in `replicate.init`; where a callback names its own, that counts.
        experiment: one that the script has begun, to record into.
        save_dir: where Lightning saves what it keeps of a training: in a directory that begins with the id of the
            experiment, the files of a `ModelCheckpoint` that names no directory, and the configuration of LightningCLI.

    Attributes:
        experiment: what it records into; None until training begins, when the hyperparameters are known.
    """

    _last: ClassVar[replicate_core.Experiment | None] = None
    """The one whose training is over, and that may still be tested."""

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
        """For the processes that a trainer spawns: they begin experiments of their own."""
        return vars(self) | {"experiment": None, "_checkpoint_io": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicateLogger:
        """A copy for another training of this process, with an experiment of its own unless one was given."""
        copied: ReplicateLogger = copy_for_training(self, memo, given=self.experiment if self._is_given else None)
        return copied

    @property
    def name(self) -> str:
        """Lightning puts it between `save_dir` and `version`, where nothing is needed."""
        return ""

    @property
    def save_dir(self) -> str:
        """Where Lightning saves what it keeps of this training alone: LightningCLI refuses to write there twice."""
        return os.path.join(self._root_dir, self.version)  # may be the URL of another storage

    @property
    def root_dir(self) -> str:
        """Where the directories of all trainings are."""
        return self._root_dir

    @property
    def log_dir(self) -> str:
        """The same: what others ask of TensorBoard's logger."""
        return self.save_dir

    @property
    def version(self) -> str:
        """How the id of the experiment begins, where that is known so early, as it is with `resume`."""
        if self._version is None:
            self._version = os.urandom(4).hex() if self.experiment is None else self.experiment.short_id
        return self._version

    @property
    def running(self) -> replicate_core.Experiment | None:
        """The experiment that it records into; None before it began, and once it has ended."""
        return self.experiment if self.experiment is not None and self.experiment.is_running() else None

    def merged(
        self, params: Mapping[str, object], labels: Mapping[str, Any]
    ) -> tuple[dict[str, object], dict[str, Any]]:
        """Params and labels of a `ReplicateCallback` beside it, with its own: of labels, the callback's count."""
        given = {label: value for label, value in labels.items() if value}
        return {**params, **self._params}, self._labels | given

    def expect(self, version: str) -> None:
        """Name the directory of this training after the experiment that a `ReplicateCallback` is about to begin.

        Nothing was saved before: only profilers were told of another one.
        """
        self._version = version

    def take(self, experiment: replicate_core.Experiment, *, with_files: bool) -> None:
        """Record into the experiment that a `ReplicateCallback` has begun.

        The files of `ModelCheckpoint` are recorded `with_files`: where the callback saves none.
        """
        self.experiment, self._saves = experiment, with_files

    def join(self, experiment: replicate_core.Experiment, *, with_files: bool) -> None:
        """Record into the one that the script has given to a `ReplicateCallback`, unless it has one. See `take`."""
        self._saves = with_files
        if self.experiment is None:
            self.experiment, self._is_given = experiment, True

    def log_hyperparams(self, params: Any = None, *_: Any, **__: Any) -> None:
        """Note hyperparameters: they are known before the experiment begins."""
        logged = Plain()
        logged.add(params)
        self._hyperparameters.values |= logged.values
        self._hyperparameters.left_out += [one for one in logged.left_out if one not in self._hyperparameters.left_out]

    def log_graph(self, model: Any, input_array: Any = None) -> None:  # noqa: ARG002
        """Begin: this is called once, when hyperparameters are known and training is about to begin."""
        params = {**self._hyperparameters.values, **self._params}
        trainer = None if model is None else model.trainer
        if trainer is not None:
            self._checkpoint_io = trainer.strategy.checkpoint_io
        if trainer is not None and not trainer.is_global_zero:
            self.experiment = joined(trainer, self.running, params, self._labels)
            return
        if self.running is None:
            self._hyperparameters.warn()
            self.end_the_last(unless=self)
            self.experiment = replicate_core.init(params, **self._labels)
        if trainer is not None and self.experiment is not None:
            tell_other_ranks(trainer, self.experiment.id)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record metrics, and no files: cheap enough for every step."""
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
        """Record the files that a `ModelCheckpoint` has just saved, with the metric that it looks at."""
        if not self._saves or self.experiment is None:
            return
        wait_for_async(self._checkpoint_io)
        scores = dict(checkpoint_callback.best_k_models)
        for path in (checkpoint_callback.best_model_path, checkpoint_callback.last_model_path):
            if path:
                scores.setdefault(path, checkpoint_callback.current_score)
        for path, score in scores.items():
            file = Path(path)
            if file.is_symlink() or not file.exists():  # the same as another one; or not of this machine
                continue
            if self._recorded.get(path) != (saved_at := file.stat().st_mtime):
                self._recorded[path] = saved_at
                self._record(file, checkpoint_callback, score)

    def finalize(self, status: str) -> None:
        """End the experiment if training failed; else it may still be tested."""
        if self.experiment is None or self._is_given:
            return
        if status == "failed":
            error = sys.exc_info()[1] or RuntimeError("training failed")  # Lightning is handling it
            self.experiment.__exit__(type(error), error, None)
        else:
            ReplicateLogger._last = self.experiment

    @classmethod
    def end_the_last(cls, *, unless: ReplicateLogger | None = None) -> None:
        """End the experiment whose training is over, because another one begins."""
        last = ReplicateLogger._last
        if last is not None and (unless is None or unless.experiment is not last):
            ReplicateLogger._last = None
            last.stop()

    def _record(self, path: Path, saved_by: Any, score: Any) -> None:
        """Record a file. One that lies outside of the project is none of this experiment's: training goes on."""
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
