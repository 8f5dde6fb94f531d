"""Letting go of files that are not to be kept: only metrics are left of a checkpoint then.

Which ones is decided by what is stored, once the checkpoint that takes their place is. Deleting what is stored needs a
grace elsewhere (`pruning`), because another writer may be about to refer to it. Not here: whoever writes a checkpoint
under a rule says so in its record, and until that session has ended nobody else refers to its objects. So the objects
that this process has added for such checkpoints are its own, and are deleted at once; `prune` finds what is left.
"""

from __future__ import annotations

import logging
import time
from typing import NoReturn

from replicate_core.errors import Corrupted, StorageFailed, TooNew
from replicate_core.format import records
from replicate_core.format.records import Created, Record, Released, Resumed
from replicate_core.repository.chunk_index import ChunkIndex
from replicate_core.repository.repository import Repository
from replicate_core.repository.writing import StoredSnapshot

PAUSE_SECONDS = 30.0
"""All records are listed for it: no more often than this."""

_log = logging.getLogger("replicate.recorder")


class Retention:
    """Lets go of files of one experiment, for the process that stores what one session of it makes.

    Args:
        repository: where to.
        known: what that process knows of it.
        experiment: the experiment.
        session: the session; None for the first one.
    """

    def __init__(self, repository: Repository, known: ChunkIndex, experiment: str, session: str | None) -> None:
        self._repository = repository
        self._known = known
        self._experiment = experiment
        self._session = session
        self._objects: dict[str | None, set[str]] = {}
        """What this process has stored: checkpoint to objects that it refers to; None stands for the code."""
        self._own: set[str] = set()
        """The objects that were added for checkpoints under a rule."""
        self._applied_at: float | None = None
        self._has_rule = False

    def stored(self, record: Record, snapshot: StoredSnapshot) -> None:
        """Remember what a record refers to that was stored now."""
        if isinstance(record, (Created, Resumed)):
            self._objects.setdefault(None, set()).update(snapshot.objects)
        elif isinstance(record, records.Checkpointed):
            for checkpoint in record.checkpoints:
                self._objects.setdefault(checkpoint.id, set()).update(snapshot.objects)
                self._has_rule = checkpoint.keep is not None
                if self._has_rule:
                    self._own.update(snapshot.added)

    def is_due(self) -> bool:
        """Tell whether there may be something to let go, and the last time is long enough ago."""
        return self._has_rule and (self._applied_at is None or time.monotonic() - self._applied_at >= PAUSE_SECONDS)

    def apply(self) -> None:
        """Let go of what is not to be kept. That a storage refuses stops nothing: the files are kept then."""
        if self._objects and not self._has_rule:  # else another process has stored what there is, under which rule ever
            return
        self._applied_at = time.monotonic()
        try:
            self._delete(self._release())
        except (StorageFailed, Corrupted, TooNew) as error:
            _log.warning("files that are not to be kept could not be let go: %s", error)

    def _release(self) -> set[str]:
        """Record what is not kept any longer; returns the checkpoints that have no files any more."""
        found = self._repository.read_records(_refuse, experiment=self._experiment)
        state = records.fold(found).get(self._experiment)
        if state is None or state.session != self._session or state.ended is not None:
            return set()  # it was deleted; or others have resumed it, or may refer to what it has stored
        rule = next((item.keep for item in reversed(state.checkpoints) if item.manifest is not None), None)
        gone = {item.id for item in state.checkpoints if item.is_released}
        superseded = () if rule is None else tuple(item.id for item in records.superseded(state.checkpoints, rule))
        if superseded:
            self._repository.append(Released(self._experiment, superseded))
        return gone.union(superseded)

    def _delete(self, released: set[str]) -> None:
        """Delete the objects of this process that only these checkpoints referred to."""
        needed = {key for owner, keys in self._objects.items() if owner not in released for key in keys}
        if unneeded := self._own - needed:
            self._known.lost(unneeded)  # first: nothing may refer to them from now on
            self._repository.store.delete(sorted(unneeded))
            self._own -= unneeded
        self._objects = {owner: keys for owner, keys in self._objects.items() if owner not in released}


def _refuse(error: Corrupted | TooNew) -> NoReturn:
    """What can't be read may say that files are needed."""
    raise error
