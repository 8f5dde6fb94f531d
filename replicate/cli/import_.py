"""`replicate import`: import experiments of Keepsake and of the first replicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import click

import replicate
from replicate.cli import output
from replicate_core import formatting
from replicate_core.format import ids

_LEFT_ALONE: Mapping[str, str] = {
    "present": "is here already",
    "deleted": "was here, and was deleted: it stays deleted",
    "running": "still runs: import it once it has ended",
    "failed": "can't be read",
}


@click.command("import", epilog="Example: replicate import s3://bucket/keepsake --dry-run")
@click.argument("url", metavar="URL")
@click.option("--dry-run", is_flag=True, help="Read and check everything, and store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def import_(
    open_project: Callable[[], replicate.Project],
    url: str,
    dry_run: bool,  # noqa: FBT001  # click's way
    as_json: bool,  # noqa: FBT001
) -> int:
    """Import the experiments of a repository that Keepsake 0.4 or the first replicate (2020) has written.

    URL is the URL or path of the repository, or a file that names it, like --storage. Ids, times, params, metrics, code
    and files are kept. What is here already is skipped, so the import can be repeated; files that were damaged or
    missing before are imported then. The source is not changed. Exits with 4 if something can't be read.
    """
    with output.progress("importing", "things", shown=not as_json) as progress:
        results = open_project().import_from(url, dry_run=dry_run, progress=progress)
    if as_json:
        click.echo(output.as_json([asdict(result) for result in results]))
    else:
        for result in results:
            _show(result, dry_run=dry_run)
        click.echo(_summary(results, dry_run=dry_run))
    return 4 if any(result.damages for result in results) else 0


def _show(result: replicate.ImportResult, *, dry_run: bool) -> None:
    which = ids.short(result.experiment) if ids.is_id(result.experiment) else result.experiment
    click.echo(f"{output.printable(which)}  {_verdict(result, dry_run=dry_run)}")
    for note in result.notes:
        click.echo(f"         note: {output.printable(note)}")
    for damage in result.damages:
        click.echo(f"         damaged: {output.printable(damage)}")


def _verdict(result: replicate.ImportResult, *, dry_run: bool) -> str:
    if result.outcome in _LEFT_ALONE:
        return _LEFT_ALONE[result.outcome]
    came = f"{formatting.count(result.checkpoints, 'checkpoint')}, {formatting.size(result.size_bytes)}"
    done = "would be imported" if dry_run else "imported"
    return f"{done}: {came}" + (", the rest was here already" if result.outcome == "completed" else "")


def _summary(results: list[replicate.ImportResult], *, dry_run: bool) -> str:
    new = [result for result in results if result.outcome not in _LEFT_ALONE]
    experiments = formatting.count(len(new), "experiment")
    came = f"{experiments} with {formatting.count(sum(result.checkpoints for result in new), 'checkpoint')}"
    return f"{'Would import' if dry_run else 'Imported'} {came}, of {len(results)} found."
