"""The `Checkpoint` that users hold: what was recorded at one moment of an experiment, and its files."""

from __future__ import annotations

import difflib
import io
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, overload

from replicate_core import formatting, user_warnings
from replicate_core.errors import InvalidInput, NotFound
from replicate_core.format import ids, records
from replicate_core.format.manifest import Manifest
from replicate_core.format.records import CheckpointFacts, Deleted, ExperimentState, PrimaryMetric, code_problem
from replicate_core.format.values import Value, renamed
from replicate_core.progress import Progress, silent
from replicate_core.repository.checkout import Layout, What, check_out, is_at, lay_out
from replicate_core.repository.reading import open_file
from replicate_core.repository.repository import Repository
from replicate_core.spool.syncing import wait_until_stored
from replicate_core.views import dataframes, metric_columns, notebook_html, plotting, preview
from replicate_core.views.source import Source

if TYPE_CHECKING:
    from replicate_core.views.dataframes import DataFrame
    from replicate_core.views.plotting import Axes

CODE_ALONE = 'To write its code alone: `replicate checkout --code-only`, or what="code" in Python'
"""The hint for a checkpoint without files."""

METRICS_SHOWN = 4
"""Maximum number of metrics in the `repr` of a checkpoint."""


class Checkpoint:
    """A moment of an experiment: step, metrics, and maybe files. Made by `experiment.checkpoint()`.

    Attributes:
        id: 32 hexadecimal characters.
        created: when it was made, in UTC.
        step: the iteration it belongs to.
        metrics: name to number (or list, or string), as recorded.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`), or None.
        path: what was saved, relative to the project directory; None if nothing was.
        extra: the other keyword arguments of `checkpoint()`.
        size_bytes: total size of its files.
        experiment_id: the experiment it belongs to.
        is_stored: whether it was in the storage when this object was made; if not, it waited in the spool of this
            machine.
    """

    def __init__(
        self,
        facts: CheckpointFacts,
        source: Source,
        *,
        experiment_id: str,
        is_stored: bool,
        on_delete: Callable[[str], None],
    ) -> None:
        self.experiment_id = experiment_id
        self.is_stored = is_stored
        self._facts = facts
        self._source = source
        self._on_delete = on_delete
        self._code: Manifest | None = None

    @property
    def id(self) -> str:  # noqa: D102  # documented with the class, as the properties below
        return self._facts.id

    @property
    def short_id(self) -> str:
        """The first characters of its id, as shown in listings."""
        return ids.short(self.id)

    @property
    def created(self) -> datetime:  # noqa: D102
        return self._facts.created

    @property
    def step(self) -> int:  # noqa: D102
        return self._facts.step

    @property
    def metrics(self) -> Mapping[str, Value]:  # noqa: D102
        return self._facts.metrics

    @property
    def primary_metric(self) -> PrimaryMetric | None:  # noqa: D102
        return self._facts.primary_metric

    @property
    def path(self) -> str | None:  # noqa: D102
        return self._facts.path

    @property
    def extra(self) -> Mapping[str, Value]:  # noqa: D102
        return self._facts.extra

    @property
    def size_bytes(self) -> int:  # noqa: D102
        return self._facts.size_bytes

    @property
    def has_files(self) -> bool:
        """Whether its files can be read: they are stored, or wait on this machine to be stored."""
        return self._facts.has_files

    @property
    def lacks_files(self) -> bool:
        """Whether only its metrics remain: its files could not be saved, or were released."""
        return self.is_stored and self.path is not None and self._facts.manifest is None

    @property
    def is_released(self) -> bool:
        """Whether its files were released, that is, deleted because `Experiment.keep` no longer keeps them."""
        return self._facts.is_released

    @property
    def files(self) -> Mapping[str, int]:
        """Path of every file of the checkpoint to its size in bytes; paths are relative to the project directory."""
        if self._facts.is_private and self._facts.manifest is not None:  # the files may have been released meanwhile
            self._refresh()
        if self._has_files_waiting():
            waiting = self._source.waiting_files(self.experiment_id, self.id)
            if waiting is not None:
                return waiting
            self._refresh()
        return {path: file.size for path, file in self._manifest().files.items()}

    @property
    def project_files(self) -> Mapping[str, int]:
        """Path of every file of the project, as it was when training began, to its size in bytes.

        Files at paths that checkpoints of the experiment saved are left out: they are leftovers of earlier runs. Files
        that people write (`.py`, `.yaml`, `.md`, ...) are included, and so is everything if checkpoints saved the whole
        project.
        """
        return {path: file.size for path, file in self._project_manifest().files.items()}

    @property
    def project_links(self) -> Mapping[str, str]:
        """Path of every symbolic link of the project, chosen as in `project_files`, to its target."""
        return self._project_manifest().links

    @property
    def links(self) -> Mapping[str, str]:
        """Path of every symbolic link of the checkpoint to its target, which is relative to the link."""
        if self._has_files_waiting():
            waiting = self._source.waiting_links(self.experiment_id, self.id)
            if waiting is not None:
                return waiting
            self._refresh()
        return self._manifest().links

    def open(self, path: str | None = None) -> io.BufferedReader:
        """Open a file for reading: a seekable stream that fetches and verifies only what is read.

        Args:
            path: a file of the checkpoint, else one of the project (`project_files`), relative to the project
                directory. May be left out if the checkpoint has a single file of its own.

        Raises:
            NotFound: there is no such file; the message names similar ones. Also raised if only other checkpoints of
                the experiment saved that path: the file that the project had there when training began is not opened
                in its place.
            Corrupted: while reading, if the storage returns other bytes than were stored.
        """
        files = self.files
        if path is None:
            if not files:
                raise NotFound(self._no_files())
            if len(files) != 1:
                raise NotFound(f"the checkpoint {self.short_id} has {len(files)} files: name one of {_listed(files)}")
            path = next(iter(files))
        if path not in files:
            return self._open_code(path)
        if self._has_files_waiting():
            opened = self._source.open_waiting(self.experiment_id, self.id, path)
            if opened is not None:
                return opened
            self._refresh()
            if path not in self._manifest().files:
                raise NotFound(self._no_files())
        return open_file(self._source.repository, self._manifest().files[path], name=path)

    def checkout(
        self,
        directory: str | Path | None = None,
        *,
        path: str | None = None,
        what: What = "all",
        progress: Progress = silent,
        output_directory: str | Path | None = None,
        quiet: bool | None = None,  # noqa: ARG002  # nothing is printed
    ) -> None:
        """Write the project's code and the files of the checkpoint to a directory; files in their place are replaced.

        Files of the checkpoint take the place of code with the same paths. A checkpoint without files is an error,
        unless only code is requested.

        Args:
            directory: made if needed.
            path: write only this file or directory.
            what: `"code"` or `"files"` to write only the code, or only the files of the checkpoint.
            progress: called with the number of bytes fetched, and the total.
            output_directory: Keepsake's name for `directory`.
            quiet: accepted for compatibility with Keepsake, without effect: nothing is printed.

        Raises:
            InvalidInput: no directory is given.
            NotFound: nothing has that path; or the checkpoint has no files, and the message names the nearest
                checkpoints that have some.
            Corrupted: a stored byte is not what was stored; nothing in the directory was changed.
            StorageFailed: the storage can't be read, or the directory can't be written.
        """
        target = checkout_directory(directory, output_directory)
        check_out(self._source.repository, self.layout(path=path, what=what), target, progress)

    def to_json(self) -> dict[str, object]:
        """The checkpoint as plain data for `json.dumps`, as printed by `replicate show --json`."""
        primary = self.primary_metric
        return {
            "id": self.id,
            "created": self.created.isoformat(),
            "step": self.step,
            "metrics": dict(self.metrics),
            "primary_metric": None if primary is None else {"name": primary.name, "goal": primary.goal},
            "path": self.path,
            "extra": dict(self.extra),
            "size_bytes": self.size_bytes,
            "is_stored": self.is_stored,
            "has_files": self.has_files,
            "lacks_files": self.lacks_files,
            "is_released": self.is_released,
        }

    def delete(self) -> None:
        """Delete the checkpoint: listings no longer show it. `replicate prune` frees the space that only it needed.

        Raises:
            StorageFailed: the storage can't be written.
        """
        self._source.repository.append(Deleted(self.experiment_id, (self.id,)))
        self._on_delete(self.id)

    def layout(self, *, path: str | None = None, what: What = "all") -> Layout:
        """What `checkout` will write. Writes nothing, but waits until the checkpoint is stored."""
        wait_until_stored(self._source.spool, self.experiment_id)
        state = self._source.state(self.experiment_id)
        self._facts = next((item for item in state.checkpoints if item.id == self.id), self._facts)
        if what == "code":
            return code_layout(self._source.repository, state, self._facts, only=path)
        files = self._facts.manifest
        if files is None:
            raise NotFound(f"{self._no_files(state)}. {CODE_ALONE}")
        code = None if what == "files" else self._facts.code or state.created.manifest
        if what == "all" and code is None and (problem := code_problem(state.created)) is not None:
            user_warnings.warn(f"{problem}: it is not written")
        repository = self._source.repository
        manifests = [repository.manifest(files, size_bytes=self._facts.size_bytes)]
        if code is not None:
            manifests.insert(0, _code_of(repository, state, code, only=path, own=self.path))
        return lay_out(manifests, replaced=self.path, only=path)

    def caveats(self) -> list[str]:
        """What users must know before they rely on it, as short notes."""
        if self.lacks_files:
            return ["files not kept" if self.is_released else "files not saved"]
        return [] if self.is_stored else ["not stored yet"]

    def _why_no_files(self) -> str:
        if self.path is None:
            return f"the checkpoint {self.short_id} (step {self.step}) has no files: none were given when it was made"
        why = "were deleted, as experiment.keep() asked" if self.is_released else "could not be saved when it was made"
        if self._facts.lacks is not None and not self.is_released:
            why = f"are missing: {self._facts.lacks}"
        return f"the files of the checkpoint {self.short_id} (step {self.step}) {why}"

    def _no_files(self, state: ExperimentState | None = None) -> str:
        """Say why there are no files, and name the nearest checkpoints that have some."""
        state = self._state() if state is None else state
        nearest = records.nearest_with_files(state.checkpoints, self.id)
        if not nearest:
            return f"{self._why_no_files()}. No checkpoint of the experiment {ids.short(self.experiment_id)} has files"
        named = " and ".join(f"{ids.short(item.id)} (step {item.step})" for item in nearest)
        return f"{self._why_no_files()}. The nearest with files: {named}"

    def why_not(self, path: str) -> str:
        """The message that says why the checkpoint can't open a file, and which files it has."""
        state, files = self._state(), self.files
        saved = records.saved_paths(state.checkpoints)
        if not self.has_files and preview.is_left_over(path, saved):
            return f"no file {path!r}: {self._no_files(state)}"
        known = {*files, *self.project_files, *saved}
        near = difflib.get_close_matches(path, known, n=3)
        similar = f"; similar is {', '.join(map(repr, near))}" if near else ""
        has = f"the checkpoint {self.short_id} has no file {path!r}; it has {_listed(files)}"
        return f"{has}. Its project has no such file either{similar}"

    def _open_code(self, path: str) -> io.BufferedReader:
        """Open a file of the project."""
        code = self._project_manifest().files
        if path not in code:
            raise NotFound(self.why_not(path))
        return open_file(self._source.repository, code[path], name=path)

    def _has_files_waiting(self) -> bool:
        """Tell whether its files were not stored when this object was made."""
        return self.path is not None and self._facts.manifest is None

    def _refresh(self) -> None:
        """Read the checkpoint again, because it was stored or released meanwhile."""
        listed = self._source.one(self.experiment_id)
        if listed is not None:
            self._facts = next((item for item in listed.state.checkpoints if item.id == self.id), self._facts)
            self.is_stored = self.id not in listed.waiting

    def _state(self) -> ExperimentState:
        """The current state of its experiment. Raises `NotFound` if it was deleted."""
        listed = self._source.one(self.experiment_id)
        if listed is None:
            raise NotFound(f"the experiment {ids.short(self.experiment_id)} was deleted")
        return listed.state

    def _project_manifest(self) -> Manifest:
        """The manifest of the code that made it; waits until that is stored."""
        if self._code is None:
            # Code is stored before the checkpoints that it made.
            if not self.is_stored:
                wait_until_stored(self._source.spool, self.experiment_id)
            state = self._state()
            facts = next((item for item in state.checkpoints if item.id == self.id), self._facts)
            key = facts.code or state.created.manifest
            self._code = _without_left_overs(self._source.repository, state, key)[0] if key else Manifest()
        return self._code

    def _manifest(self) -> Manifest:
        if self._facts.manifest is None:
            return Manifest()
        return self._source.repository.manifest(self._facts.manifest, size_bytes=self._facts.size_bytes)

    def __repr__(self) -> str:
        names = list(self.metrics)
        shown = [f"{name!r}: {reprlib.repr(self.metrics[name])}" for name in names[:METRICS_SHOWN]]
        more = ["..."] if len(names) > METRICS_SHOWN else []
        return f"<Checkpoint {self.short_id} step={self.step} {{{', '.join(shown + more)}}}>"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show."""
        primary = self.primary_metric
        facts: dict[str, str | None] = {
            "id": self.id,
            "experiment": self.experiment_id,
            "step": str(self.step),
            "created": notebook_html.moment(self.created),
            "path": self.path,
            "size": formatting.size(self.size_bytes) if self.size_bytes else None,
            "note": ", ".join(self.caveats()) or None,
        }
        metrics: dict[str, str | None] = {
            name: notebook_html.value(value)
            + (f" ({primary.goal})" if primary is not None and name == primary.name else "")
            for name, value in self.metrics.items()
        }
        metrics |= {name: notebook_html.value(value) for name, value in self.extra.items()}
        return notebook_html.page(
            notebook_html.heading(f"Checkpoint {self.short_id}"),
            notebook_html.facts(facts),
            notebook_html.facts(metrics, title="Metrics"),
        )


def checkout_directory(directory: str | Path | None, former: str | Path | None) -> Path:
    """The directory of a checkout, from either argument. Raises `InvalidInput` if none or both are given."""
    given, also = (None if path is None else Path(path) for path in (directory, former))
    found = renamed("directory", given, "output_directory", also)
    if found is None:
        raise InvalidInput("checkout() needs a directory to write to: checkout('out')")
    return found


def code_layout(
    repository: Repository, state: ExperimentState, made: CheckpointFacts | None = None, *, only: str | None = None
) -> Layout:
    """What a checkout of code alone writes: the code that made a checkpoint, or that the experiment last ran with.

    Leftovers of earlier runs at paths that checkpoints saved are left out, and a warning names them.

    Raises:
        NotFound: no code was saved; or none of it has the path `only`.
    """
    key = (state.code if made is None else made.code) or state.created.manifest
    if key is None:
        nothing = f"no code was saved of the experiment {ids.short(state.created.experiment)}"
        raise NotFound(code_problem(state.created) or nothing)
    return lay_out([_code_of(repository, state, key, only=only)], only=only)


def _code_of(
    repository: Repository, state: ExperimentState, key: str, *, only: str | None, own: str | None = None
) -> Manifest:
    """The code to write. Warns of files that are left out of it, except those in `own`, the path of the checkpoint."""
    code, left_out = _without_left_overs(repository, state, key)
    if named := [path for path in left_out if is_at(path, only) and (own is None or not is_at(path, own))]:
        names = _listed(dict.fromkeys(named))
        user_warnings.warn(f"left out of the code, because checkpoints saved them: {names}")
    return code


def _without_left_overs(repository: Repository, state: ExperimentState, key: str) -> tuple[Manifest, list[str]]:
    """The code that a manifest lists, without leftovers at paths that checkpoints saved; and the paths of these.

    Raises `Corrupted`, also if the total size of the files is not what was recorded.
    """
    code = repository.manifest(key, size_bytes=state.created.size_bytes if key == state.created.manifest else None)
    saved = records.saved_paths(state.checkpoints)
    left_out = [path for path in (*code.files, *code.links) if preview.is_left_over(path, saved)]
    if not left_out:
        return code, left_out
    files, links = dict(code.files), dict(code.links)
    for path in left_out:
        files.pop(path, None)
        links.pop(path, None)
    return Manifest(files, links, code.directories), left_out


def _listed(files: Mapping[str, object]) -> str:
    shown = ", ".join(repr(path) for path in list(files)[:10])
    return (shown or "none") + (f" and {len(files) - 10} more" if len(files) > 10 else "")


class CheckpointList(Sequence[Checkpoint]):
    """Checkpoints in the order they were made; a slice is a `CheckpointList` again."""

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._items = tuple(checkpoints)

    @overload
    def __getitem__(self, index: int) -> Checkpoint: ...
    @overload
    def __getitem__(self, index: slice) -> CheckpointList: ...
    def __getitem__(self, index: int | slice) -> Checkpoint | CheckpointList:
        return CheckpointList(self._items[index]) if isinstance(index, slice) else self._items[index]

    @property
    def metrics(self) -> metric_columns.Columns:
        """The values of each metric, one for each checkpoint: `experiment.checkpoints.metrics["loss"]`.

        The value is None for a checkpoint that does not have the metric.
        """
        return metric_columns.Columns([checkpoint._facts for checkpoint in self])  # noqa: SLF001  # it is ours

    @property
    def step(self) -> list[int]:
        """The step of each checkpoint."""
        return [checkpoint.step for checkpoint in self]

    def plot(self, metric: str | None = None, *, logy: bool = False, ax: Axes | None = None) -> Axes:
        """Draw a metric over the steps, one line per experiment; see `ExperimentList.plot` for arguments and errors."""
        histories: dict[str, list[CheckpointFacts]] = {}
        for checkpoint in self:
            histories.setdefault(checkpoint.experiment_id, []).append(checkpoint._facts)  # noqa: SLF001
        name = metric_columns.choose(metric, histories.values())
        lines = (
            plotting.Curve(ids.short(key), *metric_columns.points(name, facts)) for key, facts in histories.items()
        )
        return plotting.draw_lines([line for line in lines if line.values], metric=name, logy=logy, ax=ax)

    def to_dataframe(self) -> DataFrame:
        """A pandas dataframe with one row per checkpoint; metrics are in columns such as `metrics.loss`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        columns = ("id", "experiment", "step", "created", "path", "has_files", "size_bytes")
        return dataframes.frame([_row(checkpoint) for checkpoint in self], columns)

    def delete(self) -> None:
        """Delete them all; see `Checkpoint.delete`."""
        for checkpoint in self:
            checkpoint.delete()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._items)

    def __repr__(self) -> str:
        steps = f", steps {self[0].step} to {self[-1].step}" if self else ""
        return f"<CheckpointList of {len(self)}{steps}>"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show."""
        shown = self[: notebook_html.ROWS_MAX]
        rest = len(self) - len(shown)
        return notebook_html.page(
            notebook_html.heading(f"{len(self)} checkpoints"),
            table_of(shown) if shown else "",
            notebook_html.line(f"and {rest} more") if rest else "",
        )


def _row(checkpoint: Checkpoint) -> dict[str, object]:
    """A checkpoint as a row of a dataframe: metrics and extra values under their own names, nested ones with dots."""
    return {
        "id": checkpoint.id,
        "experiment": checkpoint.experiment_id,
        "step": checkpoint.step,
        "created": checkpoint.created,
        "path": checkpoint.path,
        "has_files": checkpoint.has_files,
        "size_bytes": checkpoint.size_bytes,
        **metric_columns.flat(checkpoint.metrics, "metrics."),
        **metric_columns.flat(checkpoint.extra, "extra."),
    }


def table_of(checkpoints: CheckpointList, *, best: str | None = None) -> str:
    """Checkpoints as an HTML table.

    Args:
        checkpoints: the checkpoints to show.
        best: the id of the checkpoint to mark as best and show in bold.
    """
    names = list(checkpoints.metrics)
    rows = [
        [
            checkpoint.short_id,
            str(checkpoint.step),
            notebook_html.moment(checkpoint.created),
            formatting.size(checkpoint.size_bytes) if checkpoint.has_files else "",
            *(notebook_html.value(checkpoint.metrics[name]) if name in checkpoint.metrics else "" for name in names),
            ", ".join([*(["best"] if checkpoint.id == best else []), *checkpoint.caveats()]),
        ]
        for checkpoint in checkpoints
    ]
    bold = [number for number, checkpoint in enumerate(checkpoints) if checkpoint.id == best]
    return notebook_html.table(["checkpoint", "step", "created", "files", *names, ""], rows, bold=bold)
