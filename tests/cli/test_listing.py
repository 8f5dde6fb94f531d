"""What `ls` and `ps` find, in what order and in which form: in a pipe, in terminals of any width, for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]
Terminal = Callable[..., str]


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Four experiments: one without checkpoints, one that failed, one without a primary metric."""

    def one(params: dict[str, object], *losses: float, primary: bool = True, **facts: object) -> replicate.Experiment:
        with replicate.init(params, path=None, **facts) as experiment:  # type: ignore[arg-type]
            for loss in losses:
                experiment.checkpoint(None, {"loss": loss, "acc": 1 - loss}, ("loss", "minimize") if primary else None)
        return experiment

    made = [
        one({"lr": 0.1, "model": {"layers": 3, "kind": "mlp"}}, 0.9, 0.5, 0.7, name="base", tags=["paper", "v1"]),
        one({"lr": "0.01", "model": {"layers": 4, "kind": "mlp"}}, 0.4, name="text rate"),
        one({"lr": 1, "model": {"layers": 3, "kind": "mlp"}}, 0.8, math.nan, primary=False),
    ]
    failed = replicate.init({"lr": None, "model": {"layers": 3, "kind": "mlp"}}, path=None, name="broken")
    with pytest.raises(ValueError, match="diverged"), failed:
        raise ValueError("diverged")
    return [*made, failed]


def named(cli: Cli, *arguments: str) -> list[str | None]:
    code, out, err = cli("ls", "--json", *arguments)
    assert (code, err) == (0, "")
    return [item["name"] for item in json.loads(out)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("lr = 0.1", ["base"]),
        ("lr < 0.5", ["base", "text rate"]),
        ("params.lr >= 0.1", ["base", None]),
        ("lr = null", ["broken"]),
        ("lr != null", ["base", "text rate", None]),
        ("model.layers = 4", ["text rate"]),
        ("model.layers != 4", ["base", None, "broken"]),
        ("loss < 0.5", ["text rate"]),
        ("metrics.loss <= 0.5", ["base", "text rate"]),
        ("loss = nan", [None]),
        ("loss = null", ["broken"]),
        ("status = failed", ["broken"]),
        ("step >= 1", ["base", None]),
        ("checkpoints = 0", ["broken"]),
        ("tag = paper", ["base"]),
        ("tag != paper", ["text rate", None, "broken"]),
        ("name = 'text rate'", ["text rate"]),
        ("name = null", [None]),
        ("created > '1 hour ago'", ["base", "text rate", None, "broken"]),
        ("created < yesterday", []),
        ("name < 5", []),
        ("model = 3", []),
    ],
)
def test_a_filter_finds_what_it_says(cli: Cli, experiments, condition: str, expected: list[str | None]) -> None:
    assert named(cli, "-f", condition) == expected


def test_all_of_several_filters_must_hold(cli: Cli, experiments) -> None:
    assert named(cli, "-f", "lr < 0.5", "--filter", "tag = paper") == ["base"]


def test_a_sort_goes_by_any_name_and_puts_what_is_unset_last(cli: Cli, experiments) -> None:
    assert named(cli, "-s", "loss") == ["text rate", "base", None, "broken"]
    assert named(cli, "-s", "loss-desc") == ["base", "text rate", None, "broken"]
    assert named(cli, "--sort", "created-desc") == ["broken", None, "text rate", "base"]
    assert named(cli, "-s", "lr")[-1] == "broken"


def test_a_number_of_them_are_the_latest_or_the_first_of_a_sort(cli: Cli, experiments) -> None:
    assert named(cli, "-n", "2") == [None, "broken"]
    assert named(cli, "-n", "2", "-s", "loss") == ["text rate", "base"]
    assert len(named(cli, "-n", "0")) == len(named(cli, "-n", "99")) == 4
    assert cli("ls", "-q", "-n", "1")[1].split() == [experiments[-1].id]


def test_other_words_for_a_command_are_known(cli: Cli, experiments) -> None:
    assert cli("list", "-q") == cli("ls", "-q")
    assert cli("processes") == cli("ps")
    assert cli("delete", "--help")[0] == 0
    assert "processes" not in cli("--help")[1]


def test_a_filter_that_can_not_be_read_exits_with_2(cli: Cli, experiments) -> None:
    for arguments in (("-f", "loss"), ("-f", "created > soon"), ("-s", ""), ("-n", "-1")):
        code, out, err = cli("ls", *arguments)
        assert (code, out) == (2, "")
        assert err


