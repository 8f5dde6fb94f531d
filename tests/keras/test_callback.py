"""The Keras callback: when it saves, what it records, and what it refuses before training begins."""

import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback


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
    callback = ReplicateCallback("model.keras", primary_metric=("val_loss", "minimize"), save_freq=2)
    experiment = fit(callback, epochs=1, validation_split=0.5)

    assert [checkpoint.primary_metric for checkpoint in experiment.checkpoints] == [None]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filepath": "model.pth"}, r"must end in \.keras or \.h5 or \.hdf5, got 'model.pth'"),
        ({"filepath": "model.keras", "save_weights_only": True}, r"must end in \.weights\.h5 when only weights"),
        ({"filepath": "model.weights.h5"}, "save_weights_only=True"),
        ({"save_freq": 0}, "save_freq"),
        ({"save_freq": True}, "save_freq"),
        ({"save_freq": 2.0}, "save_freq"),
        ({"save_freq": "batch"}, "save_freq"),
        ({"primary_metric": ("loss", "down")}, "primary_metric"),
    ],
)
def test_what_can_not_be_taken_is_refused_at_construction(arguments: dict, message: str) -> None:
    with pytest.raises(replicate.InvalidInput, match=message):
        ReplicateCallback(**arguments)


def test_a_saved_file_is_read_where_it_is_stored(project: Path) -> None:
    experiment = fit(ReplicateCallback("model.h5"), epochs=1)

    with experiment.latest().open("model.h5") as stream, h5py.File(stream, "r") as file:
        assert "model_weights" in file


@pytest.mark.parametrize(
    ("filepath", "message"),
    [
        ("m-{batch:02d}.keras", "batch"),
        ("m-{epoch:q}.keras", "can't be filled in"),
        ("m-{}.keras", "holds no name"),
        ("m-{.keras", "can't be filled in"),
    ],
)
def test_a_template_that_can_not_be_filled_in_is_refused_at_construction(filepath: str, message: str) -> None:
    with pytest.raises(replicate.InvalidInput, match=message):
        ReplicateCallback(filepath)


def test_a_file_outside_of_the_project_is_refused_before_training(project: Path) -> None:
    model, x, y = model_and_data()
    with pytest.raises(replicate.InvalidInput, match="outside of the project"):
        model.fit(x, y, verbose=0, callbacks=[ReplicateCallback("../model.keras")])

    assert not (project.parent / "model.keras").exists()
    assert len(replicate.experiments.list()) == 0


def test_a_primary_metric_that_never_comes_is_warned_of(project: Path) -> None:
    with pytest.warns(UserWarning, match=r"'val_los' is not among the metrics .*did you mean 'val_loss'"):
        fit(ReplicateCallback(None, primary_metric=("val_los", "minimize")), epochs=1, validation_split=0.5)


def test_a_storage_that_fails_does_not_stop_training(project: Path) -> None:
    class Breaking(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                (project / ".replicate/storage").rename(project / "gone")
                (project / ".replicate/storage").write_text("a file where the storage was")

    model, x, y = model_and_data()
    with pytest.warns(UserWarning, match="be stored"):
        history = model.fit(x, y, epochs=3, verbose=0, callbacks=[Breaking(), ReplicateCallback("model.keras")])

    assert len(history.history["loss"]) == 3
