"""
The API's calls, and what an answer means: above all, whether a job was made.

A ``Call`` says what to send and how to read the answer; ``client`` sends it. What an answer holds is in
``models``, the routes of each type of job in ``jobs``, the vendor's events in ``events``.

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
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote

from magichour_provider import exceptions as errors
from magichour_provider.api.inputs import Inputs, MediaType
from magichour_provider.api.jobs import JOBS, JobType, job_spec
from magichour_provider.api.models import (
    UNREADABLE,
    Account,
    Job,
    Submission,
    UploadSlot,
    UploadSlots,
)
from magichour_provider.text import ESCAPE_SEQUENCE, Redact, clean

T = TypeVar("T")

BASE_URL = "https://api.magichour.ai"
LIBRARY_URL = "https://magichour.ai/my-library"
# Bounds for the Retry-After of an accepted job, in seconds.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 1.0, 60.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """
    One request and how to read its answer.

    :param read: turns the JSON, decoded and redacted, into one of our types.
    :param pays: if a byte of it was sent, it is never sent again.
    :param job_id: the job that it asks about; an answer about another job is a failed call.
    :param strict: a 502 or 503 in the vendor's JSON does not say that no job was made.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: bytes | None = None
    pays: bool = False
    job_id: str | None = None
    strict: bool = False

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, redact: Redact = str) -> T:
        """
        The answer as one of our types, or the error that it stands for.

        :param redact: takes secrets out of a text; used after the JSON's escapes are decoded.
        :raises RequestFailed: the subclass says why; nothing was charged.
        :raises SubmissionUncertain: only when ``pays``: a job may have been made.
        """
        content = _decoded(body, redact)
        if not 200 <= status < 300:
            self._refused(status, headers, body, content, redact)
        try:
            answer = self.read(content)
        except UNREADABLE as error:
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
        """Raise the error for a request without a readable answer. ``sent=False``: it was never sent."""
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
        message = _message(content, redact)
        said = f"HTTP {status}, {message or _describe(body)}"
        page = _is_page(body)
        retry_after = _retry_after(headers)
        error_cls = _REFUSALS.get(status)
        location = headers.get("location", "")
        is_moved = status in _MOVED and not any(spec.route in location for spec in JOBS.values())
        if is_moved:
            target = clean(re.split("[?#]", location, maxsplit=1)[0], redact) or "nowhere"
            said = (
                f"HTTP {status}, a redirect to {target}. The key is not sent there; if the API has moved, "
                "put its new address into the connection's host"
            )
        # The vendor documents 502 and 503 as "no job was made", but a gateway can send them too. So they
        # count only with the vendor's JSON body, and only the next try of the task may submit again.
        vendors_word = status in (502, 503) and message is not None and not self.strict
        believed = vendors_word or status in _NO_JOB or is_moved
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
            no_job_unproven=self.pays and vendors_word,
        )


# Answers that prove that this call made no job, even if a gateway sends them: the request was refused.
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
# The API has moved. 303 is not in the list: it means that the server has executed the request, and that the
# result is at another URL.
_MOVED = frozenset({301, 302, 307, 308})
# "Too early", and Cloudflare's own statements that it never reached the origin.
_NO_JOB = frozenset({425, 521, 522, 523, 525, 526, 530})
_ADVICE = {
    401: "; check the API key in the connection's password",
    402: "; buy credits, or wait for the plan's next ones",
    403: "; the account's plan does not include this",
    404: "; check the job id, the account that the key belongs to, and the connection's host",
    407: "; the proxy wants a user and a password: put them into the URL in the connection's proxy",
}


def paid_call(inputs: Inputs, uploaded: Mapping[str, str], name: str | None) -> Call[Submission]:
    """``POST /v1/<tool>``: spends credits. All of the vendor's paid calls have this form."""
    body = json.dumps(inputs.request(uploaded, name)).encode()
    return Call("POST", inputs.path, Submission.model_validate, body=body, pays=True)


def get_job(job_id: str, job_type: JobType = "video") -> Call[Job]:
    """``GET /v1/{video,audio,image}-projects/{id}``: free."""
    return Call("GET", _route(job_id, job_type), Job.model_validate, job_id=checked_job_id(job_id))


def delete_job(job_id: str, job_type: JobType = "video") -> Call[None]:
    """``DELETE /v1/{video,audio,image}-projects/{id}``: irreversible; not a cancel, and no refund."""
    return Call("DELETE", _route(job_id, job_type), lambda _: None, job_id=checked_job_id(job_id))


def create_upload_slots(files: Sequence[tuple[MediaType, str]]) -> Call[list[UploadSlot]]:
    """``POST /v1/files/upload-urls``: free; ``files`` are (media type, extension); answers in their order."""

    def read(content: Any) -> list[UploadSlot]:
        slots = UploadSlots.model_validate(content).items
        if len(slots) != len(files):
            raise ValueError(f"{len(slots)} upload URLs for {len(files)} files")
        return slots

    # The vendor has no type for a GIF that stands for a video.
    items = [
        {"type": "video" if media_type == "gif" else media_type, "extension": extension}
        for media_type, extension in files
    ]
    return Call("POST", "/v1/files/upload-urls", read, body=json.dumps({"items": items}).encode())


def get_account() -> Call[Account]:
    """``GET /v1/account``: free."""
    return Call("GET", "/v1/account", Account.model_validate)


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


def _decoded(body: bytes, redact: Redact) -> Any:
    """The JSON with each of its texts redacted, or None if the body is not JSON."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode(json.detect_encoding(body))
        content = json.loads(text)
        # Usually there is nothing to redact. Without escapes, one search in the raw text proves that.
        return content if "\\" not in text and redact(text) == text else _redacted(content, redact)
    except (ValueError, RecursionError):
        return None


def _redacted(content: Any, redact: Redact) -> Any:
    if isinstance(content, str):
        return redact(ESCAPE_SEQUENCE.sub("", content))
    if isinstance(content, list):
        return [_redacted(item, redact) for item in content]
    if isinstance(content, dict):
        return {redact(key): _redacted(value, redact) for key, value in content.items()}
    return content


def _message(content: Any, redact: Redact) -> str | None:
    """The vendor's ``message``, if the body is the vendor's."""
    message = content.get("message") if isinstance(content, dict) else None
    return clean(message, redact) if isinstance(message, str) else None


def _hint_of_id(content: Any) -> str:
    """An id in an answer of an unknown form. A person may find the job with it."""
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
    """A description of a body that is not the vendor's JSON. It can hold anything, so it is not shown."""
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
    except UNREADABLE:
        return None
