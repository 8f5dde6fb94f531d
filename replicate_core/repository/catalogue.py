"""The stored experiments: their ids are known at once, their records are read on first use.

The catalogue merges the segments with the records that no segment holds. If a segment can't be used, the records
themselves are read instead: they are authoritative. `verify`, `prune` and `compact` rely on the records alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial

from replicate_core import user_warnings
from replicate_core.errors import Corrupted, TooNew
from replicate_core.format import record_codec, records, segments
from replicate_core.format.keys import RECORDS, SEGMENTS, is_record_key, is_segment_key
from replicate_core.format.records import ExperimentState, Record
from replicate_core.format.segments import Piece, Segment, Summary, day_of
from replicate_core.machine.gc_pause import collection_paused
from replicate_core.repository.repository import Repository, Unusable
from replicate_core.storage.local import LocalStore

OPEN_DAYS_MAX = 8
"""Maximum number of open days to list one by one. If there are more, all days are listed together, with one request for
every thousand records."""

ATTEMPTS = 3
"""Maximum number of attempts to read the segments: another process may replace them after they were listed."""


class StoredExperiment:
    """What is stored of one experiment.

    Args:
        experiment: its id.
        summary: what a listing needs of it.
        read: returns its records, in the order of their keys.
        state: what the records fold to, if that is known already.
    """

    def __init__(
        self,
        experiment: str,
        summary: Summary,
        read: Callable[[], Sequence[Record]],
        state: ExperimentState | None = None,
    ) -> None:
        self.experiment = experiment
        self.summary = summary
        self._read = read
        self._state = state

    @cached_property
    def records(self) -> Sequence[Record]:
        """Its records, in the order of their keys."""
        return self._read()

    @property
    def state(self) -> ExperimentState:
        """What its records fold to.

        Raises:
            Corrupted: a segment lists the experiment, but its records are gone or never existed.
            StorageFailed: the storage can't be read.
        """
        if self._state is None:
            self._state = records.fold(self.records).get(self.experiment)
        if self._state is None:
            raise Corrupted(
                f"the experiment {self.experiment} is listed in a segment, but not in the records: "
                "`replicate compact --rebuild` rebuilds the segments"
            )
        return self._state


class Catalogue:
    """The experiments that were stored when the catalogue was read; see `read`."""

    def __init__(
        self, repository: Repository, held: Sequence[Segment], uncovered: Mapping[str, Record], unusable: Unusable
    ) -> None:
        self._repository = repository
        self._unusable = unusable
        self._pieces: dict[str, list[tuple[Segment, Piece]]] = {}
        for segment in held:
            for experiment, piece in segment.pieces.items():
                self._pieces.setdefault(experiment, []).append((segment, piece))
        self._segments = held
        self._fresh: dict[str, dict[str, Record]] = {}
        for key, record in uncovered.items():
            self._fresh.setdefault(record.experiment, {})[key] = record
        self.uncovered = len(uncovered)
        """Number of records that no segment holds."""

    @cached_property
    def experiments(self) -> dict[str, StoredExperiment]:
        """Every experiment that is not deleted, by id, in the order they began."""
        names = [*self._pieces, *(name for name in self._fresh if name not in self._pieces)]
        with collection_paused():
            found = (stored for name in names if (stored := self.one(name)) is not None)
            return {one.experiment: one for one in sorted(found, key=lambda one: (one.summary.created, one.experiment))}

    def one(self, experiment: str) -> StoredExperiment | None:
        """One experiment; None if there is none with that id, or it is deleted."""
        pieces = self._pieces.get(experiment, [])
        read = partial(self.records, experiment)
        if pieces and experiment not in self._fresh:
            largest = (
                pieces[0][1] if len(pieces) == 1 else max((piece for _, piece in pieces), key=lambda it: len(it.names))
            )
            if len(pieces) == 1 or all(set(piece.names) <= set(largest.names) for _, piece in pieces):
                return None if largest.summary is None else StoredExperiment(experiment, largest.summary, read)
        found = self.records(experiment)
        state = records.fold(found).get(experiment)
        return None if state is None else StoredExperiment(experiment, segments.summarise(state), lambda: found, state)

    def records(self, experiment: str) -> list[Record]:
        """The records of an experiment, in the order of their keys, even if it was deleted."""
        found = dict(self._fresh.get(experiment, {}))
        missing: list[str] = []
        for segment, piece in self._pieces.get(experiment, []):
            try:
                found |= decoded(segment.lines(piece))
            except (Corrupted, TooNew) as error:
                self._unusable(_segment_error(segment, error))
                missing += piece.keys
        if missing:
            found |= self._repository.records_at([key for key in missing if key not in found], self._unusable)
        return [found[key] for key in sorted(found)]

    def candidates(self, *alternatives: Collection[str]) -> Iterator[StoredExperiment]:
        """The experiments that have a record with all strings of one alternative, and maybe some more.

        The strings are as `dumps` writes them.
        """
        wanted = [[text.encode() for text in texts] for texts in alternatives]
        places: set[tuple[str, int]] = set()
        for segment in self._segments:
            try:
                places |= {(segment.key, number) for number in segment.blocks_with(*wanted)}
            except Corrupted:  # then every experiment in it is a candidate, and reading it reports the damage
                places |= {(segment.key, number) for number in range(len(segment.ends))}
        for experiment, stored in self.experiments.items():
            where = {(segment.key, piece.block) for segment, piece in self._pieces.get(experiment, [])}
            if experiment in self._fresh or where & places:
                yield stored


def read(repository: Repository, unusable: Unusable | None = None, *, experiment: str | None = None) -> Catalogue:
    """Read which experiments are stored.

    Args:
        repository: where to look.
        unusable: as in `Repository.read_records`; it may also be called later, when records are read.
        experiment: of the records that no segment holds, read only those of this experiment; None: all.

    Raises:
        TooNew, Corrupted: this version can't read the repository.
        StorageFailed: the storage can't be reached.
    """
    repository.check_format()
    report = unusable or _warn
    held = read_segments(repository, report)
    keys = uncovered_keys(repository, held)
    wanted = [key for key in keys if experiment is None or f"-{experiment}-" in key]
    return Catalogue(repository, held, repository.records_at(wanted, unusable), report)


def _warn(error: Corrupted | TooNew) -> None:
    """Warn of a damaged segment. A segment that a newer version wrote is not damaged."""
    if isinstance(error, Corrupted):
        user_warnings.warn(str(error))


def read_segments(repository: Repository, unusable: Unusable) -> list[Segment]:
    """The readable segments, oldest first; `unusable` is called with the error of each of the others."""
    found: dict[str, bytes] = {}
    for _ in range(ATTEMPTS):
        # `list` instead of `names`: for an empty directory, s3fs makes two requests for `names`
        keys = [entry.key for entry in repository.store.list(SEGMENTS) if is_segment_key(entry.key)]
        found = repository.store.get_many(keys) if keys else {}
        if len(found) == len(keys):
            break
    held: list[Segment] = []
    with collection_paused():
        for key, data in sorted(found.items()):
            try:
                held.append(segments.decode(data, key=key))
            except (Corrupted, TooNew) as error:
                unusable(_segment_error(key, error))
    return held


def _segment_error(segment: Segment | str, error: Corrupted | TooNew) -> Corrupted | TooNew:
    key, how = (segment, "compact") if isinstance(segment, str) else (segment.key, "compact --rebuild")
    return type(error)(
        f"{error}. The records are read instead of {key}: nothing is lost, and `replicate {how}` repairs it"
    )


def uncovered_keys(repository: Repository, held: Sequence[Segment]) -> list[str]:
    """The keys of the records that no segment holds, in order."""
    names = {segment.key for segment in held}
    relied_on = [segment for segment in held if names.issuperset(segment.beside)]
    settled = frozenset[str]().union(*(segment.settled for segment in relied_on))
    others = {other for segment in relied_on for other in segment.others}
    keys = {*_listed(repository, settled), *others}
    days = {day_of(key) for key in keys}
    for segment in held:
        keys.difference_update(segment.keys_of(days))
    return sorted(keys)


def _listed(repository: Repository, settled: frozenset[str]) -> Iterable[str]:
    """The keys of the records that are not in settled days, and maybe some more."""
    store = repository.store
    is_quick = isinstance(store, LocalStore)  # listing all days costs next to nothing
    if not settled and not is_quick:
        return [entry.key for entry in store.list(RECORDS) if is_record_key(entry.key)]
    open_days = [name for name in store.names(RECORDS) if is_quick or name.removesuffix("/") not in settled]
    if len(open_days) > OPEN_DAYS_MAX and not is_quick:
        return [entry.key for entry in store.list(RECORDS) if is_record_key(entry.key)]
    return [key for name in open_days for key in _keys_below(repository, f"{RECORDS}{name}") if is_record_key(key)]


def _keys_below(repository: Repository, name: str) -> list[str]:
    return [f"{name}{inside}" for inside in repository.store.names(name)] if name.endswith("/") else []


def decoded(lines: Mapping[str, bytes]) -> dict[str, Record]:
    """Decode and verify records that a segment holds, by key. Raises `Corrupted`, also if one does not fit its key."""
    found: dict[str, Record] = {}
    for key, line in lines.items():
        try:
            record = record_codec.read(key, line)
        except Corrupted as error:
            raise Corrupted(f"the segment does not hold the record {key} as it should, or is damaged there") from error
        assert record is not None, "a segment names only records of kinds that are known"
        found[key] = record
    return found
