"""The callback and the logger in `LightningCLI`: from a YAML file and the command line."""

import importlib
from datetime import timedelta
from pathlib import Path

import pytest

import replicate
from replicate.lightning_callback import ReplicateCallback

pytest.importorskip("jsonargparse")  # `nox -s lightning` installs it
pytestmark = pytest.mark.usefixtures("no_recorder")

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 3
  limit_train_batches: 4
  limit_val_batches: 1
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: replicate.lightning_callback.ReplicateCallback
      init_args:
        params: {seed: 1}
        primary_metric: [loss, minimize]
        save_freq: "0:10:00"
        resume: auto
        keep_last: 2
  logger:
    class_path: replicate.lightning_callback.ReplicateLogger
    init_args:
      name: sums
"""


@pytest.fixture
def cli(pl, project: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `fit` as a command line would; returns the callback."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning, about itself
    module = importlib.import_module(f"{pl.__name__}.cli")
    boring = importlib.import_module(f"{pl.__name__}.demos.boring_classes")
    (project / "config.yaml").write_text(CONFIG)
    (project / ".replicateignore").write_text("replicate_logs/\n")

    class Model(boring.BoringModel):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2 and not Path("again").exists():
                raise RuntimeError("stopped")

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            self.log("loss", loss)
            return loss

    def run(*options: str) -> ReplicateCallback:
        monkeypatch.setattr("sys.argv", ["train.py", "fit", "--config=config.yaml", *options])
        made = module.LightningCLI(
            Model, boring.BoringDataModule, seed_everything_default=0, auto_configure_optimizers=False
        )
        return next(item for item in made.trainer.callbacks if isinstance(item, ReplicateCallback))

    return run


def test_numbers_and_durations_are_read_as_such(cli, project: Path) -> None:
    (project / "again").touch()
    by_time = cli("--trainer.max_epochs=1")
    assert by_time.save_freq == timedelta(minutes=10)
    assert by_time.experiment.params == {"seed": 1, "lr": 0.1}
    by_number = cli("--trainer.callbacks.save_freq=5", "--model.lr=0.2")
    assert by_number.save_freq == 5
    assert [item.step for item in by_number.experiment.checkpoints if item.path is not None] == [5, 10]
    assert by_number.experiment.best().primary_metric == ("loss", "minimize")
    assert cli("--trainer.callbacks.save_freq=epoch", "--trainer.max_epochs=1").save_freq == "epoch"
    directories = {path.parent for path in project.glob("replicate_logs/*/config.yaml")}
    assert {path.name for path in directories} == {item.short_id for item in replicate.experiments.list()}


def test_the_same_command_goes_on(cli, project: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        cli("--trainer.callbacks.save_freq=epoch")
    (stopped,) = replicate.experiments.list()
    assert stopped.status == "failed"
    (project / "again").touch()
    experiment = cli("--trainer.callbacks.save_freq=epoch").experiment
    experiment.stop()
    assert (experiment.id, experiment.status) == (stopped.id, "finished")
    assert [item.step for item in experiment.checkpoints if item.path is not None] == [4, 8, 12]
