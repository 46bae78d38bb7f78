"""
What has to be done, in which order: each rule of the API once, for the blocking and the async client alike.

A flow is a generator that yields a step (a ``wire.Call``, a ``Put``, a ``Fetch``, a ``Sleep``) and is given
its outcome, or has its error thrown in. No sockets here; ``client`` runs the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import tenacity

from magichour_provider.api import wire
from magichour_provider.api.inputs import MediaType
from magichour_provider.api.integrity import download_failed
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollLimiter, PollSchedule
from magichour_provider.exceptions import (
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
    """Bring what a job made from a signed URL."""

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
    """One call for all upload URLs, then the files, side by side. What is ``done`` is not sent again."""
    missing = [number for number in range(len(sources)) if number not in done]
    slots: list[wire.UploadSlot] = yield wire.create_upload_slots(
        [(sources[number].media_type, sources[number].extension) for number in missing]
    )
    puts = [Put(slot.upload_url, sources[number]) for number, slot in zip(missing, slots, strict=True)]
    problems: list[MagicHourError | None] = yield Together(puts)
    for number, slot, problem in zip(missing, slots, problems, strict=True):
        if problem is None:
            done[number] = slot.file_path
    for problem in filter(None, problems):
        raise problem
    return [done[number] for number in range(len(sources))]


def completed(job_id: str, job_type: JobType) -> Flow[tuple[wire.Job, wire.Download]]:
    """A job that has ended, with a URL that has not expired. It is paid for, so no failed look is final."""
    try:
        job: wire.Job = yield wire.get_job(job_id, job_type)
    except RequestFailed as error:
        why = f"the API did not say where it is ({error})"
        raise download_failed(job_id, why, error.status_code, job_type) from error
    job.raise_unless_complete()
    if job.download is None:
        why = f"the job is {job.status}, but the API gives no download URL (yet)"
        raise download_failed(job_id, why, job_type=job_type)
    return job, job.download


def download(job_id: str, target: Target, job_type: JobType) -> Flow[wire.Job]:
    """Ask where the file is, each time anew, and bring it."""
    job, source = yield from completed(job_id, job_type)
    yield Fetch(source.url, target, job_id, job_type)
    return job


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


# --- what may be done again at once, by us; the rest is left to Airflow's retries ---

MAX_RETRY_AFTER_CALL = 60.0  # seconds; a longer Retry-After is left to whoever called


def _may_repeat(error: BaseException) -> bool:
    return (
        isinstance(error, RequestFailed | TransferFailed)
        and error.retryable
        and (getattr(error, "retry_after", None) or 0.0) <= MAX_RETRY_AFTER_CALL
    )


def _may_pay_again(error: BaseException) -> bool:
    """Only when it is certain that no job was made: not even after a 502 or 503."""
    certain = isinstance(error, RateLimited) or (isinstance(error, Unavailable) and not error.sent)
    return certain and _may_repeat(error)


backoff = tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.5)


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, and no less than our own back-off."""
    error = state.outcome.exception() if state.outcome else None
    return max(backoff(state), getattr(error, "retry_after", None) or 0.0)


def _policy(may_repeat: Callable[[BaseException], bool]) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception(may_repeat),
        "stop": tenacity.stop_after_attempt(4),
        "wait": pause,
        "reraise": True,
    }


# Arguments for tenacity's blocking and async drivers.
RETRY_SAFE = _policy(_may_repeat)
RETRY_SUBMIT = _policy(_may_pay_again)
NO_RETRY = {"stop": tenacity.stop_after_attempt(1), "reraise": True}
