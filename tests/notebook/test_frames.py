"""Data frames: a row for each experiment or checkpoint, and columns that can be computed with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import replicate


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """It is quicker, and what is recorded is the same."""


@pytest.fixture
def runs(project: Path) -> replicate.ExperimentList:
    for index in range(3):
        params = {"lr": 0.1**index, "optimizer": {"name": "adam", "betas": [0.9, 0.99]}}
        with replicate.init(params, path=None, name=f"run {index}", tags=["t"]) as experiment:
            for step in range(index + 1):
                metrics = {"loss": abs(1 - step) + index, "per_class": {"cat": 0.5}}
                experiment.checkpoint(None, metrics, ("loss", "minimize"), seed=step)
    return replicate.experiments.list()


def test_experiments_are_rows_with_params_and_metrics(runs: replicate.ExperimentList) -> None:
    frame = runs.to_dataframe()
    assert list(frame["id"]) == [experiment.id for experiment in runs]
    assert list(frame["params.lr"]) == pytest.approx([1, 0.1, 0.01])
    assert list(frame["best.metrics.loss"]) == [1, 1, 2]
    assert list(frame["latest.metrics.loss"]) == [1, 1, 3]
    assert list(frame["best.step"]) == [0, 1, 1]
    assert list(frame["checkpoints"]) == [1, 2, 3]
    assert set(frame["params.optimizer.name"]) == {"adam"}
    assert frame["params.optimizer.betas"][0] == [0.9, 0.99]
    assert frame["tags"][0] == ["t"]
    assert set(frame["status"]) == {"finished"}


def test_its_columns_have_types_to_compute_with(runs: replicate.ExperimentList) -> None:
    frame = runs.to_dataframe()
    assert isinstance(frame["created"].dtype, pd.DatetimeTZDtype)
    assert pd.api.types.is_timedelta64_dtype(frame["duration"])
    assert frame["best.metrics.loss"].idxmin() == 0
    assert frame.sort_values("params.lr").iloc[0]["name"] == "run 2"


def test_checkpoints_are_rows_with_metrics_and_what_else_was_recorded(runs: replicate.ExperimentList) -> None:
    frame = runs[2].checkpoints[1:].to_dataframe()
    assert list(frame["step"]) == [1, 2]
    assert list(frame["metrics.loss"]) == [2, 3]
    assert list(frame["metrics.per_class.cat"]) == [0.5, 0.5]
    assert list(frame["extra.seed"]) == [1, 2]
    assert set(frame["experiment"]) == {runs[2].id}


def test_what_one_does_not_have_is_missing(runs: replicate.ExperimentList) -> None:
    with replicate.init({"other": 1}, path=None) as experiment:
        experiment.checkpoint(None, {"speed": 1.5})
        experiment.checkpoint(None, {})
    frame = replicate.experiments.list().to_dataframe()
    assert frame["params.lr"].isna().tolist() == [False, False, False, True]
    assert pd.isna(frame["best.step"][3])
    assert experiment.checkpoints.to_dataframe()["metrics.speed"].isna().tolist() == [False, True]


def test_an_empty_list_is_a_frame_with_its_columns(runs: replicate.ExperimentList) -> None:
    assert len(runs[:0].to_dataframe()) == 0
    assert {"id", "status", "created"} <= set(runs[:0].to_dataframe().columns)
    assert {"id", "step"} <= set(runs[0].checkpoints[:0].to_dataframe().columns)
