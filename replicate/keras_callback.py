"""`ReplicateCallback` for Keras, under the name that scripts import. It lives in `replicate_keras`."""

from replicate_keras import ReplicateCallback

__all__ = ["ReplicateCallback"]
