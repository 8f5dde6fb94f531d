"""`replicate status`: show what `init()` would save and leave out here, and whether the storage can be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import click

import replicate
from replicate.cli import output
from replicate_core import formatting
from replicate_core.format import ids
from replicate_core.spool import syncing

FILES_SHOWN = 20
"""Maximum number of files shown, the largest; `--all` shows the rest."""


@click.command(epilog="Example: replicate status --all")
@click.option("--path", default=".", help="The argument of init(path=...). Default: the whole project.")
@click.option("--all", "everything", is_flag=True, help="Show every file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def status(open_project: Callable[[], replicate.Project], path: str, everything: bool, as_json: bool) -> None:  # noqa: FBT001  # click's way
    """Show what replicate.init() would save from here, largest first, what it would leave out, and where it would go.

    Names files that look like secrets, or like data too large for code, and experiments with something on this machine
    that waits to be stored. Nothing is saved. Exits with 3 if the storage can't be reached within 10 seconds.
    """
    project = open_project()
    waits = project.waiting()
    preview = project.preview(path)
    problem: replicate.ReplicateError | None = None
    is_used = False
    try:
        is_used = project.reach()
    except replicate.ReplicateError as error:
        problem = error
    if as_json:
        fields = _fields(project, preview, problem, is_used=is_used)
        left_alone = [
            {"directory": str(one.queue.directory), "why": one.why, "todo": one.todo} for one in project.strangers()
        ]
        kept_aside = [str(path) for path in project.kept_aside()]
        waiting = [asdict(one) for one in waits]
        click.echo(output.as_json({**fields, "waiting": waiting, "left_alone": left_alone, "kept_aside": kept_aside}))
    else:
        _show(project, preview, problem, is_used=is_used, everything=everything)
        _show_waiting(waits)
        _show_spool(project)
        output.hint_at_waiting(project)
    if problem is None:
        output.hint_at_former(project, remote=True)
    if problem is not None:
        raise problem


def _show_waiting(waits: Sequence[syncing.Queued]) -> None:
    if waits:
        rows = (
            [
                ids.short(one.experiment),
                formatting.count(one.jobs, "job"),
                "is recorded" if one.is_recorded else "its process is gone",
                one.trouble or "",
            ]
            for one in waits
        )
        with output.console() as console:
            console.print()
            console.print(output.table(["WAITING HERE", "", "", "TROUBLE"], rows, wrapped=["TROUBLE"]))


def _show_spool(project: replicate.Project) -> None:
    """Show what in the spool nothing will store, and why."""
    kept = project.kept_aside()
    with output.console() as console:
        if kept:
            console.print()
            rows = ([str(path), "damaged before it was stored: look at it, then delete it"] for path in kept)
            console.print(output.table(["KEPT ASIDE", ""], rows))
        for stranger in project.strangers():
            console.print()
            text = f"Left alone: {stranger.queue.directory}: {stranger.why}. {stranger.todo}."
            console.print(output.printable(text), style="yellow", markup=False)


def _fields(
    project: replicate.Project, preview: replicate.Preview, problem: replicate.ReplicateError | None, *, is_used: bool
) -> dict[str, object]:
    return {
        "project": str(project.directory),
        "storage": project.shown_storage,
        "reachable": problem is None,
        "problem": None if problem is None else str(problem),
        "is_used": is_used,
        "total_bytes": preview.total_bytes,
        "limit_bytes": preview.limit_bytes,
        "files": [{"path": path, "size_bytes": size} for path, size in preview.files.items()],
        "left_out": [{"path": path, "why": why} for path, why in preview.left_out.items()],
        "secrets": preview.secrets,
        "data": preview.data,
        "outputs": list(preview.outputs),
        "concerns": preview.concerns(),
    }


def _show(
    project: replicate.Project,
    preview: replicate.Preview,
    problem: replicate.ReplicateError | None,
    *,
    is_used: bool,
    everything: bool,
) -> None:
    reached = "not reached" if problem is not None else "reached" if is_used else "reached, nothing is stored there yet"
    count = len(preview.files)
    shown = list(preview.files.items())[: None if everything else FILES_SHOWN]
    notes = dict.fromkeys(preview.data, "data?") | dict.fromkeys(preview.secrets, "secret?")
    with output.console() as console:
        console.print(f"Project: {output.printable(str(project.directory))}", markup=False)
        console.print(f"Storage: {output.printable(project.shown_storage)} ({reached})", markup=False)
        console.print(f"init() would save {formatting.count(count, 'file')}, {formatting.size(preview.total_bytes)}:")
        if shown:
            console.print()
            rows = ([formatting.size(size), notes.get(path, ""), path] for path, size in shown)
            console.print(output.table(["SIZE", "NOTE", "FILE"] if notes else ["SIZE", "", "FILE"], rows))
        if count > len(shown):
            console.print(f"and {count - len(shown)} smaller ones: --all")
        left_out = list(preview.left_out.items())[: None if everything else FILES_SHOWN]
        if left_out:
            console.print()
            console.print(output.table(["LEFT OUT", "WHY"], ([path, why] for path, why in left_out)))
        if len(preview.left_out) > len(left_out):
            console.print(f"and {len(preview.left_out) - len(left_out)} more: --all")
        for concern in preview.concerns():
            console.print()
            console.print(f"Warning: {output.printable(concern)}.", style="yellow", markup=False)
