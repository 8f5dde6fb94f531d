"""Wrote `tests/data/replicate-2020`, once: a repository as the first replicate left one in the autumn of 2020.

python tests/data/make_replicate_2020.py DIRECTORY

By hand, from what its program did: every experiment and every checkpoint has a document of its own, written by Python
(which writes NaN as such), and its files lie in a directory of its own, not in an archive. The older one of the two
experiments is from before checkpoints named metrics: they had labels, and the config said which of them was primary.
"""

import json
import sys
from pathlib import Path

ONE, TWO = "a1" * 32, "b2" * 32
FIRST, SECOND, THIRD, OLD = "c3" * 32, "d4" * 32, "e5" * 32, "f6" * 32


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))


def experiment(number: int, identifier: str, **more: object) -> dict[str, object]:
    return {
        "id": identifier,
        "created": f"2020-10-0{number}T12:00:00.000001Z",
        "params": {"learning_rate": 0.1 * number},
        "user": "ben",
        "host": "10.1.1.1",
        "command": "train.py --password=hunter2",
        "config": {"python": "3.8", "cuda": "10.1", "storage": "s3://key:secret@bucket/experiments"},
        **more,
    }


def checkpoint(number: int, owner: str, identifier: str, path: str | None, **more: object) -> dict[str, object]:
    return {
        "id": identifier,
        "created": f"2020-10-02T12:0{number + 1}:00Z",
        "experiment_id": owner,
        "path": path,
        "step": number,
        **more,
    }


def main(root: Path) -> None:
    loss = {"primary_metric": {"name": "loss", "goal": "Minimize"}}
    put(root / f"metadata/experiments/{ONE}.json", experiment(2, ONE, path="."))
    put(root / f"experiments/{ONE}/train.py", "print(1 + 1)\n")
    put(root / f"experiments/{ONE}/lib/model.py", "layers = 3\n")
    put(root / f"metadata/heartbeats/{ONE}.json", {"experiment_id": ONE, "last_heartbeat": "2020-10-02T12:30:00.5Z"})
    for number, (identifier, path, value) in enumerate(
        [(FIRST, "weights", 0.5), (SECOND, "data", 0.25), (THIRD, None, float("nan"))]
    ):
        document = checkpoint(number, ONE, identifier, path, metrics={"loss": value}, **loss)
        put(root / f"metadata/checkpoints/{identifier}.json", document)
    put(root / f"checkpoints/{FIRST}/weights", "1.2kg")
    put(root / f"checkpoints/{SECOND}/data/weights", "1.3kg")

    metrics = [{"name": "accuracy", "goal": "maximize", "primary": True}, {"name": "loss", "goal": "minimize"}]
    put(root / f"metadata/experiments/{TWO}.json", experiment(1, TWO, config={"metrics": metrics}))
    put(root / f"experiments/{TWO}/train.py", "print(1)\n")
    labels = {"accuracy": 0.9, "loss": 0.1}
    put(root / f"metadata/checkpoints/{OLD}.json", checkpoint(5, TWO, OLD, "weights", labels=labels))
    put(root / f"checkpoints/{OLD}/weights", "0.9kg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
