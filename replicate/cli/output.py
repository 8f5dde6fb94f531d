"""Formatting for terminals and pipes: values, times, tables, JSON, CSV. Nothing here knows a command."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import click

import replicate
from replicate_core import formatting
from replicate_core.safe_text import printable as printable  # noqa: PLC0414  # for all commands

if TYPE_CHECKING:  # rich takes 0.1 s to import: commands that need no table skip it
    from rich.console import Console
    from rich.table import Table

VALUE_CHARACTERS = 20
"""Maximum number of characters of a value in a table; longer strings, lists and mappings are cut."""

PADDED_CHARACTERS = 200
"""Maximum number of characters to which cells of a plain table are padded."""

PIPE_COLUMNS = 10_000
"""Number of columns assumed for a pipe, large enough that nothing is wrapped or cut."""

_FORMULA_START = re.compile("[\t\r\n]| *[=@＝＠]| *[+＋－-](?!$)")  # noqa: RUF001  # spreadsheets accept the wide characters, too
"""Beginning of a string that a spreadsheet may run as a formula, unless it is a number."""

_UNITS = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"))


def wants_colour() -> bool | None:
    """Return what `--color` says, else `NO_COLOR`; None: colours if the output is a terminal."""
    context = click.get_current_context(silent=True)
    asked = None if context is None else context.color
    return False if asked is None and os.environ.get("NO_COLOR") else asked


def is_plain() -> bool:
    """Tell whether a program, not a person, reads the output."""
    return not sys.stdout.isatty() and not wants_colour()


@contextmanager
def console() -> Iterator[Console]:
    """Yield a console that prints colours and wraps in a terminal, and prints plain text into a pipe."""
    from rich.console import Console  # noqa: PLC0415

    colour = wants_colour()
    if sys.stdout.isatty():
        yield Console(highlight=False, color_system=None if colour is False else "auto")
    elif colour:
        yield Console(highlight=False, force_terminal=True, width=PIPE_COLUMNS)
    else:
        plain = Console(file=io.StringIO(), highlight=False, width=PIPE_COLUMNS)
        try:
            yield plain
        finally:
            for line in plain.file.getvalue().splitlines():  # type: ignore[attr-defined]  # it is the StringIO above
                print(line.rstrip())


def table(
    headings: Iterable[str],
    rows: Iterable[Sequence[str]],
    *,
    wrapped: Collection[str] = (),
    min_characters: Mapping[str, int] | None = None,
    styles: Mapping[str, str] | None = None,
) -> Table:
    """Make a table without borders.

    Args:
        headings: headings of the columns.
        rows: rows, with a cell for each column.
        wrapped: columns that are wrapped in a narrow terminal; the others are cut.
        min_characters: column to the minimum number of characters shown even then.
        styles: first line of a cell to its style.
    """
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns, listed = list(headings), [[printable(cell) for cell in row] for row in rows]
    for number, heading in enumerate(columns):
        least = (min_characters or {}).get(heading, 0)
        longest = max(map(cell_len, [heading, *(line for row in listed for line in row[number].split("\n"))]))
        is_wrapped = heading in wrapped and longest > least  # a column that fits is not wrapped: the others make room
        made.add_column(
            Text(printable(heading)),
            overflow="fold" if is_wrapped else "ellipsis",
            no_wrap=not is_wrapped,
            min_width=min(least, longest) or None,
        )
    for row in listed:
        # Text: rich must not read square brackets in values as markup
        made.add_row(*(Text(cell, style=(styles or {}).get(cell.partition("\n")[0], "")) for cell in row))
    return made


def print_plain_table(columns: Mapping[str, Sequence[str]]) -> None:
    """Print a table for programs: one line for each row, nothing cut, columns two spaces apart. Fast with many rows."""
    cells = [[_one_line(heading), *map(_one_line, column)] for heading, column in columns.items()]
    padded = [_padded(column) for column in cells]
    print("\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True)))


def _one_line(cell: str) -> str:
    return printable(cell.replace("\n", " "))


def _padded(cells: Sequence[str]) -> list[str]:
    from rich.cells import cell_len  # noqa: PLC0415

    widths = [len(cell) if cell.isascii() else cell_len(cell) for cell in cells]
    widest = min(max(widths), PADDED_CHARACTERS)  # one long cell must not pad all rows
    return [cell + " " * (widest - width) for cell, width in zip(cells, widths, strict=True)]


def value(shown: object, *, characters: int | None = VALUE_CHARACTERS) -> str:
    """Format a param or metric for people; `characters` is the maximum length, None for no limit."""
    return formatting.value(shown, characters=characters)


def pairs(mapping: Mapping[str, object]) -> str:
    """Format names and values, one pair a line; values are cut only in a terminal."""
    return formatting.pairs(mapping, characters=None if is_plain() else VALUE_CHARACTERS)


def ago(moment: datetime, *, now: datetime) -> str:
    """Format how long ago a moment was, in the largest unit that fits."""
    passed = now - moment
    for unit, word in _UNITS:
        if (count := passed // unit) >= 1:
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    seconds = max(0, int(passed.total_seconds()))
    return f"{seconds} second{'' if seconds == 1 else 's'} ago"


def moment(time: datetime) -> str:
    """Format a time in this machine's time zone."""
    return time.astimezone().strftime("%a, %d %b %Y %H:%M:%S %Z")


