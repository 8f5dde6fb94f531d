"""The Lightning callback, in both namespaces: which metrics it sees, when, and beside what else it works."""

import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from kit import steps

import replicate
from replicate.lightning_callback import ReplicateCallback
from replicate_lightning import namespaces

pytestmark = pytest.mark.usefixtures("no_recorder")


def log_late(module) -> None:
    module.log("late", float(module.current_epoch))


@pytest.mark.parametrize("enable_checkpointing", [True, False])
def test_every_epoch_becomes_a_checkpoint_with_its_metrics(
    pl, project: Path, fit, make_module, enable_checkpointing: bool
) -> None:
    callback = ReplicateCallback(params={"lr": 0.01}, primary_metric=("val_loss", "minimize"))
    module = make_module(pl, on_train_epoch_end=log_late)
    fit(pl, callback, module=module, enable_checkpointing=enable_checkpointing)

    (experiment,) = replicate.experiments.list()
    assert experiment.params == {"lr": 0.01}
    assert steps(experiment) == [0, 1]
    assert {"train_loss", "val_loss", "late"} <= set(experiment.latest().metrics)
    assert [checkpoint.metrics["late"] for checkpoint in experiment.checkpoints] == [0.0, 1.0]
    assert experiment.best().primary_metric == ("val_loss", "minimize")
    assert experiment.status == "finished"
    assert (project / "checkpoints").is_dir() == enable_checkpointing, "Lightning's own ModelCheckpoint is still there"
    with experiment.latest().open("model.ckpt") as file:
        assert torch.load(file, weights_only=True)["global_step"] == 8


def test_a_bare_callback(pl, project: Path, make_module, loader, validation) -> None:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=ReplicateCallback(), enable_progress_bar=False
    )
    trainer.fit(make_module(pl), loader(), validation)
    assert steps(replicate.experiments.list()[0]) == [0]


def test_with_a_recorder_of_its_own(pl, project: Path, fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATE_RECORDER")
    assert steps(fit(pl, ReplicateCallback())) == [0, 1]


@pytest.mark.parametrize("absent", ["pytorch_lightning", "lightning"])
def test_one_namespace_is_enough(absent: str) -> None:
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from replicate.lightning_callback import ReplicateCallback, ReplicateLogger\n"
        "print(len(ReplicateCallback.__bases__), len(ReplicateLogger.__bases__))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["1", "1"]


def test_a_directory_that_is_called_like_a_namespace_is_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "lightning_scripts").mkdir()
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(namespaces, "NAMESPACES", ("pytorch_lightning", "lightning_scripts.pytorch"))
    assert [base.__module__.partition(".")[0] for base in namespaces.bases("Callback")] == ["pytorch_lightning"]


def test_without_a_file_path_only_metrics_are_recorded(pl, project: Path, fit) -> None:
    experiment = fit(pl, ReplicateCallback(None), enable_checkpointing=False)

    assert [checkpoint.path for checkpoint in experiment.checkpoints] == [None, None]
    assert "val_loss" in experiment.latest().metrics


def test_a_fast_development_run_records_nothing(pl, project: Path, fit) -> None:
    fit(pl, ReplicateCallback(), fast_dev_run=True)

    assert len(replicate.experiments.list()) == 0


# Metrics.


def test_without_validation(one_pl, project: Path, fit, make_module) -> None:
    module = make_module(one_pl, validation_step=one_pl.LightningModule.validation_step)
    experiment = fit(one_pl, ReplicateCallback(), module=module, validates=False)
    assert [set(checkpoint.metrics) for checkpoint in experiment.checkpoints] == [{"train_loss"}] * 2


