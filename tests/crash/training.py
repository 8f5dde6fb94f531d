"""A training that tells, beside the project, what it is about to save and what it was told is safe.

Arguments: the file to tell it in, a name for this run, how many steps, and the seconds between them. The working
directory is the project.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import warnings
from pathlib import Path

import replicate

LARGE = 300_000
"""More than 256 KiB: such a file is copied on its own."""

FROZEN = random.Random("frozen").randbytes(1 << 20)
"""A chunk that is the same in every step."""


def contents(run: str, step: int) -> tuple[str | None, dict[str, bytes]]:
    """What to save in a step: its path, and what must come back."""

    def noise(count: int, *salt: object) -> bytes:
        return random.Random(f"{run} {salt}").randbytes(count)

    match step % 4:
        case 0:  # the same in every other of these: nothing of it is stored twice
            return "model.bin", {"model.bin": noise(LARGE, step // 8)}
        case 1:
            return "small.txt", {"small.txt": noise(5000, step)}
        case 2:
            return "state", {
                "state/large.bin": FROZEN + noise(LARGE, step),
                "state/deep/large.bin": noise(LARGE + step, step),
                "state/deep/small.bin": noise(1000, step),
                "state/empty": b"",
            }
    return None, {}


def main() -> None:
    told, run, steps, pause_seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    file = open(told, "ab", buffering=0)

    def tell(event: str, **fields: object) -> None:
        file.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_, **__: tell("warned", text=str(message))
    experiment = replicate.init({"run": run})
    tell("begun", experiment=experiment.id)
    for step in range(steps):
        path, files = contents(run, step)
        for name, data in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        tell("saves", step=step, path=path, files=digests)
        checkpoint = experiment.checkpoint(path, {"loss": 1 / (1 + step)}, ("loss", "minimize"), step=step)
        tell("saved", step=step, checkpoint=checkpoint.id)
        time.sleep(pause_seconds)
    tell("stops")
    experiment.stop()
    tell("stopped")


main()
