"""`replicate trust`: allow what a project's file may only use with the user's consent, or revoke that."""

from __future__ import annotations

from pathlib import Path

import click

import replicate
from replicate.cli import options, output
from replicate_core import config
from replicate_core.machine.files import working_directory
from replicate_core.storage.opening import is_config
from replicate_core.storage.trust import Request, forget, trusted
from replicate_core.storage.trust import trust as remember
from replicate_core.storage.vetting import doubts


@click.command(epilog="Example: replicate trust archive.yaml")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--revoke", is_flag=True, help="Revoke the trust in FILE.")
@click.option("--list", "list_", is_flag=True, help="List the files that you trust.")
@click.pass_context
def trust(context: click.Context, file: Path | None, revoke: bool, list_: bool) -> None:  # noqa: FBT001  # click's way
    """Allow a replicate.yaml to use variables of your environment, or options that could run commands or read files.

    A project may come from anywhere: without trust, its file may only name a storage and harmless options. FILE is a
    file or a project directory. Default: the replicate.yaml of this project. The trust is for this path and content:
    if the storage or its options change, you are asked again.
    """
    if list_:
        for found in trusted():
            click.echo(output.printable(str(found)))
        return
    said = _read(file or _named(context) or config.find_directory(working_directory()))
    shown = output.printable(str(said.file.resolve()))
    if revoke:
        forget(said.file)
        click.echo(f"Not trusted any more: {shown}")
        return
    asked = doubts(said.storage, said.options)
    if not asked:
        click.echo(f"{shown} asks for nothing that needs trust.")
        return
    try:
        remember(said)
    except OSError as error:
        raise replicate.StorageFailed(f"can't save what you trust: {error}") from error
    click.echo(f"Trusted as it is now: {shown}. It may use:")
    for item in asked:
        click.echo(f"  {output.printable(item)}")
    click.echo("Revoke this with --revoke.")


def _named(context: click.Context) -> Path | None:
    """Return the file or project that the common options name."""
    storage = context.meta.get(options.STORAGE)
    if storage is None:
        return context.meta.get(options.DIRECTORY)
    if not is_config(storage, relative_to=working_directory(storage)):
        raise click.UsageError("a URL or path that you name needs no trust: only a file does, such as archive.yaml")
    return Path(storage).expanduser()


def _read(place: Path) -> Request:
    found = config.load(place) if place.is_dir() else config.load_file(place)
    if found.file is None:
        raise replicate.NotFound(f"{place} has no replicate.yaml: there is nothing to trust")
    return Request(found.file, found.storage, found.storage_options)
