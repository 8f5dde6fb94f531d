"""Version control for machine learning, on any storage, with no server.

```python
import replicate

experiment = replicate.init(params={"learning_rate": 0.01})
experiment.checkpoint(path="model.pt", step=1, metrics={"loss": 0.5}, primary_metric=("loss", "minimize"))
```

This package holds the names that users import. `replicate_core`, `replicate_keras` and
`replicate_lightning` define them.
"""

import importlib
from typing import TYPE_CHECKING

import replicate_core
from replicate.progress import TerminalNotifier
from replicate_core import __all__ as _core_names
from replicate_core.recording.notices import set_notifier

if TYPE_CHECKING:
    from replicate_core import *  # noqa: F403  # its `__all__` is the public API of this package, too

__all__ = [*_core_names]  # noqa: PLE0604  # the names are strings, in the core's own list

set_notifier(TerminalNotifier())

_ADAPTERS = ("keras_callback", "lightning_callback", "pl_callback")


def __getattr__(name: str) -> object:
    """Import a name when it is first used: an adapter needs its framework, and the core its modules."""
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__ and name not in replicate_core.FORMER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(replicate_core, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names only: Tab completion shows these."""
    return sorted([*__all__, *_ADAPTERS])
