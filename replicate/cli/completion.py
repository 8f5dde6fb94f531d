"""`replicate completion`: print the script that lets a shell complete commands, options and ids."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

EXAMPLES = """\b
Example: eval "$(replicate completion bash)"     in ~/.bashrc
         eval "$(replicate completion zsh)"      in ~/.zshrc
         replicate completion fish | source      in ~/.config/fish/config.fish"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print a script that makes a shell complete commands, options and ids.

    Default for SHELL: the one that the environment variable SHELL names.
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    made = get_completion_class(name) if name in SHELLS else None
    if made is None:
        raise click.UsageError(f"there is no completion for {name or 'an unknown shell'}: give {', '.join(SHELLS)}.")
    click.echo(made(context.find_root().command, {}, "replicate", "_REPLICATE_COMPLETE").source())
