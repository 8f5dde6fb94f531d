"""Why a storage failed: errors of any driver, recognised by error codes, class names and error numbers.

Pure: no driver is imported.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from replicate_core.errors import StorageFailed
from replicate_core.redaction import redact
from replicate_core.storage.options import hide

REASON_CHARACTERS = 400
"""Maximum length of a reason: Azure answers with whole pages."""

_CHAIN_MAX = 12


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed, and what to do."""

    reason: str
    todo: str
    permanent: bool = False
    """Whether retrying is useless until somebody changes something."""
    is_missing_bucket: bool = False
    is_transient: bool = False
    """Whether retrying at once may help."""
    is_empty_range: bool = False
    """Whether the requested range contains nothing."""


@dataclass(frozen=True, slots=True)
class _Kind:
    words: str
    """The reason to give if the driver gives none."""
    todo: str
    permanent: bool


_BUCKET = _Kind(
    "the bucket does not exist",
    "Create it (`replicate --create ls`, or create: true in storage_options), or correct its name",
    permanent=True,
)
_NO_CREDENTIALS = _Kind(
    "there are no credentials",
    "Set up credentials as for its own tools (docs/storage.md has a section for each storage), or give them under "
    "storage_options in replicate.yaml as ${VARIABLE}",
    permanent=True,
)
_REFUSED = _Kind(
    "the credentials are not accepted",
    "Check the key, whether it has expired, and the clock of this machine",
    permanent=True,
)
_FORBIDDEN = _Kind(
    "access is denied",
    "Check that you may write there, and with which credentials, or name another storage in replicate.yaml",
    permanent=True,
)
_HOST_KEY = _Kind(
    "the key of the host is not known here",
    "Connect once by hand (`ssh HOST`) and accept its key, or check that nobody intercepts the connection",
    permanent=True,
)
_UNREACHABLE = _Kind("it can't be reached", "Check the host, the port and the network", permanent=False)
_TLS = _Kind(
    "no secure connection could be made",
    "Check whether it speaks https at all (an endpoint may need http://, WebDAV the option scheme: http), and whether "
    "its certificate is trusted here",
    permanent=False,
)
_SLOW = _Kind(
    "it did not answer in time", "Check the network, the server and your credentials, then try again", permanent=False
)
_BUSY = _Kind("it is overloaded", "Try again later", permanent=False)
_BROKEN = _Kind("the server failed", "Try again later; the server's log has the reason", permanent=False)
_CONFLICT = _Kind("somebody else wrote it at the same time", "Try again", permanent=False)
_CUT = _Kind("the connection was lost", "Check the network, then try again", permanent=False)
_NAME = _Kind("the name can't be used there", "Correct the storage in replicate.yaml", permanent=True)
_TOO_LARGE = _Kind(
    "the file is too large for it",
    "Raise the limit for the size of a file (`ulimit -f`), or name a storage without one in replicate.yaml",
    permanent=True,
)
_READ_ONLY = _Kind("it is read-only", "It is read-only: name another storage in replicate.yaml", permanent=True)
_IN_THE_WAY = _Kind(
    "a file is in the way",
    "There is a file where a directory is needed: name another storage in replicate.yaml",
    permanent=True,
)
_GONE = _Kind(
    "it is not there", "Check the storage named in replicate.yaml, the network and your credentials", permanent=True
)
_NO_RANGE = _Kind("nothing is there", "Request a smaller range", permanent=True)
_OPTION = _Kind(
    "an option is not known",
    "The driver does not know one of storage_options, or a value is invalid; docs/storage.md says where each is "
    "described (the address of an S3 server is endpoint_url)",
    permanent=True,
)
_UNKNOWN = _Kind("", "Check the storage named in replicate.yaml, the network and your credentials", permanent=False)

_LOCKED = _Kind(
    "the bucket has an object lock, and accepts only writes with a checksum",
    "The bucket has an object lock, and accepts only writes with a checksum: write config_kwargs: "
    "{request_checksum_calculation: when_supported} below storage_options, or name a bucket without a lock",
    permanent=True,
)

