"""What a Python does at its start when a test asks for a storage with a gate: nothing is written while that is shut."""

import os
import time
from pathlib import Path

if "REPLICATE_TEST_GATE" in os.environ:
    from replicate_core.storage.local import LocalStore

    def _gated(method):
        def wait(self, key, *arguments):
            while Path(os.environ["REPLICATE_TEST_GATE"]).exists():
                time.sleep(0.01)
            return method(self, key, *arguments)

        return wait

    LocalStore.put = _gated(LocalStore.put)
    LocalStore.put_file = _gated(LocalStore.put_file)
