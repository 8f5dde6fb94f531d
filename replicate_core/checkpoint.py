"""A checkpoint as users hold it: what was recorded at one moment of an experiment, and its files."""

from __future__ import annotations

import io
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, overload

from replicate_core import frames, ids, markup, plotting, series, wording
from replicate_core.checkout import Layout, What, check_out, lay_out
from replicate_core.errors import NotFound
from replicate_core.listing import Source
from replicate_core.manifest import Manifest
from replicate_core.progress import Progress, silent
from replicate_core.reading import open_file
from replicate_core.records import CheckpointFacts, Deleted, PrimaryMetric
from replicate_core.values import Value

if TYPE_CHECKING:
    from replicate_core.frames import DataFrame
    from replicate_core.plotting import Axes

METRICS_SHOWN = 4
"""So many metrics stand in the `repr` of a checkpoint."""


class Checkpoint:
    """A moment of an experiment: step, metrics, and maybe files. Made by `experiment.checkpoint()`.

    Attributes:
        id: 32 hexadecimal characters.
        created: when it was made, in UTC.
        step: the iteration it belongs to.
        metrics: name to number (or list, or text), as recorded.
        primary_metric: the pair (name, `"minimize"` or `"maximize"`), or None.
        path: what was saved, relative to the project directory; None if nothing was.
        extra: what else `checkpoint()` was given by keyword.
        size_bytes: size of its files together.
        experiment_id: the experiment it belongs to.
        is_stored: whether it was in the storage when this object was made; else it still waits in the spool of this
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

    @property
    def id(self) -> str:  # noqa: D102  # documented with the class, as the properties below
        return self._facts.id

    @property
    def short_id(self) -> str:
        """The first characters of its id, as listings show it."""
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
    def lacks_files(self) -> bool:
        """Whether only its metrics are there: its files could not be saved, or were let go."""
        return self.is_stored and self.path is not None and self._facts.manifest is None

    @property
    def is_released(self) -> bool:
        """Whether its files were let go, as `Experiment.keep` was told."""
        return self._facts.is_released

    @property
    def files(self) -> Mapping[str, int]:
        """Path of every file of the checkpoint to its size in bytes; paths are relative to the project directory."""
        if self._facts.is_private and self._facts.manifest is not None:  # it may have been let go meanwhile
            self._refresh()
        if self._has_files_waiting():
            waiting = self._source.waiting_files(self.experiment_id, self.id)
            if waiting is not None:
                return waiting
            self._refresh()
        return {path: file.size for path, file in self._manifest().files.items()}

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
        """Open one of its files for reading: a seekable stream that fetches and verifies only what is read.

        Args:
            path: relative to the project directory. May be left out when the checkpoint has a single file.

        Raises:
            NotFound: it has no such file; the message lists those it has.
            Corrupted: while reading, when a stored byte is not what was stored.
        """
        files = self.files
        if self.path is not None and not files and not self._facts.manifest:
            raise NotFound(self._why_no_files())
        if path is None:
            if not files:
                raise NotFound(self._why_no_files())
            if len(files) != 1:
                raise NotFound(f"the checkpoint {self.short_id} has {len(files)} files: say which of {_listed(files)}")
            path = next(iter(files))
        if path not in files:
            raise NotFound(f"the checkpoint {self.short_id} has no file {path!r}; it has {_listed(files)}")
        if self._has_files_waiting():
            opened = self._source.open_waiting(self.experiment_id, self.id, path)
            if opened is not None:
                return opened
            self._refresh()
            if path not in self._manifest().files:
                raise NotFound(self._why_no_files())
        return open_file(self._source.repository, self._manifest().files[path], name=path)

    def checkout(
        self, directory: str | Path, *, path: str | None = None, what: What = "all", progress: Progress = silent
    ) -> None:
        """Write the project's code and the files of the checkpoint to a directory; what is in their place is replaced.

        Args:
            directory: made if needed.
            path: only this file or directory.
            what: `"code"` or `"files"`: only the code, or only the files of the checkpoint.
            progress: called with the bytes that are fetched and all there are.

        Raises:
            NotFound: nothing has that path.
            Corrupted: a stored byte is not what was stored; then nothing was changed.
            StorageFailed: the storage can't be read, or the directory can't be written.
        """
        check_out(self._source.repository, self.layout(path=path, what=what), Path(directory), progress)

    def delete(self) -> None:
        """Delete the checkpoint: it is in no listing any more. `replicate prune` frees the space that only it needed.

        Raises:
            StorageFailed: the storage refuses.
        """
        self._source.repository.append(Deleted(self.experiment_id, (self.id,)))
        self._on_delete(self.id)

    def layout(self, *, path: str | None = None, what: What = "all") -> Layout:
        """What `checkout` will write, without writing it. What is not stored yet is waited for."""
        state = self._source.settled(self.experiment_id)
        self._facts = next((item for item in state.checkpoints if item.id == self.id), self._facts)
        files = None if what == "code" else self._facts.manifest
        if what == "files" and files is None:
            raise NotFound(self._why_no_files())
        if what == "all" and self.path is not None and files is None:
            warnings.warn(f"{self._why_no_files()}: only the code is there", stacklevel=3)
        code = None if what == "files" else self._facts.code or state.created.manifest
        manifests = self._source.repository.manifests([code, files])
        return lay_out(manifests, replaced=self.path if files else None, only=path)

    def caveats(self) -> list[str]:
        """What must be known of it before it is relied upon, in words."""
        if self.lacks_files:
            return ["files let go" if self.is_released else "files not saved"]
        return [] if self.is_stored else ["not stored yet"]

    def _why_no_files(self) -> str:
        if self.path is None:
            return f"the checkpoint {self.short_id} (step {self.step}) has no files: none were given when it was made"
        why = "were let go, as experiment.keep was told" if self.is_released else "could not be saved when it was made"
        return f"the files of the checkpoint {self.short_id} (step {self.step}) {why}"

    def _has_files_waiting(self) -> bool:
        """Tell whether its files were not stored when this object was made."""
        return self.path is not None and self._facts.manifest is None

    def _refresh(self) -> None:
        """Look again: what was waiting is stored now."""
        listed = self._source.one(self.experiment_id)
        if listed is not None:
            self._facts = next((item for item in listed.state.checkpoints if item.id == self.id), self._facts)
            self.is_stored = self.id not in listed.waiting

    def _manifest(self) -> Manifest:
        return self._source.repository.manifest(self._facts.manifest) if self._facts.manifest else Manifest()

    def __repr__(self) -> str:
        names = list(self.metrics)
        shown = [f"{name!r}: {reprlib.repr(self.metrics[name])}" for name in names[:METRICS_SHOWN]]
        more = ["..."] if len(names) > METRICS_SHOWN else []
        return f"<Checkpoint {self.short_id} step={self.step} {{{', '.join(shown + more)}}}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        primary = self.primary_metric
        facts: dict[str, str | None] = {
            "id": self.id,
            "experiment": self.experiment_id,
            "step": str(self.step),
            "created": markup.moment(self.created),
            "path": self.path,
            "size": wording.size(self.size_bytes) if self.size_bytes else None,
            "note": ", ".join(self.caveats()) or None,
        }
        metrics: dict[str, str | None] = {
            name: markup.value(value) + (f" ({primary.goal})" if primary is not None and name == primary.name else "")
            for name, value in self.metrics.items()
        }
        metrics |= {name: markup.value(value) for name, value in self.extra.items()}
        return markup.page(
            markup.heading(f"Checkpoint {self.short_id}"),
            markup.facts(facts),
            markup.facts(metrics, title="Metrics"),
        )


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
    def metrics(self) -> series.Columns:
        """Name of a metric to its values, one for each checkpoint: `experiment.checkpoints.metrics["loss"]`.

        None stands for a checkpoint that does not have it.
        """
        return series.Columns([checkpoint._facts for checkpoint in self])  # noqa: SLF001  # it is ours

    @property
    def step(self) -> list[int]:
        """The step of each checkpoint."""
        return [checkpoint.step for checkpoint in self]

    def plot(self, metric: str | None = None, *, logy: bool = False, ax: Axes | None = None) -> Axes:
        """Draw a metric over the steps, a line for each experiment; arguments and errors: `ExperimentList.plot`."""
        histories: dict[str, list[CheckpointFacts]] = {}
        for checkpoint in self:
            histories.setdefault(checkpoint.experiment_id, []).append(checkpoint._facts)  # noqa: SLF001
        name = series.choose(metric, histories.values())
        lines = (plotting.Line(ids.short(key), *series.points(name, facts)) for key, facts in histories.items())
        return plotting.draw_lines([line for line in lines if line.values], metric=name, logy=logy, ax=ax)

    def to_dataframe(self) -> DataFrame:
        """A pandas data frame, a row for each checkpoint; metrics are in columns such as `metrics.loss`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        columns = ("id", "experiment", "step", "created", "path", "size_bytes")
        return frames.frame([_row(checkpoint) for checkpoint in self], columns)

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
        """What a notebook shows."""
        shown = self[: markup.ROWS_MAX]
        rest = len(self) - len(shown)
        return markup.page(
            markup.heading(f"{len(self)} checkpoints"),
            table_of(shown) if shown else "",
            markup.line(f"and {rest} more") if rest else "",
        )


