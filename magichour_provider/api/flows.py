"""
What has to be done, in which order: each rule of the API once, for the blocking and the async client alike.

A flow is a generator that yields a step (a ``wire.Call``, a ``Put``, a ``Fetch``, a ``Sleep``) and is given
its outcome, or has its error thrown in. No sockets here; ``client`` runs the steps.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import tenacity

from magichour_provider.api import wire
from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.api.integrity import BadDownload, download_failed
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.polling import PollLimiter, PollSchedule
from magichour_provider.exceptions import (
    DownloadFailed,
    MagicHourError,
    RateLimited,
    RequestFailed,
    TransferFailed,
    Unavailable,
    UploadFailed,
    WaitTimeout,
)

MAX_RETRY_AFTER_POLLING = 300.0  # seconds; what a Retry-After may add to a wait
POLLS_FOR_A_DOWNLOAD = 3  # at a job that is complete, but whose download URL is still to come

# Extensions that the vendor may exchange for each other in a path.
_ALIASES = (
    {"jpg", "jpeg", "jfif"},
    {"tif", "tiff"},
    {"heic", "heif"},
    {"ogg", "oga", "opus"},
    {"webm", "weba"},
)

log = logging.getLogger(__name__)

T = TypeVar("T")


class Source(Protocol):
    """A file to upload; ``size`` in bytes. ``storage.Source`` is one."""

    @property
    def media_type(self) -> MediaType: ...
    @property
    def extension(self) -> str: ...
    @property
    def size(self) -> int: ...
    def chunks(self) -> Iterator[bytes]: ...


class Target(Protocol):
    """Where a file goes: whole, or, when the block raises, not at all. ``storage.Target`` is one."""

    def open_atomic(self) -> AbstractContextManager[Callable[[bytes], object]]: ...


@dataclass(frozen=True)
class Put:
    """Send a file to a signed URL."""

    url: str = field(repr=False)
    source: Source


@dataclass(frozen=True)
class Fetch:
    """Download the file of a job from a signed URL."""

    url: str = field(repr=False)
    target: Target
    job_id: str
    job_type: JobType


@dataclass(frozen=True)
class Together:
    """Steps side by side; the outcome is a list of what each of them raised, or None."""

    steps: list[Put]


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Step = wire.Call[Any] | Sleep
Flow = Generator[Any, Any, T]


class Listener:
    """Is told what a wait sees. This one does not care."""

    __slots__ = ()

    def on_poll(self, seen: wire.Job | RequestFailed) -> None:
        """What each look has seen, or why it failed: for counting, so it should be quick."""

    def on_change(self, job: wire.Job) -> None:
        """The status is another than at the last look."""

    def on_failed_poll(self, why: RequestFailed) -> None:
        """Once for each kind of failure in a row."""


def just(call: wire.Call[T]) -> Flow[T]:
    """One call, and its answer."""
    answer: T = yield call
    return answer


def upload(sources: Sequence[Source], done: dict[int, str]) -> Flow[list[str]]:
    """One call for all upload URLs, then the files side by side. A file in ``done`` is not sent again."""
    missing = [number for number in range(len(sources)) if number not in done]
    slots: list[wire.UploadSlot] = yield wire.create_upload_slots(
        [(sources[number].media_type, sources[number].extension) for number in missing]
    )
    _check_slots([sources[number] for number in missing], slots, done.values())
    puts = [Put(slot.upload_url, sources[number]) for number, slot in zip(missing, slots, strict=True)]
    problems: list[MagicHourError | None] = yield Together(puts)
    for number, slot, problem in zip(missing, slots, problems, strict=True):
        if problem is None:
            done[number] = slot.file_path
    for problem in filter(None, problems):
        raise problem
    return [done[number] for number in range(len(sources))]


def _check_slots(sources: Sequence[Source], slots: Sequence[wire.UploadSlot], taken: Collection[str]) -> None:
    """
    Each file has a place of its own, of its own type. Otherwise a photo could be paid for as the voice.

    :raises UploadFailed: nothing was sent.
    """
    seen = {"file_path": set(taken), "upload_url": set[str]()}
    for source, slot in zip(sources, slots, strict=True):
        for name, places in seen.items():
            place = getattr(slot, name)
            if place in places:
                raise upload_failed(source, f"the API gave it the {name} of another file")
            places.add(place)
        extension = PurePosixPath(slot.file_path).suffix[1:].lower()
        if extension and not _is_alias(extension, source.extension):
            raise upload_failed(
                source,
                f"it ends in .{source.extension}, and the API gave it a file_path that ends in .{extension}",
            )


def _is_alias(extension: str, other: str) -> bool:
    return extension == other or any({extension, other} <= aliases for aliases in _ALIASES)


def completed(job_id: str, job_type: JobType) -> Flow[tuple[wire.Job, wire.Download]]:
    """A job that has ended, and a fresh URL of its file. The job is paid for, so no failed poll is final."""
    try:
        job: wire.Job = yield wire.get_job(job_id, job_type)
    except RequestFailed as error:
        why = f"the API did not say where it is ({error})"
        raise download_failed(job_id, why, error.status_code, job_type) from error
    job.raise_unless_complete()
    downloads = _downloads(job, job_type)
    if not downloads:
        why = f"the job is {job.status}, but the API gives no download URL (yet)"
        raise download_failed(job_id, why, job_type=job_type)
    return job, downloads[0]


def _downloads(job: wire.Job, job_type: JobType) -> list[wire.Download]:
    """The downloads of a job; those with an extension of its type come first, a thumbnail comes later."""

    def is_other(download: wire.Download) -> bool:
        try:
            return extension_of(download.url) not in job_spec(job_type).extensions
        except ValueError:  # not a URL
            return True

    return sorted(job.downloads or (), key=is_other)


def download(job_id: str, target: Target, job_type: JobType) -> Flow[wire.Job]:
    """
    Ask where the file is, as signed URLs expire, and download it.

    If a URL does not lead to a file of this type, the next one is tried. If a transfer breaks, it is not: the
    next one may be a smaller copy.
    """
    job, _ = yield from completed(job_id, job_type)
    problems: list[BadDownload] = []
    for source in _downloads(job, job_type):
        try:
            yield Fetch(source.url, target, job_id, job_type)
        except BadDownload as error:
            problems.append(error)
        else:
            return job
    raise DownloadFailed(str(problems[0]), status_code=problems[0].status_code, job_id=job_id)


def wait(
    job_id: str,
    *,
    deadline: float,
    schedule: PollSchedule,
    submitted_at: float | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it has no state)
    clock: Callable[[], float] = time.time,
) -> Flow[wire.Job]:
    """
    Look until the job has ended. A failed look is not a failed job: keep looking until the deadline.

    :param deadline: seconds since the epoch; the last look is made then.
    :param submitted_at: likewise; with it, the first look waits for the schedule.
    """
    look = wire.get_job(job_id, schedule.job_type)
    status: str | None = None
    problem: RequestFailed | None = None
    patience = POLLS_FOR_A_DOWNLOAD
    went_on_at = submitted_at  # as far as is known
    if submitted_at is not None and (now := clock()) < deadline:
        yield Sleep(min(schedule.first_poll(now - submitted_at), deadline - now))
    while True:
        yield from _turn(schedule.limiter, deadline, clock)
        pause = 0.0
        try:
            job: wire.Job = yield look
        except RequestFailed as failed:
            now = clock()
            listener.on_poll(failed)
            if problem is None or (type(failed), failed.status_code) != (type(problem), problem.status_code):
                listener.on_failed_poll(failed)
            problem = failed
            pause = min(failed.retry_after or 0.0, MAX_RETRY_AFTER_POLLING)
            if isinstance(failed, RateLimited):
                schedule.limiter.pause(now, pause)
        else:
            now = clock()
            listener.on_poll(job)
            problem = None
            if job.status != status:
                status = job.status
                listener.on_change(job)
            patience -= job.ended
            if job.ended and (not job.awaits_download or not patience or now >= deadline):
                if status == "complete" and submitted_at is not None and went_on_at is not None:
                    schedule.renders.record_end(after=went_on_at - submitted_at, before=now - submitted_at)
                return job
            went_on_at = now
            del job  # ten thousand may wait
        if now >= deadline:
            raise _not_ended(job_id, status, problem) from problem
        age = float("inf") if submitted_at is None else now - submitted_at
        yield Sleep(min(max(schedule.next_poll(age), pause), deadline - now))


def _turn(limiter: PollLimiter, deadline: float, clock: Callable[[], float]) -> Flow[None]:
    """Wait until the API may be asked; a 429 that comes meanwhile holds for whoever waits here too."""
    turn = limiter.reserve_slot(now := clock())
    while turn > 0 and now < deadline:
        yield Sleep(min(turn, deadline - now))
        turn = limiter.pause_left(now := clock())


def _not_ended(job_id: str, status: str | None, problem: RequestFailed | None) -> WaitTimeout:
    return WaitTimeout(
        f"job {job_id} has not ended in time; its last known status is {status or 'not known'}"
        + (f", and the last look failed ({problem})" if problem else "")
        + ". It goes on at Magic Hour and may still finish: a retry, or a sensor with this job id, "
        "picks it up free of charge",
        job_id=job_id,
    )


def upload_failed(source: Source, why: str, status_code: int | None = None) -> UploadFailed:
    return UploadFailed(
        f"the {source.media_type} ({source.size} bytes) was not uploaded: {why}; nothing was charged",
        status_code=status_code,
    )


# --- what this package repeats itself; the rest is left to Airflow's retries ---

MAX_RETRY_AFTER_CALL = 60.0  # seconds; after a longer Retry-After the caller decides
RETRY_429_SECONDS = 300.0  # of one paid call, upload or download

_short_backoff = tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.5)


def _is_429(error: BaseException | None) -> bool:
    return getattr(error, "status_code", None) == 429


def _retry_after(error: BaseException | None) -> float:
    """Seconds that the server asked for: by this error, or by the one that caused it."""
    own = getattr(error, "retry_after", None)
    return own or getattr(error and error.__cause__, "retry_after", None) or 0.0


def backoff(state: tenacity.RetryCallState) -> float:
    """
    Our own pause before the next attempt, in seconds.

    After a 429 it is fully random, since the other callers were refused in the same moment. Its range grows
    with the time waited, not with the attempts: a range that doubles leaves much of the rate limit unused. So
    64 callers against 4, 2 and 1 calls a second use 80 % of the limit or more: ``tests/unit/test_herd.py``.
    """
    if _is_429(_error(state)):
        return random.uniform(0, max(1.5, (state.seconds_since_start or 0.0) / 30))  # noqa: S311 - no secret
    return _short_backoff(state)


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: those that the server asked for, and then our own."""
    return _retry_after(_error(state)) + backoff(state)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _may_repeat(error: BaseException) -> bool:
    return (
        isinstance(error, RequestFailed | TransferFailed)
        and error.retryable
        and _retry_after(error) <= MAX_RETRY_AFTER_CALL
    )


