"""Version control for machine learning, on any storage, with no server.

```python
import replicate

experiment = replicate.init(params={"learning_rate": 0.01})
experiment.checkpoint(path="model.pt", step=1, metrics={"loss": 0.5}, primary_metric=("loss", "minimize"))
```

This is the face: names that users import. They live in `replicate_core`, `replicate_keras` and `replicate_lightning`.
"""

import importlib

import replicate_core
from replicate.progress import TerminalNotifier
from replicate_core import *  # noqa: F403  # its `__all__` is the promise, and here it is ours
from replicate_core import __all__ as _core_names
from replicate_core.recording.notices import set_notifier

__all__ = [*_core_names]  # noqa: PLE0604  # the names are strings, in the core's own list

set_notifier(TerminalNotifier())

_ADAPTERS = ("keras_callback", "lightning_callback", "pl_callback")


def __getattr__(name: str) -> object:
    """Import an adapter when it is first used: only then its framework is needed. And names of the version before."""
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in replicate_core.FORMER:
        return getattr(replicate_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is promised, and nothing else: what Tab shows."""
    return sorted([*__all__, *_ADAPTERS])
