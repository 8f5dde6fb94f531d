"""Stores: keys to bytes, in a directory or in any file system of fsspec, and how one is opened, trusted and cached.

What is here knows keys and bytes, and nothing of what they mean. It may import `machine` and `format`.
"""
