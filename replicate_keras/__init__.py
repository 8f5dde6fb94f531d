"""replicate for Keras 3, on the TensorFlow, JAX and torch backends.

```python
from replicate_keras import ReplicateCallback

model.fit(x, y, callbacks=[ReplicateCallback(params={"learning_rate": 0.01}, primary_metric=("loss", "minimize"))])
```
"""

from replicate_keras.callback import ReplicateCallback

__all__ = ["ReplicateCallback"]
