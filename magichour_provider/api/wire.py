"""
Magic Hour's JSON, and nothing else's: the one room that knows paths, field names, statuses and error bodies.

A ``Call`` says what to send and how to read the answer; ``client`` does the sending. The vendor's
"project" is a *job* from here on. Answers are read leniently: unknown fields and statuses are no error, and
fields that the vendor has deprecated are never needed.

Source: the vendor's OpenAPI of 2026-08 and its Python SDK 0.90.0 of 2026-10.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, WrapValidator

from magichour_provider import exceptions as errors
from magichour_provider.api.inputs import MediaType, TalkingPhotoInputs, VoiceInputs

T = TypeVar("T")

JobType = Literal["video", "audio"]  # what a job makes; each kind has routes of its own

BASE_URL = "https://api.magichour.ai"
LIBRARY_URL = "https://magichour.ai/my-library"

# Job errors that the same input would meet again. The vendor's list is open: what is not here may be tried
# again (the vendor refunds a job that ends in error).
PERMANENT_JOB_ERRORS = frozenset(
    {
        "no_source_face",
        "invalid_file_format",
        "file_too_large",
        "insufficient_credits",
        "invalid_parameters",
        "invalid_video_file",
        "content_policy_violation",
    }
)


def _or_none(value: object, read: Callable[[object], object]) -> object:
    try:
        return read(value)
    except ValueError:
        return None


# What an answer is not needed for may be missing, null, or of a type that nobody expects.
Lenient = Annotated[T | None, WrapValidator(_or_none)]
Number = Annotated[int | float, Field(allow_inf_nan=False)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Submission(_Answer):
    """An accepted, paid job: ``job_id``; ``credits_charged`` is an estimate until the job is complete."""

    job_id: str = Field(alias="id", pattern=r"[^\s.]")  # " " or ".." could not be asked for
    credits_charged: Lenient[Number] = None


class Download(_Answer):
    """``url``: signed; whoever has it can read what a job made until ``expires_at`` (ISO 8601)."""

    url: str = Field(repr=False, min_length=1)
    expires_at: Lenient[str] = None


class JobError(_Answer):
    """Why the vendor gave up: ``code``, such as ``no_source_face`` (the list is open), and ``message``."""

    code: Lenient[str] = None
    message: Lenient[str] = None


class Job(_Answer):
    """
    A job as the vendor sees it now. What the vendor does not say is None.

    :ivar job_id: the vendor's id of it.
    :ivar status: ``queued``, ``rendering``, ``complete``, ``error`` or ``canceled``; the list is open.
    :ivar name: of the job in the vendor's library.
    :ivar created_at: when it was submitted (ISO 8601).
    :ivar enabled: False when what it made was deleted.
    :ivar start_seconds: where the clip of a video starts in the audio.
    :ivar end_seconds: where it ends.
    :ivar width: of a video, in pixels; -1 is the vendor's "not known".
    :ivar height: likewise.
    :ivar fps: of a video, frames a second.
    :ivar credits_charged: final once it is complete, an estimate before.
    :ivar error: a ``JobError``, if it failed.
    :ivar downloads: a list of ``Download``, once it is complete.
    """

    job_id: str = Field(alias="id", min_length=1)
    status: str
    name: Lenient[str] = None
    created_at: Lenient[str] = None
    enabled: Lenient[bool] = None
    start_seconds: Lenient[Number] = None
    end_seconds: Lenient[Number] = None
    width: Lenient[int] = None
    height: Lenient[int] = None
    fps: Lenient[Number] = None
    credits_charged: Lenient[Number] = None
    error: Lenient[JobError] = None
    downloads: Lenient[list[Download]] = Field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        """Will it never change again? A status that is not known counts as going on."""
        return self.status in ("complete", "error", "canceled") or self.enabled is False

    @property
    def awaits_download(self) -> bool:
        """Complete, but where its file is has not been said yet."""
        return self.status == "complete" and self.enabled is not False and not self.downloads

    @property
    def clip_seconds(self) -> float | None:
        """How long the clip is."""
        if self.start_seconds is None or self.end_seconds is None:
            return None
        return round(self.end_seconds - self.start_seconds, 3)

    @property
    def download(self) -> Download | None:
        """The first of the downloads."""
        return self.downloads[0] if self.downloads else None

    def raise_unless_complete(self) -> None:
        """
        An error that says why the job made nothing, if it is so.

        :raises JobFailed: status ``error``; refunded; retryable unless the code is known to be permanent.
        :raises JobCanceled: stopped in the vendor's web app; refunded.
        :raises JobDeleted: what it made was deleted; what was charged stays charged.
        """
        if self.enabled is False:
            raise errors.JobDeleted(
                f"job {self.job_id} was deleted, in the vendor's web app or through its API: "
                "what it made cannot be had any more",
                job_id=self.job_id,
            )
        if self.status == "canceled":
            raise errors.JobCanceled(
                f"job {self.job_id} was canceled: somebody stopped it in the vendor's web app "
                "(the API has no cancel); the vendor refunds it",
                job_id=self.job_id,
            )
        if self.status == "error":
            reason = self.error or JobError()
            code = reason.code or "unknown_error"
            permanent = code in PERMANENT_JOB_ERRORS
            failed = errors.JobFailed(
                f"job {self.job_id} failed with {code}: {reason.message or 'no reason given'}; "
                "the vendor refunds it"
                + ("; mend the input, the same one would fail again" if permanent else ""),
                job_id=self.job_id,
                retryable=not permanent,
            )
            failed.code = code
            raise failed


class UploadSlot(_Answer):
    """Where to put one file, and the path by which the API then knows it."""

    upload_url: str = Field(repr=False)
    file_path: str
    expires_at: Lenient[str] = None


class _UploadSlots(_Answer):
    items: list[UploadSlot]


class Account(_Answer):
    """
    The account that a key belongs to. What the vendor does not say is None.

    :ivar account_id: the vendor's id of it.
    :ivar credits: left.
    :ivar tier: of its plan: ``free``, ``creator``, ``pro`` or ``business``.
    :ivar email: of its owner.
    """

    account_id: str = Field(alias="id")
    credits: Lenient[Number] = None
    tier: Lenient[str] = None
    email: Lenient[str] = Field(default=None, repr=False)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its answer. ``pays`` means: after a byte was sent, never send it again."""

    name: str
    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    pays: bool = False
    job_id: str | None = None

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """
        The answer as ours, or the error that it stands for.

        :raises RequestFailed: the subclass says why; nothing was charged.
        :raises SubmissionUncertain: only when ``pays``: a job may have been made.
        """
        if not 200 <= status < 300:
            self._refused(status, headers, body)
        try:
            return self.read(body.removeprefix(codecs.BOM_UTF8))
        except ValueError as error:
            what = f"HTTP {status} with {_describe(body)}"
            self.no_answer(what, status=status, page=_is_page(body), cause=error)

    def no_answer(
        self,
        what: str,
        *,
        sent: bool = True,
        status: int | None = None,
        page: bool = False,
        retry_after: float | None = None,
        cause: Exception | None = None,
    ) -> NoReturn:
        """The request went out and nothing that can be read came back (or it never went out)."""
        if self.pays and sent:
            raise errors.SubmissionUncertain(
                f"the paid call {self.method} {self.path} was sent, but its outcome is not known: {what}. "
                "A job may have been made and charged",
                status_code=status,
            ) from cause
        failed = errors.Unavailable(
            f"{self.method} {self.path}: {what}", status_code=status, job_id=self.job_id
        )
        failed.sent = sent
        failed.by_page = page
        failed.retry_after = retry_after
        raise failed from cause

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> NoReturn:
        message = _message(body)
        said = f"HTTP {status}, {message or _describe(body)}"
        error_cls = _REFUSALS.get(status, errors.Unavailable)
        # 502 and 503 mean "no job was made" by the vendor's word, which is only a gateway's guess unless
        # the body is the vendor's own. 404 and the like stand for themselves whoever says them.
        if error_cls is errors.Unavailable and not (status in (502, 503) and message is not None):
            self.no_answer(said, status=status, page=_is_page(body), retry_after=_retry_after(headers))
        failed = error_cls(
            f"{self.method} {self.path}: {said}" + _ADVICE.get(status, ""),
            status_code=status,
            job_id=self.job_id,
        )
        failed.retry_after = _retry_after(headers)
        failed.by_vendor = message is not None
        failed.by_page = _is_page(body)
        raise failed


