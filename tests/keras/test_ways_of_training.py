"""The callback in every way that Keras trains."""

import copy
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from kit import steps

import replicate
import replicate_keras.callback as callback_module
from replicate.keras_callback import ReplicateCallback, load_model

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
BACKEND = keras.backend.backend()


def new_model(**options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(**{"optimizer": "adam", "loss": "mse"} | options)
    return model


def test_evaluate_and_predict_record_nothing(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    model = new_model()
    model.evaluate(X, Y, verbose=0, callbacks=[callback])
    model.predict(X, verbose=0, callbacks=[callback])
    assert callback.experiment is None
    assert list(project.iterdir()) == []


def test_a_loop_of_its_own_with_train_on_batch(project: Path) -> None:
    model = new_model()
    callback = ReplicateCallback("model.keras", primary_metric=("loss", "minimize"))
    callbacks = keras.callbacks.CallbackList([callback], model=model)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for batch in range(4):
            rows = slice(batch * 10, batch * 10 + 10)
            logs = model.train_on_batch(X[rows], Y[rows], return_dict=True)
            callbacks.on_train_batch_end(batch, logs)
        callbacks.on_epoch_end(epoch, logs)
    callbacks.on_train_end()
    assert (steps(callback.experiment), callback.experiment.status) == ([0, 1], "finished")
    assert callback.experiment.latest().metrics["loss"] == pytest.approx(float(logs["loss"]))


def test_a_loop_of_its_own_around_a_model_that_is_not_compiled_goes_on(project: Path) -> None:
    def train(factor: float, resume: str) -> tuple[float, str]:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
        callback = ReplicateCallback("model.keras", name="own", resume=resume)
        callbacks = keras.callbacks.CallbackList([callback], model=model)
        callbacks.on_train_begin()
        found = float(model.get_weights()[0].sum())
        callbacks.on_epoch_begin(0)
        model.set_weights([np.full((4, 1), factor, "float32")])
        callbacks.on_train_batch_end(0, {"loss": 1.0})
        callbacks.on_epoch_end(0, {"loss": 1.0})
        callbacks.on_train_end()
        return found, callback.experiment.id

    _, first = train(0.5, "auto")
    assert train(0.25, first) == (2.0, first), "what it begins with"


def test_copies_record_experiments_of_their_own(project: Path) -> None:
    """As KerasTuner does, for each trial."""
    callback = ReplicateCallback("model.keras", params={"lr": 0.1})
    for _ in range(2):
        new_model().fit(X, Y, verbose=0, callbacks=[copy.deepcopy(callback)])
    assert callback.experiment is None
    assert [len(experiment.checkpoints) for experiment in replicate.experiments.list()] == [1, 1]


def test_a_callback_that_was_trained_with_can_be_copied_too(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    new_model().fit(X, Y, verbose=0, callbacks=[callback])
    new_model().fit(X, Y, verbose=0, callbacks=[copy.deepcopy(callback)])
    assert [len(experiment.checkpoints) for experiment in replicate.experiments.list()] == [1, 1]


def test_copies_record_into_the_experiment_that_was_given(project: Path) -> None:
    with replicate.init(path=None) as experiment:
        callback = ReplicateCallback("model.keras", experiment=experiment)
        for _ in range(2):
            copied = copy.deepcopy(callback)
            new_model().fit(X, Y, verbose=0, callbacks=[copied])
            assert copied.experiment is experiment
    assert steps(experiment) == [0, 0]


def test_a_pickle_of_one_that_was_given_an_experiment_says_what_to_do(project: Path) -> None:
    with replicate.init(path=None) as experiment:
        again = pickle.loads(pickle.dumps(ReplicateCallback("model.keras", experiment=experiment)))
        with pytest.raises(replicate.InvalidInput, match="begun in another process than the one that trains"):
            new_model().fit(X, Y, verbose=0, callbacks=[again])


class Interrupting(keras.callbacks.Callback):
    """Raises at the end of a batch."""

    def __init__(self, error: BaseException, batch: int = 2) -> None:
        super().__init__()
        self.error = error
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise self.error


class RaisingAtEpochEnd(keras.callbacks.Callback):
    """Raises at the end of the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise ValueError("no")


@pytest.mark.parametrize("options", [{}, {"save_freq": "auto"}], ids=str)
def test_an_epoch_at_whose_end_another_callback_raises_is_recorded_with_its_model(project: Path, options: dict) -> None:
    """As ModelCheckpoint has it, which is called before that one."""
    callback, model = ReplicateCallback("model.keras", **options), new_model()
    with pytest.raises(ValueError, match="no"), callback:
        model.fit(X, Y, epochs=3, batch_size=10, verbose=0, callbacks=[callback, RaisingAtEpochEnd()])
    assert [checkpoint.extra["epoch"] for checkpoint in callback.experiment.checkpoints] == [0, 1]
    assert (callback.experiment.status, callback.experiment.error) == ("failed", "ValueError: no")
    latest = callback.experiment.latest()
    if latest.extra["epoch"] == 1:
        np.testing.assert_array_equal(load_model(latest).get_weights()[0], model.get_weights()[0])


def test_such_an_epoch_is_not_trained_again(project: Path) -> None:
    def train(*more: keras.callbacks.Callback) -> list[int]:
        callback = ReplicateCallback("model.keras", name="raising", resume="auto")
        return new_model().fit(X, Y, epochs=4, verbose=0, callbacks=[callback, *more]).epoch

    with pytest.raises(ValueError, match="no"):
        train(RaisingAtEpochEnd())
    assert train() == [2, 3]
    (experiment,) = replicate.experiments.list()
    assert (steps(experiment), experiment.status) == ([0, 1, 2, 3], "finished")


def test_a_due_batch_at_whose_end_another_callback_raises_is_saved(project: Path) -> None:
    callback = ReplicateCallback("model.keras", save_freq=3)
    with pytest.raises(ValueError, match="no"), callback:
        new_model().fit(X, Y, batch_size=10, verbose=0, callbacks=[callback, Interrupting(ValueError("no"))])
    assert steps(callback.experiment) == [3]


def test_the_exception_of_the_other_callback_counts_where_that_fails_too(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("can't be saved")

    monkeypatch.setattr(callback_module, "save", broken)
    callback = ReplicateCallback("model.keras", period=2)
    with (
        pytest.warns(UserWarning, match="a callback raised, and so this moment could not be recorded: RuntimeError"),
        pytest.raises(ValueError, match="no"),
        callback,
    ):
        new_model().fit(X, Y, epochs=3, verbose=0, callbacks=[callback, RaisingAtEpochEnd()])


class FailingAtOnce(keras.callbacks.Callback):
    """Raises before the first batch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_begin(self, batch, logs=None):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_fit_that_fails_at_once_leaves_no_experiment(project: Path, error: BaseException) -> None:
    callback = ReplicateCallback("model.keras", name="at once", resume="auto")
    with pytest.raises(type(error)), callback:
        new_model().fit(X, Y, verbose=0, callbacks=[callback, FailingAtOnce(error)])
    assert (len(replicate.experiments.list()), callback.experiment) == (0, None)
    new_model().fit(X, Y, verbose=0, callbacks=[callback])
    (experiment,) = replicate.experiments.list()
    assert (steps(experiment), experiment.status) == ([0], "finished")


def test_nor_does_one_whose_data_do_not_fit_the_model_before_the_next_cell(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    with pytest.raises(ValueError, match=r"(?i)incompatible|shape"):
        new_model().fit(X[:, :3], Y, verbose=0, callbacks=[callback])
    new_model().fit(X, Y, verbose=0, callbacks=[callback])
    assert len(replicate.experiments.list()) == 1


def test_what_was_recorded_before_it_failed_is_kept(project: Path) -> None:
    callback = ReplicateCallback("model.keras")

    class Recording(FailingAtOnce):
        def on_epoch_begin(self, epoch, logs=None):
            callback.experiment.checkpoint(None, {"size": 3})

    with pytest.raises(ValueError, match="no"), callback:
        new_model().fit(X, Y, verbose=0, callbacks=[callback, Recording(ValueError("no"))])
    (experiment,) = replicate.experiments.list()
    assert (experiment.status, experiment.latest().metrics) == ("failed", {"size": 3})


def test_so_is_what_a_resumed_training_had(project: Path) -> None:
    new_model().fit(X, Y, verbose=0, callbacks=[callback := ReplicateCallback("model.keras")])
    again = ReplicateCallback("model.keras", resume=callback.experiment.id)
    with pytest.raises(ValueError, match="no"), again:
        new_model().fit(X, Y, epochs=2, verbose=0, callbacks=[again, FailingAtOnce(ValueError("no"))])
    (experiment,) = replicate.experiments.list()
    assert (experiment.status, steps(experiment)) == ("failed", [0])


def test_a_process_that_fails_at_once_leaves_no_experiment(project: Path) -> None:
    program = """
import keras, numpy as np
from replicate_keras import ReplicateCallback
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(np.ones((20, 3)), np.ones(20), verbose=0, callbacks=[ReplicateCallback("model.keras")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert len(replicate.experiments.list()) == 0, done.stderr


def test_interrupted_and_trained_again_as_in_a_notebook(project: Path) -> None:
    model, callback = new_model(), ReplicateCallback("model.keras")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=10, verbose=0, callbacks=[callback, Interrupting(KeyboardInterrupt())])
    first = callback.experiment
    assert first.is_running(), "Keras tells nobody"
    model.fit(X, Y, verbose=0, callbacks=[callback])
    assert [experiment.status for experiment in replicate.experiments.list()] == ["interrupted", "finished"]
    assert callback.experiment.id != first.id


def test_interrupted_it_goes_on_in_the_same_process_if_it_shall(project: Path) -> None:
    callback = ReplicateCallback("model.keras", name="cell", resume="auto")

    class InSecondEpoch(Interrupting):
        def on_epoch_begin(self, epoch, logs=None):
            self.batch = 1 if epoch == 1 else -1

    interrupting = InSecondEpoch(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        new_model().fit(X, Y, epochs=3, batch_size=10, verbose=0, callbacks=[callback, interrupting])
    assert new_model().fit(X, Y, epochs=3, batch_size=10, verbose=0, callbacks=[callback]).epoch == [1, 2]
    (experiment,) = replicate.experiments.list()
    assert (steps(experiment), experiment.status) == ([0, 1, 2], "finished")


def test_so_does_a_new_callback_of_a_cell_that_is_run_again(project: Path) -> None:
    """Whose first run is still recorded by this process: its callback is another one, and was told nothing."""

    def cell(*more: keras.callbacks.Callback) -> list[int]:
        callback = ReplicateCallback("model.keras", name="cell", resume="auto", save_freq=4)
        return new_model().fit(X, Y, epochs=3, batch_size=10, verbose=0, callbacks=[callback, *more]).epoch

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cell(Interrupting(KeyboardInterrupt(), 3))
    assert cell() == [2]
    (experiment,) = replicate.experiments.list()
    assert (steps(experiment), experiment.status) == ([4, 8, 12], "finished")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [(ValueError("no"), "failed", "ValueError: no"), (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt")],
)
def test_a_with_block_knows_what_ended_it(project: Path, error: BaseException, status: str, text: str) -> None:
    callback = ReplicateCallback("model.keras")
    with pytest.raises(type(error)), callback:
        new_model().fit(X, Y, batch_size=10, verbose=0, callbacks=[callback, Interrupting(error)])
    assert (callback.experiment.status, callback.experiment.error) == (status, text)


def test_a_with_block_in_which_all_went_well_ends_nothing_twice(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    with callback:
        new_model().fit(X, Y, verbose=0, callbacks=[callback])
    assert callback.experiment.status == "finished"
    assert steps(callback.experiment) == [0]


def test_it_is_saved_once_more_when_an_exception_ends_it(project: Path) -> None:
    callback = ReplicateCallback("model.keras", save_on_exception=True, save_freq=100)
    model = new_model()
    with pytest.raises(ValueError, match="no"), callback:
        model.fit(X, Y, batch_size=10, verbose=0, callbacks=[callback, Interrupting(ValueError("no"))])
    assert steps(callback.experiment) == [3], "it has seen the batch at whose end another callback raised"
    loaded = load_model(callback.experiment.latest())
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


PROGRAM = """
import sys, time
import keras, numpy as np
from replicate_keras import ReplicateCallback
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("adam", "mse")

class Waiting(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            print("there", flush=True)
            {wait}

callback = ReplicateCallback("model.keras", save_on_exception=True, save_freq=1000)
model.fit(np.ones((20, 4)), np.ones(20), epochs=3, verbose=0, callbacks=[callback, Waiting()])
"""


@pytest.mark.parametrize(("wait", "status"), [("time.sleep(60)", "interrupted"), ("raise ValueError('no')", "failed")])
def test_a_process_that_ends_saves_once_more(project: Path, wait: str, status: str) -> None:
    program = PROGRAM.replace("{wait}", wait)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    if status == "interrupted":
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None), errors
    (experiment,) = replicate.experiments.list()
    assert experiment.status == status, errors
    assert len(experiment.checkpoints) == 1, errors
    load_model(experiment.latest())


def test_early_stopping_ends_it_as_a_whole(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    stopping = keras.callbacks.EarlyStopping("loss", min_delta=100, patience=2, restore_best_weights=True)
    new_model().fit(X, Y, epochs=20, verbose=0, callbacks=[callback, stopping])
    assert (len(callback.experiment.checkpoints), callback.experiment.status) == (3, "finished")


def test_an_optimizer_that_averages_weights(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    model = new_model(optimizer=keras.optimizers.Adam(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1))
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback])
    loaded = load_model(callback.experiment.latest())
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)


def test_it_begins_at_the_epoch_that_it_is_told(project: Path) -> None:
    callback = ReplicateCallback("model.keras")
    new_model().fit(X, Y, initial_epoch=3, epochs=5, verbose=0, callbacks=[callback])
    assert steps(callback.experiment) == [3, 4]


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # as Keras says of every generator
def test_a_data_set_of_unknown_length(project: Path) -> None:
    def batches():
        for _ in range(7):
            yield X[:4], Y[:4]

    callback = ReplicateCallback("model.keras", save_freq=3)
    new_model().fit(batches(), shuffle=False, verbose=0, callbacks=[callback])
    assert steps(callback.experiment) == [3, 6]


class OwnStep(keras.Model):
    """A training step of the user's own, which each backend wants in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.layer(inputs)

    if BACKEND == "tensorflow":

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"own": loss}

    elif BACKEND == "torch":

        def train_step(self, data):
            x, y = data
            self.zero_grad()
            loss = ((self(x, training=True) - y) ** 2).mean()
            loss.backward()
            self.optimizer.apply([one.value.grad for one in self.trainable_variables], self.trainable_variables)
            return {"own": loss.detach()}

    else:

        def train_step(self, state, data):
            import jax

            trainable, non_trainable, optimizer, metrics = state
            x, y = data

            def loss_of(trainable):
                found, changed = self.stateless_call(trainable, non_trainable, x, training=True)
                return ((found - y) ** 2).mean(), changed

            (loss, non_trainable), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            return {"own": loss}, (trainable, non_trainable, optimizer, metrics)


def test_a_training_step_of_the_users_own(project: Path) -> None:
    def train(epochs: int, name: str, resume: str) -> tuple[list[int], list[np.ndarray], replicate.Experiment]:
        keras.utils.set_random_seed(0)
        model = OwnStep()
        model(X[:1])
        model.compile("adam")
        callback = ReplicateCallback(
            "model.weights.h5",
            primary_metric=("own", "minimize"),
            save_weights_only=True,
            name=name,
            resume=resume,
        )
        epochs_seen = model.fit(X, Y, epochs=epochs, verbose=0, callbacks=[callback]).epoch
        return epochs_seen, model.get_weights(), callback.experiment

    first = train(2, "short", "auto")[2]
    epochs, weights, experiment = train(4, "short", first.id)
    assert epochs == [2, 3]
    assert set(experiment.best().metrics) == {"own"}
    for left, right in zip(weights, train(4, "whole", "auto")[1], strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy(project: Path) -> None:
    program = """
import tensorflow as tf
(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from replicate_keras import ReplicateCallback
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
model.fit(np.ones((20, 4)), np.ones(20), epochs=2, verbose=0, callbacks=[ReplicateCallback("model.keras")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (experiment,) = replicate.experiments.list()
    assert steps(experiment) == [0, 1]


def test_the_frequency_of_saving_stands_in_no_ones_way(project: Path) -> None:
    """Two callbacks in one training: each its own experiment."""
    callbacks = [ReplicateCallback(f"{name}.keras", name=name) for name in ("one", "other")]
    new_model().fit(X, Y, verbose=0, callbacks=callbacks)
    assert {experiment.name for experiment in replicate.experiments.list()} == {"one", "other"}


def test_several_trainings_in_one_experiment(project: Path) -> None:
    with replicate.init(path=None) as experiment:
        for fold in range(2):
            callback = ReplicateCallback(f"fold-{fold}.keras", experiment=experiment)
            new_model().fit(X, Y, verbose=0, callbacks=[callback])
    assert [checkpoint.path for checkpoint in experiment.checkpoints] == ["fold-0.keras", "fold-1.keras"]


def test_nothing_of_ours_is_a_warning(project: Path) -> None:
    program = """
import keras, numpy as np
from replicate.keras_callback import ReplicateCallback, load_model
for path in ("model.keras", "model.hdf5", "model.weights.h5"):
    resume = "auto"
    for epochs in (1, 2):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        callback = ReplicateCallback(
            path, {"a": 1}, ("loss", "minimize"), name=path, resume=resume, keep_last=1, save_on_exception=True,
            save_weights_only=path.endswith(".weights.h5"),
        )
        model.fit(np.ones((20, 4)), np.ones(20), epochs=epochs, verbose=0, callbacks=[callback])
        resume = callback.experiment.id
    if not path.endswith(".weights.h5"):
        load_model(callback.experiment.latest())
"""
    # Keras 3.15 with NumPy 2.4: every `fit` warns, whether or not anything is saved.
    ignored = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", ignored, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [len(experiment.checkpoints) for experiment in replicate.experiments.list()] == [2, 2, 2]
