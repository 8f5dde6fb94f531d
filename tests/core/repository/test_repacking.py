"""An object that is mostly dead is packed anew, and nothing damaged is carried on."""

from __future__ import annotations

import tarfile
from pathlib import Path

from sites import CONTENTS, SECOND, Site, contents, mostly_dead, stored
from snapshots import staged_of
from stores import MemoryStore

from replicate_core.format.records import Created
from replicate_core.repository.chunk_index import GRACE, ChunkIndex
from replicate_core.repository.pruning import LIVE_SHARE, PruneReport
from replicate_core.repository.verifying import verify
from replicate_core.repository.writing import publish


class TestRepacking:
    def test_an_object_that_is_mostly_dead_is_packed_anew_and_goes(self, site: Site, shelf: MemoryStore) -> None:
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
        assert stored(shelf) == site.needed()
        assert site.read() == {kept: contents(3, 7)}

    def test_the_new_pack_is_a_plain_tar(self, site: Site, shelf: MemoryStore, tmp_path: Path) -> None:
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

    def test_an_object_all_of_which_is_needed_stays_however_small_its_files(
        self, site: Site, shelf: MemoryStore
    ) -> None:
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

    def test_it_can_be_left_out(self, site: Site, shelf: MemoryStore) -> None:
        _, pack = mostly_dead(site)
        assert site.prune(repack=False).repacked == {}
        assert pack in site.needed()

    def test_several_objects_of_one_manifest_are_packed_anew_in_one_go(self, site: Site, shelf: MemoryStore) -> None:
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
        assert stored(shelf) == site.needed()
        assert site.read() == {kept: contents(0, 9), checkpoint: contents(9, 1)}

    def test_an_object_that_many_share_is_packed_anew_once(self, site: Site, shelf: MemoryStore) -> None:
        gone = site.save(*range(10))
        sharing = [site.save(3), site.save(3, 4), site.save(4)]
        site.delete(gone)
        site.later()
        site.prune()
        assert len(set.union(*map(site.objects, sharing))) == 1
        assert site.read() == {sharing[0]: contents(3), sharing[1]: contents(3, 4), sharing[2]: contents(4)}

    def test_a_damaged_part_is_not_carried_on_and_its_object_stays(self, site: Site, shelf: MemoryStore) -> None:
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

    def test_damage_while_it_is_copied_is_not_carried_on(self, site: Site, shelf: MemoryStore) -> None:
        kept, pack = mostly_dead(site)
        data, written = shelf.objects[pack]
        reads: list[str] = []

        def damage(verb: str, key: str) -> None:  # between the verified read and any second one
            if (verb, key) == ("get", pack):
                reads.append(key)
                shelf.objects[pack] = (data if len(reads) % 2 else bytes(len(data)), written)

        shelf.before = damage
        site.prune()
        shelf.before = lambda verb, key: None
        shelf.objects[pack] = (data, written)
        assert site.read() == {kept: contents(3, 7)}

    def test_an_object_that_is_gone_is_no_hindrance(self, site: Site, shelf: MemoryStore) -> None:
        kept, pack = mostly_dead(site)

        def vanish(verb: str, key: str) -> None:
            if (verb, key) == ("get", pack):
                shelf.objects.pop(pack, None)

        shelf.before = vanish
        site.prune()
        assert site.objects(kept) == {pack}
