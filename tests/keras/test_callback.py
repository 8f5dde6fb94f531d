"""The Keras callback: when it saves, what it records, and what it refuses before training begins."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from kit import Clock

import replicate
import replicate_keras.callback as callback_module
from replicate.keras_callback import ReplicateCallback, load_model


def model_and_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mean_squared_error", metrics=["mean_absolute_error"])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return model, x, x.sum(axis=1, keepdims=True)


def fit(callback: ReplicateCallback, **options) -> replicate.Experiment:
    model, x, y = model_and_data()
    model.fit(x, y, batch_size=10, verbose=0, callbacks=[callback], **options)
    return replicate.experiments.list()[-1]


def fit_with(callback: ReplicateCallback, logs: Callable[[], dict[str, float]], **options) -> None:
    """Train, with more metrics at the end of each epoch."""

    class Logs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= made()

    made = logs
    model, x, y = model_and_data()
    model.fit(x, y, verbose=0, callbacks=[Logs(), callback], **options)


def ours(warned: pytest.WarningsRecorder) -> list[str]:
    """What is warned of, without what the libraries below say."""
    texts = [str(item.message) for item in warned if item.category is UserWarning]
    return [text for text in texts if "'val_loss'" in text]


def test_it_is_a_model_checkpoint() -> None:
    assert isinstance(ReplicateCallback(), keras.callbacks.ModelCheckpoint)


def test_every_epoch_becomes_a_checkpoint_with_its_metrics(project: Path) -> None:
    callback = ReplicateCallback("model.keras", {"lr": 0.001}, ("val_loss", "minimize"))
    experiment = fit(callback, epochs=3, validation_split=0.5)

    assert experiment.params == {"lr": 0.001}
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == [0, 1, 2]
    assert all(isinstance(value, float) for value in experiment.latest().metrics.values())
    assert set(experiment.latest().metrics) == {"loss", "mean_absolute_error", "val_loss", "val_mean_absolute_error"}
    assert experiment.best().primary_metric == ("val_loss", "minimize")
    assert experiment.status == "finished"


def test_a_number_of_batches_counts_across_epochs(project: Path) -> None:
    experiment = fit(ReplicateCallback("model.keras", save_freq=3), epochs=3)

    assert [checkpoint.step for checkpoint in experiment.checkpoints] == [3, 6, 9, 12]
    assert [checkpoint.extra["epoch"] for checkpoint in experiment.checkpoints] == [0, 1, 2, 2]


def test_a_metric_that_batches_do_not_have_is_no_primary_metric_of_theirs(project: Path) -> None:
    callback = ReplicateCallback("model.keras", primary_metric=("val_loss", "minimize"), save_freq=1)
    with pytest.warns(UserWarning, match="'val_loss' is not known after a batch") as warned:
        experiment = fit(callback, epochs=2, validation_split=0.5)

    assert len(ours(warned)) == 1
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == [1, 2, 2, 3, 4, 4]
    known = [checkpoint.primary_metric is not None for checkpoint in experiment.checkpoints]
    assert known == [False, False, True, False, False, True]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints[2::3])
    assert experiment.best() is not None


@pytest.mark.parametrize("frequency", [2, [2, 4]], ids=str)
def test_an_epoch_that_is_not_validated_lacks_its_metric_without_a_word(project: Path, frequency: object) -> None:
    callback = ReplicateCallback("model.keras", primary_metric=("val_loss", "minimize"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        experiment = fit(callback, epochs=4, validation_split=0.5, validation_freq=frequency)
    assert ours(warned) == []
    known = [checkpoint.primary_metric is not None for checkpoint in experiment.checkpoints]
    assert known == [False, True, False, True]


def test_one_that_is_validated_and_lacks_it_is_warned_of(project: Path) -> None:
    callback = ReplicateCallback("model.keras", primary_metric=("val_los", "minimize"))
    with pytest.warns(UserWarning, match="'val_los' is not among the metrics"):
        fit(callback, epochs=2, validation_split=0.5, validation_freq=2)


def test_a_monitor_that_is_never_a_number_saves_every_model_with_one_warning(project: Path) -> None:
    callback = ReplicateCallback("model.keras", monitor="q", mode="max", save_best_only=True)
    with pytest.warns(UserWarning, match="'q' is NaN: every model is saved until it is a number") as warned:
        fit_with(callback, lambda: {"q": float("nan")}, epochs=3)
    assert len([item for item in warned if "'q' is NaN" in str(item.message)]) == 1
    (experiment,) = replicate.experiments.list()
    assert [checkpoint.path for checkpoint in experiment.checkpoints] == ["model.keras"] * 3


def test_once_it_is_a_number_the_best_is_saved_only(project: Path) -> None:
    values = iter([float("nan"), 1.0, float("nan"), 0.5, 2.0])
    callback = ReplicateCallback("model.keras", monitor="q", mode="max", save_best_only=True)
    with pytest.warns(UserWarning, match="'q' is NaN"):
        fit_with(callback, lambda: {"q": next(values)}, epochs=5)
    (experiment,) = replicate.experiments.list()
    assert [checkpoint.path is not None for checkpoint in experiment.checkpoints] == [True, True, False, False, True]


def test_a_threshold_may_be_a_scalar_of_numpy(project: Path) -> None:
    callback = ReplicateCallback(
        "model.keras", monitor="loss", save_best_only=True, initial_value_threshold=np.float32(1e-9)
    )
    experiment = fit(callback, epochs=2)
    assert [checkpoint.path for checkpoint in experiment.checkpoints] == [None, None]
    assert callback.best == pytest.approx(1e-9)


def test_what_stood_where_model_checkpoint_did_is_told_what_came_second() -> None:
    with pytest.raises(replicate.InvalidInput, match=r"params must be a dictionary.*monitor='val_loss'"):
        ReplicateCallback("model.keras", "val_loss", 1)


@pytest.mark.parametrize("filepath", ["model.hdf5", "model.h5", "model.keras", "deep/er/model.keras"])
def test_the_saved_model_comes_back_and_predicts_the_same(filepath: str, project: Path) -> None:
    model, x, y = model_and_data()
    model.fit(x, y, verbose=0, callbacks=[ReplicateCallback(filepath)])

    (experiment,) = replicate.experiments.list()
    experiment.checkout("back")
    loaded = keras.models.load_model(Path("back") / filepath, compile=False)

    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    leftovers = [path for path in project.rglob(".replicate-*") if ".replicate" not in path.parts]
    assert leftovers == []


def test_weights_only(project: Path) -> None:
    experiment = fit(ReplicateCallback("model.weights.h5", save_weights_only=True), epochs=1)

    assert list(experiment.latest().files) == ["model.weights.h5"]


def test_a_template_keeps_every_file(project: Path) -> None:
    fit(ReplicateCallback(Path("m-{epoch:02d}-{loss:.1f}.keras")), epochs=2)

    assert [path.name[:5] for path in sorted(project.glob("m-*.keras"))] == ["m-01-", "m-02-"]


def test_a_template_with_a_metric_that_is_not_there_does_not_stop_training(project: Path) -> None:
    fit(ReplicateCallback("m-{epoch}-{val_loss:.2f}.keras", save_freq=4), epochs=1)

    assert (project / "m-1-nan.keras").exists()


def test_without_a_file_path_only_metrics_are_recorded(project: Path) -> None:
    experiment = fit(ReplicateCallback(None), epochs=2)

    assert [checkpoint.path for checkpoint in experiment.checkpoints] == [None, None]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs one batch in a step there")
def test_batches_are_counted_though_several_run_in_one_step(project: Path) -> None:
    model, x, y = model_and_data()
    model.compile("adam", "mse", steps_per_execution=3)
    callback = ReplicateCallback("model.keras", save_freq=4)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])  # 10 batches: 3, 3, 3 and 1

    assert [checkpoint.step for checkpoint in callback.experiment.checkpoints] == [6, 10, 16, 20]


def test_only_the_best_files_are_saved_and_all_metrics(project: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 0.5])
    callback = ReplicateCallback("model.keras", save_best_only=True, primary_metric=("made_up", "minimize"))
    fit_with(callback, lambda: {"made_up": next(losses)}, epochs=4)

    found = callback.experiment.checkpoints
    assert [checkpoint.metrics["made_up"] for checkpoint in found] == [3.0, 1.0, 2.0, 0.5]
    assert [checkpoint.path is not None for checkpoint in found] == [True, True, False, True]


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"monitor": "made_up", "mode": "max"}, [True, False, False, True]),
        ({"monitor": "accuracy_of_it"}, [True, True, False, False]),
        ({"monitor": "made_up", "mode": "max", "initial_value_threshold": 3.5}, [False, False, False, True]),
        ({"primary_metric": ("made_up", "maximize")}, [True, False, False, True]),
        ({"monitor": "accuracy_of_it", "primary_metric": ("made_up", "minimize")}, [True, True, False, False]),
    ],
)
def test_what_is_best_is_what_monitor_and_mode_say(project: Path, options: dict, saved: list[bool]) -> None:
    rows = iter(zip([3.0, 1.0, 2.0, 4.0], [0.5, 0.9, float("nan"), 0.7], strict=True))
    callback = ReplicateCallback("model.keras", save_best_only=True, **options)
    fit_with(callback, lambda: dict(zip(("made_up", "accuracy_of_it"), next(rows), strict=True)), epochs=4)

    assert [checkpoint.path is not None for checkpoint in callback.experiment.checkpoints] == saved


def test_a_monitor_that_never_comes_is_warned_of_once(project: Path) -> None:
    callback = ReplicateCallback("model.keras", save_best_only=True)
    with pytest.warns(UserWarning, match="save_best_only looks at 'val_loss', which is not among") as warned:
        fit(callback, epochs=2)
    assert len(ours(warned)) == 1
    saved = [checkpoint.path for checkpoint in callback.experiment.checkpoints]
    assert saved == ["model.keras", "model.keras"], "as ModelCheckpoint: better all of them than none"


def test_once_the_monitor_was_compared_an_epoch_without_it_does_not_replace_the_best(project: Path) -> None:
    """As with `fit(validation_freq=2)`."""
    rows = iter([{"made_up": 3.0}, {}, {"made_up": 4.0}, {}, {"made_up": 1.0}])
    callback = ReplicateCallback("model.keras", save_best_only=True, monitor="made_up", mode="min")
    fit_with(callback, lambda: next(rows), epochs=5)
    saved = [checkpoint.path is not None for checkpoint in callback.experiment.checkpoints]
    assert saved == [True, False, False, False, True]


class Looking(keras.callbacks.ModelCheckpoint):
    """Keras' own, which notes after how many batches it saves, or would."""

    def __init__(self, save_freq: int) -> None:
        super().__init__("theirs.weights.h5", save_weights_only=True, save_freq=save_freq)
        self.looked: list[int] = []
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        before = self._last_batch_seen or 0
        self.batches += batch + 1 if self._last_batch_seen is None or batch <= before else batch - before
        super().on_train_batch_end(batch, logs)

    def _save_model(self, epoch, batch, logs):
        self.looked.append(self.batches)


