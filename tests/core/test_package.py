"""The package itself: its names are there, and nobody waits for what he does not use."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import replicate_core


def promised() -> dict[str, tuple[str, str]]:
    """What a type checker is told: the module of each name, and its name there."""
    tree = ast.parse(Path(replicate_core.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: (str(node.module).removeprefix("replicate_core."), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_and_programs_are_told_the_same() -> None:
    assert promised() == replicate_core._PLACES


def test_every_name_is_what_its_module_has() -> None:
    for name, (module, own) in promised().items():
        assert getattr(replicate_core, name) is getattr(importlib.import_module(f"replicate_core.{module}"), own)
    assert set(replicate_core.__all__) <= {*promised(), "__version__"}


def test_names_are_listed_before_they_are_used() -> None:
    program = "import replicate_core; print('Experiment' in dir(replicate_core))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "True"


def test_a_name_that_there_is_none_of_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'replicate_core' has no attribute 'nothing'"):
        _ = replicate_core.nothing


def test_a_recorder_imports_nothing_that_only_readers_need() -> None:
    program = "import sys, replicate_core.spool.recorder; print(*sys.modules)"
    found = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not {"replicate_core.experiment", "replicate_core.project", "replicate_core.repository.pruning"} & set(found)


def test_adapters_may_import_nothing_of_the_core_but_its_root_and_their_contract() -> None:
    """The contract in `pyproject.toml` names all rooms but these: one that is added must be named, too."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    contract = text.partition("Adapters reach the core through its root")[2].partition("[[tool")[0]
    named = set(re.findall(r'"replicate_core\.(\w+)"', contract))
    assert named == {name for _, name, _ in pkgutil.iter_modules(replicate_core.__path__)} - {"adapters"}
