"""Forms of models, as a script: each is trained, killed at a moment, started again, and compared with one that was not.

`python model_forms.py NAMESPACE SEED FORM...` prints a line for each: what it says is in `test_resuming.py`.
Every training is a process of its own, forked before torch has computed anything: importing it takes longest.
"""

import hashlib
import importlib
import os
import random
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch

import replicate
from replicate.lightning_callback import ReplicateCallback

EPOCHS = 4
pl = importlib.import_module(sys.argv[1])
linear, relu = torch.nn.Linear, torch.nn.ReLU
HOOKS = [
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
]


class Moments(pl.Callback):
    """Counts the moments of a training, and kills it at one of them."""

    def __init__(self, last: int) -> None:
        self.last, self.seen = last, 0


def _pass(self: Moments, *_: object, **__: object) -> None:
    self.seen += 1
    if self.seen == self.last:
        os.kill(os.getpid(), signal.SIGKILL)


for hook in HOOKS:
    setattr(Moments, hook, _pass)


class Stateful(torch.utils.data.DataLoader):
    """A loader that says where it is in an epoch, and in which order it goes."""

    def __init__(self, data: torch.utils.data.Dataset) -> None:
        super().__init__(data, batch_size=16)
        self.order, self.at = [], 0

    def __iter__(self):
        if self.at in (0, len(self)):
            self.order, self.at = torch.randperm(len(self.dataset)).tolist(), 0
        while self.at < len(self):
            self.at += 1
            yield torch.utils.data.default_collate(
                [self.dataset[index] for index in self.order[16 * self.at - 16 : 16 * self.at]]
            )

    def state_dict(self) -> dict:
        return {"order": self.order, "at": self.at}

    def load_state_dict(self, state: dict) -> None:
        self.order, self.at = state["order"], state["at"]


class Plain(pl.LightningModule):
    """What the others have in common: two parts, dropout, Adam."""

    norm, drop = torch.nn.Identity, 0.2

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(linear(6, 12), self.norm(12), relu(), torch.nn.Dropout(self.drop))
        self.head = linear(12, 1)
        self.lr = 0.02

    def loss(self, batch):
        x, y = batch
        return (self.head(self.backbone(x)) - y).pow(2).mean()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


class Normal(Plain):
    norm = torch.nn.BatchNorm1d


class Gan(Plain):
    """Two optimizers that are stepped by hand, and their schedulers."""

    raw = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.made = torch.nn.Sequential(linear(3, 8), relu(), linear(8, 6))

    def training_step(self, batch, batch_idx):
        judge, maker = self.optimizers(use_pl_optimizer=not self.raw)
        for optimizer, sign in ((judge, 1), (maker, -1)):
            made = self.head(self.backbone(self.made(torch.randn(len(batch[0]), 3)))).mean()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch) + 0.1 * sign * made)
            optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        judge = torch.optim.Adam([*self.backbone.parameters(), *self.head.parameters()], self.lr)
        maker = torch.optim.SGD(self.made.parameters(), 0.01, momentum=0.9)
        rates = torch.optim.lr_scheduler
        return [judge, maker], [rates.ExponentialLR(judge, 0.99), rates.StepLR(maker, 5)]


class RawGan(Gan):
    """The same with the optimizers of torch themselves: Lightning counts no step."""

    raw = True


class Transformer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Unflatten(1, (3, 2)),
            linear(2, 12),
            torch.nn.TransformerEncoderLayer(12, 2, 16, batch_first=True),
            torch.nn.Flatten(),
            linear(36, 12),
        )

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=8 * EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


class Scheduled(Plain):
    """By step, by epoch, and by what validation says."""

    def configure_optimizers(self):
        optimizer, rates = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9), torch.optim.lr_scheduler
        by_step = {"scheduler": rates.ExponentialLR(optimizer, 0.99), "interval": "step", "frequency": 2}
        plateau = {"scheduler": rates.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9), "monitor": "val_loss"}
        return [optimizer], [by_step, rates.CosineAnnealingLR(optimizer, EPOCHS), plateau]


class Lbfgs(Plain):
    """An optimizer that computes the loss several times in a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=3)


class Frozen(Normal):
    """A part is trained from the third epoch on."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.backbone.requires_grad_(True)


