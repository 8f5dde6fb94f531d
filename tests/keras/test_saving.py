"""What a checkpoint of Keras holds: a whole file, and plain data beside it."""

import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback, load_model
from replicate_keras import saving, state

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)

pytestmark = pytest.mark.usefixtures("no_recorder")

ENDINGS = ["model.keras", "model.h5", "model.hdf5", "model.weights.h5"]


def new_model(**options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(**{"optimizer": "adam", "loss": "mse", "run_eagerly": True} | options)  # quicker than to compile it
    return model


def fit(path: str | None, *more: keras.callbacks.Callback, **options: object) -> replicate.Experiment:
    weights_only = path is not None and path.endswith(".weights.h5")
    callback = ReplicateCallback(path, save_weights_only=weights_only, **options)
    new_model().fit(X, Y, batch_size=10, verbose=0, callbacks=[*more, callback])
    return callback.experiment


def leftovers(project: Path) -> list[Path]:
    return [path for path in project.rglob(".replicate-*") if ".replicate" not in path.parts]


class Logging(keras.callbacks.Callback):
    """One more metric at the end of an epoch."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def on_epoch_end(self, epoch, logs=None):
        logs["added"] = self.value


# Files.


@pytest.mark.parametrize("path", ENDINGS)
def test_keras_itself_can_read_the_file(project: Path, path: str) -> None:
    experiment = fit(path)
    experiment.latest().checkout("back")
    again = new_model()
    again.optimizer.build(again.trainable_variables)
    again.load_weights(Path("back") / path)
    trained = new_model()
    trained.fit(X, Y, batch_size=10, verbose=0)
    for left, right in zip(again.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("path", ENDINGS)
def test_the_state_in_the_file_is_text(project: Path, path: str) -> None:
    fit(path)
    found = state.read(project / path)
    assert (found.epoch, found.batches, found.is_whole) == (1, 4, True)
    assert found.backend == keras.backend.backend()
    if zipfile.is_zipfile(path):
        text = zipfile.ZipFile(path).read("replicate_state.json")
    else:
        with h5py.File(path) as file:
            text = bytes(file["replicate_state.json"][()])
    assert json.loads(text)["epoch"] == 1


def test_a_state_of_another_version_is_told_from_a_damaged_file(project: Path) -> None:
    fit("model.keras")
    with zipfile.ZipFile("later.keras", "w") as archive:
        archive.writestr("replicate_state.json", json.dumps({"galaxy": 1}))
    with pytest.raises(replicate.InvalidInput, match=r"later\.keras holds a state of training that this version can't"):
        state.read(project / "later.keras")


@pytest.mark.parametrize("path", ["deep/er/model.keras", "deep/er/model.h5", "deep-{epoch}/model.weights.h5"])
def test_directories_are_made(project: Path, path: str) -> None:
    checkpoint = fit(path).latest()
    assert checkpoint.path == path.format(epoch=1)
    assert (project / checkpoint.path).is_file()


def test_an_absolute_path_is_recorded_as_one_in_the_project(project: Path) -> None:
    assert fit(str(project / "models" / "model.keras")).latest().path == "models/model.keras"


@pytest.mark.parametrize("path", ENDINGS)
def test_a_save_that_fails_leaves_the_file_before_it(project: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(path)
    before = (project / path).read_bytes()

    def broken(temporary: Path, *_: object) -> None:
        temporary.write_bytes(temporary.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write", broken)
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(path)
    assert (project / path).read_bytes() == before
    assert leftovers(project) == []


def test_what_a_killed_save_left_behind_is_not_taken_for_code(project: Path) -> None:
    (project / "train.py").write_text("# the code")
    for ending in (".keras", ".h5", ".weights.h5"):
        (project / f".replicate-0123456789abcdef.tmp{ending}").write_text("half of a model")
    fit("model.keras").checkout("back")
    assert [path.name for path in sorted((project / "back").iterdir())] == ["model.keras", "train.py"]


def test_every_file_of_a_template_is_its_own_checkpoint(project: Path) -> None:
    callback = ReplicateCallback("{epoch:02d}/m-{loss:.4f}.keras")
    new_model().fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    for checkpoint in callback.experiment.checkpoints:
        assert checkpoint.path == f"{checkpoint.step + 1:02d}/m-{checkpoint.metrics['loss']:.4f}.keras"
        load_model(checkpoint)


def test_batches_can_be_named_in_a_template(project: Path) -> None:
    found = fit("m-{epoch}-{batch:02d}.keras", save_freq=2).checkpoints
    assert [checkpoint.path for checkpoint in found] == ["m-1-02.keras", "m-1-04.keras"]


# Metrics.


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (np.float32(1.5), 1.5),
        (np.int64(3), 3),
        (np.array(2.0), 2.0),
        (np.array([2.0]), 2.0),
        (float("inf"), float("inf")),
        (True, True),
        ("text", "text"),
        (b"text", "text"),
        (np.array(b"text", dtype=object), "text"),
        (None, None),
        ([1, 2], [1, 2]),
        ({"a": 1}, {"a": 1}),
        (np.array([0.5, 0.25]), [0.5, 0.25]),
    ],
    ids=repr,
)
def test_whatever_stands_in_the_logs_is_recorded_as_plain_data(project: Path, value: object, recorded: object) -> None:
    found = fit(None, Logging(value)).latest().metrics["added"]
    assert (found, type(found)) == (recorded, type(recorded))


@pytest.mark.parametrize("value", [2.5, [0.5, 0.25]])
def test_so_are_tensors_of_the_backend(project: Path, value: object) -> None:
    assert fit(None, Logging(keras.ops.convert_to_tensor(value))).latest().metrics["added"] == value


def test_nan_is_recorded(project: Path) -> None:
    assert np.isnan(fit(None, Logging(float("nan"))).latest().metrics["added"])


def test_a_metric_of_each_class_does_not_stop_training(project: Path) -> None:
    """By default F1Score is a vector."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    callback = ReplicateCallback("model.keras", primary_metric=("loss", "minimize"))
    classes = np.eye(3, dtype="float32")[np.arange(40) % 3]
    model.fit(X, classes, verbose=0, callbacks=[callback])
    assert len(callback.experiment.best().metrics["f1_score"]) == 3


@pytest.mark.parametrize("value", [np.array([0.5, 0.25]), "text", None, True], ids=repr)
def test_what_is_no_single_number_can_not_be_compared_so_all_are_saved(project: Path, value: object) -> None:
    """As Keras does with a vector."""
    with pytest.warns(UserWarning, match=r"save_best_only compares .* 'added' is .*, not a single number") as warned:
        new_model().fit(
            X,
            Y,
            epochs=2,
            verbose=0,
            callbacks=[
                Logging(value),
                callback := ReplicateCallback("model.keras", save_best_only=True, monitor="added", mode="max"),
            ],
        )
    assert len([item for item in warned if "'added'" in str(item.message)]) == 1, "once"
    assert [checkpoint.path for checkpoint in callback.experiment.checkpoints] == ["model.keras", "model.keras"]


def test_a_primary_metric_that_is_no_single_number_is_warned_of_once_and_the_rest_recorded(project: Path) -> None:
    callback = ReplicateCallback("model.keras", primary_metric=("added", "maximize"))
    with pytest.warns(UserWarning, match="the primary metric 'added' is not a single number") as warned:
        new_model().fit(X, Y, epochs=2, verbose=0, callbacks=[Logging(np.array([0.5, 0.25])), callback])
    assert len([item for item in warned if "'added'" in str(item.message)]) == 1, "once"
    assert callback.experiment.best() is None
    assert callback.experiment.latest().metrics["added"] == [0.5, 0.25]


@pytest.mark.parametrize("value", ["text", None, np.array([0.5, 0.25]), float("nan")], ids=repr)
def test_nor_does_a_template_that_can_not_be_filled_with_it(project: Path, value: object) -> None:
    path = fit("m-{epoch}-{added:.2f}.keras", Logging(value)).latest().path
    assert path == "m-1-nan.keras"


def test_numbers_of_libraries_become_pythons_own() -> None:
    assert [type(saving.number(value)) for value in (1, 1.5, np.float32(1.5), np.int8(1))] == [int, float, float, int]


# What is best.


def test_nan_is_never_best(project: Path) -> None:
    """Where there is nothing else, it is saved all the same, as by Keras."""
    with pytest.warns(UserWarning, match="'added' is NaN"):
        experiment = fit("model.keras", Logging(float("nan")), save_best_only=True, monitor="added", mode="max")
    assert experiment.latest().path == "model.keras"
    assert experiment.best() is None


def test_the_best_batches_are_saved(project: Path) -> None:
    """Keras itself raises here: keras.callbacks.ModelCheckpoint(save_best_only=True, save_freq=1)."""
    experiment = fit("model.keras", save_freq=1, save_best_only=True, monitor="loss")
    losses = [checkpoint.metrics["loss"] for checkpoint in experiment.checkpoints]
    is_best = [loss < min(losses[:index], default=np.inf) for index, loss in enumerate(losses)]
    assert [checkpoint.path is not None for checkpoint in experiment.checkpoints] == is_best


def test_validation_decides_at_the_end_of_an_epoch_which_is_best(project: Path) -> None:
    callback = ReplicateCallback(
        "model.keras", save_freq=1, save_best_only=True, primary_metric=("val_loss", "minimize")
    )
    with pytest.warns(UserWarning, match="save_best_only looks at 'val_loss'"):
        new_model().fit(X, Y, epochs=2, batch_size=10, validation_split=0.5, verbose=0, callbacks=[callback])
    found = [(checkpoint.step, checkpoint.path is not None) for checkpoint in callback.experiment.checkpoints]
    assert found == [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]


def test_so_it_does_for_a_monitor_that_is_no_primary_metric(project: Path) -> None:
    callback = ReplicateCallback("model.keras", save_freq=3, save_best_only=True, monitor="val_loss")
    with pytest.warns(UserWarning, match="'val_loss', which is not known after a batch: what is saved is decided at"):
        new_model().fit(X, Y, epochs=2, batch_size=10, validation_split=0.5, verbose=0, callbacks=[callback])
    found = [(checkpoint.step, checkpoint.path is not None) for checkpoint in callback.experiment.checkpoints]
    assert found == [(3, False), (4, True)], "no moment was due in the first of two epochs, of 2 batches each"


# What is trained.


@pytest.mark.parametrize(
    "loss",
    ["mse", keras.losses.Huber(), lambda wanted, found: (wanted - found) ** 2],
    ids=["named", "object", "function"],  # not by their texts, which hold addresses: test runners compare them
)
def test_what_is_trained_is_plain_data(project: Path, loss: object) -> None:
    callback = ReplicateCallback("model.weights.h5", save_weights_only=True)
    model = new_model(loss=loss, optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    model.fit(X, Y, verbose=0, callbacks=[callback])
    described = callback.experiment.latest().extra["keras"]
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    schedule = described["optimizer"]["config"]["learning_rate"]
    assert schedule["class_name"] == "CosineDecay"
    assert described["version"] == keras.__version__


def test_so_are_the_steps_that_fit_was_told_of(project: Path) -> None:
    callback = ReplicateCallback(None)
    batches = ((X[:4], Y[:4]) for _ in range(4))
    new_model().fit(batches, steps_per_epoch=2, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    described = callback.experiment.checkpoints[0].extra["keras"]
    assert (described["steps"], described["epochs"]) == (2, 2)
