"""Stores, which map keys to bytes in a directory or any fsspec file system, and how they are opened, vetted and cached.

These modules know keys and bytes, and nothing about what they mean. They may import `machine` and `format`.
"""
