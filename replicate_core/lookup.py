"""Listing, finding, comparing and beginning the experiments of a project: `replicate.experiments` and `init`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from replicate_core import user_warnings
from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import NotFound
from replicate_core.experiment import Experiment, ExperimentList
from replicate_core.format import ids, records
from replicate_core.machine.gc_pause import collection_paused
from replicate_core.repository.repository import utc_now
from replicate_core.starting import loaded, prepare_in
from replicate_core.views.comparing import Comparison, Side
from replicate_core.views.source import ExperimentView, Source
from replicate_core.workspace import Workspace

Filter = Callable[[Experiment], bool]

CANDIDATES_SHOWN = 10


class Experiments:
    """The experiments of a project.

    Args:
        workspace: returns the workspace of the project; called each time it is needed.
    """

    def __init__(self, workspace: Callable[[], Workspace]) -> None:
        self._workspace = workspace

    def list(self, filter: Filter | str | Iterable[str] | None = None, *, sort: str | None = None) -> ExperimentList:  # noqa: A002  # the name users know
        """All experiments, in the order they began.

        Args:
            filter: a function that returns true for the experiments to keep; or one or several conditions, as on the
                command line: `"metrics.loss < 0.1"`, `"created > 2 days ago"`.
            sort: the name to sort by, as in a condition; `"loss-desc"` puts the largest first.

        Warns of a name that no experiment has, if it affects the result.

        Raises:
            InvalidInput: a condition can't be parsed.
        """
        from replicate_core.views import query  # noqa: PLC0415

        workspace = self._workspace()
        conditions = [filter] if isinstance(filter, str) else [] if filter is None or callable(filter) else [*filter]
        now, known = utc_now(), workspace.source.all().values()
        found = query.select(known, conditions, sort, now=now)
        if known:
            for problem in query.misnamed(known, () if found else conditions, sort if found else None, now=now):
                user_warnings.warn(problem)
        with collection_paused():
            everything = [loaded(workspace, listed) for listed in found]
        return ExperimentList(everything if not callable(filter) else [one for one in everything if filter(one)])

    def get(self, prefix: str) -> Experiment | Checkpoint:
        """The experiment or the checkpoint whose id begins with `prefix`.

        Raises:
            NotFound: there is none, or there are several; the message lists them.
        """
        experiment, checkpoint = self.find(prefix)
        return experiment if checkpoint is None else checkpoint

    def find(self, prefix: str) -> tuple[Experiment, Checkpoint | None]:
        """The experiment, or the checkpoint and its experiment, whose id begins with `prefix`.

        Raises:
            NotFound: there is none, or there are several; the message lists them.
        """
        workspace = self._workspace()
        return _load(workspace, *_only_match(workspace.source, prefix))

    def matching(self, prefix: str) -> Sequence[tuple[Experiment, Checkpoint | None]]:
        """All experiments whose id begins with `prefix`, and the checkpoints that do, with their experiments."""
        workspace = self._workspace()
        return [_load(workspace, *match) for match in workspace.source.matching(prefix)]

    def compare(self, before: str, after: str) -> Comparison:
        """The differences between two experiments or checkpoints, given by prefixes of their ids.

        Of an experiment, its best checkpoint is compared, else its latest.

        Raises:
            NotFound: a prefix matches no id, or several.
        """
        source = self._workspace().source
        sides = [_side(*_only_match(source, prefix)) for prefix in (before, after)]
        return Comparison(source, sides[0], sides[1])

    def create(
        self,
        params: Mapping[str, object] | None = None,
        *,
        path: str | None = ".",
        name: str | None = None,
        tags: Iterable[str] = (),
        notes: str | None = None,
        strict: bool = False,
        resume: str | None = None,
    ) -> Experiment:
        """Begin an experiment, or resume one; see `init`."""
        workspace = self._workspace()
        prepared = prepare_in(workspace, params, name=name, tags=tags, notes=notes, resume=resume)
        return prepared.begin(path=path, strict=strict)


def _load(
    workspace: Workspace, listed: ExperimentView, checkpoint_id: str | None
) -> tuple[Experiment, Checkpoint | None]:
    """The `Experiment` that users hold, and its checkpoint with the given id, if any."""
    experiment = loaded(workspace, listed)
    return experiment, next((item for item in experiment.checkpoints if item.id == checkpoint_id), None)


def _side(listed: ExperimentView, checkpoint_id: str | None) -> Side:
    """A side of a comparison: the given checkpoint or, without one, the best of the experiment, else its latest."""
    checkpoints = listed.state.checkpoints
    if checkpoint_id is None:
        return Side(listed.state, records.best_or_latest(checkpoints))
    return Side(listed.state, next(item for item in checkpoints if item.id == checkpoint_id))


def _only_match(source: Source, prefix: str) -> tuple[ExperimentView, str | None]:
    """The experiment, or its checkpoint, whose id begins with `prefix`; raises what `Experiments.find` raises."""
    matches = source.matching(prefix)
    if not matches:
        named = source.named(prefix.strip())
        shown = [ids.short(one) for one in named[-CANDIDATES_SHOWN:]]
        hint = f"{', '.join(shown)} {'has' if len(shown) == 1 else 'have'} that name" if named else ""
        raise NotFound(
            f"no experiment or checkpoint in {source.repository.store.url} has an id that begins with {prefix!r}. "
            f"{hint or '`replicate ls` lists the existing ones'}"
        )
    if len(matches) > 1:
        raise NotFound(_ambiguous(prefix, matches))
    return matches[0]


def _ambiguous(prefix: str, matches: list[tuple[ExperimentView, str | None]]) -> str:
    lines = [
        f"  {checkpoint or listed.experiment}  "
        f"({'checkpoint' if checkpoint else 'experiment'}, {listed.created:%Y-%m-%d %H:%M})"
        for listed, checkpoint in matches[:CANDIDATES_SHOWN]
    ]
    rest = len(matches) - CANDIDATES_SHOWN
    more = [f"  and {rest} more"] if rest > 0 else []
    return "\n".join([f"{len(matches)} ids begin with {prefix!r}: give more characters of one of", *lines, *more])


experiments = Experiments(Workspace)
"""The experiments of the project around the working directory."""


def init(
    params: Mapping[str, object] | None = None,
    *,
    path: str | None = ".",
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
    strict: bool = False,
    resume: str | None = None,
    disable_heartbeat: bool = False,  # noqa: ARG001  # the recorder sends them
) -> Experiment:
    """Begin an experiment: save the project's code and the hyperparameters, and return the `Experiment`.

    The project directory is the nearest one at or above the working directory with a `replicate.yaml`, else the
    working directory. A working directory without `replicate.yaml` and `.replicate`, below a directory with a
    `.replicate/storage`, shares that storage. The whole project is saved, except what `.gitignore` and
    `.replicateignore` files name, what earlier runs saved as checkpoints, version control, virtual environments and
    caches.

    Args:
        params: hyperparameters: name to value, possibly nested. Numbers, strings, lists, None; scalars and arrays of
            numpy, torch, TensorFlow and JAX.
        path: what to save of the project, relative to its directory: a file or a directory. None saves no code.
        name: a name for people; need not be unique.
        tags: tags for people, and for filters.
        notes: notes for people.
        strict: raise `StorageFailed` from `checkpoint()` and `stop()` if the storage fails. By default, what is saved
            waits on this machine, a warning says so, and training continues.
        resume: `"auto"` resumes the same run if it was begun before and did not finish: the latest experiment of this
            project (by the name of its directory) with the same name and params or, if neither has a name, with the
            same params and command. If that has finished, or the params differ, a new experiment begins, and a message
            says so. The first characters of an id resume that experiment, or from that checkpoint, whatever its
            status. `experiment.resumed_from` is then the newest checkpoint whose files all verify, for the script to
            restore from, and what came after it is set aside; it is None on a first start. An experiment that this
            process left open is ended and resumed.
        disable_heartbeat: accepted for compatibility with Keepsake, without effect: another process sends the
            heartbeats.

    What is saved is copied at once, and a separate process stores it while training continues: nothing is lost if this
    process is killed. In a distributed run, only the first process records; in the others, the experiment does nothing.

    Raises:
        InvalidInput: an argument, or a file of the project, can't be recorded; or another process still records the
            experiment to resume.
        NotFound, Corrupted: the experiment or checkpoint to resume is missing, or can't be read.
        ConfigInvalid: `replicate.yaml`, a `.gitignore` or a `.replicateignore` can't be used.
        MissingExtra: the storage needs a driver that is not installed.
        StorageFailed: the storage can't be reached or written.

    Example:
        ```python
        experiment = replicate.init(params={"learning_rate": 0.01})
        experiment.checkpoint(path="model.pt", step=1, metrics={"loss": 0.5}, primary_metric=("loss", "minimize"))
        ```
    """
    return experiments.create(params, path=path, name=name, tags=tags, notes=notes, strict=strict, resume=resume)
