"""The upload display at the end of a run: one line in a terminal, a few lines in a log.

The core prints nothing. Importing `replicate` makes it report through this module.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from replicate_core.recording.notices import Notifier, Waiting
from replicate_core.safe_text import printable

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_SECONDS = 0.5
"""Seconds before anything is shown: most runs end sooner, and show nothing."""

LINE_SECONDS = 10.0
"""Seconds between two lines in a log."""


class TerminalDisplay:
    """An `UploadDisplay` that shows on standard error what the end of an experiment waits for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console: Console | None = None
        self._printed_at: float | None = None

    def show(self, waiting: Waiting) -> None:
        """Show what is waiting, once the wait is long enough to be noticed."""
        now = time.monotonic()
        if now - self._began < PATIENCE_SECONDS or sys.stderr is None:
            return
        with suppress(OSError, ValueError):  # standard error is closed
            if is_terminal():
                self._show_in_terminal(text(waiting))
            elif self._printed_at is None or now - self._printed_at >= LINE_SECONDS:
                self._printed_at = now
                print(f"replicate: {text(waiting)}", file=sys.stderr, flush=True)

    def close(self, left: Waiting | None) -> None:
        """Erase the line in a terminal; in a log, print that everything is stored."""
        with suppress(OSError, ValueError):
            if self._console is not None:
                self._erase(self._console)
            elif self._printed_at is not None and left is None:
                say("all is stored")

    def _show_in_terminal(self, line: str) -> None:
        if self._console is None:
            from rich.console import Console  # noqa: PLC0415  # takes 0.1 s, which a short wait need not pay

            self._console = Console(stderr=True)
        from rich.text import Text  # noqa: PLC0415

        # rich's live display needs a thread or a newer rich, and an interpreter that is ending can't start threads.
        self._erase(self._console)
        self._console.print(Text(f"replicate: {line}"), end="", no_wrap=True, overflow="ellipsis")

    def _erase(self, console: Console) -> None:
        from rich.control import Control  # noqa: PLC0415
        from rich.segment import ControlType  # noqa: PLC0415

        console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))


def is_terminal() -> bool:
    """Tell whether standard error is a terminal; a replacement of it may have no `isatty`."""
    ask = getattr(sys.stderr, "isatty", None)
    return ask is not None and ask()


def say(line: str) -> None:
    """Print a line that is no warning: no line of the user's code caused it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"replicate: {printable(line)}", file=sys.stderr, flush=True)


def text(waiting: Waiting) -> str:
    """Describe what is still being stored."""
    size = f" ({waiting.total_bytes / 1e6:.0f} MB)" if waiting.total_bytes else ""
    left = f"what waits, {waiting.jobs} to go{size}" if waiting.jobs else "the last job"
    trouble = f": {waiting.trouble}" if waiting.trouble else ""
    return printable(f"storing {left}; Ctrl-C leaves it to the background{trouble}")


class TerminalNotifier(Notifier):
    """Reports on standard error."""

    def report_problem(self, text: str) -> None:
        """See `Notifier.report_problem`."""
        say(text)

    def inform(self, text: str) -> None:
        """See `Notifier.inform`."""
        say(text)

    def upload_display(self) -> TerminalDisplay:
        """See `Notifier.upload_display`."""
        return TerminalDisplay()
