"""Lightning in two processes, with every launcher: one experiment, one checkpoint for each save, and none left behind.

Each runs as a script, which is killed when it takes too long: a collective that not all take part in waits for ever.
"""

import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import replicate
from replicate.lightning_callback import ReplicateCallback

SECONDS = 240

STRATEGIES = [
    ("ddp", "pytorch_lightning"),
    ("ddp_spawn", "lightning.pytorch"),
    ("ddp_notebook", "pytorch_lightning"),
]

TRAINING = """
import os, signal, sys
from datetime import timedelta
import torch
import {namespace} as pl
import replicate
from replicate.lightning_callback import ReplicateCallback, ReplicateLogger


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once: the ranks share it


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        if how == "fail" and self.global_rank == 1 and self.current_epoch == 1:
            raise RuntimeError("rank one is broken")
        if how == "kill" and self.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = self.net(batch).pow(2).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(self.global_rank), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.net(batch).pow(2).mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)

    def on_train_end(self):
        known = {{id(one.experiment): one.experiment for one in (*self.trainer.callbacks, *self.trainer.loggers)
                  if getattr(one, "experiment", None) is not None}}
        for experiment in known.values():
            say("ID", self.global_rank, experiment.id, experiment.resumed_from and experiment.resumed_from.id)
        if self.global_rank == 1:  # whose dropout is its own
            say("END", float(torch.cat([value.flatten() for value in self.state_dict().values()]).double().sum()))


strategy, how, epochs, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if __name__ == "__main__":
    pl.seed_everything(0, verbose=False)
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    begun = {{"name": "run", "resume": resume}}
    if how == "given":
        begun = {{"experiment": replicate.init(**begun)}}
    callback = ReplicateCallback(
        primary_metric=("val_loss", "minimize"),
        save_freq=timedelta(seconds=1e-6) if how == "often" else "epoch",
        keep_last=2, save_on_exception=True,
        **begun,
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=2, strategy=strategy, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, callbacks=[] if how == "log only" else [callback],
        logger=ReplicateLogger() if how.startswith("log") else False,
    )
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    trainer.fit(Model(), loader, torch.utils.data.DataLoader(data, batch_size=8))
    say("PATH", trainer.global_rank, callback.best_model_path, callback.last_model_path)
    if how == "test":
        url = f"replicate://{{callback.experiment.short_id}}/model.ckpt"
        say("TESTED", trainer.global_rank, trainer.test(Model(), loader, ckpt_path=url, verbose=False))
    if torch.distributed.is_initialized():  # torch aborts now and then in a process that ends without this
        torch.distributed.destroy_process_group()
"""


def train(
    project: Path,
    strategy: str,
    namespace: str,
    how: str = "",
    *,
    epochs: int = 2,
    resume: str = "auto",
    launcher: tuple[str, ...] = (),
) -> str:
    """Train in two processes; returns what they print."""
    (project / "train.py").write_text(TRAINING.format(namespace=namespace))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, "train.py", strategy, how, str(epochs), resume],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode == 0) == (how not in ("fail", "kill")), output
    return output


def end(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("END")]
    return line


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a training ends with that is never interrupted. The quickest launcher makes no difference."""
    return end(train(tmp_path_factory.mktemp("whole"), "ddp_notebook", "pytorch_lightning", epochs=4))


@pytest.mark.parametrize(("strategy", "namespace"), STRATEGIES)
def test_one_experiment_that_goes_on_bit_for_bit(project: Path, whole: str, strategy: str, namespace: str) -> None:
    train(project, strategy, namespace)
    (first,) = replicate.experiments.list()
    output = train(project, strategy, namespace, epochs=4, resume=first.id)
    assert output.count("replicate: resuming the experiment") == 1
    assert end(output) == whole

    (experiment,) = replicate.experiments.list()
    assert [item.step for item in experiment.checkpoints] == [0, 1, 2, 3]
    assert {item.metrics["val_loss"] for item in experiment.checkpoints} == {0.5}, "the mean of both ranks"
    assert experiment.status == "finished"
    assert [item.lacks_files for item in experiment.checkpoints[1:]] == [True, False, False]


@pytest.mark.parametrize(("strategy", "namespace"), STRATEGIES)
def test_an_exception_in_one_process_ends_it_as_failed(project: Path, strategy: str, namespace: str) -> None:
    assert "rank one is broken" in train(project, strategy, namespace, "fail")
    (experiment,) = replicate.experiments.list()
    assert (experiment.status, [item.step for item in experiment.checkpoints]) == ("failed", [0])


def test_killed_it_goes_on(project: Path, whole: str) -> None:
    train(project, "ddp", "pytorch_lightning", "kill", epochs=4)
    output = train(project, "ddp", "pytorch_lightning", epochs=4)
    assert end(output) == whole


def seen_by_ranks(output: str) -> dict[str, set[str]]:
    """The experiments, and what they resume from, that each rank has seen."""
    lines = [line.split(" ", 2) for line in output.splitlines() if line.startswith("ID")]
    return {rank: {text for _, number, text in lines if number == rank} for rank in "01"}


@pytest.mark.parametrize(
    ("strategy", "how"), [("ddp", ""), ("ddp_spawn", ""), ("ddp", "given"), ("ddp", "log"), ("ddp", "log only")]
)
def test_all_ranks_see_the_experiment_of_the_first_one(project: Path, strategy: str, how: str) -> None:
    output = train(project, strategy, "pytorch_lightning", how)
    (experiment,) = replicate.experiments.list()
    assert seen_by_ranks(output) == {"0": {f"{experiment.id} None"}, "1": {f"{experiment.id} None"}}


def test_they_do_where_it_is_resumed(project: Path) -> None:
    train(project, "ddp", "lightning.pytorch", "kill", epochs=4)
    output = train(project, "ddp", "lightning.pytorch", epochs=4)
    (experiment,) = replicate.experiments.list()
    known = f"{experiment.id} {experiment.resumed_from.id}"
    assert seen_by_ranks(output) == {"0": {known}, "1": {known}}


def test_every_rank_can_read_the_checkpoint_that_it_names(project: Path) -> None:
    """Started by torchrun; `trainer.test` loads the checkpoint on each rank."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = train(project, "ddp", "pytorch_lightning", "test", launcher=torchrun)
    assert sorted(line[:8] for line in output.splitlines() if line.startswith("TESTED")) == ["TESTED 0", "TESTED 1"]
    (experiment,) = replicate.experiments.list()
    (paths,) = {line.split(" ", 2)[2] for line in output.splitlines() if line.startswith("PATH")}
    assert paths.split() == [f"replicate://{one.id}/model.ckpt" for one in (experiment.best(), experiment.latest())]


