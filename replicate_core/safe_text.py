"""Text that is safe to show: strings from a repository, a path or a metric are untrusted. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control, bidirectional and other invisible characters escaped as in Python, except line breaks."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n " or char.isprintable() else ascii(char)[1:-1] for char in text)
