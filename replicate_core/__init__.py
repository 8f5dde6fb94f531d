"""Version control for machine learning, on any storage, with no server: the core, which knows no framework.

`replicate` is the same API under the name people type. What is listed in `__all__` is the promise; everything else may
change between versions, as may what is here for the adapters of frameworks alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicate_core.adapters import AUTO as AUTO
    from replicate_core.adapters import EPOCH as EPOCH
    from replicate_core.adapters import check_experiment as check_experiment
    from replicate_core.adapters import check_keep as check_keep
    from replicate_core.adapters import check_overhead as check_overhead
    from replicate_core.adapters import check_params as check_params
    from replicate_core.adapters import check_period as check_period
    from replicate_core.adapters import check_primary_metric as check_primary_metric
    from replicate_core.adapters import check_resume as check_resume
    from replicate_core.adapters import check_template as check_template
    from replicate_core.adapters import copy_for_training as copy_for_training
    from replicate_core.adapters import discard as discard
    from replicate_core.adapters import expand_template as expand_template
    from replicate_core.adapters import has_random_state as has_random_state
    from replicate_core.adapters import warn_of_machine as warn_of_machine
    from replicate_core.adapters import whole_from_1 as whole_from_1
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
    from replicate_core.format.values import is_number as is_number
    from replicate_core.format.values import plain as plain
    from replicate_core.keepsake.importer import Imported
    from replicate_core.machine.replacing import put_in_place as put_in_place
    from replicate_core.machine.replacing import written_ahead as written_ahead
    from replicate_core.project import Experiments, Project, experiments, init
    from replicate_core.project import Prepared as Prepared
    from replicate_core.project import join as join
    from replicate_core.project import prepare as prepare
    from replicate_core.provenance import Holder
    from replicate_core.repository.compacting import Report as CompactReport
    from replicate_core.repository.copying import Report as CopyReport
    from replicate_core.repository.pruning import Report as PruneReport
    from replicate_core.repository.verifying import Damage
    from replicate_core.repository.verifying import Report as VerifyReport
    from replicate_core.spool.syncing import Synced
    from replicate_core.user_warnings import warn as warn
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
    "AUTO": ("adapters", "AUTO"),
    "Checkpoint": ("checkpoint", "Checkpoint"),
    "CheckpointList": ("checkpoint", "CheckpointList"),
    "CompactReport": ("repository.compacting", "Report"),
    "ConfigInvalid": ("errors", "ConfigInvalid"),
    "CopyReport": ("repository.copying", "Report"),
    "Corrupted": ("errors", "Corrupted"),
    "EPOCH": ("adapters", "EPOCH"),
    "Damage": ("repository.verifying", "Damage"),
    "Experiment": ("experiment", "Experiment"),
    "ExperimentList": ("experiment", "ExperimentList"),
    "Experiments": ("project", "Experiments"),
    "Holder": ("provenance", "Holder"),
    "Imported": ("keepsake.importer", "Imported"),
    "InvalidInput": ("errors", "InvalidInput"),
    "MissingExtra": ("errors", "MissingExtra"),
    "NotFound": ("errors", "NotFound"),
    "Prepared": ("project", "Prepared"),
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
    "check_experiment": ("adapters", "check_experiment"),
    "check_keep": ("adapters", "check_keep"),
    "check_overhead": ("adapters", "check_overhead"),
    "check_params": ("adapters", "check_params"),
    "check_period": ("adapters", "check_period"),
    "check_primary_metric": ("adapters", "check_primary_metric"),
    "check_resume": ("adapters", "check_resume"),
    "check_template": ("adapters", "check_template"),
    "copy_for_training": ("adapters", "copy_for_training"),
    "discard": ("adapters", "discard"),
    "expand_template": ("adapters", "expand_template"),
    "experiments": ("project", "experiments"),
    "has_random_state": ("adapters", "has_random_state"),
    "init": ("project", "init"),
    "is_number": ("format.values", "is_number"),
    "join": ("project", "join"),
    "plain": ("format.values", "plain"),
    "prepare": ("project", "prepare"),
    "put_in_place": ("machine.replacing", "put_in_place"),
    "warn": ("user_warnings", "warn"),
    "warn_of_machine": ("adapters", "warn_of_machine"),
    "whole_from_1": ("adapters", "whole_from_1"),
    "written_ahead": ("machine.replacing", "written_ahead"),
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
