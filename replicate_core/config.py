"""The project's `replicate.yaml`: finding it, reading it, and reporting mistakes by file and line.

Beside `machine.bounded_yaml`, only this module knows YAML. `opening` opens the storage that the file names.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import yaml

from replicate_core import user_warnings
from replicate_core.errors import ConfigInvalid, InvalidInput
from replicate_core.format.encodings import Policy
from replicate_core.format.records import PrimaryMetric
from replicate_core.format.sealed import COUNT_MAX
from replicate_core.format.values import Value, plain
from replicate_core.machine.bounded_yaml import BoundedLoader, TooLarge, read_text
from replicate_core.machine.files import DEFAULT_STORAGE, HOME
from replicate_core.storage.options import CREATE, names_of_secrets

FILE_NAMES = ("replicate.yaml", "replicate.yml")
KEEPSAKE_NAMES = ("keepsake.yaml", "keepsake.yml")
"""Keepsake's names for the file: read where there is none of `FILE_NAMES`."""

KEYS = ("storage", "repository", "storage_options", "metrics", "code_limit", "compression", "spool", "quiet", "redact")
SPOOL_KEYS = ("directory", "limit", "keep_free", "when_full")
METRIC_KEYS = ("goal", "primary")
OLD_KEYS = ("python", "cuda", "install", "install_script", "python_requirements")
"""Keys of the first replicate of 2020: accepted, without effect."""


WhenFull: TypeAlias = Literal["wait", "replace"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
WHEN_FULL: tuple[WhenFull, ...] = get_args(WhenFull)

_Choice = TypeVar("_Choice", bound=str)

_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]B|)")


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """How much may wait to be stored, and where."""

    directory: Path | None = None
    """The spool's directory; None for `.replicate/spool` in the project."""
    limit_bytes: int = 32 * 10**9
    """Maximum number of bytes of one experiment that may wait."""
    keep_free_bytes: int | None = None
    """Number of bytes of the disk that are kept free; None for 2 GB, or 5 % of a smaller disk."""
    when_full: WhenFull = "wait"
    """What `checkpoint()` does when the spool is full: wait, or discard the files of a waiting checkpoint that is not
    the best."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in `replicate.yaml`; the defaults where there is no such file."""

    directory: Path
    """The project directory, resolved."""
    storage: str = DEFAULT_STORAGE
    """A URL, or a path relative to the project directory."""
    metrics: Mapping[str, PrimaryMetric] = field(default_factory=dict)
    """Metrics whose goal is known, by name."""
    primary_metric: PrimaryMetric | None = None
    """The one of `metrics` that is marked as primary."""
    compression: Policy = "auto"
    """What is compressed: nothing, what compresses well, or what compresses at all."""
    spool: SpoolConfig = SpoolConfig()
    quiet: bool = False
    """Whether a run prints nothing at its beginning, nor at its end while it waits for uploads."""
    redact: bool = True
    """Whether secrets in params, tags, notes and the like are redacted before they are recorded."""
    code_limit_bytes: int = 100 * 10**6
    """Number of bytes of code beyond which there is a warning: more is most likely data."""
    storage_options: Mapping[str, Value] = field(default_factory=dict)
    """Options of the storage's driver, as in the file: references are not resolved."""
    file: Path | None = None
    """The file; None where there is none."""

    @property
    def plain_secrets(self) -> dict[str, list[str]]:
        """The options that hold a secret itself, not a reference to the environment, by each name the file may have."""
        names = [f"storage_options.{name}" for name in names_of_secrets(self.storage_options)]
        return {file: names for file in (*FILE_NAMES, *KEEPSAKE_NAMES)}  # noqa: C420  # one list for all


def find_directory(start: Path) -> Path:
    """The project directory: the nearest one at or above `start` with a `replicate.yaml`, else `start` itself.

    If there is no `replicate.yaml`, a `keepsake.yaml` counts, too. A file that another user put into a world-writable
    directory above `start`, such as `/tmp`, does not count.
    """
    start = start.resolve()
    above = [start, *(place for place in start.parents if not _is_planted(place))]
    return next((place for names in (FILE_NAMES, KEEPSAKE_NAMES) for place in above if _named(place, names)), start)


