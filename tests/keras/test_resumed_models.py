"""What a resumed training gives back to the model and its optimizers, and which models are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras_forms import Subclassed
from kit import steps
from small_fits import Breaking, assert_equal, fit, new_model

import replicate
from replicate.keras_callback import ReplicateCallback, load_model
from replicate_keras import state


@pytest.mark.parametrize("path", ["model.keras", "model.hdf5", "model.weights.h5"])
def test_in_mixed_precision(project: Path, data, path: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        fit(data, 2, filepath=path)
        second = fit(data, 4, filepath=path)
        assert second.epochs == [2, 3]
        assert_equal(second, fit(data, 4, filepath=path, name="whole"))
    finally:
        keras.config.set_dtype_policy("float32")


def subclassed(*, is_called: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = Subclassed()
    if is_called:
        model(np.zeros((1, 4), "float32"))
    model.compile("adam", "mse")
    return model


def test_a_model_of_a_class_of_its_own(project: Path, data) -> None:
    fit(data, 2, model=subclassed(is_called=True), filepath="model.weights.h5")
    second = fit(data, 4, model=subclassed(is_called=True), filepath="model.weights.h5")
    whole = fit(data, 4, model=subclassed(is_called=True), filepath="model.weights.h5", name="whole")
    assert second.epochs == [2, 3]
    assert_equal(second, whole)


def test_such_a_model_that_was_never_called(project: Path, data) -> None:
    def train(epochs: int) -> replicate.Experiment:
        return fit(data, epochs, model=subclassed(is_called=False), filepath="model.weights.h5")

    train(2)
    assert train(4).epochs == [2, 3]


class Parts(keras.Model):
    """Is never called itself, and can't be."""

    def __init__(self) -> None:
        super().__init__()
        self.part = keras.layers.Dense(1)


def test_one_that_can_not_be_built_is_refused_with_what_to_do(project: Path, data) -> None:
    """In a loop of the user's own, of whose data nothing is known."""

    def begin(model: keras.Model, resume: str) -> tuple[ReplicateCallback, keras.callbacks.CallbackList]:
        callback = ReplicateCallback("model.weights.h5", name="parts", resume=resume, save_weights_only=True)
        callbacks = keras.callbacks.CallbackList([callback], model=model)
        callbacks.on_train_begin()
        return callback, callbacks

    model = Parts()
    model.part(data[0])
    callback, callbacks = begin(model, "auto")
    callbacks.on_epoch_begin(0)
    callbacks.on_train_batch_end(0, {"loss": 1.0})
    callbacks.on_epoch_end(0, {"loss": 1.0})
    callbacks.on_train_end()
    with pytest.raises(replicate.InvalidInput, match="or each of its parts if it has no call"):
        begin(Parts(), callback.experiment.id)
    again = Parts()
    again.part(data[0])
    begin(again, callback.experiment.id)[1].on_train_end()
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


# Optimizers, and what Keras does not save.


class Held(keras.Sequential):
    """Holds an optimizer beside that which it is compiled with."""

    other: keras.optimizers.Optimizer | None = None


