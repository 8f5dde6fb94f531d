"""Names of files as they are stored, whatever the locale of the process says: their bytes, read as UTF-8.

Python decodes names by the encoding of the file system, which is not UTF-8 where a locale such as `C` is forced: the
same file would have two names. Where it is UTF-8, as nearly everywhere, both functions return what they are given.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_IS_UTF_8 = sys.getfilesystemencoding().lower() == "utf-8"


def portable(name: str) -> str:
    """The stored form of a name or path that this system gave; bytes that are no UTF-8 become lone surrogates."""
    return name if _IS_UTF_8 else os.fsencode(name).decode("utf-8", "surrogateescape")


def local_name(name: str) -> str:
    """The name or path by which this process reaches a file, of its stored form."""
    return name if _IS_UTF_8 else os.fsdecode(name.encode("utf-8", "surrogateescape"))


def given_name(name: str) -> str:
    """As `local_name`, of what a script says, which may be either: what this system can't name is in stored form."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):
            return local_name(name)
    return name
