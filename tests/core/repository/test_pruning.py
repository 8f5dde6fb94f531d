"""What nothing refers to is announced, and deleted a grace later; what anything refers to never is."""

from __future__ import annotations

import os
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.errors import Corrupted, NotFound, StorageFailed, TooNew
from replicate_core.format.keys import DATA, MANIFESTS, RECORDS, TOMBSTONES
from replicate_core.format.manifest import encode
from replicate_core.format.records import Checkpointed, CheckpointFacts, Created, Deleted, Resumed, replace
from replicate_core.format.sealed import seal, seal_under
from replicate_core.machine.staging import Staged, StagedFile
from replicate_core.repository import catalogue
from replicate_core.repository.chunk_index import GRACE, ChunkIndex
from replicate_core.repository.compacting import compact
from replicate_core.repository.pruning import LIVE_SHARE, PruneReport, prune
from replicate_core.repository.reading import read_all
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of, verify
from replicate_core.repository.writing import StoredSnapshot, publish
from replicate_core.storage.store import Entry

SECOND = timedelta(seconds=1)
CONTENTS = {f"{number}.bin": random.Random(number).randbytes(2000) for number in range(10)}


class Shelf:
    """A store in memory with a clock of its own, which fails at a given request."""

    url = "memory://shelf"

    def __init__(self, objects: Mapping[str, tuple[bytes, datetime]] | None = None, at: datetime | None = None) -> None:
        self.objects = dict(objects or {})
        self.at = at or datetime(2026, 11, 23, tzinfo=timezone.utc)
        self.requests = 0
        self.fails_at: int | None = None
        self.tells_times = True
        self.deleted: list[str] = []
        self.meanwhile: Callable[[str, str], object] = lambda verb, key: None

    def now(self) -> datetime:
        return self.at

    def _request(self, verb: str, key: str) -> None:
        if self.requests == self.fails_at:
            raise StorageFailed("the network is gone")
        self.requests += 1
        self.meanwhile(verb, key)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._request("get", key)
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][0][start:end]

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        names = list(keys)
        self._request("get_many", "")
        return {name: self.objects[name][0] for name in names if name in self.objects}

    def put(self, key: str, data: bytes) -> None:
        self._request("put", key)
        self.objects[key] = (data, self.at)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def list(self, prefix: str) -> list[Entry]:
        self._request("list", prefix)
        return [
            Entry(key, len(data), written if self.tells_times else None)
            for key, (data, written) in sorted(self.objects.items())
            if key.startswith(prefix)
        ]

    def names(self, prefix):
        return sorted({re.match("[^/]*/?", entry.key[len(prefix) :])[0] for entry in self.list(prefix)})

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        return {key: len(data) for key, data in self.get_many(keys).items()}

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._request("delete", key)
            if self.objects.pop(key, None) is not None:
                self.deleted.append(key)

    def keys(self, prefix: str = "") -> set[str]:
        return {key for key in self.objects if key.startswith(prefix)}

    def stored(self) -> set[str]:
        return self.keys(DATA) | self.keys(MANIFESTS)

    def copy(self) -> Shelf:
        return Shelf(self.objects, self.at)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def staged_of(directory: Path, contents: dict[str, bytes]) -> Staged:
    """A staged snapshot: every file of it has a copy of its own."""
    files = []
    for name, data in contents.items():
        copy = directory / f"copy of {name}"
        copy.write_bytes(data)
        files.append(StagedFile(name, 0o644, copy, 0, len(data)))
    return Staged(directory, tuple(files))


def with_files(facts: CheckpointFacts, done: StoredSnapshot) -> CheckpointFacts:
    return replace(facts, manifest=done.manifest, size_bytes=done.size_bytes)


