"""`replicate://` where trainings use it: pandas, torch, and Lightning in both namespaces."""

import importlib
from pathlib import Path

import pytest
import torch

import replicate

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning",  # Lightning 2.6 with torch 2.13
    "ignore:.*does not have many workers.*",
    "ignore:.*Checkpoint directory .* exists and is not empty.*",
    "ignore:.*`tensorboardX` has been removed.*",
    "ignore:.*`litlogger`.*",
)


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """What is read here was stored before."""


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request: pytest.FixtureRequest):
    return importlib.import_module(request.param)


@pytest.fixture
def linear(pl) -> type:
    class Linear(pl.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).pow(2).mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    return Linear


def fit(pl, module, *, epochs: int, ckpt_path: str | None = None, **options):
    data = torch.utils.data.DataLoader(torch.arange(32.0).reshape(8, 4), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def url(pl, linear, project: Path) -> str:
    """A training of two epochs, saved."""
    torch.manual_seed(0)
    experiment = replicate.init({}, path=None)
    fit(pl, linear(), epochs=2).save_checkpoint("model.ckpt")
    experiment.checkpoint("model.ckpt", {"loss": 0.5}, primary_metric=("loss", "minimize"))
    experiment.stop()
    Path("model.ckpt").unlink()
    return f"replicate://{experiment.short_id}@best/model.ckpt"


def test_a_training_goes_on_bit_for_bit(pl, linear, url: str) -> None:
    torch.manual_seed(0)
    whole = linear()
    fit(pl, whole, epochs=4)
    resumed = linear()
    trainer = fit(pl, resumed, epochs=4, ckpt_path=url)

    assert (trainer.current_epoch, trainer.global_step) == (4, 16)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_a_module_is_loaded(linear, url: str) -> None:
    assert linear.load_from_checkpoint(url).layer.weight.shape == (1, 4)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_it_is_evaluated(pl, linear, url: str, verb: str) -> None:
    steps = ("validation_step", "test_step", "predict_step")
    seen = []

    def step(module, batch, batch_idx):
        seen.append(module.layer.weight.clone())
        return seen[0].sum()

    hooks = dict.fromkeys(steps, step)
    data = torch.utils.data.DataLoader(torch.ones(2, 4))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    getattr(trainer, verb)(type("Evaluated", (linear,), hooks)(), data, ckpt_path=url)
    assert torch.equal(seen[0], linear.load_from_checkpoint(url).layer.weight)


def test_a_checkpoint_that_is_not_there_is_none(pl, linear, url: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"Checkpoint file not found: replicate://"):
        fit(pl, linear(), epochs=4, ckpt_path=url + "x")


def test_a_model_checkpoint_that_would_write_there_is_refused(pl, linear, url: str) -> None:
    saving = pl.callbacks.ModelCheckpoint(dirpath=url.rpartition("/")[0])
    with pytest.raises(replicate.InvalidInput, match="ReplicateCallback"):
        fit(pl, linear(), epochs=1, enable_checkpointing=True, callbacks=[saving])


def test_torch_reads_it(project: Path) -> None:
    import fsspec

    weights = {"layer": torch.arange(3.0)}
    torch.save(weights, "model.pt")
    made = replicate.init({}, path=None).checkpoint("model.pt", {})
    with fsspec.open(f"replicate://{made.id}/model.pt") as file:
        loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["layer"], weights["layer"])


def test_pandas_reads_it(project: Path) -> None:
    import pandas as pd

    Path("history.csv").write_text("epoch,loss\n0,0.5\n1,0.25\n")
    made = replicate.init({}, path=None).checkpoint("history.csv", {})
    assert pd.read_csv(f"replicate://{made.id}/history.csv")["loss"].tolist() == [0.5, 0.25]
    other = {"storage": str(project / ".replicate/storage")}
    assert len(pd.read_csv(f"replicate://{made.short_id}/history.csv", storage_options=other)) == 2