_TRANSIENT = (_UNREACHABLE, _SLOW, _BUSY, _BROKEN, _CONFLICT, _CUT)

_CODES = {
    "NoSuchBucket": _BUCKET,
    "ContainerNotFound": _BUCKET,
    "ContainerBeingDeleted": _BUCKET,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "InvalidToken": _REFUSED,
    "ExpiredToken": _REFUSED,
    "RequestTimeTooSkewed": _REFUSED,
    "AuthenticationFailed": _REFUSED,
    "AuthorizationFailure": _REFUSED,
    "InvalidAuthenticationInfo": _REFUSED,
    "AccessDenied": _FORBIDDEN,
    "AuthorizationPermissionMismatch": _FORBIDDEN,
    "PublicAccessNotPermitted": _FORBIDDEN,
    "InvalidRange": _NO_RANGE,
    "InvalidBucketName": _NAME,
    "InvalidResourceName": _NAME,
    "SlowDown": _BUSY,
    "ServerBusy": _BUSY,
    "TooManyRequests": _BUSY,
    "ConditionalRequestConflict": _CONFLICT,
    "OperationAborted": _CONFLICT,
}
"""Kinds by the error codes that S3 and Azure servers answer with."""

_STATUSES = {
    404: _GONE,
    416: _NO_RANGE,
    401: _REFUSED,
    403: _FORBIDDEN,
    408: _SLOW,
    409: _CONFLICT,
    423: _CONFLICT,
    429: _BUSY,
    503: _BUSY,
}

_TYPES = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "ProfileNotFound": _NO_CREDENTIALS,
    "ClientAuthenticationError": _NO_CREDENTIALS,
    "DefaultCredentialsError": _NO_CREDENTIALS,
    "HostKeyNotVerifiable": _HOST_KEY,
    "AuthenticationException": _REFUSED,
    "PermissionDenied": _REFUSED,
    "ParamValidationError": _NAME,
    "SSLError": _TLS,
    "SSLCertVerificationError": _TLS,
    "ClientConnectorSSLError": _TLS,
    "ClientConnectorCertificateError": _TLS,
    "EndpointConnectionError": _UNREACHABLE,
    "ClientConnectorError": _UNREACHABLE,
    "ClientConnectorDNSError": _UNREACHABLE,
    "ServiceRequestError": _UNREACHABLE,
    "NoValidConnectionsError": _UNREACHABLE,
    "ConnectError": _UNREACHABLE,
    "ConnectionLost": _CUT,
    "SFTPNoConnection": _CUT,
    "SFTPConnectionLost": _CUT,
    "ConnectionClosedError": _CUT,
    "ServerDisconnectedError": _CUT,
    "ClientPayloadError": _CUT,
    "ResponseStreamingError": _CUT,
    "IncompleteRead": _CUT,
    "RemoteProtocolError": _CUT,
    "ReadError": _CUT,
    "WriteError": _CUT,
    "gaierror": _UNREACHABLE,
    "ReadTimeoutError": _SLOW,
    "ConnectTimeoutError": _SLOW,
    "ReadTimeout": _SLOW,
    "ConnectTimeout": _SLOW,
    "ServiceResponseError": _SLOW,
    "TimeoutError": _SLOW,
    "ResourceLocked": _CONFLICT,
    "ParseError": _BROKEN,
    "BucketNotFound": _BUCKET,
}
"""Kinds by the names of the classes that drivers raise, so that no driver need be imported."""


_LOCK_PHRASES = ("with Object Lock parameters", "with a retention period configured using Object Lock")
"""Phrases of S3 for a bucket with an object lock: its error code is the same as for any other invalid request."""

_TLS_PHRASES = ("WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED")
"""Phrases of OpenSSL, in any driver's errors, for failures that do not pass by themselves."""


