"""How things look in a terminal and in a pipe: values, times, sizes, tables, CSV. Nothing here knows a command."""

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

if TYPE_CHECKING:  # rich takes 0.1 s to import: what needs no terminal does without
    from rich.console import Console
    from rich.table import Table

VALUE_CHARACTERS = 20
"""Longer texts, lists and mappings are cut in tables."""

PADDED_CHARACTERS = 200
"""Cells of a table for programs are padded to so many characters at most."""

PIPE_COLUMNS = 10_000
"""A pipe has no width: nothing is wrapped or cut to fit one."""

_DEFUSED = re.compile("[\t\r\n]| *[=@＝＠]| *[+＋－-](?!$)")  # noqa: RUF001  # spreadsheets take the wide ones, too
"""How a text begins that a spreadsheet may take for a formula, unless it is a number."""

_UNITS = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"))


def wants_colour() -> bool | None:
    """What `--color` says, else `NO_COLOR`; None: wherever a terminal shows it."""
    context = click.get_current_context(silent=True)
    asked = None if context is None else context.color
    return False if asked is None and os.environ.get("NO_COLOR") else asked


def is_plain() -> bool:
    """Tell whether a program reads what is printed, and no person."""
    return not sys.stdout.isatty() and not wants_colour()


@contextmanager
def console() -> Iterator[Console]:
    """Where a command prints: colours and wrapping in a terminal, plain text in a pipe."""
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
    whole: Mapping[str, int] | None = None,
    styles: Mapping[str, str] | None = None,
) -> Table:
    """A table without lines around it.

    Args:
        headings: of its columns.
        rows: a cell for each column.
        wrapped: the columns that are wrapped where the terminal is too narrow; the others are cut.
        whole: the columns that keep so many characters even then.
        styles: of a cell whose first line says exactly this.
    """
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns, listed = list(headings), [[printable(cell) for cell in row] for row in rows]
    for number, heading in enumerate(columns):
        most = (whole or {}).get(heading, 0)
        longest = max(map(cell_len, [heading, *(line for row in listed for line in row[number].split("\n"))]))
        is_wrapped = heading in wrapped and longest > most  # where nothing need be, the others make room
        made.add_column(
            Text(printable(heading)),
            overflow="fold" if is_wrapped else "ellipsis",
            no_wrap=not is_wrapped,
            min_width=min(most, longest) or None,
        )
    for row in listed:
        # Text: square brackets in values are no markup
        made.add_row(*(Text(cell, style=(styles or {}).get(cell.partition("\n")[0], "")) for cell in row))
    return made


