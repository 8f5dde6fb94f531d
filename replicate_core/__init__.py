"""Version control for machine learning, on any storage, without a server: the core, which knows no framework.

`replicate` is the same API under the name that people type. `__all__` is the public API, and `adapters` the API for
adapters of frameworks; everything else may change between versions.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicate_core.checkpoint import Checkpoint, CheckpointList
    from replicate_core.errors import (
        ConfigInvalid,
        Corrupted,
        InvalidInput,
        MissingExtra,
        NotFound,
        ReplicateError,
        StorageFailed,
        TooNew,
    )
    from replicate_core.experiment import Experiment, ExperimentList
    from replicate_core.format.records import PrimaryMetric
    from replicate_core.keepsake.importer import ImportResult
    from replicate_core.lookup import Experiments, experiments, init
    from replicate_core.project import Project
    from replicate_core.provenance import FileMatch
    from replicate_core.repository.compacting import CompactReport
    from replicate_core.repository.copying import CopyReport
    from replicate_core.repository.pruning import PruneReport
    from replicate_core.repository.verifying import Damage, VerifyReport
    from replicate_core.spool.syncing import SyncResult
    from replicate_core.version import __version__
    from replicate_core.views.preview import Preview

__all__ = [
    "Checkpoint",
    "CheckpointList",
    "CompactReport",
    "ConfigInvalid",
    "CopyReport",
    "Corrupted",
    "Damage",
    "Experiment",
    "ExperimentList",
    "Experiments",
    "FileMatch",
    "ImportResult",
    "InvalidInput",
    "MissingExtra",
    "NotFound",
    "Preview",
    "PrimaryMetric",
    "Project",
    "PruneReport",
    "ReplicateError",
    "StorageFailed",
    "SyncResult",
    "TooNew",
    "VerifyReport",
    "__version__",
    "experiments",
    "init",
]

_PLACES = {
    "Checkpoint": ("checkpoint", "Checkpoint"),
    "CheckpointList": ("checkpoint", "CheckpointList"),
    "CompactReport": ("repository.compacting", "CompactReport"),
    "ConfigInvalid": ("errors", "ConfigInvalid"),
    "CopyReport": ("repository.copying", "CopyReport"),
    "Corrupted": ("errors", "Corrupted"),
    "Damage": ("repository.verifying", "Damage"),
    "Experiment": ("experiment", "Experiment"),
    "ExperimentList": ("experiment", "ExperimentList"),
    "Experiments": ("lookup", "Experiments"),
    "FileMatch": ("provenance", "FileMatch"),
    "ImportResult": ("keepsake.importer", "ImportResult"),
    "InvalidInput": ("errors", "InvalidInput"),
    "MissingExtra": ("errors", "MissingExtra"),
    "NotFound": ("errors", "NotFound"),
    "Preview": ("views.preview", "Preview"),
    "PrimaryMetric": ("format.records", "PrimaryMetric"),
    "Project": ("project", "Project"),
    "PruneReport": ("repository.pruning", "PruneReport"),
    "ReplicateError": ("errors", "ReplicateError"),
    "StorageFailed": ("errors", "StorageFailed"),
    "SyncResult": ("spool.syncing", "SyncResult"),
    "TooNew": ("errors", "TooNew"),
    "VerifyReport": ("repository.verifying", "VerifyReport"),
    "__version__": ("version", "__version__"),
    "experiments": ("lookup", "experiments"),
    "init": ("lookup", "init"),
}
"""The module of each name, and its name there: a process imports only the modules of the names that it uses."""


FORMER = {"Holder": "FileMatch", "Imported": "ImportResult", "Synced": "SyncResult"}
"""Old name to new name of what was renamed since the previous version: the old names work for one more version."""


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    name = FORMER.get(name, name)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _PLACES[name]
    found = getattr(import_module(f"{__name__}.{module}"), own)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """All names, imported or not."""
    return sorted({*globals(), *__all__})
