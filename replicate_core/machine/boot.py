"""Which start of the machine this is."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str | None:
    """Which start of the machine this is; None where the system does not tell."""
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return None
