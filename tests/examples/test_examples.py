"""Every program in `examples/` runs from an empty directory, as its reader would run it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_leaves_experiments_that_can_be_listed(example: Path, tmp_path: Path) -> None:
    shutil.copy(example, tmp_path)

    subprocess.run([sys.executable, example.name], cwd=tmp_path, check=True)

    listed = subprocess.run(
        [sys.executable, "-m", "replicate", "ls", "-q"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert listed.stdout.split(), "no experiment was recorded"
