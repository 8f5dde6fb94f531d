from __future__ import annotations

import warnings

import pytest

from replicate_core.telling import warn


def say() -> None:
    warn("the disk is full", stacklevel=2)


def test_it_is_a_warning_at_the_line_of_the_user(logged: list[str]) -> None:
    with pytest.warns(UserWarning, match="^the disk is full$") as caught:
        say()
    assert caught[0].filename == __file__
    assert logged == []


def test_where_warnings_are_errors_it_is_logged_whole(logged: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("100% of %s", stacklevel=1)
    assert logged == ["100% of %s"]
    logged.clear()


def test_what_is_ignored_is_not_logged_either(logged: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        say()
    assert logged == []
