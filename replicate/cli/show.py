"""`replicate show`: show all that is known of one experiment or checkpoint."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

import click

import replicate
from replicate.cli import options, output, plot
from replicate_core import formatting
from replicate_core.views import metric_columns

if TYPE_CHECKING:
    from rich.console import Console

INTERESTING = (
    "keras",
    "tensorflow",
    "torch",
    "jax",
    "lightning",
    "pytorch-lightning",
    "transformers",
    "numpy",
    "pandas",
    "scikit-learn",
)
"""Packages that are shown, or shown first; `--all` shows the rest."""

OTHER_PACKAGES = 5
"""Maximum number of other packages shown if none of these is installed."""

CHECKPOINTS_SHOWN = 40
"""Maximum number of checkpoints shown, the latest; `--all` shows the rest."""

METRICS_SHOWN = 100
"""Maximum number of metrics that are columns of the table; `--json` has the rest."""

LINES_SHOWN = 1000
"""Maximum number of lines of a section; `--json` has the rest."""

TEXT_CHARACTERS = 2000
"""Maximum number of characters of a value; longer ones are cut, `--json` has all of them."""

LEFT_COLUMNS = 46
"""Maximum number of characters that the columns before the metrics take."""

NUMBER_CHARACTERS = 11
"""Maximum number of characters of a number: `-1.2345e-31`."""

_INDENT = "  "


EXAMPLES = """\b
Example: replicate show 3fa2c1b
         replicate show 3fa2c1b --json"""


@click.command(epilog=EXAMPLES)
@click.argument("prefix", metavar="ID", shell_complete=options.complete_id)
@click.option("--all", "everything", is_flag=True, help="Show every package and checkpoint.")
@click.option("--with-files", is_flag=True, help="Show only checkpoints that have files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_obj
def show(
    open_project: Callable[[], replicate.Project], prefix: str, *, everything: bool, with_files: bool, as_json: bool
) -> None:
    """Show an experiment or a checkpoint. The first characters of an ID are enough.

    In the table of checkpoints, FILES is the size of a checkpoint's files. The best checkpoint is the best with files.
    """
    project = open_project()
    try:
        experiment, checkpoint = project.experiments.find(prefix)
    except replicate.NotFound:
        output.hint_at_former(project, remote=True)
        raise
    output.hint_at_former(project)
    if as_json:
        whole = (
            output.experiment_details(experiment, with_files=with_files)
            if checkpoint is None
            else _fields(experiment, checkpoint)
        )
        click.echo(output.as_json(whole))
        return
    with output.console() as console:
        if checkpoint is None:
            _show_experiment(console, experiment, everything=everything, with_files=with_files)
        else:
            _show_checkpoint(console, experiment, checkpoint, everything=everything)


def _fields(experiment: replicate.Experiment, checkpoint: replicate.Checkpoint) -> dict[str, object]:
    return {
        **output.checkpoint_fields(checkpoint),
        "experiment": experiment.id,
        "status": experiment.status,
        "user": experiment.user,
        "host": experiment.host,
        "command": experiment.command,
        "params": experiment.params,
        "python_version": experiment.python_version,
        "packages": experiment.packages,
        "files": checkpoint.files,
    }


def _show_experiment(console: Console, experiment: replicate.Experiment, *, everything: bool, with_files: bool) -> None:
    _section(console, f"Experiment: {experiment.id}", _facts(experiment))
    _section(console, "Params", _values(metric_columns.flat(experiment.params)))
    _section(console, "System", {"Python": experiment.python_version, **_system(experiment.system)})
    _section(console, "Packages", _packages(experiment.packages, everything=everything))
    _show_plot(console, experiment)
    if experiment.checkpoints:
        _heading(console, "Checkpoints")
        table, notes = _checkpoints(experiment, everything=everything, with_files=with_files)
        console.print(table)
        for note in notes:
            console.print(note, style="dim")
        console.print()
        console.print("To see more of a checkpoint: replicate show ID", style="dim")
        has_files = any(checkpoint.has_files for checkpoint in experiment.checkpoints)
        what, option = ("code and files", "") if has_files else ("its code", " --code-only")
        console.print(f"To get {what} back: replicate checkout {experiment.short_id}{option}", style="dim")


def _facts(experiment: replicate.Experiment) -> dict[str, str | None]:
    return {
        "Name": experiment.name,
        "Tags": ", ".join(experiment.tags) or None,
        "Notes": experiment.notes,
        "Created": output.moment(experiment.created),
        "Status": _status(experiment),
        "Last sign of life": None if experiment.heartbeat is None else output.moment(experiment.heartbeat),
        "Waiting": f"{experiment.waiting} not stored yet" if experiment.waiting else None,
        "Duration": None if experiment.duration is None else formatting.elapsed(experiment.duration),
        "Blocked": None
        if experiment.blocked is None
        else f"{experiment.blocked.total_seconds():.2f} s in checkpoint(), in total",
        "Host": experiment.host,
        "User": experiment.user,
        "Command": experiment.command,
        "Git": _git(experiment),
        "Code": experiment.path,
        "Missing": experiment.code_problem,
        "Size": _size(experiment),
    }


def _size(experiment: replicate.Experiment) -> str:
    """Format the size of all files, and how much of it is saved by sharing bytes with others."""
    saved = experiment.size_bytes - experiment.stored_bytes
    share = f" ({formatting.size(saved)} saved, {saved / experiment.size_bytes:.0%})" if saved > 0 else ""
    return f"{formatting.size(experiment.size_bytes)}, {formatting.size(experiment.stored_bytes)} stored{share}"


def _show_plot(console: Console, experiment: replicate.Experiment) -> None:
    """Plot the primary metric, if it was measured at least twice."""
    primary = experiment.primary_metric
    if primary is None:
        return
    points = ((checkpoint.step, checkpoint.metrics.get(primary.name)) for checkpoint in experiment.checkpoints)
    lines = plot.draw(points, only_ascii="utf" not in (sys.stdout.encoding or "").lower())
    if lines:
        _heading(console, f"{primary.name} ({primary.goal}) by step")
        for line in lines:
            console.print(_INDENT + line, markup=False, no_wrap=True, overflow="crop")
        console.print()


def _status(experiment: replicate.Experiment) -> str:
    if experiment.status == "lost":
        return f"lost: `replicate sync` on {experiment.host or 'its machine'} stores what was left, and ends it"
    return experiment.status + (f" ({experiment.error})" if experiment.error else "")


def _git(experiment: replicate.Experiment) -> str | None:
    git = experiment.git
    if git is None:
        return None
    changed = {True: ", with changes that are not committed", False: "", None: ""}[git.dirty]
    return f"{git.commit[:12]} on {git.branch or 'no branch'}{changed}"


def _system(system: Mapping[str, object]) -> dict[str, str | None]:
    platform, processors = system.get("platform"), system.get("processors")
    memory, accelerators = system.get("memory_bytes"), system.get("accelerators")
    return {
        "Platform": None if platform is None else str(platform),
        "Processors": None if processors is None else output.value(processors),
        "Memory": formatting.size(memory) if isinstance(memory, int) else None,
        "Accelerators": ", ".join(map(str, accelerators)) if isinstance(accelerators, list) and accelerators else None,
    }


def _packages(packages: Mapping[str, str], *, everything: bool) -> dict[str, str | None]:
    interesting = [name for name in packages if name.lower() in INTERESTING]
    others = [name for name in packages if name.lower() not in INTERESTING]
    if not everything:
        others = [] if interesting else others[:OTHER_PACKAGES]
    shown: dict[str, str | None] = {name: packages[name] for name in (*interesting, *others)}
    rest = len(packages) - len(shown)
    return shown | ({f"and {rest} more (--all)": ""} if rest else {})


def _marks(checkpoint: replicate.Checkpoint, best: replicate.Checkpoint | None) -> str:
    is_best = best is not None and checkpoint.id == best.id
    marks = [*(["best"] if is_best else []), *checkpoint.caveats()]
    return f" ({', '.join(marks)})" if marks else ""


def _files(checkpoint: replicate.Checkpoint) -> str:
    """Format the size of a checkpoint's files; empty if it has none."""
    return formatting.size(checkpoint.size_bytes) if checkpoint.has_files else ""


