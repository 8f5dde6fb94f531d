"""`ReplicateCallback` and `ReplicateLogger` for PyTorch Lightning, under the name that scripts import.

Both are defined in `replicate_lightning`.
"""

from replicate_lightning import ReplicateCallback, ReplicateLogger

__all__ = ["ReplicateCallback", "ReplicateLogger"]
