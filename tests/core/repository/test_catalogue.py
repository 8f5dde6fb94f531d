"""Whatever stands in segments and what does not: what is listed is what the records say, with few requests."""

from __future__ import annotations

import warnings
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remote import ONE, OTHER, Lab
from stores import MemoryStore

from replicate_core.errors import Corrupted
from replicate_core.format import segments
from replicate_core.format.keys import RECORDS, SEGMENTS
from replicate_core.format.records import (
    Checkpointed,
    Created,
    Deleted,
    Edited,
    Ended,
    Released,
    Repacked,
    Restored,
    Resumed,
)
from replicate_core.format.sealed import seal, unseal
from replicate_core.repository import catalogue
from replicate_core.repository.repository import Repository
from replicate_core.storage.local import LocalStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


NAMES = [f"{number}" * 32 for number in range(1, 5)]
SESSIONS = [None, "a" * 32, "b" * 32]


class TestMerged:
    @settings(max_examples=150)
    @given(data=st.data())
    def test_with_segments_of_any_age_all_is_as_the_records_say(self, data: st.DataObject) -> None:
        lab = Lab()
        made: dict[str, list[str]] = {name: [] for name in NAMES}
        for _ in range(data.draw(st.integers(1, 25))):
            name = data.draw(st.sampled_from(NAMES))
            points = made[name]
            action = data.draw(st.integers(0, 12))
            if action == 0:
                lab.compact()
            elif action == 1:
                lab.compact(rebuild=data.draw(st.booleans()))
            elif action == 2:
                lab.remote.wait(days=data.draw(st.integers(0, 3)))
            elif action == 3 and (keys := sorted(lab.remote.keys(SEGMENTS))):
                lab.remote.objects.pop(data.draw(st.sampled_from(keys)))
            elif action == 4:
                lab.record(Ended(name, lab.remote.now, "failed", session=data.draw(st.sampled_from(SESSIONS))))
            elif action == 5:
                lab.record(Edited(name, name="renamed"))
            elif action == 6 and data.draw(st.booleans()):
                lab.record(Deleted(name, None if data.draw(st.booleans()) else tuple(points[:1])))
            elif action == 7:
                checkpoint = data.draw(st.sampled_from([None, *points]))
                session, before = data.draw(st.sampled_from([("a" * 32, None), ("b" * 32, "a" * 32)]))
                lab.record(Resumed(name, lab.remote.now, session, before, checkpoint, adds=data.draw(st.booleans())))
            elif action == 8:
                lab.record(Released(name, tuple(points[-1:])))
            elif action == 9:
                lab.record(Repacked(name, {f"manifests/{'0' * 26}.json": f"manifests/{'1' * 26}.json"}))
                lab.record(Restored(name, data.draw(st.sampled_from([None, *points])), f"manifests/{'2' * 26}.json"))
            elif action == 10:
                lab.record(Created(name, lab.remote.now))
            else:
                facts = lab.point(len(points))
                points.append(facts.id)
                session = data.draw(st.sampled_from(SESSIONS))
                lab.record(Checkpointed(name, (facts,), session=session))
        lab.check()

    def test_an_experiment_that_goes_on_is_read_from_both(self, lab: Lab) -> None:
        lab.train(ends=False)
        lab.compact()
        lab.record(Checkpointed(ONE, (lab.point(2),)))
        lab.check()
        assert len(catalogue.read(lab.repository).experiments[ONE].records) == 4
        lab.compact()
        lab.check()

    def test_a_deleted_experiment_stays_deleted(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        lab.record(Deleted(ONE))
        assert lab.read() == {}
        lab.compact()
        assert lab.read() == {}
        lab.record(Checkpointed(ONE, (lab.point(5),)))
        assert lab.read() == {}
        assert len(catalogue.read(lab.repository).records(ONE)) == 6

    def test_one_experiment_alone_is_the_same(self, lab: Lab) -> None:
        lab.train(OTHER)
        lab.compact()
        lab.train(ends=False)
        for name in (ONE, OTHER):
            stored = catalogue.read(lab.repository, experiment=name).one(name)
            assert stored is not None
            assert stored.state == lab.repository.states()[name]
        assert catalogue.read(lab.repository).one("3" * 32) is None


class TestRequests:
    """Their number does not depend on how many experiments there are, but on what is new."""

    def listed(self, lab: Lab) -> list[str]:
        lab.asked()
        assert len(catalogue.read(lab.repository).experiments) == len(lab.repository.states())
        return [request for request in lab.asked()[:-3] if request]

    def fill(self, lab: Lab, days: int) -> None:
        for _ in range(days):
            for _ in range(5):
                lab.train(lab.chance.randbytes(16).hex())
            lab.remote.wait(days=1)
        lab.compact()

    @pytest.mark.parametrize("days", [10, 40])
    def test_of_a_listing_are_the_same_for_ten_days_and_for_forty(self, lab: Lab, days: int) -> None:
        self.fill(lab, days)
        last, before = (f"{lab.remote.now - timedelta(days=ago):%Y%m%d}" for ago in (1, 2))
        assert self.listed(lab) == [
            "get replicate.json",
            f"list {SEGMENTS}",
            "get_many 1",
            f"names {RECORDS}",
            f"names {RECORDS}{before}/",
            f"names {RECORDS}{last}/",
        ]

    def test_are_two_more_for_what_is_new(self, lab: Lab) -> None:
        self.fill(lab, 10)
        before = len(self.listed(lab))
        keys = lab.train()
        found = self.listed(lab)
        assert len(found) == before + 2
        assert found[-2:] == [f"names {RECORDS}{keys[0].split('/')[1]}/", "get_many 4"]

    def test_to_look_at_what_stands_in_a_segment_are_none(self, lab: Lab) -> None:
        self.fill(lab, 10)
        found = catalogue.read(lab.repository)
        lab.asked()
        assert all(stored.state.checkpoints for stored in found.experiments.values())
        assert lab.asked() == []

    def test_without_segments_are_one_listing(self, lab: Lab) -> None:
        lab.train()
        lab.asked()
        lab.read()
        assert lab.asked() == ["get replicate.json", f"list {SEGMENTS}", f"list {RECORDS}", "get_many 4"]

    def test_are_one_listing_where_many_days_are_not_settled(self, lab: Lab) -> None:
        self.fill(lab, 3)
        for _ in range(catalogue.OPEN_DAYS_MAX + 1):
            lab.later(1)
        assert f"list {RECORDS}" in self.listed(lab)
        lab.check()


class TestSettledDays:
    def test_are_not_looked_through(self, lab: Lab) -> None:
        lab.train()
        lab.later(3)
        lab.compact()
        day = min(lab.remote.keys(RECORDS)).split("/")[1]
        lab.asked()
        lab.read()
        assert f"names {RECORDS}{day}/" not in lab.asked()

    def test_are_looked_through_by_a_compaction(self, lab: Lab) -> None:
        """What another program copied there is found then, and by everybody."""
        lab.train()
        lab.later(3)
        lab.compact()
        stray = Lab()
        stray.remote.wait(hours=1)
        for key in stray.train(OTHER):
            lab.remote.objects[key] = stray.remote.objects[key][0], lab.remote.now
        assert OTHER not in lab.read()
        lab.compact()
        assert OTHER in lab.read()
        lab.check()

    def test_are_none_where_the_storage_does_not_tell_when_it_wrote(self, lab: Lab) -> None:
        lab.remote.tells_times = False
        lab.train()
        lab.later(3)
        lab.compact()
        lab.asked()
        lab.check()
        assert f"list {RECORDS}" in lab.asked()

    def test_are_none_in_which_something_was_written_lately(self, lab: Lab) -> None:
        """A machine whose clock is wrong writes into a day long ago."""
        lab.train()
        lab.later(3)
        clock = lab.remote.now
        wrong = Repository(lab.remote, now=lambda: clock - timedelta(days=1000), randomness=lab.chance.randbytes)
        wrong.append(Created(OTHER, clock))
        lab.compact()
        wrong.append(Edited(OTHER, name="seen at once"))
        assert lab.read()[OTHER].created.name == "seen at once"

    def test_count_only_beside_the_segments_that_were_there(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        first = lab.segment()
        lab.later(3)
        lab.compact()
        del lab.remote.objects[first]
        lab.check()
        assert ONE in lab.read()

    def test_name_what_could_not_be_put_into_a_segment(self, lab: Lab) -> None:
        keys = lab.train()
        lab.remote.put(keys[2], b"damaged")
        newer = keys[2].replace("-checkpoints", "-invented").replace(OTHER, ONE)
        lab.remote.put(newer, seal({"kind": "invented", "experiment": ONE}))
        lab.later(3)
        lab.compact()
        found: list[Exception] = []
        catalogue.read(lab.repository, found.append)
        assert sorted(type(error).__name__ for error in found) == ["Corrupted", "TooNew"]
        with pytest.warns(UserWarning, match="is not a document"):
            assert len(lab.read()[ONE].checkpoints) == 1

    def test_of_a_local_disk_are_looked_through_all_the_same(self, lab: Lab, tmp_path) -> None:
        lab.train()
        lab.later(3)
        lab.compact()
        copy_to(tmp_path, lab.remote)
        stray = Lab()
        stray.train(OTHER)
        copy_to(tmp_path, stray.remote)
        assert OTHER in catalogue.read(Repository(LocalStore(tmp_path))).experiments


def copy_to(directory, remote: MemoryStore) -> None:
    store = LocalStore(directory)
    for key in remote.keys(""):
        store.put(key, remote.objects[key][0])


class TestDamage:
    def test_of_a_segment_is_said_and_the_records_are_read(self, lab: Lab) -> None:
        lab.train()
        wanted = lab.repository.states()
        lab.later(3)
        lab.compact()
        key = lab.segment()
        lab.remote.put(key, lab.remote.objects[key][0][:200])
        with pytest.warns(UserWarning, match=r"records are read instead of segments/.*replicate compact"):
            assert lab.read()[ONE] == wanted[ONE]
        lab.compact()
        assert lab.segment() != key
        lab.check()

    def test_of_a_block_is_said_where_it_is_looked_at(self, lab: Lab) -> None:
        lab.train()
        wanted = lab.repository.states()
        lab.compact()
        key = lab.segment()
        data = bytearray(lab.remote.objects[key][0])
        data[-12] ^= 1
        lab.remote.put(key, bytes(data))
        found = catalogue.read(lab.repository)
        with pytest.warns(UserWarning, match="records are read instead"):
            assert found.experiments[ONE].state == wanted[ONE]

    def test_a_forged_summary_is_found_out_where_it_hides_a_deletion(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        lab.record(Deleted(ONE))
        lab.compact(rebuild=True)
        key = lab.segment()
        head = unseal(segments._unpack(lab.remote.objects[key][0], 1 << 20, key)[0], key=key)
        head["experiments"][0][2] = ["2026-11-01T00:00:00.000000Z", None, "finished", None]
        lab.forge(key, experiments=head["experiments"])
        stored = catalogue.read(lab.repository).experiments[ONE]
        with pytest.raises(Corrupted, match="compact --rebuild"):
            _ = stored.state
        lab.compact(rebuild=True)
        assert lab.read() == {}

    def test_a_segment_that_holds_another_ones_records_is_not_believed(self, lab: Lab) -> None:
        lab.train()
        lab.train(OTHER)
        wanted = lab.repository.states()
        lab.compact()
        key = lab.segment()
        head = unseal(segments._unpack(lab.remote.objects[key][0], 1 << 20, key)[0], key=key)
        head["experiments"].reverse()
        lab.forge(key, experiments=head["experiments"])
        with pytest.warns(UserWarning, match="does not hold the record"):
            assert lab.read() == dict(reversed(wanted.items()))

    def test_another_versions_segment_is_passed_over_in_silence(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        lab.forge(lab.segment(), format=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lab.check()

    def test_segments_that_are_replaced_while_they_are_read_are_looked_for_again(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        old = lab.segment()
        listings = iter([lab.remote.list(SEGMENTS)])
        lab.compact(rebuild=True)
        real = lab.remote.list
        lab.remote.list = lambda prefix: next(listings, None) or real(prefix)  # type: ignore[method-assign]
        assert old not in lab.remote.objects
        (held,) = catalogue.read_segments(lab.repository, lambda _: None)
        assert held.key == lab.segment()


class TestCandidates:
    def test_are_few_and_all_that_fit(self, lab: Lab, monkeypatch) -> None:
        monkeypatch.setattr(segments, "BLOCK_BYTES", 1)
        for _ in range(20):
            lab.train(lab.chance.randbytes(16).hex())
        lab.compact()
        fresh = lab.chance.randbytes(16).hex()
        lab.train(fresh)
        found = catalogue.read(lab.repository)
        state = list(lab.repository.states().values())[7]
        for identifier in (state.created.experiment, state.checkpoints[1].id):
            named = {stored.experiment for stored in found.candidates([f'"{identifier[:8]}'])}
            assert named == {state.created.experiment, fresh}

    def test_in_a_block_that_is_damaged_are_all_of_its_segment(self, lab: Lab) -> None:
        lab.train()
        lab.compact()
        key = lab.segment()
        data = bytearray(lab.remote.objects[key][0])
        data[-12] ^= 1
        lab.remote.put(key, bytes(data))
        assert [stored.experiment for stored in catalogue.read(lab.repository).candidates(["abc"])] == [ONE]
