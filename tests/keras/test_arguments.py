"""What the callback takes, and what it refuses at construction, before anything is trained."""

import inspect
from pathlib import Path

import keras
import numpy as np
import pytest

import replicate
from replicate.keras_callback import ReplicateCallback


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"filepath": None},
        {"filepath": Path("deep") / "model.keras"},
        {"filepath": "m-{epoch:02d}-{val_loss:.2f}.h5"},
        {"filepath": "m-{batch}.keras", "save_freq": 3},
        {"filepath": "m-{batch}.keras", "save_freq": "auto"},
        {"filepath": "model.weights.h5", "save_weights_only": True},
        {"save_freq": "auto", "max_overhead": 0.5},
        {"save_freq": np.int64(3)},
        {"primary_metric": ["f1", "maximize"]},
        {"initial_value_threshold": 0.5},
        {"save_best_only": True},
        {"verbose": 1},
        {"verbose": True},
        {"period": 3},
        {"options": None},
        {"save_best_only": True, "monitor": "val_accuracy"},
        {"save_best_only": True, "monitor": "something", "mode": "min"},
        {"monitor": "something"},
        {"keep_last": 2},
        {"keep_best": 3, "primary_metric": ("loss", "minimize")},
        {"resume": "auto", "name": "digits", "tags": ["a"], "notes": "n"},
    ],
    ids=str,
)
def test_these_are_taken_and_nothing_begins(project: Path, arguments: dict) -> None:
    ReplicateCallback(**arguments)
    assert list(project.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filepath": "model.pth"}, r"must end in \.keras or \.h5 or \.hdf5, got 'model.pth'"),
        ({"filepath": "model"}, r"must end in \.keras or"),
        ({"filepath": "model.keras", "save_weights_only": True}, r"must end in \.weights\.h5 when only weights"),
        ({"filepath": "model.weights.h5"}, "save_weights_only=True"),
        ({"filepath": "m-{batch:02d}.keras"}, "batch"),
        ({"filepath": "m-{epoch:q}.keras"}, "can't be filled in"),
        ({"filepath": "m-{}.keras"}, "holds no name"),
        ({"filepath": "m-{.keras"}, "can't be filled in"),
        ({"primary_metric": ("epoch", "maximize")}, "names 'epoch', which does not say which checkpoint is better"),
        ({"primary_metric": ("step", "maximize")}, "names 'step', which does not say which checkpoint is better"),
        ({"filepath": "/outside/model.keras"}, "outside of the project"),
        ({"save_freq": 0}, 'must be "epoch", "auto", or a number of batches from 1, got 0'),
        ({"save_freq": -1}, "save_freq"),
        ({"save_freq": True}, "save_freq"),
        ({"save_freq": 2.0}, "save_freq"),
        ({"save_freq": "batch"}, "save_freq"),
        ({"save_freq": None}, "save_freq"),
        ({"save_freq": "3 epochs"}, "After every 3 epochs: period=3"),
        ({"period": 0}, "period must be a number of epochs from 1, got 0"),
        ({"period": 2, "save_freq": 10}, 'period needs save_freq="epoch", because it counts epochs, got save_freq=10'),
        ({"period": 2, "filepath": None}, "filepath=None saves no files"),
        ({"verbose": "yes"}, "verbose must be 0 or 1, got 'yes'"),
        ({"verbose": -1}, "verbose must be 0 or 1"),
        ({"options": "experimental_io_device"}, "leave options out"),
        ({"params": 3}, "params must be a dictionary, got int"),
        ({"filepath": "/elsewhere/model.keras"}, "outside of the project .*: save into the project, or put"),
        ({"filepath": "../model.keras"}, "outside of the project"),
        ({"max_overhead": 0.1}, "max_overhead needs save_freq=\"auto\", got save_freq='epoch'"),
        ({"save_freq": "auto", "max_overhead": 1}, "between 0 and 1, got 1"),
        ({"save_freq": "auto", "max_overhead": 0}, "between 0 and 1"),
        ({"save_freq": "auto", "max_overhead": "5%"}, "between 0 and 1"),
        ({"save_freq": "auto", "max_overhead": True}, "between 0 and 1"),
        ({"primary_metric": ("loss", "down")}, "primary_metric"),
        ({"mode": "lower"}, 'mode must be "auto", "min" or "max", got \'lower\''),
        ({"save_best_only": True, "monitor": "something"}, 'give mode="max" or mode="min"'),
        ({"keep_best": 3}, "keep_best needs primary_metric"),
        ({"keep_last": 0}, "keep_last must be a number of checkpoints from 1, got 0"),
        ({"keep_last": True}, "keep_last"),
        ({"keep_last": 1.5}, "keep_last"),
        ({"filepath": 3}, "filepath"),
        ({"filepath": b"model.keras"}, "filepath"),
        ({"filepath": "s3://bucket/model.keras"}, "filepath"),
        ({"monitor": 3, "save_best_only": True}, "monitor"),
        ({"initial_value_threshold": "low"}, "initial_value_threshold"),
        ({"experiment": "3fa2c1b"}, "experiment"),
        ({"resume": 3}, "resume"),
        ({"filepath": None, "resume": "auto"}, "filepath=None saves no files"),
        ({"filepath": None, "save_best_only": True}, "filepath=None saves no files"),
        ({"filepath": None, "keep_last": 1}, "filepath=None saves no files"),
        ({"filepath": None, "save_on_exception": True}, "filepath=None saves no files"),
    ],
    ids=str,
)
def test_these_are_refused_with_what_is_wanted(project: Path, arguments: dict, message: str) -> None:
    with pytest.raises(replicate.InvalidInput, match=message):
        ReplicateCallback(**arguments)
    assert list(project.iterdir()) == []


def test_what_stands_where_model_checkpoint_has_the_monitor_is_told_its_name(project: Path) -> None:
    with pytest.raises(replicate.InvalidInput, match=r"got 'val_loss'.* is given by name here: monitor='val_loss'"):
        ReplicateCallback("model.keras", "val_loss")


def test_the_documentation_names_every_argument_of_model_checkpoint() -> None:
    text = (Path(__file__).parents[2] / "docs/keras.md").read_text()
    table = text.partition("| `ModelCheckpoint` | here |")[2].partition("\n\n")[0]
    arguments = inspect.signature(keras.callbacks.ModelCheckpoint.__init__).parameters
    names = {*arguments, "period", "options"} - {"self"}
    assert {name for name in names if f"| `{name}" not in table} == set()
    ours = inspect.signature(ReplicateCallback.__init__).parameters
    assert names <= set(ours)


def test_resume_belongs_where_the_experiment_was_begun(project: Path) -> None:
    with (
        replicate.init(path=None) as experiment,
        pytest.raises(replicate.InvalidInput, match=r"resume to replicate\.init"),
    ):
        ReplicateCallback(experiment=experiment, resume="auto")
