"""A Keras training that is killed and started again ends as one that was never killed."""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from forking import Ended, ForkServer
from kit import steps
from small_fits import Breaking, assert_equal, fit, new_model
from stores import manifest_of

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


def train(forks: ForkServer, directory: Path, path: str, how: str, kill_after: int = 0) -> Ended:
    """Train in a process of its own, which kills itself after so many batches, if any."""
    program = directory / "train.py"
    program.write_text(TRAINING)
    ended = forks.run(program, directory, path, how, kill_after)
    assert ended.status == (-signal.SIGKILL if kill_after else 0), ended.stderr
    return ended


@pytest.fixture(scope="module")
def wholes(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each kind of training ends with that nobody kills. To what it is saved makes no difference."""
    hows = ("built", "unbuilt", "averaged")
    done = train(forks, tmp_path_factory.mktemp("wholes"), "model.keras", ",".join(hows))
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
    tmp_path: Path, forks: ForkServer, wholes: dict[str, str], *, path: str, how: str, kills: int
) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(kills):
        train(forks, tmp_path, path, how, chance.randint(BATCHES + 1, EPOCHS * BATCHES // kills))
    last = train(forks, tmp_path, path, how)
    assert "replicate: resuming the experiment" in last.stderr
    epochs, end = last.stdout.strip().split("|", 1)
    assert 0 < len(ast.literal_eval(epochs)) < EPOCHS
    assert end == wholes[how], "the best epoch, the last one, the learning rate, the weights, and those of the best"
    (experiment,) = replicate.Project(directory=tmp_path / how).experiments.list()
    assert steps(experiment) == list(range(EPOCHS))
    assert experiment.status == "finished"


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
    for key in manifest_of(newest).object_bytes:
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
