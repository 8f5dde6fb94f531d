"""What is said to people beside what they called for: how the end of a run goes, and what is no warning.

A library warns and logs. A program with a terminal, such as the face, sets a `Notifier` of its own.
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
    """What is in the way, if something is."""


class UploadDisplay(Protocol):
    """Shows people what the end of an experiment waits for."""

    def show(self, waiting: Waiting) -> None:
        """Called again and again."""

    def close(self, left: Waiting | None) -> None:
        """Called once, at the end, with what could not be waited for."""


class NoDisplay:
    """Shows nothing."""

    def show(self, waiting: Waiting) -> None:
        """See `UploadDisplay.show`."""

    def close(self, left: Waiting | None) -> None:
        """See `UploadDisplay.close`."""


class Notifier:
    """Tells people of things, as a library does: by warnings and by the logger `replicate`."""

    def report_problem(self, text: str) -> None:
        """Say what went wrong when the process ends, where no line of the user's is at fault."""
        warn_only(text)

    def inform(self, text: str) -> None:
        """Say something that is neither trouble nor a result."""
        _log.info("%s", text)

    def upload_display(self) -> UploadDisplay:
        """What shows how the end of an experiment goes."""
        return NoDisplay()


_notifier = Notifier()


def notifier() -> Notifier:
    """The notifier of this process."""
    return _notifier


def set_notifier(other: Notifier) -> None:
    """Have another notifier from now on."""
    global _notifier  # noqa: PLW0603  # one for the process
    _notifier = other
