"""`ReplicateCallback` for PyTorch Lightning, under the module name that a successor of Keepsake used."""

from replicate_lightning import ReplicateCallback

__all__ = ["ReplicateCallback"]