def _checkpoints(experiment: replicate.Experiment, *, everything: bool, with_files: bool) -> tuple[object, list[str]]:
    """Return a table of the checkpoints, and notes on what the table leaves out."""
    best = experiment.best()
    found = [item for item in experiment.checkpoints if item.has_files or not with_files]
    names, hidden = _metric_columns(experiment, everything=everything)
    shown = found if everything else found[-CHECKPOINTS_SHOWN:]
    if len(shown) < len(found):
        listed = {item.id for item in shown}
        first = {item.id: item for item in (best, experiment.latest()) if item is not None and item.id not in listed}
        shown = [*first.values(), *shown]
    rows = (
        [
            checkpoint.short_id + _marks(checkpoint, best),
            str(checkpoint.step),
            formatting.elapsed(checkpoint.created - experiment.created),
            _files(checkpoint),
            *(output.value(checkpoint.metrics[name]) if name in checkpoint.metrics else "" for name in names),
        ]
        for checkpoint in shown
    )
    widths = {"ID": 24, "STEP": 10, "AFTER": 10, "FILES": 10}
    table = output.table([*widths, *(name.upper() for name in names)], rows, min_characters=widths)
    notes = _notes_on_files(experiment, with_files=with_files)
    left_out = 0 if everything else max(0, len(found) - CHECKPOINTS_SHOWN)
    notes += [f"The best and the latest; {left_out} more: --all"] if left_out else []
    all_of_them = "--json" if everything or output.is_plain() else "--all, --json or a wider terminal"
    notes += [f"{formatting.count(hidden, 'metric')} more: {all_of_them}"] if hidden else []
    return table, notes


