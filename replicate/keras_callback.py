"""`ReplicateCallback` and `load_model` for Keras, under the name that scripts import.

Both are defined in `replicate_keras`.
"""

from replicate_keras import ReplicateCallback, load_model

__all__ = ["ReplicateCallback", "load_model"]
