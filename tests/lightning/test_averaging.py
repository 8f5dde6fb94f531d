"""Callbacks of Lightning that average weights: what `fit` returns is a checkpoint, and told apart from the others."""

from pathlib import Path

import pytest
import torch

import replicate
from replicate.lightning_callback import ReplicateCallback

pytestmark = pytest.mark.usefixtures("no_recorder")


def stochastic(pl):
    return pl.callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=2)


def exponential(pl):
    return pl.callbacks.EMAWeightAveraging(decay=0.5)


def normed(module, batch, batch_idx):
    """A training step with BatchNorm, whose statistics are made for the average in one more pass over the data."""
    return module.layer(module.norm(batch)).pow(2).mean()


def weights_in(checkpoint: replicate.Checkpoint) -> dict[str, torch.Tensor]:
    with checkpoint.open() as file:
        return torch.load(file, weights_only=True)["state_dict"]


@pytest.mark.parametrize("is_first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize(
    ("make", "has_norm", "save_freq", "steps"),
    [
        (stochastic, False, "epoch", [0, 1, 2, 2]),
        (stochastic, False, 5, [5, 10, 12]),
        (stochastic, True, "epoch", [0, 1, 2, 3]),
        (stochastic, True, 5, [5, 10, 13]),
        (exponential, False, 5, [5, 10, 12]),
    ],
)
def test_the_last_checkpoint_is_the_average_that_fit_returns(
    one_pl, project: Path, fit, make_module, *, make, has_norm: bool, save_freq, steps: list[int], is_first: bool
) -> None:
    module = make_module(one_pl, training_step=normed) if has_norm else make_module(one_pl)
    module.norm = torch.nn.BatchNorm1d(4) if has_norm else torch.nn.Identity()
    callback = ReplicateCallback(save_freq=save_freq)
    averaging = make(one_pl)
    more = {"before": averaging} if is_first else {}
    experiment = fit(one_pl, callback, *[averaging][is_first:], module=module, epochs=3, **more)

    *others, last = experiment.checkpoints
    assert [item.step for item in (*others, last)] == steps
    assert last.extra["averaged"] == type(averaging).__name__
    assert not any("averaged" in item.extra for item in others)
    torch.testing.assert_close(weights_in(last), dict(module.state_dict()), rtol=0, atol=0)


def test_the_average_is_not_taken_for_what_was_measured(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"))
    experiment = fit(one_pl, callback, stochastic(one_pl), epochs=3)
    last = experiment.latest()
    assert (last.metrics, last.primary_metric) == ({}, None)
    assert "val_loss" in experiment.best().metrics


def test_each_checkpoint_of_an_exponential_average_holds_it(one_pl, project: Path, fit, make_module) -> None:
    module = make_module(one_pl)
    experiment = fit(one_pl, ReplicateCallback(), exponential(one_pl), module=module, epochs=3)
    assert [item.step for item in experiment.checkpoints] == [0, 1, 2]
    torch.testing.assert_close(weights_in(experiment.latest()), dict(module.state_dict()), rtol=0, atol=0)


def test_no_more_is_trained_from_an_average(one_pl, project: Path, fit, make_module) -> None:
    def train(epochs: int, **arguments) -> replicate.Experiment:
        callback = ReplicateCallback(**arguments)
        averaging = one_pl.callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=1)
        module = make_module(one_pl)
        experiment = fit(one_pl, callback, averaging, module=module, epochs=epochs)
        experiment.weights = module.state_dict()
        return experiment

    first = train(3)
    with pytest.raises(replicate.InvalidInput, match="StochasticWeightAveraging has averaged at the end of training"):
        train(5, resume=first.id)
    first.refresh()
    assert (first.status, len(first.checkpoints)) == ("finished", 4)
    again = train(3, resume=first.id)
    torch.testing.assert_close(again.weights, first.weights, rtol=0, atol=0)
    further, whole = train(5, resume=first.checkpoints[2].id), train(5)
    torch.testing.assert_close(further.weights, whole.weights, rtol=0, atol=0)
