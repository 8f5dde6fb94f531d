"""Which files of a project are left out, by the rules in `.gitignore` and `.replicateignore`.

The rules work as in git: the last pattern that matches decides, a file of rules deeper in the tree comes after one
above it, and nothing in an ignored directory can be included again. All of `.replicateignore` comes after all of git's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

from replicate_core.errors import ConfigInvalid
from replicate_core.machine import git
from replicate_core.machine.descriptors import read_regular
from replicate_core.machine.names import local_name, portable

IGNORE_FILE = ".replicateignore"
KEEPSAKE_IGNORE_FILE = ".keepsakeignore"
"""Keepsake's name for it: read in the project directory if that has no `IGNORE_FILE`."""

GIT_IGNORE_FILE = ".gitignore"
GIT_EXCLUDE_FILE = ".git/info/exclude"

_ANYWHERE = "^(?:.+/)?"
"""Beginning of the expression of a pattern that matches a name at any depth."""

_BELOW = re.compile(r"(?<=/)\*\*(?=/?\s*$)")
"""The end of `a/**`, which matches everything below `a`; in pathspec, it also matches `a` itself."""

_SYNTAX = "Its syntax is that of .gitignore"

_ANY_NAMES = "(?:/.+)?"
"""The expression for `/**`: any number of names."""

_STAR = "[^/]*"

_TOKEN = re.compile(r"\(\?:/\.\+\)\?|\(\?:\.\+/\)\?|(?:\[\^/\]\*)+|\[\^?\]?(?:\\.|[^\]])*\]|\\.|.", re.DOTALL)
"""A token of an expression: `/**`, `**/`, `*` (several in a row count as one), a set of characters, a character."""

_IN_SET = re.compile(r"\[:(?P<name>[a-z]*):\]|(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^\\\]]))?", re.DOTALL)
"""An item of a set of characters: a class, a range, a character."""

_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \t", "cntrl": "\x01-\x1f\x7f", "digit": "0-9",
    "graph": "0-~!-.", "lower": "a-z", "print": " -~", "punct": ":-@!-.[-`{-~", "space": " \t\r\f\v", "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip
"""Classes of ASCII characters, without the slash, which no set matches."""

_DIRECTORY_MARK = re.compile(r"\(\?P<\w+>/\)(\.\*)?")
"""The slash after which a pattern for a directory also matches what is in it."""


_END = re.compile(r"(?<!\\)\$(?=\)*\Z)")


class Verdict(NamedTuple):
    """What the rules say about a path."""

    is_ignored: bool
    file: str
    """The file of rules that decided it, relative to the project."""
    is_own: bool
    """Whether that is a `.replicateignore`."""


_Run: TypeAlias = "tuple[bool, re.Pattern[str] | None, re.Pattern[str] | None]"
"""A run of patterns with the same effect: whether they ignore, those that look at the name, and those at the path."""