def test_a_name_that_nothing_has_is_told(cli: Cli, experiments) -> None:
    code, out, err = cli("ls", "-f", "model.layrs = 3", "-f", "zzz < 1")

    assert (code, out) == (0, "No experiments match.\n")
    assert err == (
        "replicate: warning: no experiment has 'model.layrs': did you mean 'model.layers'?\n"
        "replicate: warning: no experiment has 'zzz'\n"
    )
    assert cli("ls", "-f", "loss > 100") == (0, "No experiments match.\n", "")


def test_forms_exclude_each_other(cli: Cli, experiments) -> None:
    code, _, err = cli("ls", "--json", "--csv")
    assert code == 2
    assert "give one of them" in err


def test_csv_has_a_line_for_each_with_nested_names(cli: Cli, experiments) -> None:
    code, out, err = cli("ls", "--csv")

    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert [row["id"] for row in rows] == [experiment.id for experiment in experiments]
    assert [row["params.model.layers"] for row in rows] == ["3", "4", "3", "3"]
    assert rows[0]["best_checkpoint.metrics.loss"] == "0.5"
    assert rows[0]["latest_checkpoint.step"] == "2"
    assert rows[0]["tags"] == '["paper", "v1"]'
    assert rows[0]["primary_metric.goal"] == "minimize"
    assert rows[2]["latest_checkpoint.metrics.loss"] == "nan"
    assert rows[3]["best_checkpoint.id"] == ""


def test_in_a_pipe_an_experiment_is_one_line_with_nothing_cut(cli: Cli, project: Path) -> None:
    for number in range(2):
        replicate.init({"note": "x" * 19, "n": number}, path=None, name=f"a name\nof {'m' * 200}ny words").stop()
    out = cli("ls")[1]

    assert len(out.splitlines()) == 3
    assert f"a name of {'m' * 200}ny words" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("columns", [60, 80, 100, 140, 200])
def test_a_terminal_of_any_width_shows_whole_ids(terminal: Terminal, experiments, columns: int) -> None:
    out = terminal("ls", columns=columns)

    assert all(len(line) <= columns for line in out.splitlines())
    for experiment in experiments:
        assert experiment.short_id in out
    assert experiments[0].best().short_id in out


def test_params_make_room_for_what_would_be_cut(terminal: Terminal, project: Path) -> None:
    params = {"learning_rate": 0.001, "layers": [64, 128, 256], "model": {"kind": "transformer", "heads": 8}}
    for seed in range(2):
        experiment = replicate.init({**params, "seed": seed}, path=None, name="a name that is longer than that")
        for step in range(2):
            experiment.checkpoint(None, {"loss": step / 3}, ("loss", "minimize"), step=10_000 + step)
        experiment.stop()
    out = terminal("ls", "--all", columns=80)
    assert out.count("(step 10000)") == out.count("(step 10001)") == 2
    assert out.count("loss=0.33333") == 2
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_narrow_terminal_has_fewer_columns(terminal: Terminal, experiments) -> None:
    narrow, wide = (terminal("ls", columns=columns) for columns in (80, 200))

    assert "CHECKPOINTS" in narrow
    assert "latest: the same" in narrow
    assert "BEST CHECKPOINT" in wide
    assert "lr=0.1" in narrow.replace("\n", "")


def test_a_terminal_shows_the_latest_and_says_how_many_there_are(terminal: Terminal, experiments) -> None:
    with_limit = terminal("ls", rows=2)

    assert "The latest 2 of 4 experiments. All of them: -n 0" in with_limit
    assert experiments[0].short_id not in with_limit
    assert experiments[0].short_id in terminal("ls", "-n", "0", rows=2)
    assert "The first 2 of 4 experiments" in terminal("ls", "-s", "loss", rows=2)
    assert experiments[0].short_id in terminal("ls", "-s", "loss", rows=2)


def test_colours_are_for_terminals_unless_told_otherwise(
    cli: Cli, terminal: Terminal, experiments, monkeypatch
) -> None:
    assert "\x1b[" in terminal("ls", raw=True)
    assert "\x1b[" not in terminal("ls", "--color", "never", raw=True)
    assert "\x1b[" not in terminal("ls", raw=True, NO_COLOR="1")
    assert "\x1b[" in terminal("ls", "--color", "always", raw=True, NO_COLOR="1")
    assert "\x1b[" not in cli("ls")[1]
    assert "\x1b[" in cli("ls", "--color", "always")[1]
    assert "\x1b[" in cli("--color", "always", "show", experiments[0].id)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in cli("ls")[1]


