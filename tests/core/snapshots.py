"""Staged snapshots, as who stores them gets them; and what is in one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from replicate_core.machine.staging import Staged, StagedFile
from replicate_core.repository import writing


def staged_of(tmp_path: Path, contents: dict[str, bytes], links=None, directories=(), mode: int = 0o644) -> Staged:
    """Stage contents as if they were files: in one copy what is small, in copies of their own what is large."""
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    files = []
    small = b""
    for number, (path, data) in enumerate(contents.items()):
        if len(data) > writing.SMALL_BYTES:
            copy = directory / str(number)
            copy.write_bytes(data)
            files.append(StagedFile(path, mode, copy, 0, len(data)))
        else:
            files.append(StagedFile(path, mode, directory / "small", len(small), len(data)))
            small += data
    if any(file.copy.name == "small" for file in files):
        (directory / "small").write_bytes(small)
    return Staged(directory, tuple(files), links or {}, directories)


def contents(staged: Staged) -> dict[str, bytes]:
    return {file.path: file.copy.read_bytes()[file.offset :][: file.size] for file in staged.files}
