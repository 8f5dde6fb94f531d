"""Texts that steer nothing they are shown in: what a repository, a path or a metric says is a stranger's. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text in which control, bidirectional and other invisible characters but line breaks are written as in Python."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n " or char.isprintable() else ascii(char)[1:-1] for char in text)
