"""Where a file comes from: the experiments and checkpoints that hold its bytes, under any name.

Manifests hold the digests of the parts of every file. To compare a local file with a stored one of the same size, it is
digested in the same parts. So only manifests are fetched, and it does not matter how files were cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from replicate_core.checkpoint import Checkpoint
from replicate_core.errors import InvalidInput
from replicate_core.experiment import Experiment
from replicate_core.format.digest import digest
from replicate_core.format.manifest import File
from replicate_core.format.records import saved_paths
from replicate_core.repository.verifying import CheckedSnapshot, snapshots_of
from replicate_core.views.preview import is_left_over
from replicate_core.views.source import ExperimentView, Source

COMPARED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileMatch:
    """A snapshot that holds a file."""

    experiment: Experiment
    checkpoint: Checkpoint | None
    """None: the file is part of the code of the experiment."""
    path: str
    """The path of the file in the snapshot, relative to the project directory."""


def whence(source: Source, file: Path, load: Callable[[ExperimentView], Experiment]) -> list[FileMatch]:
    """Every snapshot that holds a file with the same bytes; the code of an experiment comes before its checkpoints.

    Leftovers in the project, at paths that checkpoints of the experiment saved, do not count as its code.

    Args:
        source: gives the experiments.
        file: a file on this machine.
        load: makes the `Experiment` that users hold.

    Raises:
        InvalidInput: the file can't be read.
        StorageFailed: the storage can't be reached.
    """
    listed = source.all()
    held: list[FileMatch] = []
    with _reading(file) as local:
        stored = _stored(source, listed, local)
        for identifier, one in listed.items():
            found = [*stored.get(identifier, ()), *_waiting(source, one, local)]
            if found:
                experiment = load(one)
                made = {item.id: item for item in experiment.checkpoints}
                held += [FileMatch(experiment, None if item is None else made[item], path) for item, path in found]
    return held


class _Local:
    """A file on this machine, whose parts are digested on demand."""

    def __init__(self, stream: BinaryIO) -> None:
        self.size = os.fstat(stream.fileno()).st_size
        self._stream = stream
        self._digests: dict[tuple[int, int], str] = {}

    def read(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(length)

    def is_same(self, file: File) -> bool:
        """Tell whether a stored file has the same bytes."""
        if file.size != self.size:
            return False
        offset = 0
        for part in file.parts:
            if self._digest(offset, part.length) != part.digest:
                return False
            offset += part.length
        return True

    def _digest(self, offset: int, length: int) -> str:
        if (offset, length) not in self._digests:
            self._digests[offset, length] = digest(self.read(offset, length))
        return self._digests[offset, length]


@contextmanager
def _reading(file: Path) -> Iterator[_Local]:
    try:
        stream = open(file, "rb")
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}. Name a file on this machine") from error
    with stream:
        yield _Local(stream)


def _stored(
    source: Source, listed: Mapping[str, ExperimentView], local: _Local
) -> dict[str, list[tuple[str | None, str]]]:
    """Experiment to its checkpoints (None: its code) that hold the file, each with the path of the file there."""
    snapshots: dict[str, list[CheckedSnapshot]] = {}
    for snapshot in snapshots_of({experiment: one.state for experiment, one in listed.items()}):
        snapshots.setdefault(snapshot.manifest, []).append(snapshot)
    paths: dict[str, list[str]] = {}
    for key, manifest in source.repository.manifests_with(snapshots, local.size):
        paths[key] = [path for path, file in manifest.files.items() if local.is_same(file)]
    held: dict[str, list[tuple[str | None, str]]] = {}
    for key, owners in snapshots.items():
        for owner in owners if paths.get(key) else ():
            checkpoints = listed[owner.experiment].state.checkpoints if owner.checkpoint is None else ()
            saved = saved_paths(checkpoints)
            found = [(owner.checkpoint, path) for path in paths[key] if not is_left_over(path, saved)]
            held.setdefault(owner.experiment, []).extend(found)
    # Without duplicates: each session saves the code again.
    return {experiment: list(dict.fromkeys(found)) for experiment, found in held.items()}


def _waiting(source: Source, listed: ExperimentView, local: _Local) -> Iterator[tuple[str, str]]:
    """The checkpoints that hold the file but are not stored yet, each with the path of the file there."""
    experiment = listed.state.created.experiment
    for facts in listed.state.checkpoints:
        if facts.id in listed.waiting and facts.path is not None:
            files = source.waiting_files(experiment, facts.id) or {}
            for path, size in files.items():
                if size == local.size and _is_same(source, experiment, facts.id, path, local):
                    yield facts.id, path


def _is_same(source: Source, experiment: str, checkpoint: str, path: str, local: _Local) -> bool:
    opened = source.open_waiting(experiment, checkpoint, path)
    if opened is None:  # it was stored meanwhile
        return False
    with opened as stream:
        pieces = range(0, local.size, COMPARED_BYTES)
        return all(stream.read(COMPARED_BYTES) == local.read(offset, COMPARED_BYTES) for offset in pieces)
