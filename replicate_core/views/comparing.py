"""Two experiments or checkpoints side by side. This fetches what `diff` compares, on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from replicate_core.errors import NotFound
from replicate_core.format.manifest import File, Manifest
from replicate_core.format.records import CheckpointFacts, Created, ExperimentState, saved_paths
from replicate_core.format.values import Value
from replicate_core.repository.reading import open_file
from replicate_core.repository.repository import Repository
from replicate_core.spool.syncing import wait_until_stored
from replicate_core.views import diff
from replicate_core.views.diff import Change, Content, FileChange
from replicate_core.views.preview import is_left_over
from replicate_core.views.source import Source

TEXT_BYTES_MAX = 1 << 20
"""Maximum size in bytes of a file that is compared line by line: nobody reads more, and it would take long."""

COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Side:
    """An experiment, and its checkpoint that is compared."""

    state: ExperimentState
    checkpoint: CheckpointFacts | None
    """None: it has none."""


class Comparison:
    """What differs between two sides.

    Args:
        source: knows both experiments.
        before: the left side.
        after: the right side.
    """

    def __init__(self, source: Source, before: Side, after: Side) -> None:
        self._source = source
        self.before = before
        self.after = after

    @property
    def experiment(self) -> list[Change]:
        """How each was started: name, tags, command, user, host, ..."""
        return diff.changes(_facts(self.before.state.created), _facts(self.after.state.created))

    @property
    def params(self) -> list[Change]:
        """Hyperparameters."""
        return diff.changes(self.before.state.created.params, self.after.state.created.params)

    @property
    def metrics(self) -> list[Change]:
        """Metrics of the two checkpoints, and their steps."""
        return diff.changes(_metrics(self.before.checkpoint), _metrics(self.after.checkpoint))

    @property
    def environment(self) -> list[Change]:
        """Python, platform, processors, memory, accelerators."""
        return diff.changes(_environment(self.before.state.created), _environment(self.after.state.created))

    @property
    def packages(self) -> list[Change]:
        """Versions of installed packages."""
        return diff.changes(dict(self.before.state.created.packages), dict(self.after.state.created.packages))

    @property
    def git(self) -> list[Change]:
        """What git knew of the project."""
        return diff.changes(_git(self.before.state.created), _git(self.after.state.created))

    @cached_property
    def code(self) -> list[FileChange]:
        """The files of the project that differ, without those at paths where checkpoints saved something."""
        found = self._file_changes(*(_code(self._once_stored(side)) for side in (self.before, self.after)))
        saved = saved_paths(item for side in (self.before, self.after) for item in side.state.checkpoints)
        return [change for change in found if not is_left_over(change.path, saved)]

    @cached_property
    def files(self) -> list[FileChange]:
        """The files of the two checkpoints that differ."""
        return self._file_changes(*(_files(self._once_stored(side)) for side in (self.before, self.after)))

    def lines(self, change: FileChange) -> list[str]:
        """How a file changed, line by line; see `diff.unified`. For links and large files, one line says so."""
        sides = (change.before, change.after)
        if any(isinstance(side, str) for side in sides):
            return [f"{change.path} was {_described(change.before)}, and is {_described(change.after)}"]
        if any(isinstance(side, File) and side.size > TEXT_BYTES_MAX for side in sides):
            return [f"{change.path}: too large to be shown line by line"]
        before, after = (_data(self._source.repository, change.path, side) for side in sides)
        return diff.unified(change.path, before, after)

    def _once_stored(self, side: Side) -> Side:
        """Wait until all of a side is stored, and return what is stored."""
        wait_until_stored(self._source.spool, side.state.created.experiment)
        state = self._source.state(side.state.created.experiment)
        if side.checkpoint is None:
            return replace(side, state=state)
        wanted = side.checkpoint.id
        found = next((item for item in state.checkpoints if item.id == wanted), None)
        if found is None:
            raise NotFound(f"the checkpoint {wanted} is no longer in {self._source.repository.store.url}")
        return Side(state, found)

    def _file_changes(self, before: str | None, after: str | None) -> list[FileChange]:
        if before == after:
            return []
        old, new = (self._manifest(key) for key in (before, after))
        return [change for change in diff.file_changes(old, new) if change.is_certain or self._differs(change)]

    def _manifest(self, key: str | None) -> Manifest:
        return Manifest() if key is None else self._source.repository.manifest(key)

    def _differs(self, change: FileChange) -> bool:
        """Compare two files by their bytes, because they are cut into different chunks."""
        pieces = (_pieces(self._source.repository, change.path, side) for side in (change.before, change.after))
        return any(old != new for old, new in zip(*pieces, strict=True))


def _facts(created: Created) -> dict[str, Value]:
    facts: dict[str, Value] = {
        "name": created.name,
        "tags": list(created.tags) or None,
        "notes": created.notes,
        "created": created.created.isoformat(timespec="seconds"),
        "host": created.host,
        "user": created.user,
        "command": created.command,
        "path": created.path,
    }
    return _without_none(facts)


def _metrics(checkpoint: CheckpointFacts | None) -> Mapping[str, Value]:
    if checkpoint is None:
        return {}
    return {"step": checkpoint.step, **checkpoint.metrics}


def _environment(created: Created) -> dict[str, Value]:
    return _without_none({"python": created.python_version, "replicate": created.replicate_version, **created.system})


def _git(created: Created) -> dict[str, Value]:
    return {} if created.git is None else _without_none(asdict(created.git))


def _without_none(facts: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in facts.items() if value is not None}


def _code(side: Side) -> str | None:
    """Key of the manifest of the code that made the checkpoint; without a checkpoint, of the code that ran last."""
    return (side.checkpoint.code if side.checkpoint else side.state.code) or side.state.created.manifest


def _files(side: Side) -> str | None:
    return None if side.checkpoint is None else side.checkpoint.manifest


def _described(content: Content) -> str:
    if content is None:
        return "nothing"
    return "a file" if isinstance(content, File) else f"a link to {content}"


def _data(repository: Repository, path: str, content: Content) -> bytes | None:
    return None if content is None else b"".join(_pieces(repository, path, content))


def _pieces(repository: Repository, path: str, content: Content) -> Iterator[bytes]:
    assert isinstance(content, File), "links are compared by their targets"
    with open_file(repository, content, name=path) as opened:
        while piece := opened.read(COPY_BYTES):
            yield piece