class Site:
    """A repository, and what is done with it."""

    def __init__(self, shelf: Shelf, scratch: Path) -> None:
        self.shelf = shelf
        self.scratch = scratch

    def repository(self) -> Repository:
        """As a process sees it that begins now."""
        return Repository(self.shelf, now=self.shelf.now)

    def save(self, *numbers: int, known: ChunkIndex | None = None, experiment: str | None = None) -> str:
        """Save some of `CONTENTS` as an experiment, or as a checkpoint of one; returns its id."""
        repository = self.repository()
        staged = staged_of(self.scratch, {f"{one}.bin": CONTENTS[f"{one}.bin"] for one in numbers})
        known = known or ChunkIndex(repository)
        if experiment is None:
            made = repository.new_id()
            publish(
                repository,
                known,
                staged,
                "none",
                lambda done: Created(made, repository.now(), manifest=done.manifest, size_bytes=done.size_bytes),
            )
            return made
        facts = CheckpointFacts(repository.new_id(), repository.now(), 0, {})
        session = repository.states()[experiment].session
        publish(
            repository,
            known,
            staged,
            "none",
            lambda done: Checkpointed(experiment, (with_files(facts, done),), session),
        )
        return facts.id

    def resume(self, experiment: str, checkpoint: str | None, *numbers: int) -> str:
        """Go on with an experiment, with some of `CONTENTS` as its code; returns the manifest of that."""
        repository = self.repository()
        session, previous = repository.new_id(), repository.states()[experiment].session
        staged = staged_of(self.scratch, {f"{one}.bin": CONTENTS[f"{one}.bin"] for one in numbers})
        done = publish(
            repository,
            ChunkIndex(repository),
            staged,
            "none",
            lambda done: Resumed(experiment, repository.now(), session, previous, checkpoint, manifest=done.manifest),
        )
        return done.manifest

    def delete(self, experiment: str, checkpoint: str | None = None) -> None:
        self.repository().append(Deleted(experiment, None if checkpoint is None else (checkpoint,)))

    def prune(self, **options: object) -> PruneReport:
        return prune(self.repository(), scratch=self.scratch, **options)

    def later(self, passed: timedelta = GRACE + SECOND) -> None:
        self.shelf.at += passed

    def read(self) -> dict[str, dict[str, bytes]]:
        """Everything that is listed, read and verified: id of experiment or checkpoint to its files."""
        repository = self.repository()
        found: dict[str, dict[str, bytes]] = {}
        for snapshot in snapshots_of(repository.states(pytest.fail)):
            manifest = repository.manifest(snapshot.manifest)
            contents = {path: bytearray(file.size) for path, file in manifest.files.items()}
            paths = list(contents)
            for pieces in read_all(repository, list(manifest.files.values()), list):
                for wanted, data in pieces:
                    contents[paths[wanted.file]][wanted.position : wanted.position + len(data)] = data
            found[snapshot.checkpoint or snapshot.experiment] = {path: bytes(data) for path, data in contents.items()}
        return found

    def objects(self, experiment: str) -> set[str]:
        repository = self.repository()
        return set(repository.manifest(repository.states()[experiment].created.manifest).object_bytes)

    def needed(self) -> set[str]:
        repository = self.repository()
        manifests = [snapshot.manifest for snapshot in snapshots_of(repository.states())]
        return {*manifests, *(key for one in manifests for key in repository.manifest(one).object_bytes)}


@pytest.fixture
def site(shelf: Shelf, tmp_path: Path) -> Site:
    return Site(shelf, tmp_path)


def contents(*numbers: int) -> dict[str, bytes]:
    return {f"{number}.bin": CONTENTS[f"{number}.bin"] for number in numbers}


