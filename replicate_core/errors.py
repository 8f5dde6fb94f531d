"""The errors of replicate: one tree, grouped by what the one who catches them does next.

```
ReplicateError
  NotFound (KeyError)          an id, a file or a metric that is not there: look again
  InvalidInput (ValueError)    a call with an argument that can't be taken: mend the call
  ConfigInvalid (ValueError)   replicate.yaml or an ignore file is wrong: mend the file
  StorageFailed (OSError)      the storage said no or nothing: check it, then try again
  Corrupted                    stored bytes are not what was stored: restore them, or do without
  TooNew                       written by a newer replicate: upgrade
  MissingExtra (ImportError)   an optional package is not installed: install it
```

Every message says what was wanted, what was found and what to do. What a storage raises is translated in `store`
and `fsspec_store` alone; what the local disk raises, where it is read or written.
"""

from __future__ import annotations

from replicate_core.safe_text import printable


class ReplicateError(Exception):
    """The root of the tree: catch it to catch everything that replicate raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())  # a traceback goes to the terminal as it is


class NotFound(ReplicateError, KeyError):
    """Nothing has that id, name or path."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes, with its line breaks escaped.
        return printable(str(self.args[0])) if self.args else ""


class InvalidInput(ReplicateError, ValueError):
    """An argument that can't be taken; nothing was recorded."""


class ConfigInvalid(ReplicateError, ValueError):
    """A file of the project that configures replicate is wrong; the message names file and line."""


class StorageFailed(ReplicateError, OSError):
    """The storage could not be reached, or refused; the original error is the `__cause__`.

    Attributes:
        permanent: whether trying again is of no use until somebody has changed something, such as who may write there.
        bucket_is_missing: whether all it takes is that the bucket is made: `storage_options: {create: true}`.
    """

    def __init__(self, *message: str, permanent: bool = False, bucket_is_missing: bool = False) -> None:
        super().__init__(*message)
        self.permanent = permanent
        self.bucket_is_missing = bucket_is_missing


class Corrupted(ReplicateError):
    """Stored bytes do not match their digest, or a stored document can't be understood."""


class TooNew(ReplicateError):
    """The repository was written in a format that this version does not know."""


class MissingExtra(ReplicateError, ImportError):
    """A package that an optional feature needs is not installed; the message has the command."""
