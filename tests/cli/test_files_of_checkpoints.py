"""Metrics every step and weights now and then: every command means the checkpoints that have files, and says so."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]
Terminal = Callable[..., str]

PRIMARY = ("loss", "minimize")


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    """Best with files at step 4, best of all at step 7; the weights of an earlier run lie about."""
    (project / "train.py").write_text("code\n")
    (project / "model.txt").write_text("of an earlier run")
    with replicate.init({}) as made:
        for step in range(13):
            if step % 5 == 4:
                (project / "model.txt").write_text(f"weights of step {step}")
                made.checkpoint("model.txt", {"loss": 10 + abs(step - 5)}, PRIMARY)
            else:
                made.checkpoint(None, {"loss": abs(step - 7)}, PRIMARY)
    return replicate.experiments.get(made.id)


def test_ls_shows_the_best_with_files_and_beside_it_the_best_recorded(cli: Cli, experiment) -> None:
    code, out, _ = cli("ls")
    assert code == 0
    assert f"{experiment.best().short_id} (step 4) loss=11 without files: step 7 loss=0" in out
    assert f"{experiment.latest().short_id} (step 9) loss=14 without files: step 12 loss=5" in out


def test_a_narrow_terminal_shows_both_too(terminal: Terminal, experiment) -> None:
    out = terminal("ls", columns=80)
    for line in (f"best {experiment.best().short_id} (step 4)", "without files: step 7", "without files: step 12"):
        assert line in out


def test_ls_says_nothing_of_it_where_the_best_has_files(cli: Cli, project: Path) -> None:
    (project / "model.txt").write_text("weights")
    with replicate.init({}) as experiment:
        experiment.checkpoint("model.txt", {"loss": 1.0}, PRIMARY)
    assert "without files" not in cli("ls")[1]
    (listed,) = json.loads(cli("ls", "--json")[1])
    assert (listed["best_recorded"], listed["latest_recorded"]) == (None, None)
    assert "best_recorded" not in cli("ls", "--csv")[1]


def test_json_csv_and_export_agree_with_ls(cli: Cli, experiment) -> None:
    steps = {"best_checkpoint": 4, "latest_checkpoint": 9, "best_recorded": 7, "latest_recorded": 12}
    (listed,) = json.loads(cli("ls", "--json")[1])
    assert {name: listed[name]["step"] for name in steps} == steps
    assert (listed["best_checkpoint"]["has_files"], listed["best_recorded"]["has_files"]) == (True, False)
    for printed in (cli("ls", "--csv")[1], cli("export")[1]):
        (row,) = csv.DictReader(io.StringIO(printed))
        assert {name: int(row[f"{name}.step"]) for name in steps} == steps
    lines = [json.loads(line) for line in cli("export", "--checkpoints", "--format", "jsonl")[1].splitlines()]
    assert [line["step"] for line in lines if line["is_best"]] == [4]
    assert [line["step"] for line in lines if line["has_files"]] == [4, 9]


def test_show_marks_which_have_files_and_names_the_best_recorded(cli: Cli, experiment) -> None:
    code, out, _ = cli("show", experiment.short_id)
    assert code == 0
    rows = {
        line.split()[0]: line for line in out.splitlines() if line[:7] in {c.short_id for c in experiment.checkpoints}
    }
    assert {identifier for identifier, line in rows.items() if "17 B" in line} == {
        experiment.best().short_id,
        experiment.latest().short_id,
    }
    assert f"{experiment.best().short_id} (best)" in out
    assert "2 of 13 checkpoints have files: --with-files lists only those" in out
    recorded = experiment.best(with_files=False)
    assert f"The best loss recorded is 0, in {recorded.short_id} (step 7), without files" in out


def test_show_lists_only_those_with_files_where_asked(cli: Cli, experiment) -> None:
    out = cli("show", experiment.short_id, "--with-files")[1]
    for checkpoint in experiment.checkpoints:
        assert (checkpoint.short_id in out.partition("Checkpoints")[2].partition("recorded")[0]) == checkpoint.has_files
    shown = json.loads(cli("show", experiment.short_id, "--with-files", "--json")[1])
    assert [item["step"] for item in shown["checkpoints"]] == [4, 9]


def test_show_of_many_has_those_that_can_be_used(cli: Cli, project: Path) -> None:
    with replicate.init({}, path=None) as experiment:
        for step in range(100):
            if step in (3, 6):
                (project / "model.txt").write_text("weights")
            experiment.checkpoint("model.txt" if step in (3, 6) else None, {"loss": step}, PRIMARY)
    out = cli("show", experiment.id)[1]
    assert f"{experiment.best().short_id} (best)" in out
    assert experiment.latest().short_id in out


def test_show_of_metrics_alone_says_that_nothing_has_files(cli: Cli, project: Path) -> None:
    with replicate.init({}, path=None) as experiment:
        experiment.checkpoint(None, {"loss": 1.0}, PRIMARY)
    out = cli("show", experiment.id)[1]
    assert "No checkpoint has files" in out
    assert f"To get its code back: replicate checkout {experiment.short_id} --code-only" in out
    assert "--with-files" not in out


def test_checkout_gives_the_weights_and_not_what_lay_about(cli: Cli, experiment, project: Path) -> None:
    code, out, _ = cli("checkout", experiment.short_id, "-o", "out")
    assert code == 0
    assert f"Wrote the checkpoint {experiment.best().short_id} (step 4)" in out
    assert (project / "out/model.txt").read_text() == "weights of step 4"


def test_checkout_says_once_what_of_the_code_it_leaves_out_because_others_saved_it(cli: Cli, project: Path) -> None:
    for name in ("best.txt", "last.txt"):
        (project / name).write_text("of an earlier run")
    with replicate.init({}) as experiment:
        for name in ("best.txt", "last.txt"):
            (project / name).write_text("weights")
            experiment.checkpoint(name, {"loss": 1.0})
    code, _, err = cli("checkout", experiment.id, "-o", "out")
    assert code == 0
    assert err.count("left out of the code, because checkpoints saved them: 'best.txt'") == 1


def test_checkout_of_what_has_no_files_exits_with_1_and_names_the_nearest(cli: Cli, experiment, project: Path) -> None:
    made = {item.step: item.short_id for item in experiment.checkpoints}
    code, out, err = cli("checkout", made[6], "-o", "out")
    assert (code, out) == (1, "")
    assert f"The nearest with files: {made[4]} (step 4) and {made[9]} (step 9). " in err
    assert "--code-only" in err
    assert not (project / "out").exists()

    code, out, _ = cli("checkout", made[6], "-o", "out", "--code-only")
    assert code == 0
    assert f"Wrote the code of checkpoint {made[6]} (step 6)" in out
    assert (project / "out/train.py").read_text() == "code\n"


def test_checkout_of_a_run_that_saved_metrics_alone_exits_with_1(cli: Cli, project: Path) -> None:
    (project / "train.py").write_text("code\n")
    with replicate.init({}) as experiment:
        experiment.checkpoint(None, {"loss": 1.0}, PRIMARY)
    code, out, err = cli("checkout", experiment.id, "-o", "out")
    assert (code, out) == (1, "")
    assert "No checkpoint of the experiment" in err
    assert "--code-only" in err
    assert cli("checkout", experiment.id, "-o", "out", "--code-only")[0] == 0


def test_checkout_of_nothing_at_all_exits_with_1(cli: Cli, project: Path) -> None:
    replicate.init({}, path=None).stop()
    (experiment,) = replicate.experiments.list()
    code, out, err = cli("checkout", experiment.id, "-o", "out")
    assert (code, out) == (1, "")
    assert "no code was saved of the experiment" in err


def test_diff_compares_the_best_with_files(cli: Cli, experiment) -> None:
    found = json.loads(cli("diff", experiment.short_id, experiment.latest().short_id, "--json")[1])
    assert (found["before"]["step"], found["after"]["step"]) == (4, 9)
    assert "no files" in cli("diff", experiment.short_id, experiment.checkpoints[0].short_id)[1].splitlines()[1]