@pytest.mark.parametrize("where", ["before", "after"])
def test_project_and_storage_are_named_before_a_command_or_after_it(
    cli: Cli, experiments, tmp_path: Path, monkeypatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def ids(*options: str) -> int:
        return len(cli(*options, "ls", "-q")[1].split() if where == "before" else cli("ls", "-q", *options)[1].split())

    assert ids() == 0
    assert ids("-D", "project") == 4
    assert ids("-S", "project/.replicate/storage") == 4
    assert ids("--project-directory", "project", "--storage", "elsewhere") == 0


def test_what_is_named_after_the_command_counts(cli: Cli, experiments, tmp_path: Path) -> None:
    assert len(cli("-S", "elsewhere", "ls", "-q", "-S", ".replicate/storage")[1].split()) == 4


def test_ps_takes_the_filters_of_ls(cli: Cli, experiments, at_exit) -> None:
    running = replicate.init({"lr": 5}, path=None, name="at it")
    running.checkpoint(None, {"loss": 0.1})

    assert cli("ps", "-q")[1].split() == [running.id]
    assert cli("ps", "-q", "-f", "lr > 1")[1].split() == [running.id]
    assert cli("ps", "-f", "lr < 1")[1].startswith("No such experiments are running.")
    assert cli("ps", "--csv")[1].splitlines()[1].startswith(running.id)
    assert cli("ps", "-s", "lr-desc", "-n", "1", "-q")[1].split() == [running.id]
    running.stop()


def test_ps_and_show_fit_a_narrow_terminal(terminal: Terminal, project: Path, at_exit) -> None:
    running = replicate.init({"lr": 5}, path=None, name="a name that is longer than a narrow terminal takes")
    metrics = {f"a_metric_with_a_long_name_{number}": float(number) for number in range(9)}
    running.checkpoint(None, metrics, ("a_metric_with_a_long_name_7", "maximize"))

    for arguments in (("ps",), ("show", running.id)):
        out = terminal(*arguments)
        assert all(len(line) <= 80 for line in out.splitlines())
        assert running.checkpoints[0].short_id in out
    assert "A_METRIC_WITH_A_LONG_NAME_7" in out
    assert "8 metrics more: --all" in out
    assert "A_METRIC_WITH_A_LONG_NAME_8" in terminal("show", running.id, columns=400)
    running.stop()


def test_only_what_is_shown_is_looked_at(cli: Cli, experiments, monkeypatch) -> None:
    looked_at: list[str] = []
    best = replicate.Experiment.best
    monkeypatch.setattr(replicate.Experiment, "best", lambda self: looked_at.append(self.id) or best(self))

    assert cli("ls", "-n", "1", "-s", "loss")[0] == 0
    assert set(looked_at) == {experiments[1].id}


def test_a_sort_by_what_nothing_has_says_so(cli: Cli, experiments) -> None:
    code, out, err = cli("ls", "-q", "-s", "los-desc")
    assert (code, len(out.split())) == (0, 4)
    assert err == "replicate: warning: no experiment has 'los': did you mean 'loss'?\n"


def test_nothing_is_cut_in_a_pipe(cli: Cli, project: Path) -> None:
    text = " ".join(["a long text value"] * 9)
    with replicate.init({"text": text}, path=None):
        pass
    assert text in cli("ls")[1]
    assert text in cli("ls", "--all")[1]


def test_an_empty_storage_is_not_that_of_the_project(cli: Cli, experiments) -> None:
    code, out, err = cli("-S", "", "ls")
    assert (code, out) == (2, "")
    assert "the storage '' is neither a path nor a URL" in err


def test_one_long_param_does_not_pad_every_row(cli, project) -> None:
    for text in ("x" * 100_000, "short"):
        replicate.init({"text": text}, path=None).stop()
    assert sorted(map(len, cli("ls")[1].splitlines()))[-2] < 1000


def test_show_cuts_long_values_and_many_metrics_and_says_so(cli, project) -> None:
    with replicate.init({"text": "x" * 20_000}, path=None) as experiment:
        experiment.checkpoint(None, {f"m{number}": 1.0 for number in range(3000)})
    out = cli("show", experiment.id)[1]
    assert "(20,000 characters: --json shows all)" in out
    assert "2900 metrics more" in out.replace(",", "")
    assert "and 2,000 more: --json" in cli("show", experiment.checkpoints[0].id)[1]