def test_all_agree_when_to_save_by_the_clock(project: Path) -> None:
    train(project, "ddp", "lightning.pytorch", "often")
    (experiment,) = replicate.experiments.list()
    saved = {item.extra["global_step"] for item in experiment.checkpoints if item.path is not None}
    assert saved == set(range(1, 9))


def test_a_logger_beside_it(project: Path) -> None:
    train(project, "ddp", "pytorch_lightning", "log")
    (experiment,) = replicate.experiments.list()
    assert [item.step for item in experiment.checkpoints if item.path is not None] == [4, 8]
    logged = [item for item in experiment.checkpoints if "train_loss" in item.metrics and item.path is None]
    assert [item.step for item in logged] == list(range(8))
    assert experiment.status == "finished"


def test_the_callback_survives_pickling(one_pl, project: Path, no_recorder: None, fit) -> None:
    callback = ReplicateCallback("other.ckpt", {"lr": 1}, ("val_loss", "minimize"), name="sums")
    fit(one_pl, callback)
    again = pickle.loads(pickle.dumps(callback))
    assert again.experiment is None
    assert fit(one_pl, again).name == "sums"


def test_a_copy_records_into_the_experiment_that_was_given(one_pl, project: Path, no_recorder: None, fit) -> None:
    with replicate.init(path=None) as experiment:
        callback = ReplicateCallback(experiment=experiment)
        assert fit(one_pl, copy.deepcopy(callback)) is experiment
    assert len(experiment.checkpoints) == 2


def test_a_copy_of_one_that_trained_begins_its_own(one_pl, project: Path, no_recorder: None, fit) -> None:
    callback = ReplicateCallback(name="sums")
    first = fit(one_pl, callback)
    assert fit(one_pl, copy.deepcopy(callback)).id != first.id


def test_an_experiment_of_another_process_is_refused(one_pl, project: Path, no_recorder: None, fit) -> None:
    with replicate.init(path=None) as experiment:
        again = pickle.loads(pickle.dumps(ReplicateCallback(experiment=experiment)))
        with pytest.raises(replicate.InvalidInput, match="begun in another process"):
            fit(one_pl, again)


PLAIN = """
import os
import torch.distributed as dist
import replicate

rank = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method="file://" + os.environ["MEETING"], rank=rank, world_size=2)
ids = []
for fold in range(2):
    experiment = replicate.init(params={"fold": fold})
    ids.append(experiment.id)
    experiment.checkpoint(None, {"loss": 1.0})
    experiment.stop()
dist.barrier()
print(*ids)
dist.destroy_process_group()
"""


def test_without_lightning_each_rank_sees_the_id_that_the_first_one_records(tmp_path: Path) -> None:
    """Plain `init()` on every rank, a new experiment for each fold."""
    (tmp_path / "train.py").write_text(PLAIN)
    (tmp_path / "replicate.yaml").write_text("quiet: true\n")
    told = {**os.environ, "WORLD_SIZE": "2", "MEETING": str(tmp_path / "meeting")}
    command = [sys.executable, "train.py"]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env={**told, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        first, second = (process.communicate(timeout=SECONDS)[0].split() for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert first == second
    recorded = replicate.Project(directory=tmp_path).experiments.list()
    assert [experiment.id for experiment in recorded] == first
    assert [experiment.params for experiment in recorded] == [{"fold": 0}, {"fold": 1}]
