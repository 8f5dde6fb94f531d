"""What the end of a run shows while it waits for what is still to be stored: a line in a terminal, a few in a log.

The core is silent; this is its voice where `replicate` is imported.
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
"""Most runs end at once, and say nothing."""

LINE_SECONDS = 10.0
"""How often a log gets a line."""


class EndOfRun:
    """Shows on standard error what the end of an experiment waits for; an `UploadDisplay`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console: Console | None = None
        self._said_at: float | None = None

    def show(self, waiting: Waiting) -> None:
        """Show it, if it takes longer than people do not notice."""
        now = time.monotonic()
        if now - self._began < PATIENCE_SECONDS or sys.stderr is None:
            return
        with suppress(OSError, ValueError):  # nobody reads it any more
            if is_terminal():
                self._show_in_terminal(text(waiting))
            elif self._said_at is None or now - self._said_at >= LINE_SECONDS:
                self._said_at = now
                print(f"replicate: {text(waiting)}", file=sys.stderr, flush=True)

    def close(self, left: Waiting | None) -> None:
        """Take the line away, or say that all is well."""
        with suppress(OSError, ValueError):
            if self._console is not None:
                self._erase(self._console)
            elif self._said_at is not None and left is None:
                say("all is stored")

    def _show_in_terminal(self, line: str) -> None:
        if self._console is None:
            from rich.console import Console  # noqa: PLC0415  # 0.1 s, which a run that ends at once need not pay

            self._console = Console(stderr=True)
        from rich.text import Text  # noqa: PLC0415

        # No live display: that takes a thread, or a newer rich; and the end of an interpreter starts no threads.
        self._erase(self._console)
        self._console.print(Text(f"replicate: {line}"), end="", no_wrap=True, overflow="ellipsis")

    def _erase(self, console: Console) -> None:
        from rich.control import Control  # noqa: PLC0415
        from rich.segment import ControlType  # noqa: PLC0415

        console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))


def is_terminal() -> bool:
    """Tell whether a person looks on; what stands in for standard error may not even know."""
    ask = getattr(sys.stderr, "isatty", None)
    return ask is not None and ask()


def say(line: str) -> None:
    """Say something that no line of the user's is at fault for."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"replicate: {printable(line)}", file=sys.stderr, flush=True)


def text(waiting: Waiting) -> str:
    """What is waited for, in words."""
    size = f" ({waiting.total_bytes / 1e6:.0f} MB)" if waiting.total_bytes else ""
    left = f"what is left, {waiting.jobs} to go{size}" if waiting.jobs else "the last of it"
    trouble = f": {waiting.trouble}" if waiting.trouble else ""
    return printable(f"storing {left}; Ctrl-C leaves it to the background{trouble}")


class TerminalNotifier(Notifier):
    """Tells people of things on standard error."""

    def report_problem(self, text: str) -> None:
        """See `Notifier.report_problem`."""
        say(text)

    def inform(self, text: str) -> None:
        """See `Notifier.inform`."""
        say(text)

    def upload_display(self) -> EndOfRun:
        """See `Notifier.upload_display`."""
        return EndOfRun()
