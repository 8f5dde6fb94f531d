"""A Lightning training that is killed and started again ends as one that was never killed; and what it goes on with."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import steps
from stores import manifest_of

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger
from replicate_core.recording import notices

EPOCHS = 6
BATCHES = 23

TRAINING = """
import hashlib, os, random, signal, sys
import numpy as np
import torch
from sklearn.datasets import load_digits
import {namespace} as pl
from replicate.lightning_callback import ReplicateCallback

kill_after, workers, saved = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


class Noisy(torch.utils.data.TensorDataset):
    def __getitem__(self, index):
        image, digit = super().__getitem__(index)
        return image + 0.1 * torch.rand(()), digit  # in a worker, if there are any


class Digits(pl.LightningModule):
    batches = 0

    def __init__(self):
        super().__init__()
        layers = [torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.3)]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        images, digits = batch
        noise = random.random() + np.random.random()
        return torch.nn.functional.cross_entropy(self.net(images + 0.01 * noise), digits)

    def on_train_batch_end(self, *_):
        self.batches += 1
        if self.batches == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def validation_step(self, batch, batch_idx):
        images, digits = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(images), digits))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.3)
        return {{"optimizer": optimizer, "lr_scheduler": {{"scheduler": plateau, "monitor": "val_loss"}}}}


