"""What the end of a run shows while it waits: nothing if it is short, a line in a terminal, a few in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Clock

import replicate
from replicate import progress
from replicate.progress import TerminalDisplay, TerminalNotifier
from replicate_core.recording import notices, recording
from replicate_core.recording.notices import Waiting

LEFT = Waiting(3, 12_000_000, None)
LINE = "storing what waits, 3 to go (12 MB); Ctrl-C leaves it to the background"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, progress, now=100.0)


class Terminal:
    """A terminal, as a program sees it; and what somebody reads there."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        self.stream = open(writer, "w", encoding="utf-8", buffering=1)

    def shown(self) -> str:
        found = b""
        while select.select([self._reader], [], [], 0.05)[0]:
            try:
                found += os.read(self._reader, 4096)
            except OSError:  # nobody has the other side open
                break
        return found.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._reader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    yield found
    found.close()


def _plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class TestInALog:
    def test_a_run_that_ends_at_once_says_nothing(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        end = TerminalDisplay()
        for _ in range(10):
            end.show(LEFT)
            clock.now += 0.049
        end.close(None)
        assert capsys.readouterr() == ("", "")

    def test_after_half_a_second_there_is_a_line_and_then_one_every_ten_seconds(
        self, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        end = TerminalDisplay()
        clock.now += 0.5
        for _ in range(300):  # for 30 seconds
            end.show(LEFT)
            clock.now += 0.1
        assert capsys.readouterr().err.splitlines() == [f"replicate: {LINE}"] * 3
        end.close(None)
        assert capsys.readouterr() == ("", "replicate: all is stored\n")

    @pytest.mark.parametrize(
        ("waiting", "line"),
        [
            (Waiting(0, 0, None), "storing the last job; Ctrl-C leaves it to the background"),
            (Waiting(1, 0, None), "storing what waits, 1 to go; Ctrl-C leaves it to the background"),
            (LEFT, LINE),
            (Waiting(3, 12_000_000, "the network is down"), f"{LINE}: the network is down"),
        ],
    )
    def test_it_says_how_much_is_left_and_what_is_in_the_way(self, waiting: Waiting, line: str) -> None:
        assert progress.text(waiting) == line


class TestInATerminal:
    def test_one_line_is_written_over_and_taken_away(
        self, clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        end = TerminalDisplay()
        end.show(LEFT)
        assert terminal.shown() == ""
        clock.now += 0.5
        threads = threading.active_count()
        for jobs in (3, 2, 1):
            end.show(LEFT._replace(jobs=jobs))
            assert f"replicate: storing what waits, {jobs} to go" in _plain(terminal.shown())
        assert threading.active_count() <= threads, "the end of an interpreter starts none"  # those of others may end
        end.close(None)
        assert terminal.shown().endswith("\r\x1b[2K"), "the line is erased"

    def test_brackets_in_what_is_in_the_way_are_no_markup(
        self, clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        end = TerminalDisplay()
        clock.now += 1
        end.show(LEFT._replace(trouble="can't write [/bucket] [red]"))
        end.close(None)
        assert "can't write [/bucket] [red]" in _plain(terminal.shown())

    def test_a_run_that_ends_at_once_says_nothing(
        self, clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        end = TerminalDisplay()
        end.show(LEFT)
        end.close(None)
        assert terminal.shown() == ""


class TestWhereNobodyReads:
    """Whatever became of standard error, the run ends."""

    def end(self, clock: Clock) -> None:
        end = TerminalDisplay()
        clock.now += 1
        for _ in range(3):
            end.show(LEFT)
            clock.now += 20
        end.close(None)

    def test_there_is_none(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As with pythonw, and in some services."""
        monkeypatch.setattr(sys, "stderr", None)
        self.end(clock)
        assert capsys.readouterr().out == ""

    def test_it_is_closed(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        self.end(clock)

    def test_its_reader_is_gone(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        stream = open(writer, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stderr", stream)
        self.end(clock)
        with pytest.raises(BrokenPipeError):
            stream.close()

    def test_it_is_closed_between(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        end = TerminalDisplay()
        clock.now += 1
        end.show(LEFT)
        assert stream.getvalue() == f"replicate: {LINE}\n"
        stream.close()
        end.close(None)

    def test_it_is_an_object_that_can_only_be_written(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many scripts have such a class, which writes to a file, too."""

        class Tee:
            def __init__(self) -> None:
                self.texts: list[str] = []

            def write(self, text: str) -> int:
                self.texts.append(text)
                return len(text)

            def flush(self) -> None:
                pass

        tee = Tee()
        monkeypatch.setattr(sys, "stderr", tee)
        self.end(clock)
        assert "".join(tee.texts).startswith(f"replicate: {LINE}\n")


class TestWhoeverImportsReplicate:
    """Has it at the end of each run, unless `replicate.yaml` says otherwise."""

    @pytest.fixture
    def slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is stored by somebody else, which takes a while."""
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
        alive = [True, True, True]
        plain = recording.Recording._wait_until_stored

        def wait(self: recording.Recording) -> object:
            launched = self._launched
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(launched, "ensure_running", lambda: bool(alive) and alive.pop())
                waited = plain(self)
            launched.ensure_running()
            return waited if self._queue.directory.is_dir() else (None, None)

        monkeypatch.setattr(recording.Recording, "_wait_until_stored", wait)

    def run(self) -> None:
        with replicate.init(path=None) as experiment:
            experiment.checkpoint(None, {"loss": 1})

    def test_sees_it(self, project: Path, slow: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert isinstance(notices.notifier(), TerminalNotifier)
        self.run()
        assert capsys.readouterr().err == (
            "replicate: storing what waits, 1 to go; Ctrl-C leaves it to the background\n"
        )

    def test_does_not_where_it_is_to_be_quiet(
        self, project: Path, slow: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / "replicate.yaml").write_text("quiet: true\n")
        self.run()
        assert capsys.readouterr() == ("", "")
        assert replicate.experiments.list()[0].status == "finished"