class TestTwoPhases:
    def test_what_is_referred_to_stays_for_ever(self, site: Site, shelf: Shelf) -> None:
        code = site.save(0, 1)
        checkpoint = site.save(2, experiment=code)
        there = shelf.keys()
        for _ in range(4):
            site.later()
            assert site.prune() == PruneReport()
        assert shelf.keys() == there
        assert site.read() == {code: contents(0, 1), checkpoint: contents(2)}

    def test_so_do_checkpoints_of_an_experiment_whose_beginning_is_lost(self, site: Site, shelf: Shelf) -> None:
        """They are in no listing, but may be again."""
        experiment = site.save(0)
        site.save(1, experiment=experiment)
        lost = site.save(2, experiment=experiment)
        (created,) = (key for key in shelf.keys(RECORDS) if key.endswith("-created.json"))
        manifests = {item.id: item.manifest for item in site.repository().states()[experiment].checkpoints}
        beginning = shelf.get(created)
        shelf.delete([created, manifests[lost]])
        for _ in range(3):
            site.later()
            site.prune()
        shelf.put(created, beginning)
        hurt = {damage.checkpoint for damage in verify(site.repository(), deep=True).damages}
        assert hurt == {None, lost}, "its code, of which nobody knew, and what was lost before"

    def test_what_nothing_refers_to_is_announced_and_deleted_a_grace_later(self, site: Site, shelf: Shelf) -> None:
        kept = site.save(0)
        gone = site.save(1)
        site.delete(gone)
        doomed = shelf.stored() - site.needed()
        assert len(doomed) == 2, "a manifest and an object"
        site.later()

        first = site.prune()
        assert (first.doomed.keys(), first.deleted, first.waiting) == (doomed, {}, {})
        assert first.doomed == {key: len(shelf.objects[key][0]) for key in doomed}
        assert shelf.stored() == doomed | site.needed()

        site.later(GRACE - SECOND)
        second = site.prune()
        assert (second.deleted, second.waiting, second.doomed) == ({}, first.doomed, {})
        assert shelf.stored() == doomed | site.needed()

        site.later(SECOND)
        third = site.prune()
        assert (third.deleted, third.waiting, third.doomed) == (first.doomed, {}, {})
        assert shelf.stored() == site.needed()
        assert shelf.keys(TOMBSTONES) == set()
        assert site.read() == {kept: contents(0)}
        assert site.prune() == PruneReport()

    def test_young_objects_stay_though_nothing_refers_to_them_yet(self, site: Site, shelf: Shelf) -> None:
        site.save(0)
        key = site.repository().new_object_key(f"sha256:{'1' * 64}", ".tar")
        shelf.put(key, b"of a writer that is not done")
        for passed in (timedelta(0), GRACE - SECOND, SECOND):
            site.later(passed)
            assert site.prune() == PruneReport(young={key: 28})
        site.later(SECOND)
        assert site.prune().doomed == {key: 28}

    def test_what_is_shared_with_a_deleted_experiment_stays(self, site: Site, shelf: Shelf) -> None:
        first = site.save(0, 1)
        second = site.save(0, 1, 2)
        assert site.objects(first) < site.objects(second)
        site.delete(first)
        for _ in range(3):
            site.later()
            site.prune(repack=False)
        assert site.objects(second) <= shelf.stored()
        assert shelf.stored() == site.needed()
        assert site.read() == {second: contents(0, 1, 2)}

    def test_a_deleted_checkpoint_goes_alone(self, site: Site, shelf: Shelf) -> None:
        code = site.save(0)
        gone, kept = (site.save(number, experiment=code) for number in (1, 2))
        site.delete(code, gone)
        for _ in range(2):
            site.later()
            site.prune()
        assert shelf.stored() == site.needed()
        assert site.read() == {code: contents(0), kept: contents(2)}

    def test_what_is_referred_to_again_meanwhile_stays(self, site: Site, shelf: Shelf) -> None:
        gone = site.save(0)
        known = ChunkIndex(site.repository(), lifetime=10 * GRACE)  # longer than is right, so that it can happen
        known.refresh()
        site.delete(gone)
        site.later()
        announced = site.prune().doomed
        kept = site.save(0, known=known)
        (shared,) = site.objects(kept)
        assert shared in announced
        site.later()
        assert shared not in site.prune().deleted
        assert site.read() == {kept: contents(0)}
        assert shelf.keys(TOMBSTONES) == set()
        site.later()
        assert site.prune() == PruneReport()

    def test_a_shorter_grace_can_be_chosen(self, site: Site, shelf: Shelf) -> None:
        site.delete(site.save(0))
        site.later(SECOND)
        assert len(site.prune(grace=timedelta(0)).doomed) == 2
        assert len(site.prune(grace=timedelta(0)).deleted) == 2
        assert shelf.stored() == set()

    def test_an_announcement_that_another_prune_has_swept_is_passed_over(self, site: Site, shelf: Shelf) -> None:
        site.delete(site.save(0))
        site.later()
        site.prune()
        (tombstone,) = shelf.keys(TOMBSTONES)

        def sweep(verb: str, key: str) -> None:
            if (verb, key) == ("get", tombstone):
                shelf.objects.pop(key)

        site.later()
        shelf.meanwhile = sweep
        report = site.prune()
        assert report.deleted == {}
        assert len(report.doomed) == 2, "announced again"

    def test_two_prunes_at_once_delete_once(self, site: Site, shelf: Shelf) -> None:
        kept = site.save(1)
        site.delete(site.save(0))
        site.later()
        site.prune()
        site.prune()
        site.later()
        started = []

        def other(verb: str, key: str) -> None:
            if verb == "delete" and key.startswith((DATA, MANIFESTS)) and not started:
                started.append(key)
                site.prune()

        shelf.meanwhile = other
        site.prune()
        assert started
        assert site.read() == {kept: contents(1)}
        assert shelf.stored() == site.needed()

    def test_an_empty_repository_has_nothing_to_prune(self, site: Site, shelf: Shelf) -> None:
        assert site.prune() == PruneReport()
        assert shelf.keys() == set()


class TestResumed:
    """The code of every run of an experiment stays as long as the experiment, or a checkpoint of it, needs it."""

    @pytest.fixture
    def site(self, shelf: Shelf, tmp_path: Path) -> Site:
        """Where every record is a second younger than the one before: their order counts."""

        class Ticking(Site):
            def repository(self) -> Repository:
                self.later(SECOND)
                return super().repository()

        return Ticking(shelf, tmp_path)

    def rest(self, site: Site, shelf: Shelf) -> None:
        for _ in range(4):
            site.later()
            site.prune()
        assert shelf.stored() == site.needed()
        assert verify(site.repository(), deep=True).damages == ()

    def codes(self, site: Site, experiment: str) -> list[str]:
        return [item.manifest for item in snapshots_of(site.repository().states()) if item.checkpoint is None]

    def test_its_code_stays_for_ever(self, site: Site, shelf: Shelf) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        middle = site.resume(experiment, first, 2)
        second = site.save(3, experiment=experiment)
        last = site.resume(experiment, second, 4)
        there = shelf.stored()
        self.rest(site, shelf)
        assert shelf.stored() == there
        assert self.codes(site, experiment)[1:] == [last, middle]
        assert {"2.bin", "4.bin"} <= {path for key in (middle, last) for path in site.repository().manifest(key).files}

    def test_code_that_made_no_checkpoint_goes_once_it_was_replaced(self, site: Site, shelf: Shelf) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        crashed = site.resume(experiment, first, 2)
        last = site.resume(experiment, first, 4)
        self.rest(site, shelf)
        assert last in shelf.stored()
        assert crashed not in shelf.stored()

    def test_code_goes_with_the_last_checkpoint_that_it_made(self, site: Site, shelf: Shelf) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        middle = site.resume(experiment, first, 2)
        made = [site.save(number, experiment=experiment) for number in (3, 5)]
        last = site.resume(experiment, made[1], 4)
        site.delete(experiment, made[0])
        self.rest(site, shelf)
        assert middle in shelf.stored()
        site.delete(experiment, made[1])
        self.rest(site, shelf)
        assert middle not in shelf.stored()
        assert last in shelf.stored()

    def test_what_was_set_aside_goes_and_what_it_shares_stays(self, site: Site, shelf: Shelf) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        site.save(6, experiment=experiment)
        site.resume(experiment, first, 0, 2)
        again = site.save(1, 7, experiment=experiment)
        self.rest(site, shelf)
        read = site.read()
        assert (read[first], read[again]) == (contents(1), contents(1, 7))
        assert len(read) == 3

    def test_code_that_is_mostly_dead_is_packed_anew_under_its_new_name(self, site: Site, shelf: Shelf) -> None:
        """An object of it is shared with an experiment that is gone."""
        gone = site.save(*range(10))
        (pack,) = site.objects(gone)
        experiment = site.save(8)
        first = site.save(9, experiment=experiment)
        code = site.resume(experiment, first, 3)
        made = site.save(7, experiment=experiment)
        assert set(site.repository().manifest(code).object_bytes) == {pack}
        site.delete(gone)
        site.later()
        assert pack in site.prune().repacked
        state = site.repository().states()[experiment]
        assert state.code not in (None, code)
        assert [item.code for item in state.checkpoints] == [None, state.code]
        self.rest(site, shelf)
        assert pack not in shelf.stored()
        assert code not in shelf.stored()
        assert list(site.repository().manifest(state.code).files) == ["3.bin"]
        assert site.read()[made] == contents(7)

    def test_a_deleted_experiment_takes_all_its_code_with_it(self, site: Site, shelf: Shelf) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        site.resume(experiment, first, 2)
        site.delete(experiment)
        self.rest(site, shelf)
        assert shelf.stored() == set()


