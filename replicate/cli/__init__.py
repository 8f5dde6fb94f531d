"""The command line: parse, call the core, print. Every error becomes words and an exit code here, in one place.

The commands are beside this file, one job each; how values and tables look is in `output`.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import click

import replicate
from replicate.cli import options, output
from replicate.cli.checkout import checkout
from replicate.cli.compact import compact
from replicate.cli.completion import completion
from replicate.cli.cp import cp
from replicate.cli.diff import diff
from replicate.cli.editing import name, note, tag
from replicate.cli.export import export
from replicate.cli.import_ import import_
from replicate.cli.ls import ls
from replicate.cli.prune import prune
from replicate.cli.ps import ps
from replicate.cli.rm import rm
from replicate.cli.show import show
from replicate.cli.status import status
from replicate.cli.sync import sync
from replicate.cli.verify import verify
from replicate.cli.whence import whence

EXIT_CODES = """\b
Exit codes: 0 done, 1 not found or answered with no, 2 wrong usage or
configuration, 3 the storage failed, 4 stored data is corrupted."""

_CODES: tuple[tuple[type[replicate.ReplicateError], int], ...] = (
    (replicate.NotFound, 1),
    (replicate.InvalidInput, 2),
    (replicate.ConfigInvalid, 2),
    (replicate.Corrupted, 4),
    (replicate.ReplicateError, 3),  # the storage failed, lacks its driver, or is too new
)


ALIASES = {"list": "ls", "processes": "ps", "delete": "rm"}
"""Other words for a command, which people know from elsewhere."""


class _Commands(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(replicate.__version__, prog_name="replicate")
@click.pass_context
def cli(context: click.Context) -> None:
    """Version control for machine learning: list, show, compare and get back what training runs have saved."""
    context.obj = partial(options.open_project, context)  # opened by the command


for _command in (
    status,
    ls,
    ps,
    show,
    diff,
    checkout,
    export,
    tag,
    note,
    name,
    whence,
    rm,
    sync,
    cp,
    verify,
    prune,
    compact,
    import_,
    completion,
):
    cli.add_command(_command)
for _taker in (cli, *cli.commands.values()):
    _taker.params.extend(options.COMMON)


def run(arguments: Sequence[str]) -> int:
    """Run a command line, and return its exit code. What goes wrong is said on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every character
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            result = cli.main(list(arguments), prog_name="replicate", standalone_mode=False)
        except click.ClickException as error:
            error.show()
            return 2
        except (click.Abort, KeyboardInterrupt):
            click.echo("Stopped: nothing is half done. Where a command asks, --force does it without.", err=True)
            return 1
        except replicate.ReplicateError as error:
            if _may_create(error, arguments):
                return run(["--create", *arguments])
            click.echo(f"replicate: {output.printable(str(error))}", err=True)
            return next(code for type_, code in _CODES if isinstance(error, type_))
        except BrokenPipeError:  # `replicate ls | head`
            return 0
    return result if isinstance(result, int) else 0


def _may_create(error: replicate.ReplicateError, arguments: Sequence[str]) -> bool:
    """Ask, at a terminal, whether a bucket that is missing shall be made."""
    if not (isinstance(error, replicate.StorageFailed) and error.bucket_is_missing) or "--create" in arguments:
        return False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(f"replicate: {output.printable(str(error))}", err=True)
    try:
        return click.confirm("Make the bucket now?", err=True)
    except click.Abort:
        return False


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"replicate: warning: {output.printable(str(message))}", err=True)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
