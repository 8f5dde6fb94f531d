"""Copying between storages, shared by `replicate sync` and `replicate cp`: progress and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

import replicate
from replicate.cli import output
from replicate_core import formatting
from replicate_core.format import ids


def copy(source: replicate.Project, target: replicate.Project, ids: Sequence[str] = (), *, as_json: bool) -> int:
    """Copy, print what was copied, and return the exit code."""
    with output.progress("copying", "bytes", shown=not as_json) as progress:
        report = source.copy_to(target, ids, progress=progress)
    if as_json:
        click.echo(output.as_json(asdict(report)))
    else:
        _say(report)
    return 4 if report.failed or report.unusable else 0


def _say(report: replicate.CopyReport) -> None:
    if report.experiments:
        click.echo(
            f"Copied {formatting.count(len(report.experiments), 'experiment')}: "
            f"{formatting.count(report.records, 'record')}, {formatting.count(report.objects, 'object')}, "
            f"{formatting.size(report.bytes_copied)}."
        )
    if report.deleted:
        click.echo(f"Copied the deletion of {formatting.count(len(report.deleted), 'experiment')}.")
    if report.unchanged:
        verb = "was" if report.unchanged == 1 else "were"
        click.echo(f"{formatting.count(report.unchanged, 'experiment')} {verb} there already.")
    if not (report.experiments or report.deleted or report.unchanged or report.failed):
        click.echo("Nothing to copy: there are no experiments.")
    for experiment, problem in report.failed.items():
        click.echo(f"{ids.short(experiment)}  not copied: {output.printable(problem)}", err=True)
    for problem in report.unusable:
        click.echo(f"left out: {output.printable(problem)}", err=True)