@pytest.mark.parametrize(
    "options",
    [{"filepath": None}, {"save_best_only": True, "monitor": "loss", "initial_value_threshold": -1.0}],
    ids=str,
)
def test_a_due_moment_at_which_nothing_is_saved_makes_no_other_one_due(project: Path, options: dict) -> None:
    callback, theirs = ReplicateCallback(save_freq=5, **options), Looking(5)
    model, x, y = model_and_data()
    model.fit(x, y, batch_size=5, epochs=3, verbose=0, callbacks=[callback, theirs])  # 8 batches each
    assert [checkpoint.step for checkpoint in callback.experiment.checkpoints] == theirs.looked == [5, 10, 15, 20]


def test_the_best_value_and_what_is_monitored_can_be_asked_for_as_of_model_checkpoint(project: Path) -> None:
    options = {"save_best_only": True, "monitor": "val_mean_absolute_error", "mode": "min"}
    ours, theirs = ReplicateCallback("m.keras", **options), keras.callbacks.ModelCheckpoint("t.keras", **options)
    assert (ours.best, ours.monitor) == (None, "val_mean_absolute_error")
    model, x, y = model_and_data()
    model.fit(x, y, epochs=2, validation_split=0.5, verbose=0, callbacks=[ours, theirs])
    assert ours.best == pytest.approx(theirs.best)
    assert ReplicateCallback("m.keras", **options, initial_value_threshold=0.5).best == 0.5


