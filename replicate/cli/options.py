"""Options and arguments that commands share: project, storage, colours, and ids with their completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

import replicate
from replicate.cli import former, output
from replicate_core.format import ids

DIRECTORY, STORAGE, CREATE = "replicate.directory", "replicate.storage", "replicate.create"
"""Keys in the context's meta of the options given before or after a command; the ones after it win."""

_ANNOUNCED = "replicate.told"
"""Key in the context's meta: whether the message about a project in a parent directory was printed."""

OFFERED = 100
"""Maximum number of experiments that a completion offers before anything is typed, latest first."""


def open_project(context: click.Context, *, storage: str | None = None) -> replicate.Project:
    """Open the project that the options name; `storage` replaces its storage."""
    project = _project(context, storage)
    if project.above is not None and not context.meta.get(_ANNOUNCED):
        context.meta[_ANNOUNCED] = True
        click.echo(f"replicate: no replicate.yaml here: this is the project above, {_shown(project.above)}", err=True)
    return project


def _shown(path: Path) -> str:
    return output.printable(str(path))


def _project(context: click.Context, storage: str | None) -> replicate.Project:
    meta = context.meta
    storage = meta.get(STORAGE) if storage is None else storage
    return replicate.Project(storage=storage, directory=meta.get(DIRECTORY), create=bool(meta.get(CREATE)))


def _keep(key: str) -> object:
    def keep(context: click.Context, _: click.Parameter, given: object) -> object:
        if given is not None:
            context.meta[key] = given
        return given

    return keep


def _colour(context: click.Context, _: click.Parameter, given: str | None) -> str | None:
    if given is not None:
        context.color = {"always": True, "true": True, "never": False, "false": False, "auto": None}[given]
    return given


class _Colours(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """When to use colours; also accepts true and false, as Keepsake did."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if value in former.COLOURS else super().convert(value, param, ctx)


COMMON = (
    click.Option(
        ["-D", "--project-directory"],
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        callback=_keep(DIRECTORY),
        expose_value=False,
        help="The project. Default: the nearest directory at or above this one with a replicate.yaml; else this one, "
        "or, as git does, one above that has a .replicate/storage.",
    ),
    click.Option(
        ["-S", "--storage"],
        metavar="URL",
        callback=_keep(STORAGE),
        expose_value=False,
        help="A URL or path, or a file such as archive.yaml that names one and its options, as replicate.yaml does. "
        "Default: the storage in replicate.yaml.",
    ),
    click.Option(
        ["--create"],
        is_flag=True,
        default=None,
        callback=_keep(CREATE),
        expose_value=False,
        help="Create the bucket of the storage if it is missing.",
    ),
    click.Option(
        ["--color"],
        type=_Colours(["auto", "always", "never"]),
        callback=_colour,
        expose_value=False,
        help="Whether to use colours. Default: in a terminal, unless NO_COLOR is set.",
    ),
)
"""Options of every command, before or after its name."""

FORMER = (
    click.Option(
        ["-R", "--repository", "--storage-url"],
        metavar="URL",
        callback=_keep(STORAGE),
        expose_value=False,
        hidden=True,
        help="What Keepsake, and the first replicate, called --storage.",
    ),
    click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        hidden=True,
        help="Taken as by Keepsake, and without effect: there is nothing more to say.",
    ),
)
"""Hidden options of every command, under the names of Keepsake and of the first replicate."""


def complete_id(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete ids of experiments and checkpoints; before anything is typed, offer the latest experiments."""
    try:
        found = list(_completions(_project(context, None), begun))
    except replicate.ReplicateError:
        return []  # a completion can't report an error
    length = ids.SHORT_LENGTH if len(begun) < ids.SHORT_LENGTH else None
    return [CompletionItem(item[:length], help=said) for item, said in found]


def _completions(project: replicate.Project, begun: str) -> Iterator[tuple[str, str]]:
    """Yield ids, each with a description."""
    if not begun:
        for experiment in reversed(project.experiments.list()[-OFFERED:]):
            yield experiment.id, experiment.name or experiment.status
    for experiment, checkpoint in project.experiments.matching(begun):
        if checkpoint is None:
            yield experiment.id, experiment.name or experiment.status
        else:
            yield checkpoint.id, f"step {checkpoint.step}"
