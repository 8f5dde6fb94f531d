"""Models come back from checkpoints as they were saved, and can be trained on."""

from pathlib import Path

import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback, load_model

pytestmark = pytest.mark.usefixtures("no_recorder")

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def train(path: str, epochs: int = 2, **options: object) -> tuple[keras.Model, replicate.Experiment]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    callback = ReplicateCallback(path, primary_metric=("loss", "minimize"), **options)
    model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])
    return model, callback.experiment


@pytest.mark.parametrize("path", ["model.keras", "model.h5", "model.hdf5"])
def test_it_is_trained_on_as_if_it_had_never_been_away(project: Path, path: str) -> None:
    model, experiment = train(path)
    loaded = load_model(experiment.latest())
    for one in (model, loaded):
        one.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    for left, right in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_by_the_id_of_a_checkpoint_or_of_an_experiment(project: Path) -> None:
    _, experiment = train("model.keras", epochs=3)
    for prefix in (experiment.id, experiment.short_id, experiment.best().id):
        loaded = load_model(prefix)
        assert loaded.evaluate(X, Y, verbose=0) is not None
        assert int(loaded.optimizer.iterations) == 6, "of the best one: three epochs of two batches"


def test_with_objects_of_the_users_own(project: Path) -> None:
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2

    model = keras.Sequential([keras.Input((4,)), Doubling(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = ReplicateCallback("model.keras")
    model.fit(X, Y, verbose=0, callbacks=[callback])
    loaded = load_model(callback.experiment.latest(), custom_objects={"Doubling": Doubling})
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_without_the_optimizer_if_nobody_wants_it(project: Path) -> None:
    _, experiment = train("model.h5")
    assert getattr(load_model(experiment.latest(), compile=False), "optimizer", None) is None


def test_weights_alone_are_no_model(project: Path) -> None:
    _, experiment = train("model.weights.h5", save_weights_only=True)
    with pytest.raises(replicate.InvalidInput, match=r"holds the weights of a model.*model\.load_weights"):
        load_model(experiment.latest())


def test_what_is_no_model_is_refused(project: Path) -> None:
    with replicate.init(path=None) as experiment:
        (project / "notes.txt").write_text("no model")
        checkpoint = experiment.checkpoint("notes.txt", {})
        metrics_only = experiment.checkpoint(None, {"loss": 1.0})
    with pytest.raises(replicate.InvalidInput, match="which is not a Keras model"):
        load_model(checkpoint)
    with pytest.raises(replicate.InvalidInput, match="which is not a Keras model"):
        load_model(metrics_only)


def test_of_an_experiment_without_checkpoints_there_is_no_model(project: Path) -> None:
    with replicate.init(path=None) as experiment:
        pass
    with pytest.raises(replicate.InvalidInput, match="has no checkpoints"):
        load_model(experiment.id)
    with pytest.raises(replicate.NotFound):
        load_model("0" * 32)


def test_a_damaged_one_is_not_loaded(project: Path) -> None:
    _, experiment = train("model.keras", epochs=1)
    for stored in (project / ".replicate/storage/data").rglob("*.*"):
        stored.chmod(0o644)
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.write_bytes(content)
    with pytest.raises(replicate.Corrupted):
        load_model(experiment.latest())