def held(other: keras.optimizers.Optimizer | None, *, trains: str | None = "weights") -> keras.Model:
    keras.utils.set_random_seed(0)
    model = Held([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.other = other
    if trains == "weights":
        other.build(model.trainable_variables)
        other.variables[-1].assign(other.variables[-1] + 5)
    elif trains == "others":
        other.build([keras.Variable([1.0])])
    return model


@pytest.mark.parametrize("path", ["model.weights.h5", "model.h5"])
def test_an_optimizer_that_the_model_holds_is_restored(project: Path, data, path: str) -> None:
    first = held(keras.optimizers.Adam())
    fit(data, 1, model=first, filepath=path)
    second = held(keras.optimizers.Adam(), trains=None)
    fit(data, 2, model=second, filepath=path)
    found, wanted = ([np.array(variable) for variable in model.other.variables] for model in (second, first))
    assert len(found) == 6
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("trained", "now", "text"),
    [
        ("weights", None, "had an optimizer 'other', and this one has none there"),
        ("weights", "SGD", r"'other' \(SGD\) has 2 variables, and the one that was saved has 6"),
        ("others", "Adam", "trains variables that are not weights of the model: build it before fit"),
    ],
)
def test_an_optimizer_that_can_not_be_restored_is_refused(
    project: Path, data, trained: str, now: str | None, text: str
) -> None:
    fit(data, 1, model=held(keras.optimizers.Adam(), trains=trained), filepath="model.weights.h5")
    other = None if now is None else getattr(keras.optimizers, now)()
    with pytest.raises(replicate.InvalidInput, match=text):
        fit(data, 2, model=held(other, trains=None), filepath="model.weights.h5")


def test_another_kind_of_optimizer_is_refused(project: Path, data) -> None:
    fit(data, 1)
    with pytest.raises(replicate.InvalidInput, match=r"the optimizer 'optimizer' \(SGD\) has 2 variables.*compile"):
        fit(data, 2, model=new_model(optimizer="sgd"))


def write_as_older_versions_did(path: Path, moment: state.State) -> None:
    known = ("epoch", "batches", "is_whole", "best", "backend", "build", "random", "callbacks")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("replicate_state.json", json.dumps({name: getattr(moment, name) for name in known}))


def test_states_of_older_versions_are_gone_on_with(project: Path, data, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("replicate_keras.saving.write", write_as_older_versions_did)
        fit(data, 2)
    assert_equal(fit(data, 4), fit(data, 4, name="whole"))


def adapted() -> keras.Model:
    model = new_model()
    model.layers[-1].enable_lora(1)
    model.compile("adam", "mse")
    return model


def test_a_loaded_model_has_the_weights_of_lora(project: Path, data) -> None:
    model = adapted()
    loaded = load_model(fit(data, 2, model=model).latest())
    for left, right in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_without_lora_such_a_checkpoint_is_refused(project: Path, data) -> None:
    fit(data, 2, model=adapted())
    with pytest.raises(
        replicate.InvalidInput, match=r"(?s)does not fit into this model.*LoRA enabled on the same layers"
    ):
        fit(data, 4)


def swapping() -> keras.callbacks.Callback:
    return keras.callbacks.SwapEMAWeights(swap_on_epoch=True)


def averaged() -> keras.Model:
    return new_model(optimizer=keras.optimizers.Adam(use_ema=True))


def test_averaged_weights_without_what_swaps_them_are_warned_of(project: Path, data) -> None:
    with pytest.raises(RuntimeError):
        fit(data, 4, swapping(), Breaking(), model=averaged())
    with pytest.warns(UserWarning, match="averaged weights of SwapEMAWeights, which is not among the callbacks now"):
        fit(data, 4, model=averaged(), resume="auto")


def test_averaged_weights_that_took_the_place_of_the_others_are_warned_of(project: Path, data) -> None:
    fit(data, 2, swapping(), model=averaged())
    with pytest.warns(UserWarning, match="kept only the averaged weights at the end of that training"):
        fit(data, 4, swapping(), model=averaged())


def test_training_starts_with_weights_that_another_program_saved(project: Path, data) -> None:
    model = new_model()
    with replicate.init(name="sums") as experiment:
        model.fit(*data, verbose=0)
        model.save("model.keras")
        experiment.checkpoint("model.keras", {"loss": 1.0}, step=0)
    with pytest.warns(UserWarning, match="was not saved by this callback: training starts at epoch 0 with its weights"):
        second = fit(data, 1)
    assert second.epochs == [0]


def test_what_is_no_model_is_refused(project: Path, data) -> None:
    (project / "notes.txt").write_text("no model")
    with replicate.init(name="sums") as experiment:
        experiment.checkpoint("notes.txt", {}, step=0)
    with pytest.raises(replicate.InvalidInput, match=r"holds 'notes\.txt', which is not a Keras model"):
        fit(data, 1)


def test_another_model_is_refused_with_what_to_do(project: Path, data) -> None:
    first = fit(data, 3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = ReplicateCallback("model.keras", name="sums", resume=first.checkpoints[0].id)
    with pytest.raises(
        replicate.InvalidInput, match=r"(?s)does not fit into this model.*another name, or leave resume out"
    ):
        model.fit(*data, verbose=0, callbacks=[callback])
    assert callback.experiment is None
    first.refresh()
    assert (steps(first), first.status) == ([0, 1, 2], "finished"), "a resume that fails leaves things as they were"
    assert not list(Path(".replicate/spool").glob("*-*"))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="JAX keeps them, and on torch Keras fails by itself")
def test_states_of_layers_that_keras_does_not_save_are_warned_of(project: Path) -> None:
    def train(epochs: int, resume: str) -> None:
        layers = [keras.Input(batch_shape=(5, 3, 2)), keras.layers.LSTM(3, stateful=True), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("adam", "mse")
        callback = ReplicateCallback("model.keras", name="stateful", resume=resume)
        model.fit(np.ones((10, 3, 2)), np.ones(10), 5, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])

    train(1, "auto")
    (first,) = replicate.experiments.list()
    with pytest.warns(UserWarning, match="states of layers with stateful=True are not saved by Keras"):
        train(2, first.id)
