"""How things look in a terminal: values, times, sizes and tables. Nothing here knows a command."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import replicate

VALUE_CHARACTERS = 20
"""Longer texts, lists and mappings are cut in tables."""

PIPE_COLUMNS = 10_000
"""A pipe has no width: nothing is wrapped or cut to fit one."""

_CONTROLS = re.compile("[\x7f-\x9f]")
_UNITS = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"))


@contextmanager
def console() -> Iterator[Console]:
    """Where a command prints: colours and wrapping in a terminal, plain text in a pipe."""
    if sys.stdout.isatty():
        yield Console(highlight=False)
        return
    plain = Console(file=io.StringIO(), highlight=False, width=PIPE_COLUMNS)
    try:
        yield plain
    finally:
        for line in plain.file.getvalue().splitlines():  # type: ignore[attr-defined]  # it is the StringIO above
            print(line.rstrip())


def table(headings: Iterable[str], rows: Iterable[Sequence[str]], *, wrapped: Collection[str] = ()) -> Table:
    """A table without lines around it. Where the terminal is too narrow, cells are cut, or `wrapped` where named so."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        wraps = heading in wrapped
        made.add_column(Text(printable(heading)), overflow="fold" if wraps else "ellipsis", no_wrap=not wraps)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))  # Text: square brackets in values are no markup
    return made


def printable(text: str) -> str:
    """Text without control characters but line breaks: what a repository says must not steer a terminal."""
    return "".join(char if char == "\n" or char.isprintable() or char == " " else ascii(char)[1:-1] for char in text)


def value(shown: object, *, characters: int | None = VALUE_CHARACTERS) -> str:
    """A param or metric as people read it: floats with 5 significant digits, long things cut."""
    if isinstance(shown, float):
        return f"{shown:.5g}"
    if shown is None or isinstance(shown, (bool, int)):
        return json.dumps(shown)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    return text if characters is None or len(text) <= characters else text[: characters - 1] + "…"


def pairs(mapping: Mapping[str, object]) -> str:
    """Names and values, one to a line."""
    return "\n".join(f"{name}={value(item)}" for name, item in mapping.items())


def ago(moment: datetime, *, now: datetime) -> str:
    """How long ago something was, in its largest unit."""
    passed = now - moment
    for unit, word in _UNITS:
        if (count := passed // unit) >= 1:
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    seconds = max(0, int(passed.total_seconds()))
    return f"{seconds} second{'' if seconds == 1 else 's'} ago"


def elapsed(passed: timedelta) -> str:
    """A duration in hours, minutes and whole seconds: `1:02:03`."""
    return str(passed).partition(".")[0]


def size(count: int) -> str:
    """A number of bytes as people read it."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"


def moment(time: datetime) -> str:
    """A time in the zone of this machine."""
    return time.astimezone().strftime("%a, %d %b %Y %H:%M:%S %Z")


def as_json(content: object) -> str:
    """Content as JSON for other programs; NaN and infinities are null, because JSON has no word for them."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # json leaves these as they are


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


def checkpoint_cell(checkpoint: replicate.Checkpoint | None, *, everything: bool = False) -> str:
    """A checkpoint in a table of experiments: its id, step and primary metric, or all its metrics."""
    if checkpoint is None:
        return ""
    primary = checkpoint.primary_metric
    names = list(checkpoint.metrics) if everything or primary is None else [primary.name]
    metrics = {name: checkpoint.metrics[name] for name in names if name in checkpoint.metrics}
    where = ", ".join([f"step {checkpoint.step}", *caveats(checkpoint)])
    return "\n".join(filter(None, [f"{checkpoint.short_id} ({where})", pairs(metrics)]))


def caveats(checkpoint: replicate.Checkpoint) -> list[str]:
    """What must be known of a checkpoint before it is relied upon."""
    if checkpoint.lacks_files:
        return ["files let go" if checkpoint.is_released else "files not saved"]
    return [] if checkpoint.is_stored else ["not stored yet"]


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
