"""What tests of the Keras callback share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from forking import ForkServer


@pytest.fixture
def data(no_recorder: None) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Runs programs in processes of their own, where Keras is imported already."""
    with ForkServer() as server:
        yield server
