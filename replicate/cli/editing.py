"""`replicate tag`, `note` and `name`: label an experiment while it runs or later.

These commands refuse a tag, note or name that is the beginning of an id, as in `tag ID1 ID2 word`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import click

import replicate
from replicate.cli import options, output

_METHODS = {"tag": "tag", "note": "note", "name": "rename"}

ID_CHARACTERS = 4
"""Minimum number of characters that are taken for an id: `bad` and `fed` are words."""

_ID = re.compile(rf"[0-9a-f]{{{ID_CHARACTERS},}}")

EXAMPLES = """\b
Example: replicate tag 3fa2c1b baseline
         replicate tag 3fa2c1b --remove baseline"""


@click.command(epilog=EXAMPLES)
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("-r", "--remove", is_flag=True, help="Remove these tags instead.")
@click.pass_obj
def tag(open_project: Callable[[], replicate.Project], prefix: str, tags: tuple[str, ...], remove: bool) -> None:  # noqa: FBT001  # click's way
    """Tag an experiment. It may be running, on any machine."""
    project = open_project()
    experiment = _experiment(project, prefix)
    if remove:
        experiment.untag(*tags)
    else:
        _check_are_no_ids(project, [tag for tag in tags if tag not in experiment.tags], "tag")
        experiment.tag(*tags)
    shown = ", ".join(experiment.tags) or "none"
    click.echo(f"Tags of the experiment {experiment.short_id}: {output.printable(shown)}")


@click.command(epilog='Example: replicate note 3fa2c1b "Diverges after step 9000"')
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("text")
@click.option("-a", "--append", is_flag=True, help="Add a line to the existing notes.")
@click.pass_obj
def note(open_project: Callable[[], replicate.Project], prefix: str, text: str, append: bool) -> None:  # noqa: FBT001  # click's way
    """Replace the notes of an experiment. An empty TEXT removes them."""
    project = open_project()
    experiment = _experiment(project, prefix)
    _check_are_no_ids(project, [text], "note")
    experiment.note(f"{experiment.notes}\n{text}" if append and experiment.notes else text)
    click.echo(f"Notes of the experiment {experiment.short_id}: {output.printable(experiment.notes or 'none')}")


@click.command(epilog="Example: replicate name 3fa2c1b digits-wide")
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.argument("new_name", metavar="NAME")
@click.pass_obj
def name(open_project: Callable[[], replicate.Project], prefix: str, new_name: str) -> None:
    """Give an experiment another name. An empty NAME removes it."""
    project = open_project()
    experiment = _experiment(project, prefix)
    _check_are_no_ids(project, [new_name], "name")
    experiment.rename(new_name)
    click.echo(f"Name of the experiment {experiment.short_id}: {output.printable(experiment.name or 'none')}")


def _check_are_no_ids(project: replicate.Project, words: Sequence[str], command: str) -> None:
    """Refuse words that are the beginning of an id: each command edits one experiment."""
    for word in words:
        if not _ID.fullmatch(word) or not (matches := project.experiments.matching(word)):
            continue
        experiment, checkpoint = matches[0]
        what = "a checkpoint of the experiment" if checkpoint else "the experiment"
        raise replicate.InvalidInput(
            f"{word!r} begins the id of {what} {experiment.short_id}, and stands where a {command} is expected: "
            f"`replicate {command}` edits one experiment at a time, so give each one a command of its own. "
            f"experiments.get(ID).{_METHODS[command]}({word!r}) in Python takes any word"
        )


def _experiment(project: replicate.Project, prefix: str) -> replicate.Experiment:
    experiment, checkpoint = project.experiments.find(prefix)
    if checkpoint is not None:
        raise replicate.InvalidInput(
            f"{prefix!r} is a checkpoint of the experiment {experiment.short_id}, and only experiments have name, tags "
            f"and notes: give {experiment.short_id}"
        )
    return experiment