_REFUSALS: dict[int, type[errors.RequestFailed]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    402: errors.InsufficientCredits,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.InvalidRequest,
    413: errors.InvalidRequest,
    415: errors.InvalidRequest,
    422: errors.InvalidRequest,
    429: errors.RateLimited,
}
_ADVICE = {
    401: "; check the API key in the connection's password",
    402: "; buy credits, or wait for the plan's next ones",
    403: "; the account's plan does not include this",
    404: "; check the job id, the account that the key belongs to, and the connection's host",
}


def create_talking_photo(
    inputs: TalkingPhotoInputs, *, image: str, audio: str, name: str
) -> Call[Submission]:
    """``POST /v1/ai-talking-photo``: spends credits. What was not given is left out: null is a 422."""
    style = {
        "generation_mode": inputs.generation_mode,
        "intensity": inputs.intensity,
        "prompt": inputs.prompt,
    }
    body = {
        "name": name,
        "assets": {"image_file_path": image, "audio_file_path": audio},
        "start_seconds": inputs.start,
        "end_seconds": inputs.end_seconds,
        "style": _given(style) or None,
        "resolution": inputs.resolution,
        "max_resolution": inputs.max_resolution,
    }
    return Call(
        "submit",
        "POST",
        "/v1/ai-talking-photo",
        Submission.model_validate_json,
        body=json.dumps(_given(body)).encode(),
        pays=True,
    )


