"""
Magic Hour's JSON: paths, field names, statuses and error bodies. No other module knows them.

A ``Call`` says what to send and how to read the answer; ``client`` sends it. The vendor's "project" is called
a *job* here. Answers are read leniently: unknown fields and statuses are no error, and fields that the vendor
deprecated are never needed.

Source: the vendor's OpenAPI of 2026-08 and its Python SDK 0.90.0 of 2026-10.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Generic, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

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
from magichour_provider.api.inputs import MediaType, TalkingPhotoInputs, VoiceInputs
from magichour_provider.api.jobs import JobType, job_spec

T = TypeVar("T")
Redact = Callable[[str], str]

BASE_URL = "https://api.magichour.ai"
LIBRARY_URL = "https://magichour.ai/my-library"
# Bounds for the Retry-After of an accepted job, in seconds.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 1.0, 60.0
LONGEST_TEXT = 500  # characters of the vendor's words in a message

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

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+"
)
_URL_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]+")


def clean(text: str) -> str:
    """Somebody else's words for a log: one line without control characters and URL queries, not too long."""
    text = _UNPRINTABLE.sub(" ", _ESCAPE_SEQUENCE.sub("", text[: 4 * LONGEST_TEXT])).strip()
    text = _URL_QUERY.sub(r"\1?…", text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _or_none(value: object, read: Callable[[object], object]) -> object:
    try:
        return read(value)
    except ValueError:
        return None


def _text(value: object) -> object:
    """An id is text, also when the vendor sends a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# An optional field of an answer: missing, null or of an unexpected type, it becomes None.
Lenient = Annotated[T | None, WrapValidator(_or_none)]
Number = Annotated[int | float, Field(allow_inf_nan=False)]
JobId = Annotated[str, BeforeValidator(_text), Field(pattern=r"[^\s.]", max_length=1000)]  # ".." has no route
Words = Annotated[str, BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Submission(_Answer):
    """
    An accepted, paid job.

    .. versionadded:: 0.1.0

    :ivar job_id: the vendor's id of it.
    :ivar credits_charged: an estimate until the job is complete.
    :ivar poll_interval: seconds; the answer's ``Retry-After``, which the emulator sends.
    """

    job_id: JobId = Field(alias="id")
    credits_charged: Lenient[Number] = None
    poll_interval: Lenient[Number] = None


class Download(_Answer):
    """
    ``url``: signed; anybody who has it can read the file until ``expires_at`` (ISO 8601).

    .. versionadded:: 0.1.0
    """

    url: str = Field(repr=False, pattern=r"^https?://.")
    expires_at: Lenient[str] = None


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

    :ivar job_id: the vendor's id of it.
    :ivar status: ``queued``, ``rendering``, ``complete``, ``error`` or ``canceled``; the list is open.
    :ivar name: of the job in the vendor's library.
    :ivar created_at: when it was submitted (ISO 8601).
    :ivar enabled: False when its file was deleted.
    :ivar start_seconds: where the clip of a video starts in the audio.
    :ivar end_seconds: where it ends.
    :ivar width: of a video, in pixels; -1 is the vendor's "not known".
    :ivar height: likewise.
    :ivar fps: of a video, frames a second.
    :ivar credits_charged: final once it is complete, an estimate before.
    :ivar error: a ``JobError``, if it failed.
    :ivar downloads: a list of ``Download``, once it is complete; entries that cannot be read are left out.
    """

    job_id: JobId = Field(alias="id")
    status: Words
    name: Lenient[Words] = None
    created_at: Lenient[str] = None
    enabled: Lenient[bool] = None
    start_seconds: Lenient[Number] = None
    end_seconds: Lenient[Number] = None
    width: Lenient[int] = None
    height: Lenient[int] = None
    fps: Lenient[Number] = None
    credits_charged: Lenient[Number] = None
    error: Lenient[JobError] = None
    downloads: Annotated[tuple[Download, ...], Field(repr=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _readable_downloads(cls, answer: object) -> object:
        """Entries that cannot be read are left out. The older, single ``download`` serves if none is left."""
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
        """Will it never change again? A status that is not known counts as going on."""
        return self.status in ("complete", "error", "canceled") or self.enabled is False

    @property
    def awaits_download(self) -> bool:
        """Complete, but the vendor has not said yet where its file is."""
        return self.status == "complete" and self.enabled is not False and not self.downloads

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
        if self.enabled is False:
            raise errors.JobDeleted(
                f"job {self.job_id} was deleted, in the vendor's web app or by its API; its file is gone",
                job_id=self.job_id,
                credits=self.credits_charged,
            )
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


class UploadSlot(_Answer):
    """Where to put one file, and the path by which the API then knows it."""

    upload_url: str = Field(repr=False, pattern=r"^https?://.")
    file_path: str = Field(min_length=1)
    expires_at: Lenient[str] = None


class _UploadSlots(_Answer):
    items: list[UploadSlot]


class Account(_Answer):
    """
    The account that a key belongs to. What the vendor does not say is None.

    .. versionadded:: 0.1.0

    :ivar account_id: the vendor's id of it.
    :ivar credits: left.
    :ivar tier: of its plan: ``free``, ``creator``, ``pro`` or ``business``.
    :ivar email: of its owner.
    """

    account_id: JobId = Field(validation_alias=AliasChoices("id", "account_id"))
    credits: Lenient[Number] = None
    tier: Lenient[Words] = None
    email: Lenient[str] = Field(default=None, repr=False)


@dataclass(frozen=True)
class Call(Generic[T]):
    """
    One request and how to read its answer.

    :param read: the JSON, decoded and redacted, as ours.
    :param pays: after a byte was sent, never send it again.
    :param job_id: of the job that it asks about; an answer about another job is a failed call.
    :param strict: a 502 or 503 in the vendor's JSON does not say that no job was made.
    """

    name: str
    method: str
    path: str
    read: Callable[[Any], T]
    body: bytes | None = None
    pays: bool = False
    job_id: str | None = None
    strict: bool = False

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, redact: Redact = str) -> T:
        """
        The answer as ours, or the error that it stands for.

        :param redact: takes secrets out of a text; used after the JSON's escapes are decoded.
        :raises RequestFailed: the subclass says why; nothing was charged.
        :raises SubmissionUncertain: only when ``pays``: a job may have been made.
        """
        content = _decoded(body, redact)
        if not 200 <= status < 300:
            self._refused(status, headers, body, content, redact)
        try:
            answer = self.read(content)
        except ValueError as error:
            what = f"HTTP {status} with {_describe(body)}{_hint_of_id(content)}"
            self.no_answer(what, status=status, page=_is_page(body), cause=error)
        if isinstance(answer, Submission):
            wait = _retry_after(headers)
            poll_interval = min(max(wait, MIN_POLL_INTERVAL), MAX_POLL_INTERVAL) if wait else None
            return answer.model_copy(update={"poll_interval": poll_interval})
        if isinstance(answer, Job) and answer.job_id != self.job_id:
            self.no_answer(f"the answer is about another job, {clean(answer.job_id)}", status=status)
        return answer

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
        """The request went out and no readable answer came back; with ``sent=False`` it never went out."""
        if self.pays and sent:
            raise errors.SubmissionUncertain(
                f"the paid call {self.method} {self.path} was sent, but its outcome is not known: {what}. "
                "A job may have been made and charged",
                status_code=status,
            ) from cause
        raise errors.Unavailable(
            f"{self.method} {self.path}: {what}",
            status_code=status,
            job_id=self.job_id,
            sent=sent,
            by_page=page,
            retry_after=retry_after,
        ) from cause

    def _refused(
        self, status: int, headers: Mapping[str, str], body: bytes, content: Any, redact: Redact
    ) -> NoReturn:
        message = _message(content)
        said = f"HTTP {status}, {message or _describe(body)}"
        page = _is_page(body)
        retry_after = _retry_after(headers)
        error_cls = _REFUSALS.get(status)
        if status in _REDIRECTS:
            target = _without_query(redact(clean(headers.get("location", "")))) or "nowhere"
            said = (
                f"HTTP {status}, a redirect to {target}. The key is not sent there; if the API has moved, "
                "put its new address into the connection's host"
            )
        # The vendor documents 502 and 503 as "no job was made", but a gateway can send them too: trust them
        # only with the vendor's JSON body, and then only by the next try of the task.
        vendors_word = status in VENDORS_WORD and message is not None and not self.strict
        believed = vendors_word or status in _NO_JOB or status in _REDIRECTS
        if error_cls is None and not believed:
            self.no_answer(said, status=status, page=page, retry_after=retry_after)
        advice = _ADVICE.get(status, "") if not page else ", from something between us and Magic Hour"
        raise (error_cls or errors.Unavailable)(
            f"{self.method} {self.path}: {said}{advice}",
            status_code=status,
            job_id=self.job_id,
            retry_after=retry_after,
            by_vendor=message is not None,
            by_page=page,
        )


# Answers that say that this call made no job, no matter who sends them: the request itself was refused.
_REFUSALS: dict[int, type[errors.RequestFailed]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    402: errors.InsufficientCredits,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.InvalidRequest,
    407: errors.Unauthorized,
    413: errors.InvalidRequest,
    415: errors.InvalidRequest,
    422: errors.InvalidRequest,
    429: errors.RateLimited,
}
VENDORS_WORD = frozenset({502, 503})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# "Too early", and Cloudflare's own statements that it never reached the origin.
_NO_JOB = frozenset({425, 521, 522, 523, 525, 526, 530})
_ADVICE = {
    401: "; check the API key in the connection's password",
    402: "; buy credits, or wait for the plan's next ones",
    403: "; the account's plan does not include this",
    404: "; check the job id, the account that the key belongs to, and the connection's host",
    407: "; the proxy wants a user and a password: put them into the URL in the connection's proxy",
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
    return paid_call("/v1/ai-talking-photo", _given(body))


def create_voice(inputs: VoiceInputs, *, name: str) -> Call[Submission]:
    """``POST /v1/ai-voice-generator``: spends credits."""
    style = {"prompt": inputs.prompt, "voice_name": inputs.voice_name}
    return paid_call("/v1/ai-voice-generator", {"name": name, "style": style})


def paid_call(path: str, body: Mapping[str, Any]) -> Call[Submission]:
    """``POST /v1/<tool>``: spends credits. All of the vendor's paid calls have this form."""
    return Call("submit", "POST", path, Submission.model_validate, body=json.dumps(body).encode(), pays=True)


def get_job(job_id: str, job_type: JobType = "video") -> Call[Job]:
    """``GET /v1/{video,audio,image}-projects/{id}``: free."""
    return Call("get", "GET", _route(job_id, job_type), Job.model_validate, job_id=checked_job_id(job_id))


def delete_job(job_id: str, job_type: JobType = "video") -> Call[None]:
    """``DELETE /v1/{video,audio,image}-projects/{id}``: irreversible; not a cancel, and no refund."""
    return Call("delete", "DELETE", _route(job_id, job_type), lambda _: None, job_id=checked_job_id(job_id))


def create_upload_slots(files: Sequence[tuple[MediaType, str]]) -> Call[list[UploadSlot]]:
    """``POST /v1/files/upload-urls``: free; ``files`` are (media type, extension); answers in their order."""

    def read(content: Any) -> list[UploadSlot]:
        slots = _UploadSlots.model_validate(content).items
        if len(slots) != len(files):
            raise ValueError(f"{len(slots)} upload URLs for {len(files)} files")
        return slots

    items = [{"type": media_type, "extension": extension} for media_type, extension in files]
    return Call(
        "upload_urls", "POST", "/v1/files/upload-urls", read, body=json.dumps({"items": items}).encode()
    )


def get_account() -> Call[Account]:
    """``GET /v1/account``: free."""
    return Call("account", "GET", "/v1/account", Account.model_validate)


def library_url(job_id: str, job_type: JobType = "video") -> str:
    """
    The job in the vendor's web app, for a person who is logged in there; the API takes it as an asset too.

    It holds no signature and does not expire, but works for this account alone.
    """
    return f"{LIBRARY_URL}?{job_spec(job_type).library_parameter}={quote(checked_job_id(job_id), safe='')}"


def checked_job_id(job_id: object) -> str:
    """
    A job id as text, without white space around it.

    :raises InvalidInput: it cannot be the id of a job; nothing was sent.
    """
    if isinstance(job_id, int) and not isinstance(job_id, bool):
        job_id = str(job_id)
    if job_id is None or (isinstance(job_id, str) and job_id.strip() in ("", "None")):
        raise errors.InvalidInput.of(
            "job_id", job_id, "is empty; if it is a template, it rendered to nothing"
        )
    if not isinstance(job_id, str):
        raise errors.InvalidInput.of(
            "job_id",
            job_id,
            f"is a {type(job_id).__name__}; give the job's id, as task.output['job_id'] does",
        )
    if job_id.strip() in (".", ".."):
        raise errors.InvalidInput.of("job_id", job_id, "is not a job id")
    return job_id.strip()


def _route(job_id: str, job_type: JobType) -> str:
    return f"{job_spec(job_type).route}/{quote(checked_job_id(job_id), safe='')}"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in values.items() if value is not None}


def _decoded(body: bytes, redact: Redact) -> Any:
    """The JSON with each of its texts redacted, or None if it is none."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode(json.detect_encoding(body))
        content = json.loads(text)
        # Nearly always there is nothing to redact, and without escapes the text as a whole shows that.
        return content if "\\" not in text and redact(text) == text else _redacted(content, redact)
    except (ValueError, RecursionError):
        return None


def _redacted(content: Any, redact: Redact) -> Any:
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, list):
        return [_redacted(item, redact) for item in content]
    if isinstance(content, dict):
        return {redact(key): _redacted(value, redact) for key, value in content.items()}
    return content


def _message(content: Any) -> str | None:
    """The vendor's ``message``, if the body is the vendor's."""
    message = content.get("message") if isinstance(content, dict) else None
    return clean(message) if isinstance(message, str) else None


def _hint_of_id(content: Any) -> str:
    """An id somewhere in an answer whose form is not known: for a person, who may find the job by it."""
    found = next((f" ({path}={clean(str(value))!r})" for path, value in _ids(content, "")), "")
    return f", which names an id{found}" if found else ""


def _ids(content: Any, path: str) -> Iterator[tuple[str, str | int]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("id", "job_id", "project_id") and isinstance(value, str | int) and value:
                yield f"{path}{clean(key)}", value
            else:
                yield from _ids(value, f"{path}{clean(key)}.")


def _describe(body: bytes) -> str:
    """A body that is not the vendor's JSON, in words: its content can hold anything, so it is not shown."""
    if not body.strip():
        return "an empty body"
    if _is_page(body):
        return "an HTML page, so it came from something between us and Magic Hour"
    return f"a body of {len(body)} bytes that is not what the API promises"


def _is_page(body: bytes) -> bool:
    start = body.removeprefix(codecs.BOM_UTF8)[:200].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _without_query(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


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
