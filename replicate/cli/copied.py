"""Copying between storages, as `replicate sync` and `replicate cp` do it: progress, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

import replicate
from replicate.cli import output


def copy(source: replicate.Project, target: replicate.Project, ids: Sequence[str] = (), *, as_json: bool) -> int:
    """Copy, say what was copied, and return the exit code."""
    with _progress(shown=not as_json and sys.stderr.isatty()) as progress:
        report = source.copy_to(target, ids, progress=progress)
    if as_json:
        click.echo(output.as_json(asdict(report)))
    else:
        _say(report)
    return 4 if report.failed or report.unusable else 0


def _say(report: replicate.CopyReport) -> None:
    if report.experiments:
        click.echo(
            f"Copied {_count(len(report.experiments), 'experiment')}: {_count(report.records, 'record')}, "
            f"{_count(report.objects, 'object')}, {output.size(report.bytes_copied)}."
        )
    if report.unchanged:
        verb = "was" if report.unchanged == 1 else "were"
        click.echo(f"{_count(report.unchanged, 'experiment')} {verb} there already.")
    if not (report.experiments or report.unchanged or report.failed):
        click.echo("Nothing to copy: there are no experiments.")
    for experiment, problem in report.failed.items():
        click.echo(f"{experiment[:7]}  not copied: {output.printable(problem)}", err=True)
    for problem in report.unusable:
        click.echo(f"left out: {output.printable(problem)}", err=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    if not shown:
        yield lambda _done, _all: None
        return
    columns = (TextColumn("copying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