pl.seed_everything(7, verbose=False)
images, digits = (torch.tensor(array) for array in load_digits(return_X_y=True))
data = Noisy(images.float()[:1472] / 16, digits[:1472])
held = torch.utils.data.TensorDataset(images.float()[1472:] / 16, digits[1472:])
module = Digits()
trainer = pl.Trainer(
    max_epochs=6,
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[
        ReplicateCallback(
            "model.ckpt",
            primary_metric=("val_loss", "minimize"),
            save_freq=int(saved) if saved.isdigit() else saved,
            name="digits", resume="auto", keep_last=2, keep_best=1,
        ),
        pl.callbacks.EarlyStopping("val_loss", patience=5),
        pl.callbacks.ModelCheckpoint("stock", monitor="val_loss"),
    ],
)
trainer.fit(
    module,
    torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=workers),
    torch.utils.data.DataLoader(held, batch_size=64),
)
digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()
stock = trainer.checkpoint_callback
print(trainer.current_epoch, trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"], digest, sep="|")
print(float(stock.best_model_score), os.path.basename(stock.best_model_path))
"""


def train(
    directory: Path, namespace: str, workers: int = 0, saved: str = "epoch", kill_after: int = 0
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, which kills itself after so many batches, if any."""
    directory.mkdir(exist_ok=True)
    (directory / "train.py").write_text(TRAINING.format(namespace=namespace))
    done = subprocess.run(
        [sys.executable, "train.py", str(kill_after), str(workers), saved],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill_after else 0), done.stderr
    return done


def seed_of_kills() -> str:
    """It is shown where a test fails: with it in the environment, the kills are the same again."""
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    return seed


@pytest.mark.parametrize(
    ("namespace", "workers", "saved", "kills"),
    [("pytorch_lightning", 0, "epoch", 2), ("lightning.pytorch", 2, "auto", 1), ("pytorch_lightning", 0, "23", 1)],
)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, namespace: str, workers: int, saved: str, kills: int
) -> None:
    chance = random.Random(seed_of_kills())
    whole = train(tmp_path / "whole", namespace, workers, saved)
    for _ in range(kills):
        train(tmp_path / "killed", namespace, workers, saved, chance.randint(BATCHES + 1, EPOCHS * BATCHES // kills))
    last = train(tmp_path / "killed", namespace, workers, saved)

    assert "replicate: resuming the experiment" in last.stderr
    assert last.stdout == whole.stdout, "epochs, steps, learning rate, weights, and what ModelCheckpoint found best"
    assert float(last.stdout.split("|")[2]) < 0.01, "the learning rate was lowered"
    (experiment,) = replicate.Project(directory=tmp_path / "killed").experiments.list()
    (wanted,) = replicate.Project(directory=tmp_path / "whole").experiments.list()
    assert {item.extra["epoch"] for item in experiment.checkpoints} == set(range(EPOCHS))
    if saved != "auto":
        assert [item.step for item in experiment.checkpoints] == [item.step for item in wanted.checkpoints]
        assert [item.metrics for item in experiment.checkpoints] == [item.metrics for item in wanted.checkpoints]
    assert experiment.status == "finished"


FORMS = {
    "pytorch_lightning": [
        "gan", "raw steps", "transformer", "accumulation", "ema", "swa", "swa, linear", "swa with BatchNorm",
        "swa, killed when the average is there and not saved",
    ],
    "lightning.pytorch": [
        "backbone", "finetuning", "frozen", "search", "bf16", "bf16, true", "schedulers", "lbfgs", "stopping",
        "stateful loader",
    ],
}  # fmt: skip


@pytest.mark.parametrize("namespace", FORMS)
def test_every_form_of_model_ends_bit_for_bit_as_if_it_had_not_been_killed(tmp_path: Path, namespace: str) -> None:
    """Epochs, steps, weights, states of optimizers, learning rates, and the steps of what was saved."""
    script = Path(__file__).with_name("model_forms.py")
    done = subprocess.run(
        [sys.executable, script, namespace, seed_of_kills(), *FORMS[namespace]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    print(*lines, done.stderr[-5000:], sep="\n")
    assert [form for form, *_ in lines] == FORMS[namespace]
    wrong = [form for form, *rest in lines if len(rest) != 4 or rest[1] != "killed" or rest[2] != rest[3]]
    assert not wrong


# In this process.


@pytest.fixture
def run(no_recorder: None, fit, make_module):
    """Trains from the same beginning; returns the experiment, with the module that it ended with.

    What has the same name already is extended: a finished run is resumed by its id only.
    """

    def train(pl, epochs: int, *more, options: dict | None = None, module=None, **arguments) -> replicate.Experiment:
        module = make_module(pl) if module is None else module
        arguments = {"name": "sums"} | arguments
        arguments.setdefault("resume", latest(arguments["name"]))
        experiment = fit(pl, ReplicateCallback(**arguments), *more, module=module, epochs=epochs, **(options or {}))
        experiment.module = module
        return experiment

    return train


def latest(name: str) -> str:
    """The id of the latest experiment of a name, to extend it; "auto" where there is none."""
    found = [experiment.id for experiment in replicate.experiments.list() if experiment.name == name]
    return found[-1] if found else "auto"


def weights(experiment: replicate.Experiment) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in experiment.module.state_dict().values()])


def assert_equal(one: replicate.Experiment, other: replicate.Experiment) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"filepath": "deep/m-{epoch}.ckpt"}, {"save_freq": 4}, {"save_freq": "auto"}, {"period": 2}],
    ids=["epoch", "template", "steps", "auto", "period"],
)
def test_a_finished_run_is_extended_by_its_id(pl, project: Path, run, arguments: dict) -> None:
    first = run(pl, 2, **arguments)
    second = run(pl, 4, **arguments)
    whole = run(pl, 4, name="whole", **arguments)
    assert second.id == first.id
    if arguments.get("save_freq") != "auto":  # how often that saves is up to the clock
        assert steps(second) == steps(whole)
    assert_equal(second, whole)


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 3},
        {"enable_checkpointing": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_with_other_trainers(one_pl, project: Path, run, options: dict) -> None:
    run(one_pl, 2, options=options)
    assert_equal(run(one_pl, 4, options=options), run(one_pl, 4, options=options, name="whole"))


def test_every_generator_of_random_numbers_goes_on(one_pl, project: Path, run, make_module) -> None:
    def log(module) -> None:
        module.log_dict({"python": random.random(), "numpy": np.random.random(), "torch": float(torch.rand(()))})

    def seeded(epochs: int, name: str) -> replicate.Experiment:
        random.seed(1)
        np.random.seed(1)
        return run(one_pl, epochs, module=make_module(one_pl, on_train_epoch_end=log), name=name)

    seeded(2, "sums")
    random.seed(99)
    second, whole = seeded(4, "sums"), seeded(4, "whole")
    assert [item.metrics for item in second.checkpoints] == [item.metrics for item in whole.checkpoints]


def test_a_finished_run_is_not_resumed_by_itself(one_pl, project: Path, run, said: list[str]) -> None:
    first = run(one_pl, 2)
    second = run(one_pl, 2, resume="auto")
    assert (second.id != first.id, steps(second), steps(first)) == (True, [0, 1], [0, 1])
    assert_equal(second, first)
    assert said == [
        (
            f"a new experiment begins, because {first.short_id}, the latest named 'sums', has finished; "
            f'resume="{first.short_id}" would extend that one'
        )
    ]


def fail(module, batch, batch_idx) -> None:
    """Ends a training in its second epoch."""
    if module.global_step == 6:
        raise RuntimeError("broken")


@pytest.mark.parametrize("logs", [False, True])
def test_each_fold_of_a_cross_validation_is_trained(one_pl, project: Path, run, logs: bool) -> None:
    (project / ".replicateignore").write_text("replicate_logs/\n")
    folds = []
    for _ in range(3):
        options = {"logger": ReplicateLogger()} if logs else {}
        folds.append(run(one_pl, 2, resume="auto", options=options))
        assert folds[-1].module.trainer.global_step == 8
    assert len({fold.id for fold in folds}) == 3
    ReplicateLogger.end_the_last()


def test_with_other_params_a_new_experiment_begins(one_pl, project: Path, run, make_module, said: list[str]) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run(one_pl, 3, module=make_module(one_pl, on_train_batch_start=fail), params={"lr": 0.1}, resume="auto")
    (first,) = replicate.experiments.list()
    second = run(one_pl, 2, params={"lr": 0.2}, resume="auto")
    assert (second.id != first.id, steps(second)) == (True, [0, 1])
    assert "lr 0.1 → 0.2" in said[0]


def test_with_the_same_params_what_failed_is_resumed(one_pl, project: Path, run, make_module) -> None:
    params = {"lr": np.float32(0.1), "sizes": (1, 2), "clip": float("nan")}
    with pytest.raises(RuntimeError, match="broken"):
        run(one_pl, 3, module=make_module(one_pl, on_train_batch_start=fail), params=params, resume="auto")
    second = run(one_pl, 3, params=params, resume="auto")
    assert (steps(second), second.status) == ([0, 1, 2], "finished")
    assert_equal(second, run(one_pl, 3, name="whole"))


def test_a_finished_run_that_is_extended_may_have_nothing_left_to_do(one_pl, project: Path, run) -> None:
    first = run(one_pl, 2)
    second = run(one_pl, 2)
    assert (steps(second), second.status) == ([0, 1], "finished")
    assert_equal(second, first)


def test_what_was_stopped_early_is_over(one_pl, project: Path, run) -> None:
    def stopping():
        return one_pl.callbacks.EarlyStopping("val_loss", patience=1, mode="max", min_delta=9)

    first = run(one_pl, 9, stopping())
    second = run(one_pl, 9, stopping())
    assert steps(first) == steps(second) == [0, 1]
    assert_equal(second, first)


def test_what_is_stopped_at_once_goes_on_while_it_gets_better(one_pl, project: Path, run) -> None:
    for epochs in (2, 4):
        experiment = run(one_pl, epochs, one_pl.callbacks.EarlyStopping("val_loss", patience=0))
    assert steps(experiment) == [0, 1, 2, 3]


def test_learning_rates_go_on(pl, project: Path, run, make_module) -> None:
    def configure_optimizers(module):
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.99)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    def train(epochs: int, name: str) -> replicate.Experiment:
        return run(pl, epochs, module=make_module(pl, configure_optimizers=configure_optimizers), name=name)

    train(2, "sums")
    second, whole = train(4, "sums"), train(4, "whole")
    rates = [experiment.module.trainer.optimizers[0].param_groups[0]["lr"] for experiment in (second, whole)]
    assert rates[0] == rates[1] < 0.01
    assert_equal(second, whole)


