"""Any form of model that is killed at a random moment, and started again, ends as one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keras_forms import EPOCHS, FORMS, STEPS


@pytest.fixture(scope="module")
def train() -> Iterator[Callable[[Path, str, int], int]]:
    """Trains in a process of its own, which kills itself after so many batches, if any; returns its exit status."""
    program = Path(__file__).parent / "keras_forms.py"
    server = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(directory: Path, name: str, kill_after: int = 0) -> int:
        print(directory, name, kill_after, sep="\t", file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.communicate(timeout=60)


@pytest.mark.parametrize("name", FORMS)
def test_killed_at_a_random_moment_it_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, train: Callable[..., int], name: str
) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    kill_after = random.Random(seed).randint(STEPS + 1, STEPS * EPOCHS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, name) == 0, (whole / "said.txt").read_text()
    assert train(killed, name, kill_after) == -signal.SIGKILL, (killed / "said.txt").read_text()
    assert train(killed, name) == 0, (killed / "said.txt").read_text()
    wanted, found = (json.loads((directory / "ended.json").read_text()) for directory in (whole, killed))
    said = (killed / "said.txt").read_text()
    assert found["epochs"] == wanted["epochs"][(kill_after - 1) // STEPS :], said
    assert found["variables"] == wanted["variables"], said
    assert "Warning" not in said
