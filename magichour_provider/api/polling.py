"""
When to poll a job next, and how often to poll the API: arithmetic in seconds, without clock or sockets.

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

MAX_RETRY_AFTER = 300.0  # seconds; if the API asks for a longer pause, a wait polls after this time
MAX_RENDER_SECONDS = 86_400.0
JITTER = 0.1  # the maximum random change of a pause, so that a burst of tasks does not poll at once


class RenderTimes:
    """
    The usual render times of one connection, learned from the jobs whose end this process detected.

    Render times depend on the length of the clip and on the generation mode. So a job is compared with the
    latest jobs of its type and mode whose clips have about the same length: within a factor of two.
    """

    LATEST = 15  # the usual time is the median of this number of renders
    NEWEST = 5  # the newest of them; a shorter median of these shows that the load has fallen
    ENDS = 10  # the number of latest jobs for which a webhook event was expected
    DETECTED_BY_POLL = 3  # if a poll detected the end of this number of them, the events do not arrive

    def __init__(self) -> None:
        self._detected_by_poll: deque[bool] = deque(maxlen=self.ENDS)
        self._latest: dict[tuple[JobType, str | None, int | None], deque[float]] = {}
        self._usual: dict[tuple[JobType, str | None, int | None], float] = {}

    def usual(self, job_type: JobType, mode: str | None, clip_seconds: float | None) -> float | None:
        """The usual render time in seconds, or None if no such job is known."""
        return self._usual.get((job_type, mode, _octave(clip_seconds)))

    def record_end(
        self, job_type: JobType, mode: str | None, clip_seconds: float | None, *, after: float, before: float
    ) -> None:
        """
        Record that a job was not complete at the age ``after``, and complete at ``before``, in seconds.

        Clocks may differ, so an age that no job can have is not recorded.
        """
        if not 0.0 <= after <= before <= MAX_RENDER_SECONDS or not before:
            return
        key = job_type, mode, _octave(clip_seconds)
        latest = self._latest.setdefault(key, deque(maxlen=self.LATEST))
        latest.appendleft((after + before) / 2)
        # An estimate that is too long delays every job; an estimate that is too short costs a few polls.
        self._usual[key] = min(statistics.median(latest), statistics.median(islice(latest, self.NEWEST)))

    @property
    def events_arrive(self) -> bool:
        """Do webhook events arrive before the polls? True until it is known."""
        return sum(self._detected_by_poll) < self.DETECTED_BY_POLL

    def record_finder(self, *, by_poll: bool) -> bool:
        """
        Record what detected the end of a job for which an event was expected: a poll, or the event.

        :returns: True if this shows that events do not arrive any more.
        """
        arrived = self.events_arrive
        self._detected_by_poll.append(by_poll)
        return arrived and not self.events_arrive


def _octave(clip_seconds: float | None) -> int | None:
    return round(math.log2(clip_seconds)) if clip_seconds and 0 < clip_seconds < math.inf else None


class PollSchedule:
    """
    When to poll one job. An age is the number of seconds since the job was submitted.

    The first poll is at the earliest probable end of the job. Before the usual render time the pauses are
    long, and around it they are shorter. While no such job is known, the pauses grow with the age.

    The vendor advises to poll at once, then after 3 s, then after 1.5 times the last pause, up to 30 s. For
    median render times of 20 s to 20 min, this schedule polls less often and detects the end sooner.

    :param poll_interval: a constant pause in seconds, instead of the schedule.
    :param mode: the generation mode, if it is known.
    :param clip_seconds: the length of the clip, if it is known; a poll may set it later.
    :param renders: the known render times; default: none.
    :param expects_event: a webhook event reports the end. While events arrive, polls are only for jobs whose
        event is lost. So the polls begin when nearly all such jobs have ended.
    """

    __slots__ = ("_renders", "clip_seconds", "expects_event", "job_type", "mode", "poll_interval")

    OVERDUE = 3.0  # if an event is expected, the first poll is after this many times the usual render time
    SAFETY_NET = 60.0  # seconds: the shortest pause if an event is expected

    SHORTEST = 25.0  # seconds: the shortest render time that is assumed while no such job is known
    GROWTH = 1.8  # while no such job is known, the assumed render time is the job's age times this

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

        Another process has polled an older job, such as a triggerer that was restarted. The time of the last
        poll is not known. So the first poll is at a random time within the pause. Otherwise all such jobs
        would be polled at once.
        """
        age = max(0.0, age)  # clocks may differ
        first = self.poll_interval
        if first is None and self._is_safety_net:
            first = max(self.SAFETY_NET, self.OVERDUE * self._usual(math.inf))
        elif first is None:
            first = 1.6 * self._usual(0.0) ** 0.72
        if age < first:
            return max(0.0, _jittered(first) - age)
        return random.random() * self.next_poll(age)  # noqa: S311 - no secret

    def next_poll(self, age: float) -> float:
        """Seconds until the next poll. An unknown age is infinite."""
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
    When the API may be polled. All waits of a process on one connection share it.

    The rate adapts like that of TCP: additive increase, multiplicative decrease. HTTP 429 pauses all polls
    and multiplies the rate by ``DECREASE``. Then the rate grows linearly, until the next 429 or up to the
    limit. After the first 429 the possible rate is not known, so the rate doubles instead, like TCP's slow
    start.

    :param requests_per_second: the limit; None is no limit, until the API answers 429.
    :ivar generation: grows with each decrease. A slot of an earlier generation is not valid any more.
    """

    DECREASE = 0.7
    REGAIN = 60.0  # seconds in which the rate grows, linearly, to twice the value after the decrease
    DOUBLE = 10.0  # seconds in which the rate doubles in the slow start
    MIN_RATE = 0.2  # requests per second
    PAUSE = 2.0  # seconds after a 429 without a Retry-After

    def __init__(self, requests_per_second: float | None = None) -> None:
        self.requests_per_second = requests_per_second
        self.generation = 0
        self._rate = math.inf
        self._since = 0.0
        self._next_slot = 0.0
        self._paused_until = 0.0
        self._answers: deque[float] = deque(maxlen=200)

    def reserve_slot(self, now: float) -> float:
        """Reserve the next slot for a request, and return the seconds until the slot."""
        slot = max(now, self._next_slot, self._paused_until)
        self._next_slot = slot + 1 / self._rate_at(slot)
        return slot - now

    def record_answer(self, seen: Job | RequestFailed, now: float, generation: int) -> None:
        """
        Adapt the rate to the answer of a poll.

        :param generation: the generation of the poll's slot. For all polls of a generation, the rate
            decreases once.
        """
        self._answers.append(now)
        if not isinstance(seen, RateLimited):
            return
        pause = min(seen.retry_after or self.PAUSE, MAX_RETRY_AFTER)
        self._paused_until = max(self._paused_until, now + pause)
        if generation == self.generation:
            measured = len(self._answers) / max(1.0, now - self._answers[0])
            self._rate = max(self.MIN_RATE, self.DECREASE * min(self._rate_at(now), measured))
            self.generation += 1
        self._since = self._paused_until
        # A random time, because several processes may wait for the end of the same pause.
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