def test_from_the_midst_of_an_epoch_the_steps_are_as_many(one_pl, project: Path, run, make_module) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run(one_pl, 2, module=make_module(one_pl, on_train_batch_start=fail), save_on_exception=True)
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        second = run(one_pl, 3)
    assert second.module.trainer.global_step == 12
    assert steps(second) == [0, 1, 1, 2], "epoch 1 was saved once inside, and once at its end"


def test_from_a_checkpoint_that_is_named(one_pl, project: Path, run) -> None:
    first = run(one_pl, 3)
    second = run(one_pl, 4, name=None, resume=first.checkpoints[1].id[:12])
    assert (second.id, steps(second)) == (first.id, [0, 1, 2, 3])
    assert second.resumed_from.step == 1
    assert_equal(second, run(one_pl, 4, name="whole"))


def test_into_an_experiment_that_the_script_resumes(one_pl, project: Path, run) -> None:
    first = run(one_pl, 2)
    with replicate.init(name="sums", resume=first.id, path=None) as experiment:
        second = run(one_pl, 4, name=None, resume=None, experiment=experiment)
    assert steps(second) == [0, 1, 2, 3]
    assert_equal(second, run(one_pl, 4, name="whole"))


def test_only_the_first_training_goes_on(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(name="sums", resume="auto")
    first = fit(one_pl, callback)
    second = fit(one_pl, callback)
    assert first.id != second.id
    assert steps(second) == [0, 1]


def test_a_damaged_checkpoint_is_passed_over(one_pl, project: Path, run) -> None:
    first = run(one_pl, 2)
    newest = first.latest()
    for key in manifest_of(newest).object_bytes:
        stored = project / ".replicate/storage" / key
        stored.chmod(0o644)
        stored.write_bytes(bytes(stored.stat().st_size))
    with pytest.warns(UserWarning, match=f"checkpoint {newest.short_id} .step 1. can't be resumed from"):
        second = run(one_pl, 3)
    assert (second.resumed_from.step, steps(second)) == (0, [0, 1, 2])
    assert_equal(second, run(one_pl, 3, name="whole"))


# Lightning's own way.


def test_a_new_experiment_that_goes_on_from_a_file_says_where_it_comes_from(pl, project: Path, run) -> None:
    first = run(pl, 2)
    second = run(pl, 4, filepath="other.ckpt", name=None, resume=None, options={"told": "model.ckpt"})
    assert second.id != first.id
    assert steps(second) == [2, 3]
    assert second.checkpoints[0].extra["parent"] == {"experiment": first.id, "global_step": 8}
    assert "parent" not in second.checkpoints[1].extra
    assert_equal(second, run(pl, 4, name="whole"))


def test_a_path_that_fit_is_told_wins(one_pl, project: Path, run) -> None:
    first = run(one_pl, 3, filepath="m-{epoch}.ckpt")
    with pytest.warns(UserWarning, match=r"fit was given m-0\.ckpt to resume from, and uses it"):
        second = run(one_pl, 4, filepath="m-{epoch}.ckpt", options={"told": "m-0.ckpt"})
    assert (second.id, steps(second)) == (first.id, [0, 1, 2, 1, 2, 3])


def test_the_checkpoints_of_lightning_hold_random_states_too(one_pl, project: Path, run) -> None:
    run(one_pl, 2, one_pl.callbacks.ModelCheckpoint("stock", filename="last"))
    loaded = torch.load("stock/last.ckpt", weights_only=True)
    assert set(loaded["replicate"]["random"][0]) == {"python", "torch", "numpy", "cuda"}


# What can't be resumed.


def adam(module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 0.01)


def in_groups(module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [module.layer.weight]}, {"params": [module.layer.bias]}], 0.01)


