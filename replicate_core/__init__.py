"""Version control for machine learning, on any storage, with no server: the core, which knows no framework.

`replicate` is the same API under the name people type. What is listed in `__all__` is the promise, and `adapters`
one to whoever writes an adapter of a framework; everything else may change between versions.
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
    from replicate_core.keepsake.importer import Imported
    from replicate_core.project import Experiments, Project, experiments, init
    from replicate_core.provenance import Holder
    from replicate_core.repository.compacting import Report as CompactReport
    from replicate_core.repository.copying import Report as CopyReport
    from replicate_core.repository.pruning import Report as PruneReport
    from replicate_core.repository.verifying import Damage
    from replicate_core.repository.verifying import Report as VerifyReport
    from replicate_core.spool.syncing import Synced
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
    "Holder",
    "Imported",
    "InvalidInput",
    "MissingExtra",
    "NotFound",
    "Preview",
    "PrimaryMetric",
    "Project",
    "PruneReport",
    "ReplicateError",
    "StorageFailed",
    "Synced",
    "TooNew",
    "VerifyReport",
    "__version__",
    "experiments",
    "init",
]

_PLACES = {
    "Checkpoint": ("checkpoint", "Checkpoint"),
    "CheckpointList": ("checkpoint", "CheckpointList"),
    "CompactReport": ("repository.compacting", "Report"),
    "ConfigInvalid": ("errors", "ConfigInvalid"),
    "CopyReport": ("repository.copying", "Report"),
    "Corrupted": ("errors", "Corrupted"),
    "Damage": ("repository.verifying", "Damage"),
    "Experiment": ("experiment", "Experiment"),
    "ExperimentList": ("experiment", "ExperimentList"),
    "Experiments": ("project", "Experiments"),
    "Holder": ("provenance", "Holder"),
    "Imported": ("keepsake.importer", "Imported"),
    "InvalidInput": ("errors", "InvalidInput"),
    "MissingExtra": ("errors", "MissingExtra"),
    "NotFound": ("errors", "NotFound"),
    "Preview": ("views.preview", "Preview"),
    "PrimaryMetric": ("format.records", "PrimaryMetric"),
    "Project": ("project", "Project"),
    "PruneReport": ("repository.pruning", "Report"),
    "ReplicateError": ("errors", "ReplicateError"),
    "StorageFailed": ("errors", "StorageFailed"),
    "Synced": ("spool.syncing", "Synced"),
    "TooNew": ("errors", "TooNew"),
    "VerifyReport": ("repository.verifying", "Report"),
    "__version__": ("version", "__version__"),
    "experiments": ("project", "experiments"),
    "init": ("project", "init"),
}
"""The module of each name, and its name there: a process that needs one of them does not wait for all the others."""


def __getattr__(name: str) -> object:
    """Import what is asked for when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _PLACES[name]
    found = getattr(import_module(f"{__name__}.{module}"), own)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What there is, imported or not."""
    return sorted({*globals(), *__all__})
