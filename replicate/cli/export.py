"""`replicate export`: write experiments, or all their checkpoints, to a file for other programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

import replicate
from replicate.cli import listing, output
from replicate_core import formatting
from replicate_core.machine.files import temporary_beside

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("csv", "jsonl", "parquet")

TIMES = ("created", "heartbeat", *(f"{which}.created" for which in listing.CHECKPOINTS))
"""Columns that hold times."""

EXAMPLES = """\b
Example: replicate export experiments.csv
         replicate export history.parquet --checkpoints -f 'tag = paper'
         replicate export --format jsonl | jq .params"""


@click.command(epilog=EXAMPLES)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the ending of FILE, else csv.")
@click.option(
    "--checkpoints", "of_checkpoints", is_flag=True, help="Write a line for each checkpoint: the whole history."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@listing.raw
@listing.selection
@click.pass_obj
def export(
    open_project: Callable[[], replicate.Project],
    *,
    query: listing.Query,
    file: Path | None,
    form: str | None,
    of_checkpoints: bool,
    force: bool,
    raw: bool,
) -> int:
    """Write experiments to FILE, or to standard output, as CSV, JSON lines or Parquet.

    Each line is an experiment with its best and latest checkpoints; in JSON, with all that is known of it. Better and
    later checkpoints without files are best_recorded and latest_recorded. Filters and sorts are those of
    `replicate ls`. Parquet needs the package pyarrow.
    """
    file = None if file == Path("-") else file
    form = form or _form_of(file)
    if file is not None and file.exists() and not force:
        raise replicate.InvalidInput(f"{file} is there already: --force replaces it")
    if file is not None and not file.parent.is_dir():
        raise replicate.InvalidInput(f"{file} can't be written: there is no directory {file.parent}. Make it first")
    if form == "parquet" and file is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is binary and can't be shown in a terminal: give a FILE.")
    if raw and form != "csv":
        raise click.UsageError(f"--raw is for CSV: {form} always holds strings as they were recorded.")
    project = open_project()
    chosen = listing.limit(project.experiments.list(query.filters, sort=query.sort), query)
    if form == "jsonl":
        lines = [line for item in chosen for line in _lines(item, of_checkpoints=of_checkpoints)]
        data = "".join(output.as_json(line, indent=None) + "\n" for line in lines).encode()
    else:
        rows = [row for item in chosen for row in _rows(item, of_checkpoints=of_checkpoints)]
        data = _as_parquet(rows) if form == "parquet" else output.as_csv(rows, raw=raw).encode()
    if file is None and form == "csv":
        output.echo_csv(data.decode())
    elif file is None:
        click.echo(data, nl=False)
    else:
        _write(file, data)
    if file is not None:
        click.echo(f"Wrote {formatting.count(len(chosen), 'experiment')} to {output.printable(str(file))}.", err=True)
    return 0


def _form_of(file: Path | None) -> str:
    suffix = "" if file is None else file.suffix.lower()
    if suffix in ("", ".csv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    raise click.UsageError(f"the ending of {file} is not that of a known format: give --format {'|'.join(FORMATS)}.")


def _write(file: Path, data: bytes) -> None:
    """Write a file atomically: it appears once all of it is written."""
    temporary = temporary_beside(file)
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError as error:
        raise replicate.StorageFailed(f"can't write {file}: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _lines(experiment: replicate.Experiment, *, of_checkpoints: bool) -> list[dict[str, object]]:
    """Return the experiment with all details, or one line for each checkpoint with the experiment's id first."""
    if not of_checkpoints:
        return [output.experiment_details(experiment)]
    best = experiment.best()
    whose = {"experiment": experiment.id, "name": experiment.name, "params": experiment.params}
    return [
        {**whose, **output.checkpoint_fields(checkpoint), "is_best": best is not None and checkpoint.id == best.id}
        for checkpoint in experiment.checkpoints
    ]


def _rows(experiment: replicate.Experiment, *, of_checkpoints: bool) -> list[dict[str, object]]:
    if not of_checkpoints:
        return [listing.row(experiment)]
    return [output.flat(line) for line in _lines(experiment, of_checkpoints=True)]


def _as_parquet(rows: Sequence[dict[str, object]]) -> bytes:
    try:
        import pyarrow as pa  # noqa: PLC0415  # optional
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise replicate.MissingExtra('Parquet needs pyarrow: pip install "replicate[parquet]"') from error
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows], name) for name in names}
    made = io.BytesIO()
    parquet.write_table(pa.table(columns), made)
    return made.getvalue()


def _column(values: Sequence[object], name: str) -> pa.Array:
    """Return a column of the values' common type; without one, a column of strings that hold JSON."""
    import pyarrow as pa  # noqa: PLC0415

    if name in TIMES:
        values = [datetime.fromisoformat(value) if isinstance(value, str) else None for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
