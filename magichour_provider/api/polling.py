"""
When to poll a job next, and how often the API may be polled: arithmetic in seconds, without clock or sockets.

``make bench ROW=schedule`` measures it.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from itertools import islice

from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.models import Job
from magichour_provider.exceptions import RateLimited, RequestFailed

MAX_RETRY_AFTER = 300.0  # seconds; if the API asks for a longer pause, a wait polls again after this
LONGEST_RENDER = 86_400.0  # seconds
JITTER = 0.1  # share of a pause, longer or shorter: so a burst of tasks does not poll at the same time


class RenderTimes:
    """
    How long renders usually take on one connection: learned from the jobs that this process saw end.

    A long clip takes longer than a short one, and one generation mode longer than another. So a job is
    compared with the latest jobs of its type and mode whose clips are about as long: within a factor of two.
    """

    LATEST = 15  # renders that the usual time is the median of
    NEWEST = 5  # the newest of them; if their median is shorter, the load has fallen
    ENDS = 10  # the latest jobs for which a webhook's event was expected
    FOUND_BY_POLL = 3  # if a poll found the end of so many of them, the events do not arrive

    def __init__(self) -> None:
        self._found_by_poll: deque[bool] = deque(maxlen=self.ENDS)
        self._latest: dict[tuple[JobType, str | None, int | None], deque[float]] = {}
        self._usual: dict[tuple[JobType, str | None, int | None], float] = {}

    def usual(self, job_type: JobType, mode: str | None, clip_seconds: float | None) -> float | None:
        """The usual render time in seconds, or None if nothing is known about such jobs."""
        return self._usual.get((job_type, mode, _octave(clip_seconds)))

    def record_end(
        self, job_type: JobType, mode: str | None, clip_seconds: float | None, *, after: float, before: float
    ) -> None:
        """
        Record that a job was not complete at the age ``after``, and complete at ``before``, in seconds.

        Clocks may differ. An age that no job can have is not recorded.
        """
        if not 0.0 <= after <= before <= LONGEST_RENDER or not before:
            return
        key = job_type, mode, _octave(clip_seconds)
        latest = self._latest.setdefault(key, deque(maxlen=self.LATEST))
        latest.appendleft((after + before) / 2)
        # An estimate that is too long delays every job; one that is too short costs a few polls.
        self._usual[key] = min(statistics.median(latest), statistics.median(islice(latest, self.NEWEST)))

    @property
    def events_arrive(self) -> bool:
        """Do webhook events come before the polls, or is nothing known of them yet?"""
        return sum(self._found_by_poll) < self.FOUND_BY_POLL

    def record_finder(self, *, by_poll: bool) -> bool:
        """
        Record the end of a job for which an event was expected: did a poll or the event find it?

        :returns: whether this end shows that events do not arrive any more.
        """
        arrived = self.events_arrive
        self._found_by_poll.append(by_poll)
        return arrived and not self.events_arrive


def _octave(clip_seconds: float | None) -> int | None:
    return round(math.log2(clip_seconds)) if clip_seconds and 0 < clip_seconds < math.inf else None


class PollSchedule:
    """
    When to poll one job; ages are seconds since it was submitted.

    The first poll comes when the job may just be done. Then the pauses are long while few such jobs have
    ended, and shorter around the usual render time. While nothing is known of such jobs, the pauses grow with
    the age. In both cases this polls less often than the vendor advises (at once, then after 3 s, times 1.5,
    up to 30 s) and sees the end sooner, over medians from 20 s to 20 min.

    :param poll_interval: poll every so many seconds instead.
    :param mode: the generation mode, if it is known.
    :param clip_seconds: how long the clip is, if it is known; a poll may set it later.
    :param renders: what is known about render times; default: nothing.
    :param expects_event: a webhook's event announces the end. While events arrive, polls are only for jobs
        whose event is lost. So they begin when nearly all such jobs have ended.
    """

    __slots__ = ("_renders", "clip_seconds", "expects_event", "job_type", "mode", "poll_interval")

    OVERDUE = 3.0  # times the usual render time: the first poll, if an event is expected
    SAFETY_NET = 60.0  # seconds: the shortest pause then

    SHORTEST = 25.0  # seconds; the shortest render time that is assumed while nothing is known
    GROWTH = 1.8  # while nothing is known, the assumed render time is the job's age times this

    def __init__(
        self,
        poll_interval: float | None = None,
        job_type: JobType = "video",
        *,
        mode: str | None = None,
        clip_seconds: float | None = None,
        renders: RenderTimes | None = None,
        expects_event: bool = False,
    ) -> None:
        self.expects_event = expects_event
        self.poll_interval = poll_interval
        self.job_type = job_type
        self.mode = mode
        self.clip_seconds = clip_seconds
        self._renders = renders or RenderTimes()

    def first_poll(self, age: float) -> float:
        """
        Seconds until the first poll.

        An older job was polled by another process, such as a triggerer that was restarted. The time of its
        last poll is not known. So it is polled at a random point of the pause: all at once would be too many.
        """
        age = max(0.0, age)  # a clock may be ahead of another
        first = self.poll_interval
        if first is None and self._is_safety_net:
            first = max(self.SAFETY_NET, self.OVERDUE * self._usual(math.inf))
        elif first is None:
            first = 1.6 * self._usual(0.0) ** 0.72
        if age < first:
            return max(0.0, _jittered(first) - age)
        return random.random() * self.next_poll(age)  # noqa: S311 - no secret

    def next_poll(self, age: float) -> float:
        """Seconds until the next poll. An age that is not known is infinite."""
        if self.poll_interval is not None:
            return _jittered(self.poll_interval)
        age = max(0.0, age)
        if self._is_safety_net:
            return _jittered(max(self.SAFETY_NET, 0.5 * min(age, self.OVERDUE * self._usual(math.inf))))
        usual = self._usual(age)
        pause = 25.0 * (usual / (usual + 160)) ** 0.5
        return _jittered(pause * (1 + max(0.0, 1 - age / (0.7 * usual))))

    def record_end(self, *, after: float, before: float) -> None:
        """See ``RenderTimes.record_end``."""
        self._renders.record_end(self.job_type, self.mode, self.clip_seconds, after=after, before=before)

    @property
    def _is_safety_net(self) -> bool:
        return self.expects_event and self._renders.events_arrive

    def _usual(self, age: float) -> float:
        """The render time that the schedule assumes."""
        known = self._renders.usual(self.job_type, self.mode, self.clip_seconds)
        if known is not None:
            return known
        published = job_spec(self.job_type).usual_render_seconds
        return published if age == math.inf else max(min(self.SHORTEST, published), self.GROWTH * age)


class RateLimiter:
    """
    When the API may be polled: shared by all waits of a process on one connection.

    The rate adapts as TCP's does: additive increase, multiplicative decrease. HTTP 429 pauses all polls and
    multiplies the rate by ``DECREASE``. Then the rate grows steadily, until the next 429 or up to the limit.
    After the first 429, when nothing else is known, it doubles instead: TCP's slow start.

    :param requests_per_second: the limit; None is no limit, until the API answers 429.
    :ivar generation: grows with each decrease; then slots that were reserved before are not valid.
    """

    DECREASE = 0.7
    REGAIN = 60.0  # seconds in which the rate grows by its own value
    DOUBLE = 10.0  # seconds, in the slow start
    LOWEST = 0.2  # requests per second
    PAUSE = 2.0  # seconds, after a 429 that does not say how long

    def __init__(self, requests_per_second: float | None = None) -> None:
        self.requests_per_second = requests_per_second
        self.generation = 0
        self._rate = math.inf
        self._since = 0.0
        self._next_slot = 0.0
        self._paused_until = 0.0
        self._answers: deque[float] = deque(maxlen=200)

    def reserve_slot(self, now: float) -> float:
        """Reserve the next slot for a request; returns the seconds until then."""
        slot = max(now, self._next_slot, self._paused_until)
        self._next_slot = slot + 1 / self._rate_at(slot)
        return slot - now

    def record_answer(self, seen: Job | RequestFailed, now: float, generation: int) -> None:
        """
        Adapt the rate to the answer of a poll.

        :param generation: that of the poll's slot. The rate decreases once for all polls of a generation.
        """
        self._answers.append(now)
        if not isinstance(seen, RateLimited):
            return
        pause = min(seen.retry_after or self.PAUSE, MAX_RETRY_AFTER)
        self._paused_until = max(self._paused_until, now + pause)
        if generation == self.generation:
            measured = len(self._answers) / max(1.0, now - self._answers[0])
            self._rate = max(self.LOWEST, self.DECREASE * min(self._rate_at(now), measured))
            self.generation += 1
        self._since = self._paused_until
        # Several processes may wait for the end of the same pause.
        self._next_slot = self._paused_until + random.random() / self._rate  # noqa: S311 - no secret

    def _rate_at(self, time: float) -> float:
        if self._rate == math.inf:
            return self.requests_per_second or math.inf
        passed = max(0.0, time - self._since)
        slow_start = self.generation == 1
        growth = 2 ** min(30.0, passed / self.DOUBLE) if slow_start else 1 + passed / self.REGAIN
        return min(self._rate * growth, self.requests_per_second or math.inf)


def _jittered(seconds: float) -> float:
    return seconds * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - no secret
