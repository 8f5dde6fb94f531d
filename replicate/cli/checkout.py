"""`replicate checkout`: write the code and files of an experiment or checkpoint to a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

import replicate
from replicate.cli import options, output
from replicate_core import formatting
from replicate_core.machine.names import portable
from replicate_core.repository.checkout import What

LISTED = 10
"""Maximum number of paths listed in the question whether to replace files."""

EXAMPLES = """\b
Example: replicate checkout 3fa2c1b -o best-model
         replicate checkout 3fa2c1b --files-only --path weights"""


@click.command(epilog=EXAMPLES)
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.option(
    "-o",
    "--output-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write. Default: the project directory.",
)
@click.option("--path", help="Only this file or directory.")
@click.option("--code-only", is_flag=True, help="Only the code.")
@click.option("--files-only", is_flag=True, help="Only what the checkpoint saved, without the code.")
@click.option("-f", "--force", is_flag=True, help="Replace files that differ without asking.")
@click.pass_obj
def checkout(
    open_project: Callable[[], replicate.Project],
    prefix: str,
    *,
    output_directory: Path | None,
    path: str | None,
    code_only: bool,
    files_only: bool,
    force: bool,
) -> int:
    """Write the code and the files of an experiment or checkpoint to a directory.

    An experiment stands for its best checkpoint that has files, else its latest one; without any checkpoint, only its
    code is written. A checkpoint without files is an error that names the nearest ones with files, unless --code-only
    is given. Files that differ are listed, and replaced only with your consent; files of other names stay. Everything
    is fetched and verified before the first file is touched.
    """
    if code_only and files_only:
        raise click.UsageError("--code-only and --files-only exclude each other: give one of them.")
    what: What = "code" if code_only else "files" if files_only else "all"
    project = open_project()
    experiment, checkpoint = project.experiments.find(prefix)
    chosen = checkpoint or experiment.best_or_latest()
    source = chosen or experiment
    directory = project.directory_of(experiment) if output_directory is None else output_directory
    layout = source.layout(path=None if path is None else portable(path), what=what)
    replaced = layout.replaced(directory)
    if replaced and not force and not _agreed(replaced, directory):
        click.echo("Nothing was changed.", err=True)
        return 1
    with output.progress("fetching", "bytes") as progress:
        project.check_out(layout, directory, progress)
    written = f"{_words(what, chosen)} of experiment {experiment.short_id}"
    where = output.printable(str(directory))
    click.echo(f"Wrote the {written} to {where} ({formatting.count(len(layout.files) + len(layout.links), 'file')}).")
    if experiment.command and path is None and not files_only:
        click.echo(f"It was started as: {output.printable(experiment.command)}")
    return 0


def _words(what: What, chosen: replicate.Checkpoint | None) -> str:
    if chosen is None:
        return "code"
    part = {"all": "", "code": "code of ", "files": "files of "}[what]
    return f"{part}checkpoint {chosen.short_id} (step {chosen.step})"


def _agreed(replaced: list[str], directory: Path) -> bool:
    click.echo(f"These files in {output.printable(str(directory))} differ, and would be replaced:", err=True)
    for path in replaced[:LISTED]:
        click.echo(f"  {output.printable(path)}", err=True)
    if len(replaced) > LISTED:
        click.echo(f"  and {len(replaced) - LISTED:,} more", err=True)
    return click.confirm("Replace them?", err=True)
