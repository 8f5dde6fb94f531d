"""Tells which metrics belong to a step: Lightning keeps every metric, so old values appear among new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Measured:
    """Keeps at which training step each metric was measured.

    Lightning computes metrics that are being logged each time they are read. So a value that is the same object as last
    time is an old one.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._step: dict[str, int] = {}

    def note(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note new values. Call it when the metrics of a step are complete and before the next step."""
        for name, value in metrics.items():
            if self._seen.get(name) is not value:
                self._seen[name] = value
                self._step[name] = step

    def at(self, step: int) -> dict[str, Any]:
        """Return the metrics that were measured at a training step."""
        return {name: value for name, value in self._seen.items() if self._step[name] == step}
