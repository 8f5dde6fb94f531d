"""Releasing the files of checkpoints that `keep` no longer keeps: only their metrics remain.

The decision is made from the stored records, after the checkpoint that replaces them is stored. `pruning` waits for a
grace period before it deletes objects, because another writer may be about to refer to them. No grace period is needed
here: the record of a checkpoint says that it was made under a rule, and no other process refers to the objects of such
a checkpoint until its session has ended. So this process deletes the objects that it added for such checkpoints at
once; `prune` deletes the rest.
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
"""Minimum number of seconds between two applications of the rule: each one lists all records."""

_log = logging.getLogger("replicate.recorder")


class Retention:
    """Releases files of one experiment, in the process that stores one of its sessions.

    Args:
        repository: where the session is stored.
        known: the chunk index of the process.
        experiment: the id of the experiment.
        session: the session; None for the first one.
    """

    def __init__(self, repository: Repository, known: ChunkIndex, experiment: str, session: str | None) -> None:
        self._repository = repository
        self._known = known
        self._experiment = experiment
        self._session = session
        self._objects: dict[str | None, set[str]] = {}
        """The objects that each checkpoint of this process refers to; None stands for the code."""
        self._own: set[str] = set()
        """The objects that this process added for checkpoints under a rule."""
        self._applied_at: float | None = None
        self._has_rule = False

    def stored(self, record: Record, snapshot: StoredSnapshot) -> None:
        """Remember which objects a record refers to that was just stored."""
        if isinstance(record, (Created, Resumed)):
            self._objects.setdefault(None, set()).update(snapshot.objects)
        elif isinstance(record, records.Checkpointed):
            for checkpoint in record.checkpoints:
                self._objects.setdefault(checkpoint.id, set()).update(snapshot.objects)
                self._has_rule = checkpoint.keep is not None
                if self._has_rule:
                    self._own.update(snapshot.added)

    def is_due(self) -> bool:
        """Tell whether there may be files to release, and `PAUSE_SECONDS` have passed since the last time."""
        return self._has_rule and (self._applied_at is None or time.monotonic() - self._applied_at >= PAUSE_SECONDS)

    def apply(self) -> None:
        """Release the files that are no longer kept. If the storage fails, the files stay, and training continues."""
        if self._objects and not self._has_rule:  # without objects, another process stored them, maybe under a rule
            return
        self._applied_at = time.monotonic()
        try:
            self._delete(self._release())
        except (StorageFailed, Corrupted, TooNew) as error:
            _log.warning("files that are no longer kept could not be deleted: %s", error)

    def _release(self) -> set[str]:
        """Record which checkpoints are released; returns all released checkpoints of the experiment."""
        found = self._repository.read_records(_refuse, experiment=self._experiment)
        state = records.fold(found).get(self._experiment)
        if state is None or state.session != self._session or state.ended is not None:
            return set()  # it was deleted, or another process resumed it or may refer to its objects
        rule = next((item.keep for item in reversed(state.checkpoints) if item.manifest is not None), None)
        gone = {item.id for item in state.checkpoints if item.is_released}
        superseded = () if rule is None else tuple(item.id for item in records.superseded(state.checkpoints, rule))
        if superseded:
            self._repository.append(Released(self._experiment, superseded))
        return gone.union(superseded)

    def _delete(self, released: set[str]) -> None:
        """Delete the objects of this process that only the released checkpoints refer to."""
        needed = {key for owner, keys in self._objects.items() if owner not in released for key in keys}
        if unneeded := self._own - needed:
            self._known.deleted(unneeded)  # first: nothing may refer to them from now on
            self._repository.store.delete(sorted(unneeded))
            self._own -= unneeded
        self._objects = {owner: keys for owner, keys in self._objects.items() if owner not in released}


def _refuse(error: Corrupted | TooNew) -> NoReturn:
    """Raise the error: a record that can't be read may need the files."""
    raise error
