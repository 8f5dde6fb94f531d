"""Training steps that Lightning counts, and batches, where a module steps the optimizers of torch themselves."""

from pathlib import Path

import pytest

from replicate.lightning_callback import ReplicateCallback

pytestmark = pytest.mark.usefixtures("no_recorder")


@pytest.fixture
def manual(one_pl, make_module):
    """Makes a module that steps its optimizer by hand."""

    def make(*, counted: bool, every: int = 1):
        def training_step(module, batch, batch_idx) -> None:
            optimizer = module.optimizers(use_pl_optimizer=counted)
            module.manual_backward(module.layer(batch).pow(2).mean())
            if (batch_idx + 1) % every == 0:
                optimizer.step()
                optimizer.zero_grad()

        module = make_module(one_pl, training_step=training_step)
        module.automatic_optimization = False
        return module

    return make


@pytest.mark.parametrize(
    ("counted", "every", "save_freq", "steps"),
    [
        (False, 1, 3, [3, 6]),
        (True, 1, 3, [3, 6]),
        (False, 2, 3, [3, 6]),
        (True, 2, 3, [3]),
        (False, 1, "epoch", [0, 1]),
    ],
    ids=["batches", "steps", "batches, gradients accumulated", "steps, gradients accumulated", "epochs"],
)
def test_it_saves_after_so_many(
    one_pl, project: Path, fit, manual, *, counted: bool, every: int, save_freq, steps: list[int]
) -> None:
    callback = ReplicateCallback("m-{step}.ckpt", save_freq=save_freq)
    experiment = fit(one_pl, callback, module=manual(counted=counted, every=every))
    assert [item.step for item in experiment.checkpoints] == steps
    if save_freq != "epoch":
        assert [item.path for item in experiment.checkpoints] == [f"m-{step}.ckpt" for step in steps]


def test_it_goes_on_counting_batches(one_pl, project: Path, fit, manual) -> None:
    first = fit(one_pl, ReplicateCallback(save_freq=4), module=manual(counted=False))
    second = fit(one_pl, ReplicateCallback(save_freq=4, resume=first.id), module=manual(counted=False), epochs=4)
    assert [item.step for item in second.checkpoints] == [4, 8, 12, 16]


def test_old_metrics_of_validation_are_not_taken_for_new_ones(one_pl, project: Path, fit, manual) -> None:
    callback = ReplicateCallback(save_freq=2)
    experiment = fit(one_pl, callback, module=manual(counted=False))
    assert ["val_loss" in item.metrics for item in experiment.checkpoints] == [False] * 4
