"""A Keras training that is killed and started again ends as one that was never killed; and what it goes on with."""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback
from replicate_keras import state

EPOCHS = 6
"""Of eight, when `EarlyStopping` ends it."""

BATCHES = 23
"""In each epoch."""

TRAINING = """
import hashlib, os, signal, sys
import keras
from sklearn.datasets import load_digits
from replicate.keras_callback import ReplicateCallback


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
    assert "replicate: going on with the experiment" in last.stderr
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
    """Train; returns the experiment, with the epochs that were trained now, and the weights that it ended with."""
    options = {"filepath": "model.keras", "name": "sums", "resume": "auto"} | options
    callback = ReplicateCallback(save_weights_only=options["filepath"].endswith(".weights.h5"), **options)
    model = new_model() if model is None else model
    history = model.fit(*data, batch_size=10, epochs=epochs, verbose=0, callbacks=[callback, *more])
    callback.experiment.epochs = history.epoch
    callback.experiment.weights = model.get_weights()
    return callback.experiment


def steps(experiment: replicate.Experiment) -> list[int]:
    return [checkpoint.step for checkpoint in experiment.checkpoints]


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
def test_a_finished_run_goes_on_for_more_epochs(project: Path, data, path: str, is_built: bool) -> None:
    first = fit(data, 3, model=new_model(is_built=is_built), filepath=path)
    second = fit(data, 5, model=new_model(is_built=is_built), filepath=path)
    assert second.id == first.id
    assert second.epochs == [3, 4]
    assert steps(second) == [0, 1, 2, 3, 4]
    assert_equal(second, fit(data, 5, model=new_model(is_built=is_built), filepath=path, name="whole"))


def test_a_finished_run_has_nothing_to_go_on_with(project: Path, data) -> None:
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


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(3)
        self.dropout = keras.layers.Dropout(0.2)
        self.last = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.last(self.dropout(self.hidden(inputs), training=training))


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
    if keras.backend.backend() == "tensorflow":  # the others build it before a callback sees it
        with pytest.raises(replicate.InvalidInput, match="build") as refused:
            train(4)
        assert "changed" not in str(refused.value)
    else:
        assert train(4).epochs == [2, 3]


# What other callbacks remember.


@pytest.mark.parametrize("is_ours_first", [True, False])
def test_callbacks_go_on_wherever_they_stand_in_the_list(project: Path, data, is_ours_first: bool) -> None:
    def run(epochs: int, name: str) -> tuple:
        measuring, early = Measuring(), stopping(patience=9)
        plateau = keras.callbacks.ReduceLROnPlateau("measured", mode="min", patience=2, cooldown=1, factor=0.5)
        ours = ReplicateCallback("model.keras", name=name, resume="auto")
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
    with pytest.warns(UserWarning, match=f"checkpoint {newest.short_id} .step 2. can't be gone on from"):
        second = fit(data, 3)
    assert second.epochs == [2]
    assert steps(second) == [0, 1, 2]


def test_a_later_fit_in_the_same_process_is_not_disturbed(project: Path, data) -> None:
    fit(data, 2)
    callback = ReplicateCallback("model.keras", name="sums", resume="auto")
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
            "model.keras", name="best", resume="auto", save_best_only=True, primary_metric=("made_up", "minimize")
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
    second = fit(data, 2, save_freq=3)
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
    with replicate.init(name="sums", resume="auto") as experiment:
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
    fit(data, 1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = ReplicateCallback("model.keras", name="sums", resume="auto")
    with pytest.raises(replicate.InvalidInput, match=r"(?s)does not fit into this model.*another name, or no resume"):
        model.fit(*data, verbose=0, callbacks=[callback])


def test_weights_of_early_stopping_that_are_gone_are_told_of(project: Path, data) -> None:
    def early() -> keras.callbacks.EarlyStopping:
        return keras.callbacks.EarlyStopping("made_up", mode="min", restore_best_weights=True, patience=9)

    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["made_up"] = 1.0 + epoch

    def run(epochs: int) -> None:
        callback = ReplicateCallback("model.keras", name="sums", resume="auto", keep_last=1)
        new_model().fit(*data, epochs=epochs, verbose=0, callbacks=[Losses(), callback, early()])

    run(3)
    with pytest.warns(UserWarning, match="EarlyStopping can't restore the weights of epoch 0"):
        run(4)
