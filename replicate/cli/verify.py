"""`replicate verify`: is everything there, and is every byte what was stored?"""

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


@click.command(epilog="Example: replicate verify --deep 3fa2c1b")
@click.argument("prefixes", metavar="[ID...]", nargs=-1)
@click.option("--deep", is_flag=True, help="Read everything and check every byte, not only that it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def verify(
    open_project: Callable[[], replicate.Project],
    prefixes: tuple[str, ...],
    deep: bool,  # noqa: FBT001  # click's way
    as_json: bool,  # noqa: FBT001
) -> int:
    """Check that everything that experiments refer to is in the storage, with its right size or, --deep, bytes.

    Names the experiments, checkpoints and files that are hurt, and exits with 4 if there are any.
    """
    with _progress(shown=deep and not as_json and sys.stderr.isatty()) as progress:
        report = open_project().verify(prefixes, deep=deep, progress=progress)
    if as_json:
        click.echo(output.as_json(asdict(report)))
    elif report.damages:
        _show(report.damages)
    if not as_json:
        what = f"{output.size(report.bytes_checked)} read" if deep else "sizes compared"
        count = len(report.damages)
        verdict = f"{count} problem{'s' * (count != 1)}" if count else "no problems"
        click.echo(f"{report.experiments} experiments, {report.objects} objects, {what}: {verdict}.")
    return 4 if report.damages else 0


def _show(damages: Sequence[replicate.Damage]) -> None:
    rows = (
        [
            (damage.experiment or "?")[:7],
            (damage.checkpoint or ("code" if damage.experiment else "?"))[:7],
            damage.path or "",
            damage.problem,
        ]
        for damage in damages
    )
    with output.console() as console:
        console.print(output.table(["EXPERIMENT", "CHECKPOINT", "FILE", "PROBLEM"], rows, wrapped=["PROBLEM"]))


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    if not shown:
        yield lambda _done, _all: None
        return
    columns = (TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
