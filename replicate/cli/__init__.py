"""The command line: parse, call the core, print. This module alone turns errors into messages and exit codes.

Each command is a module of this package; `output` formats values and tables.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import click

import replicate
from replicate.cli import former, options, output
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
from replicate.cli.trust import trust
from replicate.cli.verify import verify
from replicate.cli.whence import whence

EXIT_CODES = """\b
Exit codes: 0 done, 1 not found or answered with no, 2 wrong usage or
configuration, 3 the storage failed, 4 stored data is corrupted, 141 the
reader of the output has left."""

_CODES: tuple[tuple[type[replicate.ReplicateError], int], ...] = (
    (replicate.NotFound, 1),
    (replicate.InvalidInput, 2),
    (replicate.ConfigInvalid, 2),
    (replicate.Corrupted, 4),
    (replicate.ReplicateError, 3),  # the storage failed, lacks its driver, or is too new
)


READER_LEFT = 141
"""Exit code after the reader of the output has left, as shells report it: 128 plus the number of SIGPIPE."""

ALIASES = {"list": "ls", "processes": "ps", "delete": "rm"}
"""Alias to command: names that people know from other tools."""


class _Commands(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name)) or former.COMMANDS.get(cmd_name)


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(replicate.__version__, prog_name="replicate")
@click.pass_context
def cli(context: click.Context) -> None:
    """Version control for machine learning: list, show, compare and restore what training runs have saved."""
    context.obj = partial(options.open_project, context)  # each command opens the project itself


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
    trust,
    cp,
    verify,
    prune,
    compact,
    import_,
    completion,
):
    cli.add_command(_command)
for _taker in (cli, *cli.commands.values()):
    _taker.params.extend((*options.COMMON, *options.FORMER))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. Errors go to standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not support every character
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            result = cli.main(former.spelled_out(arguments), prog_name="replicate", standalone_mode=False)
        except click.ClickException as error:
            error.message = output.printable(error.message)  # type: ignore[misc]  # final in its types alone
            error.show()
            return 2
        except (click.Abort, KeyboardInterrupt):
            click.echo(
                "Stopped: nothing was left half done. Where a command asks, --force skips the question.", err=True
            )
            return 1
        except replicate.ReplicateError as error:
            if _may_create(error, arguments):
                return run(["--create", *arguments])
            click.echo(f"replicate: {output.printable(str(error))}", err=True)
            return next(code for type_, code in _CODES if isinstance(error, type_))
        except SystemExit as end:  # click exits with 1 when the reader leaves, as `head` does; else after completion
            return READER_LEFT if end.code == 1 else 0
    return result if isinstance(result, int) else 0


def _may_create(error: replicate.ReplicateError, arguments: Sequence[str]) -> bool:
    """At a terminal, ask whether to create the missing bucket."""
    if not (isinstance(error, replicate.StorageFailed) and error.bucket_is_missing) or "--create" in arguments:
        return False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(f"replicate: {output.printable(str(error))}", err=True)
    try:
        return click.confirm("Create the bucket now?", err=True)
    except click.Abort:
        return False


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"replicate: warning: {output.printable(str(message))}", err=True)


def main() -> None:
    """Run the console script `replicate`."""
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # it was closed, as in `replicate ls >&-`
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))
    sys.exit(_printed_to_the_end(run(sys.argv[1:])))


def _printed_to_the_end(code: int) -> int:
    """Flush standard output; returns the exit code, which is 3 if that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes once more at exit
        if isinstance(error, BrokenPipeError):  # `replicate ls | head`
            return code
        click.echo(f"replicate: can't write to standard output: {error.strerror}", err=True)
        return 3
    return code
