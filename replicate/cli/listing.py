"""What `ls`, `ps` and `export` share: filters, sort order, number of experiments, and output format."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import click

import replicate
from replicate.cli import output
from replicate_core import formatting

TERMINAL_ROWS = 50
"""Maximum number of experiments shown in a terminal, unless `-n` says otherwise."""

WIDE_COLUMNS = 140
"""Minimum width of a terminal for the wide table; a narrower one gets fewer columns with more lines in each."""

NAME_CHARACTERS, NARROW_NAME_CHARACTERS = 40, 18
"""Maximum number of characters of a name in a wide and in a narrow terminal."""

CHECKPOINTS = ("best_checkpoint", "latest_checkpoint", "best_recorded", "latest_recorded")
CHECKPOINT_COLUMNS = ("id", "created", "step", "metrics", "extra")
"""Checkpoints of an experiment in CSV and Parquet, and the columns of each."""

STYLES = {"running": "green", "failed": "red", "killed": "red", "lost": "red", "interrupted": "yellow"}

WRAPPED = ("PARAMS", "CHECKPOINTS", "LATEST CHECKPOINT", "BEST CHECKPOINT")
MIN_CHARACTERS = {
    "EXPERIMENT": 18,
    "STATUS": 14,
    "PARAMS": 12,
    "CHECKPOINTS": 27,
    "LATEST CHECKPOINT": 17,
    "BEST CHECKPOINT": 17,
}
"""Column to the minimum number of characters shown, even in a narrow terminal."""

Form: TypeAlias = Literal["table", "json", "csv", "ids"]
Columns: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Query:
    """Which experiments to list, in what order and in which format."""

    filters: tuple[str, ...]
    sort: str | None
    count: int | None
    """Maximum number of experiments; None: not given; 0: all."""
    form: Form = "table"
    raw: bool = False
    """Whether CSV holds strings as they were recorded."""


_SELECTION = (
    click.option(
        "-f",
        "--filter",
        "filters",
        multiple=True,
        metavar="'NAME OP VALUE'",
        help="Only experiments for which this holds, such as 'loss < 0.1'. OP is one of = != < <= > >=. "
        "Of several, all must hold.",
    ),
    click.option("-s", "--sort", metavar="NAME[-desc]", help="Sort by this value. Default: created."),
    click.option(
        "-n",
        "--number",
        "count",
        type=click.IntRange(min=0),
        metavar="N",
        help=f"Only the N latest, or the first N of --sort. 0: all. Default in a terminal: {TERMINAL_ROWS}.",
    ),
)
raw = click.option(
    "--raw",
    is_flag=True,
    help="With CSV: strings as recorded. Otherwise a ' is put before those that a spreadsheet would run, and control "
    "characters are escaped.",
)
"""The option of commands that write CSV."""

_FORMS = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs."),
    click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line for each experiment."),
    raw,
    click.option("-q", "--quiet", is_flag=True, help="Print only full ids, one a line."),
)

Command: TypeAlias = Callable[..., Any]


def selection(command: Command) -> Command:
    """Give a command the options that choose experiments; they arrive as `query`."""

    @functools.wraps(command)
    def with_query(
        *args: object, filters: tuple[str, ...], sort: str | None, count: int | None, **rest: object
    ) -> object:
        return command(*args, query=Query(filters, sort, count), **rest)

    return _decorated(with_query, _SELECTION)


def listing(command: Command) -> Command:
    """Give a command the options of `selection` and those that choose a format."""

    @functools.wraps(command)
    def with_form(
        *args: object,
        query: Query,
        as_json: bool,
        as_csv: bool,
        raw: bool,
        quiet: bool,
        **rest: object,
    ) -> object:
        given: dict[Form, bool] = {"json": as_json, "csv": as_csv, "ids": quiet}
        forms = [form for form, wished in given.items() if wished]
        if len(forms) > 1:
            raise click.UsageError("--json, --csv and --quiet exclude each other: give one of them.")
        form: Form = forms[0] if forms else "table"
        if raw and form != "csv":
            raise click.UsageError("--raw is for CSV: add --csv.")
        return command(*args, query=Query(query.filters, query.sort, query.count, form, raw), **rest)

    return selection(_decorated(with_form, _FORMS))


def everything(help_: str) -> Callable[[Command], Command]:
    """Give a command `--all`, which the first replicate called `-p`; it arrives as `everything`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_everything(*args: object, everything: bool, all_params: bool, **rest: object) -> object:
            return command(*args, everything=everything or all_params, **rest)

        former = click.option("-p", "--all-params", is_flag=True, hidden=True, help="As --all.")
        return _decorated(with_everything, [click.option("--all", "everything", is_flag=True, help=help_), former])

    return decorate


def _decorated(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def limit(found: replicate.ExperimentList, query: Query, *, default: int = 0) -> replicate.ExperimentList:
    """Return as many experiments as the query asks for, else `default`; 0 means all."""
    count = default if query.count is None else query.count
    if not count:
        return found
    return found[:count] if query.sort else found[-count:]


def show(project: replicate.Project, query: Query, columns: Callable[[replicate.ExperimentList], Columns]) -> bool:
    """Print the experiments in the format of the query; a table without rows prints nothing and returns False."""
    found = project.experiments.list(query.filters, sort=query.sort)
    is_table_for_people = query.form == "table" and not output.is_plain()
    shown = limit(found, query, default=TERMINAL_ROWS if is_table_for_people else 0)
    if query.form == "ids":
        print("".join(f"{experiment.id}\n" for experiment in shown), end="")
    elif query.form == "json":
        lines = [output.as_json(output.experiment_fields(experiment), indent=None) for experiment in shown]
        click.echo("[\n" + ",\n".join(lines) + "\n]" if lines else "[]")
    elif query.form == "csv":
        output.echo_csv(output.as_csv(map(row, shown), raw=query.raw))
    elif not found:
        return False
    else:
        _show_table(columns(shown))
        if len(shown) < len(found) and query.count is None:
            which = "first" if query.sort else "latest"
            click.echo(
                f"The {which} {len(shown)} of {formatting.count(len(found), 'experiment')}. All of them: -n 0", err=True
            )
    return True


def stacked(columns: Columns) -> list[str]:
    """Merge several columns into one, with the cells of a row below one another."""
    return ["\n".join(filter(None, cells)) for cells in zip(*filter(None, columns.values()), strict=True)]


def name_characters() -> int | None:
    """Return the maximum number of characters of a name; None: no limit."""
    if output.is_plain():
        return None
    return NARROW_NAME_CHARACTERS if is_narrow() else NAME_CHARACTERS


def is_narrow() -> bool:
    """Tell whether the output goes to a narrow terminal."""
    return not output.is_plain() and shutil.get_terminal_size().columns < WIDE_COLUMNS


def row(experiment: replicate.Experiment) -> dict[str, object]:
    """Return an experiment as a row for CSV and Parquet: what `--json` prints, flat, with fewer checkpoint fields."""
    fields = output.experiment_fields(experiment)
    primary = experiment.primary_metric
    fields["primary_metric"] = {} if primary is None else primary._asdict()
    for key in CHECKPOINTS:
        whole = fields[key]
        fields[key] = {name: whole[name] for name in CHECKPOINT_COLUMNS} if isinstance(whole, dict) else {}
    return output.flat(fields)


def _show_table(columns: Columns) -> None:
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    if output.is_plain():
        output.print_plain_table(shown)
        return
    with output.console() as console:
        rows = zip(*shown.values(), strict=True)
        console.print(output.table(shown, rows, wrapped=WRAPPED, min_characters=MIN_CHARACTERS, styles=STYLES))
