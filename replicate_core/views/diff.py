"""What differs between two experiments or checkpoints: values by name, files by path, text by line.

Pure. `comparing` fetches both sides, and the bytes of files.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from replicate_core.format.manifest import File, Manifest
from replicate_core.format.values import Value, dumps


class Unset(Enum):
    """Marks a missing value. None can't, because null is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET

EFFORT_MAX = 100_000
"""Maximum number of pairs of equal lines, one of each side: with more, difflib takes seconds, with many more, hours."""

RUN_ENDINGS = frozenset({
    "bin", "ckpt", "csv", "db", "err", "h5", "hdf5", "jsonl", "keras", "log", "npy", "npz", "onnx", "out", "parquet",
    "pkl", "png", "pt", "pth", "safetensors", "svg", "tsv", "zip",
})  # fmt: skip
"""Endings of files that runs write, not people."""

RUN_NAMES = ("events.out.", "nohup.", "slurm-")
"""Prefixes of the names of other files that runs write."""

Kind: TypeAlias = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs between the sides."""

    name: str
    before: Value | Unset
    after: Value | Unset


def changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[Change]:
    """The values that differ, ordered as on the left side. Names of nested values are joined by dots."""
    return list(_changes(before, after, ""))


def _changes(before: Mapping[str, Value], after: Mapping[str, Value], prefix: str) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, UNSET), after.get(name, UNSET)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{prefix}{name}.")
        elif not _same(old, new):
            yield Change(prefix + name, old, new)


def differing(several: Sequence[Mapping[str, Value]]) -> list[str]:
    """The names of the values that differ between several mappings. With only one mapping, all of its names."""
    names = dict.fromkeys(name for each in several for name in each)
    if len(several) < 2:
        return list(names)
    first = several[0]
    return [name for name in names if not all(_same(each.get(name, UNSET), first.get(name, UNSET)) for each in several)]


def _same(old: Value | Unset, new: Value | Unset) -> bool:
    if isinstance(old, Unset) or isinstance(new, Unset):
        return old is new
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    return old == new or dumps(old) == dumps(new)  # NaN is not equal to itself


Content: TypeAlias = "File | str | None"
"""The content at a path of a snapshot: a file, the target of a link, or None."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path whose content differs between the sides."""

    path: str
    before: Content
    after: Content

    @property
    def kind(self) -> Kind:
        """How it changed from the left side to the right."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def is_certain(self) -> bool:
        """Whether the contents surely differ. If not, they are cut into different chunks: compare their bytes."""
        if isinstance(self.before, File) and isinstance(self.after, File):
            return self.before.size != self.after.size or _cuts(self.before) == _cuts(self.after)
        return True


def file_changes(before: Manifest, after: Manifest) -> list[FileChange]:
    """The paths whose content differs: files that people write, then files that runs write, then notebooks.

    Each group is sorted by path. Permissions are not compared.
    """
    old: dict[str, File | str] = {**before.files, **before.links}
    new: dict[str, File | str] = {**after.files, **after.links}
    found = [FileChange(path, old.get(path), new.get(path)) for path in sorted({*old, *new}, key=_order)]
    return [change for change in found if not _is_same_content(change.before, change.after)]


def _order(path: str) -> tuple[int, str]:
    name = path.rpartition("/")[2].lower()
    stem, dot, ending = name.rpartition(".")
    if dot and ending == "ipynb":
        return 2, path  # a notebook changes whenever it is run
    is_written_by_runs = (bool(stem) and ending in RUN_ENDINGS) or name.startswith(RUN_NAMES)
    return int(is_written_by_runs), path


def _is_same_content(old: Content, new: Content) -> bool:
    if isinstance(old, File) and isinstance(new, File):
        return old.size == new.size and _digests(old) == _digests(new)
    return old == new


def _cuts(file: File) -> list[int]:
    return [part.length for part in file.parts]


def _digests(file: File) -> list[tuple[int, str]]:
    return [(part.length, part.digest) for part in file.parts]


def unified(path: str, before: bytes | None, after: bytes | None) -> list[str]:
    """The lines of a unified diff of a file, with git's headers and without line breaks.

    For binary files, a single line says that they differ. For equal files, there are no lines.

    Args:
        path: the path of the file, on both sides.
        before: its bytes on the left side; None if it does not exist there.
        after: its bytes on the right side; None if it does not exist there.
    """
    left = "/dev/null" if before is None else f"a/{path}"
    right = "/dev/null" if after is None else f"b/{path}"
    old, new = _lines(before), _lines(after)
    if old is None or new is None:
        return [f"Binary files {left} and {right} differ"]
    marked: list[str] = []
    compare = difflib.unified_diff if _effort(old, new) <= EFFORT_MAX else _replacement
    for line in compare(old, new, left, right, lineterm=""):
        text, ended, _ = line.partition(_NO_END)
        marked += [text, *(["\\ No newline at end of file"] if ended else [])]
    kind = "new file" if before is None else "deleted file" if after is None else None
    mode = [] if kind is None else [f"{kind} mode 100644"]
    return [f"diff --git a/{path} b/{path}", *mode, *marked] if marked or mode else []


def _effort(old: Sequence[str], new: Sequence[str]) -> int:
    """Number of pairs of equal lines, one of each side, without lines that difflib takes for junk."""
    left, right = Counter(old), Counter(new)
    junk = len(new) // 100 + 1 if len(new) >= 200 else len(new)
    return sum(left[line] * count for line, count in right.items() if count <= junk)


def _replacement(old: Sequence[str], new: Sequence[str], left: str, right: str, *, lineterm: str) -> Iterator[str]:
    """A unified diff that replaces all lines of one side by all lines of the other."""
    yield from (f"--- {left}{lineterm}", f"+++ {right}{lineterm}", f"@@ -1,{len(old)} +1,{len(new)} @@{lineterm}")
    yield from (f"-{line}" for line in old)
    yield from (f"+{line}" for line in new)


_NO_END = "\n"
"""Marks a last line without a line break. No other line contains one."""


def _lines(data: bytes | None) -> list[str] | None:
    """The lines of a text file; None if it is binary."""
    if not data:
        return []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    *lines, last = text.split("\n")
    return [*lines, last + _NO_END] if last else lines
