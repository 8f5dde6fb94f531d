"""Work beside the training: who waits for news hears of them at once."""

from __future__ import annotations

import threading
import time

from replicate_core.machine.background import Bell

LONG_SECONDS = 60.0


class TestBell:
    def test_wakes_all_that_wait(self) -> None:
        bell = Bell()
        heard: list[int] = []
        waiting = [threading.Thread(target=lambda: heard.append(bell.wait(0, LONG_SECONDS))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        bell.ring()
        for thread in waiting:
            thread.join(LONG_SECONDS / 2)
        assert heard == [1, 1, 1]

    def test_that_rang_while_somebody_was_at_work_is_heard_afterwards(self) -> None:
        bell = Bell()
        bell.ring()
        began = time.monotonic()
        assert bell.wait(0, LONG_SECONDS) == 1
        assert time.monotonic() - began < LONG_SECONDS / 2

    def test_that_nobody_rings_is_waited_for_no_longer_than_wanted(self) -> None:
        assert Bell().wait(0, 0.01) == 0
