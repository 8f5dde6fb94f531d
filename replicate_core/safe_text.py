"""Texts that steer nothing they are shown in: what a repository, a path or a metric says is a stranger's. Pure."""

from __future__ import annotations

import warnings


def printable(text: str) -> str:
    """Text in which control, bidirectional and other invisible characters but line breaks are written as in Python."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n " or char.isprintable() else ascii(char)[1:-1] for char in text)


def warn(text: str, *, stacklevel: int) -> None:
    """Warn as `warnings.warn` does, of something printable: Python writes a warning to the terminal as it is."""
    warnings.warn(printable(text), stacklevel=stacklevel + 1)
