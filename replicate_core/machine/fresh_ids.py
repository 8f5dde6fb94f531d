"""Unique ids, from the clock of this machine and its random numbers."""

from __future__ import annotations

import os
import time

from replicate_core.format import ids


def new_id() -> str:
    """The id of a new experiment, checkpoint or session."""
    return ids.random_id(os.urandom(ids.ID_BYTES))


def new_ulid() -> str:
    """A ULID for the current time."""
    return ids.ulid(int(time.time() * 1000), os.urandom(ids.ULID_BYTES))
