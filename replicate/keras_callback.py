"""`ReplicateCallback` and `load_model` for Keras, under the name that scripts import; from `replicate_keras`."""

from replicate_keras import ReplicateCallback, load_model

__all__ = ["ReplicateCallback", "load_model"]