def as_json(content: object, *, indent: int | None = 2) -> str:
    """Encode content as JSON for other programs; NaN and infinities become null, because JSON has neither.

    Control characters become JSON escapes, so a program still reads what was recorded.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _escaped(text)


def _escaped(text: str) -> str:
    """Replace control characters in JSON by JSON escapes, which mean the same."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n " or char.isprintable() else json.dumps(char)[1:-1] for char in text)


def as_csv(rows: Iterable[Mapping[str, object]], *, raw: bool) -> str:
    """Encode rows as CSV. The columns are the names in all rows, in the order of their first appearance.

    Args:
        rows: rows, each name to value.
        raw: whether strings are written unchanged. Otherwise strings that a spreadsheet may run as a formula get a
            `'` in front, and control and bidirectional characters are escaped.
    """
    listed, safe = list(rows), _raw if raw else _without_formula
    names = list(dict.fromkeys(name for row in listed for name in row))
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(map(safe, names))
    writer.writerows([_csv_cell(row.get(name), safe) for name in names] for row in listed)
    return made.getvalue()


def echo_csv(text: str) -> None:
    """Print CSV; at a terminal control characters are escaped, even with `--raw`."""
    click.echo((printable(text) if sys.stdout.isatty() else text).encode(), nl=False)


def _csv_cell(item: object, safe: Callable[[str], str]) -> object:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (list, tuple, dict)):
        return _escaped(json.dumps(item, ensure_ascii=False))
    return safe(item) if isinstance(item, str) else item


def _raw(text: str) -> str:
    return text


