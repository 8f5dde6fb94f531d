"""The two namespaces of Lightning, which know nothing of one another: a class that serves both inherits from both."""

from __future__ import annotations

import importlib
import importlib.util

from replicate_core import MissingExtra

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def bases(name: str, *, room: str = "callbacks") -> tuple[type, ...]:
    """The class of that name in a module of every namespace that is installed.

    Raises:
        MissingExtra: none is.
    """
    installed = [
        space
        for space in NAMESPACES
        # Both: a directory of the user's that is called `lightning` is found as a package, too.
        if importlib.util.find_spec(space.partition(".")[0]) and importlib.util.find_spec(space)
    ]
    if not installed:
        raise MissingExtra('PyTorch Lightning is not installed: pip install "replicate[lightning]"')
    return tuple(getattr(importlib.import_module(f"{space}.{room}"), name) for space in installed)


def is_a(callback: object, *names: str) -> bool:
    """Tell whether it is a callback of one of Lightning's classes, of either namespace."""
    return any(base.__name__ in names for base in type(callback).__mro__)
