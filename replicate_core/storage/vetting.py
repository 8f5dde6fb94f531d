"""Which storage options a project's configuration file may set by itself, and which only the user may allow.

Pure. A project may come from anywhere, and `replicate ls` reads its file. So options are allowed by name: those that
can't run or load code, read files, or send anything of the user's to a place that the file names. Unknown options are
not allowed. `trust` knows which files the user trusts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from replicate_core.format.values import Value
from replicate_core.storage.options import CREATE, references

OPTIONS = "storage_options"

Rule = Callable[[Value], bool]
"""Tells whether a value is harmless."""

_USER = r"(?!-)[\w.+@-]+"
"""A user name without special characters for a shell, which a driver or a command of `~/.ssh/config` may call."""
_LOGIN = rf"(?:(?:{_USER})?(?::[^\s/?#\\@\x00-\x1f\x7f-\x9f]*)?@)?"
_NAMED_OR_IPV6 = r"(?:(?!-)[\w.-]{least}(?::\d+)?|\[[0-9a-fA-F:.]+\](?::\d+)?)"
_HTTP = re.compile(rf"https?://{_LOGIN}{_NAMED_OR_IPV6.replace('{least}', '+')}/?")
_HOST = re.compile(_LOGIN + _NAMED_OR_IPV6.replace("{least}", "*"))
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


def _is_text(value: Value) -> bool:
    return isinstance(value, str)


def _is_flag(value: Value) -> bool:
    return isinstance(value, bool)


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float))


def _is_login(value: Value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)


def _matches(pattern: re.Pattern[str]) -> Rule:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_one_of(*words: str) -> Rule:
    return lambda value: value in words


_S3: Mapping[str, Rule] = {
    "anon": _is_flag,
    "key": _is_text,
    "secret": _is_text,
    "token": _is_text,
    "profile": _is_text,
    "endpoint_url": _matches(_HTTP),  # requests are signed for this host: the keys themselves are not sent
    "client_kwargs.region_name": _is_text,
    "client_kwargs.endpoint_url": _matches(_HTTP),
    "config_kwargs.s3.addressing_style": _is_text,
    "config_kwargs.signature_version": _is_one_of("s3v4"),  # the others do not sign the host, or send a token
    "config_kwargs.request_checksum_calculation": _is_one_of("when_supported", "when_required"),
    "s3_additional_kwargs.ServerSideEncryption": _is_text,
    "s3_additional_kwargs.SSEKMSKeyId": _is_text,
    "s3_additional_kwargs.StorageClass": _is_text,
}
_GCS: Mapping[str, Rule] = {  # no endpoint: gcsfs sends the user's access token there
    "project": _is_text,
    "token": _is_one_of("anon", "cloud", "google_default", "cache"),
    "default_location": _is_text,
}
_AZURE: Mapping[str, Rule] = {  # no account_host: adlfs sends the user's access token there
    "anon": _is_flag,
    "account_name": _matches(_ACCOUNT),
    "account_key": _is_text,
    "sas_token": _is_text,
    "connection_string": _is_text,
}
_SFTP: Mapping[str, Rule] = {"username": _matches(re.compile(_USER)), "password": _is_text, "port": _is_number}
_WEBDAV: Mapping[str, Rule] = {"auth": _is_login, "scheme": _is_one_of("http", "https")}

PLAIN: Mapping[str, Mapping[str, Rule]] = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "sftp": _SFTP,
    "ssh": _SFTP,
    "webdav": _WEBDAV,
    "memory": {},
}
"""Schemes that a file may name, and the options of each that it may set, with dots for nested ones."""

OWN_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "s3.key": ("AWS_ACCESS_KEY_ID",),
    "s3.secret": ("AWS_SECRET_ACCESS_KEY",),
    "s3.token": ("AWS_SESSION_TOKEN",),
    "s3.profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    "s3.endpoint_url": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "s3.client_kwargs.endpoint_url": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "s3.client_kwargs.region_name": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "az.account_name": ("AZURE_STORAGE_ACCOUNT_NAME",),
    "az.account_key": ("AZURE_STORAGE_ACCOUNT_KEY",),
    "az.sas_token": ("AZURE_STORAGE_SAS_TOKEN",),
    "az.connection_string": ("AZURE_STORAGE_CONNECTION_STRING",),
}
"""Environment variables that a driver reads for an option anyway: a file that refers to one changes nothing."""

_FAMILY = {"s3a": "s3", "abfs": "az", "abfss": "az"}


def doubts(location: str, options: Mapping[str, Value], *, names_location: bool = True) -> list[str]:
    """What in a file only the user may allow, each in a few words; empty if the file is harmless.

    Args:
        location: the URL of the storage.
        options: options of its driver, with references not resolved.
        names_location: whether the file names the storage itself, not only its options.
    """
    scheme, _, rest = location.partition("://")
    scheme = scheme.lower()
    found = []
    if scheme not in PLAIN:
        if names_location:
            found.append(f"a driver for {scheme}://, which is unknown here")
    elif names_location and scheme != "memory" and not _HOST.fullmatch(rest.partition("/")[0]):
        found.append("a storage whose host has unusual characters in its name")
    for name, value in _leaves(options):
        found += _doubts_of(scheme, name, value)
    return found


def _doubts_of(scheme: str, name: str, value: Value) -> Iterator[str]:
    rules = PLAIN.get(scheme, {})
    variables = references(value)
    if value in [f"${{{variable}}}" for variable in OWN_VARIABLES.get(f"{_FAMILY.get(scheme, scheme)}.{name}", ())]:
        return
    if variables:
        yield f"{' and '.join(f'${{{variable}}}' for variable in variables)} of your environment in {OPTIONS}.{name}"
    if name not in rules and name != CREATE:
        yield f"{OPTIONS}.{name}, which is not a plain option of {scheme}://"
    elif not variables and name != CREATE and not rules[name](value):
        yield f"{OPTIONS}.{name} with a value that is not plain"


def _leaves(options: Mapping[str, Value], above: str = "") -> Iterator[tuple[str, Value]]:
    """Values with their dotted names; a list is one value."""
    for name, value in options.items():
        whole = above + name.replace(".", "[.]")  # a dot in a name is not a separator
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{whole}.")
        else:
            yield whole, value