def _without_formula(text: str) -> str:
    return printable(f"'{text}" if _FORMULA_START.match(text) and not _is_number(text) else text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten a mapping: names of nested values are joined by dots, as in filters."""
    made: dict[str, object] = {}
    for name, item in mapping.items():
        if isinstance(item, Mapping):
            made |= flat(item, f"{prefix}{name}.")
        else:
            made[prefix + name] = item
    return made


def _finite(content: object) -> object:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: _finite(item) for key, item in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(item) for item in content]
    return content


def hint_at_waiting(project: replicate.Project) -> None:
    """Print on standard error that something on this machine waits to be stored."""
    if project.has_waiting:
        click.echo(
            "Something that was saved here is not stored: `replicate sync` stores it, or says why not.", err=True
        )


def hint_at_former(project: replicate.Project, *, remote: bool = False) -> None:
    """Print on standard error where there are experiments of Keepsake or the first replicate to import.

    Args:
        project: the project to look in.
        remote: whether to look also into a storage that is not on a disk of this machine.
    """
    try:
        found = project.importable(remote=remote)
    except replicate.StorageFailed:  # only a hint is lost
        return
    for location, number in found.items():
        is_are, it_them = ("is", "it") if number == 1 else ("are", "them")
        click.echo(
            f"{printable(location)} holds {formatting.count(number, 'experiment')} of Keepsake or of the first "
            f"replicate that {is_are} not here: `replicate import {printable(shlex.quote(location))}` takes {it_them} "
            "over.",
            err=True,
        )


@contextmanager
def progress(
    what: str, unit: Literal["bytes", "things"], *, shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error if that is a terminal; yields a function of done and total."""
    if not shown or not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    counted = (DownloadColumn(), TimeRemainingColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    with Progress(TextColumn(what), BarColumn(), *counted, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def checkpoint_cell(
    checkpoint: replicate.Checkpoint | None,
    recorded: replicate.Checkpoint | None = None,
    *,
    everything: bool = False,
    indented: bool = False,
) -> str:
    """Format a checkpoint as a cell in a table of experiments: id, step and metrics.

    Args:
        checkpoint: the best or the latest checkpoint that has files.
        recorded: the better or later one without files, if any: its step and metrics are shown, too.
        everything: whether to show all metrics, not only the primary one.
        indented: whether to indent the lines after the first.
    """
    lines = []
    if checkpoint is not None:
        where = ", ".join([f"step {checkpoint.step}", *checkpoint.caveats()])
        lines += [f"{checkpoint.short_id} ({where})", *_metric_lines(checkpoint, everything=everything)]
    if recorded is not None:
        lines += [f"without files: step {recorded.step}", *_metric_lines(recorded, everything=everything)]
    return ("\n  " if indented else "\n").join(lines)


def _metric_lines(checkpoint: replicate.Checkpoint, *, everything: bool) -> list[str]:
    primary = checkpoint.primary_metric
    names = list(checkpoint.metrics) if everything or primary is None else [primary.name]
    return [f"{name}={value(checkpoint.metrics[name])}" for name in names if name in checkpoint.metrics]


def experiment_fields(experiment: replicate.Experiment) -> dict[str, object]:
    """Return the fields of an experiment that `--json` prints in a listing."""
    of_checkpoints = {
        "best_checkpoint": experiment.best(),
        "latest_checkpoint": experiment.latest(),
        "best_recorded": experiment.better_without_files(),
        "latest_recorded": experiment.later_without_files(),
    }
    return {
        "id": experiment.id,
        "name": experiment.name,
        "created": experiment.created.isoformat(),
        "status": experiment.status,
        "heartbeat": None if experiment.heartbeat is None else experiment.heartbeat.isoformat(),
        "waiting": experiment.waiting,
        "params": experiment.params,
        "user": experiment.user,
        "host": experiment.host,
        "command": experiment.command,
        "tags": experiment.tags,
        "num_checkpoints": len(experiment.checkpoints),
        **{name: None if item is None else checkpoint_fields(item) for name, item in of_checkpoints.items()},
    }


def experiment_details(experiment: replicate.Experiment, *, with_files: bool = False) -> dict[str, object]:
    """Return all that is known of an experiment; `with_files` leaves out checkpoints without files."""
    whole = experiment.to_json()
    packages = whole.pop("python_packages")
    checkpoints = [checkpoint_fields(item) for item in experiment.checkpoints if item.has_files or not with_files]
    return {**experiment_fields(experiment), **whole, "checkpoints": checkpoints, "packages": packages}


def checkpoint_fields(checkpoint: replicate.Checkpoint) -> dict[str, object]:
    """Return the fields of a checkpoint that `--json` prints."""
    return checkpoint.to_json()
