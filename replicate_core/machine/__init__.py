"""This machine: its files, git, locks, processes, users and ranks.

These modules know the operating system, and nothing about experiments or storages. They may import `format`.
"""
