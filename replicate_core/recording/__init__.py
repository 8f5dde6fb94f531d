"""Recording an experiment, from `init` to its end: what a training calls and waits for.

It may import `spool`, `repository` and below.
"""
