"""Which metrics belong to a moment: Lightning never forgets one, and shows old values among the new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Measured:
    """At which training step each metric was measured.

    Lightning computes those that are being logged anew each time it is asked; what is the same object as the last
    time is an old value.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._step: dict[str, int] = {}

    def look(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note what is new. To be called where metrics are complete, before they could be taken for later ones."""
        for name, value in metrics.items():
            if self._seen.get(name) is not value:
                self._seen[name] = value
                self._step[name] = step

    def at(self, step: int) -> dict[str, Any]:
        """The metrics that were measured at this training step."""
        return {name: value for name, value in self._seen.items() if self._step[name] == step}
