"""Version control for machine learning, on any storage, with no server: the core, which knows no framework.

`replicate` is the same API under the name people type. What is listed in `__all__` is the promise; everything else may
change between versions, as may what is here for the adapters of frameworks alone.
"""

from replicate_core.adapting import AUTO as AUTO
from replicate_core.adapting import check_experiment as check_experiment
from replicate_core.adapting import check_keep as check_keep
from replicate_core.adapting import check_overhead as check_overhead
from replicate_core.adapting import check_resume as check_resume
from replicate_core.adapting import check_template as check_template
from replicate_core.adapting import expand_template as expand_template
from replicate_core.adapting import whole_from_1 as whole_from_1
from replicate_core.checkpoint import Checkpoint, CheckpointList
from replicate_core.compacting import Report as CompactReport
from replicate_core.copying import Report as CopyReport
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
from replicate_core.importing import Imported
from replicate_core.preview import Preview
from replicate_core.project import Experiments, Project, experiments, init
from replicate_core.pruning import Report as PruneReport
from replicate_core.records import PrimaryMetric
from replicate_core.syncing import Synced
from replicate_core.verifying import Damage
from replicate_core.verifying import Report as VerifyReport
from replicate_core.version import __version__
from replicate_core.whence import Holder

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