@pytest.mark.parametrize("save_freq", [3, "auto"])
def test_a_full_disk_is_tried_at_the_due_moments_only(
    project: Path, monkeypatch: pytest.MonkeyPatch, save_freq: int | str
) -> None:
    clock, attempts = Clock(monkeypatch, callback_module), []

    def failing(*_: object, **__: object) -> None:
        attempts.append(int(clock.now))
        raise OSError(28, "No space left on device")

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.now += 101.0

    monkeypatch.setattr(callback_module, "save", failing)
    model, x, y = model_and_data()
    with pytest.warns(UserWarning, match="could not be saved"):
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[Batches(), ReplicateCallback(save_freq=save_freq)])
    assert attempts[:3] == [303, 606, 909]


def test_as_often_as_is_allowed_and_the_best_only_are_both_heeded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, callback_module)
    callback = ReplicateCallback(save_freq="auto", max_overhead=0.1, save_best_only=True, monitor="made_up", mode="min")
    save = callback_module.save

    def slowly(*arguments: object, **options: object) -> None:
        save(*arguments, **options)
        clock.now += 5.0

    monkeypatch.setattr(callback_module, "save", slowly)
    losses = iter([9.0, 8.0, 7.0, 8.5])
    fit_with(callback, lambda: {"made_up": next(losses)}, epochs=4)
    saved = [checkpoint.metrics["made_up"] for checkpoint in callback.experiment.checkpoints if checkpoint.path]
    assert saved == [9.0, 8.5], "the others cost too much; the last is better than what is there"