class Headed(Normal):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(filter(lambda one: one.requires_grad, self.parameters()), self.lr)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Thawing(pl.callbacks.BaseFinetuning):
    """Leaves the statistics of BatchNorm alone until the backbone is trained, and then its weights."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone[0], optimizer, lr=0.005)
        if epoch == 3:
            self.unfreeze_and_add_param_group(pl_module.backbone[1], optimizer, train_bn=False)


def averaging(**arguments):
    return pl.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=3, **arguments)


AT_ITS_END = "swa, killed when the average is there and not saved"

FORMS = {
    "gan": lambda: (Gan, [], {}),
    "raw steps": lambda: (RawGan, [], {"save_freq": 3, "stateful": True}),
    "transformer": lambda: (Transformer, [], {}),
    "accumulation": lambda: (Plain, [], {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}),
    "ema": lambda: (Normal, [pl.callbacks.EMAWeightAveraging(decay=0.9)], {}),
    "swa": lambda: (Plain, [averaging()], {}),
    AT_ITS_END: lambda: (Plain, [averaging()], {}),
    "swa, linear": lambda: (Plain, [averaging(annealing_strategy="linear")], {}),
    "swa with BatchNorm": lambda: (Headed, [averaging()], {}),
    "backbone": lambda: (Headed, [pl.callbacks.BackboneFinetuning(2, lambda epoch: 1.5)], {}),
    "finetuning": lambda: (Headed, [Thawing()], {}),
    "frozen": lambda: (Frozen, [], {}),
    "search": lambda: (Plain, [pl.callbacks.LearningRateFinder(num_training_steps=9, max_lr=0.1)], {}),
    "bf16": lambda: (Plain, [], {"precision": "bf16-mixed"}),
    "bf16, true": lambda: (Normal, [], {"precision": "bf16-true"}),
    "schedulers": lambda: (Scheduled, [], {}),
    "lbfgs": lambda: (Lbfgs, [], {}),
    "stopping": lambda: (Plain, [pl.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.3)], {}),
    "stateful loader": lambda: (Plain, [], {"save_freq": 3, "stateful": True}),
}


def train(form: str, last: int) -> str:
    """Train from the beginning or from where it was killed; says how it ended."""
    torch.set_num_threads(1)
    pl.seed_everything(3, verbose=False)
    module, more, options = FORMS[form]()
    x = torch.randn(160, 6)
    data = torch.utils.data.TensorDataset(x[:128], x[:128].sum(1, keepdim=True))
    held = torch.utils.data.TensorDataset(x[128:], x[128:].sum(1, keepdim=True))
    ours = ReplicateCallback(name=form, resume="auto", save_freq=options.pop("save_freq", "epoch"))
    stateful = options.pop("stateful", False)
    moments = Moments(last)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*more, ours, moments],
        **options,
    )
    model = module()
    loader = Stateful(data) if stateful else torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    trainer.fit(model, loader, torch.utils.data.DataLoader(held, batch_size=16))
    values = [*model.state_dict().values()]
    for optimizer in trainer.optimizers:
        state = optimizer.state_dict()
        values += [torch.tensor(group["lr"]) for group in state["param_groups"]]
        values += [value for one in state["state"].values() for value in one.values() if torch.is_tensor(value)]
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    saved = [item.step for item in ours.experiment.checkpoints if not item.lacks_files]
    Path("moments").write_text(str(moments.seen))
    return f"{trainer.current_epoch} {trainer.global_step} {digest.hexdigest()[:16]} {saved}"


def run(form: str, directory: Path, last: int = 0) -> str:
    """Train in a process of its own; returns how it ended."""
    directory.mkdir(parents=True, exist_ok=True)
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.chdir(directory)
            warnings.simplefilter("ignore")
            Path("end").write_text(train(form, last))
            if replicate.experiments.list()[-1].status != "running":
                code = 0
        except BaseException:  # noqa: BLE001  # whatever it is: this process must not go on as the one that forked it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return (directory / "end").read_text() if status == 0 else "failed"


def compare(form: str, chance: random.Random) -> str:
    """Train without and with a kill; says where it was killed, and how each ended."""
    home = Path(form.replace(" ", "-"))
    whole = run(form, home / "whole")
    if whole == "failed":
        return whole
    count = int((home / "whole/moments").read_text())
    last = (
        count if form == AT_ITS_END else chance.randint(count // 5, count)
    )  # there is something to go on from, mostly
    return "|".join((str(last), run(form, home / "killed", last), whole, run(form, home / "killed")))


if __name__ == "__main__":
    chance = random.Random(sys.argv[2])
    for form in sys.argv[3:] or FORMS:
        print(form, compare(form, chance), sep="|", flush=True)
