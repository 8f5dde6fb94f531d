"""`replicate verify`: check that everything is in the storage and undamaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import click

import replicate
from replicate.cli import options, output
from replicate_core import formatting
from replicate_core.format import ids


@click.command(epilog="Example: replicate verify --deep 3fa2c1b")
@click.argument("prefixes", metavar="[ID...]", nargs=-1, shell_complete=options.complete_id)
@click.option("--deep", is_flag=True, help="Read everything and check every byte, not only sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def verify(
    open_project: Callable[[], replicate.Project],
    prefixes: tuple[str, ...],
    deep: bool,  # noqa: FBT001  # click's way
    as_json: bool,  # noqa: FBT001
) -> int:
    """Check that everything that experiments refer to is in the storage, with the right size or, with --deep, bytes.

    Names damaged experiments, checkpoints and files, and anything else in the storage that can't be used, such as
    segments and tombstones; exits with 4 if there is any. Notes name what an import could not read.
    """
    with output.progress("checking", "bytes", shown=deep and not as_json) as progress:
        report = open_project().verify(prefixes, deep=deep, progress=progress)
    if as_json:
        click.echo(output.as_json(asdict(report)))
    elif report.damages:
        _show(report.damages)
    if not as_json:
        for lack in report.lacking:
            click.echo(f"note: {output.printable(lack.problem)}")
        if report.keyless:
            click.echo(
                f"note: {formatting.count(report.keyless, 'document')} of an earlier version can't be checked for "
                "standing in the place of another, except by experiment, kind and size"
            )
        what = f"{formatting.size(report.bytes_checked)} read" if deep else "sizes compared"
        verdict = formatting.count(len(report.damages), "problem") if report.damages else "no problems"
        checked = f"{formatting.count(report.experiments, 'experiment')}, {formatting.count(report.objects, 'object')}"
        click.echo(f"{checked}, {what}: {verdict}.")
    return 4 if report.damages else 0


def _show(damages: Sequence[replicate.Damage]) -> None:
    rows = (
        [
            ids.short(damage.experiment or "?"),
            ids.short(damage.checkpoint or ("code" if damage.experiment else "?")),
            damage.path or "",
            damage.problem,
        ]
        for damage in damages
    )
    with output.console() as console:
        console.print(output.table(["EXPERIMENT", "CHECKPOINT", "FILE", "PROBLEM"], rows, wrapped=["PROBLEM"]))