@pytest.mark.parametrize("made", [adam, in_groups])
def test_other_optimizers_are_refused_and_a_finished_run_stays_finished(
    one_pl, project: Path, run, make_module, made
) -> None:
    first = run(one_pl, 2)
    with pytest.raises(replicate.InvalidInput, match="optimizers were SGD of 2 parameters when this run began, and"):
        run(one_pl, 4, resume=first.id, module=make_module(one_pl, configure_optimizers=made))
    first.refresh()
    assert (first.status, steps(first)) == ("finished", [0, 1])
    assert len(replicate.experiments.list()) == 1


def test_another_learning_rate_gives_way_to_that_of_the_checkpoint_with_a_warning(
    one_pl, project: Path, run, make_module
) -> None:
    def faster(module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), 0.5)

    first = run(one_pl, 2)
    with pytest.warns(UserWarning, match="learning rate is 0.5 in configure_optimizers, and was 0.01 when this run"):
        second = run(one_pl, 4, resume=first.id, module=make_module(one_pl, configure_optimizers=faster))
    assert_equal(second, run(one_pl, 4, name="whole"))


class Noisy(torch.utils.data.TensorDataset):
    """Has a random generator of its own."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.random = np.random.default_rng(3)


@pytest.mark.parametrize("own", ["loader", "dataset"])
def test_a_random_generator_of_the_data_is_warned_of(
    one_pl, project: Path, make_module, make_trainer, *, validation, own: str
) -> None:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def train(epochs: int, resume: str) -> None:
        random = torch.Generator().manual_seed(3) if own == "loader" else None
        data = Noisy(rows) if own == "dataset" else torch.utils.data.TensorDataset(rows)
        together = {"collate_fn": lambda items: torch.stack([row for (row,) in items])}
        loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=random, **together)
        callback = ReplicateCallback(name="own", resume=resume)
        make_trainer(one_pl, callback, epochs=epochs).fit(make_module(one_pl), loader, validation)

    train(2, "auto")
    (first,) = replicate.experiments.list()
    with pytest.warns(UserWarning, match="holds a random generator of its own, of which nothing is saved"):
        train(3, first.id)


def test_objects_are_not_unpickled(one_pl, project: Path, run, make_module) -> None:
    def add(module, checkpoint) -> None:
        checkpoint["added"] = timedelta(1)

    with pytest.warns(UserWarning, match=r"resume='auto' will not resume from model\.ckpt: it holds more") as warned:
        run(one_pl, 2, module=make_module(one_pl, on_save_checkpoint=add))
    assert len([item for item in warned if "will not resume" in str(item.message)]) == 1
    with pytest.raises(
        replicate.InvalidInput, match=r"holds more than plain data .*timedelta.*, which is not unpickled"
    ):
        run(one_pl, 4)
    (first,) = replicate.experiments.list()
    assert (first.status, steps(first)) == ("finished", [0, 1]), "a resume that fails leaves things as they were"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1]], ids=["weights", "a list"])
def test_what_holds_no_training_is_refused(one_pl, project: Path, run, content: object) -> None:
    with replicate.init(name="sums", path=None) as experiment:
        torch.save(content, "model.ckpt")
        wanted = experiment.checkpoint("model.ckpt", {})
        experiment.checkpoint(None, {})
    with pytest.raises(replicate.InvalidInput, match="holds weights alone, and no training to resume"):
        run(one_pl, 2, resume=wanted.id)
    experiment.refresh()
    assert (steps(experiment), experiment.status) == ([0, 1], "finished"), "nothing is set aside"


def test_what_torch_can_not_read_is_refused(one_pl, project: Path, run) -> None:
    with replicate.init(name="sums", path=None) as experiment:
        (project / "model.ckpt").write_text("weights")
        experiment.checkpoint("model.ckpt", {})
    with pytest.raises(replicate.InvalidInput, match="the checkpoint"):
        run(one_pl, 2)


def test_another_model_is_told_of(one_pl, project: Path, run, make_module) -> None:
    first = run(one_pl, 2)
    other = make_module(one_pl)
    other.layer = torch.nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(one_pl, 4, module=other, resume=first.checkpoints[0].id)
    first.refresh()
    assert (steps(first), first.status) == ([0, 1], "finished"), "a resume that fails leaves things as they were"
    assert run(one_pl, 2, resume=first.checkpoints[0].id).status == "finished"


@pytest.mark.filterwarnings("ignore")  # of Lightning, about its own search
def test_after_a_search_for_the_learning_rate(one_pl, project: Path, run, make_module) -> None:
    for epochs in (2, 4):
        module = make_module(one_pl)
        module.lr = 0.01  # what is found is put there, and not used
        finder = one_pl.callbacks.LearningRateFinder(num_training_steps=3)
        found = run(one_pl, epochs, module=module, options={"before": finder})
    assert steps(found) == [0, 1, 2, 3]
    assert found.module.trainer.global_step == 16
    assert not any("parent" in checkpoint.extra for checkpoint in found.checkpoints)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about its own search
def test_a_search_for_the_learning_rate_is_not_where_it_comes_from(one_pl, project: Path, run, make_module) -> None:
    first = run(one_pl, 2)
    module = make_module(one_pl)
    module.lr = 0.01  # what is found is put there, and not used
    finder = one_pl.callbacks.LearningRateFinder(num_training_steps=3)
    options = {"told": "model.ckpt", "before": finder}
    second = run(one_pl, 4, module=module, filepath="other.ckpt", name=None, resume=None, options=options)
    assert second.checkpoints[0].extra["parent"] == {"experiment": first.id, "global_step": 8}


def test_a_strategy_that_can_not_is_told_before_anything_begins(one_pl, project: Path, run, said: list[str]) -> None:
    class Sharded(one_pl.strategies.SingleDeviceStrategy):
        restore_checkpoint_after_setup = True

    with pytest.raises(replicate.InvalidInput, match="resume='auto' does not work with Sharded"):
        run(one_pl, 2, resume="auto", options={"strategy": Sharded("cpu")})
    assert not list(replicate.experiments.list())
    assert said == []
    assert run(one_pl, 2, resume=None, options={"strategy": Sharded("cpu")}).status == "finished"


def test_where_it_goes_on_is_said(one_pl, project: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", said.append)
    run(one_pl, 1)
    run(one_pl, 2)
    assert re.match(r"resuming the experiment \w+ from its checkpoint \w+ \(step 0\)", said[-1])
