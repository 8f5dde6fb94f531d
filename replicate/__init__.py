"""Version control for machine learning, on any storage, with no server.

```python
import replicate

experiment = replicate.init(params={"learning_rate": 0.01})
experiment.checkpoint(path="model.pt", step=1, metrics={"loss": 0.5}, primary_metric=("loss", "minimize"))
```

This is the face: names that users import. They live in `replicate_core`, `replicate_keras` and `replicate_lightning`.
"""

import importlib
from types import ModuleType

from replicate.progress import EndOfRun, complain
from replicate_core import *  # noqa: F403  # its `__all__` is the promise, and here it is ours
from replicate_core import __all__ as _core_names
from replicate_core.recording import recording as _recording

__all__ = [*_core_names]  # noqa: PLE0604  # the names are strings, in the core's own list

_recording.watch, _recording.complain, _recording.tell = EndOfRun, complain, complain

_ADAPTERS = ("keras_callback", "lightning_callback", "pl_callback")


def __getattr__(name: str) -> ModuleType:
    """Import an adapter when it is first used: only then its framework is needed."""
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
