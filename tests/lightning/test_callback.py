"""The Lightning callback, in both namespaces: when it saves, what it records, and what it refuses."""

import importlib
from pathlib import Path

import pytest
import torch

import replicate
from replicate.lightning_callback import ReplicateCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning",  # Lightning 2.6 with torch 2.13
    "ignore:.*does not have many workers.*",
    "ignore:.*Checkpoint directory .* exists and is not empty.*",
    "ignore:.*`tensorboardX` has been removed.*",
    "ignore:.*`litlogger`.*",
)


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request: pytest.FixtureRequest):
    return importlib.import_module(request.param)


def module(pl):
    class Linear(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).pow(2).mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.layer(batch).pow(2).mean())

        def on_train_epoch_end(self) -> None:
            self.log("late", float(self.current_epoch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    torch.manual_seed(0)
    return Linear()


def fit(pl, callback, *, epochs: int = 2, **options) -> None:
    data = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=callback,
        **options,
    )
    trainer.fit(module(pl), data, data)


@pytest.mark.parametrize("enable_checkpointing", [True, False])
def test_every_epoch_becomes_a_checkpoint_with_its_metrics(pl, project: Path, enable_checkpointing: bool) -> None:
    callback = ReplicateCallback(params={"lr": 0.01}, primary_metric=("val_loss", "minimize"))
    fit(pl, [callback], enable_checkpointing=enable_checkpointing)

    (experiment,) = replicate.experiments.list()
    assert experiment.params == {"lr": 0.01}
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == [0, 1]
    assert {"train_loss", "val_loss", "late"} <= set(experiment.latest().metrics)
    assert [checkpoint.metrics["late"] for checkpoint in experiment.checkpoints] == [0.0, 1.0]
    assert experiment.best().id == experiment.latest().id
    assert experiment.status == "finished"
    with experiment.latest().open("model.ckpt") as file:
        assert torch.load(file, weights_only=True)["global_step"] == 8


def test_a_bare_callback_and_a_number_of_steps(pl, project: Path) -> None:
    fit(pl, ReplicateCallback(save_freq=3))

    (experiment,) = replicate.experiments.list()
    assert [checkpoint.step for checkpoint in experiment.checkpoints] == [3, 6]


def test_without_a_file_path_only_metrics_are_recorded(pl, project: Path) -> None:
    fit(pl, ReplicateCallback(None), enable_checkpointing=False)

    assert [checkpoint.path for checkpoint in replicate.experiments.list()[0].checkpoints] == [None, None]


def test_a_fast_development_run_records_nothing(pl, project: Path) -> None:
    fit(pl, ReplicateCallback(), fast_dev_run=True)

    assert len(replicate.experiments.list()) == 0


@pytest.mark.parametrize(
    "arguments", [{"filepath": ""}, {"save_freq": 0}, {"save_freq": True}, {"primary_metric": "val_loss"}]
)
def test_what_can_not_be_taken_is_refused_at_construction(arguments: dict) -> None:
    with pytest.raises(replicate.InvalidInput):
        ReplicateCallback(**arguments)
