"""Texts that steer nothing they are shown in."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import replicate
from replicate_core import safe_text, user_warnings

HOSTILE = "a\x1b[2J\u202eb\x9bc\rd"
SHOWN = r"a\x1b[2J\u202eb\x9bc\rd"


def test_what_steers_a_terminal_is_written_as_in_python():
    assert safe_text.printable(HOSTILE) == SHOWN
    assert safe_text.printable("größe\n模型 🙂") == "größe\n模型 🙂"


def test_a_warning_is_printable_and_names_the_line_of_its_caller():
    with pytest.warns(UserWarning, match=r"a\\x1b") as seen:
        user_warnings.warn(HOSTILE)
    assert str(seen[0].message) == SHOWN
    assert seen[0].filename == __file__


@pytest.mark.parametrize("kind", [replicate.ReplicateError, *replicate.ReplicateError.__subclasses__()])
def test_the_text_of_an_error_is_printable_wherever_a_traceback_shows_it(kind):
    assert str(kind(HOSTILE)) == SHOWN


def test_warnings_of_metrics_and_errors_about_params_steer_no_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("replicate.yaml").write_text("metrics:\n  loss: {goal: minimize, primary: true}\n")
    with warnings.catch_warnings(record=True) as seen, replicate.init({}, path=None) as experiment:
        warnings.simplefilter("always")
        experiment.checkpoint(None, {f"los{HOSTILE}": 1.0})
    assert "".join(str(item.message) for item in seen).isprintable()
    with pytest.raises(replicate.InvalidInput) as refused:
        replicate.init({HOSTILE: object()})
    assert str(refused.value).isprintable()
