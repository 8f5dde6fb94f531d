"""Files of a project, what was recorded of it, and scripts that run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import replicate_core as replicate
from replicate_core.format.records import Ended
from replicate_core.workspace import Workspace


def write(project: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        (project / name).write_bytes(content.encode() if isinstance(content, str) else content)


def only() -> replicate.Experiment:
    """The only experiment there is, as another process would read it."""
    (experiment,) = replicate.experiments.list()
    return experiment


def found(directory: Path) -> dict[str, str]:
    """Path to content of every file below a directory; links as `-> target`, empty directories as `/`."""
    shown: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            shown[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            shown[name] = path.read_text("latin-1")
        elif not any(path.iterdir()):
            shown[name] = "/"
    return shown


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a training script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def ended(project: Path) -> tuple[str, str | None]:
    """How the only experiment ended: its status and its error."""
    (record,) = (one for one in Workspace().repository.read_records() if isinstance(one, Ended))
    assert only().status == record.status
    return record.status, record.error
