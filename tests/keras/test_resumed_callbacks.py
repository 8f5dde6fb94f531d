"""Callbacks, learning rates and moments to save go on where they were."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest
from kit import steps
from small_fits import assert_equal, fit, latest, new_model

import replicate
from replicate.keras_callback import ReplicateCallback
from replicate_keras import state


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
    memories = json.loads(json.dumps(state.callback_states(before)))
    after = pair()[::-1]
    assert state.restore_callback_states(after, memories) == [after[0], after[2]]
    assert [(item.wait, item.best) for item in (after[0], after[2])] == [(4, 0.25), (3, 0.5)]
    assert type(after[0].wait) is int
    assert state.restore_callback_states([keras.callbacks.ReduceLROnPlateau("loss")], memories) == []


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
            f"compiled with the learning rate 0.02, and with 0.01 when this run began: training resumes with that of "
            f"the checkpoint, {0.01 / 2 ** (epochs - 1):g}. To use the new one, give fit keras.callbacks.LearningRate"
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
