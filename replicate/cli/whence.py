"""`replicate whence`: find the checkpoints and experiments that hold the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import click

import replicate
from replicate.cli import output
from replicate_core import formatting


@click.command(epilog="Example: replicate whence downloads/model.pt")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def whence(open_project: Callable[[], replicate.Project], file: Path, as_json: bool) -> int:  # noqa: FBT001  # click's way
    """Find the checkpoints and experiments that hold a file, by its bytes: weights, code, or anything that was saved.

    The file may have been renamed or moved. Exits with 1 if nothing holds it.
    """
    project = open_project()
    holders = project.whence(file)
    if as_json:
        click.echo(output.as_json([_fields(holder) for holder in holders]))
    elif holders:
        with output.console() as console:
            console.print(_table(holders, now=datetime.now(timezone.utc)))
    else:
        shown = f"{output.printable(str(file))} ({formatting.size(file.stat().st_size)})"
        click.echo(f"Nothing in {project.location} holds the bytes of {shown}.", err=True)
    return 0 if holders else 1


def _table(holders: Sequence[replicate.FileMatch], *, now: datetime) -> object:
    columns: dict[str, list[str]] = {
        "EXPERIMENT": [holder.experiment.short_id for holder in holders],
        "NAME": [holder.experiment.name or "" for holder in holders],
        "CHECKPOINT": ["code" if holder.checkpoint is None else holder.checkpoint.short_id for holder in holders],
        "STEP": ["" if holder.checkpoint is None else str(holder.checkpoint.step) for holder in holders],
        "MADE": [output.ago((holder.checkpoint or holder.experiment).created, now=now) for holder in holders],
        "FILE": [holder.path for holder in holders],
    }
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    return output.table(shown, zip(*shown.values(), strict=True), wrapped=["FILE"])


def _fields(holder: replicate.FileMatch) -> dict[str, object]:
    checkpoint = holder.checkpoint
    return {
        "experiment": holder.experiment.id,
        "name": holder.experiment.name,
        "checkpoint": None if checkpoint is None else checkpoint.id,
        "step": None if checkpoint is None else checkpoint.step,
        "created": (checkpoint or holder.experiment).created.isoformat(),
        "path": holder.path,
    }
