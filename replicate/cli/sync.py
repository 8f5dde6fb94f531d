"""`replicate sync`: store what waits on this machine, or copy from one storage what another one lacks."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import output
from replicate.cli.copied import copy
from replicate_core import formatting
from replicate_core.format import ids
from replicate_core.redaction import without_credentials
from replicate_core.spool import syncing

FILES_SHOWN = 20
"""Maximum number of files listed before `--accept` asks."""


@click.command(epilog="Example: replicate sync s3://bucket/experiments /mnt/backup")
@click.argument("source", metavar="[SOURCE", required=False)
@click.argument("target", metavar="TARGET]", required=False)
@click.option("--anew", is_flag=True, help="Store what waits even if the storage has permanently lost what it held.")
@click.option(
    "--accept",
    metavar="NAME",
    help="Store also this directory of the spool, which may not be yours. Shows its content and asks first.",
)
@click.option("--yes", is_flag=True, help="With --accept: do not ask.")
@click.option("--json", "as_json", is_flag=True, help="With two storages: print JSON for other programs.")
@click.pass_obj
def sync(  # noqa: PLR0917  # one parameter for each option
    open_project: Callable[..., replicate.Project],
    source: str | None,
    target: str | None,
    anew: bool,  # noqa: FBT001  # click's way
    accept: str | None,
    yes: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> int:
    """Store what waits in the spool of this project, because its process was killed or its storage failed.

    Experiments whose process is gone are ended. Exits with 3 if something could not be stored: it stays in the spool.

    A directory of the spool that you have not made on this machine, or with this home directory, is reported and left
    alone: it may have come with a cloned project. If you know it, --accept stores it.

    With two storages, copy all that the first has and the second lacks: experiments, deletions, and every file,
    verified. May be stopped and repeated. Exits with 4 if something is damaged; the rest is copied. Each storage is
    given like --storage.
    """
    if source is not None and (anew or accept is not None):
        raise click.UsageError("--anew and --accept are for what waits on this machine, without storages")
    if source is not None and target is not None:
        return copy(open_project(storage=source), open_project(storage=target), as_json=as_json)
    if source is not None:
        shown = without_credentials(source)
        raise click.UsageError(f"give two storages, the source and the target, or none: {shown} is only one")
    project = open_project()
    if accept is not None and not _accept(project, accept, yes=yes):
        return 1
    with output.progress("storing", "things") as progress:
        report = project.sync(anew=anew, progress=progress, tell=lambda text: click.echo(f"{text} ...", err=True))
    others = [one for one in project.strangers() if not one.is_own]
    if not report and not others:
        click.echo("Nothing is waiting: all that was saved here is stored.")
    for synced in report:
        click.echo(f"{ids.short(synced.experiment)}  {_verdict(synced)}")
    for other in others:
        click.echo(output.printable(f"{ids.short(other.queue.experiment)}  is left alone: {other.why}. {other.todo}"))
    return 3 if any(synced.outcome in ("failed", "refused") for synced in report) else 0


def _accept(project: replicate.Project, name: str, *, yes: bool) -> bool:
    """Show a directory that may not be this user's; returns whether the user lets it be stored."""
    strangers = project.strangers()
    found = [one for one in strangers if one.queue.directory.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(one.queue.directory.name for one in strangers) or "none"
        raise replicate.NotFound(
            f"{len(found)} directories of {project.spool_directory} that are left alone have a name that begins with "
            f"{name!r}: name one of them. There are: {names}"
        )
    offer = syncing.offer(found[0])
    files = ", ".join(offer.files[:FILES_SHOWN]) + (", ..." if len(offer.files) > FILES_SHOWN else "")
    lines = [
        f"{found[0].queue.directory}: {found[0].why}.",
        f"Experiment  {ids.short(offer.experiment)} of {offer.project}",
        f"Waiting     {formatting.count(offer.jobs, 'job')}, {formatting.size(offer.total_bytes)} of files",
        f"Files       {files or 'none'}",
        f"Storage     {offer.storage}",
        f"Options     {', '.join(offer.options) or 'none'}",
    ]
    for line in lines:
        click.echo(output.printable(line))
    if not yes and not click.confirm("Store it there?"):
        return False
    project.accept(found[0])
    return True


def _verdict(synced: replicate.SyncResult) -> str:
    waited = f"{formatting.count(synced.jobs, 'job')}"
    if synced.outcome == "recording":
        return f"is running, and stores what it saves itself ({waited} waiting)"
    if synced.outcome == "refused":
        return output.printable(synced.error or "")
    if synced.outcome == "failed":
        return f"not stored ({waited} waiting): {output.printable(synced.error or '')}"
    return f"stored ({waited})" if synced.jobs else "nothing was left to store; that it ended is recorded"