def _was_not_sent(error: BaseException) -> bool:
    return isinstance(error, Unavailable) and not error.sent and _may_repeat(error)


def _policy(may_repeat: Callable[[BaseException], bool], stop: Any = None) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception(may_repeat),
        "stop": stop or tenacity.stop_after_attempt(4),
        "wait": pause,
        "reraise": True,
    }


# Arguments for tenacity's blocking and async drivers.
RETRY_SAFE = _policy(_may_repeat)
RETRY_TRANSFER = _policy(lambda error: _may_repeat(error) and not _is_429(error))
RETRY_SUBMIT = _policy(_was_not_sent)  # the paid call: not even after a 502 or 503
NO_RETRY = {"stop": tenacity.stop_after_attempt(1), "reraise": True}


def retry_429(seconds: float) -> dict[str, Any]:
    """
    Likewise, around one of the policies above: repeat after HTTP 429, which makes no job, for this long.

    A burst of tasks, each in a process of its own, then spends none of Airflow's retries on the rate limit.
    """
    attempts = 10 + round(seconds)  # more than there is time for, unless the pauses are switched off
    stop = tenacity.stop_before_delay(seconds) | tenacity.stop_after_attempt(attempts)
    return _policy(_is_429, stop) | {"before_sleep": partial(_log_429, seconds)}


def _log_429(seconds: float, state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 1:
        log.info("The API is busy (HTTP 429): this call is repeated for up to %g s", seconds)