def _row(checkpoint: Checkpoint) -> dict[str, object]:
    """A checkpoint in a data frame: metrics and extra values under their own names, nested ones with dots."""
    return {
        "id": checkpoint.id,
        "experiment": checkpoint.experiment_id,
        "step": checkpoint.step,
        "created": checkpoint.created,
        "path": checkpoint.path,
        "size_bytes": checkpoint.size_bytes,
        **series.flat(checkpoint.metrics, "metrics."),
        **series.flat(checkpoint.extra, "extra."),
    }


def table_of(checkpoints: CheckpointList, *, best: str | None = None) -> str:
    """Checkpoints as a table of HTML.

    Args:
        checkpoints: all of them are shown.
        best: the id of the one to stress.
    """
    names = list(checkpoints.metrics)
    rows = [
        [
            checkpoint.short_id,
            str(checkpoint.step),
            markup.moment(checkpoint.created),
            *(markup.value(checkpoint.metrics[name]) if name in checkpoint.metrics else "" for name in names),
            ", ".join([*(["best"] if checkpoint.id == best else []), *checkpoint.caveats()]),
        ]
        for checkpoint in checkpoints
    ]
    bold = [number for number, checkpoint in enumerate(checkpoints) if checkpoint.id == best]
    return markup.table(["checkpoint", "step", "created", *names, ""], rows, bold=bold)
