"""`replicate ls`: list the experiments of a project, the params that differ, and their best metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone

import click

import replicate
from replicate.cli import listing, output
from replicate_core import formatting
from replicate_core.views import metric_columns
from replicate_core.views.diff import differing

EXAMPLES = """\b
Example: replicate ls
         replicate ls -f 'val_loss < 0.1' -f 'params.optimizer = adam' -s val_loss
         replicate ls -f 'created > 2 days ago' -f 'status != running' -n 5
         replicate ls --csv > experiments.csv"""


@click.command(epilog=EXAMPLES)
@listing.everything("Show all params and metrics, not only those that differ.")
@listing.listing
@click.pass_obj
def ls(open_project: Callable[[], replicate.Project], query: listing.Query, everything: bool) -> None:  # noqa: FBT001  # click's way
    """List experiments.

    The best and the latest checkpoint are chosen from those that have files, if any has. If a better or later one was
    recorded without files, its step is shown beside.

    A filter or a sort names a param (params.model.layers), a metric of the best checkpoint (metrics.loss), or one of:
    name, tag, created, status, step, checkpoints, host, user, command, commit, branch. "params." and "metrics." may be
    left out. Times are written as "2 days ago", "yesterday" or "2026-11-24"; "= null" finds those without the value.
    """
    project = open_project()
    now = datetime.now(timezone.utc)
    is_empty = not listing.show(project, query, lambda found: _columns(found, everything=everything, now=now))
    if is_empty:
        click.echo(
            "No experiments match."
            if query.filters
            else f"No experiments in {output.printable(project.location)} yet. "
            "`replicate.init()` in a script begins one."
        )
    output.hint_at_former(project, remote=is_empty)
    output.hint_at_waiting(project)


def _columns(experiments: Sequence[replicate.Experiment], *, everything: bool, now: datetime) -> listing.Columns:
    characters = listing.name_characters()
    about: dict[str, list[str]] = {
        "EXPERIMENT": [experiment.short_id for experiment in experiments],
        "NAME": [formatting.cut(experiment.name or "", characters) for experiment in experiments],
        "TAGS": ["\n".join(formatting.cut(tag, characters) for tag in experiment.tags) for experiment in experiments],
    }
    state: dict[str, list[str]] = {
        "STATUS": [experiment.status for experiment in experiments],
        "STARTED": [output.ago(experiment.created, now=now) for experiment in experiments],
        "HOST": _if_they_differ([formatting.cut(experiment.host or "", characters) for experiment in experiments]),
        "USER": _if_they_differ([formatting.cut(experiment.user or "", characters) for experiment in experiments]),
    }
    params = {"PARAMS": [output.pairs(params) for params in _params(experiments, everything=everything)]}
    if listing.is_narrow():
        checkpoints = [_both_checkpoints(experiment, everything=everything) for experiment in experiments]
        return {
            "EXPERIMENT": listing.stacked(about),
            "STATUS": listing.stacked(state),
            **params,
            "CHECKPOINTS": checkpoints,
        }
    best = [
        output.checkpoint_cell(item.best(), item.better_without_files(), everything=everything) for item in experiments
    ]
    latest = [
        output.checkpoint_cell(item.latest(), item.later_without_files(), everything=everything) for item in experiments
    ]
    return {**about, **state, **params, "BEST CHECKPOINT": best, "LATEST CHECKPOINT": latest}


def _both_checkpoints(experiment: replicate.Experiment, *, everything: bool) -> str:
    """Return a cell with the best checkpoint above the latest one."""
    best, latest = experiment.best(), experiment.latest()
    better, later = experiment.better_without_files(), experiment.later_without_files()
    shown = output.checkpoint_cell(best, better, everything=everything, indented=True)
    lines = [f"best {shown}"] if shown else []
    if later is None and latest is not None and best is not None and best.id == latest.id:
        lines.append("latest: the same")
    elif latest is not None:
        lines.append(f"latest {output.checkpoint_cell(latest, later, everything=everything, indented=True)}")
    return "\n".join(lines)


def _if_they_differ(cells: list[str]) -> list[str]:
    return cells if len(set(cells)) > 1 else []


def _params(experiments: Sequence[replicate.Experiment], *, everything: bool) -> Sequence[Mapping[str, object]]:
    """Return the params of each experiment: all of them, or those that differ between experiments."""
    all_params = [metric_columns.flat(experiment.params) for experiment in experiments]
    if everything:
        return all_params
    names = differing(all_params)
    return [{name: params[name] for name in names if name in params} for params in all_params]
