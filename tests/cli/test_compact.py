"""`replicate compact`, through the real entry point: what it says, and that nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiment(project: Path) -> replicate.Experiment:
    made = replicate.init({"lr": 0.1}, path=None)
    made.checkpoint(None, {"loss": 1.0}, ("loss", "minimize"))
    made.stop()
    return made


def test_of_an_empty_storage_does_nothing(cli: Cli, project: Path) -> None:
    assert cli("compact") == (0, "Nothing to do: all records are combined already.\n", "")
    assert not (project / ".replicate/storage/segments").exists()


def test_puts_records_together_and_changes_no_listing(cli: Cli, experiment, project: Path) -> None:
    before = cli("show", experiment.short_id)
    code, out, err = cli("compact")
    assert (code, err) == (0, "")
    assert out.startswith("Put 3 records into segments/")
    assert cli("show", experiment.short_id) == before
    assert cli("ls", "-q") == (0, f"{experiment.id}\n", "")
    assert cli("compact")[1] == "Nothing to do: all records are combined already.\n"
    assert cli("verify", "--deep")[0] == 0


def test_anew_replaces_what_was_there(cli: Cli, experiment, project: Path) -> None:
    cli("compact")
    (record, *_) = (project / ".replicate/storage/records").rglob("*-checkpoints.json")
    record.with_name(record.name.replace("-checkpoints", "-invented")).write_text("damaged")
    code, out, _ = cli("compact", "--rebuild")
    assert code == 0
    assert "It replaces 1 other." in out
    assert "Left as they are: 1." in out
    assert len(list((project / ".replicate/storage/segments").iterdir())) == 1


def test_prints_json(cli: Cli, experiment) -> None:
    found = json.loads(cli("compact", "--json")[1])
    assert (found["records"], found["unusable"], found["replaced"]) == (3, 0, 0)
    assert found["segment"].startswith("segments/")


def test_a_damaged_segment_is_said_and_mended(cli: Cli, experiment, project: Path) -> None:
    cli("compact")
    (segment,) = (project / ".replicate/storage/segments").iterdir()
    segment.write_bytes(b"damaged")
    code, out, err = cli("ls", "-q")
    assert (code, out) == (0, f"{experiment.id}\n")
    assert "records are read instead" in err
    cli("compact")
    assert cli("ls", "-q") == (0, f"{experiment.id}\n", "")
