"""Commands and options of Keepsake and of the first replicate that are gone or have another name now.

The help lists none of them. `docs/importing.md` says what each does here.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

COLOURS = ("auto", "always", "never", "true", "false")

_ANYTHING = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(context_settings=_ANYTHING)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run(words: Sequence[str]) -> int:  # noqa: ARG001  # the command to run
    """Explain that replicate does not run scripts."""
    click.echo(
        "replicate: `replicate run` is gone since 2020: start the script yourself, `python train.py`. "
        "replicate.init() in it saves the code and what it runs with.",
        err=True,
    )
    return 2


@click.command(context_settings=_ANYTHING)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def analytics(words: Sequence[str]) -> None:  # noqa: ARG001  # on or off
    """Say that there are no analytics."""
    click.echo("There are no analytics to turn on or off: nothing is sent to anyone.")


@click.command(context_settings=_ANYTHING)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def feedback(words: Sequence[str]) -> None:  # noqa: ARG001  # the message
    """Say that no feedback is sent."""
    click.echo("Nothing was sent: there is no server that takes it. Open an issue where you got replicate from.")


@click.command("help")
@click.argument("name", metavar="[COMMAND]", required=False)
@click.pass_context
def help_(context: click.Context, name: str | None) -> None:
    """Show the help of a command, or of all."""
    above = context.parent
    assert above is not None, "it stands below the group"
    assert isinstance(above.command, click.Group), "commands stand in a group"
    if name is None:
        click.echo(above.get_help())
        return
    found = above.command.get_command(above, name)
    if found is None:
        raise click.UsageError(f"No such command {name!r}: `replicate --help` lists them.", above)
    click.echo(found.get_help(click.Context(found, info_name=name, parent=above)))


COMMANDS: dict[str, click.Command] = {"run": run, "analytics": analytics, "feedback": feedback, "help": help_}


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with each bare `--color` replaced by `--color=always`.

    In Keepsake a bare `--color` meant true. Unreplaced, it would take the next word for its value:
    `replicate --color ls`.
    """
    made: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":
            return made + list(arguments[number:])
        is_alone = argument == "--color" and (*arguments[number + 1 :], "")[0] not in COLOURS
        made.append("--color=always" if is_alone else argument)
    return made
