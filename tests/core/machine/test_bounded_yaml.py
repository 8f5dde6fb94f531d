"""YAML that no person writes is refused at once, by file and line, before it takes memory or the stack."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from replicate_core.config import load, load_file
from replicate_core.errors import ConfigInvalid
from replicate_core.machine.bounded_yaml import DEPTH_MAX, FILE_BYTES_MAX

OPTIONS = "storage_options:\n  a: "
BOMB = f"{OPTIONS}&a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED = {
    "aliases of aliases": (BOMB, "line 5: .*aliases that multiply"),
    "an alias of a long text": (
        f"{OPTIONS}&a '{'x' * 500_000}'\n  b: [*a, *a, *a]\n",
        "line 3: .*aliases that multiply",
    ),
    "merged mappings": (
        f"{OPTIONS}&a {{k: v}}\n  b: {{<<: [{'*a, ' * 20_000}]}}\n",
        "line 3: .*aliases that multiply",
    ),
    "an alias inside of itself": (f"{OPTIONS}&a [*a]\n", "line 2: .*inside the value that it refers to"),
    "lists in lists": (f"{OPTIONS}{'[' * 100_000}\n", f"line 2: .*nested deeper than {DEPTH_MAX} levels"),
    "mappings in mappings": (f"storage_options: {'{a: ' * 100_000}\n", "line 1: .*nested deeper"),
    "dashes": (f"{OPTIONS}\n    {'- ' * 100_000}\n", "line 3: .*nested deeper"),
    "keys of keys": ("? " * 100_000, "line 1: .*nested deeper"),
    "very many values": (f"{OPTIONS}[{'a,' * 400_000}]\n", "line 2: .*too many values"),
    "a number of base sixty": (f"code_limit: 1{':59' * 100_000}\n", "line 1: .*a number has more than 400"),
    "a long number": (f"quiet: 0x{'f' * 100_000}\n", "line 1: .*a number has more than 400"),
    "a huge file": ("#" * (FILE_BYTES_MAX + 1), "can't be read: it has more than"),
    "a key that is a mapping": ("? {a: b}\n: c\n", "line 1: a key of the file must be a string"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_would_take_memory_or_the_stack_is_refused_before_it_does(tmp_path: Path, kind: str) -> None:
    text, problem = REFUSED[kind]
    (tmp_path / "replicate.yaml").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigInvalid, match=problem):
            load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_alias_of_a_few_values_is_taken(tmp_path: Path) -> None:
    (tmp_path / "replicate.yaml").write_text("metrics:\n  loss: &down {goal: minimize}\n  error: *down\n")
    assert list(load(tmp_path).metrics) == ["loss", "error"]


def test_a_pipe_that_is_named_as_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "storage.yaml")
    with pytest.raises(ConfigInvalid, match="can't be read: it is not a regular file"):
        load_file(tmp_path / "storage.yaml")
