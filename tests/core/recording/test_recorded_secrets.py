"""A secret among params, other values, tags and notes reaches no record, unless the project wants it there."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import replicate
from replicate_core.recording import notices

SECRET = "hunter2-x"


def stored(project: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file())


def test_params_name_tags_and_notes_are_recorded_without_secrets_and_one_warning_says_so(project: Path) -> None:
    params = {"lr": 0.1, "db": {"password": SECRET, "url": f"postgres://me:{SECRET}@host/db"}, "max_tokens": 5}
    with pytest.warns(
        UserWarning, match=r"secrets are not recorded: name, tags, notes and 2 more: .*redact: off"
    ) as told:
        experiment = replicate.init(
            params, name=f"token={SECRET}", tags=[f"api_key={SECRET}", "plain"], notes=f"see https://me:{SECRET}@host"
        )
    assert len(told) == 1
    assert told[0].filename == __file__
    assert experiment.params == {
        "lr": 0.1,
        "db": {"password": "[redacted]", "url": "postgres://[redacted]@host/db"},
        "max_tokens": 5,
    }
    assert experiment.name == "token=[redacted]"
    assert experiment.tags == ("api_key=[redacted]", "plain")
    assert experiment.notes == "see https://[redacted]@host"
    experiment.stop()
    assert SECRET.encode() not in stored(project)


def test_other_values_of_checkpoints_are_too_with_one_warning(project: Path) -> None:
    experiment = replicate.init({}, path=None)
    with pytest.warns(UserWarning, match="secrets are not recorded: hf_token: ") as told:
        experiment.checkpoint(None, {"loss": 1}, hf_token=SECRET)
    assert [warning.filename for warning in told] == [__file__]
    checkpoint = experiment.checkpoint(None, {"loss": 1}, hf_token=SECRET, pad_token="<pad>")
    assert checkpoint.extra == {"hf_token": "[redacted]", "pad_token": "<pad>"}


def test_what_is_edited_later_is_too(project: Path) -> None:
    experiment = replicate.init({}, path=None)
    for what, edit, given in (
        ("tags", experiment.tag, f"password={SECRET}"),
        ("notes", experiment.note, f"postgres://me:{SECRET}@host"),
        ("name", experiment.rename, f"secret={SECRET}"),
    ):
        with pytest.warns(UserWarning, match=f"secrets are not recorded: {what}: ") as told:
            edit(given)
        assert [warning.filename for warning in told] == [__file__]
    assert experiment.tags == ("password=[redacted]",)
    assert experiment.notes == "postgres://[redacted]@host"
    assert experiment.name == "secret=[redacted]"


def test_a_project_that_means_it_says_so(project: Path) -> None:
    (project / "replicate.yaml").write_text("redact: off\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        experiment = replicate.init({"password": SECRET}, path=None, notes=f"token={SECRET}")
        experiment.checkpoint(None, {}, hf_token=SECRET)
        experiment.tag(f"token={SECRET}")
        loaded = replicate.experiments.get(experiment.id)
        loaded.note(f"secret={SECRET}")
    assert loaded.params == {"password": SECRET}
    assert loaded.tags == (f"token={SECRET}",)
    assert loaded.notes == f"secret={SECRET}"
    assert loaded.checkpoints[0].extra == {"hf_token": SECRET}


def test_two_starts_with_other_secrets_are_starts_of_one_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "model.txt").write_text("1")
    (project / "replicate.yaml").write_text("redact: off\n")  # as an earlier version recorded it
    first = replicate.init({"password": "first-one", "lr": 1}, name="run")
    first.checkpoint("model.txt", {"loss": 1})
    first._end("failed", "ValueError")
    (project / "replicate.yaml").write_text("redact: on\n")
    with pytest.warns(UserWarning, match="secrets are not recorded"):
        second = replicate.init({"password": "second-one", "lr": 1}, name="run", resume="auto")
    assert second.id == first.id
    second._end("failed", "ValueError")
    said: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", said.append)
    with pytest.warns(UserWarning, match="secrets are not recorded"):
        third = replicate.init({"password": "third-one", "lr": 2}, name="run", resume="auto")
    assert third.id != first.id
    (line,) = said
    assert "lr 1 → 2" in line
    assert "-one" not in line