def diagnose(error: BaseException) -> Failure:
    """Why a request to a storage failed, by its error and that error's causes.

    The most specific sign counts: the code of an answer, then the class, then the number of a system error.
    """
    chain = list(with_causes(error))
    kind = (
        next((_TLS for item in chain if any(word in str(item) for word in _TLS_PHRASES)), None)
        or next((_LOCKED for item in chain if any(word in str(item) for word in _LOCK_PHRASES)), None)
        or next((found for item in chain if (found := _CODES.get(_code(item)))), None)
        or next((found for item in chain for name in _names(item) if (found := _TYPES.get(name))), None)
        or next((found for item in chain if (found := _by_status(_status(item)))), None)
        or next((found for item in chain if (found := _by_number(item))), None)
        or next((_OPTION for item in chain if isinstance(item, TypeError) and "argument" in str(item)), None)
        or _UNKNOWN
    )
    reason = _reason(chain) or kind.words or type(error).__name__
    return Failure(reason, kind.todo, kind.permanent, kind is _BUCKET, kind in _TRANSIENT, kind is _NO_RANGE)


def is_gone(error: BaseException) -> bool:
    """Tell whether an error means that a key does not exist. Its causes are ignored: they may be about another key.

    WebDAV's driver looks a key up before it reads it, and has no special error if the key is deleted in between.
    """
    return isinstance(error, FileNotFoundError) or _status(error) == HTTPStatus.NOT_FOUND


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, the nearest first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen and len(seen) < _CHAIN_MAX:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _reason(chain: list[BaseException]) -> str:
    """The first message that is not empty, on one line, without credentials."""
    for error in chain:
        text = " ".join(redact(str(error)).split())
        if text and text.rpartition("] ")[2] not in ("None", "Failure", "''", "()"):
            return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"
    return ""


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, dict) and isinstance(details := response.get("Error"), dict):
        return str(details.get("Code"))
    code = getattr(error, "error_code", None)  # azure: a string, or a member of an Enum
    return str(getattr(code, "value", code))


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        candidates = (getattr(response, "status_code", None), *(getattr(error, name, None) for name in _STATUS_NAMES))
        found = next((item for item in candidates if isinstance(item, int)), None)
    return found if isinstance(found, int) else 0


_STATUS_NAMES = ("status_code", "status", "code")
"""Attributes in which azure, aiohttp, webdav4 and gcsfs keep the status of an answer."""


def _by_status(status: int) -> _Kind | None:
    return _STATUSES.get(status) or (_BROKEN if 500 <= status < 600 else None)


def _by_number(error: BaseException) -> _Kind | None:
    if isinstance(error, PermissionError):
        return _FORBIDDEN
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return _IN_THE_WAY
    if isinstance(error, FileNotFoundError):
        return _GONE
    if isinstance(error, ConnectionRefusedError):
        return _UNREACHABLE
    if isinstance(error, ConnectionError):
        return _CUT
    if isinstance(error, OSError) and error.errno in _LASTING:
        return _LASTING[error.errno]
    return _UNREACHABLE if isinstance(error, OSError) and error.errno in _NETWORK_NUMBERS else None


_LASTING = {errno.EROFS: _READ_ONLY, errno.EFBIG: _TOO_LARGE}
_NETWORK_NUMBERS = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT})


def shown_cause(error: BaseException, hidden: tuple[str, ...] = ()) -> BaseException | None:
    """The error, to be shown in the traceback as the cause of ours; None if it or one of its causes shows a secret.

    Args:
        error: what was raised.
        hidden: see `translated`.
    """
    texts = [str(item) for item in with_causes(error)]
    return error if all(hide(redact(text), hidden) == text for text in texts) else None


def translated(error: BaseException, url: str, action: str, hidden: tuple[str, ...] = ()) -> StorageFailed:
    """A driver's error as one of ours, which says what was tried, where, why it failed, and what to do.

    Args:
        error: what was raised.
        url: where, without credentials.
        action: what was tried.
        hidden: secrets that the message must not show.
    """
    failure = diagnose(error)
    reason = hide(failure.reason, hidden).rstrip(". ")
    return StorageFailed(
        f"can't {action} in {url}: {reason}. {failure.todo}",
        permanent=failure.permanent,
        bucket_is_missing=failure.is_missing_bucket,
    )
