"""The repository: writing, reading and maintaining what is stored.

These modules know the records, snapshots and objects in a store, and nothing of the process that recorded them. They
may import `storage` and below.
"""
