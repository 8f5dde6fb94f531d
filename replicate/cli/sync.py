"""`replicate sync`: store what waits on this machine; or copy what one storage has and another has not."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import output
from replicate.cli.copied import copy
from replicate_core.redaction import without_credentials


@click.command(epilog="Example: replicate sync s3://bucket/experiments /mnt/backup")
@click.argument("source", metavar="[SOURCE", required=False)
@click.argument("target", metavar="TARGET]", required=False)
@click.option(
    "--anew", is_flag=True, help="Store what waits also where the storage has lost what it held, and that for good."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs; with two storages.")
@click.pass_obj
def sync(
    open_project: Callable[..., replicate.Project],
    source: str | None,
    target: str | None,
    anew: bool,  # noqa: FBT001  # click's way
    as_json: bool,  # noqa: FBT001
) -> int:
    """Store what waits in the spool of this project, because its process was killed or its storage failed.

    Experiments whose process is gone are ended. Exits with 3 if something could not be stored: it stays where it is.

    With two storages, copy all that the first has and the second has not: experiments, what was deleted, and every
    file, verified. May be stopped and repeated. Exits with 4 if something is damaged: the rest is copied. Each storage
    is named as for --storage.
    """
    if source is not None and anew:
        raise click.UsageError("--anew is for what waits on this machine, without storages")
    if source is not None and target is not None:
        return copy(open_project(storage=source), open_project(storage=target), as_json=as_json)
    if source is not None:
        shown = without_credentials(source)
        raise click.UsageError(f"name two storages, from where to where, or none: {shown} is one")
    with output.progress("storing", "things") as progress:
        report = open_project().sync(anew=anew, progress=progress)
    if not report:
        click.echo("Nothing is waiting: all that was saved here is stored.")
    for synced in report:
        click.echo(f"{synced.experiment[:7]}  {_verdict(synced)}")
    return 3 if any(synced.outcome == "failed" for synced in report) else 0


def _verdict(synced: replicate.Synced) -> str:
    waited = f"{output.count(synced.jobs, 'job')}"
    if synced.outcome == "recording":
        return f"is running, and stores what it saves itself ({waited} waiting)"
    if synced.outcome == "failed":
        return f"not stored ({waited} waiting): {output.printable(synced.error or '')}"
    return f"stored ({waited})" if synced.jobs else "nothing was left to store; that it ended is recorded"
