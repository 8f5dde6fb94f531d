"""`replicate tag`, `note` and `name`: what people say of an experiment, while it runs and later."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import options, output

EXAMPLES = """\b
Example: replicate tag 3fa2c1b baseline
         replicate tag 3fa2c1b --remove baseline"""


@click.command(epilog=EXAMPLES)
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("-r", "--remove", is_flag=True, help="Take these tags away instead.")
@click.pass_obj
def tag(open_project: Callable[[], replicate.Project], prefix: str, tags: tuple[str, ...], remove: bool) -> None:  # noqa: FBT001  # click's way
    """Tag an experiment. It may be running, on any machine."""
    experiment = _experiment(open_project(), prefix)
    if remove:
        experiment.untag(*tags)
    else:
        experiment.tag(*tags)
    shown = ", ".join(experiment.tags) or "none"
    click.echo(f"Tags of the experiment {experiment.short_id}: {output.printable(shown)}")


@click.command(epilog='Example: replicate note 3fa2c1b "Diverges after step 9000"')
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("text")
@click.option("-a", "--append", is_flag=True, help="Add a line to the notes that are there.")
@click.pass_obj
def note(open_project: Callable[[], replicate.Project], prefix: str, text: str, append: bool) -> None:  # noqa: FBT001  # click's way
    """Write notes on an experiment, instead of those it has. An empty TEXT takes them away."""
    experiment = _experiment(open_project(), prefix)
    experiment.note(f"{experiment.notes}\n{text}" if append and experiment.notes else text)
    click.echo(f"Notes of the experiment {experiment.short_id}: {output.printable(experiment.notes or 'none')}")


@click.command(epilog="Example: replicate name 3fa2c1b digits-wide")
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("new_name", metavar="NAME")
@click.pass_obj
def name(open_project: Callable[[], replicate.Project], prefix: str, new_name: str) -> None:
    """Give an experiment a name, instead of the one it has. An empty NAME takes it away."""
    experiment = _experiment(open_project(), prefix)
    experiment.rename(new_name)
    click.echo(f"Name of the experiment {experiment.short_id}: {output.printable(experiment.name or 'none')}")


def _experiment(project: replicate.Project, prefix: str) -> replicate.Experiment:
    experiment, checkpoint = project.experiments.find(prefix)
    if checkpoint is not None:
        raise replicate.InvalidInput(
            f"{prefix!r} is a checkpoint of the experiment {experiment.short_id}, and only experiments have name, tags "
            f"and notes: give {experiment.short_id}"
        )
    return experiment