def print_plain_table(columns: Mapping[str, Sequence[str]]) -> None:
    """A table for programs: one line for each row, nothing cut, columns two spaces apart. Quick with many rows."""
    cells = [[_one_line(heading), *map(_one_line, column)] for heading, column in columns.items()]
    padded = [_padded(column) for column in cells]
    print("\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True)))


def _one_line(cell: str) -> str:
    return printable(cell.replace("\n", " "))


def _padded(cells: Sequence[str]) -> list[str]:
    from rich.cells import cell_len  # noqa: PLC0415

    widths = [len(cell) if cell.isascii() else cell_len(cell) for cell in cells]
    widest = min(max(widths), PADDED_CHARACTERS)  # one long cell does not pad all rows
    return [cell + " " * (widest - width) for cell, width in zip(cells, widths, strict=True)]


def value(shown: object, *, characters: int | None = VALUE_CHARACTERS) -> str:
    """A param or metric as people read it; all of it where `characters` is None."""
    return formatting.value(shown, characters=characters)


def pairs(mapping: Mapping[str, object]) -> str:
    """Names and values, one to a line; nothing is cut where a program may read it."""
    return formatting.pairs(mapping, characters=None if is_plain() else VALUE_CHARACTERS)


def ago(moment: datetime, *, now: datetime) -> str:
    """How long ago something was, in its largest unit."""
    passed = now - moment
    for unit, word in _UNITS:
        if (count := passed // unit) >= 1:
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    seconds = max(0, int(passed.total_seconds()))
    return f"{seconds} second{'' if seconds == 1 else 's'} ago"


def moment(time: datetime) -> str:
    """A time in the zone of this machine."""
    return time.astimezone().strftime("%a, %d %b %Y %H:%M:%S %Z")


def as_json(content: object, *, indent: int | None = 2) -> str:
    """Content as JSON for other programs; NaN and infinities are null, because JSON has no word for them.

    What steers a terminal is escaped as JSON has it: a program reads what was recorded.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _escaped(text)


def _escaped(text: str) -> str:
    """JSON whose texts hold no character that steers a terminal, and which says the same."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n " or char.isprintable() else json.dumps(char)[1:-1] for char in text)


def as_csv(rows: Iterable[Mapping[str, object]], *, raw: bool) -> str:
    """Rows as CSV. Their columns are those of any row, in the order in which they come up.

    Args:
        rows: name to value.
        raw: whether texts are written as they are. Else those that a spreadsheet may take for a formula get a `'`
            before them, and control and bidirectional characters are escaped.
    """
    listed, safe = list(rows), _raw if raw else _defused
    names = list(dict.fromkeys(name for row in listed for name in row))
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(map(safe, names))
    writer.writerows([_csv_cell(row.get(name), safe) for name in names] for row in listed)
    return made.getvalue()


def echo_csv(text: str) -> None:
    """Print CSV; at a terminal without what steers one, even where it was to be raw."""
    click.echo((printable(text) if sys.stdout.isatty() else text).encode(), nl=False)


def _csv_cell(item: object, safe: Callable[[str], str]) -> object:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (list, tuple, dict)):
        return _escaped(json.dumps(item, ensure_ascii=False))
    return safe(item) if isinstance(item, str) else item


def _raw(text: str) -> str:
    return text


def _defused(text: str) -> str:
    return printable(f"'{text}" if _DEFUSED.match(text) and not _is_number(text) else text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A mapping without mappings in it: the names of nested values have dots, as filters have them."""
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
    """Say, on standard error, that something waits on this machine."""
    if project.has_waiting:
        click.echo(
            "Something that was saved here is not stored: `replicate sync` stores it, or says why not.", err=True
        )


def hint_at_former(project: replicate.Project, *, remote: bool = False) -> None:
    """Say, on standard error, where experiments of Keepsake or of the first replicate lie that are not here.

    Args:
        project: whose they are.
        remote: also look into a storage that is not on the disks of this machine.
    """
    try:
        found = project.importable(remote=remote)
    except replicate.StorageFailed:  # it was only a hint
        return
    for location, number in found.items():
        click.echo(
            f"{printable(location)} holds {count(number, 'experiment')} of Keepsake or of the first replicate that "
            f"{'is' if number == 1 else 'are'} not here: `replicate import {printable(shlex.quote(location))}` takes "
            f"{'it' if number == 1 else 'them'} over.",
            err=True,
        )


def count(number: int, word: str) -> str:
    """A number of things: `1 file`, `10,000 files`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


@contextmanager
def progress(
    what: str, unit: Literal["bytes", "things"], *, shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error for what is done and all there is; nothing where nobody looks on."""
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
    """A checkpoint in a table of experiments: its id, step and primary metric, or all its metrics.

    Args:
        checkpoint: the best or the latest one.
        recorded: the one that would be, if files did not count: its step and metrics are shown, too.
        everything: whether all metrics are shown.
        indented: whether lines after the first one are.
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
    """What `--json` prints of an experiment in a listing."""
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
    """All that is known of an experiment, its checkpoints included; or only those of them that have files."""
    whole = experiment.to_json()
    packages = whole.pop("python_packages")
    checkpoints = [checkpoint_fields(item) for item in experiment.checkpoints if item.has_files or not with_files]
    return {**experiment_fields(experiment), **whole, "checkpoints": checkpoints, "packages": packages}


def checkpoint_fields(checkpoint: replicate.Checkpoint) -> dict[str, object]:
    """What `--json` prints of a checkpoint."""
    return checkpoint.to_json()
