"""The kind of a file, by its name and size: a secret, data or weights, or source that people write.

Pure: no file is read. False alarms are worse than misses here: `tokenizer.json` and `password_reset.py` are not
secrets.
"""

from __future__ import annotations

import re
from fnmatch import translate

SECRET_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.ppk",
    "*.kdbx",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".htpasswd",
    ".pypirc",
    ".npmrc",
    ".git-credentials",
    ".boto",
    ".s3cfg",
    "kaggle.json",
    "client_secret*.json",
    "service_account*.json",
    "service-account*.json",
    "application_default_credentials.json",
)
"""Names of files that hold keys and passwords, in lower case."""

HARMLESS_ENDINGS = (".example", ".sample", ".template", ".dist", ".pub")
"""Endings of files that are meant to be shared."""

_SECRET_NAME = re.compile("|".join(map(translate, SECRET_NAMES)))

_SECRET_WORD = re.compile(
    r"(?:^|[._ -])(?:passwords?|passwd|passphrase|secrets?|token|credentials?|(?:api|access|secret|private)[_-]?keys?)$"
)


_PLAIN_FILE = re.compile(r"(?P<stem>.+?)(?:\.(?:txt|json|ya?ml|toml|ini|cfg|conf))?")
"""Names of files that may hold a secret, not programs about secrets. `tokens` is not a secret: models read them."""

DATA_ENDINGS = frozenset({
    "7z", "arrow", "bin", "bz2", "ckpt", "csv", "db", "feather", "gz", "h5", "hdf5", "jsonl", "keras", "mp4", "npy",
    "npz", "onnx", "parquet", "pickle", "pkl", "pt", "pth", "safetensors", "sqlite", "tar", "tfrecord", "tgz", "tsv",
    "wav", "xz", "zip",
})  # fmt: skip


DATA_BYTES = 10**6
"""Minimum size at which a file with one of `DATA_ENDINGS` counts as data."""

DATA_SHARE = 0.1
"""Share of the limit for all code at which a file with any ending counts as data."""

SOURCE_ENDINGS = frozenset({
    "c", "cc", "cfg", "conf", "cpp", "cu", "cuh", "gin", "h", "hpp", "ini", "ipynb", "java", "jl", "js", "json", "lua",
    "md", "pl", "proto", "py", "pyi", "pyx", "r", "rs", "rst", "scala", "sh", "sql", "toml", "ts", "yaml", "yml",
})  # fmt: skip
"""Endings of files that people write: programs, notebooks, settings, notes. Not `txt`, which may be anything."""


def is_source(path: str) -> bool:
    """Tell by its name whether a file is written by people."""
    name = path.rpartition("/")[2].lower()
    stem, dot, ending = name.rpartition(".")
    return bool(stem and dot) and ending in SOURCE_ENDINGS


def is_secret(path: str) -> bool:
    """Tell by its name whether a file holds a key or a password."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(HARMLESS_ENDINGS):
        return False
    if _SECRET_NAME.match(name):
        return True
    plain = _PLAIN_FILE.fullmatch(name)
    return plain is not None and _SECRET_WORD.search(plain["stem"]) is not None


def is_data(path: str, size_bytes: int, limit_bytes: int) -> bool:
    """Tell by its name and size whether a file is data or weights."""
    ending = path.rpartition("/")[2].rpartition(".")[2].lower()
    return size_bytes >= limit_bytes * DATA_SHARE or (ending in DATA_ENDINGS and size_bytes >= DATA_BYTES)
