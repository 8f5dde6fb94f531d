"""`replicate export`: experiments and their history as files that other programs read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Two experiments, whose params do not all have one type."""
    made = []
    for number, params in enumerate(
        ({"lr": 0.1, "mixed": 1, "amp": True}, {"lr": 1, "mixed": "text", "sizes": [1, 2]})
    ):
        with replicate.init({**params, "model": {"layers": 3}}, path=None, name=f"größe {number}") as experiment:
            for loss in (0.9, 0.5, 0.7):
                experiment.checkpoint(None, {"loss": loss + number}, ("loss", "minimize"), device="cpu")
        made.append(experiment)
    return made


def test_csv_has_a_line_for_each_experiment(cli: Cli, experiments, project: Path) -> None:
    assert cli("export", "out.csv") == (0, "", "Wrote 2 experiments to out.csv.\n")
    rows = list(csv.DictReader(io.StringIO((project / "out.csv").read_text("utf-8"))))
    assert [row["name"] for row in rows] == ["größe 0", "größe 1"]
    assert [row["params.mixed"] for row in rows] == ["1", "text"]
    assert [row["best_checkpoint.metrics.loss"] for row in rows] == ["0.5", "1.5"]
    assert cli("export")[1] == cli("ls", "--csv")[1] == (project / "out.csv").read_text("utf-8")


def test_a_dash_is_standard_output(cli: Cli, experiments, project: Path) -> None:
    assert cli("export", "-") == cli("export")
    assert not (project / "-").exists()


def test_the_history_has_a_line_for_each_checkpoint(cli: Cli, experiments) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("export", "--checkpoints")[1])))
    assert [row["id"] for row in rows] == [point.id for item in experiments for point in item.checkpoints]
    assert [row["metrics.loss"] for row in rows] == ["0.9", "0.5", "0.7", "1.9", "1.5", "1.7"]
    assert [row["is_best"] for row in rows] == ["false", "true", "false"] * 2
    assert rows[3]["experiment"] == experiments[1].id
    assert rows[3]["params.lr"] == "1"
    assert rows[3]["extra.device"] == "cpu"


def test_json_lines_hold_all_that_is_known(cli: Cli, experiments, project: Path) -> None:
    assert cli("export", "out.jsonl")[0] == 0
    lines = [json.loads(line) for line in (project / "out.jsonl").read_text("utf-8").splitlines()]
    assert lines == [json.loads(cli("show", experiment.id, "--json")[1]) for experiment in experiments]
    (first, *_) = cli("export", "--format", "jsonl", "--checkpoints")[1].splitlines()
    assert json.loads(first)["params"]["model"] == {"layers": 3}


