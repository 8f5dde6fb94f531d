"""`replicate compact`: combine the records of many experiments, so that listing them is fast."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import output
from replicate_core import formatting


@click.command(epilog="Example: replicate compact")
@click.option("--rebuild", is_flag=True, help="Combine all records again, from scratch.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def compact(open_project: Callable[[], replicate.Project], rebuild: bool, as_json: bool) -> None:  # noqa: FBT001  # click's way
    """Combine the records of many experiments, so that listing them takes only a few requests.

    Recorders do this automatically once there are many records. Run it by hand after another program has copied keys
    into the storage. Only derived data is deleted. Safe beside running experiments, on any machine.
    """
    report = open_project().compact(rebuild=rebuild)
    if as_json:
        fields = ("records", "unusable", "segment", "replaced")
        click.echo(output.as_json({name: getattr(report, name) for name in fields}))
        return
    if report.segment is None:
        click.echo("Nothing to do: all records are combined already.")
    else:
        click.echo(f"Put {formatting.count(report.records, 'record')} into {report.segment}.")
    if report.replaced:
        click.echo(f"It replaces {formatting.count(report.replaced, 'other')}.")
    if report.unusable:
        click.echo(f"Left as they are: {report.unusable}. `replicate verify` says whether they are damaged.")