class TestDryRun:
    def test_changes_no_key_and_says_what_would_be_done(self, site: Site, shelf: Shelf) -> None:
        site.delete(site.save(0))
        site.later()
        before = dict(shelf.objects)
        planned = site.prune(dry_run=True)
        assert shelf.objects == before
        assert site.prune() == planned
        assert len(planned.doomed) == 2
        site.later()
        before = dict(shelf.objects)
        planned = site.prune(dry_run=True)
        assert shelf.objects == before
        assert site.prune() == planned
        assert len(planned.deleted) == 2

    def test_packs_nothing_anew(self, site: Site, shelf: Shelf) -> None:
        mostly_dead(site)
        before = dict(shelf.objects)
        planned = site.prune(dry_run=True)
        assert shelf.objects == before
        assert len(planned.repacked) == 1
        assert site.prune().repacked == planned.repacked


class TestWhatCanNotBeRead:
    @pytest.fixture
    def due(self, site: Site, shelf: Shelf) -> Site:
        """Something is due for deletion, and something else could be announced."""
        site.kept = site.save(0)
        site.delete(site.save(1))
        site.later()
        site.prune()
        site.delete(site.save(2))
        site.later()
        shelf.deleted.clear()
        return site

    def refuses(self, site: Site, error: type[Exception], match: str) -> None:
        before = dict(site.shelf.objects)
        for dry_run in (True, False):
            with pytest.raises(error, match=match):
                site.prune(dry_run=dry_run)
        assert site.shelf.objects == before, "nothing was deleted, nothing announced"

    def test_undamaged_it_would_be_pruned(self, due: Site) -> None:
        report = due.prune()
        assert (len(report.deleted), len(report.doomed)) == (2, 2)

    def test_a_damaged_record_stops_it(self, due: Site, shelf: Shelf) -> None:
        for record in sorted(shelf.keys("records/")):
            whole = shelf.objects[record]
            shelf.objects[record] = (whole[0].replace(b'"experiment"', b'"experimenT"'), whole[1])
            self.refuses(due, Corrupted, "nothing was pruned.*records/")
            shelf.objects[record] = whole

    def test_a_missing_or_damaged_manifest_stops_it(self, due: Site, shelf: Shelf) -> None:
        (manifest,) = [key for key in due.needed() if key.startswith(MANIFESTS)]
        whole = shelf.objects.pop(manifest)
        self.refuses(due, Corrupted, f"nothing was pruned.*{manifest}")
        shelf.objects[manifest] = (whole[0][:-9], whole[1])
        self.refuses(due, Corrupted, f"nothing was pruned.*{manifest}")

    def test_a_damaged_manifest_that_nothing_refers_to_does_not(self, due: Site, shelf: Shelf) -> None:
        for manifest in shelf.keys(MANIFESTS) - due.needed():
            shelf.objects[manifest] = (b"damaged", shelf.objects[manifest][1])
        assert len(due.prune().deleted) == 2

    def test_a_manifest_of_a_later_format_stops_it(self, due: Site, shelf: Shelf) -> None:
        (manifest,) = [key for key in due.needed() if key.startswith(MANIFESTS)]
        document = encode(due.repository().manifest(manifest)) | {"format": 2}
        shelf.objects[manifest] = (seal(document), shelf.objects[manifest][1])
        self.refuses(due, TooNew, "upgrade")

    def test_a_repository_of_a_later_format_stops_it(self, due: Site, shelf: Shelf) -> None:
        shelf.objects["replicate.json"] = (b'{"format": 2, "digest": "sha256"}', shelf.at)
        self.refuses(due, TooNew, "upgrade")

    def test_a_record_that_only_later_versions_know_stops_it(self, due: Site, shelf: Shelf) -> None:
        repository = due.repository()
        key = f"records/20261123/{repository.new_ulid()}-{due.kept}-imported.json"
        shelf.objects[key] = (seal({"kind": "imported", "experiment": due.kept, "manifest": "manifests/x"}), shelf.at)
        self.refuses(due, (Corrupted, TooNew), "imported")

    def test_a_record_that_is_listed_and_can_not_be_fetched_stops_it(self, due: Site, shelf: Shelf) -> None:
        fetch = shelf.get_many
        shelf.get_many = lambda keys: {key: data for key, data in fetch(keys).items() if "-created" not in key}
        self.refuses(due, (Corrupted, StorageFailed), "records/")

    def obeys_only(self, due: Site, content: bytes) -> PruneReport:
        """Put a bad announcement beside the good one, as old: only the good one is obeyed, now and ever after."""
        (good,) = due.shelf.keys(TOMBSTONES)
        bad = f"{TOMBSTONES}{'0' * 26}.json"
        due.shelf.objects[bad] = (content, due.shelf.objects[good][1])
        there = due.shelf.keys()
        report = due.prune()
        assert len(report.deleted) == 2
        assert report.deleted.keys() == there - due.shelf.keys() - {good}
        (problem,) = report.passed_over
        assert problem.startswith(f"the tombstone {bad} ")
        assert problem.endswith("It is ignored; delete it")
        due.later()
        assert len(due.prune().deleted) == 2, "what was announced beside it"
        assert bad in due.shelf.objects
        assert due.read() == {due.kept: contents(0)}
        return report

    @pytest.mark.parametrize(
        "content",
        [
            b"damaged",
            b"",
            seal({"keys": "data/"}),
            seal({}),
            seal(["data/"]),
            seal({"keys": [1]}),
            seal_under(f"{TOMBSTONES}{'1' * 26}.json", {"keys": []}),
        ],
        ids=lambda content: content[-20:].decode(),
    )
    def test_a_damaged_announcement_is_named_and_does_not_stop_it(self, due: Site, content: bytes) -> None:
        self.obeys_only(due, content)

    @pytest.mark.parametrize("key", ["replicate.json", "record", "../outside", "/outside", "", "data/../x", "data/a"])
    def test_an_announcement_of_anything_but_objects_and_manifests_is_not_obeyed_at_all(
        self, due: Site, shelf: Shelf, key: str
    ) -> None:
        doomed = min(shelf.keys("records/")) if key == "record" else key
        shelf.objects[doomed] = shelf.objects.get(doomed, (b'{"format": 1, "digest": "sha256"}', shelf.at))
        garbage = min(shelf.stored() - due.needed())
        self.obeys_only(due, seal({"keys": [garbage, doomed]}))
        assert doomed in shelf.objects

    def test_an_announcement_that_is_not_obeyed_keeps_no_writer_from_anything(self, due: Site, shelf: Shelf) -> None:
        needed = sorted(key for key in due.needed() if key.startswith(DATA))
        shelf.objects[f"{TOMBSTONES}{'0' * 26}.json"] = (seal({"keys": [*needed, "replicate.json"]}), shelf.at)
        again = due.save(0)
        assert due.objects(again) == set(needed)

    def test_a_snapshot_that_is_never_laid_out_is_named_and_does_not_stop_it(self, due: Site, shelf: Shelf) -> None:
        experiment = due.save(5, 6)
        (manifest,) = [
            item.manifest for item in snapshots_of(due.repository().states()) if item.experiment == experiment
        ]
        document = {"key": manifest, **encode(due.repository().manifest(manifest))}
        document["files"] = {f".Git/{path}": file for path, file in document["files"].items()}
        shelf.objects[manifest] = (seal(document), shelf.objects[manifest][1])
        report = due.prune()
        assert (len(report.deleted), len(report.doomed)) == (2, 2)
        (problem,) = report.passed_over
        assert re.fullmatch(
            f"the manifest {manifest} can't be used: .*'.Git' in it. The objects that it names are kept", problem
        )
        for _ in range(3):
            due.later()
            assert due.prune().passed_over == (problem,)
        assert {manifest, *(key for key, _ in objects_in(document))} <= shelf.stored()

    def test_an_old_manifest_in_the_place_of_another_stops_it(self, due: Site, shelf: Shelf) -> None:
        other = due.save(0, 5)
        states = due.repository().states()
        mine, theirs = (states[experiment].created.manifest for experiment in (due.kept, other))
        content = seal(encode(due.repository().manifest(theirs)))
        shelf.objects[mine] = (content, shelf.objects[mine][1])
        self.refuses(due, Corrupted, f"nothing was pruned.*{mine} lists 4000 bytes of files, and 2000 were recorded")

    def test_a_storage_that_does_not_tell_times_is_left_alone(self, due: Site, shelf: Shelf) -> None:
        shelf.tells_times = False
        self.refuses(due, StorageFailed, "does not tell when it wrote")

    def test_a_storage_that_fails_is_left_alone(self, due: Site, shelf: Shelf) -> None:
        shelf.fails_at = shelf.requests
        self.refuses(due, StorageFailed, "the network is gone")


