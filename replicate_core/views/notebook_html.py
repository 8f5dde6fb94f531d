"""HTML for notebooks, made of plain strings: tables, and facts with their names. Pure; everything is escaped."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone

from replicate_core import formatting, safe_text

VALUE_CHARACTERS = 60
"""Maximum number of characters shown of a value."""

ROWS_MAX = 100
"""Maximum number of rows shown of a table: notebooks are saved with what they show."""

_BEGIN = '<div class="replicate tex2jax_ignore mathjax_ignore">'  # so that no text is rendered as a formula
_LEFT = ' style="text-align:left"'  # in each cell, because notebooks have their own rules for cells


def text(content: str) -> str:
    """A string as HTML: what a repository says must not become markup, nor control the program that shows it."""
    return html.escape(safe_text.printable(content)).replace("\n", "<br>")


def value(shown: object) -> str:
    """A param or a metric, formatted for people."""
    return formatting.value(shown, characters=VALUE_CHARACTERS)


def moment(time: datetime) -> str:
    """A time in UTC."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def pairs(mapping: Mapping[str, object]) -> str:
    """Names and values, one to a line."""
    return formatting.pairs(mapping, characters=VALUE_CHARACTERS)


def page(*parts: str) -> str:
    """The HTML that a notebook shows for one object."""
    return "\n".join([_BEGIN, *filter(None, parts), "</div>"])


def heading(content: str) -> str:
    """A heading."""
    return f"<p><strong>{text(content)}</strong></p>"


def line(content: str) -> str:
    """A line of text."""
    return f"<p>{text(content)}</p>"


def facts(mapping: Mapping[str, str | None], *, title: str | None = None) -> str:
    """A table of names and their strings, without those that are None; an empty string if nothing is left."""
    rows = [
        f"<tr><th{_LEFT}>{text(name)}</th><td{_LEFT}>{text(content)}</td></tr>"
        for name, content in mapping.items()
        if content is not None
    ]
    above = [] if title is None else [line(title)]
    return "\n".join([*above, "<table>", *rows, "</table>"]) if rows else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, bold: Collection[int] = ()) -> str:
    """A table of strings, without columns that are empty in every row.

    Args:
        headings: one for each column.
        rows: the strings of each row.
        bold: the indexes of the rows to show in bold.
    """
    shown = list(rows)
    columns = [index for index in range(len(headings)) if any(row[index] for row in shown)]
    lines = ["<table>", "<thead><tr>"]
    lines += [f"<th{_LEFT}>{text(headings[index])}</th>" for index in columns]
    lines += ["</tr></thead>", "<tbody>"]
    for number, row in enumerate(shown):
        cells = (text(row[index]) for index in columns)
        stressed = (f"<strong>{cell}</strong>" if number in bold else cell for cell in cells)
        lines.append("<tr>" + "".join(f"<td{_LEFT}>{cell}</td>" for cell in stressed) + "</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])
