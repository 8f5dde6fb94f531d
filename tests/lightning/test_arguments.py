"""What the Lightning callback and its logger refuse at construction, before any training."""

import argparse
import importlib
import inspect
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"params": argparse.Namespace(lr=1)}, r"params must be a dictionary, got Namespace. Did you mean vars\("),
        ({"filepath": ""}, "give the name of a file"),
        ({"filepath": "models/"}, "give the name of a file"),
        ({"filepath": 3}, "must be a local path in the project"),
        ({"filepath": "s3://bucket/model.ckpt"}, "must be a local path in the project"),
        ({"filepath": "m-{}.ckpt"}, "a pair of braces holds no name"),
        ({"filepath": "m-{epoch:nonsense}.ckpt"}, "can't be filled in"),
        ({"save_freq": 0}, "save_freq must be"),
        ({"save_freq": True}, "save_freq must be"),
        ({"save_freq": "batch"}, "save_freq must be"),
        ({"save_freq": timedelta()}, "save_freq must be"),
        ({"period": 0}, "period must be"),
        ({"filepath": "/elsewhere/model.ckpt"}, "outside of the project .*: save into the project, or put"),
        ({"filepath": "../model.ckpt"}, "outside of the project"),
        ({"period": 2, "save_freq": 10}, 'period needs save_freq="epoch"'),
        ({"primary_metric": "val_loss"}, "primary_metric"),
        ({"primary_metric": ("step", "maximize")}, "names 'step', which does not say which checkpoint is better"),
        ({"primary_metric": ("epoch", "maximize")}, "names 'epoch', which does not say which checkpoint is better"),
        ({"filepath": Path("/outside/m-{epoch}.ckpt")}, "outside of the project"),
        ({"keep_best": 1}, "keep_best needs primary_metric"),
        ({"keep_last": 0}, "keep_last must be"),
        ({"max_overhead": 0.1}, 'max_overhead needs save_freq="auto"'),
        ({"max_overhead": 2, "save_freq": "auto"}, "between 0 and 1"),
        ({"filepath": None, "resume": "auto"}, "filepath=None saves no files"),
        ({"filepath": None, "save_on_exception": True}, "filepath=None saves no files"),
        ({"filepath": None, "keep_last": 1}, "filepath=None saves no files"),
        ({"resume": ""}, "resume must be"),
        ({"resume": True}, "resume must be"),
        ({"resume": "auto", "save_weights_only": True}, "save_weights_only leaves out"),
        ({"experiment": "3fa2c1b"}, "experiment must be one that replicate.init returned"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_what_can_not_be_taken_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(replicate.InvalidInput, match=said):
        ReplicateCallback(**arguments)


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_every_argument_of_model_checkpoint_is_taken_or_refused_with_what_to_give(namespace: str) -> None:
    """As is the table of them in the docs."""
    stock = importlib.import_module(namespace).callbacks.ModelCheckpoint
    ours = inspect.signature(ReplicateCallback).parameters
    page = (Path(__file__).parents[2] / "docs" / "lightning.md").read_text(encoding="utf-8")
    table = page.partition("| `ModelCheckpoint` |")[2].partition("\n\n")[0]
    for name in inspect.signature(stock).parameters:
        assert f"`{name}" in table, name
        if name not in ours:
            with pytest.raises(replicate.InvalidInput, match=f"{name} is an argument of ModelCheckpoint: "):
                ReplicateCallback(**{name: 1})
    with pytest.raises(TypeError, match="unexpected keyword argument 'monitr'"):
        ReplicateCallback(monitr="val_loss")
    with pytest.raises(replicate.InvalidInput, match="dirpath and filename of ModelCheckpoint are one path here"):
        ReplicateCallback("models", "best")


def test_resume_belongs_to_who_begins_the_experiment(project: Path, no_recorder: None) -> None:
    experiment = replicate.init(path=None)
    with pytest.raises(replicate.InvalidInput, match=r"give resume to replicate\.init"):
        ReplicateCallback(experiment=experiment, resume="auto")
    experiment.stop()


def test_a_logger_takes_params_and_an_experiment() -> None:
    with pytest.raises(replicate.InvalidInput, match="params must be a dictionary"):
        ReplicateLogger([1])
    with pytest.raises(replicate.InvalidInput, match="experiment must be"):
        ReplicateLogger(experiment="3fa2c1b")


def test_the_name_of_the_successor_is_the_same_class() -> None:
    assert replicate.pl_callback.ReplicateCallback is ReplicateCallback
    assert ReplicateCallback("model.pth", {"lr": 1}, ("loss", "minimize"), period=2).period == 2


def test_containers_of_omegaconf_are_params_and_a_primary_metric(tmp_path, monkeypatch):
    import omegaconf

    monkeypatch.chdir(tmp_path)
    config = omegaconf.OmegaConf.create(
        {"model": {"layers": [32, {"units": 64}]}, "same": "${model.layers}", "primary": ["val_loss", "minimize"]}
    )
    ReplicateCallback(params=config, primary_metric=config.primary)
    params = {"config": config, "dtype": torch.float16, "device": torch.device("cpu"), "size": torch.Size([1, 2])}
    experiment = replicate.init(params)
    experiment.checkpoint(path=None, step=1, metrics={"val_loss": 0.5}, primary_metric=config.primary)
    experiment.stop()

    layers = [32, {"units": 64}]
    assert experiment.params == {
        "config": {"model": {"layers": layers}, "same": layers, "primary": ["val_loss", "minimize"]},
        "dtype": "torch.float16",
        "device": "cpu",
        "size": [1, 2],
    }
    assert experiment.checkpoints[0].primary_metric == ("val_loss", "minimize")
