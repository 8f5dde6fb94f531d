"""Pruning deletes nothing where something can not be read, and nothing that is not ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sites import Site, contents, stored
from stores import MemoryStore

from replicate_core.errors import Corrupted, StorageFailed, TooNew
from replicate_core.format.keys import DATA, MANIFESTS, TOMBSTONES
from replicate_core.format.manifest import encode
from replicate_core.format.sealed import seal, seal_under
from replicate_core.repository import catalogue
from replicate_core.repository.compacting import compact
from replicate_core.repository.pruning import PruneReport
from replicate_core.repository.verifying import snapshots_of, verify


class TestWhatCanNotBeRead:
    @pytest.fixture
    def due(self, site: Site, shelf: MemoryStore) -> Site:
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

    def test_a_damaged_record_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        for record in sorted(shelf.keys("records/")):
            whole = shelf.objects[record]
            shelf.objects[record] = (whole[0].replace(b'"experiment"', b'"experimenT"'), whole[1])
            self.refuses(due, Corrupted, "nothing was pruned.*records/")
            shelf.objects[record] = whole

    def test_a_missing_or_damaged_manifest_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        (manifest,) = [key for key in due.needed() if key.startswith(MANIFESTS)]
        whole = shelf.objects.pop(manifest)
        self.refuses(due, Corrupted, f"nothing was pruned.*{manifest}")
        shelf.objects[manifest] = (whole[0][:-9], whole[1])
        self.refuses(due, Corrupted, f"nothing was pruned.*{manifest}")

    def test_a_damaged_manifest_that_nothing_refers_to_does_not(self, due: Site, shelf: MemoryStore) -> None:
        for manifest in shelf.keys(MANIFESTS) - due.needed():
            shelf.objects[manifest] = (b"damaged", shelf.objects[manifest][1])
        assert len(due.prune().deleted) == 2

    def test_a_manifest_of_a_later_format_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        (manifest,) = [key for key in due.needed() if key.startswith(MANIFESTS)]
        document = encode(due.repository().manifest(manifest)) | {"format": 2}
        shelf.objects[manifest] = (seal(document), shelf.objects[manifest][1])
        self.refuses(due, TooNew, "upgrade")

    def test_a_repository_of_a_later_format_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        shelf.objects["replicate.json"] = (b'{"format": 2, "digest": "sha256"}', shelf.now)
        self.refuses(due, TooNew, "upgrade")

    def test_a_record_that_only_later_versions_know_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        repository = due.repository()
        key = f"records/20261123/{repository.new_ulid()}-{due.kept}-imported.json"
        shelf.objects[key] = (seal({"kind": "imported", "experiment": due.kept, "manifest": "manifests/x"}), shelf.now)
        self.refuses(due, (Corrupted, TooNew), "imported")

    def test_a_record_that_is_listed_and_can_not_be_fetched_stops_it(self, due: Site, shelf: MemoryStore) -> None:
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
        self, due: Site, shelf: MemoryStore, key: str
    ) -> None:
        doomed = min(shelf.keys("records/")) if key == "record" else key
        shelf.objects[doomed] = shelf.objects.get(doomed, (b'{"format": 1, "digest": "sha256"}', shelf.now))
        garbage = min(stored(shelf) - due.needed())
        self.obeys_only(due, seal({"keys": [garbage, doomed]}))
        assert doomed in shelf.objects

    def test_an_announcement_that_is_not_obeyed_keeps_no_writer_from_anything(
        self, due: Site, shelf: MemoryStore
    ) -> None:
        needed = sorted(key for key in due.needed() if key.startswith(DATA))
        shelf.objects[f"{TOMBSTONES}{'0' * 26}.json"] = (seal({"keys": [*needed, "replicate.json"]}), shelf.now)
        again = due.save(0)
        assert due.objects(again) == set(needed)

    def test_a_snapshot_that_is_never_laid_out_is_named_and_does_not_stop_it(
        self, due: Site, shelf: MemoryStore
    ) -> None:
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
        assert {manifest, *(key for key, _ in objects_in(document))} <= stored(shelf)

    def test_an_old_manifest_in_the_place_of_another_stops_it(self, due: Site, shelf: MemoryStore) -> None:
        other = due.save(0, 5)
        states = due.repository().states()
        mine, theirs = (states[experiment].created.manifest for experiment in (due.kept, other))
        content = seal(encode(due.repository().manifest(theirs)))
        shelf.objects[mine] = (content, shelf.objects[mine][1])
        self.refuses(due, Corrupted, f"nothing was pruned.*{mine} lists 4000 bytes of files, but 2000 were recorded")

    def test_a_storage_that_does_not_tell_times_is_left_alone(self, due: Site, shelf: MemoryStore) -> None:
        shelf.tells_times = False
        self.refuses(due, StorageFailed, "does not tell when it wrote")

    def test_a_storage_that_fails_is_left_alone(self, due: Site, shelf: MemoryStore) -> None:
        shelf.fails_at = len(shelf.asked)
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

    def test_is_never_announced_nor_deleted(self, site: Site, shelf: MemoryStore) -> None:
        kept = site.save(0)
        site.delete(site.save(1))
        for key in self.FOREIGN:
            shelf.put(key, b"theirs")
        for _ in range(4):
            site.later()
            report = site.prune()
            assert report.passed_over == ()
        assert all(shelf.objects[key][0] == b"theirs" for key in self.FOREIGN)
        assert stored(shelf) == site.needed() | {key for key in self.FOREIGN if not key.startswith(TOMBSTONES)}
        assert site.read() == {kept: contents(0)}

    @pytest.mark.parametrize(
        "place", ["data", "data/ab", "manifests", "prune", "records", "records/20261123", "segments"]
    )
    def test_a_repository_inside_another_is_left_alone_and_mixes_nothing(
        self, site: Site, shelf: MemoryStore, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "inner").mkdir()
        inner = Site(MemoryStore(), tmp_path / "inner")
        inner_kept, inner_gone = inner.save(2), inner.save(3)
        compact(inner.repository())
        inner.delete(inner_gone)
        inner.later()
        inner.prune()
        kept = site.save(0)
        site.delete(site.save(1))
        theirs = {f"{place}/{key}": (data, shelf.now) for key, (data, _) in inner.shelf.objects.items()}
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
