"""What is stored: writing it, reading it, and taking care of it.

What is here knows records, snapshots and objects in a store, whoever recorded them. It may import `storage` and below.
"""
