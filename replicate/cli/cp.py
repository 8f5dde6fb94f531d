"""`replicate cp`: copy some experiments to another storage."""

from __future__ import annotations

from collections.abc import Callable

import click

import replicate
from replicate.cli import options
from replicate.cli.copied import copy


@click.command(epilog="Example: replicate cp 3fa2c1b s3://bucket/published")
@click.argument("ids", metavar="EXPERIMENT...", nargs=-1, required=True, shell_complete=options.complete_id)
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def cp(open_project: Callable[..., replicate.Project], ids: tuple[str, ...], target: str, as_json: bool) -> int:  # noqa: FBT001  # click's way
    """Copy experiments, with all their checkpoints, to another storage.

    They keep their ids. Every byte is verified; what is there already is not copied again. Exits with 4 if something
    is damaged; the rest is copied. TARGET is given like --storage.
    """
    return copy(open_project(), open_project(storage=target), ids, as_json=as_json)
