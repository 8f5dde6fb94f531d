"""replicate for PyTorch Lightning, in both of its namespaces: `pytorch_lightning` and `lightning.pytorch`.

```python
from replicate_lightning import ReplicateCallback

trainer = Trainer(callbacks=[ReplicateCallback(primary_metric=("val_loss", "minimize"))])
```
"""

from replicate_lightning.callback import ReplicateCallback
from replicate_lightning.logger import ReplicateLogger

__all__ = ["ReplicateCallback", "ReplicateLogger"]
