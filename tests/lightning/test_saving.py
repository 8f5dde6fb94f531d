"""When the Lightning callback saves, how often, and what of it is kept; and what becomes of a training that fails."""

import os
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from kit import Clock, steps

import replicate
import replicate_lightning.callback as callback_module
from replicate.lightning_callback import ReplicateCallback

pytestmark = pytest.mark.usefixtures("no_recorder")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, callback_module)


# When.


def test_a_number_of_steps_counts_across_epochs(pl, project: Path, fit) -> None:
    experiment = fit(pl, ReplicateCallback(save_freq=3))
    assert steps(experiment) == [3, 6]
    assert [checkpoint.extra["epoch"] for checkpoint in experiment.checkpoints] == [0, 1]


def test_an_optimizer_that_the_module_keeps_to_itself_is_counted_by_batches(
    one_pl, project: Path, fit, make_module
) -> None:
    def training_step(module, batch, batch_idx) -> None:
        optimizer = module.__dict__.setdefault("own", torch.optim.SGD(module.parameters(), 0.01))
        optimizer.zero_grad()
        module.layer(batch).pow(2).mean().backward()
        optimizer.step()

    module = make_module(one_pl, training_step=training_step, configure_optimizers=lambda _: None)
    module.automatic_optimization = False
    callback = ReplicateCallback(save_freq=3)
    with pytest.warns(UserWarning, match="configure_optimizers"):
        fit(one_pl, callback, module=module)
    assert steps(callback.experiment) == [3, 6]


def test_a_due_step_at_which_nothing_is_saved_makes_no_other_one_due(one_pl, project: Path, fit) -> None:
    assert steps(fit(one_pl, ReplicateCallback(None, save_freq=3))) == [3, 6]


def test_nor_does_a_due_time(one_pl, project: Path, fit, make_module, clock: Clock) -> None:
    module = make_module(one_pl, on_train_batch_start=lambda *_: clock.pass_by(10))
    callback = ReplicateCallback(None, save_freq=timedelta(seconds=30))
    assert steps(fit(one_pl, callback, module=module)) == [3, 6]


