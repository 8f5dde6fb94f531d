"""The id of the machine's current boot."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str | None:
    """The id of the machine's current boot; None where the system does not tell."""
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return None
