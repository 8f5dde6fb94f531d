"""What tests of resuming share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def data(no_recorder: None) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)