def test_a_file_every_few_epochs_and_metrics_of_each(project: Path) -> None:
    callback = ReplicateCallback("m-{epoch}.keras", primary_metric=("val_loss", "minimize"), period=2)
    experiment = fit(callback, epochs=5, validation_split=0.5)
    saved = [(checkpoint.step, checkpoint.path) for checkpoint in experiment.checkpoints]
    assert saved == [(0, None), (1, "m-2.keras"), (2, None), (3, "m-4.keras"), (4, None)]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def test_it_says_what_it_does_where_verbose_asks_for_it(
    project: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    losses = iter([2.0, 3.0])
    callback = ReplicateCallback("m-{epoch}.keras", save_best_only=True, monitor="made_up", mode="min", verbose=1)
    fit_with(callback, lambda: {"made_up": next(losses)}, epochs=2)
    assert capfd.readouterr().out.split("\n\n") == [
        "\nEpoch 1: made_up improved from None to 2.00000",
        "Epoch 1: saving model to m-1.keras",
        "Epoch 1: finished saving model to m-1.keras",
        "Epoch 2: made_up did not improve from 2.00000\n",
    ]
    fit(ReplicateCallback())
    assert capfd.readouterr().out == "", "nothing where it does not"
    keras.config.disable_interactive_logging()
    try:
        with caplog.at_level("INFO", logger="absl"):
            fit(ReplicateCallback(verbose=1))
    finally:
        keras.config.enable_interactive_logging()
    assert capfd.readouterr().out == ""
    assert "finished saving model to model.hdf5" in caplog.text


def test_files_of_the_best_and_the_last_are_kept(project: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    callback = ReplicateCallback("model.keras", primary_metric=("made_up", "minimize"), keep_best=2, keep_last=1)
    fit_with(callback, lambda: {"made_up": next(losses)}, epochs=5)

    (experiment,) = replicate.experiments.list()
    assert [checkpoint.metrics["made_up"] for checkpoint in experiment.checkpoints] == [3.0, 1.0, 2.0, 4.0, 5.0]
    assert [checkpoint.lacks_files for checkpoint in experiment.checkpoints] == [True, False, False, True, False]
    load_model(experiment.best())


def test_saving_takes_no_more_of_the_time_than_it_may(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, callback_module)
    callback = ReplicateCallback("model.keras", save_freq="auto", max_overhead=0.1)
    save = callback_module.save

    def slowly(*arguments: object, **options: object) -> None:
        save(*arguments, **options)
        clock.now += 5.0

    monkeypatch.setattr(callback_module, "save", slowly)

    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            clock.now += 10.0

    model, x, y = model_and_data()
    model.fit(x, y, epochs=20, verbose=0, callbacks=[Epochs(), callback])
    found = callback.experiment.checkpoints
    saved = [checkpoint.extra["epoch"] for checkpoint in found if checkpoint.path is not None]
    assert len({checkpoint.extra["epoch"] for checkpoint in found}) == 20, "metrics of every epoch"
    assert saved == [0, 9, 13, 18, 19], "10 of 105 seconds, 15 of 155, 20 of 210; the first and the last in any case"


def test_the_best_is_one_whose_model_was_saved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs have metrics more often than models: the best loss of all is of an epoch without one."""
    clock = Clock(monkeypatch, callback_module)
    callback = ReplicateCallback("model.keras", primary_metric=("made_up", "minimize"), save_freq="auto")
    save = callback_module.save

    def slowly(*arguments: object, **options: object) -> None:
        save(*arguments, **options)
        clock.now += 100.0

    monkeypatch.setattr(callback_module, "save", slowly)
    losses = iter([3.0, 1.0, 2.0, 4.0])
    fit_with(callback, lambda: {"made_up": next(losses)}, epochs=4)

    (experiment,) = replicate.experiments.list()
    assert [item.has_files for item in experiment.checkpoints if "made_up" in item.metrics][:4] == [
        True,
        False,
        False,
        False,
    ]
    assert experiment.best(with_files=False).metrics["made_up"] == 1.0
    assert experiment.best().metrics["made_up"] == 3.0
    assert load_model(experiment.id).count_params() == load_model(experiment.best()).count_params() == 5
    experiment.checkout(project / "back")
    keras.models.load_model(project / "back/model.keras")
    unsaved = experiment.best(with_files=False)
    with pytest.raises(replicate.NotFound, match="The nearest with files"):
        unsaved.checkout(project / "again")
    with pytest.raises(replicate.InvalidInput, match="which is not a Keras model"):
        load_model(unsaved)


def test_inside_of_a_long_epoch_it_saves_now_and_then(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, callback_module)
    callback = ReplicateCallback("model.keras", save_freq="auto")

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.now += 70.0

    model, x, y = model_and_data()
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[Batches(), callback])
    found = callback.experiment.checkpoints
    assert [checkpoint.step for checkpoint in found] == [5, 10, 10], "every 300 seconds, and the end of the epoch"


def test_what_is_trained_is_recorded_beside_the_params(project: Path) -> None:
    experiment = fit(ReplicateCallback("model.keras", {"lr": 0.001}), epochs=2)

    assert experiment.params == {"lr": 0.001}
    first, second = experiment.checkpoints
    described = first.extra["keras"]
    assert described["backend"] == keras.backend.backend()
    assert described["optimizer"]["class_name"] == "Adam"
    assert described["loss"] == "mean_squared_error"
    assert (described["parameters"], described["epochs"], described["steps"]) == (5, 2, 4)
    assert described["dtype_policy"] == "float32"
    assert "dense" in described["summary"]
    assert "keras" not in second.extra


def test_fitting_again_is_another_experiment(project: Path) -> None:
    model, x, y = model_and_data()
    callback = ReplicateCallback("model.keras", save_freq=3)
    for _ in range(2):
        model.fit(x, y, batch_size=10, verbose=0, callbacks=[callback])

    assert [[c.step for c in experiment.checkpoints] for experiment in replicate.experiments.list()] == [[3], [3]]


def test_saving_is_quiet(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(ReplicateCallback(), epochs=1)

    assert caplog.records == []


def test_a_saved_file_is_read_where_it_is_stored(project: Path) -> None:
    experiment = fit(ReplicateCallback("model.h5"), epochs=1)

    with experiment.latest().open("model.h5") as stream, h5py.File(stream, "r") as file:
        assert "model_weights" in file


def test_a_file_outside_of_the_project_is_refused_before_training(project: Path) -> None:
    model, x, y = model_and_data()
    with pytest.raises(replicate.InvalidInput, match="outside of the project"):
        model.fit(x, y, verbose=0, callbacks=[ReplicateCallback("../model.keras")])

    assert not (project.parent / "model.keras").exists()
    assert len(replicate.experiments.list()) == 0


def test_a_primary_metric_that_never_comes_is_warned_of(project: Path) -> None:
    with pytest.warns(UserWarning, match=r"'val_los' is not among the metrics .*did you mean 'val_loss'"):
        fit(ReplicateCallback(None, primary_metric=("val_los", "minimize")), epochs=1, validation_split=0.5)


def test_a_disk_that_is_full_does_not_stop_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = callback_module.save, []

    def failing(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(callback_module, "save", failing)
    with pytest.warns(UserWarning, match="could not be saved to model.keras, only its metrics are: OSError"):
        experiment = fit(ReplicateCallback("model.keras"), epochs=4)
    assert [checkpoint.path for checkpoint in experiment.checkpoints] == [None, "model.keras", None, "model.keras"]
    assert all("loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def test_a_model_that_can_never_be_saved_is_told_of_at_once(project: Path) -> None:
    class Unsavable(keras.layers.Layer):
        def call(self, inputs):
            return inputs

        def get_config(self):
            raise NotImplementedError("this layer has no config")

    _, x, y = model_and_data()
    model = keras.Sequential([keras.Input((4,)), Unsavable(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = ReplicateCallback("model.keras")
    with pytest.raises(NotImplementedError, match="this layer has no config"), callback:
        model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    assert callback.experiment.status == "failed"


def break_storage(storage: Path) -> None:
    """Put a file where a storage is, which its recorder may be making anew at this very moment."""
    for attempt in range(100):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            storage.rename(storage.with_name(f"gone-{attempt}"))
            storage.write_text("a file where the storage was")
            return
    raise AssertionError(f"{storage} is made anew again and again")


def test_a_storage_that_fails_does_not_stop_training(project: Path) -> None:
    class Breaking(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                break_storage(project / ".replicate/storage")

    model, x, y = model_and_data()
    callback = ReplicateCallback("model.keras")

    def train():
        history = model.fit(x, y, epochs=3, verbose=0, callbacks=[Breaking(), callback])
        callback.experiment.stop()  # the recorder may meet the failure only after training has ended
        return history

    with pytest.warns(UserWarning, match="be stored"):
        history = train()

    assert len(history.history["loss"]) == 3
