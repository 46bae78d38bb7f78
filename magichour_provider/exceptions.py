"""
The errors of this package, named by their cause.

```text
MagicHourError
├── InvalidInput              a value cannot be used; found before anything was sent
│   ├── InvalidConnection     the Airflow connection: no key, a host without a scheme, …
│   └── TargetExists          a file exists at ``output_path``
├── CreditLimitExceeded       the estimate is above ``max_credits``
├── RequestFailed             a call of the API failed
│   ├── InvalidRequest        400, 405, 413, 415, 422
│   ├── Unauthorized          401, and 407 from a proxy
│   ├── InsufficientCredits   402
│   ├── Forbidden             403: not in the account's plan
│   ├── NotFound              404
│   ├── RateLimited           429
│   └── Unavailable           5xx, a redirect, no connection, no answer, an answer that cannot be read
├── SubmissionUncertain       the paid call was sent, and its outcome is not known
├── JobEnded                  the job ended without a result
│   ├── JobFailed             status ``error``; the vendor refunds it
│   ├── JobCanceled           stopped in the vendor's web app; the vendor refunds it
│   └── JobDeleted            deleted, or not known to this account
├── JobMismatch               the recorded job differs from the job that this task now asks for
├── JournalUnavailable        the journal of a task cannot be read or written
├── WaitTimeout               the job had not ended by the deadline; it continues
└── TransferFailed            a file was not transferred
    ├── UploadFailed
    ├── DownloadFailed
    └── StorageFailed         the object store or file system of the worker
```

Every instance has ``status_code`` (of HTTP, or None), ``job_id`` (or None), ``retryable`` (can the same call
succeed later?), ``charged`` (was money spent?) and ``credits`` (the number that was charged, or is possibly
charged; or None).

.. versionadded:: 0.1.0
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, Self

from magichour_provider.text import shortened

Charged = Literal["no", "refunded", "yes", "unknown"]


class MagicHourError(Exception):
    """The base class of all errors of this package."""

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
        """A copy of the error with another message. Attributes that are not in ``changes`` are the same."""
        other = copy.copy(self)
        if message is not None:
            other.args = (message,)
        vars(other).update(changes)
        return other


class InvalidInput(MagicHourError, ValueError):
    """A value cannot be used. The message names the field, the value and the remedy; nothing was sent."""

    @classmethod
    def of(cls, field: str, value: object, problem: str) -> Self:
        """
        :param problem: what is wrong with the value, and the remedy.
        """
        return cls(f"{field}={shortened(value)}: {problem}")


class InvalidConnection(InvalidInput):
    """The Airflow connection cannot be used."""


class TargetExists(InvalidInput):
    """A file exists at ``output_path``, and ``replace`` is False."""


class CreditLimitExceeded(MagicHourError):
    """The estimate is above ``max_credits``. Nothing was uploaded or submitted."""


class RequestFailed(MagicHourError):
    """
    A call of the API failed.

    :param retry_after: the seconds after which a repeated call is allowed, if the answer has them.
    :param by_vendor: the answer is the vendor's JSON, not the answer of a proxy or gateway.
    :param by_page: the answer is an HTML page of a proxy, of a gateway, or of a website at a wrong address.
    :param no_job_unproven: the only evidence that no job was made is a 502 or 503 with the vendor's JSON,
        which a gateway can also send.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        by_vendor: bool = False,
        by_page: bool = False,
        no_job_unproven: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.retry_after = retry_after
        self.by_vendor = by_vendor
        self.by_page = by_page
        self.no_job_unproven = no_job_unproven


class InvalidRequest(RequestFailed):
    """HTTP 400, 405, 413, 415 or 422: the API does not accept the request; nothing was charged."""


class Unauthorized(RequestFailed):
    """HTTP 401: the API does not accept the key; or 407, from a proxy; nothing was charged."""


class InsufficientCredits(RequestFailed):
    """HTTP 402: the account has not enough credits; nothing was charged."""


class Forbidden(RequestFailed):
    """HTTP 403: the account's plan does not include this; nothing was charged."""


class NotFound(RequestFailed):
    """HTTP 404: there is no such job, or no such route at this host; nothing was charged."""


class RateLimited(RequestFailed):
    """HTTP 429: too many requests; nothing was charged."""

    retryable = True


class Unavailable(RequestFailed):
    """
    The API could not be reached, or its answer could not be read; nothing was charged.

    :param sent: False if it is proved that no byte of the request left this machine.
    """

    retryable = True

    def __init__(self, message: str, *, sent: bool = True, **common: Any) -> None:
        super().__init__(message, **common)
        self.sent = sent


class SubmissionUncertain(MagicHourError):
    """The paid call was sent, and its outcome is not known. Only a person can decide to send it again."""

    charged = "unknown"


class JobEnded(MagicHourError):
    """The job ended without a result. ``code`` is the vendor's, such as ``no_source_face``, or None."""

    status: ClassVar[Literal["error", "canceled", "deleted"]] = "error"

    def __init__(self, message: str, *, code: str | None = None, **common: Any) -> None:
        super().__init__(message, **common)
        self.code = code


class JobFailed(JobEnded):
    """Status ``error``: retryable, unless its code is known to be permanent; the vendor refunds it."""

    charged = "refunded"


class JobCanceled(JobEnded):
    """Status ``canceled``: a person stopped the job in the vendor's web app; the vendor refunds it."""

    status = "canceled"
    charged = "refunded"


class JobDeleted(JobEnded):
    """The job was deleted, or this account does not know it."""

    status = "deleted"
    charged = "yes"


class JobMismatch(MagicHourError):
    """This task instance has paid for a job whose inputs or host differ from its arguments now."""

    charged = "yes"


class JournalUnavailable(MagicHourError):
    """The journal of what this task instance has paid for cannot be read, or cannot be written."""

    retryable = True


class WaitTimeout(MagicHourError):
    """The job had not ended by the deadline. It continues at Magic Hour, and a later try can wait for it."""

    retryable = True
    charged = "yes"


class TransferFailed(MagicHourError):
    """A file was not transferred. Another transfer costs nothing."""

    retryable = True


class UploadFailed(TransferFailed):
    """An input was not uploaded to Magic Hour's storage; nothing was submitted or charged."""


class DownloadFailed(TransferFailed):
    """The file of a job did not arrive completely. It is paid for, and stays at Magic Hour."""

    charged = "yes"


class StorageFailed(TransferFailed):
    """The object store or file system of the worker failed."""
