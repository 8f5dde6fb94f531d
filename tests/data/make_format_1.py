"""Wrote `tests/data/format-1`, once. Kept to show how; a format that was released is never written again.

python tests/data/make_format_1.py DIRECTORY
"""

import gzip
import itertools
import math
import sys
from array import array
from datetime import datetime, timedelta, timezone
from pathlib import Path

from replicate_core.format import digest, records
from replicate_core.format.encodings import encode
from replicate_core.format.manifest import Encoding, File, Manifest, Part
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore

BEGIN = datetime(2026, 11, 23, 6, 28, tzinfo=timezone.utc)
COUNT = itertools.count()
PLANES = [None, "max", None]


def now() -> datetime:
    return BEGIN + timedelta(seconds=next(COUNT))


def randomness(count: int) -> bytes:
    return (next(COUNT) * 0x9E3779B97F4A7C15 % (1 << 8 * count)).to_bytes(count, "big")


def weights(step: int) -> bytes:
    return array("f", (1 + (step + 1) / (index + 2) for index in range(750))).tobytes()


def store(repository: Repository, data: bytes, extension: str) -> str:
    key = repository.new_object_key(digest.digest(data), extension)
    repository.store.put(key, data)
    return key


def part(key: str, data: bytes, offset: int, length: int) -> Part:
    return Part(key, offset, length, digest.digest(data[offset : offset + length]))


def main(directory: Path) -> None:
    repository = Repository(LocalStore(directory), now=now, randomness=randomness)
    repository.prepare()

    source = b"import replicate\n" * 20
    packed = gzip.compress(source, mtime=0)
    pack = store(repository, b"\0" * 512 + packed, ".tar")
    encoding = Encoding("gzip", len(packed))
    forgotten = Manifest(
        {"train.py": File(len(source), 0o755, (part(f"data/00/{'0' * 64}-0.tar", source, 0, len(source)),))},
        object_bytes={f"data/00/{'0' * 64}-0.tar": len(source)},
    )
    code = Manifest(
        {
            "train.py": File(len(source), 0o755, (Part(pack, 512, len(source), digest.digest(source), encoding),)),
            "leer.txt": File(0, 0o644, ()),
        },
        {"latest.py": "train.py"},
        ("logs",),
        {pack: 512 + len(packed)},
        {pack: digest.digest(b"\0" * 512 + packed)},
    )
    first, second = (repository.new_id() for _ in range(2))
    facts = {"user": "ann", "host": "box", "command": "train.py --password=[redacted]", "path": ".", "format": 1}
    repository.append(
        records.Created(
            first,
            now(),
            name="erste Prüfung ✓",
            tags=("a", "b"),
            params={"lr": 0.01, "$deep": {"inf": math.inf, "none": None, "list": [1, "two", math.nan]}},
            config={"storage": "s3://bucket/path", "metrics": {"loss": {"goal": "minimize", "primary": True}}},
            python_version="3.11.7",
            packages={"numpy": "2.4.6"},
            system={"platform": "Linux", "processors": 2, "accelerators": []},
            git=records.GitState("0" * 40, "main", dirty=True),
            replicate_version="0.1.0",
            manifest=(first_manifest := repository.put_manifest(forgotten)),
            size_bytes=code.total_bytes,
            stored_bytes=512 + len(packed),
            **facts,
        )
    )
    loss = records.PrimaryMetric("loss", "minimize")
    checkpoints = []
    for step, value in enumerate([0.5, 0.25, math.nan]):
        data = weights(step)
        codec, stored = (PLANES[step] and encode(data, PLANES[step])) or ("", data)
        key = store(repository, stored, ".tar" if codec else ".pt")
        if codec:
            whole = Part(key, 0, len(data), digest.digest(data), Encoding(codec, len(stored)))
            parts: tuple[Part, ...] = (whole,)
        else:
            parts = (part(key, data, 0, 1024), part(key, data, 1024, len(data) - 1024))
        manifest = Manifest({"model.pt": File(len(data), 0o644, parts)}, object_bytes={key: len(stored)})
        checkpoints.append(
            records.CheckpointFacts(
                repository.new_id(),
                now(),
                step,
                {"loss": value},
                loss,
                "model.pt",
                {"epoch": step},
                repository.put_manifest(manifest),
                len(data),
                len(data),
            )
        )
    repository.append(records.Checkpointed(first, tuple(checkpoints[:2])))
    repository.append(records.Checkpointed(first, tuple(checkpoints[2:])))
    repository.append(records.Repacked(first, {first_manifest: repository.put_manifest(code)}))
    repository.append(records.Edited(first, notes="looks good"))
    repository.append(records.Resumed(first, now(), checkpoints[1].id))
    last = records.CheckpointFacts(repository.new_id(), now(), 2, {"loss": 0.125}, loss)
    repository.append(records.Checkpointed(first, (last,)))
    repository.append(records.Ended(first, now(), "failed", "ValueError: no", blocked_seconds=1.5))
    repository.append(records.Created(second, now(), resumed_from=checkpoints[0].id, **facts))
    repository.append(records.Deleted(second))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