def test_parquet_keeps_numbers_and_times(cli: Cli, experiments, project: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    assert cli("export", "out.parquet", "--checkpoints")[0] == 0
    table = parquet.read_table(project / "out.parquet").to_pydict()
    assert table["metrics.loss"] == [0.9, 0.5, 0.7, 1.9, 1.5, 1.7]
    assert table["params.lr"] == [0.1] * 3 + [1.0] * 3
    assert table["params.mixed"] == ["1"] * 3 + ["text"] * 3, "as text where there is no one type"
    assert table["params.sizes"][3:] == [[1, 2]] * 3
    assert table["created"][0] == experiments[0].checkpoints[0].created
    assert isinstance(table["created"][0], datetime)


def test_without_pyarrow_the_message_has_the_command(cli: Cli, experiments, monkeypatch, project: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = cli("export", "out.parquet")
    assert code == 3
    assert 'pip install "replicate[parquet]"' in err
    assert not (project / "out.parquet").exists()


def test_filters_sorts_and_numbers_are_those_of_ls(cli: Cli, experiments) -> None:
    def names(*arguments: str) -> list[str]:
        return [json.loads(line)["name"] for line in cli("export", "--format", "jsonl", *arguments)[1].splitlines()]

    assert names("-f", "loss > 1") == ["größe 1"]
    assert names("-s", "loss-desc", "-n", "1") == ["größe 1"]


def test_a_file_that_is_there_is_kept_unless_forced(cli: Cli, experiments, project: Path) -> None:
    (project / "out.csv").write_text("mine")
    code, _, err = cli("export", "out.csv")
    assert code == 2
    assert "--force" in err
    assert (project / "out.csv").read_text() == "mine"
    assert cli("export", "out.csv", "--force")[0] == 0
    assert sorted(path.name for path in project.iterdir()) == [".replicate", "out.csv"]


def test_a_directory_that_is_missing_exits_with_2(cli: Cli, experiments) -> None:
    code, _, err = cli("export", "no/such/directory.csv")
    assert code == 2
    assert "there is no directory no/such. Make it first" in err


def test_what_can_not_be_written_exits_with_3(
    cli: Cli, experiments, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = cli("export", "here.csv")
    assert code == 3
    assert "can't write here.csv: [Errno 28] No space left" in err
    assert not list(project.glob("*.csv"))


def test_a_name_that_tells_no_format_exits_with_2(cli: Cli, experiments) -> None:
    code, _, err = cli("export", "out.txt")
    assert code == 2
    assert "--format" in err
    assert cli("export", "out.txt", "--format", "csv")[0] == 0


def test_no_experiments_are_no_lines(cli: Cli, project: Path) -> None:
    assert cli("export", "--format", "jsonl") == (0, "", "")


def test_parquet_is_not_printed_to_a_terminal(terminal: Callable[..., str], experiments, monkeypatch) -> None:
    with pytest.raises(AssertionError):  # it exits with 2
        terminal("export", "--format", "parquet")


def test_a_pipe_gets_utf_8_whatever_the_locale(experiments) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replicate", "export"],
        check=True,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert "größe 0" in done.stdout.decode("utf-8")


HOSTILE = "\u202egnp.exe\x1b]0;owned\x07\x9b2J"


@pytest.fixture
def hostile(project: Path) -> replicate.Experiment:
    """An experiment whose texts steer terminals and spreadsheets."""
    params = {
        "=name": "=HYPERLINK(1)",
        "steer": HOSTILE,
        "list": [HOSTILE],
        "number": "-1.5",
        "sum": "-1+2",
        "wide": "＝1",  # noqa: RUF001
    }
    with replicate.init({**params, "tab": "\t=1", "at": "@x", "plus": "+x", "dash": "-"}, path=None) as made:
        pass
    return made


def test_csv_holds_nothing_that_a_spreadsheet_would_run(cli: Cli, hostile, project: Path) -> None:
    assert cli("export", "out.csv")[0] == 0
    printed = (project / "out.csv").read_text("utf-8")
    assert printed == cli("export")[1] == cli("ls", "--csv")[1]
    [row] = csv.DictReader(io.StringIO(printed))
    shown = {name.removeprefix("params."): text for name, text in row.items() if name.startswith("params.")}
    assert shown == {
        "=name": "'=HYPERLINK(1)",
        "steer": r"\u202egnp.exe\x1b]0;owned\x07\x9b2J",
        "list": r'["\u202egnp.exe\u001b]0;owned\u0007\u009b2J"]',
        "number": "-1.5",
        "sum": "'-1+2",
        "wide": "'＝1",  # noqa: RUF001
        "tab": r"'\t=1",
        "at": "'@x",
        "plus": "'+x",
        "dash": "-",
    }
    assert json.loads(shown["list"]) == [HOSTILE]


def test_raw_csv_holds_texts_as_they_were_recorded(cli: Cli, hostile, project: Path) -> None:
    assert cli("export", "out.csv", "--raw")[0] == 0
    with (project / "out.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["params.=name"] == "=HYPERLINK(1)"
    assert row["params.steer"] == HOSTILE
    assert cli("ls", "--csv", "--raw")[1] == cli("export", "--raw")[1]


@pytest.mark.parametrize("arguments", [("export", "--format", "jsonl"), ("ls", "--json"), ("ls",)])
def test_raw_is_for_csv_alone(cli: Cli, hostile, arguments) -> None:
    code, _, err = cli(*arguments, "--raw")
    assert code == 2
    assert "--raw is for CSV" in err


@pytest.mark.parametrize("arguments", [("ls", "--json"), ("show", "--json"), ("export", "--format", "jsonl")])
def test_json_steers_no_terminal_and_says_what_was_recorded(cli: Cli, hostile, arguments) -> None:
    command, *options = arguments
    out = cli(command, *([hostile.id] if command == "show" else []), *options)[1]
    assert out.replace("\n", "").isprintable()
    parsed = json.loads(out)
    assert (parsed[0] if isinstance(parsed, list) else parsed)["params"]["steer"] == HOSTILE
