"""
The rules of the API that need no HTTP library: how to wait, what to check in a transfer, what to repeat.

A wait is a *flow*, which both clients run: a generator that never does any input or output itself. It yields
one step at a time, and the client that runs it

- performs a ``wire.Call`` and sends its answer into the generator, or throws its ``MagicHourError`` into it;
- sleeps for a ``Sleep`` and sends None;
- takes what the generator returns as the result, and closes the generator in any case.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import tenacity

from magichour_provider.api import models, wire
from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.polling import PollSchedule, RateLimiter
from magichour_provider.api.watching import JobWatcher, Listener, submission_time
from magichour_provider.exceptions import (
    RequestFailed,
    TransferFailed,
    Unavailable,
    UploadFailed,
)

JUST_SUBMITTED = 60.0  # seconds; a wait that begins later may find a job that ended long ago

# Extensions of the same format: in a path, the vendor may use another one of the same group.
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
    """Where a file goes. If the block raises, nothing is written. ``storage.Target`` is one."""

    def open_atomic(self) -> AbstractContextManager[Callable[[bytes], object]]: ...


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Step = wire.Call[Any] | Sleep
Flow = Generator[Step, Any, T]


def wait(
    job_id: str,
    *,
    deadline: float,
    schedule: PollSchedule,
    limiter: RateLimiter,
    submitted_at: float | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it has no state)
    clock: Callable[[], float] = time.time,
) -> Flow[models.Job]:
    """
    Poll until the job has ended.

    :param deadline: seconds since the epoch; the last poll is made then.
    :param submitted_at: seconds since the epoch. If it is given, the schedule decides when to poll first;
        otherwise the first poll is at once.
    :returns: the job, whether it ended well or not.
    :raises WaitTimeout: the job has not ended by the deadline. It continues, and you can wait for it again.
    :raises NotFound: the vendor does not know the job, and said so several times.
    :raises Unauthorized: the vendor does not accept the key, and said so several times.
    """
    poll = wire.get_job(job_id, schedule.job_type)
    watcher = JobWatcher(job_id, deadline=deadline, submitted_at=submitted_at, listener=listener)
    went_on_at: float | None = None  # the last time at which the job had not ended
    now = clock()
    if submitted_at is not None:
        went_on_at = submitted_at if now - submitted_at < JUST_SUBMITTED else None
        if now < deadline:
            yield Sleep(min(schedule.first_poll(now - submitted_at), deadline - now))
    while True:
        generation = yield from _slot(limiter, deadline, clock)
        seen: models.Job | RequestFailed
        try:
            seen = yield poll
        except RequestFailed as failed:
            seen = failed
        now = clock()
        limiter.record_answer(seen, now, generation)
        job = watcher.saw(seen, now)
        if isinstance(seen, models.Job):
            schedule.clip_seconds = schedule.clip_seconds or seen.clip_seconds
            submitted_at = submitted_at or submission_time(seen)
        if job is not None:
            if job.download and submitted_at is not None and went_on_at is not None:
                schedule.record_end(after=went_on_at - submitted_at, before=now - submitted_at)
            return job
        if isinstance(seen, models.Job):
            went_on_at = now
        del seen  # ten thousand may wait, so keep little
        if now >= deadline:
            raise watcher.out_of_time(now) from watcher.problem
        age = math.inf if submitted_at is None else now - submitted_at
        yield Sleep(min(watcher.pause(schedule.next_poll(age)), deadline - now))


def _slot(limiter: RateLimiter, deadline: float, clock: Callable[[], float]) -> Flow[int]:
    """Wait until the API may be polled. After a 429, all waits reserve a new slot."""
    while True:
        generation, now = limiter.generation, clock()
        pause = min(limiter.reserve_slot(now), deadline - now)
        if pause <= 0:
            return generation
        yield Sleep(pause)
        if generation == limiter.generation:
            return generation


# --- transfers ---


def check_slots(
    sources: Sequence[Source], slots: Sequence[models.UploadSlot], taken: Collection[str]
) -> None:
    """
    Check that each file has its own place, with its own extension. Otherwise the photo could be paid for as
    the voice.

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


def downloads_in_order(job: models.Job, job_type: JobType) -> list[models.Download]:
    """The downloads of a job. Files of its type come first; others, such as a thumbnail, come later."""

    def is_other(download: models.Download) -> bool:
        try:
            return extension_of(download.url) not in job_spec(job_type).extensions
        except ValueError:  # not a URL
            return True

    return sorted(job.downloads or (), key=is_other)


def upload_failed(source: Source, why: str, status_code: int | None = None) -> UploadFailed:
    return UploadFailed(
        f"the {source.media_type} ({source.size} bytes) was not uploaded: {why}; nothing was charged",
        status_code=status_code,
    )


# --- what this package repeats by itself; Airflow's retries do the rest ---

MAX_RETRY_AFTER_CALL = 60.0  # seconds; after a longer Retry-After the caller decides
RETRY_429_SECONDS = 300.0  # of one paid call, upload or download

_short_backoff = tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.5)


def _is_429(error: BaseException | None) -> bool:
    return getattr(error, "status_code", None) == 429


def _retry_after(error: BaseException | None) -> float:
    """The pause in seconds that the server asked for, in this error or in its cause."""
    own = getattr(error, "retry_after", None)
    return own or getattr(error and error.__cause__, "retry_after", None) or 0.0


def backoff(state: tenacity.RetryCallState) -> float:
    """
    Our own pause before the next attempt, in seconds.

    After a 429 the pause is fully random, since the other callers were refused in the same moment. Its range
    grows with the time waited, not with the attempts: a range that doubles leaves much of the rate limit
    unused. So 64 callers use 80 % or more of a limit of 4, 2 or 1 calls a second:
    ``tests/unit/test_herd.py``.
    """
    if _is_429(_error(state)):
        return random.uniform(0, max(1.5, (state.seconds_since_start or 0.0) / 30))  # noqa: S311 - no secret
    return _short_backoff(state)


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: the pause that the server asked for, and then our own."""
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
NO_RETRY = {"stop": tenacity.stop_after_attempt(1), "reraise": True}


def retry_submit(pausing: Callable[[bool], object]) -> dict[str, Any]:
    """
    Likewise, for the paid call: only what was not sent is sent again, not even what got a 502 or 503.

    :param pausing: called with True when a pause begins, and with False before the next attempt.
    """
    return _policy(_was_not_sent) | {
        "before": lambda _: pausing(False),
        "before_sleep": lambda _: pausing(True),
    }


def retry_429(seconds: float, pausing: Callable[[bool], object] = bool) -> dict[str, Any]:
    """
    Arguments for tenacity, around one of the policies above: repeat a call for this many seconds while the
    API answers HTTP 429, which makes no job. So a burst of tasks spends none of Airflow's retries on it.

    :param pausing: see ``retry_submit``.
    """

    def begin_pause(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            log.info("The API is busy (HTTP 429): this call is repeated for up to %g s", seconds)
        pausing(True)

    attempts = 10 + round(seconds)  # more than there is time for, unless the pauses are switched off
    stop = tenacity.stop_before_delay(seconds) | tenacity.stop_after_attempt(attempts)
    return _policy(_is_429, stop) | {"before": lambda _: pausing(False), "before_sleep": begin_pause}
