"""What people see: listing, filtering, comparing, tables and plots. Nothing here writes to a storage.

It may import `spool`, `repository` and below.
"""