def test_a_full_disk_is_tried_at_the_due_moments_only(
    one_pl, project: Path, fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def failing(trainer: object, *_: object, **__: object) -> None:
        attempts.append(trainer.global_step)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(callback_module, "save", failing)
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(one_pl, ReplicateCallback(save_freq=3))
    assert attempts == [3, 6]


def test_a_training_that_fails_at_once_leaves_no_experiment(pl, project: Path, fit, make_module) -> None:
    def failing(*_: object) -> None:
        raise ValueError("no")

    callback = ReplicateCallback()
    with pytest.raises(ValueError, match="no"):
        fit(pl, callback, module=make_module(pl, training_step=failing))
    assert (len(replicate.experiments.list()), callback.experiment) == (0, None)


def test_every_second_epoch(pl, project: Path, fit) -> None:
    assert steps(fit(pl, ReplicateCallback(period=2), epochs=5)) == [1, 3]


def test_a_time_interval(one_pl, project: Path, fit, make_module, clock: Clock) -> None:
    module = make_module(one_pl, on_train_batch_start=lambda *_: clock.pass_by(20))
    experiment = fit(one_pl, ReplicateCallback(save_freq=timedelta(minutes=1)), module=module)
    assert steps(experiment) == [3, 6]


def test_saving_takes_no_more_of_the_time_than_it_may(one_pl, project: Path, fit, make_module, clock: Clock) -> None:
    module = make_module(
        one_pl,
        on_train_epoch_start=lambda _: clock.pass_by(10),
        on_save_checkpoint=lambda *_: clock.pass_by(5),
    )
    callback = ReplicateCallback(save_freq="auto", max_overhead=0.1)
    experiment = fit(one_pl, callback, module=module, epochs=20, enable_checkpointing=False)
    found = experiment.checkpoints
    saved = [checkpoint.extra["epoch"] for checkpoint in found if checkpoint.path is not None]
    assert len({checkpoint.extra["epoch"] for checkpoint in found}) == 20, "metrics of every epoch"
    assert saved == [0, 9, 13, 18, 19], "10 of 105 seconds, 15 of 155, 20 of 210; the first and the last in any case"


def test_inside_of_a_long_epoch_it_saves_now_and_then(one_pl, project: Path, fit, make_module, clock: Clock) -> None:
    module = make_module(one_pl, on_train_batch_start=lambda *_: clock.pass_by(110))
    assert steps(fit(one_pl, ReplicateCallback(save_freq="auto"), module=module, epochs=1)) == [3, 4]


def test_metrics_alone_are_recorded_once_for_each_epoch(one_pl, project: Path, fit) -> None:
    experiment = fit(one_pl, ReplicateCallback(None, save_freq="auto"))
    assert [checkpoint.extra["epoch"] for checkpoint in experiment.checkpoints] == [0, 1]


# What.


def test_weights_only(pl, project: Path, fit) -> None:
    experiment = fit(pl, ReplicateCallback(save_weights_only=True), epochs=1)
    with experiment.latest().open() as file:
        loaded = torch.load(file, weights_only=True)
    assert "state_dict" in loaded
    assert not {"optimizer_states", "replicate"} & set(loaded)


def test_lightning_itself_can_read_the_file(pl, project: Path, fit, make_module) -> None:
    module = make_module(pl)
    experiment = fit(pl, ReplicateCallback(), module=module)
    with experiment.latest().open() as file:
        loaded = type(module).load_from_checkpoint(file)
    torch.testing.assert_close(loaded.layer.weight, module.layer.weight, rtol=0, atol=0)


def test_a_template_keeps_every_file(pl, project: Path, fit) -> None:
    experiment = fit(pl, ReplicateCallback(Path("deep/er/m-{epoch:02d}-{step}-{val_loss:.1f}.ckpt")))
    paths = [checkpoint.path for checkpoint in experiment.checkpoints]
    assert [path[:16] for path in paths] == ["deep/er/m-00-4-0", "deep/er/m-01-8-0"]
    assert all((project / path).is_file() for path in paths)


def test_a_template_with_a_metric_that_is_not_there_does_not_stop_training(one_pl, project: Path, fit) -> None:
    fit(one_pl, ReplicateCallback("m-{nothing/here:.2f}.ckpt"), epochs=1)
    assert (project / "m-nan.ckpt").exists()


def test_no_half_file_is_left(one_pl, project: Path, fit) -> None:
    fit(one_pl, ReplicateCallback(), enable_checkpointing=False)
    assert sorted(path.name for path in project.iterdir()) == [".replicate", "model.ckpt"]


def test_files_of_the_best_and_the_last_are_kept(one_pl, project: Path, fit, make_module) -> None:
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    module = make_module(one_pl, on_train_epoch_end=lambda module: module.log("made_up", next(losses)))
    callback = ReplicateCallback(primary_metric=("made_up", "minimize"), keep_best=2, keep_last=1)
    fit(one_pl, callback, module=module, epochs=5)

    (experiment,) = replicate.experiments.list()
    assert [checkpoint.metrics["made_up"] for checkpoint in experiment.checkpoints] == [3.0, 1.0, 2.0, 4.0, 5.0]
    assert [checkpoint.lacks_files for checkpoint in experiment.checkpoints] == [True, False, False, True, False]


def test_a_disk_that_is_full_does_not_stop_training(
    one_pl, project: Path, fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = callback_module.save, []

    def failing(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(callback_module, "save", failing)
    with pytest.warns(UserWarning, match=r"could not be saved to model\.ckpt, only its metrics are: OSError"):
        experiment = fit(one_pl, ReplicateCallback(), epochs=4)
    assert [checkpoint.path for checkpoint in experiment.checkpoints] == [None, "model.ckpt", None, "model.ckpt"]
    assert all("val_loss" in checkpoint.metrics for checkpoint in experiment.checkpoints)


def test_a_training_that_can_never_be_saved_is_told_of_at_once(one_pl, project: Path, fit, make_module) -> None:
    def refuse(module, checkpoint) -> None:
        checkpoint["added"] = lambda: None

    callback = ReplicateCallback()
    with pytest.raises((AttributeError, TypeError)):
        fit(one_pl, callback, module=make_module(one_pl, on_save_checkpoint=refuse))
    assert callback.experiment.status == "failed"


# Trainings that fail.


def fail_in_batch(number: int, error: BaseException):
    def on_train_batch_start(module, batch, batch_idx) -> None:
        if module.global_step == number:
            raise error

    return on_train_batch_start


@pytest.mark.parametrize("saves", [True, False])
def test_an_exception(pl, project: Path, fit, make_module, saves: bool) -> None:
    callback = ReplicateCallback(save_on_exception=saves)
    module = make_module(pl, on_train_batch_start=fail_in_batch(6, RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        fit(pl, callback, module=module)
    assert (callback.experiment.status, callback.experiment.error) == ("failed", "RuntimeError: broken")
    assert [checkpoint.extra["global_step"] for checkpoint in callback.experiment.checkpoints] == [4] + [6] * saves


def test_ctrl_c(pl, project: Path, fit, make_module) -> None:
    callback = ReplicateCallback(save_on_exception=True)
    module = make_module(pl, on_train_batch_start=fail_in_batch(6, KeyboardInterrupt()))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        fit(pl, callback, module=module)
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    assert callback.experiment.status == "interrupted"
    assert callback.experiment.latest().extra["global_step"] == 6


def test_weights_that_are_half_new_are_not_saved(one_pl, project: Path, fit, make_module) -> None:
    class Breaking(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            if self.param_groups[0]["params"][0].grad is not None and module.global_step == 6:
                raise RuntimeError("broken")

    module = make_module(one_pl, configure_optimizers=lambda module: Breaking(module.parameters(), 0.01))
    callback = ReplicateCallback(save_on_exception=True)
    with pytest.warns(UserWarning, match="in the middle of a step"), pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, callback, module=module)
    assert steps(callback.experiment) == [0]


def fail_at_six(*arguments: object, **_: object) -> None:
    """A hook of anything that has a trainer among its arguments, or is a module."""
    owner = next(item for item in arguments if hasattr(item, "global_step"))
    if owner.global_step >= 6:
        raise RuntimeError("broken")


def training_step_that_fails(module, batch, batch_idx):
    fail_at_six(module)
    return module.layer(batch).pow(2).mean()


def backward_that_fails(module, loss) -> None:
    fail_at_six(module)
    loss.backward()


def scheduler_step_that_fails(module, scheduler, metric) -> None:
    fail_at_six(module)
    scheduler.step()


IN_BATCH = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]
IN_BOTH = {
    "on_train_batch_start": 6,
    **dict.fromkeys(IN_BATCH, 6),
    "on_train_batch_end": 6,
    "on_validation_start": 8,
    "on_validation_epoch_end": 8,
    "on_validation_end": 8,
    "on_train_epoch_end": 8,
    "on_train_end": 8,
    "on_fit_end": 8,
}
"""Hooks, and how many steps are done when they fail."""


@pytest.mark.parametrize("hook", [*IN_BOTH, "configure_gradient_clipping", "validation_step"])
def test_an_exception_in_a_hook_of_the_module_saves_the_last_whole_state(
    one_pl, project: Path, fit, make_module, hook: str
) -> None:
    step = IN_BOTH.get(hook, 6 if hook == "configure_gradient_clipping" else 8)
    assert_saved_at(one_pl, fit, step, module=make_module(one_pl, **{hook: fail_at_six}))


@pytest.mark.parametrize(
    "hooks",
    [
        {"training_step": training_step_that_fails},
        {"backward": backward_that_fails},
        {"lr_scheduler_step": scheduler_step_that_fails},
    ],
    ids=lambda hooks: next(iter(hooks)),
)
def test_an_exception_in_the_work_of_the_module_saves_the_last_whole_state(
    one_pl, project: Path, fit, make_module, hooks: dict
) -> None:
    def configure_optimizers(module):
        optimizer = torch.optim.AdamW(module.parameters(), 0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 9), "interval": "step"}]

    assert_saved_at(one_pl, fit, 6, module=make_module(one_pl, configure_optimizers=configure_optimizers, **hooks))


@pytest.mark.parametrize(("hook", "place"), [*((hook, "after") for hook in IN_BOTH), ("on_train_batch_end", "before")])
def test_an_exception_in_a_hook_of_another_callback_saves_the_last_whole_state(
    one_pl, project: Path, fit, make_module, *, hook: str, place: str
) -> None:
    other = type("Other", (one_pl.Callback,), {hook: fail_at_six})()
    options = {"before": other} if place == "before" else {}
    more = [other] if place == "after" else []
    assert_saved_at(one_pl, fit, IN_BOTH[hook], *more, module=make_module(one_pl), **options)


def assert_saved_at(pl, fit, step: int, *callbacks, module, **options) -> None:
    """Train; there is one checkpoint, of that step, whose weights are those that the module has."""
    callback = ReplicateCallback(save_freq=100, save_on_exception=True)
    with pytest.raises(RuntimeError, match="broken"):
        fit(pl, callback, *callbacks, module=module, num_sanity_val_steps=0, enable_checkpointing=False, **options)
    experiment = callback.experiment
    assert (experiment.status, experiment.error) == ("failed", "RuntimeError: broken")
    assert [checkpoint.extra["global_step"] for checkpoint in experiment.checkpoints] == [step]
    with experiment.latest().open() as file:
        saved = torch.load(file, weights_only=True)
    assert saved["global_step"] == step
    torch.testing.assert_close(saved["state_dict"], dict(module.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_guard_against_nan_leaves_what_a_training_goes_on_with(
    one_pl, project: Path, fit, make_module, options: dict
) -> None:
    """As it is usually written; the weights that it finds are those of a training that ends before this step."""

    def guard(module, optimizer) -> None:
        if module.global_step == 3:
            raise RuntimeError("the gradients are NaN")

    callback = ReplicateCallback(save_freq=100, save_on_exception=True, resume="auto", name="guarded")
    with pytest.raises(RuntimeError, match="NaN"):
        fit(one_pl, callback, module=make_module(one_pl, on_before_optimizer_step=guard), epochs=4, **options)
    assert callback.experiment.latest().extra["global_step"] == 3

    again = ReplicateCallback(save_freq=100, resume="auto", name="guarded")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch")
        experiment = fit(one_pl, again, module=make_module(one_pl), epochs=4, **options)
    assert (experiment.id, experiment.status) == (callback.experiment.id, "finished")


class Careless(torch.optim.Optimizer):
    """One that changes weights as torch can't see, as many in papers do, and more than once in one step."""

    def __init__(self, parameters, times: int) -> None:
        super().__init__(parameters, {})
        self.times = times

    def step(self, closure=None):
        for _ in range(self.times):
            loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(parameter.grad, alpha=-0.01)
        return loss


@pytest.mark.parametrize("times", [1, 2])
def test_weights_that_a_second_closure_finds_half_new_are_not_saved(
    one_pl, project: Path, fit, make_module, times: int
) -> None:
    calls = []

    def fail(module, optimizer) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("broken")

    module = make_module(
        one_pl,
        on_before_optimizer_step=fail,
        configure_optimizers=lambda module: Careless(module.parameters(), times),
    )
    callback = ReplicateCallback(save_freq=100, save_on_exception=True)
    half_new = pytest.warns(UserWarning, match="in the middle of a step") if times == 2 else nullcontext()
    with half_new, pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, callback, module=module)
    assert [checkpoint.extra["global_step"] for checkpoint in callback.experiment.checkpoints] == [3] * (times == 1)


def test_a_step_that_failed_and_was_caught_is_forgotten(one_pl, project: Path, fit, make_module) -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            if len(steps_made) == 2:
                raise MemoryError

    steps_made = []

    def training_step(module, batch, batch_idx) -> None:
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(module.layer(batch).pow(2).mean())
        steps_made.append(1)
        with suppress(MemoryError):
            optimizer.step()
        if len(steps_made) == 5:
            raise RuntimeError("broken")

    module = make_module(
        one_pl,
        training_step=training_step,
        configure_optimizers=lambda module: Failing(module.parameters(), 0.01),
    )
    module.automatic_optimization = False
    callback = ReplicateCallback(save_freq=100, save_on_exception=True)
    with pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, callback, module=module, epochs=3)
    assert len(callback.experiment.checkpoints) == 1


@pytest.mark.parametrize(
    ("who", "hook"),
    [("module", "on_fit_end"), ("callback", "on_fit_end"), ("callback", "teardown"), ("data module", "teardown")],
)
def test_an_exception_after_training_is_a_failure(
    pl, project: Path, make_module, make_trainer, loader, *, who: str, hook: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    bases = {"module": type(make_module(pl)), "callback": pl.Callback, "data module": pl.LightningDataModule}
    module, other, data = (type("One", (base,), {hook: fail} if one == who else {})() for one, base in bases.items())
    data.train_dataloader, data.val_dataloader = loader, lambda: torch.ones(2, 1, 4)
    with pytest.raises(RuntimeError, match="broken"):
        make_trainer(pl, ReplicateCallback(), other).fit(module, datamodule=data)
    (experiment,) = replicate.experiments.list()
    assert (experiment.status, experiment.error) == ("failed", "RuntimeError: broken")
    assert steps(experiment) == [0, 1]


def test_what_is_saved_already_is_not_saved_once_more(one_pl, project: Path, fit, make_module) -> None:
    def fail(module) -> None:
        if module.current_epoch == 1:
            raise RuntimeError("broken")

    callback = ReplicateCallback(save_on_exception=True)
    with pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, callback, module=make_module(one_pl, on_train_epoch_start=fail))
    assert steps(callback.experiment) == [0]


def test_a_failure_to_save_once_more_hides_nothing(
    one_pl, project: Path, fit, make_module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(callback_module, "save", failing)
    module = make_module(one_pl, on_train_batch_start=fail_in_batch(2, RuntimeError("broken")))
    with pytest.warns(UserWarning, match="once more: ValueError: no"), pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, ReplicateCallback(save_on_exception=True), module=module)


def test_after_a_failure_the_next_training_is_another_experiment(one_pl, project: Path, fit, make_module) -> None:
    callback = ReplicateCallback()
    with pytest.raises(RuntimeError, match="broken"):
        fit(one_pl, callback, module=make_module(one_pl, on_train_batch_start=fail_in_batch(2, RuntimeError("broken"))))
    fit(one_pl, callback)
    assert [experiment.status for experiment in replicate.experiments.list()] == ["failed", "finished"]


TERMINATED = """
import os, signal, sys
import torch
import {namespace} as pl
from replicate.lightning_callback import ReplicateCallback


class Linear(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.layer(batch).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


callback = ReplicateCallback(save_on_exception=True)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
trainer.fit(Linear(), torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2))
"""


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_sigterm_in_the_midst_of_a_batch_waits_for_its_end(project: Path, namespace: str) -> None:
    (project / "train.py").write_text(TERMINATED.format(namespace=namespace))
    done = subprocess.run(
        [sys.executable, "train.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "REPLICATE_RECORDER"},
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (experiment,) = replicate.experiments.list()
    assert (experiment.status, experiment.error) == ("interrupted", "SIGTERM")
    assert [checkpoint.extra["global_step"] for checkpoint in experiment.checkpoints] == [4, 7]
    with experiment.latest().open() as file:
        assert torch.load(file, weights_only=True)["global_step"] == 7
