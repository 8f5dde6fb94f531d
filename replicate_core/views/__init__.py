"""What users see: listings, filters, comparisons, tables and plots. Nothing here writes to a storage.

It may import `spool`, `repository` and below.
"""