def create_voice(inputs: VoiceInputs, *, name: str) -> Call[Submission]:
    """``POST /v1/ai-voice-generator``: spends credits."""
    body = {"name": name, "style": {"prompt": inputs.prompt, "voice_name": inputs.voice_name}}
    return Call(
        "submit",
        "POST",
        "/v1/ai-voice-generator",
        Submission.model_validate_json,
        body=json.dumps(body).encode(),
        pays=True,
    )


def get_job(job_id: str, job_type: JobType = "video") -> Call[Job]:
    """``GET /v1/{video,audio}-projects/{id}``: free."""
    return Call("get", "GET", _project(job_id, job_type), Job.model_validate_json, job_id=job_id)


def delete_job(job_id: str, job_type: JobType = "video") -> Call[None]:
    """``DELETE /v1/{video,audio}-projects/{id}``: irreversible; not a cancel, and no refund."""
    return Call("delete", "DELETE", _project(job_id, job_type), lambda _: None, job_id=job_id)


def create_upload_slots(files: Sequence[tuple[MediaType, str]]) -> Call[list[UploadSlot]]:
    """``POST /v1/files/upload-urls``: free; ``files`` are (media type, extension); answers in their order."""

    def read(body: bytes) -> list[UploadSlot]:
        slots = _UploadSlots.model_validate_json(body).items
        if len(slots) != len(files):
            raise ValueError(f"{len(slots)} upload URLs for {len(files)} files")
        return slots

    items = [{"type": media_type, "extension": extension} for media_type, extension in files]
    return Call(
        "upload_urls", "POST", "/v1/files/upload-urls", read, body=json.dumps({"items": items}).encode()
    )


def get_account() -> Call[Account]:
    """``GET /v1/account``: free."""
    return Call("account", "GET", "/v1/account", Account.model_validate_json)


def library_url(job_id: str, job_type: JobType = "video") -> str:
    """
    The job in the vendor's web app, for a person who is logged in there; and, for the API, what it made.

    It holds no signature and does not expire, but works for this account alone.
    """
    return f"{LIBRARY_URL}?{job_type}Id={_segment(job_id)}"


def _project(job_id: str, job_type: JobType) -> str:
    return f"/v1/{job_type}-projects/{_segment(job_id)}"


def _segment(job_id: str) -> str:
    if not isinstance(job_id, str) or not job_id.strip():
        raise errors.InvalidInput.of(
            "job_id", job_id, "is empty; if it is a template, it rendered to nothing"
        )
    if job_id.strip() in (".", ".."):
        raise errors.InvalidInput.of("job_id", job_id, "is no job id")
    return quote(job_id.strip(), safe="")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in values.items() if value is not None}


def _message(body: bytes) -> str | None:
    """The vendor's ``message``, if the body is the vendor's at all."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return message[:500] if isinstance(message, str) else None


def _describe(body: bytes) -> str:
    """A body that is not the vendor's JSON, in words: its content may hold anything, so it is not shown."""
    if not body.strip():
        return "an empty body"
    if _is_page(body):
        return "an HTML page, so it came from something between us and Magic Hour"
    return f"a body of {len(body)} bytes that is not what the API promises"


def _is_page(body: bytes) -> bool:
    start = body.removeprefix(codecs.BOM_UTF8)[:200].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds, from either of its forms."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value)) if math.isfinite(float(value)) else None
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
