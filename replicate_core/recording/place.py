"""Where an experiment is recorded from and to: its project, spool and storage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from replicate_core.format.values import Value
from replicate_core.machine import git
from replicate_core.machine.file_kinds import is_source
from replicate_core.machine.files import Tree, scan
from replicate_core.machine.ignoring import IgnoreRules
from replicate_core.recording.inputs import existing_inside
from replicate_core.recording.notices import notifier
from replicate_core.repository.repository import Repository
from replicate_core.spool import leftovers
from replicate_core.spool.spool import Spool
from replicate_core.storage.opening import local_root
from replicate_core.views.preview import Preview

if TYPE_CHECKING:
    from replicate_core.config import Config


@dataclass(frozen=True, slots=True)
class Place:
    """Where an experiment is recorded from and to."""

    config: Config
    storage: str
    """A URL or path. A relative path starts from the project directory."""
    spool: Spool
    open_repository: Callable[[], Repository]
    """Opens the storage in this process, if it is needed here."""
    storage_options: Mapping[str, Value] = field(default_factory=dict)
    """The options for the storage's driver, with references to the environment unresolved."""

    @property
    def directory(self) -> Path:
        """The project directory."""
        return self.config.directory

    def say(self, text: str) -> None:
        """Give a notice that is neither a problem nor a result, unless `quiet` is configured."""
        if not self.config.quiet:
            notifier().inform(text)

    def tree(
        self,
        start: Path,
        *,
        rules: IgnoreRules,
        left_out: Callable[[str, str], object] = lambda _path, _why: None,
        unwanted: Callable[[str], str | None] = lambda _path: None,
        tracked: Callable[[], Collection[str]] = tuple,
    ) -> Tree:
        """The files at or below `start`, as `scan` finds them, without those of the storage and the spool."""
        storage = local_root(self.storage, relative_to=self.directory)
        spools = [self.spool.directory, self.spool.named]
        skipped = spools if storage is None else [*spools, storage]
        resolved = [directory.resolve() for directory in skipped]
        return scan(
            self.directory,
            start,
            rules=rules,
            skipped=resolved,
            left_out=left_out,
            unwanted=unwanted,
            tracked=tracked,
        )

    def code(self, path: str) -> tuple[Path, Tree, Preview, list[str]]:
        """The path of the code to save, its files, a preview of them, and sources that earlier runs have left.

        Raises:
            InvalidInput: the path, or what lies there, can't be saved.
            ConfigInvalid: a `.replicateignore` or `.gitignore` can't be used.
        """
        start = existing_inside(self.directory, self.directory, path)
        left_out: dict[str, str] = {}
        made: list[str] = []
        tracked = cache(partial(git.tracked, self.directory))
        made_by = leftovers.read(self.spool.directory, self.directory).finder(self.directory)

        def unwanted(path: str) -> str | None:
            maker = made_by(path)
            if maker is None or path in tracked():
                return None
            if is_source(path):
                made.append(path)
            return str(maker)

        rules = IgnoreRules.of(self.directory)
        tree = self.tree(start, rules=rules, left_out=left_out.setdefault, unwanted=unwanted, tracked=tracked)
        sizes = {name: size_of(file) for name, file in tree.files.items()}
        preview = Preview.of(sizes, left_out, self.config.code_limit_bytes, self.config.plain_secrets)
        return start, tree, preview, sorted(made)


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it can't be read."""
    try:
        return path.stat().st_size
    except OSError:  # copying it will raise the error
        return 0
