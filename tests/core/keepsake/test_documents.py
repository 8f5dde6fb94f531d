"""What Keepsake 0.4 and the first replicate wrote, read as our records."""

import json
import math
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.errors import Corrupted
from replicate_core.format.records import PrimaryMetric
from replicate_core.keepsake import documents
from replicate_core.keepsake.documents import OldExperiment

ONE, CHECKPOINT = "a1" * 32, "b2" * 32
EXPERIMENT = {"id": ONE, "created": "2021-03-04T05:06:07.123456789Z"}


def experiment(*separate: dict, **fields: object) -> OldExperiment:
    return documents.experiment({**EXPERIMENT, **fields}, separate, key="one.json", url="s3://bucket/old")


def checkpoint(**fields: object) -> dict:
    return {"id": CHECKPOINT, "created": "2021-03-04T06:00:00Z", "path": "model.pt", **fields}


class TestAnExperiment:
    def test_is_known_by_little(self) -> None:
        found = experiment()
        assert (found.created.experiment, found.checkpoints, found.notes) == (ONE, (), ())
        assert found.created.created == datetime(2021, 3, 4, 5, 6, 7, 123456, timezone.utc)
        assert found.created.params == {}

    def test_keeps_what_was_said_of_it(self) -> None:
        found = experiment(
            params={"lr": 0.1}, user="ann", host="", command="train.py --lr 0.1", path="./src/", python_version="3.8.1",
            python_packages={"torch": "1.7.0"}, keepsake_version="0.4.2", config={"repository": "s3://bucket/old"},
            checkpoints=None,
        ).created  # fmt: skip
        assert (found.params, found.user, found.host) == ({"lr": 0.1}, "ann", None)
        assert (found.command, found.path) == ("train.py --lr 0.1", "src")
        assert (found.python_version, found.packages) == ("3.8.1", {"torch": "1.7.0"})
        assert found.config == {
            "imported": {"from": "s3://bucket/old", "program": "keepsake", "version": "0.4.2"},
            "repository": "s3://bucket/old",
        }

    def test_says_which_program_wrote_it(self) -> None:
        assert experiment(replicate_version="0.3.0").created.config["imported"]["version"] == "0.3.0"
        assert experiment().created.config["imported"] == {
            "from": "s3://bucket/old",
            "program": "replicate",
            "version": None,
        }

    @pytest.mark.parametrize(
        ("command", "kept"),
        [
            ("train.py --password=hunter2", "train.py --password=[redacted]"),
            ("train.py --token abc", "train.py --token [redacted]"),
            ("train.py 'http://u:pw@host/ never closed", "train.py 'http://[redacted]@host/ never closed"),
        ],
        ids=["value", "next word", "broken quote"],
    )
    def test_keeps_no_credentials(self, command: str, kept: str) -> None:
        found = experiment(command=command, config={"storage": "s3://k:secret@bucket/x?sig=1", "list": ["a", 1]})
        assert found.created.command == kept
        assert found.created.config["storage"] == "s3://bucket/x"
        assert found.created.config["list"] == ["a", 1]

    @pytest.mark.parametrize("path", ["/etc", "../other", "a/.git/b"])
    def test_has_no_path_that_leads_elsewhere(self, path: str) -> None:
        found = experiment(path=path)
        assert found.created.path == "."
        assert "the path of the experiment is recorded as '.'" in found.notes[0]

    def test_names_the_fields_that_are_not_known(self) -> None:
        found = experiment(checkpoint(colour="red"), mood="good")
        assert found.notes == (
            "the field 'mood' of the experiment is left out: its meaning is not known",
            "the field 'colour' of the checkpoint b2b2b2b is left out: its meaning is not known",
        )

    @pytest.mark.parametrize(
        "fields",
        [
            {"id": "../../etc"},
            {"created": "yesterday"},
            {"created": 5},
            {"created": "2021-13-04T05:06:07Z"},
            {"params": [1]},
            {"python_packages": {"torch": 1}},
            {"config": "x"},
            {"checkpoints": {"a": 1}},
            {"checkpoints": [{"id": CHECKPOINT}]},
            {"checkpoints": [checkpoint(primary_metric="loss")]},
        ],
        ids=["id", "time", "time's type", "month", "params", "packages", "config", "checkpoints", "untimed", "primary"],
    )
    def test_that_is_none_is_corrupted(self, fields: dict) -> None:
        with pytest.raises(Corrupted, match=r"one\.json can't be understood"):
            experiment(**fields)


