"""A preview of a snapshot of the code: what is large, and what should not be in it.

Pure: it judges by names and sizes, and reads no file. It avoids false alarms: `tokenizer.json` and `password_reset.py`
are not secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from replicate_core.formatting import size
from replicate_core.machine.file_kinds import is_data, is_secret, is_source

OUTPUT_NAMES = frozenset({".keepsake", "lightning_logs", "checkpoints", "wandb", "mlruns", "outputs", "multirun"})
"""Names of directories in which trainers and trackers put their output."""

NAMED = 3
"""Maximum number of files named in a sentence."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What `replicate.init()` would save of a project."""

    files: Mapping[str, int]
    """Path of each file, relative to the project directory, to its size in bytes; the largest first."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Path of what would not be saved, to the reason. What is below a directory is not listed."""
    limit_bytes: int = 100 * 10**6
    """Maximum size of code: `code_limit` in replicate.yaml."""
    plain: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Path of the configuration, if it holds secrets in plain text, to the names of these options."""

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, int],
        left_out: Mapping[str, str],
        limit_bytes: int,
        plain: Mapping[str, Sequence[str]] | None = None,
    ) -> Preview:
        """A preview of files.

        Args:
            sizes: path to size in bytes.
            left_out: path to the reason.
            limit_bytes: maximum size of code.
            plain: as in the class. Paths that are not among the files are ignored.
        """
        largest_first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        found = {path: names for path, names in (plain or {}).items() if path in sizes and names}
        return cls(dict(largest_first), dict(sorted(left_out.items())), limit_bytes, found)

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(self.files.values())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Files that hold a key or a password: by their names, or because the configuration holds one."""
        return tuple(sorted({path for path in self.files if is_secret(path)} | self.plain.keys()))

    @property
    def data(self) -> tuple[str, ...]:
        """Files that are data or weights, judged by their names and sizes; the largest first."""
        return tuple(path for path, count in self.files.items() if is_data(path, count, self.limit_bytes))

    @property
    def outputs(self) -> Mapping[str, int]:
        """Directories that, by their names, hold output of trainers and trackers, to the size of what is saved."""
        found: dict[str, int] = {}
        for path, count in self.files.items():
            if (directory := output_directory(path)) is not None:
                found[directory] = found.get(directory, 0) + count
        return {name: count for name, count in sorted(found.items()) if f"{name}/__init__.py" not in self.files}

    def concerns(self) -> list[str]:
        """Reasons against saving the code as it is, as sentences."""
        found = []
        if self.total_bytes > self.limit_bytes:
            largest = ", ".join(f"{path} ({size(self.files[path])})" for path in list(self.data or self.files)[:NAMED])
            found.append(
                f"the code of this project takes {size(self.total_bytes)}, more than {size(self.limit_bytes)}; "
                f"largest: {largest}. Name what is not code in .replicateignore, or set code_limit in replicate.yaml"
            )
        found += [
            f"{path} holds {' and '.join(names)} as it is, and anyone who can read the storage can read what is saved "
            "as code: write ${NAME} there, and export NAME"
            for path, names in self.plain.items()
        ]
        if outputs := self.outputs:
            shown = ", ".join(f"{name}/ ({size(count)})" for name, count in outputs.items())
            holds, its_name, verb = ("holds", "its name", "is") if len(outputs) == 1 else ("hold", "their names", "are")
            found.append(
                f"{shown} {holds} output of runs, judging by {its_name}, and {verb} saved as code: leave out what is "
                "not code by a line in .gitignore or .replicateignore"
            )
        if secrets := [path for path in self.secrets if path not in self.plain]:
            more = f" and {len(secrets) - NAMED} more" if len(secrets) > NAMED else ""
            verdict = "looks like a secret" if len(secrets) == 1 else "look like secrets"
            found.append(
                f"{', '.join(secrets[:NAMED])}{more} {verdict}, and anyone who can read the storage can read what is "
                "saved as code: leave out what is secret by a line in .replicateignore"
            )
        return found


def is_left_over(path: str, saved: AbstractSet[str]) -> bool:
    """Tell whether a file among the code is a left-over of earlier runs: it was at a path that checkpoints saved.

    Source files stay code, and so does everything if checkpoints saved the project as a whole.

    Args:
        path: the path of the file, relative to the project.
        saved: the files and directories that checkpoints saved.
    """
    above = (path[:at] for at, character in enumerate(path) if character == "/")
    return not saved.isdisjoint({path, *above}) and not is_source(path)


def output_directory(path: str) -> str | None:
    """The directory above a file whose name says that it holds output of runs; None if there is none."""
    names = path.split("/")[:-1]
    depth = next((depth for depth, name in enumerate(names) if name in OUTPUT_NAMES), None)
    return None if depth is None else "/".join(names[: depth + 1])
