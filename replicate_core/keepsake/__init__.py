"""Importing repositories of Keepsake and of the first replicate.

This package may import `repository` and below. Only `Project` uses it.
"""