def objects_in(document: dict) -> list[tuple[str, int]]:
    return [(key, size) for key, size, *_ in document["objects"]]


class TestWhatIsNotOurs:
    """What does not match the grammar of keys belongs to another program, or to another repository."""

    FOREIGN = (
        "data/train.csv",
        "data/ab/train.csv",
        "manifests/deploy.yaml",
        "prune/my_model.pt",
        "prune/my_model.json",
    )

    def test_is_never_announced_nor_deleted(self, site: Site, shelf: Shelf) -> None:
        kept = site.save(0)
        site.delete(site.save(1))
        for key in self.FOREIGN:
            shelf.put(key, b"theirs")
        for _ in range(4):
            site.later()
            report = site.prune()
            assert report.passed_over == ()
        assert all(shelf.objects[key][0] == b"theirs" for key in self.FOREIGN)
        assert shelf.stored() == site.needed() | {key for key in self.FOREIGN if not key.startswith(TOMBSTONES)}
        assert site.read() == {kept: contents(0)}

    @pytest.mark.parametrize(
        "place", ["data", "data/ab", "manifests", "prune", "records", "records/20261123", "segments"]
    )
    def test_a_repository_inside_another_is_left_alone_and_mixes_nothing(
        self, site: Site, shelf: Shelf, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "inner").mkdir()
        inner = Site(Shelf(at=shelf.at), tmp_path / "inner")
        inner_kept, inner_gone = inner.save(2), inner.save(3)
        compact(inner.repository())
        inner.delete(inner_gone)
        inner.later()
        inner.prune()
        kept = site.save(0)
        site.delete(site.save(1))
        theirs = {f"{place}/{key}": (data, shelf.at) for key, (data, _) in inner.shelf.objects.items()}
        shelf.objects |= theirs
        for _ in range(4):
            site.later()
            assert site.prune().passed_over == ()
        compact(site.repository())
        assert {key: shelf.objects[key] for key in theirs} == theirs
        assert list(site.repository().states(pytest.fail)) == [kept]
        assert list(catalogue.read(site.repository(), pytest.fail).experiments) == [kept]
        assert list(inner.repository().states(pytest.fail)) == [inner_kept]
        assert verify(site.repository()).damages == ()


