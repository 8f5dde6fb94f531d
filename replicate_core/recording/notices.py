"""What users are informed of beside results and warnings: notices, problems at exit, and the progress of uploads.

A library warns and logs. A program with a terminal, such as the command line, sets its own `Notifier`.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

from replicate_core.user_warnings import warn_only

_log = logging.getLogger("replicate")


class Waiting(NamedTuple):
    """What the end of an experiment waits for."""

    jobs: int
    total_bytes: int
    trouble: str | None
    """Why storing fails, if it does."""


class UploadDisplay(Protocol):
    """Shows users what the end of an experiment waits for."""

    def show(self, waiting: Waiting) -> None:
        """Show what waits now; called repeatedly."""

    def close(self, left: Waiting | None) -> None:
        """End the display; called once, with what still waits, if anything."""


class NoDisplay:
    """An upload display that shows nothing."""

    def show(self, waiting: Waiting) -> None:
        """See `UploadDisplay.show`."""

    def close(self, left: Waiting | None) -> None:
        """See `UploadDisplay.close`."""


class Notifier:
    """Informs users as a library does: by warnings and by the logger `replicate`."""

    def report_problem(self, text: str) -> None:
        """Report a problem at the end of the process, which no line of user code has caused."""
        warn_only(text)

    def inform(self, text: str) -> None:
        """Give a notice that is neither a problem nor a result."""
        _log.info("%s", text)

    def upload_display(self) -> UploadDisplay:
        """The display for the end of an experiment."""
        return NoDisplay()


_notifier = Notifier()


def notifier() -> Notifier:
    """The notifier of this process."""
    return _notifier


def set_notifier(other: Notifier) -> None:
    """Replace the notifier of this process."""
    global _notifier  # noqa: PLW0603  # one for the process
    _notifier = other
