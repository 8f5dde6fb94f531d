"""The two independent namespaces of Lightning: a class that works in both inherits from both."""

from __future__ import annotations

import importlib
import importlib.util

from replicate_core import MissingExtra

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def bases(name: str, *, module: str = "callbacks") -> tuple[type, ...]:
    """Return the classes of that name in a module of each installed namespace.

    Raises:
        MissingExtra: no namespace is installed.
    """
    installed = [
        space
        for space in NAMESPACES
        # Check both: a directory of the user's named `lightning` is found as a package, too.
        if importlib.util.find_spec(space.partition(".")[0]) and importlib.util.find_spec(space)
    ]
    if not installed:
        raise MissingExtra('PyTorch Lightning is not installed: pip install "replicate[lightning]"')
    return tuple(getattr(importlib.import_module(f"{space}.{module}"), name) for space in installed)


def is_a(callback: object, *names: str) -> bool:
    """Tell whether a callback is an instance of a Lightning class with one of these names, in either namespace."""
    return any(base.__name__ in names for base in type(callback).__mro__)
