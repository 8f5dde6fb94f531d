"""The user's options for the driver of a storage: references to the environment, secrets, and our own options.

Pure: the environment is an argument. `drivers` adds further options for each driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from replicate_core.errors import ConfigInvalid
from replicate_core.format.values import Value
from replicate_core.redaction import REDACTED, is_secret

CREATE = "create"
"""Our own option for all schemes: whether to make the bucket if it is missing."""

SECRET_CHARACTERS_MIN = 4
"""Minimum length of a secret: hiding shorter values would make messages unreadable."""

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)\}")
_SECRET_OPTIONS = frozenset({"key", "connection_string", "sas"})
_FILE_OPTIONS = frozenset({"client_keys", "known_hosts"})
_WORDS = frozenset({"anon", "browser", "cache", "cloud", "google_default"})
"""Values of gcsfs' option `token` that are not secret."""


def resolve(options: Mapping[str, Value], environment: Mapping[str, str]) -> dict[str, Value]:
    """The options with each `${NAME}` replaced by the value of that variable; `$${NAME}` becomes the text `${NAME}`.

    Raises:
        ConfigInvalid: a variable is not set; the message names it, and the option.
    """
    return {name: _resolve(value, environment, name) for name, value in options.items()}


def _resolve(value: Value, environment: Mapping[str, str], name: str) -> Value:
    if isinstance(value, dict):
        return {key: _resolve(item, environment, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, environment, f"{name}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def found(reference: re.Match[str]) -> str:
        if reference[1]:
            return reference[1]
        if reference[2] not in environment:
            raise ConfigInvalid(
                f"storage_options: {name} refers to the environment variable {reference[2]!r}, which is not set here: "
                f"export {reference[2] or 'NAME'}=... before you start, or write $${{...}} for the literal text"
            )
        return environment[reference[2]]

    return _REFERENCE.sub(found, value)


def references(value: Value) -> list[str]:
    """The environment variables that a value refers to, at any depth, in order."""
    if isinstance(value, dict):
        return [name for item in value.values() for name in references(item)]
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    if not isinstance(value, str):
        return []
    return [found[2] for found in _REFERENCE.finditer(value) if not found[1]]


def secrets(options: Mapping[str, Value]) -> tuple[str, ...]:
    """The values in resolved options that must never be shown, the longest first."""
    return tuple(sorted(set(_secrets(dict(options), hidden=False)), key=len, reverse=True))


def _secrets(value: Value, *, hidden: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _secrets(item, hidden=hidden or _is_secret(name))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, hidden=hidden)
    elif hidden and isinstance(value, str) and len(value) >= SECRET_CHARACTERS_MIN and value not in _WORDS:
        yield value
        if ";" in value:  # a connection string: errors quote parts of it
            parts = (part.partition("=")[2] for part in value.split(";") if is_secret(part.partition("=")[0]))
            yield from (part for part in parts if len(part) >= SECRET_CHARACTERS_MIN)


def _is_secret(name: str) -> bool:
    return (is_secret(name) or name.lower() in _SECRET_OPTIONS) and name not in _FILE_OPTIONS


def names_of_secrets(options: Mapping[str, Value]) -> list[str]:
    """The names of unresolved options that hold a secret itself, not a reference to the environment.

    `key` alone only names an account: it is useless without `secret`.
    """
    return [
        name
        for name, value in options.items()
        if name != "key"
        and any(not _REFERENCE.search(text) and not text.endswith(".json") for text in secrets({name: value}))
    ]


def hide(text: str, hidden: tuple[str, ...]) -> str:
    """The text with these secrets redacted."""
    for secret in hidden:
        text = text.replace(secret, REDACTED)
    return text
