"""The errors of replicate: one tree, grouped by what a caller who catches them does next.

```
ReplicateError
  NotFound (KeyError)          an id, a file or a metric does not exist: check the name
  InvalidInput (ValueError)    an argument is invalid: fix the call
  ConfigInvalid (ValueError)   replicate.yaml or an ignore file is invalid: fix the file
  StorageFailed (OSError)      the storage refused or did not answer: check it, then try again
  Corrupted                    stored bytes are not what was stored: restore them, or do without
  TooNew                       a newer replicate wrote it: upgrade
  MissingExtra (ImportError)   an optional package is not installed: install it
```

Every message says what was wanted, what was found and what to do. Only `storage.local` and `storage.fsspec_store`
translate what a storage raises; errors of the local disk are translated where it is read or written.
"""

from __future__ import annotations

from replicate_core.safe_text import printable


class ReplicateError(Exception):
    """The base class: catch it to catch every error that replicate raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())  # a traceback is printed to the terminal unescaped


class NotFound(ReplicateError, KeyError):
    """Nothing has that id, name or path."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes, with its line breaks escaped.
        return printable(str(self.args[0])) if self.args else ""


class InvalidInput(ReplicateError, ValueError):
    """An argument is invalid; nothing was recorded."""


class ConfigInvalid(ReplicateError, ValueError):
    """A configuration file of the project is invalid; the message names the file and the line."""


class StorageFailed(ReplicateError, OSError):
    """The storage could not be reached, or refused a request; the original error is the `__cause__`.

    Attributes:
        permanent: whether a retry is useless until something is changed, such as the permissions of the storage.
        bucket_is_missing: whether the bucket only needs to be made: `storage_options: {create: true}`.
    """

    def __init__(self, *message: str, permanent: bool = False, bucket_is_missing: bool = False) -> None:
        super().__init__(*message)
        self.permanent = permanent
        self.bucket_is_missing = bucket_is_missing


class Corrupted(ReplicateError):
    """Stored bytes do not match their digest, or a stored document can't be parsed."""


class TooNew(ReplicateError):
    """The repository was written in a format that this version does not know."""


class MissingExtra(ReplicateError, ImportError):
    """A package that an optional feature needs is not installed; the message has the command that installs it."""
