"""`replicate sync`: store what was saved on this machine and could not be stored yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

import replicate
from replicate.cli import output


@click.command(epilog="Example: replicate sync")
@click.pass_obj
def sync(open_project: Callable[[], replicate.Project]) -> int:
    """Store what waits in the spool of this project, because its process was killed or its storage failed.

    Experiments whose process is gone are ended. Exits with 3 if something could not be stored: it stays where it is.
    """
    with _progress(shown=sys.stderr.isatty()) as progress:
        report = open_project().sync(progress=progress)
    if not report:
        click.echo("Nothing is waiting: all that was saved here is stored.")
    for synced in report:
        click.echo(f"{synced.experiment[:7]}  {_verdict(synced)}")
    return 3 if any(synced.outcome == "failed" for synced in report) else 0


def _verdict(synced: replicate.Synced) -> str:
    waited = f"{synced.jobs} job{'s' * (synced.jobs != 1)}"
    if synced.outcome == "recording":
        return f"is running, and stores what it saves itself ({waited} waiting)"
    if synced.outcome == "failed":
        return f"not stored ({waited} waiting): {output.printable(synced.error or '')}"
    return f"stored ({waited})" if synced.jobs else "nothing was left to store; that it ended is recorded"


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    if not shown:
        yield lambda _done, _all: None
        return
    from rich.console import Console  # noqa: PLC0415  # it takes long to import, and most syncs have nobody to show it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    with Progress(
        TextColumn("storing"), BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("storing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
