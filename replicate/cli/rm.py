"""`replicate rm`: delete experiments and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import options, output
from replicate_core import formatting


@click.command(epilog="Example: replicate rm 3fa2c1b 9d01e77")
@click.argument("prefixes", metavar="ID...", nargs=-1, required=True, shell_complete=options.complete_id)
@click.option("-f", "--force", is_flag=True, help="Delete without asking.")
@click.pass_obj
def rm(open_project: Callable[[], replicate.Project], prefixes: tuple[str, ...], force: bool) -> int:  # noqa: FBT001  # click's way
    """Delete experiments and checkpoints.

    They disappear from listings; data that others share is kept. `replicate prune` frees the space.
    """
    project = open_project()
    found = [project.experiments.find(prefix) for prefix in prefixes]
    chosen = list(
        {(checkpoint or experiment).id: (experiment, checkpoint) for experiment, checkpoint in found}.values()
    )
    for experiment, checkpoint in chosen:
        click.echo(_described(experiment, checkpoint), err=True)
    if not force and not click.confirm("Delete them?" if len(chosen) > 1 else "Delete it?", err=True):
        click.echo("Nothing was deleted.", err=True)
        return 1
    for experiment, checkpoint in chosen:
        (checkpoint or experiment).delete()
    click.echo(f"Deleted {len(chosen)}. To free the space: replicate prune")
    return 0


def _described(experiment: replicate.Experiment, checkpoint: replicate.Checkpoint | None) -> str:
    if checkpoint is not None:
        return f"checkpoint {checkpoint.short_id} (step {checkpoint.step}) of experiment {experiment.short_id}"
    name = f" {output.printable(experiment.name)!r}" if experiment.name else ""
    count = len(experiment.checkpoints)
    runs = ", which is running: what it records from now on is lost" if experiment.is_running() else ""
    return f"experiment {experiment.short_id}{name} with {formatting.count(count, 'checkpoint')}{runs}"
