"""
What can go wrong, named by its cause.

```text
MagicHourError
├── InvalidInput              a value cannot work; found before anything was sent
│   ├── InvalidConnection     the Airflow connection: no key, a host without a scheme, …
│   └── TargetExists          a file is at ``output_path`` already
├── CreditLimitExceeded       the estimate is above ``max_credits``
├── RequestFailed             the API was asked and did not do it
│   ├── InvalidRequest        400, 405, 413, 415, 422
│   ├── Unauthorized          401, and 407 from a proxy
│   ├── InsufficientCredits   402
│   ├── Forbidden             403: not in the account's plan
│   ├── NotFound              404
│   ├── RateLimited           429
│   └── Unavailable           5xx, a redirect, no connection, no answer, an answer that cannot be read
├── SubmissionUncertain       the paid call was sent, its outcome is not known
├── JobEnded                  the job ended and made nothing
│   ├── JobFailed             status ``error``; the vendor refunds it
│   ├── JobCanceled           stopped in the vendor's web app; the vendor refunds it
│   └── JobDeleted            deleted, or not known to this account
├── JobMismatch               the recorded job is not the one that this task now asks for
├── JournalUnavailable        the task's record of what it paid for cannot be read or written
├── WaitTimeout               not finished by the deadline; it may still finish
└── TransferFailed            a file was not transferred
    ├── UploadFailed
    ├── DownloadFailed
    └── StorageFailed         the object store or file system at our end
```

Every instance carries ``status_code`` (HTTP, or None), ``job_id`` (or None), ``retryable`` (can the same call
work later?), ``charged`` (was money spent?) and ``credits`` (how many, or how many are at stake; or None).

.. versionadded:: 0.1.0
"""

from __future__ import annotations

import copy
import re
from typing import Any, Literal, Self

Charged = Literal["no", "refunded", "yes", "unknown"]


class MagicHourError(Exception):
    """Root of everything this package raises on purpose."""

    retryable: bool = False
    charged: Charged = "no"

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        job_id: str | None = None,
        retryable: bool | None = None,
        charged: Charged | None = None,
        credits: float | None = None,  # noqa: A002 (the vendor's word)
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.job_id = job_id
        self.credits = credits
        if retryable is not None:
            self.retryable = retryable
        if charged is not None:
            self.charged = charged

    def copied(self, message: str | None = None, **changes: Any) -> Self:
        """The same error with other words; every attribute that is not in ``changes`` is kept."""
        other = copy.copy(self)
        if message is not None:
            other.args = (message,)
        vars(other).update(changes)
        return other


class InvalidInput(MagicHourError, ValueError):
    """A value cannot work. The message names the field, the value and the remedy; nothing was sent."""

    @classmethod
    def of(cls, field: str, value: object, remedy: str) -> Self:
        return cls(f"{field}={shortened(value)}: {remedy}")


class InvalidConnection(InvalidInput):
    """The Airflow connection cannot be used as it is."""


class TargetExists(InvalidInput):
    """There is a file at ``output_path`` already, and ``replace`` is False."""


class CreditLimitExceeded(MagicHourError):
    """The estimate is above ``max_credits``; nothing was uploaded or submitted."""


class RequestFailed(MagicHourError):
    """
    The API was asked, and did not do it.

    :param retry_after: seconds after which the API may be asked again, if it said so.
    :param by_vendor: the answer is the vendor's JSON, not that of something between us and the vendor.
    :param by_page: the answer is an HTML page: a proxy's, a gateway's, or a web site's at a wrong address.
    :param on_vendors_word: only the vendor's JSON says that no job was made, and a gateway can write it too.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        by_vendor: bool = False,
        by_page: bool = False,
        on_vendors_word: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.retry_after = retry_after
        self.by_vendor = by_vendor
        self.by_page = by_page
        self.on_vendors_word = on_vendors_word


class InvalidRequest(RequestFailed):
    """HTTP 400, 405, 413, 415 or 422: the request cannot work; nothing charged."""


class Unauthorized(RequestFailed):
    """HTTP 401: the key is not accepted; nothing charged."""


class InsufficientCredits(RequestFailed):
    """HTTP 402: the account has not enough credits; nothing charged."""


class Forbidden(RequestFailed):
    """HTTP 403: the account's plan does not include this; nothing charged."""


