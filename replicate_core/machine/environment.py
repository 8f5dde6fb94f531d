"""What is recorded about the machine, the packages, the git checkout and the command when an experiment begins.

This module only reads and imports no framework. Anything that can't be found out is None or left out.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replicate_core.format.records import GitState
from replicate_core.format.values import Value
from replicate_core.machine import git
from replicate_core.machine.names import local_name
from replicate_core.redaction import redact_command

COMMAND_SECONDS = 5
"""Seconds after which an external command (git, nvidia-smi) is given up."""

_NAME = re.compile(r"^Name:[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
_VERSION = re.compile(r"^Version:[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
"""The name and version in the metadata of a package: finding only these takes a tenth of the time of parsing it all."""


def command_line() -> str:
    """The command that started this process, quoted for a shell, with credentials redacted.

    In a notebook it is the notebook if its name is known, because the command of a kernel differs each time. In a
    worker of multiprocessing it is the command that started its parent.
    """
    return redact_command(_command())


def _command() -> Sequence[str]:
    if (shell := _shell_of_kernel()) is not None:
        notebook = _notebook(shell.user_ns)
        return [sys.orig_argv[0], "-m", "ipykernel_launcher"] if notebook is None else [notebook]
    multiprocess = sys.modules.get("multiprocessing.process")
    parent = None if multiprocess is None else multiprocess.parent_process()
    if parent is None or not _is_of_multiprocessing(sys.orig_argv):
        return sys.orig_argv
    try:
        of_parent = Path(f"/proc/{parent.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:  # it has ended, or this is not Linux
        of_parent = []
    words = [os.fsdecode(word) for word in of_parent]
    is_known = any(words) and not _is_of_multiprocessing(words)
    return words if is_known else [sys.orig_argv[0], *sys.argv]  # multiprocessing has copied `sys.argv` from the parent


def _is_of_multiprocessing(words: Sequence[str]) -> bool:
    """Whether this is a command that spawn or forkserver made."""
    return any(word.startswith("from multiprocessing.") for word in words)


def _shell_of_kernel() -> Any:
    """The IPython shell, if this process is a kernel; else None."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _notebook(names: Mapping[str, object]) -> str | None:
    """The notebook of this kernel, relative to the working directory if it is below that; None if it is unknown.

    Args:
        names: the variables of its cells. VS Code and papermill (`--inject-input-path`) set one of them, Jupyter a
            variable of the environment.
    """
    said = [names.get("PAPERMILL_INPUT_PATH"), names.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME")]
    found = next((text for text in said if isinstance(text, str) and text.endswith(".ipynb")), None)
    if found is None:
        return None
    try:
        return Path(found).relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):  # it is elsewhere, or the working directory is gone
        return found


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
    import importlib.metadata  # noqa: PLC0415  # takes 0.01 s, which `import replicate` need not spend

    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        head = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = _NAME.search(head), _VERSION.search(head)
        if name and version:  # a broken installation has neither
            found.setdefault(name[1], version[1])  # the first one on the path is imported
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
    """The model of each GPU, found without initialising any of their libraries."""
    files = sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information"))
    models = [re.search(r"^Model:\s*(.+)$", git.read(file), re.MULTILINE) for file in files]
    if found := [model[1].strip() for model in models if model]:
        return found
    listed = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [] if listed is None else [line.strip() for line in listed.splitlines() if line.strip()]


def git_state(directory: Path) -> GitState | None:
    """The commit and branch checked out at or above a directory, read from git's own files; None outside of git.

    Only `git` itself can tell whether files differ from the commit: `dirty` is None where it is not installed.
    """
    top = git.top(directory)
    if top is None:
        return None
    own = git.own_directory(top / ".git")
    head = git.read(own / "HEAD").strip()
    reference = head.removeprefix("ref: ") if head.startswith("ref: ") else None
    commit = head if reference is None else _resolve(own, reference)
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):  # no commit yet
        return None
    branch = None if reference is None else reference.removeprefix("refs/heads/")
    status = _run(["git", "--no-optional-locks", "-C", str(directory), "status", "--porcelain", "--untracked-files=no"])
    return GitState(commit, branch, None if status is None else bool(status.strip()))


def _resolve(own: Path, reference: str) -> str:
    common = git.common_directory(own)
    for place in (own, common):
        if commit := git.read(place / local_name(reference)).strip():
            return commit
    packed = re.search(rf"^([0-9a-f]+) {re.escape(reference)}$", git.read(common / "packed-refs"), re.MULTILINE)
    return packed[1] if packed else ""


def _run(command: list[str]) -> str | None:
    """The output of a command; None if it is not installed, fails, or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
