"""What the tests of the Lightning adapter share: both namespaces, a small model, and one way to train it."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from replicate.lightning_callback import ReplicateLogger

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """The last experiment of the test before, whose project is gone."""
    ReplicateLogger._last = None


@pytest.fixture(params=NAMESPACES)
def pl(request: pytest.FixtureRequest) -> Any:
    """Each of the two namespaces."""
    return importlib.import_module(request.param)


@pytest.fixture
def one_pl() -> Any:
    """One of them, where it makes no difference."""
    return importlib.import_module(NAMESPACES[0])


@pytest.fixture
def make_module() -> Callable[..., Any]:
    """Makes a small module of a namespace: it shuffles nothing, and drops out half of little."""

    def make(pl: Any, **overridden: Any) -> Any:
        class Linear(pl.LightningModule):
            def __init__(self, width: int = 4) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(width, 1)
                self.dropout = torch.nn.Dropout(0.5)

            def training_step(self, batch, batch_idx):
                loss = self.layer(self.dropout(batch)).pow(2).mean()
                self.log("train_loss", loss)
                return loss

            def validation_step(self, batch, batch_idx):
                self.log("val_loss", self.layer(batch).pow(2).mean())

            def test_step(self, batch, batch_idx):
                self.log("test_loss", self.layer(batch).pow(2).mean())

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.01)

        torch.manual_seed(0)
        return type("Module", (Linear,), overridden)()

    return make


@pytest.fixture
def make_trainer() -> Callable[..., Any]:
    """Makes a quiet trainer."""

    def make(pl: Any, *callbacks: Any, epochs: int = 2, **options: Any) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options = {"max_epochs": epochs, "accelerator": "cpu", "log_every_n_steps": 1} | quiet | options
        return pl.Trainer(callbacks=list(callbacks), **options)

    return make


@pytest.fixture
def loader() -> Callable[[], torch.utils.data.DataLoader]:
    """Makes a loader of four batches, which are shuffled."""
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return lambda **options: torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, **options)


@pytest.fixture
def validation(loader: Any) -> torch.utils.data.DataLoader:
    """The same data, for validation and tests."""
    return torch.utils.data.DataLoader(loader().dataset, batch_size=4)


@pytest.fixture
def fit(make_module: Any, make_trainer: Any, loader: Any, validation: Any) -> Callable[..., Any]:
    """Trains a module, a small one if none is given; returns the experiment of the first callback."""

    def run(
        pl: Any,
        callback: Any,
        *more: Any,
        module: Any = None,
        validates: bool = True,
        told: Any = None,
        before: Any = None,
        **options: Any,
    ) -> Any:
        trainer = make_trainer(pl, *[before][: before is not None], callback, *more, **options)
        module = make_module(pl) if module is None else module
        trainer.fit(module, loader(), validation if validates else None, ckpt_path=told)
        return callback.experiment

    return run
