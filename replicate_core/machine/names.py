"""Names of files as they are stored: their bytes read as UTF-8, independent of the locale of the process.

Python decodes names with the encoding of the file system, which is not UTF-8 where a locale such as `C` is forced: the
same file would have two names. Where it is UTF-8, as nearly everywhere, the functions return their arguments.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_IS_UTF_8 = sys.getfilesystemencoding().lower() == "utf-8"


def portable(name: str) -> str:
    """The stored form of a name or path from this system; bytes that are not UTF-8 become lone surrogates."""
    return name if _IS_UTF_8 else os.fsencode(name).decode("utf-8", "surrogateescape")


def local_name(name: str) -> str:
    """The name or path with which this process can open a file, from its stored form."""
    return name if _IS_UTF_8 else os.fsdecode(name.encode("utf-8", "surrogateescape"))


def given_name(name: str) -> str:
    """Like `local_name`, for a name from a script in either form: one that can't be encoded is in stored form."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):
            return local_name(name)
    return name
