"""`replicate ps`: the experiments that run now, on every machine, and when each was last heard of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import click

import replicate
from replicate.cli import output


@click.command(epilog="Example: replicate ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.option("-q", "--quiet", is_flag=True, help="Print whole ids only, one to a line.")
@click.pass_obj
def ps(open_project: Callable[[], replicate.Project], as_json: bool, quiet: bool) -> None:  # noqa: FBT001  # click's way
    """List the experiments that are running now, on this machine and on others."""
    project = open_project()
    running = project.experiments.list(lambda experiment: experiment.is_running())
    if quiet:
        for experiment in running:
            click.echo(experiment.id)
    elif as_json:
        click.echo(output.as_json([output.experiment_fields(experiment) for experiment in running]))
    elif not running:
        click.echo("No experiments are running. `replicate ls` shows those that have ended.")
    else:
        with output.console() as console:
            console.print(_table(running, now=datetime.now(timezone.utc)))
    output.hint_at_waiting(project)


def _table(experiments: Sequence[replicate.Experiment], *, now: datetime) -> object:
    columns = {
        "EXPERIMENT": [experiment.short_id for experiment in experiments],
        "NAME": [experiment.name or "" for experiment in experiments],
        "STARTED": [output.ago(experiment.created, now=now) for experiment in experiments],
        "HOST": [experiment.host or "" for experiment in experiments],
        "USER": [experiment.user or "" for experiment in experiments],
        "LAST SIGN OF LIFE": [_sign(experiment, now=now) for experiment in experiments],
        "WAITING": [str(experiment.waiting or "") for experiment in experiments],
        "LATEST CHECKPOINT": [output.checkpoint_cell(experiment.latest()) for experiment in experiments],
    }
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    return output.table(shown, zip(*shown.values(), strict=True))


def _sign(experiment: replicate.Experiment, *, now: datetime) -> str:
    return "" if experiment.heartbeat is None else output.ago(experiment.heartbeat, now=now)
