"""`replicate diff`: show what differs between two experiments or checkpoints, and compare their code line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

import replicate
from replicate.cli import options, output
from replicate.cli.show import INTERESTING
from replicate_core import formatting
from replicate_core.format import ids
from replicate_core.format.manifest import File
from replicate_core.views.comparing import Comparison, Side
from replicate_core.views.diff import Change, Content, FileChange, Unset

if TYPE_CHECKING:
    from rich.console import Console

VALUES = ("experiment", "params", "metrics", "environment", "packages", "git")
SECTIONS = (*VALUES, "code", "files")

LISTED = 20
"""Maximum number of packages and of files listed, unless `--only` selects them."""

LINES = 200
"""Maximum number of lines of code shown, unless `--only` selects the code."""

VALUE_CHARACTERS = 50
"""Maximum number of characters of a value; longer ones are cut."""

_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"+": "green", "-": "red", "@": "cyan"}

EXAMPLES = """\b
Example: replicate diff 3fa2c1b 9d01e77
         replicate diff 3fa2c1b 9d01e77 --only params --only metrics
         replicate diff 3fa2c1b 9d01e77 --code | git apply"""


@click.command(epilog=EXAMPLES)
@click.argument("before", metavar="ID", shell_complete=options.complete_id)
@click.argument("after", metavar="ID", shell_complete=options.complete_id)
@click.option("--only", multiple=True, type=click.Choice(SECTIONS), help="Only this section. May be repeated.")
@click.option("--code", "only_code", is_flag=True, help="Only the code, as a patch that `git apply` takes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def diff(
    open_project: Callable[[], replicate.Project],
    before: str,
    after: str,
    *,
    only: tuple[str, ...],
    only_code: bool,
    as_json: bool,
) -> None:
    """Show what differs between two experiments or checkpoints.

    An experiment stands for its best checkpoint that has files, else its latest one. Values that are the same in both
    are left out.
    """
    if only_code and only:
        raise click.UsageError("--code and --only exclude each other: --only code lists the files, too.")
    comparison = open_project().experiments.compare(before, after)
    sections = ("code",) if only_code else tuple(section for section in SECTIONS if not only or section in only)
    if as_json:
        click.echo(output.as_json(_fields(comparison, sections)))
    elif only_code:
        _print_patch(comparison)
    else:
        with output.console() as console:
            _show(console, comparison, sections, whole=bool(only))


def _fields(comparison: Comparison, sections: Iterable[str]) -> dict[str, object]:
    made: dict[str, object] = {"before": _side_fields(comparison.before), "after": _side_fields(comparison.after)}
    for section in sections:
        if section == "code":
            made[section] = [{**_file_fields(change), "diff": comparison.lines(change)} for change in comparison.code]
        elif section == "files":
            made[section] = [_file_fields(change) for change in comparison.files]
        else:
            made[section] = {change.name: _change_fields(change) for change in _changes(comparison, section)}
    return made


def _side_fields(side: Side) -> dict[str, object]:
    checkpoint = side.checkpoint
    return {
        "experiment": side.state.created.experiment,
        "checkpoint": None if checkpoint is None else checkpoint.id,
        "step": None if checkpoint is None else checkpoint.step,
    }


def _change_fields(change: Change) -> dict[str, object]:
    """Return both values; a value that is not set has no key."""
    both = {"before": change.before, "after": change.after}
    return {side: value for side, value in both.items() if not isinstance(value, Unset)}


def _file_fields(change: FileChange) -> dict[str, object]:
    return {
        "path": change.path,
        "kind": change.kind,
        "before_bytes": change.before.size if isinstance(change.before, File) else None,
        "after_bytes": change.after.size if isinstance(change.after, File) else None,
    }


def _changes(comparison: Comparison, section: str) -> list[Change]:
    found: dict[str, Callable[[], list[Change]]] = {
        "experiment": lambda: comparison.experiment,
        "params": lambda: comparison.params,
        "metrics": lambda: comparison.metrics,
        "environment": lambda: comparison.environment,
        "packages": lambda: sorted(comparison.packages, key=_by_interest),
        "git": lambda: comparison.git,
    }
    return found[section]()


def _by_interest(change: Change) -> tuple[bool, str]:
    return change.name.lower() not in INTERESTING, change.name.lower()


def _print_patch(comparison: Comparison) -> None:
    """Print the diff; into a pipe unchanged, so that it stays a valid patch."""
    if output.is_plain():
        for change in comparison.code:
            lines = comparison.lines(change)
            is_patch = lines[0].startswith("diff ")  # else the lines say why there is no patch
            (sys.stdout if is_patch else sys.stderr).write("".join(f"{line}\n" for line in lines))
        return
    with output.console() as console:
        _show_lines(console, [line for change in comparison.code for line in comparison.lines(change)], most=None)


def _show(console: Console, comparison: Comparison, sections: Sequence[str], *, whole: bool) -> None:
    names = [_side_name(side) for side in (comparison.before, comparison.after)]
    for mark, side, name in zip("-+", (comparison.before, comparison.after), names, strict=True):
        title = output.printable(side.state.created.name or "")
        console.print(
            f"{mark} {name}  {title}".rstrip(), style=_STYLES[mark], markup=False, no_wrap=True, overflow="ellipsis"
        )
    console.print()
    same = [section for section in sections if not _show_section(console, comparison, section, whole=whole)]
    if same:
        console.print(f"The same in both: {', '.join(same)}", style="dim")


def _side_name(side: Side) -> str:
    checkpoint = side.checkpoint
    if checkpoint is None:
        what = "no checkpoint"
    else:
        files = "" if checkpoint.has_files else ", no files"
        what = f"checkpoint {ids.short(checkpoint.id)} (step {checkpoint.step}{files})"
    return f"experiment {ids.short(side.state.created.experiment)}, {what}"


def _show_section(console: Console, comparison: Comparison, section: str, *, whole: bool) -> bool:
    """Show a section; returns False if it is empty."""
    if section in VALUES:
        changes = _changes(comparison, section)
        if changes:
            console.print(section.capitalize(), style="bold")
            most = LISTED if section == "packages" and not whole else None
            _show_changes(console, changes[:most])
            _show_rest(console, len(changes) - len(changes[:most]), section)
        return bool(changes)
    files = comparison.code if section == "code" else comparison.files
    if files:
        console.print(section.capitalize(), style="bold")
        most = None if whole else LISTED
        rows = [[f"  {_MARKS[change.kind]} {change.path}", _sizes(change)] for change in files[:most]]
        grid = output.table(["", " "], rows)
        grid.show_header = False
        console.print(grid)
        _show_rest(console, len(files) - len(files[:most]), section)
        if section == "code":
            console.print()
            lines = [line for change in files for line in comparison.lines(change)]
            _show_lines(console, lines, most=None if whole else LINES)
        console.print()
    return bool(files)


def _show_changes(console: Console, changes: Iterable[Change]) -> None:
    rows = [[f"  {change.name}", _value(change.before), _value(change.after)] for change in changes]
    grid = output.table(["", "-", "+"], rows, wrapped=["-", "+"])
    grid.show_header = False
    console.print(grid)
    console.print()


def _value(value: object) -> str:
    if isinstance(value, Unset):
        return "(not set)"
    return output.value(value, characters=VALUE_CHARACTERS)


def _sizes(change: FileChange) -> str:
    old, new = (_size(side) for side in (change.before, change.after))
    return f"{old} to {new}" if old and new else old or new


def _size(content: Content) -> str:
    if content is None:
        return ""
    return formatting.size(content.size) if isinstance(content, File) else f"link to {content}"


def _show_rest(console: Console, rest: int, section: str) -> None:
    if rest:
        console.print(f"  and {rest:,} more: --only {section}", style="dim")
        console.print()


def _show_lines(console: Console, lines: Sequence[str], *, most: int | None) -> None:
    for line in lines[:most]:
        style = "bold" if line.startswith(("diff ", "---", "+++")) else _STYLES.get(line[:1], "")
        console.print(output.printable(line.expandtabs()), style=style, markup=False, soft_wrap=True)
    if most is not None and len(lines) > most:
        console.print(f"and {len(lines) - most:,} more lines: --code", style="dim")
