"""Any form of model that is killed at a random moment, and started again, ends as one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forking import ForkServer
from keras_forms import EPOCHS, FORMS, STEPS

PROGRAM = Path(__file__).parent / "keras_forms.py"


@pytest.mark.parametrize("name", FORMS)
def test_killed_at_a_random_moment_it_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, forks: ForkServer, name: str
) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    kill_after = random.Random(seed).randint(STEPS + 1, STEPS * EPOCHS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for directory, after, status in ((whole, 0, 0), (killed, kill_after, -signal.SIGKILL), (killed, 0, 0)):
        ended = forks.run(PROGRAM, directory, name, after)
        assert ended.status == status, ended.stderr
    wanted, found = (json.loads((directory / "ended.json").read_text()) for directory in (whole, killed))
    assert found["epochs"] == wanted["epochs"][(kill_after - 1) // STEPS :], ended.stderr
    assert found["variables"] == wanted["variables"], ended.stderr
    assert "Warning" not in ended.stdout + ended.stderr
