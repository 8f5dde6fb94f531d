"""What `ls`, `ps` and `export` share: which experiments, in what order, how many, and in which form."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import click

import replicate
from replicate.cli import output

TERMINAL_ROWS = 50
"""Maximum number of experiments shown in a terminal, unless `-n` says otherwise."""

WIDE_COLUMNS = 140
"""A narrower terminal gets fewer columns, with more lines in each."""

NAME_CHARACTERS, NARROW_NAME_CHARACTERS = 40, 18
"""Longer names are cut in a terminal."""

CHECKPOINTS = ("best_checkpoint", "latest_checkpoint", "best_recorded", "latest_recorded")
CHECKPOINT_COLUMNS = ("id", "created", "step", "metrics", "extra")
"""Of which checkpoints of an experiment CSV and Parquet tell, and what."""

STYLES = {"running": "green", "failed": "red", "killed": "red", "lost": "red", "interrupted": "yellow"}

WRAPPED = ("PARAMS", "CHECKPOINTS", "LATEST CHECKPOINT", "BEST CHECKPOINT")
WHOLE = {
    "EXPERIMENT": 18,
    "STATUS": 14,
    "PARAMS": 12,
    "CHECKPOINTS": 27,
    "LATEST CHECKPOINT": 17,
    "BEST CHECKPOINT": 17,
}
"""Column to how many characters of it are kept, however narrow the terminal is."""

Form: TypeAlias = Literal["table", "json", "csv", "ids"]
Columns: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    filters: tuple[str, ...]
    sort: str | None
    count: int | None
    """None: not said; 0: all."""
    form: Form = "table"
    raw: bool = False
    """Whether CSV holds texts as they were recorded."""


_SELECTION = (
    click.option(
        "-f",
        "--filter",
        "filters",
        multiple=True,
        metavar="'NAME OP VALUE'",
        help="Only these, such as 'loss < 0.1'. OP is one of = != < <= > >=. All of several must hold.",
    ),
    click.option("-s", "--sort", metavar="NAME[-desc]", help="Sort by this. Default: created."),
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
    help="With CSV: texts as recorded. Else a ' stands before those that a spreadsheet would run, and control "
    "characters are escaped.",
)
"""For commands that write CSV."""

_FORMS = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs."),
    click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line for each."),
    raw,
    click.option("-q", "--quiet", is_flag=True, help="Print whole ids only, one to a line."),
)

Command: TypeAlias = Callable[..., Any]


def selection(command: Command) -> Command:
    """Give a command the options that choose experiments: it gets them as `wish`."""

    @functools.wraps(command)
    def with_wish(
        *args: object, filters: tuple[str, ...], sort: str | None, count: int | None, **rest: object
    ) -> object:
        return command(*args, wish=Wish(filters, sort, count), **rest)

    return _decorated(with_wish, _SELECTION)


def listing(command: Command) -> Command:
    """Give a command those options and the ones that choose a form."""

    @functools.wraps(command)
    def with_form(
        *args: object,
        wish: Wish,
        as_json: bool,
        as_csv: bool,
        raw: bool,
        quiet: bool,
        **rest: object,
    ) -> object:
        given: dict[Form, bool] = {"json": as_json, "csv": as_csv, "ids": quiet}
        forms = [form for form, wished in given.items() if wished]
        if len(forms) > 1:
            raise click.UsageError("--json, --csv and --quiet are three forms: name one of them.")
        form: Form = forms[0] if forms else "table"
        if raw and form != "csv":
            raise click.UsageError("--raw is for CSV: add --csv.")
        return command(*args, wish=Wish(wish.filters, wish.sort, wish.count, form, raw), **rest)

    return selection(_decorated(with_form, _FORMS))


def everything(help_: str) -> Callable[[Command], Command]:
    """Give a command `--all`, which the first replicate called `-p`: it gets it as `everything`."""

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


def cut(found: replicate.ExperimentList, wish: Wish, *, default: int = 0) -> replicate.ExperimentList:
    """As many of them as are wished for; 0 stands for all."""
    count = default if wish.count is None else wish.count
    if not count:
        return found
    return found[:count] if wish.sort else found[-count:]


def show(project: replicate.Project, wish: Wish, columns: Callable[[replicate.ExperimentList], Columns]) -> bool:
    """Print the experiments in the form wished for; False, and nothing printed, where there are none for a table."""
    found = project.experiments.list(wish.filters, sort=wish.sort)
    is_table_for_people = wish.form == "table" and not output.is_plain()
    shown = cut(found, wish, default=TERMINAL_ROWS if is_table_for_people else 0)
    if wish.form == "ids":
        print("".join(f"{experiment.id}\n" for experiment in shown), end="")
    elif wish.form == "json":
        lines = [output.as_json(output.experiment_fields(experiment), indent=None) for experiment in shown]
        click.echo("[\n" + ",\n".join(lines) + "\n]" if lines else "[]")
    elif wish.form == "csv":
        output.echo_csv(output.as_csv(map(row, shown), raw=wish.raw))
    elif not found:
        return False
    else:
        _show_table(columns(shown))
        if len(shown) < len(found) and wish.count is None:
            which = "first" if wish.sort else "latest"
            click.echo(
                f"The {which} {len(shown)} of {output.count(len(found), 'experiment')}. All of them: -n 0", err=True
            )
    return True


def stacked(columns: Columns) -> list[str]:
    """Several columns as one, the cells of a row below one another."""
    return ["\n".join(filter(None, cells)) for cells in zip(*filter(None, columns.values()), strict=True)]


def name_characters() -> int | None:
    """How many characters of a name there is room for; None: for all."""
    if output.is_plain():
        return None
    return NARROW_NAME_CHARACTERS if is_narrow() else NAME_CHARACTERS


def is_narrow() -> bool:
    """Tell whether a person reads what is printed, in a terminal that takes only few columns."""
    return not output.is_plain() and shutil.get_terminal_size().columns < WIDE_COLUMNS


def row(experiment: replicate.Experiment) -> dict[str, object]:
    """An experiment in a table for programs: what `--json` prints, without nesting, and of checkpoints what matters."""
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
        console.print(output.table(shown, rows, wrapped=WRAPPED, whole=WHOLE, styles=STYLES))
