"""replicate for Keras 3, on the TensorFlow, JAX and torch backends.

```python
from replicate_keras import ReplicateCallback

model.fit(x, y, callbacks=[ReplicateCallback(params={"learning_rate": 0.01}, primary_metric=("loss", "minimize"))])
```
"""

import importlib.util

from replicate_core import MissingExtra
from replicate_core.adapters import pass_over

if importlib.util.find_spec("keras") is None:
    raise MissingExtra(
        'Keras is not installed: pip install "replicate[keras]", and a backend: tensorflow, jax or torch'
    )

from replicate_keras.callback import ReplicateCallback  # imports Keras
from replicate_keras.loading import load_model

pass_over("replicate_keras", "keras", "tf_keras", "tensorflow")

__all__ = ["ReplicateCallback", "load_model"]
