"""Records of every kind, and short ways to make those that tests of the format need."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import get_args

from hypothesis import strategies as st

from replicate_core.format.records import (
    Checkpointed,
    CheckpointFacts,
    Created,
    Deleted,
    Edited,
    Ended,
    Ending,
    GitState,
    Keep,
    PrimaryMetric,
    Record,
    Released,
    Repacked,
    Restored,
    Resumed,
    fold,
)

KEY = "records/20261123/01J-e-created.json"
MOMENT = datetime(2026, 11, 23, 6, 28, tzinfo=timezone.utc)
GOALS = ("minimize", "maximize")
E = "e" * 32
"""The id of an experiment."""


TEXTS = st.text(max_size=6)
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
MANIFESTS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26).map("manifests/{}.json".format)
COUNTS = st.integers(0, 1 << 53)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9000, 12, 31), timezones=st.just(timezone.utc))  # noqa: DTZ001  # as hypothesis wants it
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
MAPPINGS = st.dictionaries(TEXTS, VALUES, max_size=3)
TUPLES = st.lists(TEXTS, max_size=3).map(tuple)
CHECKPOINTS = st.builds(
    CheckpointFacts,
    id=IDS,
    created=MOMENTS,
    step=st.integers(),
    metrics=MAPPINGS,
    primary_metric=st.none() | st.builds(PrimaryMetric, st.text(min_size=1, max_size=6), st.sampled_from(GOALS)),
    path=st.none() | TEXTS,
    extra=MAPPINGS,
    manifest=st.none() | MANIFESTS,
    size_bytes=COUNTS,
    stored_bytes=COUNTS,
    keep=st.none() | st.builds(Keep, COUNTS, COUNTS),
    lacks=st.none() | TEXTS,
)
RECORDS: dict[type[Record], st.SearchStrategy[Record]] = {
    Created: st.builds(
        Created,
        experiment=IDS,
        created=MOMENTS,
        name=st.none() | TEXTS,
        tags=TUPLES,
        notes=st.none() | TEXTS,
        params=MAPPINGS,
        user=st.none() | TEXTS,
        host=st.none() | TEXTS,
        command=st.none() | TEXTS,
        config=MAPPINGS,
        path=st.none() | TEXTS,
        python_version=st.none() | TEXTS,
        packages=st.dictionaries(TEXTS, TEXTS, max_size=3),
        system=MAPPINGS,
        git=st.none() | st.builds(GitState, TEXTS, st.none() | TEXTS, st.none() | st.booleans()),
        replicate_version=st.none() | TEXTS,
        format=COUNTS,
        resumed_from=st.none() | TEXTS,
        manifest=st.none() | MANIFESTS,
        size_bytes=COUNTS,
        stored_bytes=COUNTS,
        lacks=st.none() | TEXTS,
    ),
    Checkpointed: st.builds(Checkpointed, IDS, st.lists(CHECKPOINTS, max_size=3).map(tuple), st.none() | IDS),
    Edited: st.builds(Edited, IDS, st.none() | TEXTS, st.none() | TUPLES, st.none() | TEXTS),
    Resumed: st.builds(
        Resumed,
        IDS,
        MOMENTS,
        IDS,
        st.none() | IDS,
        st.none() | TEXTS,
        path=st.none() | TEXTS,
        manifest=st.none() | MANIFESTS,
        size_bytes=COUNTS,
        stored_bytes=COUNTS,
    ),
    Ended: st.builds(
        Ended,
        IDS,
        MOMENTS,
        st.sampled_from(get_args(Ending)),
        st.none() | TEXTS,
        st.floats(min_value=0, allow_infinity=False),
        st.none() | IDS,
    ),
    Deleted: st.builds(Deleted, IDS, st.none() | TUPLES),
    Released: st.builds(Released, IDS, TUPLES),
    Repacked: st.builds(Repacked, IDS, st.dictionaries(MANIFESTS, MANIFESTS, max_size=3)),
    Restored: st.builds(Restored, IDS, st.none() | IDS, MANIFESTS, COUNTS, COUNTS),
}
SAMPLES: dict[str, Record] = {
    "created": Created(E, MOMENT, git=GitState("abc", "main", dirty=True), packages={"numpy": "2.0"}),
    "checkpoints": Checkpointed(
        E, (CheckpointFacts("c" * 32, MOMENT, 1, {"loss": 0.5}, PrimaryMetric("loss", "minimize")),)
    ),
    "edited": Edited(E, "name", ("tag",), "notes"),
    "resumed": Resumed(E, MOMENT, "5" * 32, None, "c", ".", f"manifests/{'1' * 26}.json", 7, 5),
    "ended": Ended(E, MOMENT, "failed", "ValueError: no", 1.5),
    "deleted": Deleted(E, ("c",)),
    "released": Released(E, ("c",)),
    "repacked": Repacked(E, {f"manifests/{'1' * 26}.json": f"manifests/{'2' * 26}.json"}),
    "restored": Restored(E, "c" * 32, f"manifests/{'1' * 26}.json", 7, 5),
}


def checkpoint(identifier: str, **metrics: object) -> CheckpointFacts:
    return CheckpointFacts(identifier, MOMENT, 0, metrics)


def rated(identifier: str, loss: object, goal: str = "minimize") -> CheckpointFacts:
    return dataclasses.replace(checkpoint(identifier, loss=loss), primary_metric=PrimaryMetric("loss", goal))


def made(*identifiers: str, session: str | None = None) -> Checkpointed:
    return Checkpointed("e", tuple(checkpoint(identifier) for identifier in identifiers), session)


def resumed(
    checkpoint: str | None, code: str | None = None, *, session: str = "s", previous: str | None = None
) -> Resumed:
    return Resumed("e", MOMENT, session, previous, checkpoint, manifest=code)


def shown(*records: Record, experiment: str = "e") -> str:
    """The ids of the checkpoints that an experiment is left with, one letter each."""
    return "".join(item.id for item in fold([Created(experiment, MOMENT), *records])[experiment].checkpoints)
