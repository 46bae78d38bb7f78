"""
The vendor's answers: what they hold, read leniently.

The vendor's "project" is called a *job* here. Unknown fields and statuses are no error, and fields that the
vendor has deprecated are never needed. An optional value that cannot be read counts as missing.

Source: the vendor's OpenAPI of 2026-08 and its Python SDK 0.90.0 of 2026-10.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)

from magichour_provider import exceptions as errors
from magichour_provider.text import UNPRINTABLE, clean

T = TypeVar("T")

# Job errors that the same input would meet again. The vendor's list is open: a code that is not here may be
# tried again (the vendor refunds a job that ends in error).
PERMANENT_JOB_ERRORS = frozenset(
    {
        "no_source_face",
        "invalid_file_format",
        "file_too_large",
        "insufficient_credits",
        "invalid_parameters",
        "invalid_video_file",
        "invalid_voice",
        "content_policy_violation",
        "text_too_long",
    }
)

# What reading somebody else's value can raise: pydantic and the standard library let OverflowError through.
UNREADABLE = (ValueError, TypeError, ArithmeticError, RecursionError)


def _or_none(value: object, read: Callable[[object], object]) -> object:
    try:
        return read(value)
    except UNREADABLE:
        return None


def id_text(value: object) -> object:
    """An id is text, also when the vendor sends a number. White space around it is not part of it."""
    if isinstance(value, str) and UNPRINTABLE.search(value.strip()):
        raise ValueError("a control character in an id")
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if is_id else value


# An optional field of an answer. If it is missing, null or of an unexpected type, it becomes None.
Lenient = Annotated[T | None, WrapValidator(_or_none)]
Number = Annotated[
    int | float,
    BeforeValidator(lambda value: None if isinstance(value, bool) else value),
    Field(allow_inf_nan=False, gt=-1e12, lt=1e12),  # safe in arithmetic
]
Pixels = Annotated[int, Field(ge=-1, lt=1_000_000)]
# An id of dots only, such as "..", cannot be used in a URL path.
JobId = Annotated[str, BeforeValidator(id_text), Field(pattern=r"[^\s.]", max_length=1000)]
Words = Annotated[str, BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Submission(_Answer):
    """
    An accepted, paid job.

    .. versionadded:: 0.1.0

    :ivar job_id: the vendor's id of the job.
    :ivar credits_charged: an estimate until the job is complete.
    :ivar poll_interval: seconds; the answer's ``Retry-After``, which the emulator sends.
    """

    job_id: JobId = Field(alias="id")
    credits_charged: Lenient[Number] = None
    poll_interval: Lenient[Number] = None


class Download(_Answer):
    """
    ``url`` is signed: anybody who has it can read the file until ``expires_at`` (ISO 8601).

    .. versionadded:: 0.1.0
    """

    url: str = Field(repr=False, pattern=r"^https?://.")
    expires_at: Lenient[Words] = None


class JobError(_Answer):
    """
    Why the vendor gave up: ``code``, such as ``no_source_face`` (the list is open), and ``message``.

    .. versionadded:: 0.1.0
    """

    code: Lenient[Words] = None
    message: Lenient[Words] = None


class Job(_Answer):
    """
    A job as the vendor sees it now. What the vendor does not say is None.

    .. versionadded:: 0.1.0

    :ivar job_id: the vendor's id of the job.
    :ivar status: ``queued``, ``rendering``, ``complete``, ``error`` or ``canceled``; the list is open.
    :ivar name: the job's name in the vendor's library.
    :ivar created_at: when it was submitted (ISO 8601).
    :ivar enabled: False when its file was deleted.
    :ivar start_seconds: where the clip of a video starts in the audio.
    :ivar end_seconds: where the clip ends.
    :ivar width: the width of a video in pixels; -1 is the vendor's "not known".
    :ivar height: the height, in the same way.
    :ivar fps: the frames of a video in a second.
    :ivar credits_charged: final once it is complete, an estimate before.
    :ivar error: a ``JobError``, if it failed.
    :ivar downloads: a list of ``Download``, once it is complete; entries that cannot be read are left out.
    """

    job_id: JobId = Field(alias="id")
    status: Words
    name: Lenient[Words] = None
    created_at: Lenient[Words] = None
    enabled: Lenient[bool] = None
    start_seconds: Lenient[Number] = None
    end_seconds: Lenient[Number] = None
    width: Lenient[Pixels] = None
    height: Lenient[Pixels] = None
    fps: Lenient[Number] = None
    credits_charged: Lenient[Number] = None
    error: Lenient[JobError] = None
    downloads: Annotated[tuple[Download, ...], Field(repr=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _readable_downloads(cls, answer: object) -> object:
        """Leave out entries that cannot be read. If none is left, use the older, single ``download``."""
        if not isinstance(answer, dict):
            return answer
        listed = answer.get("downloads")
        entries = listed if isinstance(listed, list) else []
        found = [_or_none(entry, Download.model_validate) for entry in entries]
        if not any(found):
            found = [_or_none(answer.get("download"), Download.model_validate)]
        return {**answer, "downloads": tuple(filter(None, found))}

    @property
    def ended(self) -> bool:
        """Will it never change again? A job with an unknown status has not ended."""
        return self.status in ("complete", "error", "canceled") or self.enabled is False

    @property
    def awaits_download(self) -> bool:
        """Complete, but the vendor has not said yet where its file is."""
        return self.status == "complete" and self.enabled is not False and not self.downloads

    @property
    def creation_time(self) -> float | None:
        """When the vendor created the job, in seconds since the epoch. None if time or zone is missing."""
        try:
            created = datetime.fromisoformat(self.created_at or "")
            return created.timestamp() if created.tzinfo else None
        except UNREADABLE:
            return None

    @property
    def clip_seconds(self) -> float | None:
        """The length of the clip."""
        if self.start_seconds is None or self.end_seconds is None:
            return None
        return round(self.end_seconds - self.start_seconds, 3)

    @property
    def download(self) -> Download | None:
        """The first of the downloads."""
        return self.downloads[0] if self.downloads else None

    def raise_unless_complete(self) -> None:
        """
        Raise an error that says why the job made nothing, if it made nothing.

        :raises JobFailed: status ``error``; refunded; retryable unless the code is known to be permanent.
        :raises JobCanceled: stopped in the vendor's web app; refunded.
        :raises JobDeleted: its file was deleted; the credits stay charged.
        """
        if self.status == "canceled":
            raise errors.JobCanceled(
                f"job {self.job_id} was canceled in the vendor's web app",
                job_id=self.job_id,
            )
        if self.status == "error":
            reason = self.error or JobError()
            code = reason.code or "unknown_error"
            permanent = code in PERMANENT_JOB_ERRORS
            raise errors.JobFailed(
                f"job {self.job_id} failed with {code}: {reason.message or 'no reason given'}"
                + ("; fix the input, the same one would fail again" if permanent else ""),
                job_id=self.job_id,
                retryable=not permanent,
                code=code,
            )
        if self.enabled is False:
            raise errors.JobDeleted(
                f"job {self.job_id} was deleted, in the vendor's web app or by its API; its file is gone",
                job_id=self.job_id,
                credits=self.credits_charged,
            )


class UploadSlot(_Answer):
    """The URL to which one file is uploaded, and the path that the API then has for it."""

    upload_url: str = Field(repr=False, pattern=r"^https?://.")
    file_path: str = Field(min_length=1)


class UploadSlots(_Answer):
    items: list[UploadSlot]


class Account(_Answer):
    """
    The account that a key belongs to. What the vendor does not say is None.

    .. versionadded:: 0.1.0

    :ivar account_id: the vendor's id of the account.
    :ivar credits: the credits that are left.
    :ivar tier: its plan: ``free``, ``creator``, ``pro`` or ``business``.
    :ivar email: the owner's address.
    """

    account_id: JobId = Field(validation_alias=AliasChoices("id", "account_id"))
    credits: Lenient[Number] = None
    tier: Lenient[Words] = None
    email: Lenient[str] = Field(default=None, repr=False)
