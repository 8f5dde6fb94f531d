"""Prints `docs/cli.md`, from the help of the commands. `nox -s reference` writes it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence

import click

from replicate.cli import ALIASES, EXIT_CODES, cli, options

_INTRODUCTION = """\
# The command line

Written by `nox -s reference` from the help of the commands themselves: `replicate COMMAND --help` says the same.

**IDs.** The first characters of an id are enough. If several experiments or checkpoints match, the error lists them.
If a command takes a checkpoint, the id of an experiment stands for its best checkpoint, else its latest: of those that
have files, if any has.

**Filters and sorts.** `-f 'NAME OP VALUE'` keeps the experiments for which it holds; of several, all must hold. OP is
`=`, `!=`, `<`, `<=`, `>` or `>=`. NAME is one of these:

| NAME | is |
|---|---|
| `name`, `tag`, `created`, `status`, `host`, `user`, `command`, `commit`, `branch` | what is known of the experiment |
| `step` | the step of its last checkpoint, with files or without |
| `checkpoints` | its number of checkpoints |
| `loss`, `metrics.loss`, `metrics.val.loss` | a metric of its best checkpoint, else of its latest |
| `lr`, `params.lr`, `params.model.layers` | a param; dots address nested ones |

A metric that this checkpoint lacks is looked up in the best, else the latest, of all checkpoints, also without files.

VALUE is a number, `true`, `false`, `null` (there is no such value), or a string, in quotes or not; the empty string is
`''`. Numbers compare with numbers, also with those that were recorded as strings. A filter on values that can't be
compared does not hold; it is never an error.
`created` takes `2 days ago`, `3h`, `today`, `yesterday`, `2026-11-24`, `2026-11` and `2026-11-24 09:30`. `-s loss`
sorts by the same names, `-s loss-desc` the largest first; experiments without the value come last. Python takes the
same: `replicate.experiments.list("metrics.loss < 0.1", sort="loss")`.

**Output.** In a pipe it is plain text, one line for each experiment, with nothing cut; `--json`, `--csv` and `-q` are
for programs. `show` cuts values of more than 2,000 characters and tables of more than 100 metrics, and says so:
`--json` has all of them. `NO_COLOR` and `--color never` turn colours off, `--color always` keeps them in a pipe.
Control and bidirectional characters in what was recorded are escaped; parsed JSON holds the recorded values, except NaN
and infinities, which are `null`. In CSV a `'` is put before strings that a spreadsheet would run as a formula (they
begin with `=`, `@`, `+` or `-`, and are not numbers); `--raw` turns all this off, except the escaping at a terminal.

**Completion.** `eval "$(replicate completion bash)"` completes commands, options and ids.
"""


def page() -> str:
    """Return the whole page."""
    context = click.Context(cli, info_name="replicate")
    sections = [_INTRODUCTION, _exit_codes(), _common()]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None and not command.hidden:
            sections.append(_section(name, command))
    return "\n".join(sections)


def _exit_codes() -> str:
    text = " ".join(EXIT_CODES.replace("\b", "").split())
    return textwrap.fill(text.replace("Exit codes:", "**Exit codes.**"), 120) + "\n"


def _common() -> str:
    return "## Options of every command\n\nBefore the command or after it.\n\n" + _table(options.COMMON)


def _section(name: str, command: click.Command) -> str:
    arguments = [_argument(item) for item in command.params if isinstance(item, click.Argument)]
    usage = " ".join(["replicate", name, "[OPTIONS]", *arguments])
    also = "".join(f"\nAlso `replicate {alias}`.\n" for alias, of in ALIASES.items() if of == name)
    own = [item for item in command.params if isinstance(item, click.Option) and item not in options.COMMON]
    parts = [f"## {usage}", inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n" + also]
    if own:
        parts.append(_table(own))
    if command.epilog:
        parts.append(_examples(command.epilog))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _table(params: Sequence[click.Parameter]) -> str:
    rows = [
        f"| `{', '.join(item.opts)}{_value(item)}` | {item.help or ''} |"
        for item in params
        if isinstance(item, click.Option) and not item.hidden
    ]
    return "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return " " + "\\|".join(map(str, option.type.choices))
    return f" {option.metavar or option.type.name.upper()}"


def _examples(epilog: str) -> str:
    lines = epilog.replace("\b\n", "").removeprefix("Example: ").splitlines()
    return "```text\n" + "\n".join(line.strip() for line in lines) + "\n```"


if __name__ == "__main__":
    print(page(), end="")
