"""
What can go wrong, named by its cause.

MagicHourError
├── InvalidInput              a value of yours cannot work; found before anything was sent
│   ├── InvalidConnection     the Airflow connection: no key, a host without a scheme, …
│   └── TargetExists          a file is at ``output_path`` already
├── CreditLimitExceeded       the estimate is above ``max_credits``
├── RequestFailed             the API was asked and did not do it
│   ├── InvalidRequest        400, 405, 413, 415, 422
│   ├── Unauthorized          401
│   ├── InsufficientCredits   402
│   ├── Forbidden             403: not in the account's plan
│   ├── NotFound              404
│   ├── RateLimited           429
│   └── Unavailable           5xx, no connection, no answer, an answer that cannot be read
├── SubmissionUncertain       the paid call was sent, what became of it is not known
├── JobEnded                  the job will never have made anything
│   ├── JobFailed             status ``error``; the vendor refunds
│   ├── JobCanceled           stopped in the vendor's web app; the vendor refunds
│   └── JobDeleted            deleted, or not known to this account
├── JobMismatch               the journal's job is not the one that this task now asks for
├── JournalUnavailable        whether this task has paid already cannot be read or written
├── WaitTimeout               not finished by the deadline; it may still finish
└── TransferFailed            a file did not get through
    ├── UploadFailed
    ├── DownloadFailed
    └── StorageFailed         the object store at our end

Every instance says four things: ``status_code`` (HTTP, or None), ``job_id`` (or None), ``retryable``
(may the same call work later?) and ``charged``: was money spent? ``"no"``, ``"yes"`` or ``"unknown"``.
"""

from __future__ import annotations

from typing import Literal

Charged = Literal["no", "yes", "unknown"]


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
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.job_id = job_id
        if retryable is not None:
            self.retryable = retryable
        if charged is not None:
            self.charged = charged


class InvalidInput(MagicHourError, ValueError):
    """A value cannot work. The message names the field, the value and the remedy; nothing was sent."""

    @classmethod
    def of(cls, field: str, value: object, remedy: str) -> InvalidInput:
        return cls(f"{field}={value!r}: {remedy}")


class InvalidConnection(InvalidInput):
    """The Airflow connection cannot be used as it is."""


class TargetExists(InvalidInput):
    """There is a file at ``output_path`` already, and ``replace`` is False."""


class CreditLimitExceeded(MagicHourError):
    """The estimate is above ``max_credits``; nothing was uploaded or submitted."""


class RequestFailed(MagicHourError):
    """The API was asked, and did not do it. ``retry_after`` in seconds, when it said when to ask again."""

    retry_after: float | None = None
    by_vendor: bool = False  # the vendor's own words, rather than something's between us and it
    by_page: bool = False  # an HTML page: a proxy's, a gateway's, or a web site's at a wrong address


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

    ``sent`` is False when no byte of the request left this machine.
    """

    retryable = True
    sent: bool = True


class SubmissionUncertain(MagicHourError):
    """The paid call was sent and its outcome is not known. It is never sent again by itself."""

    charged = "unknown"


class JobEnded(MagicHourError):
    """The job has ended, and has made nothing."""

    code: str | None = None


class JobFailed(JobEnded):
    """Status ``error``: ``code`` is the vendor's; retryable when it is not known to be permanent."""


class JobCanceled(JobEnded):
    """Status ``canceled``: stopped by a person in the vendor's web app; the vendor refunds."""


class JobDeleted(JobEnded):
    """The job was deleted, or this account does not know it."""

    charged = "yes"


class JobMismatch(MagicHourError):
    """This task instance has paid for another input, or on another host, than it now asks for."""

    charged = "yes"


class JournalUnavailable(MagicHourError):
    """Whether this task instance has paid already cannot be read, or cannot be written down."""

    retryable = True


class WaitTimeout(MagicHourError):
    """The job had not ended by the deadline. It goes on at the vendor's and can be picked up later."""

    retryable = True
    charged = "yes"


class TransferFailed(MagicHourError):
    """A file did not get through; trying again costs nothing."""

    retryable = True


class UploadFailed(TransferFailed):
    """An input did not reach Magic Hour's storage; nothing was submitted, nothing charged."""


class DownloadFailed(TransferFailed):
    """What a job made did not arrive whole. It is paid for and stays at the vendor's."""

    charged = "yes"


class StorageFailed(TransferFailed):
    """The object store or file system at our end did not do what was asked."""
