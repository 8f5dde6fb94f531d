"""How things look in a terminal and in a pipe: values, times, sizes, tables, CSV. Nothing here knows a command."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import click

import replicate
from replicate_core import wording

if TYPE_CHECKING:  # rich takes 0.1 s to import: what needs no terminal does without
    from rich.console import Console
    from rich.table import Table

VALUE_CHARACTERS = 20
"""Longer texts, lists and mappings are cut in tables."""

PIPE_COLUMNS = 10_000
"""A pipe has no width: nothing is wrapped or cut to fit one."""

_CONTROLS = re.compile("[\x7f-\x9f]")
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
    widest = max(widths)
    return [cell + " " * (widest - width) for cell, width in zip(cells, widths, strict=True)]


def printable(text: str) -> str:
    """Text without control characters but line breaks: what a repository says must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() or char == " " else ascii(char)[1:-1] for char in text)


def value(shown: object, *, characters: int | None = VALUE_CHARACTERS) -> str:
    """A param or metric as people read it; all of it where `characters` is None."""
    return wording.value(shown, characters=characters)


def pairs(mapping: Mapping[str, object]) -> str:
    """Names and values, one to a line; nothing is cut where a program may read it."""
    return wording.pairs(mapping, characters=None if is_plain() else VALUE_CHARACTERS)


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
    """Content as JSON for other programs; NaN and infinities are null, because JSON has no word for them."""
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # json leaves these as they are


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as CSV. Their columns are those of any row, in the order in which they come up."""
    listed = [{name: _csv_cell(item) for name, item in row.items()} for row in rows]
    names = dict.fromkeys(name for row in listed for name in row)
    made = io.StringIO()
    writer = csv.DictWriter(made, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return made.getvalue()


def _csv_cell(item: object) -> object:
    if isinstance(item, bool):
        return "true" if item else "false"
    return json.dumps(item, ensure_ascii=False) if isinstance(item, (list, tuple, dict)) else item


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
    checkpoint: replicate.Checkpoint | None, *, everything: bool = False, indented: bool = False
) -> str:
    """A checkpoint in a table of experiments: its id, step and primary metric, or all its metrics."""
    if checkpoint is None:
        return ""
    primary = checkpoint.primary_metric
    names = list(checkpoint.metrics) if everything or primary is None else [primary.name]
    metrics = {name: checkpoint.metrics[name] for name in names if name in checkpoint.metrics}
    where = ", ".join([f"step {checkpoint.step}", *checkpoint.caveats()])
    lines = [f"{checkpoint.short_id} ({where})", *(f"{name}={value(item)}" for name, item in metrics.items())]
    return ("\n  " if indented else "\n").join(lines)


def experiment_fields(experiment: replicate.Experiment) -> dict[str, object]:
    """What `--json` prints of an experiment in a listing."""
    best, latest = experiment.best(), experiment.latest()
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
        "best_checkpoint": None if best is None else checkpoint_fields(best),
        "latest_checkpoint": None if latest is None else checkpoint_fields(latest),
    }


def experiment_details(experiment: replicate.Experiment) -> dict[str, object]:
    """All that is known of an experiment, its checkpoints included."""
    git = experiment.git
    return {
        **experiment_fields(experiment),
        "error": experiment.error,
        "blocked_seconds": None if experiment.blocked is None else experiment.blocked.total_seconds(),
        "notes": experiment.notes,
        "path": experiment.path,
        "config": experiment.config,
        "python_version": experiment.python_version,
        "system": experiment.system,
        "git": None if git is None else {"commit": git.commit, "branch": git.branch, "dirty": git.dirty},
        "packages": experiment.packages,
        "size_bytes": experiment.size_bytes,
        "stored_bytes": experiment.stored_bytes,
        "checkpoints": [checkpoint_fields(checkpoint) for checkpoint in experiment.checkpoints],
    }


def checkpoint_fields(checkpoint: replicate.Checkpoint) -> dict[str, object]:
    """What `--json` prints of a checkpoint."""
    primary = checkpoint.primary_metric
    return {
        "id": checkpoint.id,
        "created": checkpoint.created.isoformat(),
        "step": checkpoint.step,
        "metrics": checkpoint.metrics,
        "primary_metric": None if primary is None else {"name": primary.name, "goal": primary.goal},
        "path": checkpoint.path,
        "extra": checkpoint.extra,
        "size_bytes": checkpoint.size_bytes,
        "is_stored": checkpoint.is_stored,
        "lacks_files": checkpoint.lacks_files,
        "is_released": checkpoint.is_released,
    }
