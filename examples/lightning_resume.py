"""A Lightning training that resumes after a kill: run it, kill it at any moment, run it again.

    python lightning_resume.py       # kill -9 it, and start it again, as often as you like
    replicate ls

The model ends with the same weights, bit for bit, as one that was never killed, despite dropout, shuffling, loader
workers and a learning rate that decreases. The data comes with scikit-learn.
"""

import argparse
import hashlib
import warnings

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from replicate.lightning_callback import ReplicateCallback

warnings.filterwarnings("ignore", module="pytorch_lightning|lightning")
warnings.filterwarnings("ignore", message=".*LeafSpec.*")


class Digits(pl.LightningModule):
    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 10)
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, digits = batch
        return functional.cross_entropy(self.net(images), digits)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, digits = batch
        self.log("val_loss", functional.cross_entropy(self.net(images), digits))

    def on_validation_epoch_end(self) -> None:
        print(f"epoch {self.current_epoch}: val_loss {self.trainer.callback_metrics['val_loss']}", flush=True)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), self.hparams.learning_rate)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


def train(epochs: int) -> Digits:
    pl.seed_everything(0, verbose=False)
    images, digits = load_digits(return_X_y=True)
    data = torch.utils.data.TensorDataset(torch.tensor(images).float() / 16, torch.tensor(digits))
    train, held = torch.utils.data.random_split(data, [0.75, 0.25])
    model = Digits()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        callbacks=[
            ReplicateCallback(
                primary_metric=("val_loss", "minimize"),
                name="digits",
                keep_best=1,
                resume="auto",  # resuming needs nothing else
            )
        ],
    )
    trainer.fit(
        model,
        torch.utils.data.DataLoader(train, batch_size=32, shuffle=True, num_workers=2),
        torch.utils.data.DataLoader(held, batch_size=len(held)),
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    model = train(parser.parse_args().epochs)
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
    print(f"sha256 of all weights: {weights.hexdigest()}")


if __name__ == "__main__":
    main()