def _is_planted(place: Path) -> bool:
    """Tell whether a world-writable directory has a configuration file of another user."""
    files = _named(place, (*FILE_NAMES, *KEEPSAKE_NAMES))
    return bool(files) and _is_world_writable(place) and not all(map(_is_ours, files))


def project_above(directory: Path) -> Path | None:
    """The nearest directory above that stores experiments in its `.replicate/storage`; None if there is none.

    A directory with its own configuration or `.replicate` is a project of its own. The search ends at the top of a git
    repository, at the home directory, and at a world-writable directory. Directories of other users do not count.

    Args:
        directory: a resolved directory, which has no configuration above it.
    """
    if _files(directory) or (directory / HOME).is_dir():
        return None
    home = Path(os.path.expanduser("~"))  # unlike this, Path.home() raises where there is none
    for below, above in zip((directory, *directory.parents), directory.parents, strict=False):
        if (below / ".git").exists() or above == home or _is_world_writable(above):
            return None
        if (above / HOME).is_dir():
            return above if (above / DEFAULT_STORAGE).is_dir() and _is_ours(above / HOME) else None
    return None


def _is_world_writable(directory: Path) -> bool:
    """Tell whether every user may write to a directory, as to `/tmp`: files in it say nothing about projects below."""
    return bool(directory.stat().st_mode & stat.S_IWOTH)


def _is_ours(path: Path) -> bool:
    """Tell whether a path belongs to this user; for a link, both the link and its target must."""
    found = [path.lstat(), *([path.stat()] if path.exists() else [])]
    return not hasattr(os, "geteuid") or all(each.st_uid == os.geteuid() for each in found)


def load(directory: Path) -> Config:
    """Read the `replicate.yaml` of a project directory.

    Raises:
        ConfigInvalid: it can't be read or has a mistake; the message names file, line and the nearest known key.
    """
    directory = directory.resolve()
    files = _files(directory)
    if not files:
        return Config(directory)
    if len(files) > 1:
        raise ConfigInvalid(f"{directory} has both {' and '.join(file.name for file in files)}: keep one of them")
    return _Reader(files[0]).config(directory)


def load_file(file: Path) -> Config:
    """Read a file with the content of a `replicate.yaml`, under any name; paths in it are relative to its directory.

    Raises:
        ConfigInvalid: see `load`; or there is no such file, or it names no storage.
    """
    found = _Reader(file).config(file.parent.resolve())
    if found.storage is DEFAULT_STORAGE:
        raise ConfigInvalid(f"{file} names no storage: write `storage: ` and a URL or path into it")
    return found


def _files(directory: Path) -> list[Path]:
    return _named(directory, FILE_NAMES) or _named(directory, KEEPSAKE_NAMES)


def _named(directory: Path, names: Sequence[str]) -> list[Path]:
    """The paths with these names that exist, of any kind: a pipe or a broken link is refused when it is read."""
    return [directory / name for name in names if os.path.lexists(directory / name)]


