"""YAML of a size that a person would write: larger, deeper or self-referring documents are refused before they expand.

This module reads files and builds YAML nodes; `config` knows what they mean.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from replicate_core.machine.descriptors import read_regular

FILE_BYTES_MAX = 1 << 20
"""Maximum size of a file."""

DEPTH_MAX = 32
"""Maximum nesting of lists and mappings."""

EXPANDED_MAX = 1 << 20
"""Maximum number of characters of a document with all its aliases expanded."""

NODE_CHARACTERS = 100
"""Number of characters that each value costs beside its own: a document can have about 10,000 values."""

NUMBER_CHARACTERS_MAX = 400
"""Maximum length of a number."""

_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


class TooLarge(yaml.YAMLError):
    """A document is too large to be written by a person.

    Args:
        problem: what is too large.
        problem_mark: where.
    """

    def __init__(self, problem: str, problem_mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.problem = problem
        self.problem_mark = problem_mark


class BoundedLoader(yaml.SafeLoader):
    """A safe loader whose work and memory are bounded by `EXPANDED_MAX`, whatever the document contains.

    An alias costs as much as the value it refers to, so aliases of aliases cost their full expansion.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._cost = 0
        self._cost_of: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build a node, unless it is nested too deeply or the document becomes too large.

        Raises:
            TooLarge: it is too deep or too large; the error has the line.
            yaml.YAMLError: the text is not YAML.
        """
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._cost
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise TooLarge(f"it is nested deeper than {DEPTH_MAX} levels", mark)
        self._pay(0, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._finish(node, before, mark, is_alias=is_alias)
        return node

    def _finish(self, node: yaml.Node, before: int, mark: yaml.Mark, *, is_alias: bool) -> None:
        if is_alias:
            if id(node) not in self._cost_of:
                raise TooLarge("an alias is inside the value that it refers to", mark)
            self._pay(self._cost_of[id(node)], mark)
            return
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > NUMBER_CHARACTERS_MAX:
                raise TooLarge(f"a number has more than {NUMBER_CHARACTERS_MAX} characters", mark)
            self._pay(len(node.value), mark)
        self._cost_of[id(node)] = self._cost - before

    def _pay(self, characters: int, mark: yaml.Mark) -> None:
        self._cost += NODE_CHARACTERS + characters
        if self._cost > EXPANDED_MAX:
            raise TooLarge("it holds too many values, or aliases that multiply them", mark)


def read_text(file: Path) -> str:
    """Read a regular file of at most `FILE_BYTES_MAX` bytes; never waits for a pipe or a device.

    Raises:
        OSError: it can't be read, is not a regular file, or is too large.
        UnicodeDecodeError: it is not UTF-8.
    """
    data = read_regular(file, FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise OSError(f"it has more than {FILE_BYTES_MAX} bytes, which is too large for a configuration file")
    return data.decode("utf-8")