class NotFound(RequestFailed):
    """HTTP 404: no such job, or no such route at this host; nothing charged."""


class RateLimited(RequestFailed):
    """HTTP 429: too many requests; nothing charged."""

    retryable = True


class Unavailable(RequestFailed):
    """
    The API could not be asked, or its answer could not be read; nothing charged.

    :param sent: False when it is proved that no byte of the request left this machine.
    """

    retryable = True

    def __init__(self, message: str, *, sent: bool = True, **common: Any) -> None:
        super().__init__(message, **common)
        self.sent = sent


class SubmissionUncertain(MagicHourError):
    """The paid call was sent and its outcome is not known. It is never sent again without a person."""

    charged = "unknown"


class JobEnded(MagicHourError):
    """The job ended and made nothing. ``code`` is the vendor's, such as ``no_source_face``, or None."""

    def __init__(self, message: str, *, code: str | None = None, **common: Any) -> None:
        super().__init__(message, **common)
        self.code = code


class JobFailed(JobEnded):
    """Status ``error``: retryable unless its code is known to be permanent."""

    charged = "refunded"


class JobCanceled(JobEnded):
    """Status ``canceled``: stopped by a person in the vendor's web app; the vendor refunds it."""

    charged = "refunded"


class JobDeleted(JobEnded):
    """The job was deleted, or this account does not know it."""

    charged = "yes"


class JobMismatch(MagicHourError):
    """This task instance has paid for another input, or on another host, than its arguments have now."""

    charged = "yes"


class JournalUnavailable(MagicHourError):
    """The record of what this task instance has paid for cannot be read, or cannot be written."""

    retryable = True


class WaitTimeout(MagicHourError):
    """The job had not ended by the deadline. It continues at the vendor, and a later try can pick it up."""

    retryable = True
    charged = "yes"


class TransferFailed(MagicHourError):
    """A file was not transferred; another try of the transfer costs nothing."""

    retryable = True


class UploadFailed(TransferFailed):
    """An input did not reach Magic Hour's storage; nothing was submitted, nothing charged."""


class DownloadFailed(TransferFailed):
    """The file of a job did not arrive whole. It is paid for and stays at the vendor."""

    charged = "yes"


class StorageFailed(TransferFailed):
    """The object store or file system at our end did not do what was asked."""


LONGEST_VALUE = 200  # characters of a value in a message


# Begins at the colon, so that a long text is read once. Groups: slashes (pathlib drops one), user, host and
# path, query. A password may have a slash in it, as AWS makes them. What follows a port is no password.
_ADDRESS = re.compile(
    r":(/+)([^\s/?#\"'<>]*@|[^\s/@:\"'<>]*:(?!\d*[/?#])[^\s@\"'<>]*@)?([^\s?#\"'<>]*)([?#][^\s\"'<>]+)?"
)
_SIGNATURE = re.compile(
    r"([?&;](?:[\w-]*(?:signature|credential|token|secret|password|access[\w-]*key|api[_-]?key)|sig|sas)=)[^&]*",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Text without the users, passwords and signatures that people write into addresses."""
    return _ADDRESS.sub(_masked_address, text)


def _masked_address(found: re.Match[str]) -> str:
    slashes, user, rest, query = found.groups("")
    is_http = found.string[max(0, found.start() - 5) : found.start()].lower().endswith(("http", "https"))
    if is_http or ":" in user:  # s3://connection@bucket has no secret
        user = user and "***@"
    names_an_asset = rest.rstrip("/").endswith("/my-library")
    query = query and "?…" if is_http and not names_an_asset else _SIGNATURE.sub(r"\1***", query)
    return f":{slashes}{user}{rest}{query}"


def shortened(value: object) -> str:
    """A value for a message, masked. Long ones are cut, such as a photo in a ``data:`` URI."""
    text = masked(repr(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text)} characters)"
