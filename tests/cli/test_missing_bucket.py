"""A bucket that is missing: an error where nobody can be asked, a question at a terminal, made with `--create`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from replicate_core import workspace
from replicate_core.errors import StorageFailed
from replicate_core.storage.local import LocalStore
from replicate_core.storage.store import Store

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def made(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The buckets that were made."""
    buckets: list[str] = []

    def open_store(location: str, *, relative_to: Path, options: Mapping[str, object]) -> Store:
        if location not in buckets:
            if not options.get("create"):
                raise StorageFailed(f"{location}: the bucket does not exist", permanent=True, bucket_is_missing=True)
            buckets.append(location)
        return LocalStore(relative_to / "bucket")

    monkeypatch.setattr(workspace, "open_store", open_store)
    (project / "replicate.yaml").write_text("storage: s3://bucket\n")
    return buckets


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a person at a terminal, who answers with this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def answer(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: text)

    return answer


def test_is_an_error_where_nobody_can_be_asked(cli: Cli, made: list[str]) -> None:
    code, _, error = cli("ls")
    assert (code, made) == (3, [])
    assert "the bucket does not exist" in error


def test_is_made_with_an_option(cli: Cli, made: list[str]) -> None:
    assert cli("--create", "ls")[0] == 0
    assert made == ["s3://bucket"]


def test_is_made_when_somebody_says_yes(cli: Cli, made: list[str], answered: Callable[[str], None]) -> None:
    answered("y")
    code, _, error = cli("ls")
    assert (code, made) == (0, ["s3://bucket"])
    assert "the bucket does not exist" in error


def test_is_not_made_when_somebody_says_no(cli: Cli, made: list[str], answered: Callable[[str], None]) -> None:
    answered("n")
    assert cli("ls")[0] == 3
    assert made == []


def test_other_options_stay(cli: Cli, made: list[str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Mapping[str, object]] = []
    opens = workspace.open_store

    def open_store(location: str, *, relative_to: Path, options: Mapping[str, object]) -> Store:
        given.append(options)
        return opens(location, relative_to=relative_to, options=options)

    monkeypatch.setattr(workspace, "open_store", open_store)
    with open(project / "replicate.yaml", "a") as file:
        file.write("storage_options: {profile: mine}\n")
    cli("--create", "ls")
    cli("--create", "-S", "s3://other", "ls")
    cli("--create", "-S", "gs://other", "ls")
    assert given == [{"profile": "mine", "create": True}] * 2 + [{"create": True}]


def test_is_never_made_to_read_from_it(cli: Cli, made: list[str], project: Path) -> None:
    for command in (("sync", "s3://typo", "s3://bucket"), ("cp", "3fa2c1b", "s3://bucket"), ("import", "s3://typo")):
        code, _, error = cli("--create", "-S", "s3://typo", *command)
        assert code == 1
        assert error == "replicate: the bucket of s3://typo does not exist: nothing can be read there\n"
    assert "s3://typo" not in made