class Patterns:
    """The patterns of one file of rules.

    Raises:
        ValueError: a pattern can't be read.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        import pathspec  # noqa: PLC0415  # takes 0.01 s, which `import replicate` need not spend

        said = [line for line in map(_with_plain_sets, lines) if line is not None]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # about sets whose meaning may change some day
                patterns = pathspec.GitIgnoreSpec.from_lines(_BELOW.sub("**/*", line) for line in said).patterns
                used = [(bool(one.include), one.regex.pattern) for one in patterns if one.regex is not None]
                runs = [(kind, [text for _, text in run]) for kind, run in groupby(used, key=lambda item: item[0])]
                self._runs: list[_Run] = [(include, *_compiled(texts)) for include, texts in reversed(runs)]
        except re.error as error:
            raise ValueError(f"a pattern can't be read: {error}") from error

    def __bool__(self) -> bool:
        return bool(self._runs)

    def match(self, path: str, name: str) -> bool | None:
        """Whether a path is ignored; None where no pattern matches the path itself. Directories above don't count.

        Args:
            path: relative to the directory of the file of rules; a directory ends in a slash.
            name: its last name, with that slash.
        """
        for include, names, paths in self._runs:
            if (names is not None and names.match(name)) or (paths is not None and paths.match(path)):
                return include
        return None


def _with_plain_sets(line: str) -> str | None:
    """The pattern with its sets of characters rewritten so that pathspec reads them as git does.

    pathspec does not know `[:alpha:]`, and takes a backslash in a set literally.

    Returns:
        None if a set never ends or has an unknown class: in git, such a pattern matches nothing.
    """
    made, at = "", 0
    while at < len(line):
        if line[at] == "[":
            if (found := _plain_set(line, at + 1)) is None:
                return None
            shown, at = found
            made += shown
        else:
            length = 2 if line[at] == "\\" else 1
            made, at = made + line[at : at + length], at + length
    return made


def _plain_set(line: str, at: int) -> tuple[str, int] | None:
    """The rewritten set whose content begins at a place in a pattern, and the place after it; None if it is invalid.

    The rules are those of git (`wildmatch.c`), https://git-scm.com/docs/gitignore, and of POSIX bracket expressions.
    """
    sign = "!" if line[at : at + 1] in ("!", "^") else ""
    begin = at = at + len(sign)
    single, ranges = "", ""
    while (found := _IN_SET.match(line, at)) is not None and (found[0] != "]" or at == begin):
        at = found.end()
        name, low, high = found["name"], found["low"], found["high"]
        if name is not None:
            if name not in _CLASSES:
                return None
            ranges += _CLASSES[name]
        elif high is None:
            single += low[-1]
        elif high[-1] in "]\\/" or low[-1] in "]\\-^!/":
            single += "".join(map(chr, range(ord(low[-1]), ord(high[-1]) + 1)))
        else:
            ranges += f"{low[-1]}-{high[-1]}"
    if found is None:
        return None
    plain = "".join(sorted(set(single) - set("]^!-/")))
    marks = "".join(mark for mark in "^!" if mark in single)
    if not sign and marks and not (ranges or plain or "]" in single):  # at the beginning of a set it would negate it
        return f"\\{marks[0]}", at + 1
    return f"[{sign}{']' * (']' in single)}{ranges}{plain}{marks}{'-' * ('-' in single)}]", at + 1


def _compiled(texts: Sequence[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """One expression for the patterns that look at a name alone, and one for those that need the path."""
    by_name: list[str] = []
    by_path: list[str] = []
    for text in (_whole(text if text.startswith("^") else f".*{text}") for text in texts):
        rest = text.removeprefix(_ANYWHERE)
        is_name = rest != text and "/" not in rest.replace(r"/\Z", "").replace("[^/]", "")
        (by_name if is_name else by_path).append(rest if is_name else text)
    return _any_of(by_name), _any_of(by_path)


def _whole(text: str) -> str:
    """An expression that matches directories themselves, up to the end of the string: `$` ends before a line break."""
    return _END.sub(r"\\Z", _DIRECTORY_MARK.sub(r"/\\Z", text))


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    numbers = count()
    found = "|".join(f"(?:{_without_retries(text, numbers)})" for text in texts)
    return re.compile(found, re.DOTALL) if texts else None


def _without_retries(text: str, numbers: Iterator[int]) -> str:
    """The same expression, matched in linear time: hostile patterns such as `*a*a*a*a*b` would take hours.

    The part between two `*` has a fixed length, so the first place where it matches is as good as any later one. The
    same holds for the names between two `**`. So neither is retried: each becomes an atomic group, written as
    `fnmatch.translate` does because Python 3.10 has none (https://docs.python.org/3/library/re.html).

    Args:
        text: an expression from pathspec.
        numbers: makes group names unique in the expression that this one becomes part of.
    """
    parts: list[list[str]] = [[]]  # all but the first begin with a `**`
    for token in _TOKEN.findall(text):
        if token in (_ANY_NAMES, _ANYWHERE[1:]):
            parts.append([])
        if token.startswith(_STAR):
            parts[-1].append(_STAR)
        else:
            parts[-1].append(f"(?!/){token}" if token.startswith("[") else token)  # as in git, no set holds the slash
    made = [_names_without_retries(part, numbers) for part in parts]
    for index, part in enumerate(made[1:-1], start=1):
        lazy = part.replace(".+", ".+?", 1).replace(")?", ")??", 1)
        made[index] = _first(f"{lazy}(?=/)", numbers)
    return "".join(made)


def _names_without_retries(tokens: Sequence[str], numbers: Iterator[int]) -> str:
    """Like `_without_retries`, for the `*` in names."""
    made: list[str] = []
    star: int | None = None
    """Index in `made` of the last `*` of this name."""
    for part in tokens:
        if part == _STAR:
            if star is not None:
                made[star:] = [_first(f"{_STAR}?{''.join(made[star + 1 :])}", numbers)]
            star = len(made)
        elif part == "/":
            star = None
        made.append(part)
    return "".join(made)


def _first(text: str, numbers: Iterator[int]) -> str:
    """An expression that takes the first match of `text` and never retries."""
    name = f"first{next(numbers)}"
    return f"(?=(?P<{name}>{text}))(?P={name})"


@dataclass(frozen=True, slots=True)
class _Level:
    """A file of rules, and where it is."""

    patterns: Patterns
    shown: str
    below: str = ""
    """Its directory in the project, with a slash at the end; empty for the project itself."""
    above: str = ""
    """For a file above the project, the path of the project from there, with a slash at the end."""

    def match(self, path: str, name: str) -> bool | None:
        return self.patterns.match(self.above + path[len(self.below) :], name)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that apply in one directory of a project; by default none.

    `of` returns those at the root of a project, `entering` those of a directory in it.
    """

    root: Path | None = None
    """The project, if files of rules are read."""
    advice: str = "save another path"
    """How to leave something out, for error messages."""
    git_levels: tuple[_Level, ...] = ()
    """The rules of git, the most important ones last."""
    own_levels: tuple[_Level, ...] = ()
    """The rules of `.replicateignore`, in the same order."""

    @classmethod
    def of(cls, root: Path) -> IgnoreRules:
        """The rules for a project: git's from above it; `entering` adds those of the files in it.

        Raises:
            ConfigInvalid: a file of rules can't be read; or `.replicateignore` is not UTF-8 text, or has an invalid
                pattern.
        """
        return cls(root, f"name it in {root / IGNORE_FILE}", tuple(_above(root)))

    @classmethod
    def from_lines(cls, lines: Iterable[str], *, advice: str = "save another path") -> IgnoreRules:
        """The rules of a `.replicateignore` with these lines; no other rules are read."""
        return cls(None, advice, (), (_Level(Patterns(lines), IGNORE_FILE),))

    def entering(self, directory: Path, names: Collection[str]) -> IgnoreRules:
        """The rules in a directory: those that apply above it, and those of the files in it.

        Args:
            directory: a directory below the project.
            names: the names in it.

        Raises:
            ConfigInvalid: see `of`.
        """
        if self.root is None:
            return self
        below = "" if directory == self.root else f"{portable(directory.relative_to(self.root).as_posix())}/"
        git_levels, own_levels = self.git_levels, self.own_levels
        if GIT_IGNORE_FILE in names:
            git_levels = (*git_levels, *_git_levels(directory / GIT_IGNORE_FILE, below + GIT_IGNORE_FILE, below=below))
        own = KEEPSAKE_IGNORE_FILE if directory == self.root and IGNORE_FILE not in names else IGNORE_FILE
        if own in names:
            own_levels = (*own_levels, *_own_levels(directory / own, below + own, below=below))
        return (
            replace(self, git_levels=git_levels, own_levels=own_levels)
            if (git_levels, own_levels) != (self.git_levels, self.own_levels)
            else self
        )

    def verdict(self, path: str, *, directory: bool) -> Verdict | None:
        """What the rules say about a path in their directory; None where they say nothing."""
        if not (self.own_levels or self.git_levels):
            return None
        marked = f"{path}/" if directory else path
        name = marked[path.rfind("/") + 1 :]
        for levels in (self.own_levels, self.git_levels):
            for level in reversed(levels):
                if (is_ignored := level.match(marked, name)) is not None:
                    return Verdict(is_ignored, level.shown, levels is self.own_levels)
        return None


def _above(root: Path) -> list[_Level]:
    """Git's rules from above a project: those of its repository, and of the directories in between.

    Empty if they ignore the project itself, which would leave it without code.
    """
    top = git.top(root)
    if top is None:
        return []
    names = portable(root.relative_to(top).as_posix()).split("/") if root != top else []
    exclude = git.common_directory(git.own_directory(top / ".git")) / "info" / "exclude"
    found = _git_levels(exclude, GIT_EXCLUDE_FILE, above="".join(f"{name}/" for name in names))
    for depth, name in enumerate(names):
        shown = "../" * (len(names) - depth) + GIT_IGNORE_FILE
        below = "".join(f"{inner}/" for inner in names[depth:])
        found += _git_levels(top.joinpath(*map(local_name, names[:depth]), GIT_IGNORE_FILE), shown, above=below)
        beneath = len("".join(f"{inner}/" for inner in names[depth + 1 :]))
        marked = [(level, level.above[: len(level.above) - beneath]) for level in reversed(found)]
        if next(
            (said for level, path in marked if (said := level.patterns.match(path, f"{name}/")) is not None), False
        ):
            return []
    return found


def _git_levels(path: Path, shown: str, *, below: str = "", above: str = "") -> list[_Level]:
    """A file of git's rules; empty where there is no such file. Invalid patterns are ignored, as in git."""
    if path.is_symlink() or not path.is_file():  # git does not follow a link there
        return []
    lines = _read(path).decode("utf-8", "surrogateescape").splitlines()
    try:
        patterns = Patterns(lines)
    except ValueError:
        patterns = Patterns(line for line in lines if _is_pattern(line))
    return [_Level(patterns, shown, below, above)] if patterns else []


def _is_pattern(line: str) -> bool:
    try:
        Patterns([line])
    except ValueError:
        return False
    return True


def _own_levels(path: Path, shown: str, *, below: str) -> list[_Level]:
    """A `.replicateignore`."""
    data = _read(path)  # outside the `try`: its ConfigInvalid is a ValueError, too
    try:
        patterns = Patterns(data.decode("utf-8").splitlines())
    except ValueError as error:
        raise ConfigInvalid(f"{path} can't be used: {error}. {_SYNTAX}") from error
    return [_Level(patterns, shown, below)] if patterns else []


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise ConfigInvalid(f"{path} can't be used: {error}. {_SYNTAX}") from error
