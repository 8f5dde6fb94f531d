"""This machine: its files, git, locks, processes, users and ranks.

What is here knows the operating system, and nothing of experiments or storages. It may import `format`.
"""