def _notes_on_files(experiment: replicate.Experiment, *, with_files: bool) -> list[str]:
    """Return notes on checkpoints without files: how many there are, and whether one has the best value."""
    number, all_of_them = sum(item.has_files for item in experiment.checkpoints), len(experiment.checkpoints)
    if number == all_of_them:
        return []
    if number == 0:
        return ["No checkpoint has files"]
    hint = "" if with_files else ": --with-files lists only those"
    notes = [
        f"{number:,} of {formatting.count(all_of_them, 'checkpoint')} {'has' if number == 1 else 'have'} files{hint}"
    ]
    better, primary = experiment.better_without_files(), experiment.primary_metric
    if better is not None and primary is not None:
        value = output.value(better.metrics[primary.name])
        notes.append(
            f"The best {primary.name} recorded is {value}, in {better.short_id} (step {better.step}), without files"
        )
    return notes


def _metric_columns(experiment: replicate.Experiment, *, everything: bool) -> tuple[list[str], int]:
    """Return the metrics that fit the terminal, the primary one first, and the number of those that do not."""
    primary = experiment.primary_metric
    first = [primary.name] if primary else []
    found = (name for checkpoint in experiment.checkpoints for name in checkpoint.metrics)
    names = list(dict.fromkeys([*first, *found]))
    if everything or output.is_plain():
        return names[:METRICS_SHOWN], max(0, len(names) - METRICS_SHOWN)
    room = shutil.get_terminal_size().columns - LEFT_COLUMNS
    ends = accumulate(max(len(name), NUMBER_CHARACTERS) + 2 for name in names)
    shown = max(1, sum(end <= room for end in ends))
    shown = min(shown, METRICS_SHOWN)
    return names[:shown], len(names) - shown


def _show_checkpoint(
    console: Console, experiment: replicate.Experiment, checkpoint: replicate.Checkpoint, *, everything: bool
) -> None:
    facts = {
        "Created": output.moment(checkpoint.created),
        "Step": str(checkpoint.step),
        "Note": ", ".join(checkpoint.caveats()) or None,
        "Path": checkpoint.path,
        "Size": formatting.size(checkpoint.size_bytes),
        "Experiment": experiment.id,
        "Status": _status(experiment),
        "Host": experiment.host,
        "User": experiment.user,
        "Command": experiment.command,
        "Python": experiment.python_version,
    }
    _section(console, f"Checkpoint: {checkpoint.id}", facts)
    _section(console, "Metrics", _metrics(checkpoint))
    _section(console, "Other values", _values(checkpoint.extra))
    _section(console, "Files", {path: formatting.size(size) for path, size in checkpoint.files.items()})
    _section(console, "Params of the experiment", _values(metric_columns.flat(experiment.params)))
    _section(console, "Packages of the experiment", _packages(experiment.packages, everything=everything))


def _metrics(checkpoint: replicate.Checkpoint) -> dict[str, str | None]:
    primary = checkpoint.primary_metric
    marks = {} if primary is None else {primary.name: f" (primary, {primary.goal})"}
    return {name: output.value(item) + marks.get(name, "") for name, item in checkpoint.metrics.items()}


def _values(mapping: Mapping[str, object]) -> dict[str, str | None]:
    return {name: _whole_or_cut(output.value(item, characters=None)) for name, item in mapping.items()}


def _whole_or_cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS:
        return text
    return f"{formatting.cut(text, TEXT_CHARACTERS)} ({formatting.count(len(text), 'character')}: --json shows all)"


def _section(console: Console, title: str, facts: Mapping[str, str | None]) -> None:
    """Print names and values below a heading; values of None are left out, and so is an empty section."""
    rows: Iterable[tuple[str, str]] = [
        (f"{_INDENT}{name}:" if text else _INDENT + name, text) for name, text in facts.items() if text is not None
    ]
    if rows:
        _heading(console, title)
        listed = list(rows)
        left_out = len(listed) - LINES_SHOWN
        last = [(f"{_INDENT}and {left_out:,} more: --json", "")] if left_out > 0 else []
        grid = output.table(["", " "], [*listed[:LINES_SHOWN], *last], wrapped=[" "])
        grid.show_header = False
        console.print(grid)
        console.print()


def _heading(console: Console, title: str) -> None:
    console.print(output.printable(title), style="bold", markup=False)