def mostly_dead(site: Site, *, needed: tuple[int, ...] = (3, 7)) -> tuple[str, str]:
    """A pack of ten files, of which two are still needed; returns who needs them, and the pack."""
    gone = site.save(*range(10))
    (pack,) = site.objects(gone)
    kept = site.save(*needed)
    assert site.objects(kept) == {pack}
    site.delete(gone)
    site.later()
    return kept, pack


class TestRepacking:
    def test_an_object_that_is_mostly_dead_is_packed_anew_and_goes(self, site: Site, shelf: Shelf) -> None:
        kept, pack = mostly_dead(site)
        size = len(shelf.objects[pack][0])

        assert site.prune().repacked == {pack: size}
        assert site.read() == {kept: contents(3, 7)}
        (fresh,) = site.objects(kept)
        assert fresh != pack
        assert len(shelf.objects[fresh][0]) < LIVE_SHARE * size
        assert pack in shelf.objects, "who reads it now still can"

        assert pack in site.prune().doomed
        site.later()
        assert pack in site.prune().deleted
        site.later()
        site.prune()
        site.later()
        site.prune()
        assert shelf.stored() == site.needed()
        assert site.read() == {kept: contents(3, 7)}

    def test_the_new_pack_is_a_plain_tar(self, site: Site, shelf: Shelf, tmp_path: Path) -> None:
        kept, _ = mostly_dead(site)
        site.prune()
        (fresh,) = site.objects(kept)
        (tmp_path / "pack.tar").write_bytes(shelf.objects[fresh][0])
        with tarfile.open(tmp_path / "pack.tar") as pack:
            members = [pack.extractfile(member).read() for member in pack.getmembers()]
        assert sorted(members) == sorted(contents(3, 7).values())

    def test_sizes_of_the_new_objects_are_right(self, site: Site) -> None:
        mostly_dead(site)
        site.prune()
        assert verify(site.repository(), deep=True).damages == ()

    def test_nothing_is_left_in_the_scratch_directory(self, site: Site, tmp_path: Path) -> None:
        mostly_dead(site)
        before = sorted(tmp_path.iterdir())
        site.prune()
        assert [path for path in sorted(tmp_path.iterdir()) if path not in before] == []

    def test_an_object_of_which_enough_is_needed_stays(self, site: Site) -> None:
        mostly_dead(site, needed=(0, 1, 2, 3, 4, 5, 6))
        assert site.prune().repacked == {}

    def test_an_object_all_of_which_is_needed_stays_however_small_its_files(self, site: Site, shelf: Shelf) -> None:
        repository = site.repository()
        staged = staged_of(site.scratch, {f"{number}.txt": b"%d" % number for number in range(5)})
        made = repository.new_id()
        publish(
            repository,
            ChunkIndex(repository),
            staged,
            "auto",
            lambda done: Created(made, repository.now(), manifest=done.manifest, size_bytes=done.size_bytes),
        )
        there = shelf.keys()
        for _ in range(3):
            site.later()
            assert site.prune() == PruneReport(), "to pack it anew would save nothing"
        assert shelf.keys() == there

    def test_what_was_packed_anew_is_not_packed_anew_again(self, site: Site) -> None:
        mostly_dead(site)
        assert len(site.prune().repacked) == 1
        for _ in range(3):
            site.later()
            assert site.prune().repacked == {}

    def test_a_young_object_stays(self, site: Site) -> None:
        gone = site.save(*range(10))
        site.save(3)
        site.delete(gone)
        site.later(GRACE)
        assert site.prune().repacked == {}
        site.later(SECOND)
        assert len(site.prune().repacked) == 1

    def test_it_can_be_left_out(self, site: Site, shelf: Shelf) -> None:
        _, pack = mostly_dead(site)
        assert site.prune(repack=False).repacked == {}
        assert pack in site.needed()

    def test_several_objects_of_one_manifest_are_packed_anew_in_one_go(self, site: Site, shelf: Shelf) -> None:
        gone = [site.save(*range(5)), site.save(*range(5, 10))]
        packs = site.objects(gone[0]) | site.objects(gone[1])
        kept = site.save(0, 9)
        checkpoint = site.save(9, 1, experiment=kept)
        assert site.objects(kept) == packs
        assert len(packs) == 2
        for one in gone:
            site.delete(one)
        site.later()

        assert site.prune().repacked.keys() == packs
        assert site.read() == {kept: contents(0, 9), checkpoint: contents(9, 1)}
        assert not site.needed() & packs
        for _ in range(3):
            site.later()
            site.prune()
        assert shelf.stored() == site.needed()
        assert site.read() == {kept: contents(0, 9), checkpoint: contents(9, 1)}

    def test_an_object_that_many_share_is_packed_anew_once(self, site: Site, shelf: Shelf) -> None:
        gone = site.save(*range(10))
        sharing = [site.save(3), site.save(3, 4), site.save(4)]
        site.delete(gone)
        site.later()
        site.prune()
        assert len(set.union(*map(site.objects, sharing))) == 1
        assert site.read() == {sharing[0]: contents(3), sharing[1]: contents(3, 4), sharing[2]: contents(4)}

    def test_a_damaged_part_is_not_carried_on_and_its_object_stays(self, site: Site, shelf: Shelf) -> None:
        kept, pack = mostly_dead(site)
        data, written = shelf.objects[pack]
        at = data.index(CONTENTS["7.bin"]) + 100
        shelf.objects[pack] = (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], written)
        for _ in range(3):
            site.prune()
            site.later()
        assert pack in shelf.objects, "its good parts, and the copy that may mend it, have no other place"
        damages = verify(site.repository(), deep=True).damages
        assert [(damage.experiment, damage.path) for damage in damages] == [(kept, "7.bin")]

    def test_damage_while_it_is_copied_is_not_carried_on(self, site: Site, shelf: Shelf) -> None:
        kept, pack = mostly_dead(site)
        data, written = shelf.objects[pack]
        reads: list[str] = []

        def damage(verb: str, key: str) -> None:  # between the verified read and any second one
            if (verb, key) == ("get", pack):
                reads.append(key)
                shelf.objects[pack] = (data if len(reads) % 2 else bytes(len(data)), written)

        shelf.meanwhile = damage
        site.prune()
        shelf.meanwhile = lambda verb, key: None
        shelf.objects[pack] = (data, written)
        assert site.read() == {kept: contents(3, 7)}

    def test_an_object_that_is_gone_is_no_hindrance(self, site: Site, shelf: Shelf) -> None:
        kept, pack = mostly_dead(site)

        def vanish(verb: str, key: str) -> None:
            if (verb, key) == ("get", pack):
                shelf.objects.pop(pack, None)

        shelf.meanwhile = vanish
        site.prune()
        assert site.objects(kept) == {pack}


