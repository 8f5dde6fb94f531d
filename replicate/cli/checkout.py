"""`replicate checkout`: the code and files of an experiment or checkpoint, back in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

import replicate
from replicate.cli import output

LISTED = 10
"""So many paths that would be replaced are named before asking."""


@click.command(epilog="Example: replicate checkout 3fa2c1b -o best-model")
@click.argument("prefix", metavar="ID")
@click.option(
    "-o",
    "--output-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write. Default: a new directory here, named by the short id.",
)
@click.option("--path", help="Only this file or directory.")
@click.option("-f", "--force", is_flag=True, help="Replace what stands in the way without asking.")
@click.pass_obj
def checkout(
    open_project: Callable[[], replicate.Project],
    prefix: str,
    output_directory: Path | None,
    path: str | None,
    force: bool,  # noqa: FBT001  # click's way
) -> int:
    """Write the code and the files of an experiment or checkpoint to a directory.

    An experiment gives its best checkpoint, else its latest. Files in the directory that have other names stay.
    """
    experiment, checkpoint = open_project().experiments.find(prefix)
    chosen = checkpoint or experiment.best() or experiment.latest()
    source = chosen or experiment
    directory = output_directory or Path(source.short_id)
    layout = source.layout(path=path)
    existing = layout.existing(directory)
    if existing and not force and not _agreed(existing, directory):
        click.echo("Nothing was changed.", err=True)
        return 1
    source.checkout(directory, path=path)
    what = f"checkpoint {chosen.short_id} (step {chosen.step})" if chosen else "code"
    count = len(layout.files) + len(layout.links)
    click.echo(
        f"Wrote the {what} of experiment {experiment.short_id} to {directory} ({count} file{'s' * (count != 1)})."
    )
    if experiment.command and path is None:
        click.echo(f"It was started as: {output.printable(experiment.command)}")
    return 0


def _agreed(existing: list[str], directory: Path) -> bool:
    click.echo(f"These files in {directory} would be replaced:", err=True)
    for path in existing[:LISTED]:
        click.echo(f"  {output.printable(path)}", err=True)
    if len(existing) > LISTED:
        click.echo(f"  and {len(existing) - LISTED} more", err=True)
    return click.confirm("Replace them?", err=True)
