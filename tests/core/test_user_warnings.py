from __future__ import annotations

import warnings

import pytest

from replicate_core import user_warnings
from replicate_core.user_warnings import warn, warn_only


def say() -> None:
    warn_only("the disk is full")


def test_it_is_a_warning_at_the_line_of_the_user(logged: list[str]) -> None:
    with pytest.warns(UserWarning, match="^the disk is full$") as caught:
        say()
    assert caught[0].filename == __file__
    assert logged == []


def test_where_warnings_are_errors_it_is_logged_whole(logged: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_only("100% of %s")
    assert logged == ["100% of %s"]
    logged.clear()


def test_what_is_ignored_is_not_logged_either(logged: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        say()
    assert logged == []


def test_what_is_no_machine_s_trouble_is_raised_where_warnings_are_errors(logged: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="a metric is missing"):
            warn("a metric is missing")
    assert logged == []


def test_the_line_is_that_above_all_packages_that_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a framework calls an adapter, which calls the core."""
    monkeypatch.setattr(user_warnings, "_skipped_packages", set(user_warnings._skipped_packages))
    framework: dict[str, object] = {"__name__": "framework.loop", "warn": warn}
    exec(compile("def fit():\n    warn('here')", "framework.py", "exec"), framework)
    with pytest.warns(UserWarning, match="here") as before:
        framework["fit"]()
    user_warnings.pass_over("framework")
    with pytest.warns(UserWarning, match="here") as after:
        framework["fit"]()
    assert (before[0].filename, after[0].filename) == ("framework.py", __file__)


def test_the_outermost_line_stands_where_none_is_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_warnings, "_package", lambda _: "replicate")
    with pytest.warns(UserWarning, match="here"):
        warn("here")
