"""Why a storage failed: told by codes, by names of classes and by numbers, without any driver."""

from __future__ import annotations

import errno

import pytest

from replicate_core.storage.diagnosis import REASON_CHARACTERS, diagnose, is_gone


def named(name: str, text: str = "", *, base: type[Exception] = Exception, **fields: object) -> Exception:
    """An error of a driver that is not installed."""
    error = type(name, (base,), {})(text)
    for field, value in fields.items():
        setattr(error, field, value)
    return error


def botocore(code: str, status: int) -> Exception:
    return named("ClientError", response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


def azure(code: object, status: int) -> Exception:
    return named("HttpResponseError", error_code=code, status_code=status)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "todo", "permanent", "passes"),
    [
        (
            OSError(5, "required for Put Object requests with Object Lock parameters"),
            "when_supported",
            True,
            False,
        ),
        (botocore("NoSuchBucket", 404), "create: true", True, False),
        (caused(FileNotFoundError(), botocore("NoSuchBucket", 404)), "create: true", True, False),
        (azure("ContainerNotFound", 404), "create: true", True, False),
        (caused(PermissionError("None"), botocore("SignatureDoesNotMatch", 403)), "the clock", True, False),
        (caused(PermissionError("Forbidden"), botocore("AccessDenied", 403)), "may write there", True, False),
        (azure(named("Code", value="AuthorizationFailure"), 403), "the clock", True, False),
        (azure(None, 401), "the clock", True, False),
        (named("NoCredentialsError", "Unable to locate credentials"), "docs/storage.md", True, False),
        (named("HostKeyNotVerifiable"), "accept its key", True, False),
        (named("ParamValidationError"), "Correct the storage", True, False),
        (named("SSLError"), "http://", False, False),
        (named("EndpointConnectionError"), "the port", False, True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "the port", False, True),
        (OSError(errno.EHOSTUNREACH, "no route"), "the port", False, True),
        (ConnectionResetError(), "try again", False, True),
        (named("IncompleteRead"), "try again", False, True),
        (TimeoutError(), "try again", False, True),
        (caused(OSError(16, "injected"), botocore("SlowDown", 503)), "Try again later", False, True),
        (named("HttpError", code=500), "Try again later", False, True),
        (named("HTTPStatusError", response=named("Response", status_code=429)), "Try again later", False, True),
        (botocore("ConditionalRequestConflict", 409), "Try again", False, True),
        (PermissionError(errno.EACCES, "Permission denied"), "may write there", True, False),
        (OSError(errno.EROFS, "Read-only"), "read-only", True, False),
        (NotADirectoryError(), "There is a file", True, False),
        (FileNotFoundError("x"), "Check the storage", True, False),
        (ValueError("what?"), "Check the storage", False, False),
        (named("Odd", status="fine", response=named("Response")), "Check the storage", False, False),
        (named("Odder", response={}), "Check the storage", False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_failure_has_something_to_do(error: Exception, todo: str, permanent: bool, passes: bool) -> None:
    failure = diagnose(error)
    assert todo in failure.todo
    assert (failure.permanent, failure.is_transient) == (permanent, passes)
    assert failure.reason
    assert failure.is_missing_bucket == ("create: true" in todo)


class TestReason:
    def test_is_the_first_text_that_says_something(self) -> None:
        assert diagnose(caused(PermissionError("None"), ValueError("no  such\nkey"))).reason == "no such key"
        assert diagnose(caused(OSError(22, "None"), ValueError("no such key"))).reason == "no such key"

    def test_is_said_where_the_driver_says_nothing(self) -> None:
        assert diagnose(botocore("NoSuchBucket", 404)).reason == "the bucket does not exist"
        assert diagnose(RuntimeError()).reason == "RuntimeError"

    def test_is_short_and_without_credentials(self) -> None:
        reason = diagnose(ValueError("s3://me:secret@host " + "x" * 1000)).reason
        assert len(reason) == REASON_CHARACTERS
        assert "secret" not in reason

    def test_an_error_that_is_its_own_cause_ends(self) -> None:
        error = ValueError("x")
        error.__cause__ = error
        assert diagnose(error).reason == "x"


def test_a_range_in_which_nothing_is() -> None:
    assert diagnose(botocore("InvalidRange", 416)).is_empty_range
    assert diagnose(azure("InvalidRange", 416)).is_empty_range
    assert not diagnose(ValueError()).is_empty_range


class TestGone:
    def test_is_told_by_the_answer(self) -> None:
        webdav = named("HTTPStatusError", "404 Not Found", response=named("Response", status_code=404))
        for error in (FileNotFoundError("x"), webdav, azure(None, 404)):
            assert is_gone(error)
            assert not diagnose(error).is_transient

    def test_is_not_told_by_an_error_behind_it(self) -> None:
        """What failed while something missing was dealt with has failed: it is not known to be missing."""
        assert not is_gone(caused(TimeoutError(), FileNotFoundError("x")))
        assert not is_gone(botocore("SlowDown", 503))
