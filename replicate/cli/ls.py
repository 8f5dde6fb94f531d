"""`replicate ls`: the experiments of a project, what tells them apart, and how well each did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone

import click

import replicate
from replicate.cli import output


@click.command(epilog="Example: replicate ls --all")
@click.option("--all", "everything", is_flag=True, help="Show all params and metrics, not only what tells them apart.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.option("-q", "--quiet", is_flag=True, help="Print whole ids only, one to a line.")
@click.pass_obj
def ls(open_project: Callable[[], replicate.Project], everything: bool, as_json: bool, quiet: bool) -> None:  # noqa: FBT001  # click's way
    """List the experiments of the project."""
    project = open_project()
    experiments = project.experiments.list()
    if quiet:
        for experiment in experiments:
            click.echo(experiment.id)
    elif as_json:
        click.echo(output.as_json([output.experiment_fields(experiment) for experiment in experiments]))
    elif not experiments:
        click.echo(f"No experiments in {project.repository.store.url} yet. `replicate.init()` in a script makes one.")
    else:
        with output.console() as console:
            console.print(_table(experiments, everything=everything, now=datetime.now(timezone.utc)))
    output.hint_at_waiting(project)


def _table(experiments: Sequence[replicate.Experiment], *, everything: bool, now: datetime) -> object:
    columns: dict[str, list[str]] = {
        "EXPERIMENT": [experiment.short_id for experiment in experiments],
        "NAME": [experiment.name or "" for experiment in experiments],
        "STARTED": [output.ago(experiment.created, now=now) for experiment in experiments],
        "STATUS": [experiment.status for experiment in experiments],
        "HOST": _if_they_differ([experiment.host or "" for experiment in experiments]),
        "USER": _if_they_differ([experiment.user or "" for experiment in experiments]),
        "PARAMS": [output.pairs(params) for params in _params(experiments, everything=everything)],
        "BEST CHECKPOINT": [
            output.checkpoint_cell(experiment.best(), everything=everything) for experiment in experiments
        ],
        "LATEST CHECKPOINT": [
            output.checkpoint_cell(experiment.latest(), everything=everything) for experiment in experiments
        ],
    }
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    return output.table(shown, zip(*shown.values(), strict=True))


def _if_they_differ(cells: list[str]) -> list[str]:
    return cells if len(set(cells)) > 1 else []


def _params(experiments: Sequence[replicate.Experiment], *, everything: bool) -> list[Mapping[str, object]]:
    """The params of each experiment: all, or those that are not the same everywhere."""
    all_params: list[Mapping[str, object]] = [experiment.params for experiment in experiments]
    if everything or len(all_params) == 1:
        return all_params
    names = dict.fromkeys(name for params in all_params for name in params)
    missing = object()
    differing = [name for name in names if any(_differs(params, all_params[0], name, missing) for params in all_params)]
    return [{name: params[name] for name in differing if name in params} for params in all_params]


def _differs(params: Mapping[str, object], first: Mapping[str, object], name: str, missing: object) -> bool:
    found, wanted = params.get(name, missing), first.get(name, missing)
    return found is not wanted and found != wanted