class _Reader:
    """Reads one file; knows the line of every value."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._loader: BoundedLoader | None = None

    def config(self, directory: Path) -> Config:
        entries = dict(self._top())
        self._warn_of_old_keys(entries)
        storage = self._storage(entries)
        metrics, primary = self._metrics(entries["metrics"]) if "metrics" in entries else ({}, None)
        compression: Policy = "auto"
        if "compression" in entries:
            compression = self._choice(entries["compression"], "compression", POLICIES)
        spool = self._spool(entries["spool"], directory) if "spool" in entries else SpoolConfig()
        quiet = "quiet" in entries and self._flag(entries["quiet"], "'quiet'")
        redact = "redact" not in entries or self._flag(entries["redact"], "'redact'")
        limit = {}
        if "code_limit" in entries:
            limit["code_limit_bytes"] = self._size(entries["code_limit"], "code_limit")
        options = self._options(entries["storage_options"]) if "storage_options" in entries else {}
        return Config(
            directory,
            storage or DEFAULT_STORAGE,
            metrics,
            primary,
            compression,
            spool,
            quiet,
            redact,
            storage_options=options,
            file=self._file.absolute(),
            **limit,
        )

    def _top(self) -> Iterator[tuple[str, yaml.Node]]:
        try:
            self._loader = BoundedLoader(read_text(self._file))
            root = self._loader.get_single_node()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{self._file} can't be read: {error}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or error
            verdict = "can't be a configuration" if isinstance(error, TooLarge) else "is not valid YAML"
            raise ConfigInvalid(f"{self._file}{line}: this {verdict}: {problem}") from error
        if root is None or root.tag == "tag:yaml.org,2002:null":  # an empty file
            return
        yield from self._mapping(root, "the file", (*KEYS, *OLD_KEYS), example="storage: s3://bucket/path")

    def _mapping(
        self, node: yaml.Node, what: str, known: tuple[str, ...] | None, *, example: str
    ) -> Iterator[tuple[str, yaml.Node]]:
        """The entries of a mapping, with each key checked; `known=None` accepts any key."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must hold `key: value` lines, for example `{example}`")
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, f"a key of {what} must be a string")
            key = str(key_node.value)
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known[: len(KEYS)])}"
                raise self._error(key_node, f"{key!r} is not a key of {what}: {hint}")
            if key in seen:
                raise self._error(key_node, f"{key!r} occurs twice in {what}")
            seen.add(key)
            yield key, value_node

    def _storage(self, entries: Mapping[str, yaml.Node]) -> str | None:
        found = {key: self._text(entries[key], key) for key in ("storage", "repository") if key in entries}
        if len(set(found.values())) > 1:
            raise self._error(
                entries["repository"],
                "'storage' and 'repository' are two names for the same thing, but they differ here",
            )
        return next(iter(found.values()), None)

    def _text(self, node: yaml.Node, key: str) -> str:
        value = self._value(node)
        if not isinstance(value, str) or not value.strip():
            raise self._error(node, f"{key!r} must be a URL or a path, for example s3://bucket/path, not {value!r}")
        if _CONTROL.search(value):
            raise self._error(node, f"{key!r} must be a URL or a path without control characters, not {value!r}")
        return value.strip()

    def _options(self, node: yaml.Node) -> dict[str, Value]:
        options: dict[str, Value] = {}
        for name, value in self._mapping(node, "storage_options", None, example="profile: my-profile"):
            given = self._value(value)
            if isinstance(given, date):  # its string may differ from what the file says
                called = f"storage_options.{name} is a datetime.{type(given).__name__}"
                raise self._error(value, f"{called} ({given}): put it in quotes if it is meant as a string")
            try:
                options[name] = plain(given, name=f"storage_options.{name}")
            except InvalidInput as error:
                raise self._error(value, str(error)) from error
        if not isinstance(options.get(CREATE, False), bool):
            raise self._error(node, f"{CREATE!r} of storage_options must be true or false, not {options[CREATE]!r}")
        return options

    def _metrics(self, node: yaml.Node) -> tuple[dict[str, PrimaryMetric], PrimaryMetric | None]:
        metrics: dict[str, PrimaryMetric] = {}
        primary: PrimaryMetric | None = None
        for name, entry, fields in self._metric_entries(node):
            if name in metrics:
                raise self._error(entry, f"{name!r} occurs twice in metrics")
            if "goal" not in fields:
                raise self._error(entry, f"the metric {name!r} needs a goal: minimize or maximize")
            metrics[name] = self._goal(name, fields["goal"])
            if "primary" in fields and self._flag(fields["primary"], f"'primary' of the metric {name!r}"):
                if primary is not None:
                    raise self._error(entry, f"{name!r} and {primary.name!r} are both primary: only one metric can be")
                primary = metrics[name]
        return metrics, primary

    def _metric_entries(self, node: yaml.Node) -> Iterator[tuple[str, yaml.Node, dict[str, yaml.Node]]]:
        """Name, node and fields of each metric: from a mapping by name, or from a list as in the replicate of 2020."""
        if isinstance(node, yaml.SequenceNode) and all(isinstance(entry, yaml.MappingNode) for entry in node.value):
            for entry in node.value:
                fields = dict(self._mapping(entry, "a metric", ("name", *METRIC_KEYS), example="name: val_loss"))
                name = self._value(fields["name"]) if "name" in fields else None
                if not isinstance(name, str) or not name:
                    raise self._error(entry, "a metric in a list needs a name, for example `- name: val_loss`")
                yield name, entry, fields
        else:
            example = "val_loss: {goal: minimize, primary: true}"
            for name, entry in self._mapping(node, "metrics", None, example=example):
                known = self._mapping(entry, f"the metric {name!r}", METRIC_KEYS, example="goal: minimize")
                yield name, entry, dict(known)

    def _goal(self, name: str, node: yaml.Node) -> PrimaryMetric:
        value = self._value(node)
        try:
            return PrimaryMetric.parse((name, value))  # type: ignore[return-value]  # a pair is never None
        except InvalidInput as error:
            raise self._error(node, f"the goal of {name!r} must be minimize or maximize, not {value!r}") from error

    def _spool(self, node: yaml.Node, project: Path) -> SpoolConfig:
        entries = dict(self._mapping(node, "spool", SPOOL_KEYS, example="limit: 50 GB"))
        given: dict[str, Any] = {}
        if "directory" in entries:
            name = f"{project.name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:16]}"
            given["directory"] = project / self._directory(entries["directory"]) / name
        if "limit" in entries:
            given["limit_bytes"] = self._size(entries["limit"], "limit")
        if "keep_free" in entries:
            given["keep_free_bytes"] = self._size(entries["keep_free"], "keep_free")
        if "when_full" in entries:
            given["when_full"] = self._choice(entries["when_full"], "when_full", WHEN_FULL)
        return SpoolConfig(**given)

    def _directory(self, node: yaml.Node) -> Path:
        try:
            return Path(self._text(node, "directory")).expanduser()
        except RuntimeError as error:
            raise self._error(node, f"'directory' can't be used: {error}") from error

    def _size(self, node: yaml.Node, key: str) -> int:
        """A number of bytes: `2000000`, `50 GB`."""
        value = self._value(node)
        found = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
        size = None if found is None else float(found[1]) * _UNITS[found[2]]
        if size is None or size > COUNT_MAX:
            raise self._error(node, f"{key!r} must be a size such as 500 MB or 50 GB, not {value!r}")
        return int(size)

    def _choice(self, node: yaml.Node, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        value = self._value(node)
        for choice in choices:
            if value == choice:
                return choice
        raise self._error(node, f"{key!r} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")

    def _flag(self, node: yaml.Node, what: str) -> bool:
        value = self._value(node)
        if not isinstance(value, bool):
            raise self._error(node, f"{what} must be true or false, not {value!r}")
        return value

    def _value(self, node: yaml.Node) -> object:
        assert self._loader is not None, "nodes come from the loader"
        try:
            value: object = self._loader.construct_document(node)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: the 31st of February
            raise self._error(node, f"this value can't be used: {error}") from error
        return value

    def _warn_of_old_keys(self, entries: Mapping[str, yaml.Node]) -> None:
        old = [key for key in OLD_KEYS if key in entries]
        if old:
            user_warnings.warn(
                f"{self._file}: {', '.join(old)}: these keys of the first replicate have no effect, and can be removed"
            )

    def _error(self, node: yaml.Node, problem: str) -> ConfigInvalid:
        return ConfigInvalid(f"{self._file}, line {node.start_mark.line + 1}: {problem}")
