"""Where very many objects are made to be kept, nobody looks for garbage among them; afterwards all is as it was."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from replicate_core.format.records import Created, Ended
from replicate_core.machine.gc_pause import collection_paused
from replicate_core.repository import catalogue
from replicate_core.repository.compacting import compact
from replicate_core.repository.repository import Repository, utc_now
from replicate_core.spool.spool import Spool
from replicate_core.storage.local import LocalStore
from replicate_core.views import source
from replicate_core.views.source import Source


@pytest.fixture(autouse=True)
def _is_enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note each time that garbage is collected."""
    collections: list[str] = []

    def note(phase: str, _: object) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        yield collections
    finally:
        gc.callbacks.remove(note)


def test_no_garbage_is_collected_meanwhile() -> None:
    with counted() as collections:
        with collection_paused():
            kept = [[number] for number in range(100_000)]
            assert collections == []
        kept += [[number] for number in range(100_000)]
        assert collections


def test_next_to_none_is_collected_during_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(LocalStore(tmp_path / "storage"))
    for number in range(500):
        repository.append(Created(f"{number:032x}", utc_now()))
        repository.append(Ended(f"{number:032x}", utc_now(), "finished"))
    compact(repository)

    def collections() -> int:
        source = Source(lambda: repository, Spool(tmp_path))
        with counted() as found:
            assert len(source.all()) == 500
        return found.count("start")

    paused = collections()
    for module in (catalogue, source):
        monkeypatch.setattr(module, "collection_paused", nullcontext)
    assert collections() >= paused + 5


def test_it_is_collected_again_afterwards() -> None:
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_collected_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), collection_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_one_pause_within_another_does_not_end_it() -> None:
    with collection_paused():
        with collection_paused():
            pass
        assert not gc.isenabled()


def test_who_collects_garbage_himself_is_not_interfered_with() -> None:
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks there")
def test_a_child_that_was_forked_meanwhile_collects_it() -> None:
    with collection_paused():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not gc.isenabled()
    gc.disable()
    child = os.fork()
    if child == 0:
        os._exit(1 if gc.isenabled() else 0)
    assert os.waitpid(child, 0)[1] == 0, "who collects it himself does so in the child, too"
