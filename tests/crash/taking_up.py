"""Stores what killed processes have left in the spool of the project directory that is its argument."""

import sys

import replicate

failures = [synced for synced in replicate.Project(directory=sys.argv[1]).sync() if synced.outcome != "stored"]
if failures:
    sys.exit(f"{failures}")
