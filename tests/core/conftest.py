"""What several tests of the core share."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from replicate_core.format.values import Value

pytest.register_assert_rewrite("interrupted_runs", "projects", "sites", "store_suite", "stored_checkpoints")

NOBODY = 65534

settings.register_profile("replicate", deadline=None)  # a busy machine is no finding
settings.load_profile("replicate")

ANYTHING: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([-1, 1 << 70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """Tests of the recorder undo it: `monkeypatch.delenv("REPLICATE_RECORDER")`."""


@pytest.fixture
def open_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory that every user may enter and `as_nobody` owns; `tmp_path` is its owner's alone."""
    directory = Path(tempfile.mkdtemp(prefix="replicate-tests-")).resolve()
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    monkeypatch.chdir(directory)
    yield directory
    subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
    shutil.rmtree(directory)


@pytest.fixture
def as_nobody() -> Callable[[], AbstractContextManager[None]]:
    """Gives up, for a while, the right of root to read and write everything; who is not root never had it."""

    @contextmanager
    def as_nobody() -> Iterator[None]:
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return as_nobody


@pytest.fixture
def another_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes that run some code, and go on once it printed a line; they are killed after the test."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def anything() -> st.SearchStrategy[Value]:
    """Whatever JSON may hold."""
    return ANYTHING


@pytest.fixture(scope="session")
def damaged() -> Callable[[Value], st.SearchStrategy[Value]]:
    """Makes, of a document, the documents that differ in a few places: other JSON stands there, or nothing."""
    return _damaged


@st.composite
def _damaged(draw: st.DrawFn, document: Value) -> Value:
    damaged = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder, place = draw(st.sampled_from(list(_places(damaged)) or [([None], 0)]))
        if draw(st.booleans()):
            del holder[place]
        else:
            holder[place] = draw(ANYTHING)
    return damaged


def _places(value: Value) -> Iterator[tuple[list | dict, int | str]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, item in inside:
        yield value, place
        yield from _places(item)
