"""Which projects' configuration files this user trusts: recorded by path and content, in the user's state directory.

`vetting` says what in a file needs that trust.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicate_core.errors import ConfigInvalid, Corrupted, NotFound
from replicate_core.format.values import Value, dumps, loads
from replicate_core.machine.files import write_atomically
from replicate_core.machine.ownership import state_directory

TRUSTED = "REPLICATE_TRUST"
"""Environment variable for directories whose files are trusted whatever they say, for jobs that can't ask."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a file says about its storage."""

    file: Path
    storage: str
    """A URL or a path, as it is in the file."""
    options: Mapping[str, Value]
    """Options of its driver, with references not resolved."""

    @property
    def digest(self) -> str:
        """Digest of what the file says about its storage; everything else in the file may change."""
        said: Value = {"storage": self.storage, "storage_options": dict(self.options)}
        return hashlib.sha256(dumps(said).encode()).hexdigest()


def check_trusted(request: Request, found: Sequence[str]) -> None:
    """Make sure that the user has allowed what a file asks for.

    Args:
        request: what the file says.
        found: the parts that need trust, from `doubts`; empty if none does.

    Raises:
        ConfigInvalid: the user has not; the message names those parts, and says how to allow them.
    """
    if not found or is_trusted(request):
        return
    raise ConfigInvalid(
        f"{request.file} asks for something that only you may allow, because it could run commands, read files or send "
        f"secrets: {'; '.join(found)}. If you know where it comes from, run "
        f"`replicate trust {shlex.quote(str(request.file))}` once; in jobs where nobody can type that, set "
        f"{TRUSTED}={shlex.quote(str(request.file.parent))}. docs/storage.md says what needs no trust"
    )


def is_trusted(request: Request) -> bool:
    """Tell whether the user trusts a file with its current content."""
    file = request.file.resolve()
    named = map(Path, os.environ.get(TRUSTED, "").split(os.pathsep))
    return file.parent in [path.resolve() for path in named if path.is_absolute()] or _read(_entry(file)) == (
        file,
        request.digest,
    )


def trust(request: Request) -> None:
    """Record that the user trusts a file with its current content.

    Raises:
        OSError: the record can't be written.
    """
    file = request.file.resolve()
    entry = _entry(file)
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry.parent.chmod(0o700)
    write_atomically(entry, dumps({"file": str(file), "digest": request.digest}).encode())
    entry.chmod(0o600)


def forget(file: Path) -> None:
    """Stop trusting a file.

    Raises:
        NotFound: it was not trusted.
    """
    try:
        _entry(file.resolve()).unlink()
    except FileNotFoundError as error:
        raise NotFound(f"{file} is not trusted: there is nothing to undo") from error


def trusted() -> list[Path]:
    """The files that were trusted; they may have changed since."""
    found = [_read(entry) for entry in _directory().glob("*.json")]
    return sorted(file for file, _ in filter(None, found))


def _directory() -> Path:
    return state_directory() / "trusted"


def _entry(file: Path) -> Path:
    return _directory() / f"{hashlib.sha256(os.fsencode(file)).hexdigest()[:32]}.json"


def _read(entry: Path) -> tuple[Path, str] | None:
    """The file that was trusted, and its digest; None if there is no valid entry, or others could have written it."""
    try:
        if not (_is_private(entry.parent) and _is_private(entry)):
            return None
        said = loads(entry.read_bytes())
    except (OSError, Corrupted):
        return None
    match said:
        case {"file": str(file), "digest": str(digest)}:
            return Path(file), digest
    return None


def _is_private(path: Path) -> bool:
    status = path.lstat()
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
