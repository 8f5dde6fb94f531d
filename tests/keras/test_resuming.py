"""A Keras training that is killed and started again ends as one that was never killed; and what it goes on with."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest
from keras_forms import Subclassed
from kit import steps

import replicate
from replicate.keras_callback import ReplicateCallback, load_model
from replicate_core.recording import notices
from replicate_keras import state

EPOCHS = 6
"""Of eight, when `EarlyStopping` ends it."""

BATCHES = 23
"""In each epoch."""

TRAINING = """
import hashlib, os, signal, sys
import keras
from sklearn.datasets import load_digits
from replicate.keras_callback import ReplicateCallback, load_model


class Measuring(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["measured"] = {0: 3.0, 1: 1.0}.get(epoch, 2.0)

    def on_train_end(self, logs=None):
        self.weights = digest(self.model)  # not yet those of the best epoch


class Killer(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def digest(model):
    return hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()


def train(how):
    keras.utils.set_random_seed(7)
    images, digits = load_digits(return_X_y=True)
    layers = [
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(10, activation="softmax"),
    ]
    if how != "unbuilt":
        layers.insert(0, keras.Input((64,)))
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.9) if how == "averaged" else "adam"
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    measuring = Measuring()
    stopping = keras.callbacks.EarlyStopping("measured", mode="min", patience=4, restore_best_weights=True)
    callbacks = [
        measuring,
        ReplicateCallback(
            path, primary_metric=("measured", "minimize"), name="digits", resume="auto", keep_last=2, keep_best=1,
            save_weights_only=path.endswith(".weights.h5"),
        ),
        Killer(),
        keras.callbacks.ReduceLROnPlateau("measured", mode="min", patience=2, factor=0.5),
        stopping,
    ]
    history = model.fit(
        (images / 16).astype("float32"), digits,
        epochs=8, batch_size=64, validation_split=0.2, verbose=0, callbacks=callbacks,
    )
    rate = float(model.optimizer.learning_rate)
    print(history.epoch, stopping.best_epoch, stopping.stopped_epoch, rate, measuring.weights, digest(model), sep="|")


path, hows, kill_after = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
for how in hows:
    os.makedirs(how, exist_ok=True)
    os.chdir(how)
    train(how)
    os.chdir("..")
"""


def train(directory: Path, path: str, how: str, kill_after: int = 0) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, which kills itself after so many batches, if any."""
    (directory / "train.py").write_text(TRAINING)
    done = subprocess.run(
        [sys.executable, "train.py", path, how, str(kill_after)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill_after else 0), done.stderr
    return done


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each kind of training ends with that nobody kills. To what it is saved makes no difference."""
    hows = ("built", "unbuilt", "averaged")
    done = train(tmp_path_factory.mktemp("wholes"), "model.keras", ",".join(hows))
    epochs, *ends = zip(*(line.split("|", 1) for line in done.stdout.splitlines()), strict=True)
    assert set(epochs) == {str(list(range(EPOCHS)))}, "EarlyStopping ended it"
    return dict(zip(hows, *ends, strict=True))


@pytest.mark.parametrize(
    ("path", "how", "kills"),
    [
        ("model.keras", "built", 2),
        ("model.hdf5", "unbuilt", 1),
        ("model.weights.h5", "averaged", 1),
    ],
)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, wholes: dict[str, str], path: str, how: str, kills: int
) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(kills):
        train(tmp_path, path, how, chance.randint(BATCHES + 1, EPOCHS * BATCHES // kills))
    last = train(tmp_path, path, how)
    assert "replicate: resuming the experiment" in last.stderr
    epochs, end = last.stdout.strip().split("|", 1)
    assert 0 < len(ast.literal_eval(epochs)) < EPOCHS
    assert end == wholes[how], "the best epoch, the last one, the learning rate, the weights, and those of the best"
    (experiment,) = replicate.Project(directory=tmp_path / how).experiments.list()
    assert steps(experiment) == list(range(EPOCHS))
    assert experiment.status == "finished"


# In this process.


@pytest.fixture
def data(no_recorder: None) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said that is neither trouble nor a result."""
    lines: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", lines.append)
    return lines


class Breaking(keras.callbacks.Callback):
    """Ends a training in its third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("broken")


def new_model(*, is_built: bool = True, **options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers] if is_built else layers)
    model.compile(**{"optimizer": "adam", "loss": "mse"} | options)
    return model


def fit(
    data: tuple[np.ndarray, ...],
    epochs: int,
    *more: keras.callbacks.Callback,
    model: keras.Model | None = None,
    **options: object,
) -> replicate.Experiment:
    """Train; returns the experiment, with the epochs that were trained now, and the weights that it ended with.

    What has the same name already is extended: a finished run is resumed by its id only.
    """
    options = {"filepath": "model.keras", "name": "sums"} | options
    options.setdefault("resume", latest(options["name"]))
    callback = ReplicateCallback(save_weights_only=options["filepath"].endswith(".weights.h5"), **options)
    model = new_model() if model is None else model
    history = model.fit(*data, batch_size=10, epochs=epochs, verbose=0, callbacks=[callback, *more])
    callback.experiment.epochs = history.epoch
    callback.experiment.weights = model.get_weights()
    return callback.experiment


def latest(name: str) -> str:
    """The id of the latest experiment of a name, to extend it; "auto" where there is none."""
    found = [experiment.id for experiment in replicate.experiments.list() if experiment.name == name]
    return found[-1] if found else "auto"


def assert_equal(one: replicate.Experiment, other: replicate.Experiment) -> None:
    for left, right in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(left, right)


class Measuring(keras.callbacks.Callback):
    """A metric that is best in the second epoch; and the learning rates of the epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs["measured"] = {0: 3.0, 1: 1.0}.get(epoch, 2.0)


def stopping(**options: object) -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping("measured", mode="min", restore_best_weights=True, **options)


@pytest.mark.parametrize("path", ["model.keras", "model.h5", "model.hdf5", "model.weights.h5", "m-{epoch}.keras"])
@pytest.mark.parametrize("is_built", [True, False])
def test_a_finished_run_is_extended_by_its_id(project: Path, data, path: str, is_built: bool) -> None:
    first = fit(data, 3, model=new_model(is_built=is_built), filepath=path)
    second = fit(data, 5, model=new_model(is_built=is_built), filepath=path)
    assert second.id == first.id
    assert second.epochs == [3, 4]
    assert steps(second) == [0, 1, 2, 3, 4]
    assert_equal(second, fit(data, 5, model=new_model(is_built=is_built), filepath=path, name="whole"))


def test_a_finished_run_is_not_resumed_by_itself(project: Path, data, said: list[str]) -> None:
    first = fit(data, 3)
    second = fit(data, 3, resume="auto")
    assert (second.id != first.id, second.epochs, steps(second)) == (True, [0, 1, 2], [0, 1, 2])
    assert (steps(first), first.status) == ([0, 1, 2], "finished")
    assert said == [
        (
            f"a new experiment begins, because {first.short_id}, the latest named 'sums', has finished; "
            f'resume="{first.short_id}" would extend that one'
        )
    ]


def test_each_fold_of_a_cross_validation_is_trained(project: Path, data) -> None:
    folds = [fit(data, 3, resume="auto") for _ in range(3)]
    assert [fold.epochs for fold in folds] == [[0, 1, 2]] * 3
    assert len({fold.id for fold in folds}) == 3
    for fold in folds[1:]:
        assert_equal(fold, folds[0])


def test_with_other_params_a_new_experiment_begins(project: Path, data, said: list[str]) -> None:
    with pytest.raises(RuntimeError):
        fit(data, 3, Breaking(), params={"rate": np.float32(0.1)}, resume="auto")
    first = replicate.experiments.list()[0]
    second = fit(data, 3, params={"rate": 0.2}, resume="auto")
    assert (second.id != first.id, second.epochs) == (True, [0, 1, 2])
    assert "because the params differ from those of" in said[0]
    assert "rate 0.10000000149011612 → 0.2" in said[0]


def test_with_the_same_params_it_is_resumed(project: Path, data) -> None:
    params = {"rate": np.float32(0.1), "sizes": (1, 2), "clip": float("nan")}
    with pytest.raises(RuntimeError):
        fit(data, 3, Breaking(), params=params, resume="auto")
    second = fit(data, 3, params=params, resume="auto")
    assert second.epochs == [2]
    assert (steps(second), second.status) == ([0, 1, 2], "finished")


def test_what_was_left_open_in_this_process_is_ended_and_resumed(project: Path, data) -> None:
    """A cell of a notebook that was interrupted, and is run again with a callback of its own."""
    with pytest.raises(RuntimeError):
        fit(data, 3, Breaking(), resume="auto")
    (first,) = replicate.experiments.list()
    assert first.is_running(), "Keras tells nobody"
    second = fit(data, 3, resume="auto")
    assert (second.id, second.epochs, second.status) == (first.id, [2], "finished")


def test_a_finished_run_that_is_extended_may_have_nothing_left_to_do(project: Path, data) -> None:
    first = fit(data, 3)
    second = fit(data, 3)
    assert (second.epochs, steps(second), second.status) == ([], [0, 1, 2], "finished")
    assert_equal(second, first)


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
    with pytest.warns(UserWarning, match="SwapEMAWeights had put into the model were saved, and it is not among the"):
        fit(data, 4, model=averaged(), resume="auto")


def test_averaged_weights_that_took_the_place_of_the_others_are_warned_of(project: Path, data) -> None:
    fit(data, 2, swapping(), model=averaged())
    with pytest.warns(UserWarning, match="kept the averaged weights alone when that training came to its end"):
        fit(data, 4, swapping(), model=averaged())


# Where it is in the data.


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # as Keras says of every generator
def test_data_that_takes_too_long_to_be_drawn_again_is_warned_of(
    project: Path, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(epochs: int, resume: str) -> replicate.Experiment:
        callback = ReplicateCallback("model.keras", name="sums", resume=resume)
        batches = ((data[0][:10], data[1][:10]) for _ in range(99))
        new_model().fit(batches, epochs=epochs, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[callback])
        return callback.experiment

    first = train(2, "auto")
    monkeypatch.setattr("replicate_keras.data.MAX_SECONDS", -1.0)
    with pytest.warns(UserWarning, match="the data of 2 epochs could not be drawn again"):
        train(3, first.id)


# What other callbacks remember.


@pytest.mark.parametrize("is_ours_first", [True, False])
def test_callbacks_go_on_wherever_they_stand_in_the_list(project: Path, data, is_ours_first: bool) -> None:
    def run(epochs: int, name: str) -> tuple:
        measuring, early = Measuring(), stopping(patience=9)
        plateau = keras.callbacks.ReduceLROnPlateau("measured", mode="min", patience=2, cooldown=1, factor=0.5)
        ours = ReplicateCallback("model.keras", name=name, resume=latest(name))
        others = [plateau, early]
        model = new_model()
        callbacks = [measuring, ours, *others] if is_ours_first else [measuring, *others, ours]
        model.fit(*data, epochs=epochs, verbose=0, callbacks=callbacks)
        return (
            measuring.rates,
            early.wait,
            early.best_epoch,
            plateau.wait,
            plateau.cooldown_counter,
            model.get_weights(),
        )

    run(4, "sums")
    rates, *ends, weights = run(7, "sums")
    whole_rates, *whole_ends, whole_weights = run(7, "whole")
    assert len(set(whole_rates)) == 3, "it was lowered twice"
    assert (rates, ends) == (whole_rates[4:], whole_ends)
    for left, right in zip(weights, whole_weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_was_stopped_early_is_over(project: Path, data) -> None:
    first = fit(data, 9, Measuring(), stopping(patience=2))
    second = fit(data, 9, Measuring(), stopping(patience=2))
    assert (first.epochs, second.epochs) == ([0, 1, 2, 3], [])
    assert_equal(second, first)


def test_the_best_weights_are_restored_though_no_epoch_is_left(project: Path, data) -> None:
    first = fit(data, 3, Measuring(), stopping(patience=9))
    second = fit(data, 3, Measuring(), stopping(patience=9))
    assert second.epochs == []
    assert_equal(second, first)


def test_none_are_where_early_stopping_has_looked_at_nothing_yet(project: Path, data) -> None:
    fit(data, 2, Measuring(), stopping(start_from_epoch=6))
    second = fit(data, 4, Measuring(), stopping(start_from_epoch=6))
    assert_equal(second, fit(data, 4, Measuring(), stopping(start_from_epoch=6), name="whole"))


def test_callbacks_are_known_by_what_they_monitor() -> None:
    def pair() -> list[keras.callbacks.Callback]:
        one, other = keras.callbacks.EarlyStopping("loss"), keras.callbacks.EarlyStopping("val_loss")
        for callback in (one, other):
            callback.on_train_begin()
        return [one, keras.callbacks.TerminateOnNaN(), other]

    before = pair()
    before[0].wait, before[0].best = 3, 0.5
    before[2].wait, before[2].best = 4, 0.25
    memories = json.loads(json.dumps(state.remembered(before)))
    after = pair()[::-1]
    assert state.remind(after, memories) == [after[0], after[2]]
    assert [(item.wait, item.best) for item in (after[0], after[2])] == [(4, 0.25), (3, 0.5)]
    assert type(after[0].wait) is int
    assert state.remind([keras.callbacks.ReduceLROnPlateau("loss")], memories) == []


# Random states.


def draw() -> list[float]:
    numbers = [random.random(), float(np.random.random())]
    if keras.backend.backend() == "torch":
        import torch

        numbers.append(torch.rand(1).item())
    return numbers


def test_random_numbers_go_on_where_they_were() -> None:
    model = new_model()
    draw()
    saved = json.loads(json.dumps(state.random_states(model)))
    wanted = draw()
    assert draw() != wanted
    state.restore_random_states(model, saved)
    assert draw() == wanted


def test_another_generator_of_numpy_stops_nothing(project: Path, data) -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        fit(data, 1)
        assert fit(data, 2).epochs == [1]
    finally:
        np.random.set_bit_generator(before)


# From where it goes on.


def test_without_resume_it_begins_anew(project: Path, data) -> None:
    fit(data, 2)
    assert fit(data, 2, resume=None).epochs == [0, 1]
    assert len(replicate.experiments.list()) == 2


@pytest.mark.parametrize("kind", ["experiment", "checkpoint"])
def test_by_an_id(project: Path, data, kind: str) -> None:
    first = fit(data, 4)
    wanted = first.id if kind == "experiment" else first.checkpoints[1].id
    second = fit(data, 5, resume=wanted, name=None)
    assert second.id == first.id
    assert second.epochs == ([4] if kind == "experiment" else [2, 3, 4])
    assert steps(second) == [0, 1, 2, 3, 4]


def test_past_a_damaged_checkpoint(project: Path, data) -> None:
    first = fit(data, 3)
    newest = first.latest()
    manifest = first._source.repository.manifest(newest._facts.manifest)
    for key in manifest.object_bytes:
        stored = project / ".replicate/storage" / key
        stored.chmod(0o644)
        stored.write_bytes(bytes(stored.stat().st_size))
    with pytest.warns(UserWarning, match=f"checkpoint {newest.short_id} .step 2. can't be resumed from"):
        second = fit(data, 3)
    assert second.epochs == [2]
    assert steps(second) == [0, 1, 2]


def test_a_later_fit_in_the_same_process_is_not_disturbed(project: Path, data) -> None:
    first = fit(data, 2)
    callback = ReplicateCallback("model.keras", name="sums", resume=first.id)
    model = new_model()
    assert model.fit(*data, epochs=4, verbose=0, callbacks=[callback]).epoch == [2, 3]
    assert model.fit(*data, epochs=2, verbose=0).epoch == [0, 1]
    assert model.fit(*data, epochs=2, verbose=0, callbacks=[callback]).epoch == [0, 1]
    assert model.fit(*data, initial_epoch=1, epochs=3, verbose=0, callbacks=[callback]).epoch == [1, 2]
    assert [len(experiment.checkpoints) for experiment in replicate.experiments.list()] == [4, 2, 2]


def test_what_was_best_stays_the_best(project: Path, data) -> None:
    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["made_up"] = [3.0, 1.0, 2.0, 4.0, 0.5][epoch]

    def best_only(epochs: int) -> replicate.Experiment:
        callback = ReplicateCallback(
            "model.keras",
            name="best",
            resume=latest("best"),
            save_best_only=True,
            primary_metric=("made_up", "minimize"),
        )
        new_model().fit(*data, epochs=epochs, verbose=0, callbacks=[Losses(), callback])
        return callback.experiment

    best_only(4)
    experiment = best_only(5)
    saved = [checkpoint.step for checkpoint in experiment.checkpoints if checkpoint.path is not None]
    assert saved == [0, 1, 4]
    assert steps(experiment) == [0, 1, 2, 3, 4], (
        "the third and fourth epoch, which were trained twice, are told of once"
    )


def test_inside_of_an_epoch_it_begins_that_again(project: Path, data) -> None:
    class Breaking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.params["epochs"] == 3 and self.model.optimizer.iterations == 7:
                raise RuntimeError

    callback = ReplicateCallback("model.keras", name="sums", save_freq=3)
    with pytest.raises(RuntimeError), callback:  # four batches are an epoch
        new_model().fit(*data, batch_size=10, epochs=3, verbose=0, callbacks=[callback, Breaking()])
    first = callback.experiment
    assert (first.status, steps(first)) == ("failed", [3, 6])
    second = fit(data, 2, save_freq=3, resume="auto")
    assert second.id == first.id
    assert second.epochs == [1], "the second epoch, which it was in"
    assert steps(second) == [3, 6, 9]


def test_saved_after_the_last_batch_it_goes_on_with_the_next_epoch(project: Path, data) -> None:
    first = fit(data, 2, save_freq=4)
    assert steps(first) == [4, 8]
    second = fit(data, 3, save_freq=4)
    assert (second.epochs, steps(second)) == ([2], [4, 8, 12])
    assert fit(data, 3, save_freq=4).epochs == []


def test_saved_as_time_allows_it_goes_on_exactly(project: Path, data) -> None:
    fit(data, 2, save_freq="auto")
    second = fit(data, 4, save_freq="auto")
    assert second.epochs == [2, 3]
    assert second.latest().step == 16, "batches since training began, before the restart, too"
    assert_equal(second, fit(data, 4, save_freq="auto", name="whole"))


def test_an_experiment_that_the_script_resumed_resumes_the_training(project: Path, data) -> None:
    first = fit(data, 2)
    with replicate.init(name="sums", resume=first.id) as experiment:
        callback = ReplicateCallback("model.keras", experiment=experiment)
        assert new_model().fit(*data, epochs=4, verbose=0, callbacks=[callback]).epoch == [2, 3]
        assert experiment.is_running(), "the script ends it"
    assert experiment.id == first.id


def test_weights_that_another_program_saved_are_gone_on_with(project: Path, data) -> None:
    model = new_model()
    with replicate.init(name="sums") as experiment:
        model.fit(*data, verbose=0)
        model.save("model.keras")
        experiment.checkpoint("model.keras", {"loss": 1.0}, step=0)
    with pytest.warns(UserWarning, match="was not saved by this callback: its weights are gone on with, from epoch 0"):
        second = fit(data, 1)
    assert second.epochs == [0]


def test_what_is_no_model_is_refused(project: Path, data) -> None:
    (project / "notes.txt").write_text("no model")
    with replicate.init(name="sums") as experiment:
        experiment.checkpoint("notes.txt", {}, step=0)
    with pytest.raises(replicate.InvalidInput, match=r"holds no model of Keras, but 'notes\.txt'"):
        fit(data, 1)


def test_another_model_is_refused_with_what_to_do(project: Path, data) -> None:
    first = fit(data, 3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = ReplicateCallback("model.keras", name="sums", resume=first.checkpoints[0].id)
    with pytest.raises(replicate.InvalidInput, match=r"(?s)does not fit into this model.*another name, or no resume"):
        model.fit(*data, verbose=0, callbacks=[callback])
    assert callback.experiment is None
    first.refresh()
    assert (steps(first), first.status) == ([0, 1, 2], "finished"), "a resume that fails leaves things as they were"
    assert not list(Path(".replicate/spool").glob("*-*"))


def test_weights_of_early_stopping_that_are_gone_are_told_of(project: Path, data) -> None:
    def early() -> keras.callbacks.EarlyStopping:
        return keras.callbacks.EarlyStopping("made_up", mode="min", restore_best_weights=True, patience=9)

    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["made_up"] = 1.0 + epoch

    def run(epochs: int) -> None:
        callback = ReplicateCallback("model.keras", name="sums", resume=latest("sums"), keep_last=1)
        new_model().fit(*data, epochs=epochs, verbose=0, callbacks=[Losses(), callback, early()])

    run(3)
    with pytest.warns(UserWarning, match="EarlyStopping can't restore the weights of epoch 0"):
        run(4)


def rated(rate: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


class Lowering(keras.callbacks.Callback):
    """Halves the learning rate at the end of each epoch, as `ReduceLROnPlateau` may."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2


def train_rated(model: keras.Model, epochs: int, *more: keras.callbacks.Callback, resume: str | None = None) -> str:
    callback = ReplicateCallback("model.keras", resume=resume)
    x = np.ones((8, 2), "float32")
    model.fit(x, x[:, 0], epochs=epochs, verbose=0, callbacks=[callback, *more])
    return callback.experiment.id


def test_a_learning_rate_that_the_script_changed_gives_way_and_that_is_said(project: Path) -> None:
    first = train_rated(rated(0.01), 1, Lowering())
    for epochs in (2, 3):  # each time, and not only the first
        model = rated(0.02)
        wanted = (
            f"compiled with the learning rate 0.02, and with 0.01 when this run began: training goes on with that of "
            f"the checkpoint, {0.01 / 2 ** (epochs - 1):g}. Should it be the new one, let keras.callbacks.LearningRate"
        )
        with pytest.warns(UserWarning, match=re.escape(wanted)):
            train_rated(model, epochs, Lowering(), resume=first)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (0.01, 0.01),
        (keras.optimizers.schedules.CosineDecay(0.1, 10), keras.optimizers.schedules.CosineDecay(0.2, 10)),
    ],
    ids=["lowered", "schedule"],
)
def test_one_that_only_training_has_changed_is_no_news(project: Path, then: object, now: object) -> None:
    more = [Lowering()] if isinstance(then, float) else []
    first = train_rated(rated(then), 1, *more)
    train_rated(rated(now), 2, *more, resume=first)


def test_nor_is_one_of_a_scheduler_or_of_a_model_that_is_still_there(project: Path) -> None:
    scheduler = keras.callbacks.LearningRateScheduler(lambda _: 0.5)
    model = rated(0.01)
    first = train_rated(model, 1, scheduler)
    train_rated(rated(0.02), 2, scheduler, resume=first)
    train_rated(model, 3, resume=first)


@pytest.mark.parametrize("options", [{}, {"filepath": "m-{batch}.keras"}], ids=["one file", "template"])
def test_after_a_resume_saving_is_due_at_the_same_moments(project: Path, options: dict) -> None:
    """With validation deciding at the end of an epoch, between two moments that are due."""
    x = np.ones((40, 2), "float32")

    class Until(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.last:
                raise KeyboardInterrupt

        def __init__(self, last: int) -> None:
            super().__init__()
            self.last = last

    def train(name: str, last: int) -> list[tuple[int, bool]]:
        callback = ReplicateCallback(
            save_freq=3, primary_metric=("val_loss", "minimize"), name=name, resume="auto", **options
        )
        with suppress(KeyboardInterrupt), callback:
            rated(0.01).fit(
                x, x[:, 0], epochs=4, batch_size=5, validation_split=0.5, verbose=0, callbacks=[callback, Until(last)]
            )
        return [(one.step, "val_loss" in one.metrics) for one in callback.experiment.checkpoints]

    with pytest.warns(UserWarning, match="'val_loss' is not known after a batch"):
        whole, _, killed = train("whole", 9), train("killed", 2), train("killed", 9)
    assert killed == whole
    assert [step for step, is_validated in whole if not is_validated] == [3, 6, 9, 12, 15]


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
