"""`python -m replicate` is the command `replicate`."""

from replicate.cli import main

main()
