"""What a snapshot of the code would hold, before it is made: what is large, and what should not be in it at all.

Pure: it judges by names and sizes, and reads no file. It would rather say nothing than cry wolf: `tokenizer.json` and
`password_reset.py` are no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import translate

from replicate_core.wording import size

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
"""What is meant to be shown around."""

_SECRET_NAME = re.compile("|".join(map(translate, SECRET_NAMES)))
_SECRET_WORD = re.compile(
    r"(?:^|[._ -])(?:passwords?|passwd|passphrase|secrets?|token|credentials?|(?:api|access|secret|private)[_-]?keys?)$"
)
_PLAIN_FILE = re.compile(r"(?P<stem>.+?)(?:\.(?:txt|json|ya?ml|toml|ini|cfg|conf))?")
"""What may hold a secret, and is no program that speaks of one; `tokens` are what a model reads."""

DATA_ENDINGS = frozenset({
    "7z", "arrow", "bin", "bz2", "ckpt", "csv", "db", "feather", "gz", "h5", "hdf5", "jsonl", "keras", "mp4", "npy",
    "npz", "onnx", "parquet", "pickle", "pkl", "pt", "pth", "safetensors", "sqlite", "tar", "tfrecord", "tgz", "tsv",
    "wav", "xz", "zip",
})  # fmt: skip
DATA_BYTES = 10**6
"""Files with such an ending are data from this size on."""

DATA_SHARE = 0.1
"""A file of any other ending is, if it takes so much of what all code may."""

SOURCE_ENDINGS = frozenset({
    "c", "cc", "cfg", "conf", "cpp", "cu", "cuh", "gin", "h", "hpp", "ini", "ipynb", "java", "jl", "js", "json", "lua",
    "md", "pl", "proto", "py", "pyi", "pyx", "r", "rs", "rst", "scala", "sh", "sql", "toml", "ts", "yaml", "yml",
})  # fmt: skip
"""Endings of what people write: programs, notebooks, settings, notes. Not `txt`, which may be anything."""

OUTPUT_NAMES = frozenset({".keepsake", "lightning_logs", "checkpoints", "wandb", "mlruns", "outputs", "multirun"})
"""Names of directories in which trainers and trackers put what they make."""

NAMED = 3
"""Maximum number of files named in a sentence."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What `replicate.init()` would save of a project."""

    files: Mapping[str, int]
    """Path of each file, relative to the project directory, to its size in bytes; the largest first."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Path of what would not be saved, to why not; nothing is said of what is below."""
    limit_bytes: int = 100 * 10**6
    """More than this is too much for code: `code_limit` in replicate.yaml."""
    plain: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Path of the configuration, if it holds secrets as they are, to which options these are."""

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, int],
        left_out: Mapping[str, str],
        limit_bytes: int,
        plain: Mapping[str, Sequence[str]] | None = None,
    ) -> Preview:
        """Look at files.

        Args:
            sizes: path to size in bytes.
            left_out: path to why.
            limit_bytes: how much code may take.
            plain: as of the class; what is not among the files does not count.
        """
        largest_first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        found = {path: names for path, names in (plain or {}).items() if path in sizes and names}
        return cls(dict(largest_first), dict(sorted(left_out.items())), limit_bytes, found)

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(self.files.values())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Files that hold a key or a password, by their names, or because they were read as the configuration."""
        return tuple(sorted({path for path in self.files if is_secret(path)} | self.plain.keys()))

    @property
    def data(self) -> tuple[str, ...]:
        """Files that are data or weights, by their names and sizes; the largest first."""
        return tuple(path for path, count in self.files.items() if is_data(path, count, self.limit_bytes))

    @property
    def outputs(self) -> Mapping[str, int]:
        """Directories that hold what trainers and trackers have made, by their names, to the size of what is saved."""
        found: dict[str, int] = {}
        for path, count in self.files.items():
            if (directory := output_directory(path)) is not None:
                found[directory] = found.get(directory, 0) + count
        return {name: count for name, count in sorted(found.items()) if f"{name}/__init__.py" not in self.files}

    def concerns(self) -> list[str]:
        """What speaks against saving it as it is, in sentences."""
        found = []
        if self.total_bytes > self.limit_bytes:
            largest = ", ".join(f"{path} ({size(self.files[path])})" for path in list(self.data or self.files)[:NAMED])
            found.append(
                f"the code of this project takes {size(self.total_bytes)}, more than {size(self.limit_bytes)}; "
                f"largest: {largest}. Name what is no code in .replicateignore, or set code_limit in replicate.yaml"
            )
        found += [
            f"{path} holds {' and '.join(names)} as it is, and anyone who can read the storage can read what is saved "
            "as code: write ${NAME} there, and export NAME"
            for path, names in self.plain.items()
        ]
        if outputs := self.outputs:
            shown = ", ".join(f"{name}/ ({size(count)})" for name, count in outputs.items())
            one = len(outputs) == 1
            found.append(
                f"{shown} {'holds' if one else 'hold'} what runs have made, by {'its name' if one else 'their names'}, "
                f"and {'is' if one else 'are'} saved as code: leave out what is no code by a line in .gitignore or "
                ".replicateignore"
            )
        if secrets := [path for path in self.secrets if path not in self.plain]:
            more = f" and {len(secrets) - NAMED} more" if len(secrets) > NAMED else ""
            verdict = "looks like a secret" if len(secrets) == 1 else "look like secrets"
            found.append(
                f"{', '.join(secrets[:NAMED])}{more} {verdict}, and anyone who can read the storage can read what is "
                "saved as code: leave out what is secret by a line in .replicateignore"
            )
        return found


def is_source(path: str) -> bool:
    """Tell whether a file is written by people, by its name."""
    name = path.rpartition("/")[2].lower()
    stem, dot, ending = name.rpartition(".")
    return bool(stem and dot) and ending in SOURCE_ENDINGS


def is_left_over(path: str, saved: AbstractSet[str]) -> bool:
    """Tell whether a file among the code is what lay where checkpoints saved something: it is not what they saved.

    What people write stays code, and so does all of a project that was saved as a whole.

    Args:
        path: of the file, relative to the project.
        saved: the files and directories that checkpoints saved.
    """
    above = (path[:at] for at, character in enumerate(path) if character == "/")
    return not saved.isdisjoint({path, *above}) and not is_source(path)


def output_directory(path: str) -> str | None:
    """The directory at or above a file whose name says that it holds what runs have made; None if there is none."""
    names = path.split("/")[:-1]
    depth = next((depth for depth, name in enumerate(names) if name in OUTPUT_NAMES), None)
    return None if depth is None else "/".join(names[: depth + 1])


def is_secret(path: str) -> bool:
    """Tell whether a file holds a key or a password, by its name."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(HARMLESS_ENDINGS):
        return False
    if _SECRET_NAME.match(name):
        return True
    plain = _PLAIN_FILE.fullmatch(name)
    return plain is not None and _SECRET_WORD.search(plain["stem"]) is not None


def is_data(path: str, size_bytes: int, limit_bytes: int) -> bool:
    """Tell whether a file is data or weights, by its name and size."""
    ending = path.rpartition("/")[2].rpartition(".")[2].lower()
    return size_bytes >= limit_bytes * DATA_SHARE or (ending in DATA_ENDINGS and size_bytes >= DATA_BYTES)
