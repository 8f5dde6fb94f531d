"""`ReplicateCallback` for PyTorch Lightning, under the name that a successor gave this module."""

from replicate_lightning import ReplicateCallback

__all__ = ["ReplicateCallback"]
