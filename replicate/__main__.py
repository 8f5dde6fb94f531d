"""Makes `python -m replicate` run the command `replicate`."""

from replicate.cli import main

main()
