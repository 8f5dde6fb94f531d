"""`torch_resume.py`, killed at random moments and started again, ends with the weights of a run that was never killed.

REPLICATE_KILLS_SEED: repeats the random moments, as far as processes can be repeated.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/torch_resume.py"
EPOCHS = 25
KILLS = 5

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "sklearn")), reason="needs torch and scikit-learn"
)


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLE.name, "--epochs", str(EPOCHS)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorders(directory: Path) -> list[int]:
    """The processes that store what runs in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(directory / ".replicate/spool/") in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def epochs(output: str) -> list[int]:
    return [int(line.split()[1].rstrip(":")) for line in output.splitlines() if line.startswith("epoch ")]


def losses(output: str) -> dict[int, str]:
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    return {int(line.split()[1].rstrip(":")): line.split()[-1] for line in lines}


def run(directory: Path) -> str:
    """Run it to its end."""
    process = start(directory)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    seed = os.environ.get("REPLICATE_KILLS_SEED", str(time.time_ns()))
    print(f"REPLICATE_KILLS_SEED={seed}")
    chance = random.Random(seed)
    directories = [tmp_path / name for name in ("whole", "killed")]
    for directory in directories:
        directory.mkdir()
        shutil.copy(EXAMPLE, directory)
    wanted = run(directories[0])
    assert epochs(wanted) == list(range(EPOCHS))

    acknowledged = -1
    kills = 0
    last = ""
    while kills < KILLS:
        process = start(directories[1])
        output = ""
        if chance.random() < 0.8:  # else while it imports, or begins
            output = process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
        else:
            time.sleep(chance.uniform(0.5, 4))
        stores = recorders(directories[1]) if chance.random() < 0.5 else []
        process.kill()
        for recorder in stores:
            with suppress(ProcessLookupError):
                os.kill(recorder, signal.SIGKILL)
        output += process.stdout.read()  # `communicate` passes over what `readline` has read ahead
        process.communicate()
        if epochs(output)[-1:] == [EPOCHS - 1] or "sum of" in output:  # done: another start may be a new experiment
            last = output
            break
        kills += 1
        for epoch, loss in losses(output).items():
            assert losses(wanted)[epoch] == loss, "every epoch is the same, too"
            acknowledged = max(acknowledged, epoch)

    if not last:
        last = run(directories[1])
        assert last.splitlines()[-1] == wanted.splitlines()[-1]
        assert last.splitlines()[-1].startswith("sum of all weights: ")
    assert all(epoch > acknowledged for epoch in epochs(last)), "nothing that was acknowledged is done again"
    assert losses(last).items() <= losses(wanted).items()

    listed = subprocess.run(
        [sys.executable, "-m", "replicate", "ls", "-q"],
        cwd=directories[1],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(listed.stdout.split()) == 1, "it is one experiment"
