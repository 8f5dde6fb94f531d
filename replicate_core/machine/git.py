"""What git's own files say: where a repository is, where its files are, and what it tracks. Nothing is written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from replicate_core.machine.descriptors import read_regular

COMMAND_SECONDS = 5
"""Maximum number of seconds that git may take."""


def top(directory: Path) -> Path | None:
    """The top directory of the repository that a directory is in; None outside of git."""
    return next((above for above in (directory, *directory.parents) if (above / ".git").exists()), None)


def own_directory(dot_git: Path) -> Path:
    """The directory that holds `HEAD`: `.git` itself, or the one that it names in a worktree or submodule."""
    if dot_git.is_dir():
        return dot_git
    return (dot_git.parent / read(dot_git).strip().removeprefix("gitdir: ")).resolve()


def common_directory(own: Path) -> Path:
    """The directory of what the worktrees of a repository share: branches, `info/exclude`."""
    return own / (read(own / "commondir").strip() or ".")


def read(path: Path) -> str:
    """The text of a small file of git; empty if it is missing, is a pipe or a device, or can't be read."""
    try:
        return read_regular(path).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def tracked(directory: Path) -> frozenset[str]:
    """The files below a directory that git tracks, relative to it and in stored form; empty where git can't tell."""
    if top(directory) is None or shutil.which("git") is None:
        return frozenset()
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(directory), "ls-files", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    if done.returncode != 0:
        return frozenset()
    return frozenset(name.decode("utf-8", "surrogateescape") for name in done.stdout.split(b"\0") if name)
