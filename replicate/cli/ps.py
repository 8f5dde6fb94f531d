"""`replicate ps`: list the experiments that are running, on every machine, with the last heartbeat of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

import click

import replicate
from replicate.cli import listing, output
from replicate_core import formatting
from replicate_core.views import metric_columns

EXAMPLES = """\b
Example: replicate ps
         replicate ps -f 'host = gpu-7' -s step-desc"""


@click.command(epilog=EXAMPLES)
@listing.everything("Show all params and metrics, too.")
@listing.listing
@click.pass_obj
def ps(open_project: Callable[[], replicate.Project], query: listing.Query, everything: bool) -> None:  # noqa: FBT001  # click's way
    """List the experiments that are running now, on this machine and on others.

    Filters and sorts are those of `replicate ls`.
    """
    project = open_project()
    now = datetime.now(timezone.utc)
    running = replace(query, filters=("status = running", *query.filters))
    if not listing.show(project, running, lambda experiments: _columns(experiments, everything=everything, now=now)):
        which = "No such experiments" if query.filters else "No experiments"
        click.echo(f"{which} are running. `replicate ls` shows those that have ended.")
    output.hint_at_waiting(project)


def _columns(experiments: Sequence[replicate.Experiment], *, everything: bool, now: datetime) -> listing.Columns:
    characters = listing.name_characters()
    about: dict[str, list[str]] = {
        "EXPERIMENT": [experiment.short_id for experiment in experiments],
        "NAME": [formatting.cut(experiment.name or "", characters) for experiment in experiments],
    }
    place: dict[str, list[str]] = {
        "HOST": [formatting.cut(experiment.host or "", characters) for experiment in experiments],
        "USER": [formatting.cut(experiment.user or "", characters) for experiment in experiments],
    }
    times: dict[str, list[str]] = {
        "STARTED": [output.ago(experiment.created, now=now) for experiment in experiments],
        "LAST SIGN OF LIFE": [_sign(experiment, now=now) for experiment in experiments],
    }
    params = [output.pairs(metric_columns.flat(experiment.params)) for experiment in experiments] if everything else []
    latest = [
        output.checkpoint_cell(item.latest(), item.later_without_files(), everything=everything) for item in experiments
    ]
    rest: dict[str, list[str]] = {
        "PARAMS": params,
        "WAITING": [str(experiment.waiting or "") for experiment in experiments],
        "LATEST CHECKPOINT": latest,
    }
    if listing.is_narrow():
        signs = [f"last sign:\n{sign}" if sign else "" for sign in times["LAST SIGN OF LIFE"]]
        started = listing.stacked({"STARTED": times["STARTED"], "SIGN": signs})
        return {"EXPERIMENT": listing.stacked(about), "HOST": listing.stacked(place), "STARTED": started, **rest}
    return {**about, **place, **times, **rest}


def _sign(experiment: replicate.Experiment, *, now: datetime) -> str:
    return "" if experiment.heartbeat is None else output.ago(experiment.heartbeat, now=now)
