"""`ReplicateLogger`: every step, hyperparameters, files of any `ModelCheckpoint`, and how it shares an experiment."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch

import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger

pytestmark = pytest.mark.usefixtures("no_recorder")


@pytest.fixture
def run(fit, make_module):
    """Trains with a logger; returns its experiment."""

    def train(pl, logger: ReplicateLogger, *callbacks, **options) -> replicate.Experiment:
        nothing = pl.callbacks.Callback()
        nothing.experiment = None
        fit(pl, *(callbacks or (nothing,)), logger=logger, **options)
        return logger.experiment

    return train


def with_hyperparameters(pl, make_module):
    """A module that has some."""
    module = make_module(pl)
    module.save_hyperparameters({"lr": 0.1, "path": Path("x"), "sizes": [1, 2]})
    return module


def test_every_step_is_recorded(pl, project: Path, run) -> None:
    experiment = run(pl, ReplicateLogger(name="sums"), enable_checkpointing=False)
    assert experiment.name == "sums"
    found = experiment.checkpoints
    losses = [checkpoint for checkpoint in found if "train_loss" in checkpoint.metrics]
    assert [checkpoint.step for checkpoint in losses] == list(range(8))
    assert [checkpoint.extra["epoch"] for checkpoint in losses] == [0] * 4 + [1] * 4
    assert [checkpoint.step for checkpoint in found if "val_loss" in checkpoint.metrics] == [3, 7]
    assert all(checkpoint.path is None and "epoch" not in checkpoint.metrics for checkpoint in found)


def test_hyperparameters_are_params(pl, project: Path, run, make_module) -> None:
    logger = ReplicateLogger({"seed": 3, "lr": "mine"})
    experiment = run(pl, logger, module=with_hyperparameters(pl, make_module), enable_checkpointing=False)
    assert experiment.params == {"seed": 3, "lr": "mine", "path": "x", "sizes": [1, 2]}


def test_files_of_every_model_checkpoint_are_recorded(pl, project: Path, run) -> None:
    stock = pl.callbacks.ModelCheckpoint(
        "best", monitor="val_loss", save_top_k=-1, filename="{epoch}", save_last="link"
    )
    steps = pl.callbacks.ModelCheckpoint("steps", every_n_train_steps=4, filename="at")
    nothing = pl.callbacks.Callback()
    nothing.experiment = None
    experiment = run(pl, ReplicateLogger(), nothing, stock, steps)
    found = {checkpoint.path: checkpoint for checkpoint in experiment.checkpoints if checkpoint.path is not None}
    assert {"best/epoch=0.ckpt", "best/epoch=1.ckpt", "steps/at.ckpt"} <= set(found)
    assert not any("last" in path for path in found), "it is a link to one of them"
    one = found["best/epoch=1.ckpt"]
    assert one.primary_metric == ("val_loss", "minimize")
    assert one.metrics == {"val_loss": pytest.approx(float(stock.best_k_models[str(project / "best/epoch=1.ckpt")]))}
    with experiment.best().open() as file:
        assert torch.load(file, weights_only=True)["epoch"] in (0, 1)


def test_the_default_model_checkpoint(one_pl, project: Path, run) -> None:
    experiment = run(one_pl, ReplicateLogger())
    (last,) = {checkpoint.path for checkpoint in experiment.checkpoints[-2:]} - {None}
    assert last.startswith("replicate_logs/")
    assert last.endswith("epoch=1-step=8.ckpt")


def test_files_that_are_written_in_the_background(pl, project: Path, run) -> None:
    stock = pl.callbacks.ModelCheckpoint("all", save_top_k=-1, filename="{epoch}")
    stock.experiment = None
    logger = ReplicateLogger()
    found = run(pl, logger, stock, epochs=3, plugins=[pl.plugins.io.AsyncCheckpointIO()]).checkpoints
    assert [item.path for item in found if item.path is not None] == [f"all/epoch={epoch}.ckpt" for epoch in range(3)]
    assert pickle.loads(pickle.dumps(logger)).experiment is None


def test_files_outside_of_the_project_stop_nothing(one_pl, project: Path, run, tmp_path: Path) -> None:
    stock = one_pl.callbacks.ModelCheckpoint(tmp_path / "outside")
    stock.experiment = None
    with pytest.warns(UserWarning, match="the files of ModelCheckpoint are not recorded: .*outside of the project"):
        experiment = run(one_pl, ReplicateLogger(), stock)
    assert {checkpoint.path for checkpoint in experiment.checkpoints} == {None}


def test_a_callback_records_into_the_same_experiment(pl, project: Path, run, make_module) -> None:
    logger = ReplicateLogger(name="sums", tags=["a"])
    callback = ReplicateCallback(params={"seed": 1}, primary_metric=("val_loss", "minimize"), name="digits")
    experiment = run(pl, logger, callback, module=with_hyperparameters(pl, make_module))
    assert callback.experiment is experiment
    assert (experiment.name, experiment.tags) == ("digits", ("a",))
    assert experiment.params == {"lr": 0.1, "path": "x", "sizes": [1, 2], "seed": 1}
    assert len(replicate.experiments.list()) == 1
    files = [checkpoint for checkpoint in experiment.checkpoints if checkpoint.path is not None]
    assert [(checkpoint.path, checkpoint.step) for checkpoint in files] == [("model.ckpt", 4), ("model.ckpt", 8)]
    assert experiment.best().path == "model.ckpt"


def test_the_best_is_one_whose_files_were_saved(pl, project: Path, run, make_module, tmp_path: Path) -> None:
    """The logger has metrics of every step, and the callback saves every third epoch, which are not the best ones."""
    losses = {0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0, 4: 0.5, 5: 4.0}

    def validation_step(self, batch, batch_idx) -> None:
        self.log("val_loss", losses[self.current_epoch])

    module = make_module(pl, validation_step=validation_step)
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"), period=3)
    options = {"module": module, "epochs": 6, "num_sanity_val_steps": 0}
    run(pl, ReplicateLogger(), callback, **options).stop()

    (experiment,) = replicate.experiments.list()
    saved = [item.step for item in experiment.checkpoints if item.has_files]
    assert saved == [12, 24], "of 24 steps"
    assert (experiment.best().step, experiment.best().metrics["val_loss"]) == (12, 3.0)
    assert (experiment.latest().step, experiment.latest(with_files=False).metrics["val_loss"]) == (24, 4.0)
    assert experiment.best(with_files=False).metrics["val_loss"] == 0.5
    experiment.checkout(tmp_path / "out")
    assert torch.load(tmp_path / "out/model.ckpt", weights_only=True)["epoch"] == 2
    with fsspec.open(f"replicate://{experiment.id}@best/model.ckpt") as file:
        assert torch.load(file, weights_only=True)["epoch"] == 2


def test_beside_a_callback_that_saves_no_files_those_of_lightning_are_recorded(one_pl, project: Path, run) -> None:
    experiment = run(one_pl, ReplicateLogger(), ReplicateCallback(None))
    assert {Path(item.path).suffix for item in experiment.checkpoints if item.path is not None} == {".ckpt"}


def test_both_go_on_together(one_pl, project: Path, run) -> None:
    def train(epochs: int, resume: str) -> replicate.Experiment:
        return run(one_pl, ReplicateLogger(), ReplicateCallback(name="sums", resume=resume), epochs=epochs)

    Path(".replicateignore").write_text("replicate_logs/\n")
    first = train(2, "auto")
    first.stop()
    second = train(3, first.id)
    assert second.id == first.id
    assert [item.step for item in second.checkpoints if item.path is not None] == [4, 8, 12]
    assert [item.step for item in second.checkpoints if "train_loss" in item.metrics and item.path is None] == list(
        range(12)
    )


def test_what_is_tested_after_training_is_recorded_too(pl, project: Path, run, make_module) -> None:
    logger, module = ReplicateLogger(), make_module(pl)
    experiment = run(pl, logger, module=module, enable_checkpointing=False)
    assert experiment.is_running(), "until the process ends"
    module.trainer.test(module, torch.ones(2, 1, 4), verbose=False)
    assert "test_loss" in experiment.latest().metrics
    assert len(replicate.experiments.list()) == 1
    experiment.stop()
    assert experiment.status == "finished"


def test_it_ends_when_another_training_begins(one_pl, project: Path, run, fit) -> None:
    first = run(one_pl, ReplicateLogger(), enable_checkpointing=False)
    second = run(one_pl, ReplicateLogger(), enable_checkpointing=False)
    assert (first.status, second.status) == ("finished", "running")
    fit(one_pl, ReplicateCallback())
    assert second.status == "finished"


def test_one_logger_is_one_experiment(one_pl, project: Path, run) -> None:
    logger = ReplicateLogger()
    first = run(one_pl, logger, enable_checkpointing=False)
    assert run(one_pl, logger, enable_checkpointing=False) is first
    first.stop()
    assert run(one_pl, logger, enable_checkpointing=False) is not first


@pytest.mark.parametrize("beside", [True, False])
def test_an_exception_ends_it(pl, project: Path, run, make_module, beside: bool) -> None:
    def fail(module, batch, batch_idx) -> None:
        if module.global_step == 2:
            raise RuntimeError("broken")

    logger = ReplicateLogger()
    callbacks = [ReplicateCallback()] * beside
    with pytest.raises(RuntimeError, match="broken"):
        run(pl, logger, *callbacks, module=make_module(pl, on_train_batch_start=fail))
    assert (logger.experiment.status, logger.experiment.error) == ("failed", "RuntimeError: broken")


def test_into_an_experiment_of_the_script(one_pl, project: Path, run) -> None:
    with replicate.init(path=None) as experiment:
        assert run(one_pl, ReplicateLogger(experiment=experiment), enable_checkpointing=False) is experiment
        assert experiment.is_running()


def test_into_an_experiment_that_the_script_gave_to_the_callback(one_pl, project: Path, run) -> None:
    with replicate.init(path=None) as experiment:
        logger = ReplicateLogger()
        run(one_pl, logger, ReplicateCallback(experiment=experiment))
        assert logger.experiment is experiment
        assert experiment.is_running()
    assert len(replicate.experiments.list()) == 1
    assert [item.step for item in experiment.checkpoints if item.path is not None] == [4, 8]
    assert sum("train_loss" in item.metrics and item.path is None for item in experiment.checkpoints) == 8


def test_a_fast_development_run_records_nothing(one_pl, project: Path, run) -> None:
    assert run(one_pl, ReplicateLogger(), fast_dev_run=True) is None
    assert len(replicate.experiments.list()) == 0


def test_it_survives_pickling(one_pl, project: Path, run) -> None:
    logger = ReplicateLogger({"a": 1}, name="sums")
    run(one_pl, logger, enable_checkpointing=False)
    again = pickle.loads(pickle.dumps(logger))
    assert again.experiment is None
    assert run(one_pl, again, enable_checkpointing=False).params == {"a": 1}


def test_at_the_end_of_the_process_all_is_stored(project: Path) -> None:
    (project / "train.py").write_text(
        "import torch\nimport pytorch_lightning as pl\nfrom replicate.lightning_callback import ReplicateLogger\n"
        "from pytorch_lightning.demos.boring_classes import BoringModel\n"
        "class Model(BoringModel):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        loss = super().training_step(batch, batch_idx)['loss']\n"
        "        self.log('loss', loss)\n"
        "        return loss\n"
        "trainer = pl.Trainer(max_steps=5, accelerator='cpu', logger=ReplicateLogger(), log_every_n_steps=1,\n"
        "    limit_val_batches=0, enable_progress_bar=False)\n"
        "trainer.fit(Model())\n"
    )
    subprocess.run(
        [sys.executable, "train.py"],
        check=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "REPLICATE_RECORDER"},
    )
    (experiment,) = replicate.experiments.list()
    assert experiment.status == "finished"
    assert [item.step for item in experiment.checkpoints if "loss" in item.metrics] == [0, 1, 2, 3, 4]
