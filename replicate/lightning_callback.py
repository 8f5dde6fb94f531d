"""`ReplicateCallback` for PyTorch Lightning, under the name that scripts import. It lives in `replicate_lightning`."""

from replicate_lightning import ReplicateCallback

__all__ = ["ReplicateCallback"]
