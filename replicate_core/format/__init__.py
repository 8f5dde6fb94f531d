"""The stored format, byte for byte: documents, records, manifests, chunks, and the grammar of keys. Pure.

Nothing here touches a disk, a network, a clock or another thread: data in, data out. It may import the modules beside
the packages (errors, redaction and so on), and nothing else of the core.
"""
