"""What tests of resuming share."""

from __future__ import annotations

import numpy as np
import pytest

from replicate_core.recording import notices


@pytest.fixture
def data(no_recorder: None) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said that is neither trouble nor a result."""
    lines: list[str] = []
    monkeypatch.setattr(notices.notifier(), "inform", lines.append)
    return lines