class TestWriters:
    def test_one_whose_knowledge_is_older_than_a_quarter_of_the_grace_refers_to_nothing_doomed(
        self, site: Site, shelf: Shelf
    ) -> None:
        gone = site.save(0)
        (pack,) = site.objects(gone)
        known = ChunkIndex(site.repository())
        known.refresh()
        site.delete(gone)
        site.later()
        assert pack in site.prune().doomed
        kept = site.save(0, known=known)
        assert pack not in site.objects(kept)
        site.later()
        assert pack in site.prune().deleted
        assert site.read() == {kept: contents(0)}

    def test_one_that_begins_after_the_announcement_refers_to_nothing_doomed(self, site: Site) -> None:
        gone = site.save(0)
        doomed = site.objects(gone)
        holder = site.save(0)  # refers to it, too: so it can be learnt
        site.delete(gone)
        site.later()
        site.repository().put_tombstone(doomed)
        kept = site.save(0)
        assert not site.objects(kept) & doomed
        site.later()
        site.prune()
        assert site.read() == {holder: contents(0), kept: contents(0)}

    def test_one_with_young_knowledge_is_done_long_before_the_deletion(self, site: Site) -> None:
        gone = site.save(0)
        site.later()
        known = ChunkIndex(site.repository())
        known.refresh()
        site.delete(gone)
        assert site.objects(site.save(1, known=known)) <= set(site.prune().doomed) | site.needed()
        site.later(GRACE / 4)
        kept = site.save(0, known=known)  # may refer to what is doomed by now
        site.later(GRACE)
        site.prune()
        assert site.read()[kept] == contents(0)


