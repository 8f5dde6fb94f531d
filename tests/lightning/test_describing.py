"""Hyperparameters of Lightning as they are recorded: as numbers and text, or named as left out."""

import argparse
import dataclasses
import enum
import functools
from pathlib import Path

import numpy as np
import omegaconf
import pytest
import torch

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger
from replicate_lightning.describing import Plain


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Size:
    width: int
    rate: object


def recorded(value: object) -> object:
    """One hyperparameter as it is recorded."""
    found = Plain()
    found.add({"it": value})
    assert found.left_out == []
    return found.values["it"]


def test_scalars_paths_and_types_are_numbers_and_text() -> None:
    assert recorded([np.float64(0.5), torch.tensor(2), np.array([1, 2])]) == [0.5, 2, [1, 2]]
    assert recorded({"path": Path("a/b"), "colour": Colour.RED}) == {"path": "a/b", "colour": "RED"}
    assert recorded((torch.float16, np.float32, float)) == ["torch.float16", "float32", "float"]
    assert recorded({3, 1}) == [1, 3]
    assert recorded(Size(3, np.float32(0.5))) == {"width": 3, "rate": 0.5}
    assert recorded(argparse.Namespace(a=1, b=argparse.Namespace(c=Path("x")))) == {"a": 1, "b": {"c": "x"}}
    assert recorded(range(3)) == "range(0, 3)"


def test_classes_and_functions_are_their_names() -> None:
    assert recorded(torch.nn.ReLU) == "torch.nn.modules.activation.ReLU"
    assert recorded(torch.nn.functional.gelu).endswith("gelu")
    assert recorded(recorded).endswith("test_describing.recorded")
    assert recorded(len) == "len"
    assert recorded(functools.partial(torch.optim.Adam, lr=0.1)) == "torch.optim.adam.Adam(lr=0.1)"
    assert recorded(Size(1, torch.nn.Tanh)) == {"width": 1, "rate": "torch.nn.modules.activation.Tanh"}


def test_what_holds_itself_is_left_out() -> None:
    endless: list = []
    endless.append(endless)
    found = Plain()
    found.add({"it": endless, "lr": 1})
    assert (found.values, found.left_out) == ({"lr": 1}, ["it (list)"])


CONFIG = {
    "model": {"layers": [32, {"units": 64}], "rate": "${rate}", "path": "${oc.env:NO_SUCH_VARIABLE}"},
    "rate": 0.1,
    "later": {"seed": "???", "items": ["???", 1]},
    "nothing": None,
    "wrong": "${nowhere}",
}
EXPECTED = {
    "model": {"layers": [32, {"units": 64}], "rate": 0.1, "path": "${oc.env:NO_SUCH_VARIABLE}"},
    "rate": 0.1,
    "later": {"seed": "???", "items": ["???", 1]},
    "nothing": None,
    "wrong": "${nowhere}",
}


def test_a_configuration_of_omegaconf_is_recorded_whole() -> None:
    config = omegaconf.OmegaConf.create(CONFIG)
    assert recorded(config) == EXPECTED
    assert recorded({"nested": [config.model]}) == {"nested": [EXPECTED["model"]]}
    assert recorded(omegaconf.DictConfig(None)) is None
    found = Plain()
    found.add(config)
    assert (found.values, found.left_out) == (EXPECTED, [])


def configured(pl, make_module):
    """A module that was given its configuration, and one that is made of it."""
    module = make_module(pl)
    module.save_hyperparameters({"config": omegaconf.OmegaConf.create(CONFIG), "out": Path("x")})
    return module


def test_a_training_that_is_configured_by_omegaconf_goes_on(pl, project: Path, fit, make_module) -> None:
    for epochs in (2, 4):
        stop = pl.callbacks.Callback()
        if epochs == 2:
            stop.on_train_epoch_start = stop_in_the_second
        callback = ReplicateCallback(resume="auto", name="configured")
        try:
            fit(pl, callback, stop, module=configured(pl, make_module), epochs=epochs)
        except RuntimeError as error:
            assert str(error) == "stopped"  # noqa: PT017  # the first one only
    (experiment,) = replicate.experiments.list()
    assert experiment.params == {"config": EXPECTED, "out": "x"}
    assert ([item.step for item in experiment.checkpoints], experiment.status) == ([0, 1, 2, 3], "finished")


def stop_in_the_second(trainer, pl_module) -> None:
    if trainer.current_epoch == 1:
        raise RuntimeError("stopped")


def test_a_module_whose_hyperparameters_are_a_configuration(one_pl, project: Path, fit, make_module) -> None:
    module = make_module(one_pl)
    module.save_hyperparameters(omegaconf.OmegaConf.create({"lr": 0.1, "twice": "${lr}"}))
    callback = ReplicateCallback(resume="auto", primary_metric=omegaconf.OmegaConf.create(["val_loss", "minimize"]))
    experiment = fit(one_pl, callback, module=module, epochs=1)
    assert experiment.params == {"lr": 0.1, "twice": 0.1}
    assert experiment.best().primary_metric == ("val_loss", "minimize")


def test_a_logger_records_the_same(one_pl, project: Path, fit, make_module) -> None:
    logger = ReplicateLogger()
    logger.log_hyperparams(argparse.Namespace(seed=np.int64(3), net=torch.nn.ReLU()))
    module = configured(one_pl, make_module)
    nothing = one_pl.callbacks.Callback()
    nothing.experiment = None
    with pytest.warns(UserWarning, match=r"not recorded: net \(ReLU\)"):
        fit(one_pl, nothing, module=module, logger=logger, epochs=1, enable_checkpointing=False)
    logger.experiment.stop()
    assert logger.experiment.params == {"seed": 3, "config": EXPECTED, "out": "x"}
