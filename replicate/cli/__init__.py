"""The command line: parse, call the core, print. Every error becomes words and an exit code here, in one place.

The commands are beside this file, one job each; how values and tables look is in `output`.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

import replicate
from replicate.cli import output
from replicate.cli.checkout import checkout
from replicate.cli.ls import ls
from replicate.cli.prune import prune
from replicate.cli.ps import ps
from replicate.cli.rm import rm
from replicate.cli.show import show
from replicate.cli.sync import sync
from replicate.cli.verify import verify

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


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(replicate.__version__, prog_name="replicate")
@click.option(
    "-D",
    "--project-directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The project. Default: the nearest directory at or above this one with a replicate.yaml.",
)
@click.option("-S", "--storage", help="A URL or path, instead of the storage in replicate.yaml.")
@click.option("--create", is_flag=True, help="Make the bucket of the storage if it is missing.")
@click.pass_context
def cli(context: click.Context, project_directory: Path | None, storage: str | None, *, create: bool) -> None:
    """Version control for machine learning: list, show and get back what training runs have saved."""
    context.obj = partial(_open_project, storage, project_directory, create=create)  # opened by the command


def _open_project(storage: str | None, directory: Path | None, *, create: bool) -> replicate.Project:
    project = replicate.Project(storage=storage, directory=directory)
    if create:
        project.storage_options = {**project.storage_options, "create": True}
    return project


for _command in (ls, ps, show, checkout, rm, sync, verify, prune):
    cli.add_command(_command)


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