def scene(site: Site) -> dict[str, dict[str, bytes]]:
    """Something is due, something can be announced, something can be packed anew. Returns what must never be lost."""
    site.delete(site.save(8, 9))
    site.later()
    site.prune()
    gone = site.save(*range(6))
    kept = site.save(0, 5)
    site.save(0, experiment=kept)
    site.save(6, experiment=kept)
    site.delete(gone)
    site.delete(site.save(7))
    site.later()
    return site.read()


def test_a_crash_between_any_two_requests_loses_nothing_and_a_later_prune_finishes(site: Site, shelf: Shelf) -> None:
    wanted = scene(site)
    before = shelf.copy()
    report = site.prune()
    assert all((report.deleted, report.doomed, report.repacked)), "the scene has some of everything"
    requests = shelf.requests - before.requests
    for number in range(requests):
        other = Site(before.copy(), site.scratch)
        other.shelf.fails_at = number
        try:
            other.prune()
        except StorageFailed:
            pass
        else:
            break  # what failed was not needed any more: all requests were tried
        other.shelf.fails_at = None
        assert other.read() == wanted, number
        for _ in range(6):
            other.prune()
            assert other.read() == wanted, number
            other.later()
        assert other.shelf.stored() == other.needed(), number
        assert [key for key in other.shelf.keys(TOMBSTONES) if key.endswith(".json")] == [], number
    else:
        number = requests
    assert number > 20


def test_probes_of_the_clock_that_a_crash_left_behind_are_removed_some_day(site: Site, shelf: Shelf) -> None:
    site.save(0)
    shelf.meanwhile = lambda verb, key: (_ for _ in ()).throw(StorageFailed("crash")) if verb == "delete" else None
    with pytest.raises(StorageFailed):
        site.prune()
    shelf.meanwhile = lambda verb, key: None
    for _ in range(3):
        site.later()
        site.prune()
    assert shelf.keys(TOMBSTONES) == set()


class TestOnDisk:
    """The same through a project, on a local directory whose files are made to look old."""

    @pytest.fixture
    def storage(self, project: Path) -> Path:
        return project / ".replicate/storage"

    def age(self, storage: Path, days: int = 2) -> None:
        for path in storage.rglob("*"):
            if path.is_file():
                moment = path.stat().st_mtime - days * 86400
                os.utime(path, (moment, moment))

    def test_the_space_of_a_deleted_experiment_is_freed(self, project: Path, storage: Path, tmp_path: Path) -> None:
        (project / "model").write_bytes(os.urandom(1 << 20))
        gone = replicate.init({}, path=None)
        gone.checkpoint("model", {})
        (project / "model").write_bytes(os.urandom(1 << 20))
        kept = replicate.init({}, path=None)
        kept.checkpoint("model", {})
        gone.delete()
        queues = sorted(os.listdir(project / ".replicate/spool"))
        opened = replicate.Project()

        report = opened.prune()
        assert report == PruneReport(young=report.young), "all of it is young"
        assert sum(report.young.values()) > 1 << 20
        self.age(storage)
        assert sum(opened.prune().doomed.values()) > 1 << 20
        assert opened.prune().deleted == {}
        self.age(storage)
        assert sum(opened.prune().deleted.values()) > 1 << 20
        assert sum(path.stat().st_size for path in (storage / "data").rglob("*") if path.is_file()) < 1.1 * (1 << 20)
        assert opened.verify(deep=True).damages == ()
        replicate.experiments.get(kept.id).checkout(tmp_path / "out")
        assert (tmp_path / "out/model").read_bytes() == (project / "model").read_bytes()
        assert sorted(os.listdir(project / ".replicate/spool")) == queues, "its scratch directory is gone"

    def test_a_process_that_prunes_sees_what_others_wrote_meanwhile(self, project: Path, storage: Path) -> None:
        (project / "train.py").write_text("print()" * 100)
        opened = replicate.Project()
        assert list(opened.experiments.list()) == []
        made = replicate.init({})
        self.age(storage)
        assert opened.prune(repack=False) == PruneReport()
        shutil.rmtree(storage / "records")
        assert len(opened.prune(repack=False).doomed) == 2
        assert made.is_running()

    def test_looking_at_a_project_without_a_storage_makes_none(self, project: Path, storage: Path) -> None:
        assert replicate.Project().prune(dry_run=True) == PruneReport()
        assert not storage.exists()
