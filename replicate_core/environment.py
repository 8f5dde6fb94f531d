"""What is known of the machine, the packages, the git checkout and the command, when an experiment begins.

Reads only; nothing here imports a framework, and what can't be found out is None or left out.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from replicate_core.records import GitState
from replicate_core.redaction import redact_command
from replicate_core.values import Value

COMMAND_SECONDS = 5
"""How long an outside command (git, nvidia-smi) may take before it is left out."""


def command_line() -> str:
    """The command that started this process, quoted for a shell, credentials redacted."""
    return redact_command(sys.orig_argv)


def user() -> str | None:
    """The name of the user; None where the system does not tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for its user
        return None


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def packages() -> dict[str, str]:
    """Every installed package and its version, sorted by name."""
    import importlib.metadata  # noqa: PLC0415  # 0.01 s, which `import replicate` need not pay

    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:  # a broken installation has neither
            found.setdefault(name, version)  # the first on the path is the one that is imported
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def system() -> dict[str, Value]:
    """Platform, processors, memory and accelerators."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "accelerators": list(accelerators()),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def accelerators(proc: Path = Path("/proc")) -> list[str]:
    """The models of the GPUs, one entry each; found without starting any of their libraries."""
    files = sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information"))
    models = [re.search(r"^Model:\s*(.+)$", _read(file), re.MULTILINE) for file in files]
    if found := [model[1].strip() for model in models if model]:
        return found
    listed = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [] if listed is None else [line.strip() for line in listed.splitlines() if line.strip()]


def git_state(directory: Path) -> GitState | None:
    """The commit and branch checked out at or above a directory, read from git's own files; None outside of git.

    Whether files differ from the commit only `git` itself can tell: `dirty` is None where it is not installed.
    """
    top = next((above for above in (directory, *directory.parents) if (above / ".git").exists()), None)
    if top is None:
        return None
    git = _git_directory(top / ".git")
    head = _read(git / "HEAD").strip()
    reference = head.removeprefix("ref: ") if head.startswith("ref: ") else None
    commit = head if reference is None else _resolve(git, reference)
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):  # no commit yet
        return None
    branch = None if reference is None else reference.removeprefix("refs/heads/")
    status = _run(["git", "--no-optional-locks", "-C", str(directory), "status", "--porcelain", "--untracked-files=no"])
    return GitState(commit, branch, None if status is None else bool(status.strip()))


def _git_directory(dot_git: Path) -> Path:
    """Where the HEAD lies: `.git` itself, or what it names in a worktree or submodule."""
    if dot_git.is_dir():
        return dot_git
    return (dot_git.parent / _read(dot_git).strip().removeprefix("gitdir: ")).resolve()


def _resolve(git: Path, reference: str) -> str:
    common = git / (_read(git / "commondir").strip() or ".")
    for place in (git, common):
        if commit := _read(place / reference).strip():
            return commit
    packed = re.search(rf"^([0-9a-f]+) {re.escape(reference)}$", _read(common / "packed-refs"), re.MULTILINE)
    return packed[1] if packed else ""


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _run(command: list[str]) -> str | None:
    """What a command prints; None if it is not installed, fails, or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
