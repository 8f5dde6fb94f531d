"""Train a Lightning model on handwritten digits twice, find the better run, and load its best model.

    python lightning_digits.py

The data, 1,797 images of 8x8 pixels, comes with scikit-learn. For the package `lightning`, import
`lightning.pytorch` instead.
"""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

import replicate
from replicate.lightning_callback import ReplicateCallback

EPOCHS = 8

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning|lightning")
warnings.filterwarnings("ignore", message=".*LeafSpec.*")


class Digits(pl.LightningModule):
    def __init__(self, learning_rate: float, hidden_units: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()  # replicate records them
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, hidden_units), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(hidden_units, 10)
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, digits = batch
        loss = functional.cross_entropy(self.net(images), digits)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, digits = batch
        self.log("val_accuracy", (self.net(images).argmax(1) == digits).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams.learning_rate)


def data() -> tuple[torch.utils.data.DataLoader, torch.utils.data.DataLoader]:
    images, digits = load_digits(return_X_y=True)
    data = torch.utils.data.TensorDataset(torch.tensor(images).float() / 16, torch.tensor(digits))
    train, held = torch.utils.data.random_split(data, [0.75, 0.25], torch.Generator().manual_seed(0))
    return (
        torch.utils.data.DataLoader(train, batch_size=32, shuffle=True),
        torch.utils.data.DataLoader(held, batch_size=len(held)),
    )


def trainer(*callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,  # replicate saves
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def train(learning_rate: float) -> replicate.Experiment:
    pl.seed_everything(0, verbose=False)
    callback = ReplicateCallback(params={"epochs": EPOCHS}, primary_metric=("val_accuracy", "maximize"))
    trainer(callback).fit(Digits(learning_rate), *data())
    return callback.experiment


def run(*command: str) -> None:
    print("\n$ replicate", *command, flush=True)
    subprocess.run([sys.executable, "-m", "replicate", *command], check=True)


def main() -> None:
    experiments = [train(learning_rate) for learning_rate in (0.0001, 0.01)]

    run("ls")
    better = max(experiments, key=lambda experiment: experiment.best().metrics["val_accuracy"])
    run("show", better.short_id)
    run("checkout", better.short_id, "-o", "best", "--force")

    recorded = better.best().metrics["val_accuracy"]
    model = Digits.load_from_checkpoint(Path("best") / "model.ckpt")
    measured = trainer().validate(model, data()[1], verbose=False)[0]["val_accuracy"]
    print(f"\nbest/model.ckpt: validation accuracy {measured:.6f}, recorded was {recorded:.6f}")
    if abs(measured - recorded) > 1e-6:
        sys.exit("The model that came back is not the one that was saved.")


if __name__ == "__main__":
    main()
