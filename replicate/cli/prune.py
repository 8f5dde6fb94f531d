"""`replicate prune`: free the space of what nothing refers to any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import click

import replicate
from replicate.cli import output
from replicate_core import formatting

GRACE_HOURS = 24.0


@click.command(epilog="Example: replicate prune --yes")
@click.option("--yes", is_flag=True, help="Delete. Without it, only show what would be deleted.")
@click.option("--alone", is_flag=True, help="Delete at once: nobody else may write to this storage now.")
@click.option("--no-repack", is_flag=True, help="Do not repack objects of which little is needed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def prune(
    open_project: Callable[[], replicate.Project],
    yes: bool,  # noqa: FBT001  # click's way
    alone: bool,  # noqa: FBT001
    no_repack: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Free the space of deleted experiments and of anything else that nothing refers to.

    Safe beside running experiments, on any machine: objects that nothing has referred to for 24 hours are announced,
    and a prune at least 24 hours later deletes them. If nobody else writes, --alone deletes at once.
    """
    grace = timedelta(0) if alone else timedelta(hours=GRACE_HOURS)
    project = open_project()
    report = project.prune(dry_run=not yes, grace=grace, repack=not no_repack)
    if alone and yes:  # what was just announced or repacked is due at once
        first, report = report, project.prune(grace=grace, repack=False)
        last = project.prune(grace=grace, repack=False)
        deleted = {**first.deleted, **report.deleted, **last.deleted}
        report = replicate.PruneReport(deleted, repacked=first.repacked, passed_over=last.passed_over)
    elif alone:
        deleted = {**report.deleted, **report.waiting, **report.doomed}
        report = replicate.PruneReport(deleted, repacked=report.repacked, passed_over=report.passed_over)
    if as_json:
        fields = ("deleted", "doomed", "waiting", "young", "repacked", "passed_over")
        click.echo(output.as_json({"dry_run": not yes, **{name: getattr(report, name) for name in fields}}))
        return
    for problem in report.passed_over:
        click.echo(f"Skipped: {output.printable(problem)}")
    _say("Deleted" if yes else "Would delete", report.deleted)
    _say("Announced for deletion" if yes else "Would announce for deletion", report.doomed)
    _say("Announced before, and not due yet", report.waiting)
    _say("Not needed, but written within the last 24 hours", report.young)
    _say("Repacked, because most of it is not needed" if yes else "Would repack", report.repacked)
    if not any((report.deleted, report.doomed, report.waiting, report.young, report.repacked)):
        click.echo("Everything in the storage is needed.")
    elif not any((report.deleted, report.doomed, report.repacked)):
        click.echo("Nothing to do yet.")
    elif not yes:
        click.echo(f"Nothing was changed. To do it: replicate prune {'--alone ' * alone}--yes")
    elif report.doomed:
        click.echo(f"What was announced is deleted by the first `replicate prune --yes` after {GRACE_HOURS:g} hours.")


def _say(what: str, sizes: Mapping[str, int]) -> None:
    if sizes:
        click.echo(f"{what}: {formatting.count(len(sizes), 'object')}, {formatting.size(sum(sizes.values()))}")