def test_a_metric_of_another_epoch_is_not_taken_for_one_of_this(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"))
    experiment = fit(one_pl, callback, epochs=4, check_val_every_n_epoch=2)

    assert steps(experiment) == [0, 1, 2, 3]
    assert ["val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints] == [False, True, False, True]
    assert experiment.best() is not None


def test_a_primary_metric_that_is_not_due_yet_is_not_warned_of(one_pl, project: Path, fit) -> None:
    """Without the sanity check, no validation was ever loaded when the first epoch ends."""
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"))
    experiment = fit(one_pl, callback, epochs=4, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert [checkpoint.primary_metric is not None for checkpoint in experiment.checkpoints] == [False, True] * 2
    assert steps(experiment) == [0, 1, 2, 3]


def test_a_primary_metric_is_warned_of_when_it_is_due(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(None, primary_metric=("val_los", "minimize"))
    with pytest.warns(UserWarning, match=r"'val_los' is not among the metrics .*did you mean 'val_loss'"):
        fit(one_pl, callback, epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0)


def test_a_primary_metric_of_several_numbers_is_warned_of_and_stops_nothing(
    one_pl, project: Path, fit, make_module
) -> None:
    """A score of each class, as torchmetrics computes it with `average="none"`."""

    def score(module) -> None:
        module.trainer.callback_metrics["f1"] = torch.ones(3)

    module = make_module(one_pl, on_train_epoch_end=score)
    callback = ReplicateCallback("m-{epoch}-{f1:.2f}.ckpt", primary_metric=("f1", "maximize"))
    with pytest.warns(UserWarning, match="the primary metric 'f1' is not a single number") as warned:
        experiment = fit(one_pl, callback, module=module, epochs=2)
    assert len({str(item.message) for item in warned if "f1" in str(item.message)}) == 1
    assert [item.path for item in experiment.checkpoints] == ["m-0-nan.ckpt", "m-1-nan.ckpt"]
    assert experiment.latest().metrics["f1"] == [1, 1, 1]
    assert (experiment.status, experiment.best()) == ("finished", None)


def test_validation_inside_of_epochs_is_a_checkpoint_of_its_own(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"))
    experiment = fit(one_pl, callback, val_check_interval=3)

    assert steps(experiment) == [3, 4, 7, 8], "after three batches, and at the end of the epoch"
    assert ["val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints] == [True, False, True, False]
    assert [checkpoint.extra["epoch"] for checkpoint in experiment.checkpoints] == [0, 0, 1, 1]


def test_validation_at_the_end_of_an_epoch_too_is_one_checkpoint(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(), val_check_interval=0.5)
    assert steps(experiment) == [2, 4, 6, 8]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def test_validation_that_does_not_mind_epochs(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(), epochs=3, check_val_every_n_epoch=None, val_check_interval=3)
    assert steps(experiment) == [3, 4, 6, 8, 9, 12]
    known = ["val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints]
    assert known == [True, False, True, False, True, True]


def test_validation_after_every_batch(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(), epochs=1, val_check_interval=1)
    assert steps(experiment) == [1, 2, 3, 4], "1 is a batch, and 1.0 an epoch"


def test_validation_by_the_clock(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(), epochs=1, val_check_interval=timedelta(microseconds=1))
    assert steps(experiment) == [1, 2, 3, 4]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def stop_after_six(module, outputs, batch, batch_idx) -> None:
    module.trainer.should_stop = module.global_step >= 6


@pytest.mark.parametrize("stops_by", ["max_steps", "should_stop"])
def test_an_epoch_that_ends_early_is_one_checkpoint(one_pl, project: Path, fit, make_module, stops_by: str) -> None:
    hooks = {"on_train_batch_end": stop_after_six} if stops_by == "should_stop" else {}
    options = {"max_steps": 6} if stops_by == "max_steps" else {}
    experiment = fit(
        one_pl, ReplicateCallback(), module=make_module(one_pl, **hooks), epochs=9, val_check_interval=0.5, **options
    )
    assert steps(experiment) == [2, 4, 6]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def test_validation_before_the_fewest_epochs_are_over_is_a_checkpoint(one_pl, project: Path, fit, make_module) -> None:
    def stop(module, outputs, batch, batch_idx) -> None:
        module.trainer.should_stop = True

    module = make_module(one_pl, on_train_batch_end=stop)
    experiment = fit(one_pl, ReplicateCallback(), module=module, epochs=9, val_check_interval=0.5, min_epochs=1)
    assert steps(experiment) == [2, 4]


def test_metrics_that_are_logged_by_step_and_by_epoch(one_pl, project: Path, fit, make_module) -> None:
    def training_step(module, batch, batch_idx):
        loss = module.layer(batch).pow(2).mean()
        module.log("loss", loss, on_step=True, on_epoch=True)
        module.log("whole", loss, on_step=False, on_epoch=True, logger=False)
        return loss

    module = make_module(one_pl, training_step=training_step)
    experiment = fit(one_pl, ReplicateCallback(), module=module)
    assert {"loss", "loss_epoch", "whole", "val_loss"} <= set(experiment.latest().metrics)

    by_step = fit(one_pl, ReplicateCallback(save_freq=2), module=make_module(one_pl, training_step=training_step))
    inside = by_step.checkpoints[2]
    assert inside.step == 6
    assert "loss" in inside.metrics
    assert not {"val_loss", "loss_epoch"} & set(inside.metrics), "those are of the epoch before"


def test_nan_and_infinities_pass(one_pl, project: Path, fit, make_module) -> None:
    def log(module) -> None:
        module.log("none", float("nan"))
        module.log("endless", float("inf"))

    experiment = fit(one_pl, ReplicateCallback(), module=make_module(one_pl, on_train_epoch_end=log))
    assert experiment.latest().metrics["none"] != experiment.latest().metrics["none"]
    assert experiment.latest().metrics["endless"] == float("inf")


def test_a_primary_metric_that_never_comes_is_warned_of(one_pl, project: Path, fit) -> None:
    with pytest.warns(UserWarning, match=r"'val_los' is not among the metrics .*did you mean 'val_loss'"):
        fit(one_pl, ReplicateCallback(None, primary_metric=("val_los", "minimize")), epochs=1)


def test_a_metric_that_steps_do_not_know_is_no_primary_metric_of_theirs(one_pl, project: Path, fit) -> None:
    callback = ReplicateCallback(primary_metric=("val_loss", "minimize"), save_freq=3)
    with pytest.warns(UserWarning, match="'val_loss' is not known after a training step") as warned:
        experiment = fit(one_pl, callback)

    assert len([item for item in warned if "'val_loss'" in str(item.message)]) == 1
    assert steps(experiment) == [3, 4, 6, 8]
    known = [checkpoint.primary_metric is not None for checkpoint in experiment.checkpoints]
    assert known == [False, True, False, True]


# What is recorded beside them.


def test_hyperparameters_of_module_and_data_module_are_params(pl, project: Path, make_trainer, loader) -> None:
    class Module(pl.LightningModule):
        def __init__(self, lr: float, width: int, path: Path, sizes: list[int], weights: torch.Tensor) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).pow(2).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.lr)

    class Data(pl.LightningDataModule):
        def __init__(self, batch_size: int) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return loader()

    callback = ReplicateCallback(params={"lr": "mine", "seed": 3})
    trainer = make_trainer(pl, callback, epochs=1)
    trainer.fit(Module(0.1, 8, Path("x"), [1, 2], torch.ones(2)), datamodule=Data(2))
    assert callback.experiment.params == {
        "lr": "mine",
        "seed": 3,
        "width": 8,
        "path": "x",
        "sizes": [1, 2],
        "weights": [1.0, 1.0],
        "batch_size": 2,
    }


def test_hyperparameters_that_can_not_be_recorded_are_named_in_one_warning(
    one_pl, project: Path, fit, make_module
) -> None:
    odd = {"none": {None: 1}, "half": "\ud800", "net": torch.nn.ReLU(), "large": torch.zeros(1001), "fine": 2}
    module = make_module(one_pl)
    module.save_hyperparameters({"odd": odd, "lr": 0.1, "names": {1: "one"}, "list": [1, object()]})
    with pytest.warns(UserWarning, match="are not recorded") as warned:
        experiment = fit(one_pl, ReplicateCallback(save_weights_only=True), module=module, epochs=1)
    (said,) = (str(item.message) for item in warned if "are not recorded" in str(item.message))
    left_out = ["odd.none.None (int)", "odd.half (str)", "odd.net (ReLU)", "odd.large (Tensor)", "list (list)"]
    assert f"not recorded: {', '.join(left_out)}. Give" in said
    assert experiment.params == {"odd": {"none": {}, "fine": 2}, "lr": 0.1, "names": {"1": "one"}}


def test_what_is_trained_is_recorded_once(pl, project: Path, fit) -> None:
    first, second = fit(pl, ReplicateCallback()).checkpoints
    described = first.extra["lightning"]
    assert described["optimizers"][0]["class"] == "SGD"
    assert (described["module"], described["parameters"], described["epochs"]) == ("Module", 5, 2)
    assert described["version"].startswith("2.")
    assert "lightning" not in second.extra
    assert (second.extra["epoch"], second.extra["global_step"]) == (1, 8)


def test_name_tags_and_notes(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(name="sums", tags=["a"], notes="quick"))
    assert (experiment.name, experiment.tags, experiment.notes) == ("sums", ("a",), "quick")


# Beside what else it works.


def test_fitting_again_is_another_experiment(pl, project: Path, fit) -> None:
    callback = ReplicateCallback()
    fit(pl, callback)
    fit(pl, callback)
    assert [steps(experiment) for experiment in replicate.experiments.list()] == [[0, 1], [0, 1]]
    assert {experiment.status for experiment in replicate.experiments.list()} == {"finished"}


def test_into_an_experiment_of_the_script(one_pl, project: Path, fit) -> None:
    with replicate.init(path=None) as experiment:
        for _ in range(2):
            assert fit(one_pl, ReplicateCallback(experiment=experiment)) is experiment
            assert experiment.is_running()
        assert len(experiment.checkpoints) == 4


def test_beside_the_callbacks_of_lightning(pl, project: Path, fit) -> None:
    stock = pl.callbacks.ModelCheckpoint("stock", monitor="val_loss", save_top_k=-1)
    stopping = pl.callbacks.EarlyStopping("val_loss", patience=0, mode="max", min_delta=9)
    experiment = fit(pl, ReplicateCallback(), stopping, stock, epochs=9)
    assert steps(experiment) == [0, 1]
    assert len(list((project / "stock").iterdir())) == 2


def test_the_best_model_of_lightning_stays_its_own(pl, project: Path, fit, make_module) -> None:
    callback = ReplicateCallback()
    module = make_module(pl)
    fit(pl, callback, module=module, epochs=1)
    assert module.trainer.checkpoint_callback.best_model_path.endswith("epoch=0-step=4.ckpt")
    tested = module.trainer.test(ckpt_path="best", dataloaders=torch.ones(2, 1, 4), verbose=False)
    assert "test_loss" in tested[0]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_best_model_is_found_where_lightning_saves_none(
    pl, project: Path, fit, make_module, validation, *, verb: str
) -> None:
    losses = {0: 3.0, 1: 1.0, 2: 2.0}
    module = make_module(
        pl,
        on_train_epoch_end=lambda module: module.log("made_up", losses[module.current_epoch]),
        on_load_checkpoint=lambda module, checkpoint: loaded.append(checkpoint["epoch"]),
        predict_step=lambda module, batch, batch_idx: module.layer(batch),
    )
    loaded: list[int] = []
    callback = ReplicateCallback(primary_metric=("made_up", "minimize"))
    experiment = fit(pl, callback, module=module, epochs=3, enable_checkpointing=False)
    run = getattr(module.trainer, verb)
    run(ckpt_path="best", dataloaders=validation)
    run(ckpt_path=callback.last_model_path, dataloaders=validation)
    assert loaded == [1, 2]
    assert callback.best_model_path == f"replicate://{experiment.best().id}/model.ckpt"
    with pytest.warns(UserWarning, match="The best model of the previous `fit` call will be used"):
        run(dataloaders=validation)
    assert loaded == [1, 2, 1]


def test_there_is_no_best_model_where_none_was_saved(one_pl, project: Path, fit, make_module, validation) -> None:
    callback = ReplicateCallback(None)
    assert (callback.best_model_path, callback.last_model_path) == ("", "")
    module = make_module(one_pl)
    fit(one_pl, callback, module=module, epochs=1, enable_checkpointing=False)
    assert (callback.best_model_path, callback.last_model_path) == ("", "")
    with pytest.raises(ValueError, match="not configured to save the best model"):
        module.trainer.test(ckpt_path="best", dataloaders=validation)


def test_training_again_after_a_test_records_each_training_once(
    one_pl, project: Path, make_module, make_trainer, loader
) -> None:
    trainer = make_trainer(one_pl, ReplicateCallback(), epochs=1, enable_checkpointing=False)
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(make_module(one_pl), loader(), torch.ones(2, 1, 4))
        trainer.test(ckpt_path="best", dataloaders=torch.ones(2, 1, 4), verbose=False)
    assert [steps(experiment) for experiment in replicate.experiments.list()] == [[0], [1]]


def test_validating_and_testing_record_nothing(one_pl, project: Path, make_module, make_trainer, validation) -> None:
    trainer = make_trainer(one_pl, ReplicateCallback())
    trainer.validate(make_module(one_pl), validation, verbose=False)
    trainer.test(make_module(one_pl), validation, verbose=False)
    assert len(replicate.experiments.list()) == 0


def test_a_search_for_the_learning_rate_records_nothing(
    one_pl, project: Path, make_module, make_trainer, loader
) -> None:
    module = make_module(one_pl)
    module.lr = 0.1
    trainer = make_trainer(one_pl, ReplicateCallback())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one_pl.tuner.Tuner(trainer).lr_find(module, loader(), num_training=4)
    assert len(replicate.experiments.list()) == 0


def test_accumulated_gradients_count_as_the_steps_that_they_make(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(save_freq=2), accumulate_grad_batches=2)
    assert steps(experiment) == [2, 4]


def test_two_optimizers_make_two_steps_at_once(one_pl, project: Path, fit, make_module) -> None:
    def training_step(module, batch, batch_idx):
        for optimizer in module.optimizers():
            optimizer.zero_grad()
            module.manual_backward(module.layer(batch).pow(2).mean())
            optimizer.step()

    def configure_optimizers(module):
        return [torch.optim.SGD(module.parameters(), 0.01) for _ in range(2)]

    module = make_module(one_pl, training_step=training_step, configure_optimizers=configure_optimizers)
    module.automatic_optimization = False
    assert steps(fit(one_pl, ReplicateCallback(save_freq=3), module=module)) == [4, 6, 10, 12, 16]


def test_barebones(one_pl, project: Path, make_module, loader) -> None:
    callback = ReplicateCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = one_pl.Trainer(barebones=True, max_epochs=2, accelerator="cpu", callbacks=[callback])
        trainer.fit(make_module(one_pl), loader())
    assert [checkpoint.metrics for checkpoint in callback.experiment.checkpoints] == [{}, {}]
    assert all(checkpoint.path == "model.ckpt" for checkpoint in callback.experiment.checkpoints)


def test_files_that_are_written_in_the_background(pl, project: Path, fit) -> None:
    asynchronous = pl.plugins.io.AsyncCheckpointIO()
    experiment = fit(pl, ReplicateCallback(), plugins=[asynchronous])
    assert [list(checkpoint.files) for checkpoint in experiment.checkpoints] == [["model.ckpt"]] * 2
    with experiment.latest().open() as file:
        assert torch.load(file, weights_only=True)["global_step"] == 8


def test_a_file_outside_of_the_project_is_refused_before_training(one_pl, project: Path, fit) -> None:
    with pytest.raises(replicate.InvalidInput, match="outside of the project"):
        fit(one_pl, ReplicateCallback("../model.ckpt"))
    assert len(replicate.experiments.list()) == 0
