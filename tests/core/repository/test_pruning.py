"""What nothing refers to is announced, and deleted a grace later; what anything refers to never is."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sites import SECOND, Site, contents, mostly_dead, stored
from stores import MemoryStore

import replicate_core as replicate
from replicate_core.errors import StorageFailed
from replicate_core.format.keys import DATA, MANIFESTS, RECORDS, TOMBSTONES
from replicate_core.repository.chunk_index import GRACE, ChunkIndex
from replicate_core.repository.pruning import PruneReport
from replicate_core.repository.repository import Repository
from replicate_core.repository.verifying import snapshots_of, verify


class TestTwoPhases:
    def test_what_is_referred_to_stays_for_ever(self, site: Site, shelf: MemoryStore) -> None:
        code = site.save(0, 1)
        checkpoint = site.save(2, experiment=code)
        there = shelf.keys()
        for _ in range(4):
            site.later()
            assert site.prune() == PruneReport()
        assert shelf.keys() == there
        assert site.read() == {code: contents(0, 1), checkpoint: contents(2)}

    def test_so_do_checkpoints_of_an_experiment_whose_beginning_is_lost(self, site: Site, shelf: MemoryStore) -> None:
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

    def test_what_nothing_refers_to_is_announced_and_deleted_a_grace_later(
        self, site: Site, shelf: MemoryStore
    ) -> None:
        kept = site.save(0)
        gone = site.save(1)
        site.delete(gone)
        doomed = stored(shelf) - site.needed()
        assert len(doomed) == 2, "a manifest and an object"
        site.later()

        first = site.prune()
        assert (first.doomed.keys(), first.deleted, first.waiting) == (doomed, {}, {})
        assert first.doomed == {key: len(shelf.objects[key][0]) for key in doomed}
        assert stored(shelf) == doomed | site.needed()

        site.later(GRACE - SECOND)
        second = site.prune()
        assert (second.deleted, second.waiting, second.doomed) == ({}, first.doomed, {})
        assert stored(shelf) == doomed | site.needed()

        site.later(SECOND)
        third = site.prune()
        assert (third.deleted, third.waiting, third.doomed) == (first.doomed, {}, {})
        assert stored(shelf) == site.needed()
        assert shelf.keys(TOMBSTONES) == set()
        assert site.read() == {kept: contents(0)}
        assert site.prune() == PruneReport()

    def test_young_objects_stay_though_nothing_refers_to_them_yet(self, site: Site, shelf: MemoryStore) -> None:
        site.save(0)
        key = site.repository().new_object_key(f"sha256:{'1' * 64}", ".tar")
        shelf.put(key, b"of a writer that is not done")
        for passed in (timedelta(0), GRACE - SECOND, SECOND):
            site.later(passed)
            assert site.prune() == PruneReport(young={key: 28})
        site.later(SECOND)
        assert site.prune().doomed == {key: 28}

    def test_what_is_shared_with_a_deleted_experiment_stays(self, site: Site, shelf: MemoryStore) -> None:
        first = site.save(0, 1)
        second = site.save(0, 1, 2)
        assert site.objects(first) < site.objects(second)
        site.delete(first)
        for _ in range(3):
            site.later()
            site.prune(repack=False)
        assert site.objects(second) <= stored(shelf)
        assert stored(shelf) == site.needed()
        assert site.read() == {second: contents(0, 1, 2)}

    def test_a_deleted_checkpoint_goes_alone(self, site: Site, shelf: MemoryStore) -> None:
        code = site.save(0)
        gone, kept = (site.save(number, experiment=code) for number in (1, 2))
        site.delete(code, gone)
        for _ in range(2):
            site.later()
            site.prune()
        assert stored(shelf) == site.needed()
        assert site.read() == {code: contents(0), kept: contents(2)}

    def test_what_is_referred_to_again_meanwhile_stays(self, site: Site, shelf: MemoryStore) -> None:
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

    def test_a_shorter_grace_can_be_chosen(self, site: Site, shelf: MemoryStore) -> None:
        site.delete(site.save(0))
        site.later(SECOND)
        assert len(site.prune(grace=timedelta(0)).doomed) == 2
        assert len(site.prune(grace=timedelta(0)).deleted) == 2
        assert stored(shelf) == set()

    def test_an_announcement_that_another_prune_has_swept_is_passed_over(self, site: Site, shelf: MemoryStore) -> None:
        site.delete(site.save(0))
        site.later()
        site.prune()
        (tombstone,) = shelf.keys(TOMBSTONES)

        def sweep(verb: str, key: str) -> None:
            if (verb, key) == ("get", tombstone):
                shelf.objects.pop(key)

        site.later()
        shelf.before = sweep
        report = site.prune()
        assert report.deleted == {}
        assert len(report.doomed) == 2, "announced again"

    def test_two_prunes_at_once_delete_once(self, site: Site, shelf: MemoryStore) -> None:
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

        shelf.before = other
        site.prune()
        assert started
        assert site.read() == {kept: contents(1)}
        assert stored(shelf) == site.needed()

    def test_an_empty_repository_has_nothing_to_prune(self, site: Site, shelf: MemoryStore) -> None:
        assert site.prune() == PruneReport()
        assert shelf.keys() == set()


class TestResumed:
    """The code of every run of an experiment stays as long as the experiment, or a checkpoint of it, needs it."""

    @pytest.fixture
    def site(self, shelf: MemoryStore, tmp_path: Path) -> Site:
        """Where every record is a second younger than the one before: their order counts."""

        class Ticking(Site):
            def repository(self) -> Repository:
                self.later(SECOND)
                return super().repository()

        return Ticking(shelf, tmp_path)

    def rest(self, site: Site, shelf: MemoryStore) -> None:
        for _ in range(4):
            site.later()
            site.prune()
        assert stored(shelf) == site.needed()
        assert verify(site.repository(), deep=True).damages == ()

    def codes(self, site: Site, experiment: str) -> list[str]:
        return [item.manifest for item in snapshots_of(site.repository().states()) if item.checkpoint is None]

    def test_its_code_stays_for_ever(self, site: Site, shelf: MemoryStore) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        middle = site.resume(experiment, first, 2)
        second = site.save(3, experiment=experiment)
        last = site.resume(experiment, second, 4)
        there = stored(shelf)
        self.rest(site, shelf)
        assert stored(shelf) == there
        assert self.codes(site, experiment)[1:] == [last, middle]
        assert {"2.bin", "4.bin"} <= {path for key in (middle, last) for path in site.repository().manifest(key).files}

    def test_code_that_made_no_checkpoint_goes_once_it_was_replaced(self, site: Site, shelf: MemoryStore) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        crashed = site.resume(experiment, first, 2)
        last = site.resume(experiment, first, 4)
        self.rest(site, shelf)
        assert last in stored(shelf)
        assert crashed not in stored(shelf)

    def test_code_goes_with_the_last_checkpoint_that_it_made(self, site: Site, shelf: MemoryStore) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        middle = site.resume(experiment, first, 2)
        made = [site.save(number, experiment=experiment) for number in (3, 5)]
        last = site.resume(experiment, made[1], 4)
        site.delete(experiment, made[0])
        self.rest(site, shelf)
        assert middle in stored(shelf)
        site.delete(experiment, made[1])
        self.rest(site, shelf)
        assert middle not in stored(shelf)
        assert last in stored(shelf)

    def test_what_was_set_aside_goes_and_what_it_shares_stays(self, site: Site, shelf: MemoryStore) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        site.save(6, experiment=experiment)
        site.resume(experiment, first, 0, 2)
        again = site.save(1, 7, experiment=experiment)
        self.rest(site, shelf)
        read = site.read()
        assert (read[first], read[again]) == (contents(1), contents(1, 7))
        assert len(read) == 3

    def test_code_that_is_mostly_dead_is_packed_anew_under_its_new_name(self, site: Site, shelf: MemoryStore) -> None:
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
        assert pack not in stored(shelf)
        assert code not in stored(shelf)
        assert list(site.repository().manifest(state.code).files) == ["3.bin"]
        assert site.read()[made] == contents(7)

    def test_a_deleted_experiment_takes_all_its_code_with_it(self, site: Site, shelf: MemoryStore) -> None:
        experiment = site.save(0)
        first = site.save(1, experiment=experiment)
        site.resume(experiment, first, 2)
        site.delete(experiment)
        self.rest(site, shelf)
        assert stored(shelf) == set()


class TestDryRun:
    def test_changes_no_key_and_says_what_would_be_done(self, site: Site, shelf: MemoryStore) -> None:
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

    def test_packs_nothing_anew(self, site: Site, shelf: MemoryStore) -> None:
        mostly_dead(site)
        before = dict(shelf.objects)
        planned = site.prune(dry_run=True)
        assert shelf.objects == before
        assert len(planned.repacked) == 1
        assert site.prune().repacked == planned.repacked


class TestWriters:
    def test_one_whose_knowledge_is_older_than_a_quarter_of_the_grace_refers_to_nothing_doomed(
        self, site: Site, shelf: MemoryStore
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


def test_a_crash_between_any_two_requests_loses_nothing_and_a_later_prune_finishes(
    site: Site, shelf: MemoryStore
) -> None:
    wanted = scene(site)
    before = shelf.copy()
    began = len(shelf.asked)
    report = site.prune()
    assert all((report.deleted, report.doomed, report.repacked)), "the scene has some of everything"
    requests = len(shelf.asked) - began
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
        assert stored(other.shelf) == other.needed(), number
        assert [key for key in other.shelf.keys(TOMBSTONES) if key.endswith(".json")] == [], number
    else:
        number = requests
    assert number > 20


def test_probes_of_the_clock_that_a_crash_left_behind_are_removed_some_day(site: Site, shelf: MemoryStore) -> None:
    site.save(0)
    shelf.before = lambda verb, key: (_ for _ in ()).throw(StorageFailed("crash")) if verb == "delete" else None
    with pytest.raises(StorageFailed):
        site.prune()
    shelf.before = lambda verb, key: None
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
