"""Repositories of Keepsake and of the first replicate: an island that reads what they wrote, and stores it here.

It may import `repository` and below. Nothing but `Project.import_from` needs it.
"""
