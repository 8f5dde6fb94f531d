"""Signs of life: the last one of each experiment is known, and one that can't be read is none."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import MemoryStore

from replicate_core.format.sealed import seal
from replicate_core.repository import heartbeats
from replicate_core.repository.heartbeats import INTERVAL, LOST_AFTER, Heartbeat
from replicate_core.repository.repository import Repository

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ONE, OTHER = "1" * 32, "2" * 32
SESSION = "3" * 32
DOCUMENT = {
    "experiment": ONE,
    "session": None,
    "time": "2026-01-02T03:04:05.000000Z",
    "host": "here",
    "process": 1,
    "waiting": 0,
}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    return Repository(store, now=lambda: NOW)


def sign(experiment: str = ONE, seconds: float = 0, waiting: int = 0, session: str | None = None) -> Heartbeat:
    return Heartbeat(experiment, session, NOW + timedelta(seconds=seconds), "host", 123, waiting)


def last(repository: Repository, *experiments: str) -> dict[str, Heartbeat]:
    """The last signs of life of these experiments, all in their first session."""
    return heartbeats.last(repository, dict.fromkeys(experiments))


def test_the_last_sign_of_life_is_the_one_that_counts(repository: Repository) -> None:
    for seconds in (0, 30, 60.25):
        heartbeats.beat(repository, sign(seconds=seconds, waiting=int(seconds)))
    assert last(repository, ONE) == {ONE: sign(seconds=60.25, waiting=60)}
    assert len(repository.store.list("heartbeats/")) == 1


def test_each_experiment_has_its_own(repository: Repository) -> None:
    heartbeats.beat(repository, sign(ONE))
    heartbeats.beat(repository, sign(OTHER, 5))
    assert last(repository, OTHER) == {OTHER: sign(OTHER, 5)}
    assert last(repository, ONE, OTHER, "3" * 32) == {ONE: sign(), OTHER: sign(OTHER, 5)}


def test_one_that_has_ended_gives_none(repository: Repository) -> None:
    heartbeats.beat(repository, sign(ONE))
    heartbeats.beat(repository, sign(OTHER))
    heartbeats.stop(repository, ONE, None)
    assert last(repository, ONE, OTHER) == {OTHER: sign(OTHER)}
    heartbeats.stop(repository, ONE, None)


def test_each_session_has_its_own(repository: Repository) -> None:
    heartbeats.beat(repository, sign())
    heartbeats.beat(repository, sign(seconds=60, session=SESSION))
    assert heartbeats.last(repository, {ONE: SESSION}) == {ONE: sign(seconds=60, session=SESSION)}
    heartbeats.stop(repository, ONE, None)
    assert heartbeats.last(repository, {ONE: SESSION}) == {ONE: sign(seconds=60, session=SESSION)}
    assert last(repository, ONE) == {}


def test_a_storage_that_fails_at_the_end_does_no_harm(repository: Repository, store: MemoryStore) -> None:
    heartbeats.beat(repository, sign())
    store.fails_at = len(store.asked)
    heartbeats.stop(repository, ONE, None)
    store.fails_at = None
    assert last(repository, ONE) == {ONE: sign()}


def test_where_nothing_runs_nothing_is_asked(repository: Repository, store: MemoryStore) -> None:
    heartbeats.beat(repository, sign())
    store.asked.clear()
    assert last(repository) == {}
    assert store.asked == []


def test_of_many_that_run_only_those_that_gave_one_are_read(repository: Repository, store: MemoryStore) -> None:
    heartbeats.beat(repository, sign())
    store.asked.clear()
    assert last(repository, *(f"{number:032}" for number in range(100))) == {}
    assert store.asked == ["list heartbeats/"], "each of them would cost a request that finds nothing"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        seal(DOCUMENT)[:-20],
        seal(None),
        seal([]),
        seal({}),
        *(seal(DOCUMENT | change) for change in (
            {"time": "yesterday"}, {"time": 5}, {"time": None}, {"host": None}, {"process": -1}, {"waiting": "many"},
            {"experiment": 1},
        )),
        *(seal({name: value for name, value in DOCUMENT.items() if name != left})
          for left in DOCUMENT if left != "session"),
    ],
)  # fmt: skip
def test_one_that_cannot_be_read_is_none(repository: Repository, data: bytes) -> None:
    heartbeats.beat(repository, sign(OTHER))
    repository.store.put(f"heartbeats/{ONE}.json", data)
    assert last(repository, ONE, OTHER) == {OTHER: sign(OTHER)}


def test_it_is_plain_to_read(repository: Repository) -> None:
    repository.store.put(f"heartbeats/{ONE}.json", seal(DOCUMENT))
    assert last(repository, ONE) == {ONE: Heartbeat(ONE, None, NOW, "here", 1, 0)}


def test_several_may_be_missed_before_an_experiment_is_lost() -> None:
    assert LOST_AFTER >= 5 * INTERVAL


TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001  # hypothesis adds the zone


@given(
    st.builds(
        Heartbeat,
        st.just(ONE),
        st.none() | st.just(SESSION),
        TIMES,
        st.text(),
        st.integers(0, 1 << 22),
        st.integers(0, 1 << 53),
    )
)
def test_whatever_it_says_it_comes_back(heartbeat: Heartbeat) -> None:
    repository = Repository(MemoryStore())
    heartbeats.beat(repository, heartbeat)
    assert heartbeats.last(repository, {ONE: heartbeat.session}) == {ONE: heartbeat}
