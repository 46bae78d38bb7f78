"""
The rules of the API that need no HTTP library: how to wait, and what to check in a transfer.

A wait is a *flow*, which both clients run: a generator that never does any input or output itself. It yields
one step at a time, and the client that runs it

- performs a ``wire.Call`` and sends its answer into the generator, or throws its ``MagicHourError`` into it;
- sleeps for a ``Sleep`` and sends None;
- takes what the generator returns as the result, and closes the generator in any case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from magichour_provider.api import models, wire
from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.polling import PollSchedule, RateLimiter
from magichour_provider.api.watching import JobWatcher, Listener
from magichour_provider.exceptions import RequestFailed, UploadFailed

JUST_SUBMITTED = 60.0  # seconds; a wait that begins later may find a job that ended long ago

# Extensions of the same format: in a path, the vendor may use another one of the same group.
_ALIASES = (
    {"jpg", "jpeg", "jfif"},
    {"tif", "tiff"},
    {"heic", "heif"},
    {"ogg", "oga", "opus"},
    {"webm", "weba"},
)

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
    last_seen_running: float | None = None  # seconds since the epoch
    now = clock()
    if submitted_at is not None:
        last_seen_running = submitted_at if now - submitted_at < JUST_SUBMITTED else None
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
        job = watcher.record_poll(seen, now)
        if isinstance(seen, models.Job):
            schedule.clip_seconds = schedule.clip_seconds or seen.clip_seconds
            submitted_at = submitted_at or seen.creation_time
        if job is not None:
            if job.download and submitted_at is not None and last_seen_running is not None:
                schedule.record_end(after=last_seen_running - submitted_at, before=now - submitted_at)
            return job
        if isinstance(seen, models.Job):
            last_seen_running = now
        del seen  # ten thousand may wait, so keep little
        if now >= deadline:
            raise watcher.timeout_error(now) from watcher.problem
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

    extensions = job_spec(job_type).extensions
    return sorted(job.downloads or (), key=lambda download: extension_of(download.url) not in extensions)


def upload_failed(source: Source, why: str, status_code: int | None = None) -> UploadFailed:
    return UploadFailed(
        f"the {source.media_type} ({source.size} bytes) was not uploaded: {why}; nothing was charged",
        status_code=status_code,
    )
