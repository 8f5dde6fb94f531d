"""A Keras training that is killed and started again ends as one that was never killed; and what it goes on with."""

from __future__ import annotations

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

EPOCHS = 6

TRAINING = """
import hashlib, os, signal, sys
import keras
from sklearn.datasets import load_digits
from replicate_keras import ReplicateCallback

path, how, kill_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
keras.utils.set_random_seed(7)
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
layers = [
    keras.layers.Dense(32, activation="relu"),
    keras.layers.Dropout(0.3),
    keras.layers.Dense(10, activation="softmax"),
]
if how == "built":
    layers.insert(0, keras.Input((64,)))
model = keras.Sequential(layers)
optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.9) if how == "averaged" else "adam"
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


class Killer(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


stopping = keras.callbacks.EarlyStopping("val_loss", patience=50, restore_best_weights=True)
callbacks = [
    ReplicateCallback(
        path, primary_metric=("val_loss", "minimize"), name="digits", resume="auto", keep_last=2, keep_best=1,
        save_weights_only=path.endswith(".weights.h5"),
    ),
    Killer(),
    stopping,
    keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.05),
]
history = model.fit(
    images, digits, epochs=EPOCHS, batch_size=64, validation_split=0.2, verbose=0, callbacks=callbacks
)
weights = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights()))
print("done", history.epoch[0], stopping.best_epoch, float(model.optimizer.learning_rate), weights.hexdigest())
""".replace("EPOCHS", str(EPOCHS))
BATCHES = 23
"""In each epoch."""

WHOLE: dict[str, list[str]] = {}
"""What a training ends with that nobody kills."""


def train(project: Path, path: str, how: str = "built", kill_after: int = 0) -> list[str]:
    """Train in a process of its own; returns what it ended with, nothing if it was killed."""
    project.mkdir(exist_ok=True)
    (project / "train.py").write_text(TRAINING)
    done = subprocess.run(
        [sys.executable, "train.py", path, how, str(kill_after)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill_after else 0), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("model.keras", "built"),
        ("model.keras", "not built"),
        ("model.keras", "averaged"),
        ("model.hdf5", "built"),
        ("model.weights.h5", "built"),
        ("m-{epoch:02d}.keras", "built"),
    ],
)
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path, path: str, how: str) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    chance = random.Random(seed)
    if how not in WHOLE:  # to what it is saved makes no difference
        WHOLE[how] = train(tmp_path / "whole", "model.keras", how)
    wanted = WHOLE[how]
    assert wanted[:2] == ["done", "0"]
    for _ in range(2):
        assert train(tmp_path / "killed", path, how, chance.randint(1, 2 * BATCHES)) == []
    last = train(tmp_path / "killed", path, how)
    assert last[2:] == wanted[2:], "the best epoch, the learning rate and the weights"
    source = replicate.Project(directory=tmp_path / "killed").experiments
    (experiment,) = source.list()
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == list(range(EPOCHS))
    assert experiment.status == "finished"


# In this process.


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def new_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def fit(
    data: tuple[np.ndarray, ...], epochs: int, *more: keras.callbacks.Callback, **options: object
) -> replicate.Experiment:
    options = {"filepath": "model.keras", "name": "sums", "resume": "auto"} | options
    callback = ReplicateCallback(**options)
    model = new_model()
    history = model.fit(*data, batch_size=10, epochs=epochs, verbose=0, callbacks=[callback, *more])
    callback.experiment.epochs = history.epoch
    callback.experiment.weights = model.get_weights()
    return callback.experiment


def test_a_finished_run_goes_on_for_more_epochs(project: Path, data) -> None:
    first = fit(data, 3)
    second = fit(data, 5)
    assert second.id == first.id
    assert second.epochs == [3, 4]
    assert [checkpoint.step for checkpoint in second.checkpoints] == [0, 1, 2, 3, 4]
    whole = fit(data, 5, name="whole")
    np.testing.assert_array_equal(second.weights[0], whole.weights[0])


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
    assert [checkpoint.step for checkpoint in second.checkpoints] == [0, 1, 2, 3, 4]


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
    assert [checkpoint.step for checkpoint in second.checkpoints] == [0, 1, 2]


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

    best_only(2)
    experiment = best_only(5)
    saved = [checkpoint.step for checkpoint in experiment.checkpoints if checkpoint.path is not None]
    assert saved == [0, 1, 4]


def test_inside_of_an_epoch_it_begins_that_again(project: Path, data) -> None:
    class Breaking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.params["epochs"] == 3 and self.model.optimizer.iterations == 7:
                raise RuntimeError

    callback = ReplicateCallback("model.keras", name="sums", save_freq=3)
    with pytest.raises(RuntimeError), callback:  # four batches are an epoch
        new_model().fit(*data, batch_size=10, epochs=3, verbose=0, callbacks=[callback, Breaking()])
    first = callback.experiment
    assert (first.status, [checkpoint.step for checkpoint in first.checkpoints]) == ("failed", [3, 6])
    second = fit(data, 2, save_freq=3)
    assert second.id == first.id
    assert second.epochs == [1], "the second epoch, which it was in"
    assert [checkpoint.step for checkpoint in second.checkpoints] == [3, 6, 9]


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