class TestACheckpoint:
    def test_keeps_what_was_said_of_it(self) -> None:
        document = checkpoint(step=7, metrics={"loss": 0.5}, primary_metric={"name": "loss", "goal": "Minimize"})
        (found,) = experiment(checkpoints=[document]).checkpoints
        assert (found.id, found.step, found.path, found.metrics) == (CHECKPOINT, 7, "model.pt", {"loss": 0.5})
        assert found.created == datetime(2021, 3, 4, 6, tzinfo=timezone.utc)
        assert found.primary_metric == PrimaryMetric("loss", "minimize")
        assert (found.manifest, found.size_bytes) == (None, 0)

    def test_without_a_step_has_its_number(self) -> None:
        ids = [f"{number:064x}" for number in range(3)]
        made = [checkpoint(id=item, created=f"2021-03-04T06:0{3 - n}:00Z", step=None) for n, item in enumerate(ids)]
        found = experiment(*made).checkpoints
        assert [(item.id, item.step) for item in found] == [(ids[2], 0), (ids[1], 1), (ids[0], 2)], "by their times"

    @pytest.mark.parametrize("spoilt", [{"created": "yesterday"}, {"id": "c"}, {"metrics": [1]}, {"primary_metric": 1}])
    def test_with_a_document_of_its_own_that_makes_no_sense_is_named_and_costs_no_other(self, spoilt: dict) -> None:
        found = experiment(checkpoint(), checkpoint(**{"id": "c3" * 32, **spoilt}))
        assert [item.id for item in found.checkpoints] == [CHECKPOINT]
        (damage,) = found.damages
        assert f"the document of the checkpoint {spoilt.get('id', 'c3' * 32)!r} can't be understood" in damage

    def test_that_has_no_files_says_so(self) -> None:
        assert experiment(checkpoint(path="")).checkpoints[0].path is None

    def test_that_is_told_of_twice_counts_once(self) -> None:
        assert len(experiment(checkpoint(), checkpoints=[checkpoint()]).checkpoints) == 1

    def test_of_2020_had_labels_and_the_config_said_which_one_is_primary(self) -> None:
        config = {
            "metrics": [
                "odd", {"name": "other", "goal": "minimize"}, {"name": "none", "goal": "up", "primary": True},
                {"name": "accuracy", "goal": "MAXIMIZE", "primary": True},
            ]
        }  # fmt: skip
        document = checkpoint(labels={"accuracy": 0.9, "other": 1})
        assert experiment(document, config=config).checkpoints[0].primary_metric == ("accuracy", "maximize")
        assert experiment(document, config={"metrics": {}}).checkpoints[0].primary_metric is None
        assert experiment(document, config=config).checkpoints[0].metrics == {"accuracy": 0.9, "other": 1}

    def test_with_a_primary_metric_that_is_none_has_none(self) -> None:
        found = experiment(checkpoint(primary_metric={"name": "loss", "goal": "up"}))
        assert found.checkpoints[0].primary_metric is None
        assert "primary metric of the checkpoint b2b2b2b is left out" in found.notes[0]


class TestADocument:
    def test_has_floats_that_json_has_no_word_for(self) -> None:
        go = documents.load(b'{"a": ["[NaN]", {"b": "[+Infinity]"}], "c": "[-Infinity]", "d": "[x]"}', key="one.json")
        assert math.isnan(go["a"][0])
        assert (go["a"][1], go["c"], go["d"]) == ({"b": math.inf}, -math.inf, "[x]")
        python = documents.load(b'{"a": NaN, "b": -Infinity}', key="one.json")
        assert math.isnan(python["a"])
        assert python["b"] == -math.inf

    @pytest.mark.parametrize(
        "data",
        [b"", b"[]", b"\xff", b'{"a": ', b'"\\ud800"', b'{"a": "\\ud800"}', b"[" * 100_000],
        ids=["empty", "list", "bytes", "cut", "text", "half a character", "deep"],
    )
    def test_that_is_none_is_corrupted(self, data: bytes) -> None:
        with pytest.raises(Corrupted, match=r"one\.json can't be understood"):
            documents.load(data, key="one.json")

    def test_of_a_heartbeat(self) -> None:
        found = documents.heartbeat({"last_heartbeat": "2021-03-04T05:06:07.5Z"}, key="beat.json")
        assert found == datetime(2021, 3, 4, 5, 6, 7, 500_000, timezone.utc)
        with pytest.raises(Corrupted, match=r"beat\.json"):
            documents.heartbeat({}, key="beat.json")

    def test_of_a_checkpoint_names_its_experiment(self) -> None:
        assert documents.owner({"experiment_id": ONE}, key="c.json") == ONE
        with pytest.raises(Corrupted, match=r"c\.json names no experiment: its experiment_id is None"):
            documents.owner({}, key="c.json")


@given(data=st.data())
def test_whatever_stands_in_a_document_it_is_read_or_corrupted(data: st.DataObject, anything, damaged) -> None:
    made = checkpoint(primary_metric={"name": "loss", "goal": "minimize"}, metrics={"loss": 1}, step=1)
    whole = {
        **EXPERIMENT, "params": {"lr": 1}, "command": "train", "path": ".", "python_packages": {"a": "1"},
        "config": {"metrics": [{"name": "loss", "goal": "minimize", "primary": True}]}, "checkpoints": [made],
    }  # fmt: skip
    document = data.draw(damaged(whole))
    try:
        loaded = documents.load(json.dumps(document).encode(), key="one.json")
        found = documents.experiment(loaded, [], key="one.json", url="")
    except Corrupted:
        return
    assert found.created.experiment
