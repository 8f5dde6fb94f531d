"""replicate for PyTorch Lightning, in both of its namespaces: `pytorch_lightning` and `lightning.pytorch`.

```python
from replicate_lightning import ReplicateCallback

trainer = Trainer(callbacks=[ReplicateCallback(primary_metric=("val_loss", "minimize"))])
```
"""

from replicate_core.adapters import pass_over
from replicate_lightning.callback import ReplicateCallback
from replicate_lightning.logger import ReplicateLogger

pass_over("replicate_lightning", "pytorch_lightning", "lightning", "lightning_fabric", "torch", "jsonargparse")

__all__ = ["ReplicateCallback", "ReplicateLogger"]
